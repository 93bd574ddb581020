"""A training run to be killed: python killed.py MODEL SCRATCH; says each step that is done."""

import sys
from pathlib import Path

import torch
from problems import bandit

from xling.optimizers import ppo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import Problem

SETTINGS = PPO(
    steps=12,
    batch_size=8,
    learning_rate=1e-2,
    value_learning_rate=1e-2,
    value_only_steps=2,
    eval_every=3,
    target_kl=0.5,
    kl_horizon=100,
    schedule="linear",
)


def problem(model: Path, scratch: Path) -> Problem:
    made = bandit(model, scratch, lambda ids: float(ids.count(2)), SETTINGS.steps, 4, 3)
    made.watch.keep = "best"
    return made


def main(model: str, scratch: str) -> None:
    torch.set_num_threads(1)
    made = problem(Path(model), Path(scratch))
    made.watch.progress = lambda done, total: print(len(made.watch.curve), flush=True)
    ppo.train(made, SETTINGS)


if __name__ == "__main__":
    main(*sys.argv[1:])
