"""optimizer=grpo_shao: as optimizer=grpo, with the KL penalty as in Shao et al. (2024): k3 without the ratio.

xling/optimizers/grpo.py says what the two differ in.
"""

from __future__ import annotations

from typing import Any

from xling.optimizers import GroupTraining, grpo
from xling.optimizers.problem import Problem


class Settings(GroupTraining, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="grpo_shao"):
    """Group-relative policy optimisation as in Shao et al. (2024): trl's trainer. Decoder-only policies."""


check, stages, work, held, by_trl = grpo.check, grpo.stages, grpo.work, grpo.held, grpo.by_trl


def train(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Train the policy in place; it ends at the checkpoint that is kept. Raises as rloo's does."""
    from xling.optimizers import trl_trainers

    trl_trainers.train_by_grpo(problem, settings, kl_ratio=False)
    return {}
