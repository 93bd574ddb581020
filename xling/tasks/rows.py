"""Tables of your own as ratings, pairs and demonstrations: every row checked, bad ones named with their number.

What a file holds is told from its columns: `chosen` and `rejected` are a pair, `response` with a rating a rating,
`response` alone (or `messages` that end with the assistant) a demonstration. The names are settings
(xling.config.Columns). Knows no torch; xling/tasks/reading.py goes through the files.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from xling.config import Columns
from xling.errors import ConfigError, DataError, did_you_mean
from xling.tasks.render import dialog
from xling.tasks.tables import Row as TableRow
from xling.tasks.tables import Table

BY_TEXT = "text:"  # how a group begins that is named by its text
SHOWN = 10  # bad rows that an error lists
Kind = Literal["rating", "pair", "demonstration"]
SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
          "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
# Where the usual name is not there: what else a file may call it.
ALSO = {"prompt": ("document", "messages"), "lang": ("language",)}


class Place(Struct, frozen=True, order=True):
    """Where a row is: number of the file, and of the line or row in it."""

    file: int
    number: int


class Row(Struct, frozen=True, gc=False):
    """A good row. Of a pair `response` is the chosen one and `other` the rejected; only ratings have a number."""

    place: Place
    kind: Kind
    lang: str
    id: str  # of the prompt
    prompt: str
    response: str
    group: str  # what prompts share
    other: str = ""
    rating: float = 0.0
    system: str = ""
    split: str = ""  # empty: the file says none
    dataset: str = ""
    chat: bool = False  # the prompt is one


class Reading(Struct, frozen=True):
    """The settings that decide how a table is read."""

    columns: Columns = Columns()
    rating_field: str = "rating"
    rating_scale: tuple[float, float] | None = None
    lang: str = ""  # of a file without a language column


class Unrated(Struct, frozen=True):
    """A file whose rows are demonstrations, since it has no column of ratings. `numbers`: what might be one."""

    name: str
    columns: tuple[str, ...]
    numbers: tuple[str, ...]


@dataclass(slots=True)
class Rows:
    """All files: language -> good rows in order. `bad` has the first bad rows, `n_bad` counts all of them."""

    paths: list[Path] = field(default_factory=list)
    units: list[str] = field(default_factory=list)  # what a file's numbers count
    languages: dict[str, list[Row]] = field(default_factory=dict)
    bad: list[tuple[Place, str]] = field(default_factory=list)
    n_bad: int = 0
    n: int = 0  # rows, good and bad, without empty lines
    empty: dict[str, list[Place]] = field(default_factory=dict)  # rated, although the response is empty
    without_language: bool = False  # a file has no language column
    chats: bool = False  # a good row's prompt is one
    rated: bool = False  # a file has the column of ratings
    unrated: list[Unrated] = field(default_factory=list)
    binary: bool = True  # every single rating is 0 or 1
    again: dict[str, list[Place]] = field(default_factory=dict)  # another rating of a response that is there already

    def name(self, place: Place) -> str:
        """`line 3`, with the file's name where there are several."""
        where = f"{self.units[place.file]} {place.number}"
        return where if len(self.paths) == 1 else f"{self.paths[place.file].name} {where}"

    def named(self, places: Sequence[Place]) -> str:
        """The first of them in words: `lines 3, 5, ...`."""
        shown = sorted(places)[:SHOWN]
        dots = ", ..." if len(places) > SHOWN else ""
        if len(self.paths) > 1:
            return ", ".join(map(self.name, shown)) + dots
        plural = "s" if len(places) > 1 else ""
        return f"{self.units[0]}{plural} {', '.join(str(place.number) for place in shown)}{dots}"

    def unrated_text(self, rating_field: str) -> str:
        """Why rows are demonstrations, and what to type if they should be ratings; empty if no file's are."""
        if not self.unrated:
            return ""
        first = next((one for one in self.unrated if one.numbers), self.unrated[0])
        return (
            f"{first.name} has no column `{rating_field}`, so that its rows are demonstrations; its columns are "
            f"{', '.join(first.columns)}. If one of them is a rating, type task.rating_field="
            f"{first.numbers[0] if first.numbers else 'NAME'}."
        )

    def reject(self, place: Place, reason: str) -> None:
        """Note a bad row."""
        self.n_bad += 1
        if len(self.bad) < SHOWN:
            self.bad.append((place, reason))


