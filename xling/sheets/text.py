"""Texts as people see them, the same in the table and on the page, and safe in a spreadsheet.

`shown` is what is exported and what digests are of: control codes as visible signs, one kind of line end, no outer
white space. In a CSV cell a text is `guarded`: a spreadsheet takes what begins with = + - @ for a formula and makes
numbers and dates of what looks like one, so such a text is led by an apostrophe. `same_text` knows a cell with the
apostrophe and without it, since some programs drop it.
"""

import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterable, Sequence

from xling.console import FORMULA, shown

BYTE_ORDER_MARK = "\ufeff"  # without it Excel reads UTF-8 as something else
SHORT = 24  # characters; longer texts with digits are no number or date
CELL_LIMIT = 32_767  # characters that a cell of Excel holds


def digest(text: str) -> str:
    """sha256 of a text as it is shown."""
    return hashlib.sha256(shown(text).encode()).hexdigest()


def guarded(text: str) -> str:
    """The text as a cell of a CSV file."""
    return f"'{text}" if _misread(text) else text


def harmless(text: str) -> str:
    """The text as a cell of a table for programs: guarded against being a formula, and otherwise left alone."""
    return f"'{text}" if text[:1] and text[0] in FORMULA else text


def unguarded(cell: str) -> str:
    """The inverse."""
    return cell[1:] if cell[:1] == "'" and _misread(cell[1:]) else cell


def same_text(cell: str, expected: str) -> bool:
    """Whether a cell that went through a spreadsheet still holds the text with this digest."""
    return expected in (digest(cell), digest(unguarded(cell)))


def _misread(text: str) -> bool:
    if text[:1] and text[0] in FORMULA:
        return True
    return len(text) <= SHORT and any(unicodedata.category(character) == "Nd" for character in text)


def csv_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    """A CSV file for spreadsheets: UTF-8 with its mark, every cell quoted, CRLF. Cells are guarded already."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return (BYTE_ORDER_MARK + text.getvalue()).encode()
