"""A ridge on what a frozen language model sees of the response: one forward pass serves every source.

Features come from the frozen base alone and are the same for every source, so that they are computed once a text
(`read`) and a reward model is a weight vector. `likelihood` features are free of any one language: how the model's own
predictions of the response's tokens came out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xling.config.common import Limit, NonNegative, Side
from xling.config.policies import LanguageModel, Policy
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models.checkpoints import check_checkpoint, check_lengths, check_policy, check_table
from xling.models.ridge import Array, Linear, fit_whitened
from xling.models.text import LIMITS, Limits, text_ids
from xling.rewards import Base, Choices, Feedback, Heads, LanguageReader, RewardSettings, TextsRead
from xling.rewards.heads import fit_features, load_head

if TYPE_CHECKING:
    from torch import Tensor

    from xling.models.states import States

WORST = 3  # least probable tokens that are features of their own
GAPS = (1.0, 3.0)  # nats below the most probable token: how many tokens lie further than that
STATISTICS = 2 + WORST + 4 + len(GAPS)  # columns of the likelihood block
BLOCKS = {"likelihood": ("likelihood",), "states": ("last", "mean"), "both": ("likelihood", "last", "mean")}


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
        check_checkpoint(own.setting, own.model, "policy", ("pad", "eos"), lambda c: check_table(c, sides))
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


# --- features -----------------------------------------------------------------------------------------------


def read(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    features: str,
    limits: Limits = LIMITS,
) -> list[Array]:
    """Blocks of (rows, columns), a row for each response in the order given; `features` is a key of BLOCKS.

    What is longer than the limits is cut.
    """
    import torch

    from xling.models.architecture import text_config, trunk_of
    from xling.models.states import each_response, in_parts, pool

    names = BLOCKS[features]

    def block(states: States, name: str) -> Tensor:
        return likelihood_features(model, states) if name == "likelihood" else pool(states.hidden, states.mask, name)

    def value(states: States) -> Tensor:
        return torch.cat([block(states, name) for name in names], 1)

    asked, said = text_ids(tokenizer, prompts, responses, limits, model.config.is_encoder_decoder)
    values = each_response(trunk_of(model), asked, said, tokenizer.pad_token_id, in_parts(model, value))
    rows = np.array([row for rows in values for row in rows])
    widths = [STATISTICS if name == "likelihood" else text_config(model.config).hidden_size for name in names]
    return np.split(rows, np.cumsum(widths)[:-1], axis=1)


def likelihood_features(model: Any, states: States) -> Tensor:
    """(R, STATISTICS), in nats but for counts.

    Of the tokens' log-probabilities the mean, the sum and the WORST least; of their excess over the expected one (the
    negative entropy) the mean and the least, at most 0; of their gap to the most probable token's the mean and the
    largest, and how many are beyond each of GAPS.
    """
    import torch

    from xling.models.states import of_tokens, that_predict

    def each(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        said = scores.gather(-1, ids[..., None])[..., 0]
        return said, said - (scores.exp() * scores).sum(-1), scores.amax(-1) - said

    said, excess, gap = of_tokens(model, each, that_predict(states), states.ids)
    mask, length = states.mask, states.mask.sum(1)

    def kept(values: Tensor) -> Tensor:
        return values.masked_fill(~mask, 0.0)

    worst = kept(said).topk(min(WORST, mask.shape[1]), largest=False).values
    worst = torch.nn.functional.pad(worst, (0, WORST - worst.shape[1]))
    columns = [
        kept(said).sum(1) / length,
        kept(said).sum(1),
        *worst.unbind(1),
        kept(excess).sum(1) / length,
        kept(excess).amin(1).clamp_max(0.0),  # 0 also where nothing is padded
        kept(gap).sum(1) / length,
        kept(gap).amax(1),
        *((kept(gap) > limit).sum(1) for limit in GAPS),
    ]
    return torch.stack([column.float() for column in columns], 1)


load = load_head
heads = Heads(lambda rm, fold: _best(*fold.fitting()))
budget = start = scoring = starts_value = None
