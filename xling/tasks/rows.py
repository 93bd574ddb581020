"""Tables of your own as ratings, pairs and demonstrations: every row checked, bad ones named with their number.

What a file holds is told from its columns: `chosen` and `rejected` are a pair, `response` with a rating a rating,
`response` alone (or `messages` that end with the assistant) a demonstration, a prompt alone a prompt. The names are
settings (`Columns`). Texts stay as they are; whether two are the same is asked of their `matched` form.
Knows no torch; xling/tasks/reading.py goes through the files.
"""

import ast
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, DataError, did_you_mean, listed, shown
from xling.measures.language import LONGEST_TAG, language_of_code, standard
from xling.tasks.records import Conversation
from xling.tasks.render import USER, dialog
from xling.tasks.tables import ARRAY, EXACT, PEEKED, SHOWN, SPLITS, Table, from_json
from xling.tasks.tables import Row as TableRow

BY_TEXT = "text:"  # how a group begins that is named by its text
Kind = Literal["rating", "pair", "demonstration", "prompt"]
Chat = list[tuple[str, str]]  # (role, content)
# Where the usual name is not there: what else a file may call it.
ALSO = {"prompt": ("document", "messages"), "lang": ("language",)}
# How programs write that a value is missing, where a name or a prompt should stand. Of responses `None` may be one.
MISSING = ("nan", "NaN", "<NA>", "NaT", "None", "null")
NO_RESPONSE = MISSING[:4]
# Characters that show nothing: joiners, marks of direction, byte order marks, variation selectors, soft hyphens.
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff"
_PRINTED = (b"\xcd\x8f", b"\xef\xb8")  # in UTF-8: U+034F, and how variation selectors begin
INVISIBLE, VISIBLE = re.compile(f"[{_INVISIBLE}]"), re.compile(rf"[^\s{_INVISIBLE}]")
# What chat templates and lists of dialogs put before a turn: a text with one is a whole chat, or more than a turn.
CHAT_MARKS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "<start_of_turn>", "[/INST]", "<|assistant|>",
    "<|START_OF_TURN_TOKEN|>", "\n\nAssistant:",
)  # fmt: skip
OTHER = "a response is to another conversation than the prompt or the other response"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
WHOLE = re.compile(r"(-?\d+)\.0", re.ASCII)  # pandas makes floats of whole numbers where one is missing
# A chat, or a turn of one, that a program wrote as text: by JSON, or as Python shows lists and arrays.
WRITTEN = re.compile(r"""(array\()?\[?\s*\{\s*['"](role|content|from|value)['"]\s*:.*[\]})]""", re.DOTALL)


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


