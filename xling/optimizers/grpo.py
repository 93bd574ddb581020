"""optimizer=grpo: group-relative policy optimisation (Shao et al. 2024), by trl's trainer (trl_trainers.py).

As in RLOO a prompt has k responses; their rewards are standardised within the group, and the KL penalty is part of the
loss rather than of the reward. Each token's penalty is multiplied by the ratio of the policy to the one that sampled,
as trl has it: that is 1, and its gradient makes the penalty's that of the KL divergence (DeepSeek-AI 2025, arXiv
2512.02556). optimizer=grpo_shao is without.
"""

from __future__ import annotations

from typing import Any

from xling.config.policies import LanguageModel
from xling.optimizers import GroupTraining, Held, check_groups, check_trl, group_work, trained_policy
from xling.optimizers.problem import Problem
from xling.options import name_of
from xling.rewards.settings import RewardModel


class Settings(GroupTraining, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="grpo"):
    """Group-relative policy optimisation (Shao et al. 2024): trl's trainer. Decoder-only policies."""


def check(settings: GroupTraining, policy: LanguageModel, rm: RewardModel) -> None:
    """A batch must be a whole number of groups; trl's trainer does not take every policy."""
    check_trl(f"optimizer={name_of(settings)}", settings, policy, "Use one of ppo, rloo, dpo and best_of_n.")
    check_groups(settings)


stages = trained_policy
work = group_work


def held(settings: GroupTraining) -> Held:
    """The whole batch, whose logits trl computes."""
    return Held(settings.batch_size, settings.batch_size, tiled=True)


def by_trl(settings: GroupTraining, encoder_decoder: bool) -> bool:
    """It is trl's trainer that trains a policy."""
    return True


def train(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Train the policy in place; it ends at the checkpoint that is kept. Raises as rloo's does."""
    from xling.optimizers import trl_trainers

    trl_trainers.train_by_grpo(problem, settings, kl_ratio=True)
    return {}
