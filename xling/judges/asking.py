"""Asking a judge, local or not, for verdicts on pairs of responses: in which order, and what is counted.

    with asker(identity, endpoint, folder, cache, stopping) as ask:
        verdicts = compare(ask, how, pairs)

A pair is asked with the response first, second, or both. Its two texts being the same, nobody is asked: it is a tie.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from xling.errors import StageError
from xling.judges.cache import Answer, Cache, request_key
from xling.judges.prompts import PromptKind, judge_prompt, shortened

Ask = Callable[[Sequence[str]], list[Answer]]


class EndpointSettings(Struct, frozen=True):
    """Where an endpoint is and how it is asked; nothing of it decides a verdict."""

    base_url: str
    api_key_env: str | None = None
    requests_per_minute: float | None = None
    concurrency: int = 4
    timeout: float = 60.0
    retries: int = 6
    backoff: float = 1.0


class How(Struct, frozen=True):
    """What a judge is asked."""

    kind: PromptKind
    language: str  # its name in English
    most: int | None  # characters of a document
    side: str  # on which it is cut


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

    @property
    def preference(self) -> float | None:
        """The mean over the orders that were asked; None unless each of them was answered."""
        if self.unanswered_first or self.unanswered_second:
            return None
        there = [p for p in (self.p_first, self.p_second) if p is not None]
        return sum(there) / len(there)

    @property
    def inconsistent(self) -> bool | None:
        """Whether the two orders prefer different responses; None unless both were asked and answered."""
        if self.identical or self.p_first is None or self.p_second is None:
            return None
        return (self.p_first - 0.5) * (self.p_second - 0.5) < 0

    @property
    def unanswered(self) -> bool | None:
        """Whether an order that was asked was not answered; None where nobody was asked."""
        return None if self.identical else self.unanswered_first or self.unanswered_second


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
    answers = iter(ask(texts))
    return [_verdict(pair, answers) for pair in pairs]


def _verdict(pair: Compared, answers: Iterator[Answer]) -> Verdict:
    if pair.response == pair.opponent:
        return Verdict(0.5 if pair.first else None, 0.5 if pair.second else None, False, False, True)
    first = next(answers).first if pair.first else None
    other = next(answers).first if pair.second else None
    second = None if other is None else 1 - other
    return Verdict(first, second, pair.first and first is None, pair.second and second is None)


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
    kept = (sorted(some, key=lambda i: _hash(seed, ids[i]))[:most] for some in by_dataset.values())
    return sorted(number for some in kept for number in some)


def _hash(seed: int, *names: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).digest()


# --- who is asked -------------------------------------------------------------------------------------------


@contextmanager
def asker(
    identity: Mapping[str, str],
    endpoint: EndpointSettings | None,
    folder: Path | None,
    cache: Cache,
    stopping: Callable[[], bool],
) -> Iterator[Ask]:
    """Requests to answers, one each. `identity`: which model, for the cache; `folder`: of a local one."""
    if endpoint is None:
        assert folder is not None
        yield _local(identity, folder, cache)
        return
    from xling.judges.endpoint import Endpoint

    with Endpoint(
        endpoint.base_url,
        identity["endpoint"],
        _key(endpoint.api_key_env),
        cache,
        endpoint.requests_per_minute,
        endpoint.concurrency,
        endpoint.timeout,
        endpoint.retries,
        endpoint.backoff,
        stopping,
    ) as client:
        yield client.ask
        print(f"{client.asked} requests sent to {endpoint.base_url}")


NOT_SENDABLE = "a key is of printable ASCII characters without white space or line breaks. Set it anew."


def sendable(key: str) -> bool:
    """Whether a key can stand in a header; what an HTTP library says of one that cannot, has the key in it."""
    return all("!" <= character <= "~" for character in key)


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "")
    if not key:
        raise StageError(f"The environment variable {name} (judge.api_key_env) is not set where this stage runs.")
    if not sendable(key):
        raise StageError(f"The environment variable {name} (judge.api_key_env) holds no key: {NOT_SENDABLE}")
    return key


def _local(identity: Mapping[str, str], folder: Path, cache: Cache) -> Ask:
    """A model that is loaded once something is not in the cache."""
    loaded: list[Callable[[Sequence[str]], list[float]]] = []

    def ask(prompts: Sequence[str]) -> list[Answer]:
        keys = {prompt: request_key(identity, prompt) for prompt in prompts}
        found = {prompt: cache.get(key) for prompt, key in keys.items()}
        missing = [prompt for prompt, answer in found.items() if answer is None]
        if missing and not loaded:
            from xling.judges.local import load_local_judge

            loaded.append(load_local_judge(folder).first)
        for prompt, p in zip(missing, loaded[0](missing) if missing else (), strict=True):
            found[prompt] = Answer(p)
            cache.put(keys[prompt], Answer(p), durable=False)
        return [answer for prompt in prompts if (answer := found[prompt]) is not None]

    return ask
