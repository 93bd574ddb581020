"""Tasks: what each dataset family gives per language, in one record format."""

from typing import cast

from xling.config import Files, MicroSummarization, Task
from xling.tasks import files, micro_summarization
from xling.tasks.records import TaskModule

MODULES = {MicroSummarization: micro_summarization, Files: files}


def task_module(config: Task) -> TaskModule:
    """The module that knows the task of a config."""
    return cast(TaskModule, MODULES[type(config)])
