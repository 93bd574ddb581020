"""A task whose data is not here: task.path=published, in a dry run. What it would have is what the paper says of it.

A grid of the paper's can so be counted before its data is got: languages, identities and sizes are there, and nothing
can be read. The task's module must offer `published(config)`.
"""

from collections.abc import Collection, Sequence
from typing import Any

from xling.config.tasks import PUBLISHED, Task
from xling.errors import ConfigError
from xling.tasks.records import Split, TaskModule, Use

SAID = "The data is not here: sizes are those that the paper states (task.path=published)."


def absent(config: Task) -> bool:
    """Whether a task's data is not here, by its own word."""
    return getattr(config, "path", None) == PUBLISHED


class AbsentTask:
    """The surface of a task module without a file; what the module knows without one is its own."""

    def __init__(self, module: TaskModule) -> None:
        self._module: Any = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def languages(self, config: Task) -> Sequence[str]:
        """Those of `task.languages` that the paper has sizes of; all of them without any."""
        known = tuple(dict.fromkeys(lang for lang, *_ in self._module.published(config)))
        return [lang for lang in getattr(config, "languages", ()) or known if lang in known]

    def check(
        self, config: Task, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]
    ) -> list[str]:
        """Nothing can be looked at: that is said."""
        return [SAID]

    def digest(self, config: Task) -> str:
        """No data, no digest: nothing that is stored can be taken for a result of it."""
        return PUBLISHED

    def _unread(self, config: Task, lang: str, split: Split) -> Any:
        raise ConfigError(f"task.path={PUBLISHED} stands for data that is not here. Type task.path=PATH.")

    demonstrations = ratings = pairs = prompts = _unread

    def require(self, config: Task, langs: Sequence[str], use: Use) -> None:
        """Whatever the paper did can be done."""
