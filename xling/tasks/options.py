"""The tasks that can be chosen, the hooks that a task's module has, and how much of everything a task has.

A task is one module: `Settings`, and the functions of `TaskModule`. Hooks that need nothing special are imported from
xling/tasks/defaults.py; what is forgotten is refused while planning. docs/adding.md has a skeleton to paste.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from xling.errors import ConfigError, DataError
from xling.options import Options, name_of
from xling.tasks import defaults
from xling.tasks.records import (
    PUBLISHED,
    Demonstration,
    Offer,
    Pair,
    Prompt,
    Rating,
    Recorded,
    Size,
    Split,
    TaskSettings,
    Use,
    absent,
)
from xling.tasks.render import SPEAKERS


class TaskModule(Protocol):
    """The hooks of a task's module. Of the data functions it has those that its OFFERS names.

    `config` is the module's own `Settings`. Which rows the data functions return, and in which order, depends on the
    rows of the files and not on their order, so that a stage computes the same of shuffled files
    (xling/results/specs.py).
    """

    OFFERS: frozenset[Offer]

    def languages(self, config: Any) -> Sequence[str]:
        """The languages that `glob(*)` means."""

    def check(
        self, config: Any, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]
    ) -> list[str]:
        """Look at the data before anything runs; ConfigError or DataError, else sentences to show with the plan.

        known: languages that have facts in conf/lang (None: do not ask); sources, targets: those of the grid.
        """

    def narrowed(self, config: Any, langs: Sequence[str], use: Use) -> TaskSettings:
        """The settings that one use of these languages' data reads, the rest at their defaults: part of stages' keys.

        A key must not change with a setting that changes nothing: so that another number of test prompts, say,
        trains no model anew.
        """

    def sources(self, config: Any) -> Sequence[Path]:
        """The files that a narrowed config reads; none if the data is generated."""

    def digest(self, config: Any) -> str:
        """sha256 of what generates the data. Empty for data in files: the rows count that a stage reads."""

    def missing(self, config: Any) -> Mapping[Offer, str]:
        """Offers that this data lacks, and why: a sentence, or an empty string."""

    def require(self, config: Any, langs: Sequence[str], use: Use) -> None:
        """ConfigError where a language has too little for a use."""

    def ignored(self, config: Any, splits: bool) -> Sequence[str]:
        """Sentences on settings without effect. `splits`: some cell reads train, validation and test splits."""

    def truncation_side(self, config: Any, langs: Collection[str] = ()) -> str:
        """Where a prompt that is too long is cut unless a setting says it: right (a document's end) or left (a chat's
        oldest turns). langs: whose prompts are read; none named: those of all languages."""

    def document_of(self, prompt: Prompt) -> str:
        """The document or chat of a prompt that was made `bare` (xling/tasks/render.py)."""

    def prompt_around(self, config: Any, lang: str, document: str) -> tuple[str, str]:
        """(`Prompt.text`, `Prompt.content`) of a document in a language, as the task's own prompts are rendered."""

    def published(self, config: Any) -> Mapping[Size, int]:
        """Numbers of rows that a paper states: `xling data check` shows them, a dry run without data goes by them."""

    def counted(self, config: Any, what: Offer, split: Split) -> int | None:
        """Rows of a language's split, if they are known without making them."""

    def demonstrations(self, config: Any, lang: str, split: Split) -> list[Demonstration]: ...
    def ratings(self, config: Any, lang: str, split: Split) -> list[Rating]: ...
    def pairs(self, config: Any, lang: str, split: Split) -> list[Pair]: ...
    def prompts(self, config: Any, lang: str, split: Split) -> list[Prompt]: ...
    def quality(self, config: Any, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Exact quality of each response, in [0, 1]; of the embedded world only."""

    def recorded(self, config: Any, lang: str) -> Recorded:
        """Responses that recorded systems gave and people rated."""


HOOKS = {
    "OFFERS": "a frozenset of the kinds of data that it can have",
    "languages": "which languages the data has",
    "check": "what planning refuses or says of the data",
    "narrowed": "which settings a use of the data reads",
    "sources": "the files that are read",
    "digest": "what stands in keys for generated data",
    "missing": "what this data lacks of OFFERS",
    "require": "whether a language has enough for a use",
    "ignored": "settings without effect",
    "truncation_side": "where a long prompt is cut",
    "document_of": "the document of a prompt",
    "prompt_around": "the prompt of a document",
    "published": "sizes that a paper states",
    "counted": "how many rows there are",
}


def hooks_of(module: TaskModule) -> dict[str, str]:
    """All of HOOKS, and a function for each kind of data that the module offers."""
    return {**HOOKS, **{offer: "which its OFFERS names" for offer in sorted(getattr(module, "OFFERS", ()))}}


TASKS = Options[TaskModule](
    "task",
    {
        "micro_summarization": "xling.tasks.micro_summarization",
        "files": "xling.tasks.files",
        "m_rewardbench": "xling.tasks.m_rewardbench",
        "seahorse": "xling.tasks.seahorse",
        "oasst": "xling.tasks.oasst",
        "released": "xling.tasks.released",
    },
    hooks_of,
    TaskSettings,
)

if TYPE_CHECKING:
    Task = TaskSettings
else:
    Task = TASKS.settings()


def task_module(config: Task) -> TaskModule:
    """The module of a task. ConfigError if it lacks hooks, or where neither data nor published sizes are there."""
    module = TASKS.of(config)
    if not absent(config):
        return module
    if not module.published(config):
        raise ConfigError("task.path must be given: the paper states no sizes of this task. Type task.path=PATH.")
    return cast(TaskModule, AbsentTask(module))


def source_of(config: Task) -> Path:
    """The file of a task's module."""
    return Path(sys.modules[TASKS.modules()[name_of(config)]].__file__ or "")


def offers(config: Task) -> frozenset[Offer]:
    """The kinds of data that a task has with these settings."""
    module = task_module(config)
    return module.OFFERS - module.missing(config).keys()


def speakers(task: Task) -> tuple[str, ...]:
    """How the lines of a chat begin, in every language; nothing where prompts are documents."""
    chats = task_module(task).truncation_side(task) == "left"
    return tuple(getattr(task, "roles", SPEAKERS)) if chats else ()


def tasks_offering(offer: Offer) -> list[str]:
    """Names of the tasks that can have a kind of data."""
    return [name for name in TASKS.modules() if offer in TASKS[name].OFFERS]


# --- a task whose data is not here --------------------------------------------------------------------------


class AbsentTask:
    """A task's module with task.path=published: in a dry run, the paper's sizes stand for data that is not here.

    So a grid of the paper's can be counted before its data is downloaded: languages, keys and sizes are known, and
    nothing can be read. What needs no file is the module's own.
    """

    def __init__(self, module: TaskModule) -> None:
        self._module: Any = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def languages(self, config: Task) -> Sequence[str]:
        """Those of `task.languages` that the paper states sizes of; without any named, all of those."""
        known = tuple(dict.fromkeys(lang for lang, *_ in self._module.published(config)))
        return [lang for lang in config.languages or known if lang in known]

    def check(
        self, config: Task, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]
    ) -> list[str]:
        """There is no data to look at, which is said."""
        return ["The data is not here: sizes are those that the paper states (task.path=published)."]

    def digest(self, config: Task) -> str:
        """A word in the digest's place, so that no stored result can be taken for one of this data."""
        return PUBLISHED

    def require(self, config: Task, langs: Sequence[str], use: Use) -> None:
        """The paper had enough data for every use."""

    def _unread(self, config: Task, lang: str, split: Split) -> Any:
        raise ConfigError(f"task.path={PUBLISHED} stands for data that is not here. Type task.path=PATH.")

    demonstrations = ratings = pairs = prompts = _unread


