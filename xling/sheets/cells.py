"""The cells that people judge, and what they would read of each: prompts, the policy's responses, the baseline's.

Read from finished stages by the roles that the plan gives them: `pool` has the policy's responses (best-of-n picks
one of them; a trained policy has no pick, its first is taken), `baseline` the opponent's, `verdict` the judge's scores,
or what a language model said of pairs: then people are asked about one of those.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from msgspec import Struct

from xling.console import shown
from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid.planfile import PlannedCell, Ref
from xling.grid.store import Store
from xling.judges.asking import points
from xling.results.items import read_array, read_json
from xling.results.plan import SEED_AXES, Plan, Results, axes_text
from xling.results.reading import prompt_texts
from xling.results.samples import Samples, read_samples
from xling.results.verdicts import read_verdicts

SHORT = {"source": "source_lang", "target": "target_lang"}
Filters = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A finished cell that was asked for."""

    axes: dict[str, str]
    cell: PlannedCell


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of a cell, texts as they are shown."""

    lang: str
    prompt: str
    group: str
    dataset: str
    text: str
    policy: str
    baseline: str
    point: float  # what the cell's judge says: 1 the policy's response is better, 0.5 a tie, 0


class Picks(Struct, frozen=True):
    """What is read of a judge stage's items.json; `index` is the sample that best-of-n picked."""

    prompt: list[str]
    group: list[str]
    dataset: list[str]
    win: list[float | None]  # None: judge=llm got no answer
    index: list[int] = []


# row of items.json, place in pool and baseline, sample, how many opponents -> opponent -> point; None: not answered
_Judged = Callable[[int, int, int, int], Mapping[int, float | None]]


def parse_filters(words: Sequence[str]) -> Filters:
    """`source=en,tr,target=de` -> axis to values; a word without `=` is one more value. ConfigError if it is none."""
    found: dict[str, set[str]] = {}
    axis = ""
    for word in map(str.strip, ",".join(words).split(",") if words else []):
        name, equals, value = word.partition("=")
        if equals:
            axis = SHORT.get(name, name)
        value = value if equals else word
        if not axis or not value:
            raise ConfigError(
                f"--cells {' '.join(words)}: '{word}' does not fit. Type axis=value, as in --cells source=en,target=de."
            )
        found.setdefault(axis, set()).add(value)
    return {name: frozenset(values) for name, values in found.items()}


def choose(plan: Plan, results: Results, filters: Filters) -> tuple[list[Chosen], int]:
    """The finished cells that the filters leave, by target, and how many of those asked for are not finished.

    ConfigError for an axis or a value that the grid has not, and where nothing is left.
    """
    cells = [Chosen(axes_text(cell.axes), cell) for cell in plan.cells]
    for axis, values in filters.items():
        known = sorted({one.axes.get(axis, "") for one in cells} - {""})
        if not known:
            axes = sorted({name for one in cells for name, value in one.axes.items() if value})
            raise ConfigError(
                f"--cells {axis}=...: grid {plan.name} has no axis '{axis}'.{did_you_mean(axis, axes)} "
                f"It has {', '.join(axes)}; source and target are short for source_lang and target_lang."
            )
        for value in sorted(values - set(known)):
            raise ConfigError(
                f"--cells {axis}={value}: grid {plan.name} has no such cell.{did_you_mean(value, known)} "
                f"Its values of {axis} are {', '.join(known)}."
            )
    asked = [one for one in cells if all(one.axes.get(axis, "") in values for axis, values in filters.items())]
    done = [one for one in asked if results.outcome(one.cell.judge)[0] == "done"]
    if not done:
        state = f"none of the {len(asked)} cells asked for is finished" if asked else "no cell fits all of --cells"
        raise ConfigError(f"Grid {plan.name}: {state}. `xling status {plan.name}` shows how it stands.")
    return sorted(done, key=lambda one: one.axes["target_lang"]), len(asked) - len(done)


