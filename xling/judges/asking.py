"""Asking a judge, local or not, for verdicts on pairs of responses: in which order, and what is counted.

    with asker(identity, endpoint, folder, cache, stopping) as ask:  # xling/judges/asker.py
        verdicts = compare(ask, how, pairs)

A pair is asked with the response first, second, or both. Its two texts being the same, nobody is asked: it is a tie.

The request is in words of our own after the paper's (section 5): for summaries the four axes of RLAIF's prompt (Lee et
al. 2023) in front of an expert rater; for dialog the ranking of models as in AlpacaEval (Li et al. 2023). The responses
are inserted as they are, braces and all; in dialog as JSON, so that a reader sees where each one ends.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from xling.judges.cache import Answer

Ask = Callable[[Sequence[str]], list[Answer]]
PromptKind = Literal["summarization", "dialog"]


class EndpointSettings(Struct, frozen=True):
    """Where an endpoint is and how it is asked; nothing of it decides a verdict."""

    base_url: str
    api_key_env: str | None = None
    requests_per_minute: float | None = None
    concurrency: int = 4
    timeout: float = 60.0
    retries: int = 6
    backoff: float = 1.0
    max_tokens_name: str = "max_tokens"  # as the server calls it; the meaning is the same


class Request(Struct, frozen=True):
    """Parameters of a request besides its text; all of them may decide the answer. None: the server's default."""

    max_tokens: int | None = 4  # some say a line break first
    temperature: float | None = 0.0
    extra_body: dict[str, Any] = {}  # more of each request


PLAIN_REQUEST = Request()


class How(Struct, frozen=True):
    """Kind of question, language and limits of a judge's requests."""

    kind: PromptKind
    language: str  # its name in English
    most: int | None  # characters of a document
    side: str  # on which it is cut
    min_mass: float = 0.0  # of probability on the two digits; below it a request is unanswered


class Compared(NamedTuple):
    """A response and its opponent, and whether it is to be shown first, second, or both."""

    text: str
    response: str
    opponent: str
    first: bool
    second: bool


