"""Rows of your own tables: the settings, what a good one holds, which columns it comes from, what is noted of all.

What a file holds is told from its columns: `chosen` and `rejected` are a pair, `response` with a rating a rating,
`response` alone (or `messages` that end with the assistant) a demonstration, a prompt alone a prompt. The names are
settings (`Columns`). Texts stay as they are; whether two are the same is asked of their `matched` form
(xling/tasks/texts.py). Knows no torch; xling/tasks/parsing.py checks each row.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from xling.config.common import Fraction, Language, Positive, Seed, Template
from xling.errors import ConfigError, did_you_mean, listed, shown, typed
from xling.tasks.records import Cap, TaskSettings
from xling.tasks.tables import SHOWN, Table

Kind = Literal["rating", "pair", "demonstration", "prompt"]
# Where the usual name is not there: what else a file may call it.
ALSO = {"prompt": ("document", "messages"), "lang": ("language",)}
# What names documents where there is no group, nor a split column, whose parts may cut through them. Beside a column
# `doc` (WMT's MQM) the latter counts the segments of one.
DOCUMENTS = ("document_id", "doc_id")
USUAL = {"rater": "rater"}  # the columns of roles that no setting names
# How programs write that a value is missing, where a name or a prompt should stand. Of responses `None` may be one.
MISSING = ("nan", "NaN", "<NA>", "NaT", "None", "null")


class Place(Struct, frozen=True, order=True, gc=False):
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
    rater: str = ""  # who gave the rating


class Columns(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of a file's columns by what they hold; None: there is none, whatever the file has."""

    id: str | None = "id"
    lang: str | None = "lang"  # or `language`
    prompt: str | None = "prompt"  # or `document` or `messages`; text, or a chat: a list of {role, content}
    response: str | None = "response"
    system: str | None = "system"
    chosen: str | None = "chosen"
    rejected: str | None = "rejected"
    group: str | None = "group"
    split: str | None = "split"
    dataset: str | None = "dataset"
    # Unset stands in no key: who rated counts for task.raters=z alone
    rater: str | UnsetType | None = UNSET  # or `rater`
    system_prompt: str | UnsetType | None = UNSET  # or none: what the system says before the prompt

    def names(self) -> dict[str, str | None]:
        """The column of each role."""
        found = msgspec.structs.asdict(self)
        return {role: USUAL.get(role) if name is UNSET else name for role, name in found.items()}


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="files"):
    """Your own JSONL(.gz), CSV, TSV or Parquet: ratings, pairs, demonstrations. Split by document or tree."""

    path: str
    languages: tuple[str, ...]
    seed: Seed = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    documents: Positive | None = None  # rated ones of a source that its heads are trained on; None: all
    feedback: Literal["pointwise", "pairwise"] = "pointwise"
    columns: Columns = Columns()
    rating_scale: tuple[float, float] | None = None  # lowest and highest rating that there can be
    raters: Literal["mean", "z"] | UnsetType = UNSET  # of several ratings: z: normalised by rater first. Unset: mean
    threshold: float | None = None  # ratings from here on are good
    encoding: str | UnsetType | None = UNSET  # of text without a byte order mark. Unset: UTF-8
    bad_rows: Literal["refuse", "skip"] = "refuse"
    validation: Fraction = 0.1  # share of the documents of a language
    test: Fraction = 0.1
    max_demonstrations: Cap = UNSET  # a language and split
    max_prompts: Cap = UNSET
    max_feedback: Cap = UNSET  # ratings or pairs
    max_validation: Cap = UNSET  # of demonstrations and feedback that choose checkpoints
    template: Template = Template()
    facts: tuple[Language, ...] = ()


class Reading(Struct, frozen=True):
    """The settings that decide how a table is read."""

    columns: Columns = Columns()
    rating_field: str = "rating"
    rating_scale: tuple[float, float] | None = None
    raters: Literal["mean", "z"] = "mean"
    lang: str = ""  # of a file without a language column
    split: str = ""  # of a file without a split column
    encoding: str = ""  # of files that are not UTF-8
    pattern: str = ""  # of paths, with {lang} or {split} in it
    varieties: tuple[str, ...] = ()  # codes such as pt-BR that are read as they are; others are their language


class Unrated(Struct, frozen=True):
    """A file whose rows are demonstrations, since it has no column of ratings.

    `numbers`: what might be one, columns that nothing reads and that hold a number in the first row.
    """

    name: str
    columns: tuple[str, ...]
    numbers: tuple[str, ...]


# What is said of some rows of a language, by their places:
Noted = Literal[
    "again",  # another rating of a response that is there already
    "alike",  # the prompt is another's text in another Unicode form, case or spacing
    "crossing",  # the prompt is in two splits by the split column
    "empty",  # rated, although the response is empty
    "none",  # the response is None or null, as text
]


