"""The one record format of all tasks, and what a task module offers.

`group` names what prompts share (a document, a conversation tree, the parallel fact): splits and bootstrap
clusters never cut through a group.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from xling.config import Task

Split = Literal["train", "validation", "test"]


class Prompt(Struct, frozen=True):
    """What the policy is asked; `text` is rendered already."""

    id: str  # unique within task and language
    lang: str
    group: str
    text: str
    dataset: str = ""  # win rates are macro-averaged over a language's datasets


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


class TaskModule(Protocol):
    """The functions of a task module; those that a task cannot offer raise ConfigError saying so."""

    def demonstrations(self, config: Task, lang: str, split: Split) -> list[Demonstration]: ...
    def ratings(self, config: Task, lang: str, split: Split) -> list[Rating]: ...
    def pairs(self, config: Task, lang: str, split: Split) -> list[Pair]: ...
    def prompts(self, config: Task, lang: str, split: Split) -> list[Prompt]: ...
    def quality(self, config: Task, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Gold quality of each response, in [0, 1]; embedded world only."""
        ...

    def digest(self, config: Task) -> str:
        """sha256 of the data the config names; for generated data, of what generates it."""
        ...
