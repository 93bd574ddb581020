"""Responses that people judged, before they are a task: rows, what was wrong with others, and files read row by row."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xling.errors import DataError
from xling.tasks.rows import Texts, blank
from xling.tasks.tables import Row, open_table, text_of

SHOWN = 10  # bad rows that an error lists
DIGITS = 4  # of a mean rating


class Judged(NamedTuple):
    """One response with people's mean ratings, by criterion."""

    lang: str
    prompt: str  # id of the document or prompt: the same for all its responses
    group: str  # what is never split: a conversation tree; empty until `settle`: prompts with the same text
    text: str
    system: str
    response: str
    ratings: Mapping[str, float]
    corrupted: bool = False  # degraded on purpose before people saw it


@dataclass(slots=True)
class Release:
    """All rows of a release. `bad` names the first bad ones, `notes` counts by language what was left out, and why."""

    rows: list[Judged] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    n_bad: int = 0
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def reject(self, place: str, reason: str) -> None:
        """Note a bad row."""
        self.n_bad += 1
        if len(self.bad) < SHOWN:
            self.bad.append(f"{place}: {reason}")

    def add(self, place: str, row: Judged) -> None:
        """Add a complete row; one without a text or a rating is a bad row."""
        empty = [name for name in ("lang", "prompt", "text", "system", "response") if blank(getattr(row, name))]
        infinite = [f"{name}={value}" for name, value in row.ratings.items() if not -1e9 < value < 1e9]
        broken = [
            name for name in ("lang", "prompt", "group", "text", "system", "response") if "\0" in getattr(row, name)
        ]
        if empty or infinite:
            self.reject(place, f"{empty[0]} is empty" if empty else f"{infinite[0]} is no rating")
        elif broken:
            self.reject(place, f"{broken[0]} has a NUL character")
        elif not row.ratings:
            self.reject(place, "it has no rating")
        else:
            self.rows.append(row)

    def settle(self) -> None:
        """Keep responses whose text is surely the one that was rated, each once; group prompts by their text."""
        texts: dict[tuple[str, str, str], set[str]] = {}
        for row in self.rows:
            texts.setdefault((row.lang, row.prompt, row.system), set()).add(row.response)
        kept: dict[tuple[str, str, str], Judged] = {}
        for row in self.rows:
            key = (row.lang, row.prompt, row.system)
            if len(texts[key]) > 1:
                self.notes[row.lang, "responses whose rating may be that of another text of the same system"] += 1
            elif key in kept:
                self.notes[row.lang, "responses that are there twice"] += 1
            else:
                kept[key] = row
        first, texts_of = dict[tuple[str, str], str](), Texts()  # prompts are one in any Unicode form, case and spacing
        for row in sorted(kept.values(), key=lambda row: row.prompt):
            first.setdefault((row.lang, texts_of.matched(row.text)), row.prompt)
        self.rows = [
            row._replace(group=row.group or first[row.lang, texts_of.matched(row.text)]) for row in kept.values()
        ]


def read_rows(path: Path, release: Release, columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """(place, row) of a table; rows that cannot be read are rejected. With `columns`, these alone, as text.

    DataError if one of them is missing.
    """
    table = open_table(path, strict=False)
    table.require(columns)
    for number, row in table.rows():
        place = f"{path.parent.name}/{path.name} {table.unit} {number}"
        if isinstance(row, str):
            release.reject(place, row)
        else:
            yield place, {name: text_of(row.get(name)) for name in columns} if columns else row


def read_text(path: Path) -> str:
    """A whole file, white space normalised; DataError if it is not UTF-8."""
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}). Copy it again.") from error
