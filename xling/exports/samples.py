"""`xling export samples`: samples.jsonl, a line a prompt of each finished cell: what was said, and how it was judged.

count, axes, told = write(store, "demo", parse_filters(["target=tr"]), Path("out/samples.jsonl"))

Lines are written one after the other, so that a grid of any size goes out in the memory of one cell.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from xling.errors import ConfigError, DataError, StoreError
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.results.plan import ENTRY_AXES, SEED_AXES, Results, read_plan
from xling.results.reading import JudgedPrompt, SampleReader, prompt_texts
from xling.sheets.export import Chosen, Filters, choose

FILE = "samples.jsonl"
_LISTS = {"list": "float64"}
FIELDS: dict[str, Any] = {  # after the axes; as the head of a card declares them
    "prompt": {"dtype": "string"},
    "group": {"dtype": "string"},
    "dataset": {"dtype": "string"},
    "text": {"dtype": "string"},
    "responses": {"list": "string"},
    "rewards": _LISTS,
    "scores": _LISTS,
    "opponents": {"list": "string"},
    "opponent_rewards": _LISTS,
    "opponent_scores": _LISTS,
    "points": {"list": _LISTS},
    "win": {"dtype": "float64"},
}


def write(store: Store, name: str, filters: Filters, path: Path) -> tuple[int, list[str], list[str]]:
    """(lines, the axes that they begin with, sentences on what is not in them). ConfigError: no cell is left."""
    plan = read_plan(store.grid_folder(name))
    chosen, unfinished = choose(plan, Results(store, plan), filters)
    axes = [*ENTRY_AXES, *sorted({axis for one in chosen for axis in one.axes} - {*ENTRY_AXES, *SEED_AXES}), *SEED_AXES]
    told = [f"{unfinished} cells that are not finished are left out."] if unfinished else []
    with path.open("wb") as file:
        count = 0
        for line in _lines(store, chosen, axes, told):
            file.write(msgspec.json.encode(line) + b"\n")
            count += 1
    return count, axes, list(dict.fromkeys(told))


def _lines(store: Store, chosen: Sequence[Chosen], axes: Sequence[str], told: list[str]) -> Iterator[dict[str, Any]]:
    def texts(ref: Ref) -> dict[str, str]:
        try:
            return prompt_texts(store, ref)
        except (ConfigError, DataError, StoreError) as error:  # the task's data are gone
            told.append(f"Prompts have no text: {error}")
            return {}

    reader = SampleReader(store)
    reader.texts = lru_cache(maxsize=4)(texts)
    for one in chosen:  # by target: files that cells share are read once
        samples = reader.cell(one.cell.judge, one.cell.stages)
        place = {axis: one.axes.get(axis, "") for axis in axes}
        for prompt in samples.items.prompt:
            yield place | _line(list(samples.each(prompt)))


def _line(judged: Sequence[JudgedPrompt]) -> dict[str, Any]:
    """FIELDS of one prompt's judged responses."""
    first = judged[0]
    points = [[(one.points or {}).get(n) for n in range(len(one.opponents))] for one in judged]
    values = (
        *(first.prompt, first.group, first.dataset, first.text, [one.response for one in judged]),
        *([one.rewards[0] for one in judged], [one.scores[0] for one in judged]),
        *(first.opponents, first.rewards[1], first.scores[1], points, first.win),
    )
    return dict(zip(FIELDS, values, strict=True))
