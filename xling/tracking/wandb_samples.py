"""A few prompts of every cell for W&B: what the SFT policy said, what the aligned one says, and what the scores are.

The prompts are the same in all cells of a target, as far as their judges answered, so that sources and optimizers can
be compared line by line. Texts are as on the sheets that people judge: control codes are shown, not obeyed.
"""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from xling.analysis.tidy.tables import Rows
from xling.console import shown
from xling.grid.planfile import Ref
from xling.grid.store import Store
from xling.results.items import Items, read_array, read_json
from xling.results.plan import Plan, Results, axes_text
from xling.results.reading import prompt_texts
from xling.results.samples import read_samples
from xling.sheets.cells import Picks, told_apart

PROMPTS = 4  # a cell, while the table has fewer rows than MOST
MOST = 4000
SEED = 0  # which prompts
LEVEL = ["loss", "tie", "win"]


def sample_rows(store: Store, plan: Plan) -> Rows:
    """A row a prompt of a finished cell; cells of a target stand together."""
    results = Results(store, plan)
    done = [cell for cell in plan.cells if results.outcome(cell.judge)[0] == "done"]
    done = [cell for cell in done if {"pool", "baseline"} <= set(cell.stages)]
    many = max(1, min(PROMPTS, MOST // max(1, len(done))))
    places = told_apart([axes_text(cell.axes) for cell in done])
    names = [*places[0]] if places else []
    order = sorted(range(len(done)), key=lambda i: (places[i]["target_lang"], i))
    reader = _Reader(store, results, many)
    rows = [
        [*places[i].values(), *row]
        for i in order[:MOST]
        for row in reader.rows(done[i].judge, done[i].stages, places[i]["target_lang"])
    ]
    columns = ["prompt", "text", "sft_response", "aligned_response", "sft_reward", "reward", "sft_quality", "quality"]
    return Rows([*names, *columns, "verdict", "win"], rows)


class _Reader:
    """Reads stages that cells share once, in the order of targets."""

    def __init__(self, store: Store, results: Results, many: int) -> None:
        self._results, self._many = results, many
        self._texts = lru_cache(maxsize=2)(lambda ref: prompt_texts(store, ref))
        self._samples = lru_cache(maxsize=4)(read_samples)

    def rows(self, judge: Ref, stages: dict[str, Ref], lang: str) -> list[list[Any]]:
        """Prompt, its text, both responses, their rewards and qualities, the verdict on the two, the prompt's win."""
        folder = self._results.folder(judge)
        items, picks = read_json(folder / "items.json", Items), read_json(folder / "items.json", Picks)
        pool, baseline = (self._samples(self._results.folder(stages[role])) for role in ("pool", "baseline"))
        reward, quality = (self._scores(stages.get(role)) for role in ("score", "verdict"))
        place_of = {samples.prompt: place for place, samples in enumerate(pool)}
        texts = self._texts(stages["baseline"])
        found = []
        for row in _chosen(items, lang, self._many):
            prompt = items.prompt[row]
            place, said = place_of[prompt], picks.index[row] if picks.index else 0
            rewards, qualities = ([of("baseline", place, 0), of("pool", place, said)] for of in (reward, quality))
            texts_of = [texts.get(prompt, ""), baseline[place].responses[0], pool[place].responses[said]]
            verdict = _verdict(*qualities)
            found.append([prompt, *map(shown, texts_of), *rewards, *qualities, verdict, items.win[row]])
        return found

    def _scores(self, ref: Ref | None) -> Callable[[str, int, int], float | None]:
        """(pool or baseline, place of the prompt, of the response) -> a score; None where the stage has none."""
        folder = None if ref is None else self._results.folder(ref)
        arrays = {name: _array(folder / f"{name}.npy") for name in ("pool", "baseline")} if folder else {}

        def score(name: str, place: int, response: int) -> float | None:
            values = arrays.get(name)
            if values is None:
                return None
            value = float(values[place, response])
            return value if np.isfinite(value) else None

        return score


def _array(path: Path) -> Any:
    return read_array(path) if path.exists() else None


def _chosen(items: Items, lang: str, many: int) -> Sequence[int]:
    """Rows of the first prompts in an order of the target's own that have been judged."""
    rank = random.Random(f"{SEED}/{lang}")
    order = {prompt: rank.random() for prompt in sorted(items.prompt)}
    there = [row for row, win in enumerate(items.win) if win is not None]
    return sorted(there, key=lambda row: order[items.prompt[row]])[:many]


def _verdict(baseline: float | None, policy: float | None) -> str | None:
    """The judge's on this pair, by its scores; of a judge without scores the prompt's win says it."""
    if baseline is None or policy is None:
        return None
    return LEVEL[int(np.sign(policy - baseline)) + 1]
