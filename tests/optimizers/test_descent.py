"""Training by optimizers of our own: learning rates, steps, and runs that are stopped or killed and go on.

A run that goes on ends with the same weights and the same curve, bit for bit.
"""

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import killed
import pytest
import torch
from problems import KINDS, bandit, same, saved, weights

from xling.errors import StageError
from xling.grid.stage import Interrupted
from xling.models.training import Descent
from xling.optimizers import learning_rate, ppo, rloo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import Problem
from xling.optimizers.rloo import Settings as RLOO

# --- steps down a gradient ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [("constant", [2 / 3, 4 / 3, 2.0, 2.0, 2.0, 2.0]), ("linear", [2 / 3, 4 / 3, 2.0, 1.5, 1.0, 0.5])],
)
def test_the_learning_rate_rises_then_stays_or_falls(schedule: str, wanted: list[float]) -> None:
    assert [learning_rate(2.0, step, 6, 2, schedule) for step in range(6)] == pytest.approx(wanted)
    assert [learning_rate(2.0, step, 3, 0, "constant") for step in range(3)] == [2.0, 2.0, 2.0]


class Weight(torch.nn.Module):
    """A model of two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))


def descent_of(
    model: Weight, optimizer: str = "adamw", what: str = "policy", setting: str = "learning_rate"
) -> Descent:
    return Descent(what, model, optimizer, f"optimizer.{setting}")


def test_the_norm_is_that_before_clipping_and_weights_do_not_decay() -> None:
    model = Weight()
    descent = descent_of(model)
    (10 * model.weight**2 / 2).sum().backward()
    assert descent.step(0.1) == pytest.approx(50.0)
    assert model.weight.grad is None
    assert model.weight.tolist() == pytest.approx([2.9, 3.9])  # Adam's first step: the gradient's sign


def test_a_gradient_that_is_no_number_changes_nothing_and_names_the_setting() -> None:
    model = Weight()
    (model.weight * float("nan")).sum().backward()
    descent = descent_of(model, what="value model", setting="value_learning_rate")
    with pytest.raises(StageError, match=r"value model became nan\. Lower optimizer\.value_learning_rate"):
        descent.step(0.1)
    assert model.weight.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_goes_on_from_its_state_as_if_nothing_had_been(optimizer: str) -> None:
    def train(descent: Descent, model: Weight, steps: int) -> None:
        for _ in range(steps):
            ((model.weight - 7.0) ** 2).sum().backward()
            descent.step(0.1)

    whole, first, second = Weight(), Weight(), Weight()
    train(descent_of(whole, optimizer), whole, 7)
    before, after = descent_of(first, optimizer), descent_of(second, optimizer)
    train(before, first, 4)
    for name, tensor in after.tensors().items():
        tensor.copy_(before.tensors()[name])
    after.restored(before.steps)
    train(after, second, 3)
    assert torch.equal(whole.weight, second.weight) and not torch.equal(first.weight, second.weight)


# --- stopped and killed -------------------------------------------------------------------------------------

SHARED: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "eval_every": 4, "warmup_steps": 2}
RUNS: dict[str, tuple[ModuleType, PPO | RLOO]] = {
    "ppo": (ppo, PPO(value_only_steps=2, **SHARED)),
    "ppo, adafactor, shared": (
        ppo,
        PPO(optimizer="adafactor", value="shared", value_only="inside", value_only_steps=1, **SHARED),
    ),
    "rloo": (rloo, RLOO(trainer="own", k=2, schedule="linear", **SHARED)),
}


def ended_alike(a: Problem, b: Problem) -> bool:
    return same(weights(a.policy), weights(b.policy)) and a.watch.curve == b.watch.curve


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path: Path, run: str, kind: str) -> None:
    module, settings = RUNS[run]
    folder = saved(tmp_path / "model", kind)

    def problem(scratch: str, stops: int) -> Problem:
        """One that wants to stop after so many iterations."""
        asked = iter(range(1, 1000))
        return bandit(
            folder,
            tmp_path / scratch,
            lambda ids: float(ids.count(2)),
            settings.steps,
            4,
            2,
            stopping=lambda: next(asked) >= stops,
        )

    whole = problem("whole", 1000)
    module.train(whole, settings)
    assert not torch.equal(*(next(iter(model.parameters())) for model in (whole.policy, whole.reference)))
    for stops in (1, 3):  # again and again, a fresh process' problem each time
        for _ in range(10):
            parts = problem(f"parts{stops}", stops)
            try:
                module.train(parts, settings)
                break
            except Interrupted:
                [checkpoint] = parts.scratch.iterdir()
                assert checkpoint.name.startswith("checkpoint-")
        assert ended_alike(whole, parts)


def test_a_run_that_is_done_is_not_trained_again(tmp_path: Path) -> None:
    folder, settings = saved(tmp_path / "model", "llama"), RLOO(trainer="own", k=2, **SHARED)
    first, again = (bandit(folder, tmp_path, lambda ids: float(len(ids)), 6, 4) for _ in range(2))
    rloo.train(first, settings)
    again.reward = lambda numbers, said: pytest.fail("sampled once more")
    rloo.train(again, settings)
    assert ended_alike(first, again)


def test_a_process_killed_outright_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "llama")
    command = [sys.executable, str(Path(killed.__file__)), str(folder), str(tmp_path / "scratch")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "8\n":  # libraries may print too
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    going_on, whole = (killed.problem(folder, tmp_path / scratch) for scratch in ("scratch", "whole"))
    asked: list[int] = []
    going_on.watch.progress = lambda done, total: asked.append(done)
    ppo.train(going_on, killed.SETTINGS)
    ppo.train(whole, killed.SETTINGS)
    assert ended_alike(whole, going_on)
    assert 0 < len(asked) < killed.SETTINGS.steps, "it should have gone on, not begun anew"
