"""The problem that the optimizers are tested on is one: the policy is SFT_t, and the reward tells samples apart."""

from pathlib import Path

import torch
from problems import problem_of, same, weights


def test_the_policy_starts_as_its_reference_and_the_reward_varies(sft: Path, tmp_path: Path) -> None:
    problem = problem_of(sft, tmp_path, steps=1)
    assert same(weights(problem.policy), weights(problem.reference))
    row = problem.watch.measure(problem.policy)
    assert row["kl"] == 0.0 and row["entropy"] > 0.5 and abs(row["reward"]) < 1.5
    with torch.no_grad():
        for parameter in problem.policy.parameters():
            parameter.add_(0.05)
    assert problem.watch.measure(problem.policy)["kl"] > 0.01
