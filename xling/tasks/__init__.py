"""Tasks: what each dataset family gives per language, in one record format."""

from typing import cast

from xling.config import Files, MicroSummarization, Released, Task
from xling.tasks import files, micro_summarization, released
from xling.tasks.records import TaskModule

MODULES: dict[type[Task], TaskModule] = {
    MicroSummarization: cast(TaskModule, micro_summarization),
    Files: cast(TaskModule, files),
    Released: cast(TaskModule, released),
}


def task_module(config: Task) -> TaskModule:
    """The module that knows the task of a config."""
    return MODULES[type(config)]
