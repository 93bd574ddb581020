"""The cells that people judge, and what they would read of each: prompts, the policy's responses, the baseline's.

Read from finished stages by the roles that the plan gives them: `pool` has the policy's responses (best-of-n picks
one of them; a trained policy has no pick, its first is taken), `baseline` the opponent's, `verdict` the judge's scores,
or what a language model said of pairs: then people are asked about one of those.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xling.console import shown
from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid.records import PlannedCell
from xling.grid.store import Store
from xling.results.plan import Plan, Results, axes_text
from xling.results.reading import SampleReader

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


class Reader:
    """Reads the questions of cells; prompts and samples that cells share are read once, in the order of targets."""

    def __init__(self, store: Store, seed: int) -> None:
        self._samples, self._seed = SampleReader(store), seed

    def questions(self, chosen: Chosen, n: int) -> list[Question]:
        """Prompts of a cell in a random order of its target's own, until n of them have different responses.

        The order and the baseline response follow from seed, language and prompt: cells of a target share both, as far
        as their judges compared with the same of the baseline's responses. Left out is what the judge did not answer.
        """
        cell, lang = chosen.cell, chosen.axes["target_lang"]
        samples = self._samples.cell(cell.judge, cell.stages)
        judged = {
            prompt for prompt, win in zip(samples.items.prompt, samples.items.win, strict=True) if win is not None
        }
        questions: list[Question] = []
        for prompt in self._order(lang, samples.all_prompts()):
            if prompt not in judged:
                continue
            one = samples.read(prompt)
            if one.text is None:
                raise StoreError(f"Prompt {prompt!r} of target {lang} is not in the task's data any more.")
            # of a judge that compares no two responses the prompt's win counts
            points = dict.fromkeys(range(len(one.opponents)), one.win) if one.points is None else one.points
            other, point = random.Random(f"{self._seed}/{lang}/{prompt}").choice(list(points.items()))
            if point is None:
                continue
            policy, opponent = shown(one.response), shown(one.opponents[other])
            identical = policy == opponent
            what = (lang, prompt, one.group, one.dataset)
            questions.append(Question(*what, shown(one.text), policy, opponent, 0.5 if identical else point))
            n -= not identical
            if n == 0:
                break
        return questions

    def _order(self, lang: str, prompts: Sequence[str]) -> list[str]:
        """All prompts of the target, so that none moves where a cell lacks another."""
        order = sorted(prompts)
        random.Random(f"{self._seed}/{lang}").shuffle(order)
        return order