# --- columns ------------------------------------------------------------------------------------------------


def resolved(table: Table, reading: Reading) -> tuple[Kind, dict[str, str]]:
    """What the table holds, and the column of each role that it has; ConfigError names what is missing."""
    there, columns = table.columns, msgspec.structs.asdict(reading.columns)
    found: dict[str, str] = {}
    for role, name in columns.items():
        usual = (role, *ALSO.get(role, ())) if name == role else (name,)
        if (column := next((one for one in usual if one in there), None)) is not None:
            found[role] = column
    if reading.rating_field in there:
        found["rating"] = reading.rating_field
    chats = found.get("prompt") == "messages"
    if "lang" not in found and not reading.lang:
        raise _missing(table, "lang", columns, " Or name the one language of all rows with task.languages=[de].")
    if "chosen" in found and "rejected" in found:
        return "pair", found
    if "prompt" not in found:
        raise _missing(table, "prompt", columns)
    if "response" not in found and not chats:
        what = "chosen" if "rejected" in found else "rejected" if "chosen" in found else "response"
        raise _missing(table, what, columns, "" if what != "response" else " Pairs have chosen and rejected.")
    return "rating" if "rating" in found else "demonstration", found


def _missing(table: Table, role: str, columns: dict[str, str | None], more: str = "") -> ConfigError:
    name = columns[role]
    also = f" (or {', '.join(f'`{one}`' for one in ALSO[role])})" if name == role and role in ALSO else ""
    have = ", ".join(table.columns) or "none"
    wanted = f"no column `{name}`{also}" if name else f"no column for {role} (task.columns.{role}=null)"
    near = did_you_mean(role, table.columns)
    return ConfigError(
        f"{table.path.name} has {wanted}; its columns are {have}.{near} Type task.columns.{role}=NAME.{more}"
    )


# --- rows ---------------------------------------------------------------------------------------------------


class _Bad(Exception):
    """Why a row is no good."""


