"""key.json: what the sheets hide. Which response is the aligned policy's, whose cell it is, what the judge said.

    Key
    ├── pairs     a prompt with the aligned policy's response and the baseline's; cells that picked the same share it
    ├── cells     a cell of the grid: its pairs, and its judge's verdict on each of them
    └── sheets    what one annotator gets: rows in an order of their own, each a pair with its own coin

Nothing else is needed to read the answers: texts are here as digests, so that an edited sheet is noticed.
"""

import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from xling.console import FORMULA, shown
from xling.errors import ConfigError, StoreError
from xling.grid.files import is_plain, json_bytes
from xling.jsonfiles import decode

NAME = "key.json"
Side = Literal["A", "B"]


class Pair(Struct, frozen=True):
    """A prompt and two responses to it; texts as sha256 of what is shown (`digest`)."""

    lang: str
    prompt: str  # the task's id
    group: str
    dataset: str
    text: str
    policy: str
    baseline: str

    @property
    def identical(self) -> bool:
        """Nobody has to be asked: it is a tie, and stands in no sheet."""
        return self.policy == self.baseline


class CellKey(Struct, frozen=True, omit_defaults=True):
    """One cell of the grid. `points`: what its judge says of each pair: 1 the policy's is better, 0.5 a tie, 0."""

    axes: dict[str, str]
    judge: str  # key of the judge stage
    verdict: str  # key of what the judge decides by
    pairs: list[int]  # places in Key.pairs, in the order in which they were drawn
    points: list[float]
    own_judge: bool = False  # the judge is the very reward model that picked, whose verdict is no evidence


class Row(Struct, frozen=True):
    id: str
    pair: int
    policy: Side  # which of the two responses is the aligned policy's


class SheetKey(Struct, frozen=True):
    name: str  # of its files
    lang: str
    rows: list[Row]


class Key(Struct, frozen=True):
    """All of it. `id` is a digest of the rest."""

    id: str
    grid: str
    seed: int
    n: int
    question: str
    pairs: list[Pair]
    cells: list[CellKey]
    sheets: list[SheetKey]
    format: int = 1


def identified(key: Key) -> Key:
    """The key with its id: eight hexadecimal digits."""
    content = json_bytes(msgspec.structs.replace(key, id=""))
    return msgspec.structs.replace(key, id=hashlib.sha256(content).hexdigest()[:8])


def key_bytes(key: Key) -> bytes:
    return json_bytes(key, indent=1)


def read_key(folder: Path) -> Key:
    """The key of an exported folder. ConfigError if there is none, StoreError if it is not what was written."""
    path = folder / NAME
    try:
        key = decode(path.read_bytes(), type=Key)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"'{folder}' has no {NAME}. Name the folder that `xling sheet export --out FOLDER` wrote; answers "
            "cannot be read without its key."
        ) from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is no key of a sheet ({error}). Put back the one that the export wrote.") from error
    for name in (key.grid, *(sheet.name for sheet in key.sheets)):
        if not is_plain(name):
            raise StoreError(
                f"{path} names a file '{name}', which would be elsewhere. Put back the key that the export wrote."
            )
    if identified(key).id != key.id:
        raise StoreError(f"{path} was changed after the export. Put back the one that the export wrote.")
    if not _fits(key):
        raise StoreError(f"{path} does not fit together: its cells and rows name other pairs than it has.")
    return key


def _fits(key: Key) -> bool:
    """Whether all places in `pairs` are there, and each has its point; a key of somebody else's may lack them."""
    named = [row.pair for sheet in key.sheets for row in sheet.rows] + [n for cell in key.cells for n in cell.pairs]
    ids = [row.id for sheet in key.sheets for row in sheet.rows]
    return (
        bool(key.cells)
        and all(0 <= number < len(key.pairs) for number in named)
        and all(len(cell.pairs) == len(cell.points) for cell in key.cells)
        and all(0 <= point <= 1 for cell in key.cells for point in cell.points)
        and len(set(ids)) == len(ids)
    )


# --- texts, the same in the table and on the page, and safe in a spreadsheet --------------------------------
# `shown` is what is exported and what digests are of: control codes as visible signs, one kind of line end, no outer
# white space. In a CSV cell a text is `guarded`: a spreadsheet takes what begins with = + - @ for a formula and makes
# numbers and dates of what looks like one, so such a text is led by an apostrophe. `same_text` knows a cell with the
# apostrophe and without it, since some programs drop it.

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
