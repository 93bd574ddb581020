"""sheet.html: one file that an annotator opens from the disk, without a network, and that nothing can get out of.

The page is page.html; here the sheet's rows are put in (xling/webpage.py says how that is safe).
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xling.console import direction
from xling.sheets.key import Key
from xling.webpage import filled, json_in_html
from xling.webpage import policy as policy_of

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, slots=True)
class Texts:
    """One row of a sheet as people see it."""

    id: str
    lang: str
    prompt: str
    a: str
    b: str


def page_bytes(key: Key, sheet: str, rows: Sequence[Texts]) -> bytes:
    """The page of a sheet, UTF-8."""
    data = {
        "key": key.id,
        "sheet": sheet,
        "question": key.question,
        "rows": [
            {"id": row.id, "lang": row.lang, "texts": [row.prompt, row.a, row.b], "directions": directions(row)}
            for row in rows
        ],
    }
    parts = {"POLICY": policy(), "TITLE": html.escape(f"{sheet} {key.id}"), "DATA": json_in_html(data)}
    return filled(_template(), parts).encode()


def directions(row: Texts) -> list[str]:
    """Of prompt and responses: a response may be in another script than it should."""
    return [direction(text) for text in (row.prompt, row.a, row.b)]


@lru_cache(maxsize=1)
def _template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def policy() -> str:
    """The content security policy: the page's own script and style, by hash."""
    return policy_of(_template())
