"""Everything that the page shows, and the page made of it: page.html with its style, its scripts and one piece of data.

What stands here is pure: the same document gives the same bytes. Texts become visible as in the sheets (control codes
as signs) before they go in, and the page writes them as text (xling/webpage.py).
"""

import hashlib
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from babel import Locale
from babel.core import UnknownLocaleError

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import MEASURES, Frontier, Matrix
from xling.analysis.matrix.verdicts import headline
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.finding import Finding
from xling.config.common import members
from xling.console import direction, shown
from xling.report.page.encode import Json, encode_table, everywhere, exact
from xling.report.page.learning import NAMES, Learning
from xling.report.page.origin import Origin
from xling.report.page.panels import encode_across, encode_panels
from xling.report.page.samples import Sample, Selection
from xling.report.tables.findings import finding_tables, said
from xling.report.tables.wording import mixes, task_names
from xling.webpage import filled, json_in_html, policy

MOST_LEFT_OUT = 3  # of an analysis that has nothing to say
FOLDER = Path(__file__).parent
SCRIPTS = ("dom.js", "tables.js", "charts.js", "explorer.js", "figures.js", "samples.js", "origin.js", "main.js")
# what `shown` looks at
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u180e\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


@dataclass(frozen=True)
class Document:
    """What is shown; all but the matrix may be missing."""

    matrix: Matrix
    digest: str  # of what it is drawn from
    selection: Selection = field(default_factory=lambda: Selection([], 0))
    learning: Sequence[Learning] = ()
    origin: Origin | None = None
    findings: Sequence[Finding] = ()


def page_bytes(document: Document) -> bytes:
    """report.html, UTF-8."""
    matrix = document.matrix
    title = html.escape(_visible(f"{matrix.name}: transfer matrix"))
    parts = {
        "POLICY": policy(_code()),
        "VERSION": version(document.digest),
        "TITLE": title,
        "NAME": html.escape(_visible(matrix.name)),
        "TASK": html.escape(_visible(task_names(matrix))),
        "HEADLINE": html.escape(_visible(headline(matrix))),
        "INTERVALS": html.escape(_visible(matrix.interval_note)),
        "DATA": json_in_html(everywhere(encode(document), _visible)),
    }
    return filled(_code(), parts).encode(errors="replace")


def version(digest: str) -> str:
    """What a page is drawn from: a matrix.json, and this code. A page with another one is drawn again."""
    return f"{digest[:32]}-{hashlib.sha256(_code().encode()).hexdigest()[:16]}"


@lru_cache(maxsize=1)
def _code() -> str:
    """page.html with the style and all scripts in it."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    own = {"STYLE": (FOLDER / "page.css").read_text(encoding="utf-8"), "SCRIPT": script}
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(STYLE|SCRIPT)\}\}", lambda found: own[found[1]], page)


def _visible(text: str) -> str:
    """Control codes and what turns the direction of text as signs; other texts as they are."""
    if not _UNSEEN.search(text):
        return text
    return shown(text)


def encode(document: Document) -> dict[str, Json]:
    """The page's data as JSON."""
    matrix = document.matrix
    panels = encode_panels(matrix)
    return {
        "name": matrix.name,
        "panels": panels,
        "across": encode_across(matrix),
        "frontiers": [_frontier(frontier) for frontier in matrix.frontiers],
        "measures": {name: measure.title for name, measure in MEASURES.items()},
        "learning": [asdict(one) for one in document.learning],
        "learning_names": list(NAMES.items()),
        "findings": [_finding(finding) for finding in document.findings],
        "samples": _samples(document.selection),
        "origin": None if document.origin is None else asdict(document.origin),
        "warnings": mixes(matrix),
        "left_out": matrix.left_out,
        "prompts": _span(entry.win.n for entry in matrix.entries() if entry.win),
        "seeds": _span(entry.win.seeds for entry in matrix.entries() if entry.win),
        "cells": [matrix.provenance.get("cells_done"), matrix.provenance.get("cells")],
        "languages": _languages(code for panel in panels for code in (*panel["sources"], *panel["targets"])),
    }


def _span(numbers: Iterable[int]) -> str:
    """`512`, or `256 to 512`."""
    found = sorted(set(numbers))
    return " to ".join(f"{number:,}" for number in dict.fromkeys((found[0], found[-1]))) if found else ""


def _languages(codes: Iterable[str]) -> dict[str, str]:
    """Names in English, as far as there are any; of pooled sources all of them."""
    return {code: name for code in dict.fromkeys(codes) if (name := " + ".join(map(_language, members(code)))) != code}


@lru_cache(maxsize=512)
def _language(code: str) -> str:
    try:
        return Locale.parse(code.replace("-", "_")).get_display_name("en") or code
    except (ValueError, UnknownLocaleError):
        return code


def _finding(finding: Finding) -> dict[str, Json]:
    """As in the terminal and in Markdown."""
    tables = [encode_table(table) for table in finding_tables(finding)]
    return {
        "name": finding.name,
        "title": finding.title,
        "tables": tables,
        "notes": said(finding),
        "left_out": list(finding.left_out)[:MOST_LEFT_OUT],
    }


def _frontier(frontier: Frontier) -> dict[str, Json]:
    points = [
        {"arm": point.arm, "k": point.k}
        | {name: _three(getattr(point, name)) for name in ("kl", "reward", "quality", "win")}
        for point in frontier.points
    ]
    return {"title": heading_of(frontier.axes), "cells": frontier.cells, "points": points}


def _three(estimate: Estimate | None) -> Json:
    return None if estimate is None else [exact(estimate.value), exact(estimate.low), exact(estimate.high)]


def _samples(selection: Selection) -> dict[str, Json]:
    """Columns of samples; texts stand once, and samples have their places."""
    places: dict[str, int] = {}

    def place(text: str) -> int:
        return places.setdefault(text, len(places))

    rows = [_sample(sample, place) for sample in selection.samples]
    names = ("panel", "source", "target", "prompt", "text", "response", "baseline", "reward", "score", "verdict", "win")
    columns: Mapping[str, Json] = {name: [row[number] for row in rows] for number, name in enumerate(names)}
    return {
        **columns,
        "texts": list(places),
        "directions": "".join(direction(text)[0] for text in places),  # l, r, a
        "prompts": selection.prompts,
        "left_out": selection.left_out,
    }


def _sample(sample: Sample, place: Callable[[str], int]) -> list[Json]:
    texts = [place(text) for text in (sample.prompt, sample.text, sample.response, sample.baseline)]
    return [sample.panel, sample.source, sample.target, *texts, sample.reward, sample.score, sample.verdict, sample.win]
