"""sheet.html: one file that an annotator opens from the disk, without a network, and that nothing can get out of.

The page is page.html; here the sheet's rows are put in, as JSON in which no `<` is left, so that no text can end the
script it stands in; the page writes texts as text, never as markup. Besides, its content security policy allows the
page's own script and style by their hashes and nothing else: no other script, no image, no request.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xling.sheets.key import Key
from xling.sheets.text import direction

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
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _template()).encode()


def directions(row: Texts) -> list[str]:
    """Of prompt and responses: a response may be in another script than it should."""
    return [direction(text) for text in (row.prompt, row.a, row.b)]


def json_in_html(value: object) -> str:
    """JSON that can stand in a script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    escapes: dict[str, str | int | None] = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    return text.translate(str.maketrans(escapes))


@lru_cache(maxsize=1)
def _template() -> str:
    return TEMPLATE.read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def policy() -> str:
    """The content security policy: the page's own script and style, by hash."""
    allowed = [
        f"{kind}-src '{_hash(re.search(f'<{tag}>(.*?)</{tag}>', _template(), re.DOTALL)[1])}'"  # type: ignore[index]
        for kind, tag in (("script", "script"), ("style", "style"))
    ]
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
