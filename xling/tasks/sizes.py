"""How much of what a task has: counted where the data is here, as published where it is not."""

from functools import lru_cache
from typing import Literal

from xling.config.tasks import Task
from xling.tasks import task_module
from xling.tasks.absent import absent
from xling.tasks.records import Split

What = Literal["demonstrations", "ratings", "pairs", "prompts"]
MOST = {"prompts": "max_prompts", "demonstrations": "max_demonstrations"}  # settings that cap a corpus


@lru_cache(maxsize=512)
def size(task: Task, lang: str, what: What, split: Split, most: int | None = None) -> int | None:
    """Rows of a language's split, `most` of each of its datasets; None where the paper states no size.

    Sizes that are stated for a language as a whole are taken whole, whatever corpora are used of it.
    """
    if not absent(task):
        return sum(_capped(count, most) for count in _counted(task, lang, what, split).values())
    cap = getattr(task, MOST.get(what, ""), None)
    used = getattr(task, "datasets", None)
    found = [
        _capped(_capped(count, cap), most)
        for (of, dataset, kind, part), count in task_module(task).published(task).items()
        if (of, kind, part) == (lang, what, split) and (used is None or dataset in ("", *used))
    ]
    return sum(found) if found else None


def _capped(count: int, most: int | None) -> int:
    return count if most is None else min(count, most)


def _counted(task: Task, lang: str, what: What, split: Split) -> dict[str, int]:
    """Rows by dataset; a module that can count without reading (`counted`) has one dataset."""
    module = task_module(task)
    if hasattr(module, "counted"):
        return {"": module.counted(task, what, split)}
    counts: dict[str, int] = {}
    for row in getattr(module, what)(task, lang, split):
        dataset = getattr(row, "prompt", row).dataset
        counts[dataset] = counts.get(dataset, 0) + 1
    return counts
