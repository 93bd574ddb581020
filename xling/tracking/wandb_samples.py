"""A few prompts of every cell for W&B: what the SFT policy said, what the aligned one says, and what the scores are.

The prompts are the same in all cells of a target, as far as their judges answered, so that sources and optimizers can
be compared line by line. Texts are as on the sheets that people judge: control codes are shown, not obeyed.
"""

import random
from typing import Any

from xling.analysis.tidy.tables import Rows
from xling.console import shown
from xling.grid.store import Store
from xling.results.plan import Plan, Results, axes_text
from xling.results.reading import CellSamples, JudgedItems, SampleReader
from xling.sheets.cells import told_apart

PROMPTS = 4  # a cell, while the table has fewer rows than MOST
MOST = 4000
SEED = 0  # which prompts
LEVEL = {0.0: "loss", 0.5: "tie", 1.0: "win"}


def sample_rows(store: Store, plan: Plan) -> Rows:
    """A row a prompt of a finished cell; cells of a target stand together."""
    results = Results(store, plan)
    done = [cell for cell in plan.cells if results.outcome(cell.judge)[0] == "done"]
    done = [cell for cell in done if {"pool", "baseline"} <= set(cell.stages)]
    many = max(1, min(PROMPTS, MOST // max(1, len(done))))
    places = told_apart([axes_text(cell.axes) for cell in done])
    names = [*places[0]] if places else []
    order = sorted(range(len(done)), key=lambda i: (places[i]["target_lang"], i))
    reader = SampleReader(store)
    rows = [
        [*places[i].values(), *row]
        for i in order[:MOST]
        for row in _rows(reader.cell(done[i].judge, done[i].stages), places[i]["target_lang"], many)
    ]
    columns = ["prompt", "text", "sft_response", "aligned_response", "sft_reward", "reward", "sft_quality", "quality"]
    return Rows([*names, *columns, "verdict", "win"], rows)


def _rows(samples: CellSamples, lang: str, many: int) -> list[list[Any]]:
    """Prompt, its text, both responses, their rewards and qualities, the verdict on the two, the prompt's win."""
    rows = []
    for prompt in _chosen(samples.items, lang, many):
        one = samples.read(prompt)
        texts = [one.text or "", one.opponents[0], one.response]
        (reward, rewards), (quality, qualities) = one.rewards, one.scores
        point = None if one.points is None else one.points.get(0)
        verdict = None if point is None else LEVEL[point]
        rows.append([prompt, *map(shown, texts), rewards[0], reward, qualities[0], quality, verdict, one.win])
    return rows


def _chosen(items: JudgedItems, lang: str, many: int) -> list[str]:
    """The first prompts in an order of the target's own that have been judged."""
    rank = random.Random(f"{SEED}/{lang}")
    order = {prompt: rank.random() for prompt in sorted(items.prompt)}
    judged = [prompt for prompt, win in zip(items.prompt, items.win, strict=True) if win is not None]
    return sorted(judged, key=lambda prompt: order[prompt])[:many]