class Verdict(NamedTuple):
    """P(the response is preferred) where it stood first and second; None: not asked, or not answered (then True).

    `identical`: the two texts are the same; nobody was asked, and the preference is 0.5.
    """

    p_first: float | None
    p_second: float | None
    unanswered_first: bool
    unanswered_second: bool
    identical: bool = False
    mass_first: float | None = None  # P("1") + P("2"), where the answer has probabilities
    mass_second: float | None = None
    why_first: str = ""  # there is no answer
    why_second: str = ""

    @property
    def preference(self) -> float | None:
        """The mean over the orders that were asked; None unless each of them was answered."""
        if self.unanswered_first or self.unanswered_second:
            return None
        return mean_of_known((self.p_first, self.p_second))

    @property
    def inconsistent(self) -> bool | None:
        """Whether the two orders prefer different responses; None unless both were asked and answered."""
        if self.identical or self.p_first is None or self.p_second is None:
            return None
        return (self.p_first - 0.5) * (self.p_second - 0.5) < 0

    @property
    def mass(self) -> float | None:
        """The mean probability of the two digits over the orders that have one."""
        return mean_of_known((self.mass_first, self.mass_second))

    @property
    def unanswered(self) -> bool | None:
        """Whether an order that was asked was not answered; None where nobody was asked."""
        return None if self.identical else self.unanswered_first or self.unanswered_second


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Of those that are not None; None without any."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def points(preference: float) -> float:
    """A hard verdict: 1, 0 or, at exactly one half, 0.5."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def compare(ask: Ask, how: How, pairs: Sequence[Compared]) -> list[Verdict]:
    """One verdict a pair, in order."""
    texts: list[str] = []
    for pair in pairs:
        shown = shortened(pair.text, how.most, how.side)
        if pair.response != pair.opponent:
            texts += [judge_prompt(how.kind, how.language, shown, pair.response, pair.opponent)] * pair.first
            texts += [judge_prompt(how.kind, how.language, shown, pair.opponent, pair.response)] * pair.second
    answers = iter([_floored(answer, how.min_mass) for answer in ask(texts)])
    return [_verdict(pair, answers) for pair in pairs]


def _floored(answer: Answer, least: float) -> Answer:
    """Without its probability where the model would hardly have said a digit."""
    if answer.first is None or answer.mass is None or answer.mass >= least:
        return answer
    return msgspec.structs.replace(answer, first=None, why=f"less than {least:g} of the probability on 1 and 2")


NOT_ASKED = Answer(None)


def _verdict(pair: Compared, answers: Iterator[Answer]) -> Verdict:
    if pair.response == pair.opponent:
        return Verdict(0.5 if pair.first else None, 0.5 if pair.second else None, False, False, True)
    shown_first = next(answers) if pair.first else NOT_ASKED
    shown_second = next(answers) if pair.second else NOT_ASKED
    return Verdict(
        shown_first.first,
        None if shown_second.first is None else 1 - shown_second.first,
        pair.first and shown_first.first is None,
        pair.second and shown_second.first is None,
        False,
        shown_first.mass,
        shown_second.mass,
        shown_first.why,
        shown_second.why,
    )


def coin(seed: int, *names: object) -> bool:
    """Heads or tails, the same wherever the same names are asked for."""
    return bool(_hash(seed, *names)[0] & 1)


def capped(ids: Sequence[str], datasets: Sequence[str], most: int | None, seed: int) -> list[int]:
    """Numbers, in order, of at most `most` items a dataset: those with the smallest hashes of seed and id."""
    if most is None:
        return list(range(len(ids)))
    by_dataset: dict[str, list[int]] = {}
    for number, dataset in enumerate(datasets):
        by_dataset.setdefault(dataset, []).append(number)
    smallest = (sorted(numbers, key=lambda i: _hash(seed, ids[i]))[:most] for numbers in by_dataset.values())
    return sorted(number for numbers in smallest for number in numbers)


def _hash(seed: int, *names: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).digest()


# --- what is asked -----------------------------------------------------------------------------------------

SUMMARIZATION = """\
A good summary gives what matters in a longer text in few words. Decide which of two summaries is better, on four axes:

Coherence: is it clear in itself, well put together and easy to read?
Accuracy: does it say only what the text says, with nothing made up or contradicted?
Coverage: does it hold the main points of the text?
Overall quality: how good is it, all in all?

You are an expert rater who knows {language} well. Text and summaries should be in {language}; a summary in another \
language is bad. Their order means nothing. Answer with 1 or 2 alone.

Text: {text}

Summary 1: {first}

Summary 2: {second}

Better summary (1 or 2):"""

DIALOG = """\
You keep a leaderboard of assistants, ordered by how good people find their answers. You know {language} well. Below \
is an instruction in {language}, or a conversation up to the user's last turn, and what two models answered. Rank the \
answers as most readers of {language} would: by how helpful, correct and well written they are, and whether they are \
in the right language. Their order means nothing.

{{"instruction": {text}}}

{{"model": 1, "answer": {first}}}
{{"model": 2, "answer": {second}}}

Which model's answer ranks first? Answer with 1 or 2 alone.

Best model (1 or 2):"""


def judge_prompt(kind: PromptKind, language: str, text: str, first: str, second: str) -> str:
    """The whole request. `language`: its name in English; `text`: the document, instruction or chat."""
    if kind == "summarization":
        return SUMMARIZATION.format(language=language, text=text, first=first, second=second)
    quoted = [json.dumps(part, ensure_ascii=False) for part in (text, first, second)]
    return DIALOG.format(language=language, text=quoted[0], first=quoted[1], second=quoted[2])


def shortened(text: str, most: int | None, side: str) -> str:
    """At most `most` characters of a document: its beginning, or (side left: a chat) its end."""
    if most is None or len(text) <= most:
        return text
    return text[-most:] if side == "left" else text[:most]


NOT_SENDABLE = "a key is of printable ASCII characters without white space or line breaks. Set it anew."


def sendable(key: str) -> bool:
    """Whether a key can stand in a header; what an HTTP library says of one that cannot, has the key in it."""
    return all("!" <= character <= "~" for character in key)