class Parser:
    """Table rows of one file to Rows."""

    def __init__(self, table: Table, reading: Reading) -> None:
        self.kind, self.columns = resolved(table, reading)
        self._reading = reading
        self._kept: dict[str, str] = {}  # equal texts are kept once
        self._looked = False

    def unrated(self, table: Table, first: TableRow) -> list[Unrated]:
        """Of the table's first row: its columns, and those of them that nothing reads and that hold a number."""
        if self._looked:
            return []
        self._looked = True
        unread = [name for name in table.columns if name not in self.columns.values()]
        return [Unrated(table.path.name, table.columns, tuple(name for name in unread if _number(first.get(name))))]

    def parse(self, place: Place, row: TableRow) -> Row | str:
        """The row, or why it is no good."""
        try:
            return self._row(place, row)
        except (_Bad, DataError) as error:
            return str(error)

    def _row(self, place: Place, row: TableRow) -> Row:
        prompt, root, answer = self._prompt(row)
        response = self._response("chosen" if self.kind == "pair" else "response", row, answer)
        other = self._response("rejected", row, None) if self.kind == "pair" else ""
        if self.kind == "pair" and response == other:
            raise _Bad("chosen and rejected are the same")
        if not response.strip() and self.kind != "rating":
            raise _Bad(f"`{self._name('chosen' if self.kind == 'pair' else 'response')}` is empty")
        if self.kind == "pair" and not other.strip():
            raise _Bad(f"`{self._name('rejected')}` is empty")
        return Row(
            place=place,
            kind=self.kind,
            lang=self._once(self._text("lang", row)) if "lang" in self.columns else self._reading.lang,
            id=self._id(row, prompt),
            prompt=self._once(prompt),
            response=response,
            group=self._once(self._label("group", row) or BY_TEXT + _short_digest(root)),
            other=other,
            rating=self._rating(row) if self.kind == "rating" else 0.0,
            system=self._once(self._text("system", row)) if "system" in self.columns else "",
            split=self._split(row),
            dataset=self._once(self._label("dataset", row)),
            chat="prompt" not in self.columns or isinstance(row.get(self.columns["prompt"]), list),
        )

    def _once(self, text: str) -> str:
        return self._kept.setdefault(text, text)

    def _name(self, role: str) -> str:
        return self.columns.get(role, role)

    def _text(self, role: str, row: TableRow) -> str:
        """A text that must be there and not be empty."""
        value = row.get(self.columns[role])
        if value is None:
            raise _Bad(f"`{self._name(role)}` is missing")
        if not isinstance(value, str):
            raise _Bad(f"`{self._name(role)}` is {_shown(value)}, not text")
        if not value.strip():
            raise _Bad(f"`{self._name(role)}` is empty")
        return value

    def _label(self, role: str, row: TableRow) -> str:
        """A name or whole number; empty if the row or the file has none."""
        value = row.get(self.columns[role]) if role in self.columns else None
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise _Bad(f"`{self._name(role)}` is {_shown(value)}, neither text nor a whole number")
        return str(value)

    def _id(self, row: TableRow, prompt: str) -> str:
        if "id" not in self.columns:
            return _short_digest(prompt)
        name = self._label("id", row)
        if not name.strip():
            raise _Bad(f"`{self._name('id')}` is {'empty' if row.get(self.columns['id']) else 'missing'}")
        return self._once(name)

    def _prompt(self, row: TableRow) -> tuple[str, str, str | None]:
        """(text, what its group is named by, the answer that a chat ends with where there is no response column)."""
        if "prompt" not in self.columns:
            chat = _chat("chosen", row.get(self.columns["chosen"]))[:-1]  # pairs of whole chats
        elif isinstance(row.get(self.columns["prompt"]), list):
            chat = _chat(self._name("prompt"), row[self.columns["prompt"]])
        else:
            text = self._text("prompt", row)
            return text, text, None
        answer = None
        if self.kind != "pair" and "response" not in self.columns:
            if chat[-1][0] != "assistant":
                raise _Bad(f"`{self._name('prompt')}` does not end with the assistant, and there is no response")
            chat, answer = chat[:-1], chat[-1][1]
        if not chat:
            raise _Bad("a chat without a turn before the response")
        return dialog(chat), chat[0][1], answer

    def _response(self, role: str, row: TableRow, answer: str | None) -> str:
        value = row.get(self.columns[role]) if role in self.columns else answer
        if isinstance(value, list):
            value = _chat(self._name(role), value)[-1][1]
        if value is None:
            raise _Bad(f"`{self._name(role)}` is missing")
        if not isinstance(value, str):
            raise _Bad(f"`{self._name(role)}` is {_shown(value)}, not text")
        return value

    def _rating(self, row: TableRow) -> float:
        value, scale = row.get(self.columns["rating"]), self._reading.rating_scale
        name = self._name("rating")
        if value is None:
            raise _Bad(f"`{name}` is missing")
        try:
            rating = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _Bad(f"`{name}` is {_shown(value)}, not a number") from None
        if not math.isfinite(rating):
            raise _Bad(f"`{name}` is {rating}, not a finite number")
        if scale is not None and not scale[0] <= rating <= scale[1]:
            raise _Bad(f"`{name}` is {rating:g}, outside task.rating_scale=[{scale[0]:g},{scale[1]:g}]")
        return rating

    def _split(self, row: TableRow) -> str:
        if "split" not in self.columns:
            return ""
        value = self._label("split", row)
        if value.lower() not in SPLITS:
            raise _Bad(f"`{self._name('split')}` is {_shown(value)}; allowed are train, validation and test")
        return SPLITS[value.lower()]


def _chat(name: str, value: Any) -> list[tuple[str, str]]:
    """[(role, content), ...] of a list of {role, content}."""
    if not isinstance(value, list) or not value:
        raise _Bad(f"`{name}` is {_shown(value)}, not a list of {{role, content}}")
    turns = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
            raise _Bad(f"`{name}` has a turn without role or content: {_shown(turn)}")
        turns.append((role, content))
    return turns


def _number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
