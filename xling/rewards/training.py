"""What planning knows of a network that is trained as a reward model: what it costs, and what it needs."""

import importlib.util
from typing import Any

from xling.errors import ConfigError, install
from xling.rewards import objective_of
from xling.rewards.hooks import Budget, Choices
from xling.tasks.options import task_module
from xling.tasks.records import Offer


def budget_of(rm: Any) -> Budget:
    """Three forward passes an example, or one where the trunk is frozen."""
    return Budget(rm.training, 1 if rm.tuning == "frozen" else 3)


def check_training(rm: Any, choices: Choices) -> None:
    """ConfigError for batches that cannot be made, or a tuning whose package is not installed."""
    micro, batch = rm.training.micro_batch_size, rm.training.batch_size
    if rm.training.steps and micro is not None and batch % micro:
        raise ConfigError(
            f"rm_backbone.training.micro_batch_size={micro} does not divide rm_backbone.training.batch_size={batch}."
        )
    for tuning, module, extra in (("lora", "peft", "lora"), ("qlora", "bitsandbytes", "qlora")):
        if rm.tuning == tuning and importlib.util.find_spec(module) is None:
            raise ConfigError(f"rm_backbone.tuning={tuning} needs {module}: {install(extra)}.")
    kind: Offer = "pairs" if objective_of(choices.task, rm) == "pairwise" else "ratings"
    rows = task_module(choices.task).counted(choices.task, kind, "train")
    if rm.training.steps and rows is not None and rows < batch:
        raise ConfigError(
            f"task.{kind}={rows} is less than one batch: rm_backbone.training.batch_size={batch}. "
            f"Raise task.{kind} or lower rm_backbone.training.batch_size."
        )
