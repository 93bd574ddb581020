"""report.html beside a grid's matrix.json: made when the matrix (or this code) has changed, opened on request.

update(store, "embedded")           # after matrix.json was written
open_page(update(store, "embedded"))
"""

import hashlib
import html
import os
import re
import sys
import webbrowser
from functools import lru_cache
from pathlib import Path

from xling.analysis.matrix.types import Matrix, read_matrix
from xling.analysis.matrix.verdicts import answers, headline
from xling.analysis.tidy.entries import Draws
from xling.console import shown
from xling.grid.files import disk_error, sha256_of, write_atomically
from xling.grid.store import Store
from xling.report.page import still
from xling.report.page.data import Document, encode
from xling.report.page.stages import learning, origin, select
from xling.report.tables.colours import page_colours
from xling.report.tables.findings import WRITTEN, shown_findings
from xling.report.tables.table import task_names
from xling.results.plan import Results, planned_entries, read_plan
from xling.webpage import everywhere, filled, json_in_html, policy

FILE = "report.html"
HEAD = 4096  # bytes in which a page says what it was drawn from
FOLDER = Path(__file__).parent
SCRIPTS = (
    "dom.js",
    "tables.js",
    "charts.js",
    "take.js",
    "explorer.js",
    "figures.js",
    "samples.js",
    "origin.js",
    "main.js",
)
# what `shown` looks at
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u180e\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def update(store: Store, name: str, folded: tuple[Matrix, Draws] | None = None) -> Path:
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


def _document(store: Store, name: str, digest: str, folded: tuple[Matrix, Draws] | None) -> Document:
    """Everything about a grid that stands in the store."""
    matrix, plan = read_matrix(store.grid_folder(name)), read_plan(store.grid_folder(name))
    entries = planned_entries(plan, Results(store, plan))
    return Document(
        matrix,
        digest,
        select(matrix, store, entries),
        learning(matrix, store, entries),
        origin(name, matrix, plan, store),
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


# --- page.html with its style, its scripts and one piece of data ------------------------------------------
# The same document gives the same bytes. Texts become visible as in the sheets (control codes as signs) before they go
# in, and the page writes them as text (xling/webpage.py).


def page_bytes(document: Document) -> bytes:
    """report.html, UTF-8."""
    matrix = document.matrix
    data = everywhere(encode(document), _visible)
    title = html.escape(_visible(f"{matrix.name}: transfer matrix"))
    parts = {
        "POLICY": policy(_code()),
        "VERSION": version(document.digest),
        "TITLE": title,
        "NAME": html.escape(_visible(matrix.name)),
        "TASK": html.escape(_visible(task_names(matrix))),
        "HEADLINE": html.escape(_visible(headline(matrix))),
        "ANSWERS": "".join(f"<li>{html.escape(_visible(line))}</li>" for line in answers(matrix, 3)),
        "RAN": html.escape(_visible(still.ran(matrix, document.origin))),
        "FACTS": still.facts(data),
        "WARNINGS": still.warnings(data),
        "LEFT_OUT": still.left_out(data),
        "MATRIX": still.section(data),
        "BROAD": still.broad(data),
        "INTERVALS": html.escape(_visible(matrix.interval_note)),
        "DATA": json_in_html(data),
    }
    return filled(_code(), parts).encode(errors="replace")


def version(digest: str) -> str:
    """Version of a page: its matrix.json and this code. A page with another one is drawn again."""
    return f"{digest[:32]}-{hashlib.sha256(_code().encode()).hexdigest()[:16]}"


@lru_cache(maxsize=1)
def _code() -> str:
    """page.html with the style and all scripts in it."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = filled((FOLDER / "page.css").read_text(encoding="utf-8"), page_colours())
    own = {"STYLE": style, "SCRIPT": script}
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(STYLE|SCRIPT)\}\}", lambda found: own[found[1]], page)


def _visible(text: str) -> str:
    """Control codes and what turns the direction of text as signs; other texts as they are."""
    if not _UNSEEN.search(text):
        return text
    return shown(text)
