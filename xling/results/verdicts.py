"""Formats of judge=llm: what its two stages are asked (specs), and the verdicts that they write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from xling.config.common import TEMPLATE_DATE
from xling.config.tasks import Task
from xling.judges.asking import EndpointSettings, How, Request, Verdict
from xling.judges.prompts import PromptKind
from xling.results.samples import read_json
from xling.tasks import offers, task_module
from xling.tasks.records import Pair, Prompt, Rating


class Where(Struct, frozen=True):
    """What of a spec is in no key: here the endpoint; None: the model is the `lm` parent."""

    endpoint: EndpointSettings | None = None


class AskSpec(Struct, frozen=True):
    """What both stages need to ask. `identity` says which model: {"endpoint": its name} or {"local": its stage}."""

    task: Task
    digest: str
    lang: str
    language: str  # in English
    identity: dict[str, str]
    prompt: PromptKind
    max_instances: int | None
    max_characters: int | None
    truncation_side: str
    seed: int
    min_mass: float = 0.0
    request: Request = Request()  # of an endpoint
    template_date: str = TEMPLATE_DATE  # of a local model
    where: Where = Where()

    def how(self) -> How:
        """What is asked."""
        return How(self.prompt, self.language, self.max_characters, self.truncation_side, self.min_mass)


class LlmSpec(AskSpec, frozen=True, kw_only=True):
    """And which responses are judged: `n` of the pool are picked from, `opponents` a response."""

    n: int | None
    opponents: int
    orders: str  # both, random
    trained: bool = False  # the pool is what a trained policy said: all of it is judged


class Asked(Struct, frozen=True):
    """verdicts.json in rows: an entry a (response, opponent), by prompt, then sample, then opponent."""

    prompt: list[str]
    sample: list[int]  # index in the pool
    opponent: list[int]  # index in the baseline
    p_first: list[float | None]  # P(response preferred), shown first; None: not asked so, or no answer
    p_second: list[float | None]  # shown second
    unanswered_first: list[bool]  # asked so, and the answer was neither 1 nor 2
    unanswered_second: list[bool]
    identical: list[bool]  # the two texts are the same: a tie that nobody was asked about
    mass_first: list[float | None] = []  # probability on the two digits together; None: the text decided
    mass_second: list[float | None] = []
    why_first: list[str] = []  # there is no answer
    why_second: list[str] = []

    def verdicts(self) -> list[Verdict]:
        """One an entry; results of before there were masses have none."""
        return verdicts_of({name: getattr(self, name) for name in Verdict._fields})

    def preferences(self) -> dict[tuple[str, int], dict[int, float | None]]:
        """(prompt, sample) -> opponent -> preference for the sample, 0 to 1; None: not answered."""
        found: dict[tuple[str, int], dict[int, float | None]] = {}
        places = zip(self.prompt, self.sample, strict=True)
        for place, opponent, verdict in zip(places, self.opponent, self.verdicts(), strict=True):
            found.setdefault(place, {})[opponent] = verdict.preference
        return found


def verdicts_of(columns: Mapping[str, Sequence[Any]]) -> list[Verdict]:
    """The inverse of `_columns`, of verdicts.json and accuracy.json; results of before there were masses have none."""
    return list(map(Verdict, *(columns[name] for name in Verdict._fields if columns.get(name))))


def read_verdicts(folder: Path) -> Asked:
    """verdicts.json of an llm stage."""
    return msgspec.convert(read_json(folder / "verdicts.json"), Asked)


def held_out_pairs(task: Task, lang: str) -> list[Pair]:
    """The target's held-out pairs, or those of its held-out ratings; the two texts of a pair differ."""
    module = task_module(task)
    if "pairs" in offers(task):
        return [pair for pair in module.pairs(task, lang, "test") if pair.chosen != pair.rejected]
    return pairs_of(module.ratings(task, lang, "test"))


def pairs_of(ratings: Sequence[Rating]) -> list[Pair]:
    """Pairs of responses to the same prompt whose labels differ, the higher one chosen (paper, Appendix C)."""
    by_prompt: dict[tuple[str, str], tuple[Prompt, dict[str, float]]] = {}
    for rating in ratings:
        # the same document is the same prompt, whatever its id
        place = (rating.prompt.dataset, rating.prompt.reward_text)
        by_prompt.setdefault(place, (rating.prompt, {}))[1].setdefault(rating.response, rating.label)
    return [
        Pair(prompt, one, other)
        for prompt, labels in by_prompt.values()
        for one in labels
        for other in labels
        if labels[one] > labels[other]
    ]


def pair_ids(pairs: Sequence[Pair]) -> list[str]:
    """What a cap chooses pairs by."""
    return ["\0".join((pair.prompt.id, pair.chosen, pair.rejected)) for pair in pairs]
