"""report.html beside a grid's matrix.json: made when the matrix (or this code) has changed, opened on request.

update(store, "embedded")           # after matrix.json was written
open_page(update(store, "embedded"))
"""

import hashlib
import os
import sys
import webbrowser
from pathlib import Path

from xling.analysis.matrix.types import read_matrix
from xling.grid.files import disk_error, sha256_of, write_atomically
from xling.grid.store import Store
from xling.report.page.document import Document, page_bytes, version
from xling.report.page.findings import WRITTEN, Folded, shown_findings
from xling.report.page.learning import learning
from xling.report.page.origin import origin
from xling.report.page.samples import select
from xling.results.plan import Results, planned_entries, read_plan

FILE = "report.html"
HEAD = 4096  # bytes in which a page says what it was drawn from


def update(store: Store, name: str, folded: Folded | None = None) -> Path:
    """The grid's page, drawn if it does not show the matrix.json that is there. StoreError where there is none, or one
    of another version. `folded`: what it was written from, where that is at hand."""
    store.refuse_links(name)
    folder = store.grid_folder(name)
    page, matrix = folder / FILE, folder / "matrix.json"
    try:
        digest = _digest(folder) if matrix.exists() else ""
        if not digest or not _is_drawn_from(page, version(digest)):
            write_atomically(page, page_bytes(_document(store, name, digest, folded)))
    except OSError as error:
        raise disk_error(error, folder) from error
    return page


def _digest(folder: Path) -> str:
    """Of the matrix, and of what `xling analyse` wrote beside it."""
    files = [folder / name for name in ("matrix.json", WRITTEN) if (folder / name).exists()]
    return hashlib.sha256("".join(sha256_of(str(file)) for file in files).encode()).hexdigest()


def _is_drawn_from(page: Path, drawn_from: str) -> bool:
    if not page.exists():
        return False
    with page.open("rb") as file:
        return f'content="{drawn_from}"'.encode() in file.read(HEAD)


def _document(store: Store, name: str, digest: str, folded: Folded | None) -> Document:
    """Everything about a grid that stands in the store."""
    matrix, plan = read_matrix(store.grid_folder(name)), read_plan(store.grid_folder(name))
    entries = planned_entries(plan, Results(store, plan))
    return Document(
        matrix,
        digest,
        select(matrix, store, entries),
        learning(matrix, store, entries),
        origin(matrix, plan, store),
        shown_findings(store, name, folded),
    )


def open_page(page: Path) -> bool:
    """Open it in a browser; False where there is none to open it in. Its path is said in any case."""
    print(f"Report: {page.resolve()}")
    return _has_display() and webbrowser.open(page.resolve().as_uri())


def _has_display() -> bool:
    """Without one `webbrowser` would start a browser in the terminal."""
    known = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return known or sys.platform in ("darwin", "win32")
