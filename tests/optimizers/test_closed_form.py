"""PPO and RLOO on problems whose optimum is known: pi* ~ pi_SFT exp(r / beta), for every response there is.

Tolerance: 0.05 in total variation, from a start that is at least 0.15 away.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import bandit
import pytest
import torch

from xling.optimizers import ppo, rloo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.rloo import Settings as RLOO

TOLERANCE, FAR = 0.05, 0.15
BETA = 1.0
COMMON: dict[str, Any] = {
    "batch_size": 128,
    "learning_rate": 1e-2,
    "beta": BETA,
    "schedule": "linear",
    "eval_every": 1000,
}


def distances(
    tmp_path: Path, kind: str, optimizer: ModuleType, settings: PPO | RLOO, length: int
) -> tuple[float, float]:
    """Total variation to the optimum of SFT_t and of the trained policy."""
    said = bandit.outcomes(length)
    rewards = bandit.table(len(said))
    look_up = dict(zip(map(tuple, said), rewards, strict=True))
    folder = bandit.saved(tmp_path / "model", kind)
    problem = bandit.problem(folder, tmp_path / "scratch", lambda ids: look_up[tuple(ids)], settings.steps, length)
    before = bandit.distribution(problem.reference, said)
    assert float(before.sum()) == pytest.approx(1.0, abs=1e-4)
    best = bandit.optimum(before, torch.tensor(rewards), BETA)
    optimizer.train(problem, settings)
    after = bandit.distribution(problem.policy, said)
    return bandit.total_variation(before, best), bandit.total_variation(after, best)


@pytest.mark.parametrize("kind", bandit.KINDS)
def test_ppo_finds_the_optimum_of_a_bandit(tmp_path: Path, kind: str) -> None:
    settings = PPO(steps=25, value_learning_rate=1e-2, value_only_steps=5, **COMMON)
    start, end = distances(tmp_path, kind, ppo, settings, 1)
    assert start >= FAR and end <= TOLERANCE


@pytest.mark.parametrize("kind", bandit.KINDS)
def test_rloo_finds_the_optimum_of_a_bandit(tmp_path: Path, kind: str) -> None:
    start, end = distances(tmp_path, kind, rloo, RLOO(trainer="own", steps=60, k=8, **COMMON), 1)
    assert start >= FAR and end <= TOLERANCE


def test_ppo_finds_the_optimum_over_two_tokens(tmp_path: Path) -> None:
    """91 responses, a tenth of them cut short by eos: what the first token is worth comes back from the second."""
    settings = PPO(steps=60, value_learning_rate=1e-2, value_only_steps=5, value="shared", **COMMON)
    start, end = distances(tmp_path, "llama", ppo, settings, 2)
    assert start >= FAR and end <= TOLERANCE
