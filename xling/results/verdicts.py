"""Verdicts of judge=llm, pair by pair, and the held-out pairs that its accuracy is measured on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from xling.jsonfiles import read_json
from xling.judges.asking import Verdict
from xling.tasks.options import Task, offers, task_module
from xling.tasks.records import Pair, Prompt, Rating


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
    """Ids by which a cap chooses pairs."""
    return ["\0".join((pair.prompt.id, pair.chosen, pair.rejected)) for pair in pairs]
