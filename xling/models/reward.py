"""The reward model: text in, number out, and the only scoring path of language-model rewards.

`response_states` runs a decoder-only trunk over the responses of a prompt with the prompt encoded once. Rewards,
likelihoods and frozen features are all read off it. A row's arithmetic depends on the row alone: prompts and
responses are padded on the right to widths given by their own lengths, and batches have a fixed number of rows.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache

from xling.models.cache import fan_out, stack
from xling.models.load import load_tokenizer
from xling.models.text import Ids, pad_right, padded_length, prompt_ids, response_ids

PROMPTS_PER_BATCH = 16
ROWS_PER_BATCH = 32  # small enough to stay in the processor's cache
TOKENS_KEPT = 16384  # of prompts read at once: the more, the fewer rows that do nothing but fill a batch
WIDTHS = 4  # prompts and responses are padded to multiples of it
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class States:
    """Hidden states of some responses; rows past the owners fill the batch and mean nothing."""

    owners: list[tuple[int, int]]  # (prompt, response) of the first rows
    ids: Tensor  # (R, L), padded on the right
    mask: Tensor  # (R, L) bool
    hidden: Tensor  # (R, L, D)
    before: Tensor  # (R, D): the state that predicts token 0


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _by_width(lengths: dict[Any, int]) -> dict[int, list[Any]]:
    groups: dict[int, list[Any]] = {}
    for item, length in lengths.items():
        groups.setdefault(padded_length(length, WIDTHS), []).append(item)
    return dict(sorted(groups.items()))


def _fill(items: list[Any], size: int) -> list[Any]:
    """Repeat the last item up to `size`: every batch has the same number of rows."""
    return items + [items[-1]] * (size - len(items))


@torch.inference_mode()
def response_states(
    trunk: Any, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], pad: int
) -> Iterator[States]:
    """States of every response of every prompt, in batches of any order; `trunk` is an AutoModel decoder."""
    for width, group in _by_width({i: len(row) for i, row in enumerate(prompts) if responses[i]}).items():
        kept = max(TOKENS_KEPT // (width * PROMPTS_PER_BATCH), 1) * PROMPTS_PER_BATCH
        for chosen in _batches(group, kept):
            texts = [prompts[i] for i in chosen]
            cache, before = _read(trunk, texts, width, pad)
            lengths = torch.tensor(list(map(len, texts)))
            slots = {(slot, j): len(row) for slot, i in enumerate(chosen) for j, row in enumerate(responses[i])}
            for tail, rows in _by_width(slots).items():
                for real in _batches(rows, ROWS_PER_BATCH):
                    part = _fill(real, ROWS_PER_BATCH)
                    slot = torch.tensor([s for s, _ in part])
                    said = [responses[chosen[s]][j] for s, j in part]
                    state = _continue(trunk, cache, slot, lengths[slot], width, said, tail, pad)
                    yield States([(chosen[s], j) for s, j in real], *state, before[slot])


def _read(trunk: Any, prompts: list[Ids], width: int, pad: int) -> tuple[Any, Tensor]:
    """(cache, last states) of prompts; what is padded stands behind all that is read, and needs no mask."""
    caches, last = [], []
    for real in _batches(prompts, PROMPTS_PER_BATCH):
        batch = _fill(real, PROMPTS_PER_BATCH)
        caches.append(DynamicCache(config=trunk.config))
        ids = torch.from_numpy(pad_right(batch, width, pad))
        hidden = trunk(input_ids=ids, past_key_values=caches[-1], use_cache=True)[0]
        last.append(hidden[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in batch])])
    return stack(caches), torch.cat(last)


def _continue(
    trunk: Any, cache: Any, slot: Tensor, lengths: Tensor, width: int, texts: list[Ids], tail: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, hidden) of `texts` read after the prompts at `slot` of a cache; leaves the cache as it was."""
    ids = torch.from_numpy(pad_right(texts, tail, pad))
    step = torch.arange(tail)
    # (R, 1, tail, width + tail), additive: the prompt's tokens, and the response's up to one's own
    mask = torch.zeros(len(texts), 1, tail, width + tail)
    mask[..., :width].masked_fill_((torch.arange(width) >= lengths[:, None])[:, None, None], -torch.inf)
    mask[..., width:].masked_fill_(step > step[:, None], -torch.inf)
    hidden = trunk(
        input_ids=ids,
        attention_mask=mask,
        position_ids=lengths[:, None] + step,
        past_key_values=fan_out(cache, slot, tail),
        use_cache=True,
    )[0]
    return ids, step < torch.tensor([len(text) for text in texts])[:, None], hidden


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(R, L, D) -> (R, D): the state at the last real token, or the mean over the response's tokens."""
    if pooling == "last":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


