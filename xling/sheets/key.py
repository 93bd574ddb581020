"""key.json: what the sheets hide. Which response is the aligned policy's, whose cell it is, what the judge said.

    Key
    ├── pairs     a prompt with the aligned policy's response and the baseline's; cells that picked the same share it
    ├── cells     a cell of the grid: its pairs, and its judge's verdict on each of them
    └── sheets    what one annotator gets: rows in an order of their own, each a pair with its own coin

Nothing else is needed to read the answers: texts are here as digests, so that an edited sheet is noticed.
"""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, StoreError
from xling.grid.files import is_plain, json_bytes
from xling.jsonfiles import decode

NAME = "key.json"
Side = Literal["A", "B"]


class Pair(Struct, frozen=True):
    """A prompt and two responses to it; texts as sha256 of what is shown (xling/sheets/text.py)."""

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
