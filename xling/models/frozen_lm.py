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

from xling.models.reward import States, pool, response_states
from xling.models.ridge import Array
from xling.models.text import prompt_ids, response_ids

WORST = 3  # least probable tokens that are features of their own
GAPS = (1.0, 3.0)  # nats below the most probable token: how many tokens lie further than that
BLOCKS = {"likelihood": ("likelihood",), "states": ("last", "mean"), "both": ("likelihood", "last", "mean")}


def read(
    model: Any, tokenizer: Any, prompts: Sequence[str], responses: Sequence[Sequence[str]], features: str
) -> list[Array]:
    """Blocks of (rows, columns), a row for each response in the order given; `features` is a key of BLOCKS."""
    texts = [response_ids(tokenizer, row) for row in responses]
    found: dict[tuple[int, tuple[int, ...]], tuple[Array, ...]] = {}
    distinct = [list({tuple(ids): ids for ids in row}.values()) for row in texts]
    for states in response_states(model.model, prompt_ids(tokenizer, prompts), distinct, tokenizer.pad_token_id):
        blocks = [_block(model, states, name).double().numpy() for name in BLOCKS[features]]
        for (i, j), *rows in zip(states.owners, *blocks, strict=False):
            found[i, tuple(distinct[i][j])] = tuple(row.copy() for row in rows)
    order = [found[i, tuple(ids)] for i, row in enumerate(texts) for ids in row]
    return [np.stack(rows) for rows in zip(*order, strict=True)]


@torch.inference_mode()
def _block(model: Any, states: States, name: str) -> Tensor:
    if name == "likelihood":
        return likelihood_features(model, states)
    return pool(states.hidden, states.mask, name)


def likelihood_features(model: Any, states: States) -> Tensor:
    """(R, 11), in nats but for counts.

    Of the tokens' log-probabilities the mean, the sum and the WORST least; of their excess over the expected one (the
    negative entropy) the mean and the least, at most 0; of their gap to the most probable token's the mean and the
    largest, and how many are beyond each of GAPS.
    """
    hidden = torch.cat([states.before[:, None], states.hidden[:, :-1]], 1)
    scores = model.lm_head(hidden).log_softmax(-1)
    said = scores.gather(-1, states.ids[..., None])[..., 0]
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
