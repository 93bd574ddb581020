"""Tasks: what each dataset family gives per language, in one record format."""

from typing import cast

from xling.config import Files, MicroSummarization, Oasst, Seahorse, Task
from xling.tasks import files, micro_summarization, oasst, seahorse
from xling.tasks.records import TaskModule

MODULES: dict[type[Task], TaskModule] = {
    MicroSummarization: cast(TaskModule, micro_summarization),
    Files: cast(TaskModule, files),
    Seahorse: cast(TaskModule, seahorse),
    Oasst: cast(TaskModule, oasst),
}


def task_module(config: Task) -> TaskModule:
    """The module that knows the task of a config."""
    return MODULES[type(config)]
