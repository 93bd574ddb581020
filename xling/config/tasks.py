"""Settings that all tasks share. A task's own settings stand in its module, xling/tasks/NAME.py."""

from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

from xling.config.common import Language, Template

PUBLISHED = "published"  # a task's path in a dry run: its data is not here, its sizes are those that the paper states

Feedback = Literal["pointwise", "pairwise"]


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