# --- sizes --------------------------------------------------------------------------------------------------

Kind = Literal["demonstrations", "ratings", "pairs", "prompts"]


@lru_cache(maxsize=512)
def size(task: Task, lang: str, what: Kind, split: Split, most: int | None = None) -> int | None:
    """Rows of a language's split, `most` of each of its datasets; None where the paper states no size.

    Counted where the data is here, as published where it is not. Sizes that are stated for a language as a whole are
    taken whole, whatever corpora are used of it.
    """
    if not absent(task):
        return sum(_capped(count, most) for count in _by_dataset(task, lang, what, split).values())
    cap = defaults.cap(task, what, split)
    used = getattr(task, "datasets", None)
    sizes = [
        _capped(_capped(count, cap), most)
        for (of, dataset, kind, part), count in task_module(task).published(task).items()
        if (of, kind, part) == (lang, what, split) and (used is None or dataset in ("", *used))
    ]
    return sum(sizes) if sizes else None


SAMPLED = 64  # rows that lengths are taken from


A_TOKEN = 4  # bytes of UTF-8


@lru_cache(maxsize=64)
def tokens_of(task: Task, lang: str) -> tuple[int, int] | None:
    """Mean tokens of a prompt, as the policy reads it, and of a response: roughly, by bytes of a language's first rows.

    None where the data is not here. A task that makes its data says it (`TOKENS`), as long as nobody has to make it.
    """
    module, there = task_module(task), offers(task)
    if stated := getattr(module, "TOKENS", None):
        return stated  # type: ignore[no-any-return]
    if absent(task) or not there & {"demonstrations", "pairs"}:
        return None
    try:
        if "demonstrations" in there:
            rows = [(row.prompt.text, row.response) for row in module.demonstrations(task, lang, "train")[:SAMPLED]]
        else:
            rows = [(row.prompt.text, row.chosen) for row in module.pairs(task, lang, "train")[:SAMPLED]]
    except (ConfigError, DataError):  # settings that one stage reads may not do for other data
        return None
    prompt, response = (sum(len(row[i].encode()) for row in rows) / (len(rows) or 1) for i in (0, 1))
    return (max(1, round(prompt / A_TOKEN)), max(1, round(response / A_TOKEN))) if rows else None


def _capped(count: int, most: int | None) -> int:
    return count if most is None else min(count, most)


def _by_dataset(task: Task, lang: str, what: Kind, split: Split) -> dict[str, int]:
    """Rows by dataset; of a task that counts without reading, all are one dataset."""
    module = task_module(task)
    if (count := module.counted(task, what, split)) is not None:
        return {"": count}
    counts: dict[str, int] = {}
    for row in getattr(module, what)(task, lang, split):
        dataset = getattr(row, "prompt", row).dataset
        counts[dataset] = counts.get(dataset, 0) + 1
    return counts