@dataclass(eq=False)
class Rows:
    """All files: language -> good rows in order. `bad` has the first bad rows, `n_bad` counts all of them."""

    paths: list[Path] = field(default_factory=list)
    units: list[str] = field(default_factory=list)  # what a file's numbers count
    languages: dict[str, list[Row]] = field(default_factory=dict)
    bad: list[tuple[Place, str]] = field(default_factory=list)
    n_bad: int = 0
    n: int = 0  # rows, good and bad, without empty lines
    without_language: bool = False  # a file has no language column
    chats: set[str] = field(default_factory=set)  # languages in which a good row's prompt is one
    rated: bool = False  # a file has the column of ratings
    unrated: list[Unrated] = field(default_factory=list)
    binary: bool = True  # every single rating is 0 or 1
    # language -> (group, ratings as they are in the files) of each response that was rated more than once
    several: dict[str, list[tuple[str, list[float]]]] = field(default_factory=dict)
    one_note: dict[str, int] = field(default_factory=dict)  # language -> raters whose ratings are all the same
    noted: dict[tuple[Noted, str], list[Place]] = field(default_factory=lambda: defaultdict(list))  # by language
    read_as: set[tuple[str, str]] = field(default_factory=set)  # (a code of the file, the language) that differ
    named_after: dict[str, str] = field(default_factory=dict)  # files whose names say their language
    written: Counter[str] = field(default_factory=Counter)  # columns whose chats were written as text
    marked: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, a mark of chats that its texts have)
    similar: list[tuple[str, str, str]] = field(default_factory=list)  # (role, name, name): look alike
    documents: dict[str, str] = field(default_factory=dict)  # file -> the column that names its documents unasked
    repeats: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # column -> (file, values, prompts)
    near: int = 0  # groups that were joined as one character tells their prompts apart
    published: list[str] = field(default_factory=list)  # what is said of files in a layout of WMT
    alone: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)  # files of prompts alone, with their columns

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
            f"{listed(first.columns)}. If one of them is a rating, type "
            f"{typed('task.rating_field', first.numbers[0] if first.numbers else 'NAME')}."
        )

    def alone_text(self) -> str:
        """Why rows are prompts alone, and what to type where a language has no others; empty if no file's are."""
        if not self.alone:
            return ""
        name, columns = self.alone[0]
        what = f"{name} holds prompts alone, which are what is evaluated on (with a split column, its test split)"
        if all(any(row.kind != "prompt" for row in own) for own in self.languages.values()):
            return f"{what}."
        return (
            f"{what}; its columns are {listed(columns)}. Reward models learn from `response` with a rating or from "
            "`chosen` and `rejected`, fine-tuning from `response`: name such columns with task.columns.response=NAME "
            "and so on, or add files that have them."
        )

    def codes_text(self) -> str:
        """`DE as de, pt-BR as pt`, of codes that were read as another; or nothing."""
        return listed((f"{shown(code)} as {lang}" for code, lang in sorted(self.read_as)), 10) if self.read_as else ""

    def reject(self, place: Place, reason: str) -> None:
        """Note a bad row."""
        self.n_bad += 1
        if len(self.bad) < SHOWN:
            self.bad.append((place, reason))


# --- columns ------------------------------------------------------------------------------------------------


def resolved(table: Table, reading: Reading) -> tuple[Kind, dict[str, str]]:
    """The table's kind of rows, and the column of each role that it has; ConfigError names what is missing."""
    there, columns = table.columns, reading.columns.names()
    found: dict[str, str] = {}
    for role, name in columns.items():
        usual = (role, *ALSO.get(role, ())) if name == role else (name,)
        if (column := next((one for one in usual if one in there), None)) is not None:
            found[role] = column
    if columns["group"] == "group" and not {"group", "doc"} & set(there) and "split" not in found:
        found |= dict([("group", name) for name in DOCUMENTS if name in there][:1])
    if reading.rating_field in there:
        found["rating"] = reading.rating_field
        if reading.raters == "z" and "rater" not in found:
            raise _missing(table, "rater", columns, " Or type task.raters=mean, which averages ratings as they are.")
    if reading.columns.system_prompt and "system_prompt" not in found:
        raise _missing(table, "system_prompt", columns)
    chats = found.get("prompt") == "messages"
    if "lang" not in found and not reading.lang:
        raise _missing(table, "lang", columns, " Or name the one language of all rows with task.languages=[de].")
    if "chosen" in found and "rejected" in found:
        return "pair", found
    if "prompt" not in found:
        raise _missing(table, "prompt", columns)
    unread = set(there) - set(found.values())
    named = not chats and (not unread or PROMPTS.match(table.path.name))  # chats may end with the answer
    if not found.keys() & {"response", "chosen", "rejected", "rating"} and (named or columns["response"] is None):
        return "prompt", found
    if "response" not in found and not chats:
        what = "chosen" if "rejected" in found else "rejected" if "chosen" in found else "response"
        raise _missing(table, what, columns, NO_RESPONSES if what == "response" else "")
    return "rating" if "rating" in found else "demonstration", found


PROMPTS = re.compile(r"prompts(?![a-z])", re.IGNORECASE)  # how a file of prompts alone is named, whatever else it has
NO_RESPONSES = (
    " Pairs have chosen and rejected. If these are prompts alone, call the file prompts.jsonl (prompts.de.csv, ...) or "
    "type task.columns.response=null."
)


def _missing(table: Table, role: str, columns: dict[str, str | None], more: str = "") -> ConfigError:
    name = columns[role]
    also = f" (or {', '.join(f'`{one}`' for one in ALSO[role])})" if name == role and role in ALSO else ""
    have = listed(table.columns)
    wanted = f"no column `{name}`{also}" if name else f"no column for {role} (task.columns.{role}=null)"
    near = did_you_mean(role, table.columns)
    return ConfigError(
        f"{table.path.name} has {wanted}; its columns are {have}.{near} Type task.columns.{role}=NAME.{more}"
    )