def told_apart(axes: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Source and target of each cell, and of the other axes those in which the cells differ."""
    names = list(dict.fromkeys(name for one in axes for name in one))
    kept = [n for n in names if n in ("source_lang", "target_lang") or len({one.get(n, "") for one in axes}) > 1]
    kept.sort(key=lambda name: name in SEED_AXES)
    return [{name: one.get(name, "") for name in kept} for one in axes]


class Reader:
    """Reads the questions of cells; prompts and samples that cells share are read once, in the order of targets."""

    def __init__(self, store: Store, results: Results, seed: int) -> None:
        self._results, self._seed = results, seed
        self._prompts = lru_cache(maxsize=2)(partial(prompt_texts, store))
        self._samples = lru_cache(maxsize=4)(read_samples)

    def questions(self, chosen: Chosen, n: int) -> list[Question]:
        """Prompts of a cell in a random order of its target's own, until n of them have different responses.

        The order and the baseline response follow from seed, language and prompt: cells of a target share both, as far
        as their judges compared with the same of the baseline's responses. Left out is what the judge did not answer.
        """
        cell, lang = chosen.cell, chosen.axes["target_lang"]
        for role in ("pool", "baseline"):
            if role not in cell.stages:
                raise StoreError(f"A cell of the plan names no {role}. Run the grid's command again to write it anew.")
        items = read_json(self._results.folder(cell.judge) / "items.json", Picks)
        pool, baseline = (self._samples(self._results.folder(cell.stages[role])) for role in ("pool", "baseline"))
        _check_rows(items, pool, baseline, cell.judge)
        texts = self._prompts(cell.stages["baseline"])
        judged = self._judged(cell, items)
        row_of = {prompt: row for row, prompt in enumerate(items.prompt) if items.win[row] is not None}
        place_of = {samples.prompt: place for place, samples in enumerate(pool)}
        found: list[Question] = []
        for prompt in self._order(lang, baseline):
            if prompt not in row_of:
                continue
            row, place = row_of[prompt], place_of[prompt]
            if prompt not in texts:
                raise StoreError(f"Prompt {prompt!r} of target {lang} is not in the task's data any more.")
            first = items.index[row] if items.index else 0
            said = judged(row, place, first, len(baseline[place].responses))
            other, point = random.Random(f"{self._seed}/{lang}/{prompt}").choice(list(said.items()))
            if point is None:
                continue
            policy, opponent = shown(pool[place].responses[first]), shown(baseline[place].responses[other])
            identical = policy == opponent
            what = (lang, prompt, items.group[row], items.dataset[row])
            found.append(Question(*what, shown(texts[prompt]), policy, opponent, 0.5 if identical else point))
            n -= not identical
            if n == 0:
                break
        return found

    def _order(self, lang: str, baseline: Sequence[Samples]) -> list[str]:
        """All prompts of the target, so that none moves where a cell lacks another."""
        order = sorted(samples.prompt for samples in baseline)
        random.Random(f"{self._seed}/{lang}").shuffle(order)
        return order

    def _judged(self, cell: PlannedCell, items: Picks) -> _Judged:
        """What the cell's judge compared; by scores each with all, and of a judge without any a prompt's win counts."""
        if "verdict" not in cell.stages:
            return lambda row, place, first, many: dict.fromkeys(range(many), items.win[row])
        folder = self._results.folder(cell.stages["verdict"])
        if (folder / "verdicts.json").exists():
            said = read_verdicts(folder).preferences()
            return lambda row, place, first, many: _points(said.get((items.prompt[row], first)), cell.judge)
        pool, baseline = (read_array(folder / name) for name in ("pool.npy", "baseline.npy"))
        return lambda row, place, first, many: {i: _point(pool[place, first], baseline[place, i]) for i in range(many)}


def _points(said: Mapping[int, float | None] | None, judge: Ref) -> dict[int, float | None]:
    if not said:
        raise StoreError(f"The verdicts of judge {judge.key[:12]} are not those of its picks.")
    return {opponent: None if p is None else points(p) for opponent, p in sorted(said.items())}


def _check_rows(items: Picks, pool: Sequence[Samples], baseline: Sequence[Samples], judge: Ref) -> None:
    asked = [s.prompt for s in pool]
    if asked != [s.prompt for s in baseline] or not set(items.prompt) <= set(asked):  # judge=llm may be asked of fewer
        raise StoreError(f"The prompts of judge {judge.key[:12]} are not those of its pool and baseline.")


def _point(policy: float, baseline: float) -> float:
    return float((np.sign(policy - baseline) + 1) / 2)
