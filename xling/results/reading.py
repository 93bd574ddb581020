"""Reads what stages wrote, by the references of a plan."""

import msgspec

from xling.errors import StoreError
from xling.grid.planfile import Ref
from xling.grid.store import Store
from xling.results.prompts import located, unchanged
from xling.tasks.options import Task, task_module


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
