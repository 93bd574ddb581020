"""Chat templates: conversations as a tokenizer's authors write them, for policies, reward models and judges.

A template is filled in with marks for the turns' texts, and what it writes around them is kept. A turn's text is then
tokenised with what stands beside it between two special tokens, as the whole would be, except that what looks like a
special token in it is text: no document can end its own turn. Special tokens are the template's alone, bos included,
whatever the tokenizer would add. Outer white space of turns is left out.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from xling.config.common import TEMPLATE_DATE
from xling.errors import DataError
from xling.models.text import Ids, located, pieces, without

# --- templates ----------------------------------------------------------------------------------------------

EXPRESSION = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)
CHANCE = re.compile(r"\|\s*random\b|\blipsum\b")
# The template's own `strftime_now`, in front of transformers', which asks the clock; functions cannot be handed over.
CLOCK = (
    "{% macro strftime_now(format) %}{% set at = namespace(out='', sign=none) %}{% for c in format %}"
    "{% if at.sign is none %}{% if c == '%' %}{% set at.sign = '' %}{% else %}{% set at.out = at.out ~ c %}{% endif %}"
    "{% elif c in '-_^#0' %}{% set at.sign = at.sign ~ c %}"
    "{% else %}{% set at.out = at.out ~ xling_today.get(at.sign ~ c, '%' ~ at.sign ~ c) %}{% set at.sign = none %}"
    "{% endif %}{% endfor %}{{ at.out }}{% endmacro %}"
)


def chat_text(tokenizer: Any, turns: Sequence[dict[str, str]], date: str, begun: bool, **more: Any) -> str:
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

Turns = Sequence[tuple[str, str]]  # (role, text): system or nobody first, user and assistant by turns, user last

ANSWER = "THE-ANSWER"
THOUGHT = "<think>", "</think>"


class Form(NamedTuple):
    """What a template writes around turns, whatever they say."""

    fixed: list[Ids]  # before, between and after them: one more than there are turns
    beside: list[tuple[str, str]]  # what is tokenised together with each: text before and after it


class Chat:
    """A tokenizer's chat template in use. `ends`: tokens that end a turn, the first as the template does."""

    def __init__(self, tokenizer: Any, ends: Sequence[int] = (), date: str = TEMPLATE_DATE) -> None:
        self.tokenizer, self.date = tokenizer, date
        self._special = _pattern(tokenizer)
        self._forms: dict[tuple[str, ...], Form | None] = {}
        self._space, written = self._around_answer()
        self.ends = tuple(dict.fromkeys([written, *ends, int(tokenizer.eos_token_id)]))

    def rows(self, asked: Sequence[tuple[Turns, str]], limit: int, side: str) -> tuple[list[Ids], int]:
        """Token ids of conversations up to where the assistant speaks, and how many were longer than `limit`.

        Of too long a one the oldest questions go, with their answers, and then part of the last: of its document, the
        second of each pair, where it has that word for word. What the template writes stays whole.
        """
        shaped = [self._shaped(turns) for turns, _ in asked]
        parts = iter(pieces(self.tokenizer, [part for form, turns in shaped for part in _segments(form, turns)]))
        ids = [_joined(form, [next(parts) for _ in turns]) for form, turns in shaped]
        too_long = [i for i, row in enumerate(ids) if len(row) > limit]
        for i in too_long:
            ids[i] = self._shortened(*asked[i], limit, side)
        return ids, len(too_long)

    def answers(self, texts: Sequence[str], limit: int) -> list[Ids]:
        """Token ids of what the assistant says, with the end of its turn; longer ones are cut and keep that."""
        said = pieces(self.tokenizer, [self._space + text.strip() for text in texts])
        return [[*ids[: limit - 1], self.ends[0]] for ids in said]

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
            *before, last = _segments(form, shaped)
            read = pieces(self.tokenizer, before)
            for part in filter(None, (document.strip(), shaped[-1][1])):
                ids, inside = located(self.tokenizer, last, part)
                spare = len(_joined(form, [*read, ids])) - limit
                if spare < len(inside):
                    return _joined(form, [*read, without(ids, inside, spare, side) if spare > 0 else ids])
        raise DataError(
            f"A limit of {limit} tokens leaves no room for a prompt: the chat template alone has "
            f"{sum(map(len, form.fixed))}. Raise max_prompt_tokens, or type policy.template=plain."
        )

    def _row(self, turns: Turns) -> Ids:
        form, shaped = self._shaped(turns)
        return _joined(form, pieces(self.tokenizer, _segments(form, shaped)))

    def _shaped(self, turns: Turns) -> tuple[Form, Turns]:
        """The form of a conversation, and its turns as the template takes them: a system's turn that it refuses, or
        leaves out, is put before the first user's.
        """
        turns = [(role, text.strip()) for role, text in turns]
        form = self._form(tuple(role for role, _ in turns), turns[0][0] == "system")
        if form is None:
            (_, told), (role, asked), *rest = turns
            turns = [(role, f"{told}\n\n{asked}"), *rest]
            form = self._form(tuple(role for role, _ in turns), False)
            assert form is not None
        return form, turns

    def _form(self, roles: tuple[str, ...], may_fail: bool) -> Form | None:
        """None for a conversation that is refused, if it may be."""
        if roles not in self._forms:
            try:
                self._forms[roles] = self._read(self._split(roles))
            except DataError:
                if not may_fail:
                    raise
                self._forms[roles] = None
        return self._forms[roles]

    def _split(self, roles: Sequence[str]) -> list[str]:
        """What the template writes before, between and after turns of these roles."""
        marks = [f"THE-TEXT-{i}-OF-{role}" for i, role in enumerate(roles)]
        text = self._text([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)], True)
        parts = re.split("|".join(map(re.escape, marks)), text)
        if len(parts) != len(marks) + 1 or any(mark not in text for mark in marks):
            raise DataError(
                f"The tokenizer's chat template does not hand turns on as they are: of {len(marks)} it writes "
                f"{len(parts) - 1}. Type policy.template=plain, or use another model."
            )
        return parts

    def _text(self, turns: Sequence[dict[str, str]], begun: bool) -> str:
        return chat_text(self.tokenizer, turns, self.date, begun, enable_thinking=False)

    def _read(self, parts: Sequence[str]) -> Form:
        """Each part is cut where its special tokens begin and end: what is outside goes with the turn beside it."""
        fixed, after, before = list[Ids](), list[str](), list[str]()
        for i, part in enumerate(parts):
            found = list(self._special.finditer(part))
            first = 0 if i == 0 else found[0].start() if found else len(part)
            last = len(part) if i == len(parts) - 1 else found[-1].end() if found else first
            fixed.append(list(self.tokenizer(part[first:last], add_special_tokens=False)["input_ids"]))
            after.append(part[:first])
            before.append(part[last:])
        return Form(fixed, list(zip(before[:-1], after[1:], strict=True)))

    def _around_answer(self) -> tuple[str, int]:
        """White space before what the assistant says, and the token that ends its turn."""
        asked = {"role": "user", "content": "THE-TEXT"}
        begun = self._text([asked], True)
        whole = self._text([asked, {"role": "assistant", "content": ANSWER}], False)
        before, _, after = whole.partition(ANSWER)
        space = before.removeprefix(begun)
        end = self._special.search(after)
        written = self.tokenizer.convert_tokens_to_ids(end[0].strip()) if end else self.tokenizer.eos_token_id
        return space if before.startswith(begun) and space.isspace() else "", int(written)


def _segments(form: Form, turns: Turns) -> list[str]:
    return [before + text + after for (before, after), (_, text) in zip(form.beside, turns, strict=True)]


def _joined(form: Form, parts: Sequence[Ids]) -> Ids:
    """The fixed ids with those of the turns between them."""
    first, *rest = form.fixed
    return [*first, *(i for part, after in zip(parts, rest, strict=True) for i in (*part, *after))]


def _pattern(tokenizer: Any) -> re.Pattern[str]:
    """Tokens that are never split, each with the white space that it swallows."""
    tokens = sorted(tokenizer.added_tokens_decoder.values(), key=lambda token: -len(token.content))
    found = [r"\s*" * one.lstrip + re.escape(one.content) + r"\s*" * one.rstrip for one in tokens if one.content]
    return re.compile("|".join(found) or r"(?!)")
