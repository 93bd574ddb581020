"""report.html beside a grid's matrix.json: made when the matrix (or this code) has changed, opened on request.

update(store, "embedded")           # after matrix.json was written
open_page(update(store, "embedded"))
"""

import os
import sys
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from xling.analysis.draws import Draws
from xling.analysis.entries import Entries, grid_entries
from xling.analysis.findings import Finding
from xling.analysis.matrix import Matrix
from xling.analysis.plan import Results, planned_entries, read_plan
from xling.grid.files import disk_error, sha256_of, write_atomically
from xling.grid.store import Store
from xling.report.files import read_matrix
from xling.report.html.document import Document, page_bytes, version
from xling.report.html.learning import learning
from xling.report.html.origin import origin
from xling.report.html.samples import select

Folded = tuple[Matrix, Draws]
FILE = "report.html"
HEAD = 4096  # bytes in which a page says what it was drawn from


def update(store: Store, name: str, folded: Folded | None = None) -> Path:
    """The grid's page, drawn if it does not show the matrix.json that is there. StoreError where there is none, or one
    of another version. `folded`: what it was written from, where that is at hand."""
    folder = store.grid_folder(name)
    page, matrix = folder / FILE, folder / "matrix.json"
    try:
        digest = sha256_of(str(matrix)) if matrix.exists() else ""
        if not digest or not _is_drawn_from(page, version(digest)):
            write_atomically(page, page_bytes(_document(store, name, digest, folded)))
    except OSError as error:
        raise disk_error(error, folder) from error
    return page


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
        _findings(store, name, folded),
    )


def _findings(store: Store, name: str, folded: Folded | None) -> list[Finding]:
    """All analyses of the grid, which is not folded a second time if that has just been done."""
    from xling.analysis import analyses, reduce  # reduce writes this page

    if folded is None:
        draws = Draws()
        folded = reduce.fold_grid(store, name, draws), draws
    entries = grid_entries(*folded)
    found: list[Finding] = []
    for one, analysis in analyses.OF_ENTRIES.items():
        found += _made(one, partial(_one, analysis, entries))
    for one, of_items in analyses.OF_ITEMS.items():
        found += _made(one, partial(of_items, store, name))
    return found


def _one(analysis: Callable[[Entries], Finding], entries: Entries) -> list[Finding]:
    return [analysis(entries)]


def _made(name: str, make: Callable[[], list[Finding]]) -> list[Finding]:
    """One that fails costs neither the page nor the others, and is told."""
    try:
        return make()
    except Exception as error:
        why = f"it could not be made ({type(error).__name__}: {error})"
        return [Finding(name, name.replace("_", " ").capitalize(), pd.DataFrame(), left_out=(why,))]


def open_page(page: Path) -> bool:
    """Open it in a browser; False where there is none to open it in. Its path is said in any case."""
    print(f"Report: {page.resolve()}")
    return _has_display() and webbrowser.open(page.resolve().as_uri())


def _has_display() -> bool:
    """Without one `webbrowser` would start a browser in the terminal."""
    known = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return known or sys.platform in ("darwin", "win32")
