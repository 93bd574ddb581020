"""Reward models, a module each (`rm_backbone`): settings, what planning refuses and needs, training and scoring."""

from xling.config.common import Objective
from xling.config.policies import Policy
from xling.config.tasks import TaskSettings
from xling.options import Options
from xling.rewards.hooks import HOOKS, Budget, EncoderReader, Reader, RewardModule, RewardSettings

REWARDS: Options[RewardModule] = Options(
    "rm_backbone",
    {
        name: f"xling.rewards.{name}"
        for name in (
            "same_as_policy",
            "encoder",
            "frozen_lm",
            "bag_of_words",
            "sentence_encoder",
            "classifier",
            "log_ratio",
            "untrained",
            "system",
        )
    },
    HOOKS,
    RewardSettings,
)


def has_source(rm: RewardSettings) -> bool:
    """Whether it is trained on a source language's feedback."""
    return REWARDS.of(rm).fit is not None


def objective_of(task: TaskSettings, rm: RewardSettings) -> Objective:
    """pointwise or pairwise: what the reward model says, else the task's kind of feedback."""
    own: Objective | None = getattr(rm, "objective", None)
    return own or task.feedback


def reader_of(rm: RewardSettings, policy: Policy | None = None, side: str = "") -> Reader | None:
    """The frozen model whose features a reward model is linear in; None: it reads texts itself."""
    module = REWARDS.of(rm)
    return module.reader(rm, policy, side) if module.reader else None


def encoder_of(rm: RewardSettings) -> str:
    """The sentence encoder that a reward model reads texts with; empty if it reads with none."""
    reader = reader_of(rm)
    return reader.encoder if isinstance(reader, EncoderReader) else ""


def budget_of(rm: RewardSettings) -> Budget | None:
    """What training it by gradient descent costs; None: a closed form, or nothing to train."""
    module = REWARDS.of(rm)
    return module.budget(rm) if module.budget else None
