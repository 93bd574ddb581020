"""The one record format of all tasks, and what a task module offers.

`group` names what prompts share (a document, a conversation tree, the parallel fact): splits and bootstrap
clusters never cut through a group.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from xling.config.tasks import Task

Split = Literal["train", "validation", "test"]
Half = Literal["first", "second"]  # of a source's documents (xling/models/folds.py)
Offer = Literal["demonstrations", "ratings", "pairs", "prompts", "quality", "recorded"]

GOOD = 0.5  # a response whose label is this or more is good

# What a stage reads of a task: it decides which of the task's settings and files are in the stage's key.
# `texts` are the documents and responses of what is recorded, without their ratings; `crossfitted`: what is recorded,
# to train reward models on folds of it.
Use = Literal[
    "demonstrations",
    "pointwise",
    "pairwise",
    "prompts",
    "held_out_pointwise",
    "held_out_pairwise",
    "recorded",
    "crossfitted",
    "texts",
]


class Prompt(Struct, frozen=True):
    """What is asked, rendered already: once for the policy and, where that differs, for the reward model."""

    id: str  # unique within task and language
    lang: str
    group: str
    text: str  # what the policy reads
    dataset: str = ""  # win rates are macro-averaged over a language's datasets
    content: str = ""  # what the reward model reads, without instruction; empty: the same as `text`
    subset: str = ""  # a part of the dataset with a weight of its own (M-RewardBench)

    @property
    def reward_text(self) -> str:
        """What the reward model reads."""
        return self.content or self.text


class Demonstration(Struct, frozen=True):
    """A response to imitate in supervised fine-tuning."""

    prompt: Prompt
    response: str


class Rating(Struct, frozen=True):
    """Pointwise feedback. `label` is 0 or 1 for binary labels, else a real number in the rater's scale."""

    prompt: Prompt
    response: str
    label: float
    system: str = ""


class Pair(Struct, frozen=True):
    """Pairwise feedback."""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """One language's prompts, by id, each with its responses by system name: ragged (prompts, systems)."""

    lang: str
    prompts: list[Prompt]
    systems: list[list[str]]
    responses: list[list[str]]
    ratings: list[list[float]]

    def flat(self) -> Iterator[tuple[Prompt, str, str, float]]:
        """(prompt, system, response, rating) row by row: the order of every flat array over this data."""
        for prompt, systems, responses, ratings in zip(
            self.prompts, self.systems, self.responses, self.ratings, strict=True
        ):
            for system, response, rating in zip(systems, responses, ratings, strict=True):
                yield prompt, system, response, rating


class TaskModule(Protocol):
    """A task module. Of the data functions it has those that it OFFERS; xling/planning/refusals.py refuses the others.

    What they give, and in which order, depends on the rows of the files and not on the order of these, so that a stage
    computes the same of shuffled files (xling/results/prompts.py).

    It may have, besides: `TRUNCATION_SIDE`, or `truncation_side(config)` where the data decides it (xling/tasks);
    `offers(config)`, where data of the user's own may hold less than OFFERS; `require(config, langs, use)`, which
    raises ConfigError where a language has too little for a use; `lacking(config, what)` and `ignored(config,
    splits)`, sentences for errors and for the plan (xling/tasks/files.py); `document_of(prompt)` and
    `prompt_around(document, lang)`, where prompts come from no template (xling/tasks); `published(config)`, the
    sizes that a paper states, {(lang, dataset or "", use, split): rows}, which `xling data check` shows and a dry run
    without the data goes by; `counted(config, use, split)`, for data whose rows are known without making them.
    """

    OFFERS: frozenset[Offer]

    def languages(self, config: Task) -> Sequence[str]:
        """Those that `glob(*)` means."""
        ...

    def check(
        self, config: Task, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]
    ) -> list[str]:
        """Look at the data before anything runs; ConfigError or DataError, else sentences to show with the plan.

        known: languages that have facts in conf/lang (None: do not ask); sources, targets: those of the grid.
        """
        ...

    def narrowed(self, config: Task, langs: Sequence[str], use: Use) -> Task:
        """The settings that one use of these languages' data reads, the rest at their defaults."""
        ...

    def sources(self, config: Task) -> Sequence[Path]:
        """The files that a narrowed config reads. A module of generated data has none, and `digest` instead."""
        ...

    def digest(self, config: Task) -> str:
        """sha256 of what generates the data. Data in files has none: of it the rows count that a stage reads."""
        ...

    def demonstrations(self, config: Task, lang: str, split: Split) -> list[Demonstration]: ...
    def ratings(self, config: Task, lang: str, split: Split) -> list[Rating]: ...
    def pairs(self, config: Task, lang: str, split: Split) -> list[Pair]: ...
    def prompts(self, config: Task, lang: str, split: Split) -> list[Prompt]: ...
    def quality(self, config: Task, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Gold quality of each response, in [0, 1]; embedded world only."""
        ...

    def recorded(self, config: Task, lang: str) -> Recorded:
        """What recorded systems answered and people rated."""
        ...

    def published(self, config: Task) -> dict[tuple[str, str, str, str], int]:
        """Sizes that a paper gives, where there are any; a module without them has no such function.

        (language, dataset or "", "demonstrations" | "ratings" | "pairs" | "prompts", split) -> count
        """
        ...
