"""Rows of a table as Rows: every cell checked, chats told from texts, bad rows named with the reason.

Knows no torch; xling/tasks/reading.py goes through the files.
"""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Collection
from typing import Any

import msgspec

from xling.errors import DataError, shown
from xling.measures.language import LONGEST_TAG, language_of_code, standard
from xling.tasks.paths import SPLITS
from xling.tasks.records import Conversation
from xling.tasks.render import USER, dialog
from xling.tasks.rows import ALSO, MISSING, Place, Reading, Row, Rows, resolved
from xling.tasks.tables import ARRAY, EXACT, PEEKED, Table, from_json
from xling.tasks.tables import Row as TableRow
from xling.tasks.texts import Texts, blank, plain, short_digest, tidy

Chat = list[tuple[str, str]]  # (role, content)
NO_RESPONSE = MISSING[:4]
# What chat templates and lists of dialogs put before a turn: a text with one is a whole chat, or more than a turn.
CHAT_MARKS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "<start_of_turn>", "[/INST]", "<|assistant|>",
    "<|START_OF_TURN_TOKEN|>", "\n\nAssistant:",
)  # fmt: skip
OTHER = "a response is to another conversation than the prompt or the other response"
LARGEST = 1e100  # of a rating: sums and squares of such are numbers still
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
OUT_OF = re.compile(r"[\d.,]+\s*(?:/|of|out of|von|de|sur|su|из)\s*[\d.,]+", re.IGNORECASE)  # of a highest one
RANGE = re.compile(r"[\d.,]+\s*(?:[-\u2010-\u2015~\u223c]|to|bis|a|à)\s*[\d.,]+", re.IGNORECASE)
NOBODY = ("", "na", "n.a", "n/a", "none", "null", "missing", "skip", "unknown")  # what stands where nobody rated
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
WHOLE = re.compile(r"(-?\d+)\.0", re.ASCII)  # pandas makes floats of whole numbers where one is missing
# A chat, or a turn of one, that a program wrote as text: by JSON, or as Python shows lists and arrays.
WRITTEN = re.compile(r"""(array\()?\[?\s*\{\s*['"](role|content|from|value)['"]\s*:.*[\]})]""", re.DOTALL)


class _Bad(Exception):
    """Why a row is no good."""


