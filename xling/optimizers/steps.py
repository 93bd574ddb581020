"""What the optimizers of our own have in common: their steps in order, with checkpoints, and steps down a gradient."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from xling.errors import StageError
from xling.grid.files import sync
from xling.grid.stage import Interrupted
from xling.optimizers import PolicyTraining
from xling.optimizers.problem import Problem, Row

if TYPE_CHECKING:
    from torch import nn

CHECKPOINT = "checkpoint.pt"
LARGEST_NORM = 1.0  # gradients are clipped to it


class Learner(Protocol):
    """An optimizer with all that it keeps from one iteration to the next."""

    def iterate(self, number: int) -> Row:
        """Iteration `number`, from 0: new responses and the updates by them; what is to be recorded of it."""

    def state(self) -> dict[str, Any]:
        """Plain numbers and tensors, for `restore`."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


def run(problem: Problem, settings: PolicyTraining, learner: Learner, before: int = 0) -> None:
    """Train the policy of `problem` to its end, and leave it at the checkpoint that is kept.

    before: iterations ahead of step 1, which leave the policy alone and are not recorded.
    A checkpoint is written to the scratch folder every `eval_every` iterations, after the last one, and once
    `problem.stopping` is true; then Interrupted is raised. A run that goes on from one ends with the same bits.
    """
    total, file = before + settings.steps, problem.scratch / CHECKPOINT
    for number in range(_restored(problem, learner, file), total):
        row, made = learner.iterate(number), number + 1
        step, done = made - before, made * settings.steps // total
        if step > 0:
            problem.watch.after_step(problem.policy, step, row, done)
        else:
            problem.watch.progress(done, settings.steps)
        stopped = made < total and problem.stopping()
        if stopped or made == total or made % settings.eval_every == 0:
            save(file, {"made": made, "learner": learner.state(), "watch": problem.watch.state()})
        if stopped:
            raise Interrupted(f"after step {made} of {total}, with a checkpoint")
    problem.watch.finish(problem.policy)


def _restored(problem: Problem, learner: Learner, file: Path) -> int:
    """Iterations that are done."""
    import torch

    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    learner.restore(state["learner"])
    problem.watch.restore(state["watch"])
    return int(state["made"])


def save(file: Path, state: dict[str, Any]) -> None:
    """Plain numbers and tensors to a file; a reader sees the old one or the new one, whole."""
    import torch

    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    sync(str(partial))
    os.replace(partial, file)
    sync(str(file.parent))


class Descent:
    """AdamW or Adafactor on some parameters; settings mean what they mean in xling/models/training.py.

    what, setting: the model and the setting of its learning rate, which errors name.
    """

    def __init__(self, what: str, parameters: Iterable[nn.Parameter], optimizer: str, setting: str) -> None:
        self.what, self.setting, self.parameters = what, setting, list(parameters)
        self.optimizer = _gradient_optimizer(optimizer, self.parameters)

    def step(self, learning_rate: float) -> float:
        """Follow the gradients, and forget them; returns their norm before clipping. StageError if it is no number."""
        from torch.nn.utils import clip_grad_norm_

        norm = float(clip_grad_norm_(self.parameters, LARGEST_NORM))
        if not norm < float("inf"):
            raise StageError(f"The gradient of the {self.what} became {norm}. Lower optimizer.{self.setting}.")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Any]:
        return dict(self.optimizer.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


def _gradient_optimizer(name: str, parameters: list[nn.Parameter]) -> Any:
    """Without weight decay: the policy is drawn to SFT_t by its KL penalty, not to zero."""
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=1.0, scale_parameter=False, relative_step=False)  # as transformers' Trainer
    from torch.optim import AdamW

    return AdamW(parameters, lr=1.0, weight_decay=0.0, fused=True)
