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
    width = padded_length(max(map(len, rows)))
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) < lengths[:, None]).long()
    cache = DynamicCache(config=model.config)
    hidden = model.model(
        input_ids=torch.from_numpy(pad_right(rows, width, pad)),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    logits = model.lm_head(hidden[torch.arange(len(rows)), lengths - 1]).repeat_interleave(n, 0)
    parent = torch.arange(len(rows)).repeat_interleave(n)
    cache = fan_out(cache, parent, noise.shape[1])
    mask, position = mask[parent], lengths[parent]
    alive, done = torch.arange(len(parent)), torch.zeros(len(parent), dtype=torch.bool)
    out: list[Ids] = [[] for _ in range(len(parent))]
    for step in range(noise.shape[1]):
        token = pick(logits / temperature, noise[alive, step], top_p)
        for i, t, over in zip(alive.tolist(), token.tolist(), done.tolist(), strict=True):
            if not over:
                out[i].append(t)
        done = done | (token == eos)
        if done.all() or step == noise.shape[1] - 1:
            break
        if (~done).float().mean() < KEEP_SHARE:
            keep = (~done).nonzero()[:, 0]
            cache = fan_out(cache, keep, noise.shape[1] - step)
            alive, mask, position, token, done = (x[keep] for x in (alive, mask, position, token, done))
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        position = position + 1
    return out


def pick(logits: Tensor, noise: Tensor, top_p: float) -> Tensor:
    """Sample a token a row by inverting the cumulative distribution at `noise`; top_p = 1 is pure sampling."""
    if top_p == GREEDY:
        return logits.argmax(-1)
    probabilities = logits.double().softmax(-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.cumsum(-1)
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
