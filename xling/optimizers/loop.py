"""The steps of an optimizer of ours in their order, with checkpoints from which a killed run goes on to the bit."""

import os
from pathlib import Path
from typing import Any, Protocol

import torch

from xling.config.optimizers import Training
from xling.grid.files import sync
from xling.grid.stage import Interrupted
from xling.optimizers.problem import Problem
from xling.optimizers.watch import Row

CHECKPOINT = "checkpoint.pt"


class Learner(Protocol):
    """An optimizer with all that it keeps from one iteration to the next."""

    def iterate(self, number: int) -> Row:
        """Iteration `number`, from 0: new responses and the updates by them; what is to be recorded of it."""

    def state(self) -> dict[str, Any]:
        """Plain numbers and tensors, for `restore`."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


def run(problem: Problem, settings: Training, learner: Learner, before: int = 0) -> None:
    """Train the policy of `problem` to its end, and leave it at the checkpoint that is kept.

    before: iterations ahead of step 1, which leave the policy alone and are not recorded.
    A checkpoint is written to the scratch folder every `eval_every` iterations, after the last one, and once
    `problem.stopping` is true; then Interrupted is raised.
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
    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    learner.restore(state["learner"])
    problem.watch.restore(state["watch"])
    return int(state["made"])


def save(file: Path, state: dict[str, Any]) -> None:
    """Plain numbers and tensors to a file; a reader sees the old one or the new one, whole."""
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    sync(str(partial))
    os.replace(partial, file)
    sync(str(file.parent))
