"""A run that was stopped or killed goes on to the same weights and the same curve, bit for bit."""

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import bandit
import killed
import pytest
import torch

from xling.grid.stage import Interrupted
from xling.optimizers import ppo, rloo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import Problem
from xling.optimizers.rloo import Settings as RLOO

SHARED: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "eval_every": 4, "warmup_steps": 2}
RUNS: dict[str, tuple[ModuleType, PPO | RLOO]] = {
    "ppo": (ppo, PPO(value_only_steps=2, **SHARED)),
    "ppo, adafactor, shared": (
        ppo,
        PPO(optimizer="adafactor", value="shared", value_only="inside", value_only_steps=1, **SHARED),
    ),
    "rloo": (rloo, RLOO(trainer="own", k=2, schedule="linear", **SHARED)),
}


def same(a: Problem, b: Problem) -> bool:
    ours, theirs = a.policy.state_dict(), b.policy.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and a.watch.curve == b.watch.curve


@pytest.mark.parametrize("kind", bandit.KINDS)
@pytest.mark.parametrize("run", RUNS)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path: Path, run: str, kind: str) -> None:
    module, settings = RUNS[run]
    folder = bandit.saved(tmp_path / "model", kind)

    def problem(scratch: str, stops: int) -> Problem:
        """One that wants to stop after so many iterations."""
        asked = iter(range(1, 1000))
        return bandit.problem(
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
                assert [path.name for path in parts.scratch.iterdir()] == ["checkpoint.pt"]
        assert same(whole, parts)


def test_a_run_that_is_done_is_not_trained_again(tmp_path: Path) -> None:
    folder, settings = bandit.saved(tmp_path / "model", "llama"), RLOO(trainer="own", k=2, **SHARED)
    first, again = (bandit.problem(folder, tmp_path, lambda ids: float(len(ids)), 6, 4) for _ in range(2))
    rloo.train(first, settings)
    again.reward = lambda numbers, said: pytest.fail("sampled once more")
    rloo.train(again, settings)
    assert same(first, again)


def test_a_process_killed_outright_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    folder = bandit.saved(tmp_path / "model", "llama")
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
    assert same(whole, going_on)
    assert 0 < len(asked) < killed.SETTINGS.steps, "it should have gone on, not begun anew"