class Parser:
    """Table rows of one file to Rows; what is said of many rows goes into `rows`, texts into `texts`."""

    def __init__(self, table: Table, reading: Reading, rows: Rows, texts: Texts) -> None:
        self.kind, self.columns = resolved(table, reading)
        self._reading, self._rows, self._texts = reading, rows, texts
        self.ungrouped = reading.columns.group is None  # as was asked for
        self._kept: dict[Any, str] = {}  # equal texts are kept once, chats with equal turns
        self._systems: dict[str, str] = {}  # a name as the file has it -> as it is read; so are codes
        self._codes: dict[str, tuple[str, str]] = {}
        self._comma, self._mark = table.decimal_comma, ""
        by_role = reading.columns.names()
        if reading.raters == "mean":
            by_role.pop("rater")
        names = {*by_role.values(), *(one for also in ALSO.values() for one in also)}
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
            rater=self._rater(row) if "rater" in self.columns else "",
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

    def _rater(self, row: TableRow) -> str:
        """Who rated, empty if that is not known; _Bad for nobody where ratings are normalised by rater."""
        needed = self._reading.raters != "mean" and self.kind == "rating"
        try:
            name = self._label("rater", row)
        except _Bad:
            if needed:
                raise
            return ""
        if needed and not name:
            raise _Bad(f"`{self._name('rater')}` is {'missing' if row.get(self.columns['rater']) is None else 'empty'}")
        return self._once(name)

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
            return short_digest(prompt)
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
            if "system_prompt" not in self.columns:
                return text, text, None, None
            chat = self._led(row, [("user", text)])
            return dialog(chat), text, None, chat
        answer = None
        if self.kind in ("rating", "demonstration") and "response" not in self.columns:
            if not chat or chat[-1][0] != "assistant":
                raise _Bad(
                    f"`{self._name('prompt')}` does not end with the assistant, and there is no response (of prompts "
                    "alone type task.columns.response=null)"
                )
            chat, answer = chat[:-1], chat[-1][1]
        if not chat:
            raise _Bad("a chat without a turn before the response")
        if "system_prompt" in self.columns:
            chat = self._led(row, chat)
        return dialog(chat), _root(chat), answer, chat

    def _led(self, row: TableRow, chat: Chat) -> Chat:
        """The chat after what the column of system prompts says; nothing for an empty cell."""
        name, value = self._name("system_prompt"), row.get(self.columns["system_prompt"])
        if value is None or value != value or (isinstance(value, str) and blank(value)):
            return chat
        if not isinstance(value, str):
            raise _Bad(f"`{name}` is {shown(value)}, not text")
        if chat[0][0] != "system":
            return [("system", _sound(name, value)), *chat]
        if plain(chat[0][1]) != plain(value):
            raise _Bad(f"`{name}` and the chat's own system turn say different things")
        return chat

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
            one = ". Write one number; of several people a row each" if isinstance(value, list) else ""
            raise _Bad(f"`{name}` is {shown(value)}, not a number{one}") from None
        if not math.isfinite(rating):
            raise _Bad(f"`{name}` is {rating}, not a finite number")
        if abs(rating) > LARGEST:
            raise _Bad(f"`{name}` is {rating:g}, a number too large to be averaged")
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
            raise _Bad(f"`{name}` is {shown(value)}, not a number{_as_number(text, self._mark or '.')}")
        mark = "," if "," in text else "." if "." in text else ""
        self._mark = self._mark or mark
        if self._comma and mark and mark != self._mark:
            raise _Bad(
                f"`{name}` is {shown(value)}, and before it numbers have a {'comma' if mark == '.' else 'point'}"
            )
        return text.replace(",", ".")

    def _split(self, row: TableRow) -> str:
        if "split" not in self.columns:
            return self._reading.split
        value = self._label("split", row)
        if value.lower() not in SPLITS:
            raise _Bad(f"`{self._name('split')}` is {shown(value)}; allowed are train, validation and test")
        return SPLITS[value.lower()]


def read_code(code: str, varieties: Collection[str]) -> str:
    """The language of a code, or the code where it is one of the varieties that are kept apart."""
    return next((one for one in varieties if code == one or standard(code) == standard(one)), language_of_code(code))


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


def _as_number(text: str, mark: str) -> str:
    """How a rating that is written in another way is written as a number: a sentence for each way that people have.

    mark: that of the file's decimals.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    found = re.findall(r"(?:^-)?\d+(?:[.,]\d+)?", text)
    if not found:
        if text.lower().strip(" -\u2013\u2014_.?") in NOBODY:
            return ". Where nobody rated leave the row out (task.bad_rows=skip)"
        return ". Write numbers, as in 1 for the worst and 5 for the best"
    numbers = [float(number.replace(",", ".")) for number in found]
    first, *others = (f"{number:g}".replace(".", mark) for number in numbers)
    if RANGE.fullmatch(text.rstrip("% ")) and others:
        return f". Of a range write one number, as its middle: {f'{sum(numbers) / 2:g}'.replace('.', mark)}"
    if OUT_OF.fullmatch(text) and others:
        return f". Write {first}, and say the scale once: task.rating_scale=[LOWEST,{others[0].replace(mark, '.')}]"
    if text.endswith("%") and not others:
        return f". Write {first} without the sign; the scale is task.rating_scale=[0,100]"
    return ". Write one number, with no marks but that of its decimals" if others else f". Write {first} alone"


def is_number(value: Any) -> bool:
    """Whether a cell holds a finite number, or the text of one."""
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False
