"""A ridge on what a frozen language model sees of the response: one forward pass serves every source.

The features are those of xling/models/frozen_lm.py.
"""

from collections.abc import Callable
from typing import Literal

from xling.config.common import Limit, NonNegative, Side
from xling.config.policies import LanguageModel, Policy
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models.checkpoints import check_checkpoint, check_lengths, check_policy, check_table
from xling.models.ridge import Array, Linear, fit_whitened
from xling.rewards import Base, Choices, Feedback, Heads, LanguageReader, RewardSettings, TextsRead
from xling.rewards.heads import fit_features, load_head


class Settings(RewardSettings, frozen=True, tag="frozen_lm"):
    """Reads with the policy's base, or with a frozen model of its own."""

    features: Literal["likelihood", "states", "both"] = "likelihood"
    permutation: NonNegative = 0
    checkpoint: str | None = None  # another frozen model's folder; None: the policy's base
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    pad_token: str | None = None  # of `checkpoint`: a piece to pad with where its tokenizer names none


def check(rm: Settings, choices: Choices) -> None:
    """There must be a model to read with, whole and with enough positions."""
    policy, sides = choices.policy, (rm.max_prompt_tokens, rm.max_response_tokens)
    if rm.checkpoint is None and not isinstance(policy, LanguageModel):
        raise ConfigError(
            "rm_backbone=frozen_lm reads with the policy's base, and policy=recorded has none. "
            "Name a model with rm_backbone.checkpoint=FOLDER, or packaged."
        )
    own = reader(rm, policy, "").base
    if rm.checkpoint not in (None, "packaged"):
        check_checkpoint(
            own.setting, own.model, "policy", ("pad", "eos"), lambda c: check_table(c, sides, 0, "rm_backbone")
        )
    if isinstance(policy, LanguageModel):
        check_policy(policy)
        if not rm.checkpoint and not choices.recorded:
            check_lengths(policy, sides, "rm_backbone")


def reader(rm: Settings, policy: Policy | None, side: str) -> LanguageReader:
    if rm.checkpoint is None and isinstance(policy, LanguageModel):
        base = Base(policy)
    else:
        own = LanguageModel(rm.checkpoint or "packaged", pad_token=rm.pad_token if rm.checkpoint else None)
        base = Base(own, "rm_backbone.checkpoint")
    return LanguageReader(base, TextsRead(rm.features, rm.max_prompt_tokens, rm.max_response_tokens, side))


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Writes head.npz and head.json."""
    fit_features(context, feedback, rm.permutation, _best)


def _best(blocks: list[Array], fitted: Callable[[list[Array]], Linear]) -> tuple[Linear, str]:
    return fit_whitened(blocks, fitted), "all"


load = load_head
heads = Heads(lambda rm, fold: _best(*fold.fitting()))
budget = start = scoring = starts_value = None
