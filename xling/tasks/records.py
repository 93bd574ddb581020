"""What all tasks have in common: one format of records, and the base of their settings.

`group` names what prompts share (a document, a conversation tree, the parallel fact): splits and bootstrap
clusters never cut through a group.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct, UnsetType, structs

from xling.config.common import Language, Positive, Template

Split = Literal["train", "validation", "test"]
Half = Literal["first", "second"]  # of a source's documents (xling/models/ridge.py)
Offer = Literal["demonstrations", "ratings", "pairs", "prompts", "quality", "recorded"]
Size = tuple[str, str, str, str]  # (language, dataset or "", kind of data, split): a number of rows that a paper states

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


Turns = Sequence[tuple[str, str]]  # (role, text) of system, user and assistant


class Conversation(str):
    """A chat as text, which knows its turns: a tokenizer's chat template is filled in with them, all else is text.

    What is cut out of it or put together with it is text alone. Two of the same text are equal, whatever their turns.
    """

    turns: tuple[tuple[str, str], ...]  # the system's first or nobody's, then by turns, the user's last

    def __new__(cls, text: str, turns: Turns) -> "Conversation":
        made = super().__new__(cls, text)
        made.turns = tuple(turns)
        return made

    def __getnewargs__(self) -> tuple[str, Turns]:  # type: ignore[override]
        return str(self), self.turns


def turns_of(text: str) -> Turns:
    """Those of a conversation; any other text is one user turn."""
    return text.turns if isinstance(text, Conversation) else (("user", text),)


class Prompt(Struct, frozen=True):
    """A rendered prompt: once for the policy and, where that differs, for the reward model."""

    id: str  # unique within task and language
    lang: str
    group: str
    text: str  # what the policy reads
    dataset: str = ""  # win rates are macro-averaged over a language's datasets
    content: str = ""  # what the reward model reads, without instruction; empty: the same as `text`
    subset: str = ""  # a part of the dataset with a weight of its own (M-RewardBench)

    @property
    def reward_text(self) -> str:
        """The text that the reward model reads."""
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
    prompts: list[Prompt] = field(default_factory=list)
    systems: list[list[str]] = field(default_factory=list)
    responses: list[list[str]] = field(default_factory=list)
    ratings: list[list[float]] = field(default_factory=list)

    def add(self, prompt: Prompt, answers: Iterable[tuple[str, str, float]]) -> None:
        """A further prompt with the (system, response, rating) of each answer."""
        systems, responses, ratings = zip(*answers, strict=True)
        self.prompts.append(prompt)
        self.systems.append(list(systems))
        self.responses.append(list(responses))
        self.ratings.append(list(ratings))

    def flat(self) -> Iterator[tuple[Prompt, str, str, float]]:
        """(prompt, system, response, rating) row by row: the order of every flat array over this data."""
        for prompt, systems, responses, ratings in zip(
            self.prompts, self.systems, self.responses, self.ratings, strict=True
        ):
            for system, response, rating in zip(systems, responses, ratings, strict=True):
                yield prompt, system, response, rating


# --- settings; a task's own stand in its module, xling/tasks/NAME.py ---------------------------------------

PUBLISHED = "published"  # a task's path in a dry run: its data is not here, its sizes are those that the paper states

Feedback = Literal["pointwise", "pairwise"]

# Of all documents; None or UNSET: each in the language of its summary. UNSET stands in no spec.
DocumentLang = str | None | UnsetType


class TaskSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every task's `Settings`, which declares both of these as fields."""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages to use; empty means all that the data has."""
        raise NotImplementedError

    @property
    def feedback(self) -> Feedback:
        """The kind of feedback: ratings of single responses, or preferences between two."""
        raise NotImplementedError

    @property
    def document_lang(self) -> DocumentLang:
        """The language of what is answered, in cross-lingual summarisation: a field of tasks that have it."""
        return None

    @property
    def monolingual(self) -> "TaskSettings":
        """The task with each language's documents in that language."""
        return structs.replace(self, document_lang=None) if self.document_lang else self

    @property
    def feedback_task(self) -> "TaskSettings":
        """The task that reward models learn from: whatever the policy reads, people rated summaries of documents in
        the same language, unless a task has other feedback."""
        return self.monolingual


# A cap on rows of the data; UNSET or None: all. UNSET stands in no spec, so that a key has a cap only where it is set.
Cap = Positive | None | UnsetType


def absent(config: TaskSettings) -> bool:
    """Whether a task's data is not here (task.path=published)."""
    return getattr(config, "path", None) == PUBLISHED


@runtime_checkable
class HasTemplate(Protocol):
    """Settings of a task whose prompts are rendered by templates of the user's (xling/tasks/render.py)."""

    @property
    def template(self) -> Template:
        """How a document becomes what the policy and the reward model read."""

    @property
    def facts(self) -> tuple[Language, ...]:
        """Facts of the languages that the template names; planning fills them in."""


@runtime_checkable
class HasFolds(Protocol):
    """Settings of a task whose recorded responses train reward models, cross-fitted by document."""

    @property
    def seed(self) -> int:
        """Of the folds and of samples of documents."""

    @property
    def folds(self) -> int:
        """Number of folds, at least 2."""

    @property
    def documents(self) -> int | None:
        """Rated documents of a source that its models are trained on; None: all."""
