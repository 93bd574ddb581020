"""Sampling n responses a prompt from a decoder-only policy, with the prompt encoded once.

Reproducible to the bit on one machine: a prompt's random numbers come from its own stream, named by
(seed, purpose, prompt id); prompts are decoded in chunks fixed by the spec, and padded to a width that
depends on the chunk's prompts alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from xling.models.cache import fan_out
from xling.models.text import Ids, pad_right, padded_length, prompt_ids

WIDTHS = 8  # prompts are padded to a multiple of it
KEEP_SHARE = 0.75  # finished sequences are taken out of the batch once fewer than this share go on

GREEDY = 0.0  # as top_p: only the most probable token is left


def uniforms(seed: int, purpose: str, prompt_id: str, n: int, steps: int) -> np.ndarray[Any, Any]:
    """(n, steps) numbers in [0, 1): the j-th sample of a prompt is the same whatever n is asked for."""
    name = f"{seed}\0{purpose}\0{prompt_id}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random((n, steps), dtype=np.float64)


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[tuple[str, str]],
    n: int,
    seed: int,
    purpose: str,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 32,
    chunk: int = 32,
) -> Iterator[list[list[Ids]]]:
    """Yield, a chunk of `prompts` (id, text) at a time, n lists of token ids a prompt (eos last where it came)."""
    encoded = prompt_ids(tokenizer, [text for _, text in prompts])
    for start in range(0, len(prompts), chunk):
        rows = encoded[start : start + chunk]
        noise = np.concatenate(
            [uniforms(seed, purpose, name, n, max_new_tokens) for name, _ in prompts[start : start + chunk]]
        )
        flat = decode(
            model,
            rows,
            n,
            torch.from_numpy(noise),
            temperature,
            top_p,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )
        yield [flat[i * n : (i + 1) * n] for i in range(len(rows))]


@torch.inference_mode()
def decode(
    model: Any, rows: list[Ids], n: int, noise: Tensor, temperature: float, top_p: float, eos: int, pad: int
) -> list[Ids]:
    """Sample len(rows) * n sequences; `noise` is (len(rows) * n, steps)."""
    width = padded_length(max(map(len, rows)), WIDTHS)
    lengths = torch.tensor([len(row) for row in rows])
    cache = DynamicCache(config=model.config)
    ids = torch.from_numpy(pad_right(rows, width, pad))
    hidden = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(rows)), lengths - 1]).repeat_interleave(n, 0)
    parent = torch.arange(len(rows)).repeat_interleave(n)
    steps = noise.shape[1]
    cache = fan_out(cache, parent, steps)
    # (R, 1, 1, width + steps), additive: what is padding in the prompt is not read
    mask = torch.zeros(len(parent), 1, 1, width + steps)
    mask[..., :width].masked_fill_((torch.arange(width) >= lengths[parent, None])[:, None, None], -torch.inf)
    position = lengths[parent]
    tokens, count = torch.full((len(parent), steps), pad), torch.zeros(len(parent), dtype=torch.long)
    alive, done = torch.arange(len(parent)), torch.zeros(len(parent), dtype=torch.bool)
    for step in range(steps):
        token = pick(logits / temperature, noise[alive, step], top_p)
        tokens[alive, step] = token
        count[alive] += ~done
        done = done | (token == eos)
        if done.all() or step == steps - 1:
            break
        if (~done).float().mean() < KEEP_SHARE:
            keep = (~done).nonzero()[:, 0]
            cache = fan_out(cache, keep, steps - step)
            alive, mask, position, token, done = (x[keep] for x in (alive, mask, position, token, done))
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask[..., : width + step + 1],
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        position = position + 1
    return [row[:length] for row, length in zip(tokens.tolist(), count.tolist(), strict=True)]


def pick(logits: Tensor, noise: Tensor, top_p: float) -> Tensor:
    """Sample a token a row by inverting the cumulative distribution at `noise`; top_p = 1 is pure sampling."""
    if top_p == GREEDY:
        return logits.argmax(-1)
    probabilities = logits.softmax(-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1, dtype=torch.double) - ordered >= top_p
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.cumsum(-1, dtype=torch.double)
    return torch.searchsorted(cumulative, noise[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp_max(
        logits.shape[-1] - 1
    )


def greedy(model: Any, tokenizer: Any, texts: Sequence[str], max_new_tokens: int, chunk: int = 32) -> list[Ids]:
    """The most probable continuation, token by token, of each prompt."""
    encoded = prompt_ids(tokenizer, texts)
    out: list[Ids] = []
    for start in range(0, len(encoded), chunk):
        rows = encoded[start : start + chunk]
        noise = torch.zeros(len(rows), max_new_tokens, dtype=torch.double)
        out += decode(model, rows, 1, noise, 1.0, GREEDY, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return out