class Reading(Struct, frozen=True):
    """The settings that decide how a table is read."""

    columns: Columns = Columns()
    rating_field: str = "rating"
    rating_scale: tuple[float, float] | None = None
    lang: str = ""  # of a file without a language column
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
    noted: dict[tuple[Noted, str], list[Place]] = field(default_factory=lambda: defaultdict(list))  # by language
    read_as: set[tuple[str, str]] = field(default_factory=set)  # (a code of the file, the language) that differ
    named_after: dict[str, str] = field(default_factory=dict)  # files whose names say their language
    written: Counter[str] = field(default_factory=Counter)  # columns whose chats were written as text
    marked: Counter[tuple[str, str]] = field(default_factory=Counter)  # (column, a mark of chats that its texts have)
    similar: list[tuple[str, str, str]] = field(default_factory=list)  # (role, name, name): differ in case alone
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
            f"{listed(first.columns)}. If one of them is a rating, type task.rating_field="
            f"{first.numbers[0] if first.numbers else 'NAME'}."
        )

    def alone_text(self) -> str:
        """Why rows are prompts alone, and what to type if they should be more; empty if no file's are."""
        if not self.alone:
            return ""
        name, columns = self.alone[0]
        return (
            f"{name} holds prompts alone; its columns are {listed(columns)}. Reward models learn from `response` with "
            "a rating or from `chosen` and `rejected`, fine-tuning from `response`: name such columns with "
            "task.columns.response=NAME and so on, or add files that have them."
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
    unread = set(there) - set(found.values())
    if (
        not found.keys() & {"response", "chosen", "rejected", "rating"}
        and not chats
        and (not unread or columns["response"] is None)
    ):
        return "prompt", found
    if "response" not in found and not chats:
        what = "chosen" if "rejected" in found else "rejected" if "chosen" in found else "response"
        raise _missing(table, what, columns, NO_RESPONSES if what == "response" else "")
    return "rating" if "rating" in found else "demonstration", found


NO_RESPONSES = " Pairs have chosen and rejected. If these are prompts alone, type task.columns.response=null."


def _missing(table: Table, role: str, columns: dict[str, str | None], more: str = "") -> ConfigError:
    name = columns[role]
    also = f" (or {', '.join(f'`{one}`' for one in ALSO[role])})" if name == role and role in ALSO else ""
    have = listed(table.columns)
    wanted = f"no column `{name}`{also}" if name else f"no column for {role} (task.columns.{role}=null)"
    near = did_you_mean(role, table.columns)
    return ConfigError(
        f"{table.path.name} has {wanted}; its columns are {have}.{near} Type task.columns.{role}=NAME.{more}"
    )


# --- rows ---------------------------------------------------------------------------------------------------


class _Bad(Exception):
    """Why a row is no good."""


class Texts:
    """Keys by which texts are matched, each computed once, and the groups that they name."""

    def __init__(self) -> None:
        self._matched: dict[str, str] = {}
        self._groups: dict[str, str] = {}

    def matched(self, text: str) -> str:
        """`matched`, remembered."""
        found = self._matched.get(text)
        if found is None:
            found = self._matched[text] = matched(text)
        return found

    def group(self, text: str) -> str:
        """The name of a text's group: the same in any Unicode form, case and spacing."""
        found = self._groups.get(text)
        if found is None:
            found = self._groups[text] = BY_TEXT + _short_digest(self.matched(text))
        return found


class Parser:
    """Table rows of one file to Rows; what is said of many rows goes into `rows`, texts into `texts`."""

    def __init__(self, table: Table, reading: Reading, rows: Rows, texts: Texts) -> None:
        self.kind, self.columns = resolved(table, reading)
        self._reading, self._rows, self._texts = reading, rows, texts
        self._kept: dict[Any, str] = {}  # equal texts are kept once, chats with equal turns
        self._systems: dict[str, str] = {}  # a name as the file has it -> as it is read; so are codes
        self._codes: dict[str, tuple[str, str]] = {}
        self._comma, self._mark = table.decimal_comma, ""
        names = {*msgspec.structs.asdict(reading.columns).values(), *(one for also in ALSO.values() for one in also)}
        self._late = {name for name in {*names, reading.rating_field} if name and name not in table.columns}

    def parse(self, place: Place, row: TableRow) -> Row | str:
        """The row, or why it is no good."""
        try:
            return self._row(place, row)
        except (_Bad, DataError) as error:
            return str(error)

    def _row(self, place: Place, row: TableRow) -> Row:
        if not self._late.isdisjoint(row) and (
            late := next((name for name in self._late & row.keys() if row[name] is not None), None)
        ):
            raise _Bad(f"`{late}` is here and in none of the first {PEEKED} rows, by which columns are told")
        prompt, root, answer, context = self._prompt(row)
        response = other = ""
        if self.kind != "prompt":
            response, own = self._response("chosen" if self.kind == "pair" else "response", row, answer)
            prompt, root, context = self._with(prompt, root, context, own)
        if self.kind == "pair":
            other, others = self._response("rejected", row, None)
            if own and others and _turns(own) != _turns(others):  # one may say more than the prompt, not than the other
                raise _Bad(OTHER)
            prompt, root, context = self._with(prompt, root, context, others)
        self._check(response, other)
        return Row(
            place=place,
            kind=self.kind,
            lang=self._lang(row),
            id=self._id(row, prompt),
            prompt=self._once(prompt),
            response=response,
            group=self._once(self._label("group", row) or self._texts.group(root)),
            other=other,
            rating=self._rating(row) if self.kind == "rating" else 0.0,
            system=self._system(row) if "system" in self.columns else "",
            split=self._split(row),
            dataset=self._once(self._label("dataset", row)),
            chat=context is not None,
        )

    def _check(self, response: str, other: str) -> None:
        """_Bad for a response that is missing, or a pair that says the same twice."""
        if self.kind == "rating" and response.strip() not in NO_RESPONSE:
            return
        name = self._name("chosen" if self.kind == "pair" else "response")
        if self.kind in ("pair", "demonstration") and blank(response):
            raise _Bad(f"`{name}` is empty")
        if self.kind == "pair" and blank(other):
            raise _Bad(f"`{self._name('rejected')}` is empty")
        if self.kind == "pair" and response == other:
            raise _Bad("chosen and rejected are the same")
        if self.kind == "pair" and plain(response) == plain(other):
            raise _Bad("chosen and rejected are the same but for spaces, invisible characters or Unicode form")
        for role, text in ((name, response), (self._name("rejected"), other)):
            if text.strip() in NO_RESPONSE:
                raise _Bad(f"`{role}` is {shown(text)}, which stands for a missing value")

    def _with(self, prompt: str, root: str, context: Chat | None, own: Chat) -> tuple[str, str, Chat | None]:
        """The prompt, given the conversation that a response came with: the same one, or _Bad.

        A conversation that says more than the prompt does, earlier turns or what the system says, is the prompt.
        """
        if not own:
            return prompt, root, context
        turns = _turns(own)
        said = [turn for turn in turns if turn[0] != "system"]
        if context is not None:
            before = _turns(context)
            if turns == before or (said == before and len(turns) > len(said)):
                return (prompt, root, context) if turns == before else (dialog(own), _root(own), own)
            if said == [turn for turn in before if turn[0] != "system"] and len(said) == len(turns):
                return prompt, root, context
            raise _Bad(OTHER)
        asked = plain(prompt)
        if len(turns) == 1 and turns[0][1] == asked:
            return prompt, root, context
        if asked in (turns[0][1], said[0][1] if said else "", turns[-1][1]):
            return dialog(own), _root(own), own
        if all(text in asked for _, text in turns):
            return prompt, root, context  # the prompt is the conversation, written as text
        raise _Bad("a response is to another conversation than the prompt")

    def _once(self, text: str) -> str:
        return self._kept.setdefault((text, text.turns) if isinstance(text, Conversation) else text, text)

    def _name(self, role: str) -> str:
        return self.columns.get(role, role)

    def _text(self, role: str, row: TableRow) -> str:
        """A text that must be there and not be empty; of a name without what nobody sees."""
        value, name = row.get(self.columns[role]), self._name(role)
        if value is None or value != value:
            raise _Bad(f"`{name}` is missing")
        if not isinstance(value, str):
            raise _Bad(f"`{name}` is {shown(value)}, not text")
        text = _sound(name, value if role == "prompt" else tidy(value))
        if blank(text):
            raise _Bad(f"`{name}` is empty")
        if role == "prompt" and text.strip() in MISSING:
            raise _Bad(f"`{name}` is {shown(text)}, which stands for a missing value")
        return text

    def _system(self, row: TableRow) -> str:
        value = row.get(self.columns["system"])
        if not isinstance(value, str):
            return self._text("system", row)  # which says what it is
        if (known := self._systems.get(value)) is None:
            known = self._systems[value] = self._once(self._text("system", row))
        return known

    def _label(self, role: str, row: TableRow) -> str:
        """A name or whole number; empty if the row or the file has none."""
        value = row.get(self.columns[role]) if role in self.columns else None
        if value is None or value != value:
            return ""
        if isinstance(value, str) and value.isascii() and value.isalnum() and value not in MISSING:
            return value  # which nothing below changes
        name = self._name(role)
        if isinstance(value, float) and value.is_integer():
            if abs(value) >= EXACT:
                raise _Bad(f"`{name}` is {value!r}, a number that has lost digits: write it as text or whole number")
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise _Bad(f"`{name}` is {shown(value)}, neither text nor a whole number")
        try:
            text = tidy(str(value))
        except ValueError:
            raise _Bad(f"`{name}` is a number of more digits than are read") from None
        if text in MISSING:
            raise _Bad(f"`{name}` is {text!r}, which stands for a missing value")
        return WHOLE.sub(r"\1", _sound(name, text)) if WHOLE.fullmatch(text) else _sound(name, text)

    def _id(self, row: TableRow, prompt: str) -> str:
        if "id" not in self.columns:
            return _short_digest(prompt)
        name = self._label("id", row)
        if not name:
            raise _Bad(
                f"`{self._name('id')}` is {'empty' if isinstance(row.get(self.columns['id']), str) else 'missing'}"
            )
        return self._once(name)

    def _lang(self, row: TableRow) -> str:
        if "lang" not in self.columns:
            return self._reading.lang
        value = row.get(self.columns["lang"])
        code, lang = self._codes.get(value, ("", "")) if isinstance(value, str) else ("", "")
        if not code:
            code = self._text("lang", row)
            if len(code) > LONGEST_TAG:
                raise _Bad(f"`{self._name('lang')}` is {shown(code)}, the code of no language")
            lang = self._once(read_code(code, self._reading.varieties))
            self._codes[row[self.columns["lang"]]] = code, lang
        if lang != code:
            self._rows.read_as.add((code, lang))
        return lang

    def _prompt(self, row: TableRow) -> tuple[str, str, str | None, Chat | None]:
        """(text, what its group is named by, the answer that a chat ends with where there is no response, the chat)."""
        if "prompt" not in self.columns:
            chat = self._chat("chosen", self._value("chosen", row, counted=False))[:-1]  # pairs of whole chats
        elif isinstance(value := self._value("prompt", row), list):
            chat = self._chat("prompt", value)
        else:
            text = self._marks(self._name("prompt"), self._text("prompt", row))
            return text, text, None, None
        answer = None
        if self.kind in ("rating", "demonstration") and "response" not in self.columns:
            if not chat or chat[-1][0] != "assistant":
                raise _Bad(f"`{self._name('prompt')}` does not end with the assistant, and there is no response")
            chat, answer = chat[:-1], chat[-1][1]
        if not chat:
            raise _Bad("a chat without a turn before the response")
        return dialog(chat), _root(chat), answer, chat

    def _response(self, role: str, row: TableRow, answer: str | None) -> tuple[str, Chat]:
        """A response, and the conversation before it where the whole chat is given."""
        name, value = self._name(role), self._value(role, row) if role in self.columns else answer
        before: Chat = []
        if isinstance(value, list):
            chat = self._chat(role, value)
            if not chat or chat[-1][0] != "assistant":
                raise _Bad(f"`{name}` does not end with the assistant")
            *before, (_, value) = chat
        if value is None or value != value:
            raise _Bad(f"`{name}` is missing")
        if not isinstance(value, str):
            raise _Bad(f"`{name}` is {shown(value)}, not text")
        return self._marks(name, _sound(name, value)), before

    def _marks(self, name: str, text: str) -> str:
        """The text; that it has a mark of a chat which was made one text is counted."""
        # most texts have none of the characters that marks begin with
        begun = "<" in text or "[" in text or "\n" in text
        if begun and (mark := next((one for one in CHAT_MARKS if one in text), None)):
            self._rows.marked[name, mark] += 1
        return text

    def _value(self, role: str, row: TableRow, counted: bool = True) -> Any:
        """A column's value; a chat, or a turn of one, is a list, also where a program wrote it as text."""
        value = row.get(self.columns[role])
        if isinstance(value, str) and value[:20].lstrip()[:1] in ("[", "{", "a") and WRITTEN.fullmatch(value.strip()):
            value = _unwritten(self._name(role), value.strip())
            self._rows.written[self._name(role)] += counted
        return [value] if isinstance(value, dict) and "role" in value else value

    def _chat(self, role: str, value: Any) -> Chat:
        """[(role, content), ...] of a list of {role, content}; a system that says nothing is left out."""
        name = self._name(role)
        if not isinstance(value, list) or not value:
            marks = next((one for one in CHAT_MARKS if isinstance(value, str) and one in value), "")
            raise _Bad(
                f"`{name}` is {shown(value)}, not a list of {{role, content}}"
                + (
                    ". A chat in one text cannot be told apart: give what comes before the response as `prompt`"
                    * bool(marks)
                )
            )
        turns = []
        for turn in value:
            side, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
            if side == "system" and (content is None or (isinstance(content, str) and blank(content))):
                continue
            if not isinstance(side, str) or not isinstance(content, str) or blank(content):
                raise _Bad(f"`{name}` has a turn without role or content: {shown(turn)}{_instead(turn)}")
            turns.append((_sound(name, side), _sound(name, content)))
        return turns

    def _rating(self, row: TableRow) -> float:
        value, scale = row.get(self.columns["rating"]), self._reading.rating_scale
        name = self._name("rating")
        if value is None:
            raise _Bad(f"`{name}` is missing")
        if isinstance(value, str):
            value = self._written_number(name, value)
        try:
            rating = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _Bad(f"`{name}` is {shown(value)}, not a number") from None
        if not math.isfinite(rating):
            raise _Bad(f"`{name}` is {rating}, not a finite number")
        if scale is not None and not scale[0] <= rating <= scale[1]:
            raise _Bad(f"`{name}` is {rating:g}, outside task.rating_scale=[{scale[0]:g},{scale[1]:g}]")
        return rating

    def _written_number(self, name: str, value: str) -> str:
        """A number as Python reads it; true and false are 1 and 0. A comma is decimal where none separates cells."""
        text = value.strip()
        if text.lower() in ("true", "false"):
            return str(int(text.lower() == "true"))
        if DECIMAL_COMMA.fullmatch(text):
            if not self._comma:
                raise _Bad(
                    f"`{name}` is {shown(value)}: write a point, as in {text.replace(',', '.')[:20]}. A decimal "
                    "comma is read where cells are separated by semicolons or tabs"
                )
        elif not NUMBER.fullmatch(text):
            raise _Bad(f"`{name}` is {shown(value)}, not a number")
        mark = "," if "," in text else "." if "." in text else ""
        self._mark = self._mark or mark
        if self._comma and mark and mark != self._mark:
            raise _Bad(
                f"`{name}` is {shown(value)}, and before it numbers have a {'comma' if mark == '.' else 'point'}"
            )
        return text.replace(",", ".")

    def _split(self, row: TableRow) -> str:
        if "split" not in self.columns:
            return ""
        value = self._label("split", row)
        if value.lower() not in SPLITS:
            raise _Bad(f"`{self._name('split')}` is {shown(value)}; allowed are train, validation and test")
        return SPLITS[value.lower()]


def read_code(code: str, varieties: Collection[str]) -> str:
    """The language of a code, or the code where it is one of the varieties that are kept apart."""
    return next((one for one in varieties if code == one or standard(code) == standard(one)), language_of_code(code))


def tidy(text: str) -> str:
    """A name without what nobody sees: composed (NFC), without invisible characters, without spaces around it."""
    return text.strip() if text.isascii() else INVISIBLE.sub("", unicodedata.normalize("NFC", text)).strip()


def blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return VISIBLE.search(text) is None


def plain(text: str) -> str:
    """A text composed (NFC), without invisible characters, one space between words."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    if _is_plain(text):
        return composed
    return " ".join((composed if text.isascii() else INVISIBLE.sub("", composed)).split())


def _is_plain(text: str) -> bool:
    """Whether it is certain that no character is invisible, and that words are parted by one space each.

    Composing changes neither. Of all invisible characters those of `_PRINTED` alone count as printable, and of all
    spaces the usual one alone.
    """
    if not text.isprintable() or "  " in text or text[:1] == " " or text[-1:] == " ":
        return False
    encoded = b"" if text.isascii() else text.encode()
    return not any(mark in encoded for mark in _PRINTED)


def matched(text: str) -> str:
    """A text by which the same one is found again in any Unicode form (NFKC, case folded, as `plain`)."""
    if not text.isascii() and _is_plain(text):
        return unicodedata.normalize("NFKC", text).casefold()  # which composes as well
    text = plain(text)
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _root(chat: Chat) -> str:
    """The first user's question: chats that share only the system's words share no document."""
    return next((text for role, text in chat if role != "system"), chat[0][1])


def _turns(chat: Chat) -> list[tuple[object, str]]:
    """What two conversations are compared by."""
    return [(USER.get(side, side), plain(text)) for side, text in chat]


def _sound(name: str, text: str) -> str:
    """The text; _Bad for one with a NUL, which is a remnant of another encoding and ends strings elsewhere."""
    if "\0" in text:
        raise _Bad(f"`{name}` has a NUL character: {shown(text)}")
    return text


def _instead(turn: Any) -> str:
    """The fault of a turn that has another form than it must, and how to write it."""
    if not isinstance(turn, dict):
        return ""
    if "from" in turn and "value" in turn:
        return ". Call `from` role and `value` content, human user and gpt assistant"
    return ". Write the content as one text" if isinstance(turn.get("content"), list) else ""


def _unwritten(name: str, text: str) -> Any:
    """The chat or turn that a program wrote as text, by JSON or as Python shows it."""
    array = text if text.startswith("[") else f"[{text}]"
    try:
        found: Any = from_json(array.encode(), ARRAY)
    except (ValueError, msgspec.DecodeError):
        try:
            found = ast.literal_eval(array)
            json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no character
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise _Bad(f"`{name}` is a chat that was written as text and cannot be read: write it as JSON") from None
    return found


def is_number(value: Any) -> bool:
    """Whether a cell holds a finite number, or the text of one."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
