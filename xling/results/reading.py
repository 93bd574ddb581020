"""Reads what stages wrote, by the references of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from xling.errors import StoreError
from xling.grid.planfile import Ref
from xling.grid.store import Store
from xling.results.items import read_json
from xling.results.plan import Results
from xling.results.prompts import located, unchanged
from xling.results.samples import Samples, read_samples
from xling.tasks.options import Task, task_module


class _Picks(Struct, frozen=True):
    """What is read of a judge stage's items.json."""

    prompt: list[str]
    index: list[int] = []  # the pick of best-of-n; none of trained policies, all of whose samples are judged


@dataclass(frozen=True, slots=True)
class Judged:
    """The prompts of one finished cell in the order of its items.json, with what was compared for each."""

    prompts: list[str]
    pool: list[Samples]  # the policy's samples for each prompt
    places: list[list[int]]  # which of them were judged: best-of-n's pick, or all of a trained policy
    baseline: list[Samples]  # the opponents
    rows: list[int]  # the prompt's row in the files of score and verdict stages

    @property
    def responses(self) -> list[list[str]]:
        """The judged responses of each prompt."""
        return [[row.responses[n] for n in places] for row, places in zip(self.pool, self.places, strict=True)]


def judged_responses(results: Results, judge: Ref, stages: Mapping[str, Ref]) -> Judged:
    """Read a cell's judged responses and its opponents. StoreError if the files do not fit each other."""
    for role in ("pool", "baseline"):
        if role not in stages:
            raise StoreError(f"A cell of the plan names no {role}. Run the grid's command again to write it anew.")
    items = read_json(results.folder(judge) / "items.json", _Picks)
    pool, baseline = (read_samples(results.folder(stages[role])) for role in ("pool", "baseline"))
    row_of = {samples.prompt: row for row, samples in enumerate(pool)}
    fits = [row.prompt for row in baseline] == list(row_of) and row_of.keys() >= set(items.prompt)
    if not fits or (items.index and len(items.index) != len(items.prompt)):
        raise StoreError(f"The prompts of judge {judge.key[:12]} are not those of its pool and baseline.")
    rows = [row_of[prompt] for prompt in items.prompt]  # judge=llm may have been asked of fewer prompts
    every = [list(range(len(pool[row].responses))) for row in rows]
    places = [[index] for index in items.index] if items.index else every
    return Judged(items.prompt, [pool[row] for row in rows], places, [baseline[row] for row in rows], rows)


def prompt_texts(store: Store, ref: Ref) -> dict[str, str]:
    """Prompt id to what the policy read, from the data that a stage's samples were drawn for.

    StoreError if the stage does not say which, DataError if the data have changed or are gone.
    """
    sheet = store.sheet(ref.kind, ref.key)
    if sheet is None or not sheet.spec.get("task"):
        raise StoreError(f"The result {ref.kind}/{ref.key[:12]} does not say which data its prompts are from.")
    spec = located(sheet.spec)
    unchanged(spec)
    task: Task = msgspec.convert(spec["task"], Task)
    module = task_module(task)
    if ref.kind == "recorded":
        return {p.id: p.text for p in module.recorded(task, spec["lang"]).prompts}
    return {p.id: p.text for p in module.prompts(task, spec["lang"], "test")}