class RewardNet(nn.Module):
    """A decoder trunk with a scalar head on the pooled states of the response."""

    def __init__(self, trunk: Any, pooling: str) -> None:
        super().__init__()
        self.trunk, self.pooling = trunk, pooling
        self.head = nn.Linear(trunk.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """(B, L) right-padded prompt + response -> (B,) rewards; `response_mask` is True on the response."""
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
        if self.pooling == "last":
            return self.head(pool(hidden, attention_mask.bool(), "last"))[:, 0]  # type: ignore[no-any-return]
        return self.head(pool(hidden, response_mask, "mean"))[:, 0]  # type: ignore[no-any-return]


@dataclass
class RewardModel:
    """A trained reward model with its own tokenizer."""

    net: RewardNet
    tokenizer: Any

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Reward of each response of each prompt; higher is better, no unit."""

        def rewards(states: States) -> Tensor:
            return self.net.head(pool(states.hidden, states.mask, self.net.pooling))[:, 0]  # type: ignore[no-any-return]

        encoded = [response_ids(self.tokenizer, row) for row in responses]
        prompt = prompt_ids(self.tokenizer, prompts)
        return each_response(self.net.trunk, prompt, encoded, self.tokenizer.pad_token_id, rewards)


@torch.inference_mode()
def each_response(
    trunk: Any,
    prompts: Sequence[Ids],
    responses: Sequence[Sequence[Ids]],
    pad: int,
    value: Callable[[States], Tensor],
) -> list[list[Any]]:
    """What `value` (R, ...) gives for each response of each prompt; what a prompt has several times is read once."""
    distinct = [list({tuple(ids): ids for ids in row}.values()) for row in responses]
    found: list[dict[tuple[int, ...], Any]] = [{} for _ in responses]
    for states in response_states(trunk, prompts, distinct, pad):
        for (i, j), one in zip(states.owners, value(states).tolist(), strict=False):
            found[i][tuple(distinct[i][j])] = one
    return [[found[i][tuple(ids)] for ids in row] for i, row in enumerate(responses)]


def save_reward(folder: Path, net: RewardNet, tokenizer: Any) -> None:
    """Trunk and tokenizer in Hugging Face format, the head beside them."""
    net.trunk.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in net.head.state_dict().items()}, folder / "head.safetensors")
    (folder / "reward.json").write_text(json.dumps({"pooling": net.pooling}) + "\n", encoding="utf-8")


def load_reward(folder: Path) -> RewardModel:
    """A reward model from its stage's folder."""
    settings = json.loads((folder / "reward.json").read_text(encoding="utf-8"))
    trunk = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    net = RewardNet(trunk, settings["pooling"])
    net.head.load_state_dict(load_file(folder / "head.safetensors"))
    return RewardModel(net.eval(), load_tokenizer(folder))


def token_log_probabilities(model: Any, states: States) -> tuple[Tensor, Tensor]:
    """(R, L, vocabulary) of all tokens at each place of the responses, (R, L) of the one that stands there; in nats."""
    hidden = torch.cat([states.before[:, None], states.hidden[:, :-1]], 1)
    scores: Tensor = model.lm_head(hidden).log_softmax(-1)
    return scores, scores.gather(-1, states.ids[..., None])[..., 0]


def log_likelihood(
    model: Any, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], pad: int
) -> list[list[float]]:
    """Mean log-probability in nats of each response's tokens (eos included) under a causal LM, given its prompt."""

    def means(states: States) -> Tensor:
        _, said = token_log_probabilities(model, states)
        return (said * states.mask).sum(1) / states.mask.sum(1)

    return each_response(model.model, prompts, responses, pad, means)
