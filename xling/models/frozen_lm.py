"""rm_backbone=frozen_lm: a frozen language model reads the response, a ridge on what it sees of it decides.

Features come from the frozen base alone and are the same for every source, so that they are computed once a text
(`read`) and a reward model is a weight vector (`xling.models.ridge`). `likelihood` features are free of any one
language: how the model's own predictions of the response's tokens came out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xling.models.architecture import text_config, trunk_of
from xling.models.ridge import Array
from xling.models.states import States, each_response, in_parts, pool, token_log_probabilities
from xling.models.text import Limits, prompt_ids, response_ids

LIMITS = Limits()  # the paper's
WORST = 3  # least probable tokens that are features of their own
GAPS = (1.0, 3.0)  # nats below the most probable token: how many tokens lie further than that
STATISTICS = 2 + WORST + 4 + len(GAPS)  # columns of the likelihood block
BLOCKS = {"likelihood": ("likelihood",), "states": ("last", "mean"), "both": ("likelihood", "last", "mean")}


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
    names = BLOCKS[features]

    def value(states: States) -> Tensor:
        return torch.cat([_block(model, states, name) for name in names], 1)

    texts = [response_ids(tokenizer, row, limits.response) for row in responses]
    asked = prompt_ids(tokenizer, prompts, limits.prompt, model.config.is_encoder_decoder, limits.side)
    found = each_response(trunk_of(model), asked, texts, tokenizer.pad_token_id, in_parts(model, value))
    rows = np.array([row for rows in found for row in rows])
    widths = [STATISTICS if name == "likelihood" else text_config(model.config).hidden_size for name in names]
    return np.split(rows, np.cumsum(widths)[:-1], axis=1)


def _block(model: Any, states: States, name: str) -> Tensor:
    return likelihood_features(model, states) if name == "likelihood" else pool(states.hidden, states.mask, name)


def likelihood_features(model: Any, states: States) -> Tensor:
    """(R, STATISTICS), in nats but for counts.

    Of the tokens' log-probabilities the mean, the sum and the WORST least; of their excess over the expected one (the
    negative entropy) the mean and the least, at most 0; of their gap to the most probable token's the mean and the
    largest, and how many are beyond each of GAPS.
    """
    scores, said = token_log_probabilities(model, states)
    excess = said - (scores.exp() * scores).sum(-1)
    gap = scores.amax(-1) - said
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
