"""Chat templates: conversations as a tokenizer's authors write them, for policies, reward models and judges.

A template is filled in with marks for the turns' texts, and what it writes around them is kept. All that stands between
two of its special tokens is then tokenised at once, as in the whole, except that what looks like a special token in a
turn is text: no document can end its own turn. Special tokens are the template's alone, bos included, whatever the
tokenizer would add. Outer white space of turns is left out, and so is what was thought before an earlier answer.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from xling.config.common import TEMPLATE_DATE
from xling.errors import DataError
from xling.models.text import Around, Ids, located, pieces, without
from xling.tasks.records import Turns

# --- templates ----------------------------------------------------------------------------------------------

EXPRESSION = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
CHANCE = re.compile(r"""(?:\||\bfilter\b|\bmap\(\s*['"])\s*random\b|\blipsum\b""")  # as a filter, of a block, of each
# The template's own `strftime_now`, in front of transformers', which asks the clock; functions cannot be handed over.
CLOCK = (
    "{% macro strftime_now(format) %}{% set at = namespace(out='', sign=none) %}{% for c in format %}"
    "{% if at.sign is none %}{% if c == '%' %}{% set at.sign = '' %}{% else %}{% set at.out = at.out ~ c %}{% endif %}"
    "{% elif c in '-_^#0' %}{% set at.sign = at.sign ~ c %}"
    "{% else %}{% set at.out = at.out ~ xling_today.get(at.sign ~ c, '%' ~ at.sign ~ c) %}{% set at.sign = none %}"
    "{% endif %}{% endfor %}{{ at.out }}{% endmacro %}"
)


def chat_text(tokenizer: Any, turns: Sequence[dict[str, Any]], date: str, begun: bool, **more: Any) -> str:
    """A conversation by the tokenizer's chat template; `begun`: up to where the assistant speaks.

    What a template may call is fixed: the day is `date` (YYYY-MM-DD), at midnight UTC, whenever it asks for it, and one
    that draws at random is refused. DataError for that, and for a template that refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        template = str(tokenizer.get_chat_template())
        _check_template(template)
        # a line break after a block is not printed
        template = CLOCK + ("\n" if template.startswith("\n") else "") + template
        return str(
            tokenizer.apply_chat_template(
                list(turns),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=begun,
                xling_today=today(date),
                **more,
            )
        )
    except (TemplateError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"The tokenizer's chat template fails: {said} ({type(error).__name__}).") from error


@lru_cache(maxsize=4)
def today(date: str) -> dict[str, str]:
    """Values of strftime's directives for a date, by the letter after the `%`; ValueError if it is no date."""
    then = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
    found = {sign + letter: then.strftime(f"%{sign}{letter}") for sign in ("", "-", "^") for letter in DIRECTIVES}
    return found | {"s": str(int(then.timestamp())), "%": "%"}  # %s goes by the machine's time zone


DIRECTIVES = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyYzZ"


@lru_cache(maxsize=16)
def _check_template(template: str) -> None:
    if any(CHANCE.search(expression) for expression in EXPRESSION.findall(template)):
        raise DataError(
            "The tokenizer's chat template draws at random (`random` or `lipsum`): no two readings would be the same. "
            "Take that out of its chat_template, or use another model."
        )


# --- what a template makes of a conversation ----------------------------------------------------------------

ANSWER = "THE-ANSWER"
THOUGHT = "<think>", "</think>"


class Form(NamedTuple):
    """What a template writes around turns, whatever they say: special tokens, and texts in which turns stand."""

    fixed: list[Ids]  # before, between and after the texts: one more than there are texts
    texts: list[list[str | int]]  # each in parts: what the template writes, and numbers of turns

    def written(self, turns: Turns) -> list[str]:
        """The texts with the turns in them."""
        return ["".join(part if isinstance(part, str) else turns[part][1] for part in parts) for parts in self.texts]

    def joined(self, read: Sequence[Ids]) -> Ids:
        """Token ids of the whole, given those of the texts."""
        first, *rest = self.fixed
        return [*first, *(i for ids, after in zip(read, rest, strict=True) for i in (*ids, *after))]

    def place(self, turns: Turns, number: int) -> tuple[int, int]:
        """Where a turn stands: in which text, and from which character on."""
        where = next(i for i, parts in enumerate(self.texts) if number in parts)
        before = self.texts[where][: self.texts[where].index(number)]
        return where, sum(len(part if isinstance(part, str) else turns[part][1]) for part in before)


class Chat:
    """A tokenizer's chat template in use. `ends`: tokens that end a turn, the first as the template does.

    quiet: whether a template that can be is asked for no thinking.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int] = (), date: str = TEMPLATE_DATE, quiet: bool = True) -> None:
        self.tokenizer, self.date = tokenizer, date
        self._asked = {"enable_thinking": False} if quiet else {}
        self._special = _pattern(tokenizer)
        self._forms: dict[tuple[str, ...], Form | None] = {}
        self._thinks = THOUGHT[1] in str(tokenizer.get_chat_template())
        self._in_parts = not self._hands_on(False) and self._hands_on(True)
        self._space, written = self._around_answer()
        found = (written, *ends, tokenizer.eos_token_id)
        self.ends = tuple(dict.fromkeys(int(end) for end in found if end is not None))

    def rows(self, asked: Sequence[tuple[Turns, str]], limit: int, side: str) -> tuple[list[Ids], int]:
        """Token ids of conversations up to where the assistant speaks, and how many were longer than `limit`.

        Of too long a one the oldest questions go, with their answers, and then part of the last: of its document, the
        second of each pair, where it has that word for word. What the template writes stays whole. A conversation that
        ends with the assistant is read to the end of that turn; it must not be too long.
        """
        shaped = [self._shaped(turns) for turns, _ in asked]
        texts = [form.written(turns) for form, turns in shaped]
        parts = iter(pieces(self.tokenizer, [text for row in texts for text in row]))
        ids = [form.joined([next(parts) for _ in row]) for (form, _), row in zip(shaped, texts, strict=True)]
        too_long = [i for i, row in enumerate(ids) if len(row) > limit]
        for i in too_long:
            ids[i] = self._shortened(*asked[i], limit, side)
        return ids, len(too_long)

    def joins(self, turns: Turns) -> bool:
        """Whether the template refuses a turn before the first user's, which is then put into that."""
        return len(self._shaped(turns)[1]) < len(turns)

    def answers(self, texts: Sequence[str], limit: int) -> list[Ids]:
        """Token ids of what the assistant says, with the end of its turn; longer ones are cut and keep that."""
        said = pieces(self.tokenizer, [self._space + text.strip() for text in texts])
        return [[*ids[: limit - 1], self.ends[0]] for ids in said]

    def around(self) -> Around:
        """What stands around a prompt that is one turn of a user, and around its answer."""
        form, _ = self._shaped((("user", "?"),))
        if len(form.texts) != 1:
            raise DataError("The tokenizer's chat template writes special tokens inside of a turn.")
        [parts], (before, between) = form.texts, form.fixed
        place = parts.index(0)
        first, last = ("".join(map(str, half)) for half in (parts[:place], parts[place + 1 :]))
        return Around(before, first, last, between, self._space, [self.ends[0]])

    def answer(self, ids: Sequence[int]) -> str:
        """The text of what a model said, up to the first end of a turn, without what it thought."""
        stop = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        text = str(self.tokenizer.decode(list(ids[:stop]), skip_special_tokens=True))
        begin, end = THOUGHT
        return (text.rpartition(end)[2] if end in text else text.partition(begin)[0]).strip()

    def _shortened(self, turns: Turns, document: str, limit: int, side: str) -> Ids:
        told, rest = [one for one in turns if one[0] == "system"], [one for one in turns if one[0] != "system"]
        while len(rest) > 2:
            rest = rest[2:]
            if len(row := self._row(told + rest)) <= limit:
                return row
        for said in ([*told, *rest], rest):  # without the system's turn if nothing else helps
            form, shaped = self._shaped(said)
            texts, (where, begin) = form.written(shaped), form.place(shaped, len(shaped) - 1)
            read, last = pieces(self.tokenizer, texts), shaped[-1][1]
            own = document.strip(), said[-1][1].strip(), last  # the last may have what the system says
            for part in dict.fromkeys(part for part in own if part and part in last):
                read[where], inside = located(self.tokenizer, texts[where], part, begin + last.rindex(part))
                spare = len(form.joined(read)) - limit
                if spare < len(inside):
                    read[where] = without(read[where], inside, spare, side) if spare > 0 else read[where]
                    return form.joined(read)
        raise DataError(
            f"A limit of {limit} tokens leaves no room for a prompt: the chat template alone has "
            f"{sum(map(len, form.fixed))}. Raise max_prompt_tokens, or type policy.template=plain."
        )

    def _row(self, turns: Turns) -> Ids:
        form, shaped = self._shaped(turns)
        return form.joined(pieces(self.tokenizer, form.written(shaped)))

    def _shaped(self, turns: Turns) -> tuple[Form, Turns]:
        """The form of a conversation, and its turns as the template takes them.

        What stands before the first user's turn and is refused, or left out, is put into the turn after it: what the
        system says, or an assistant that speaks first.
        """
        turns = [(role, self._without_thoughts(role, text).strip()) for role, text in turns]
        while (form := self._form(tuple(role for role, _ in turns), turns[0][0] != "user")) is None:
            (_, told), (role, said), *rest = turns
            turns = [(role, f"{told}\n\n{said}"), *rest]
        return form, turns

    def _without_thoughts(self, role: str, text: str) -> str:
        return text.rpartition(THOUGHT[1])[2] if self._thinks and role == "assistant" else text

    def _form(self, roles: tuple[str, ...], may_fail: bool) -> Form | None:
        """None for a conversation that is refused, if it may be."""
        if roles not in self._forms:
            try:
                self._forms[roles] = self._read(roles)
            except DataError:
                if not may_fail:
                    raise
                self._forms[roles] = None
        return self._forms[roles]

    def _read(self, roles: Sequence[str]) -> Form:
        """What the template writes around turns of these roles, cut where its special tokens begin and end."""
        marks = {f"THE-TEXT-{i}-OF-{role}": i for i, role in enumerate(roles)}
        whole = self._text(list(zip(roles, marks, strict=True)), roles[-1] != "assistant")
        parts = re.split(f"({'|'.join(map(re.escape, marks))})", whole)
        if sorted(parts[1::2]) != sorted(marks):
            raise DataError(
                f"The tokenizer's chat template does not hand turns on as they are: of {len(marks)} it writes "
                f"{len(parts) // 2}. Type policy.template=plain (rm_backbone.render=plain of a published reward "
                "model), or use another model."
            )
        fixed, texts = list[str](), list[list[str | int]]([[]])
        for i, part in enumerate(parts):
            found = list(self._special.finditer(part))
            if i % 2:
                texts[-1].append(marks[part])
            elif i == 0:
                cut = found[-1].end() if found else 0
                fixed.append(part[:cut])
                texts[-1].append(part[cut:])
            elif found or i == len(parts) - 1:
                first = found[0].start() if found else len(part)
                last = len(part) if i == len(parts) - 1 else found[-1].end()
                texts[-1].append(part[:first])
                fixed.append(part[first:last])
                if i < len(parts) - 1:
                    texts.append([part[last:]])
            else:
                texts[-1].append(part)
        return Form([self._ids(part) for part in fixed], texts)

    def _ids(self, text: str) -> Ids:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, turns: Turns, begun: bool) -> str:
        """A conversation by the template."""
        said: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}] if self._in_parts else text}
            for role, text in turns
        ]
        return chat_text(self.tokenizer, said, self.date, begun, **self._asked)

    def _hands_on(self, in_parts: bool) -> bool:
        """Whether the template writes what a user says, given as text, or in parts as those for pictures want it."""
        self._in_parts = in_parts
        try:
            return ANSWER in self._text([("user", ANSWER)], True)
        except DataError:
            return False

    def _around_answer(self) -> tuple[str, int | None]:
        """White space before what the assistant says, and the token that ends its turn."""
        asked = ("user", "THE-TEXT")
        begun = self._text([asked], True)
        whole = self._text([asked, ("assistant", ANSWER)], False)
        before, _, after = whole.partition(ANSWER)
        space = before.removeprefix(begun)
        end = self._special.search(after)
        written = self.tokenizer.convert_tokens_to_ids(end[0].strip()) if end else self.tokenizer.eos_token_id
        return space if before.startswith(begun) and space.isspace() else "", written


def _pattern(tokenizer: Any) -> re.Pattern[str]:
    """Tokens that are never split, each with the white space that it swallows."""
    tokens = sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
    found = [r"\s*" * one.lstrip + re.escape(one.content) + r"\s*" * one.rstrip for one in tokens if one.content]
    return re.compile("|".join(found) or r"(?!)")
