"""Sampling n responses a prompt from a policy, with the prompt encoded once.

Reproducible to the bit on one machine: a prompt's random numbers come from its own stream, named by
(seed, purpose, prompt id); prompts are decoded in chunks fixed by the spec, and padded to a width that
depends on the chunk's prompts alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xling.models.prefill import read
from xling.models.text import Ids, prompt_ids

KEEP_SHARE = 0.75  # finished sequences are taken out of the batch once fewer than this share go on

GREEDY = 0.0  # as top_p: only the most probable token is left


def uniforms(seed: int, purpose: str, prompt_id: str, n: int, steps: int) -> np.ndarray[Any, Any]:
    """(n, steps) numbers in [0, 1): the j-th sample of a prompt is the same whatever n is asked for."""
    name = f"{seed}\0{purpose}\0{prompt_id}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random((n, steps), dtype=np.float64)


@dataclass(frozen=True)
class Sampling:
    """How a prompt's samples are drawn; `purpose` (pool or baseline) and `seed` name its random stream."""

    n: int
    seed: int
    purpose: str
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 32


def sample_chunk(
    model: Any, tokenizer: Any, names: Sequence[str], rows: Sequence[Ids], how: Sampling
) -> list[list[Ids]]:
    """n lists of token ids (eos last where it came) for each of `rows` (prompt ids), all decoded together."""
    noise = np.concatenate([uniforms(how.seed, how.purpose, name, how.n, how.max_new_tokens) for name in names])
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    flat = decode(model, rows, how.n, torch.from_numpy(noise), how.temperature, how.top_p, eos, pad)
    return [flat[i * how.n : (i + 1) * how.n] for i in range(len(rows))]


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
    """Yield, a chunk of `prompts` (id, text) at a time, n lists of token ids a prompt."""
    encoded = prompt_ids(tokenizer, [text for _, text in prompts], encoder=model.config.is_encoder_decoder)
    names = [name for name, _ in prompts]
    how = Sampling(n, seed, purpose, temperature, top_p, max_new_tokens)
    for start in range(0, len(prompts), chunk):
        part = slice(start, start + chunk)
        yield sample_chunk(model, tokenizer, names[part], encoded[part], how)


@torch.inference_mode()
def decode(
    model: Any, rows: Sequence[Ids], n: int, noise: Tensor, temperature: float, top_p: float, eos: int, pad: int
) -> list[Ids]:
    """Sample len(rows) * n sequences; `noise` is (len(rows) * n, steps)."""
    device, steps = model.device, noise.shape[1]
    reader, noise = read(model, rows, pad), noise.to(device)
    parent = torch.arange(len(rows), device=device).repeat_interleave(n)
    logits = reader.logits[parent]
    reader.take(parent, steps)
    tokens = torch.full((len(parent), steps), pad, device=device)
    count = torch.zeros(len(parent), dtype=torch.long, device=device)
    alive, done = torch.arange(len(parent), device=device), torch.zeros(len(parent), dtype=torch.bool, device=device)
    for step in range(steps):
        token = pick(logits.float() / temperature, noise[alive, step], top_p)
        tokens[alive, step] = token
        count[alive] += ~done
        done = done | (token == eos)
        if done.all() or step == steps - 1:
            break
        if (~done).float().mean() < KEEP_SHARE:
            keep = (~done).nonzero()[:, 0]
            reader.take(keep, steps - step)
            alive, token, done = alive[keep], token[keep], done[keep]
        logits = reader.step(token)
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
    encoded = prompt_ids(tokenizer, texts, encoder=model.config.is_encoder_decoder)
    return greedy_ids(model, tokenizer, encoded, max_new_tokens, chunk)


def greedy_ids(model: Any, tokenizer: Any, prompts: Sequence[Ids], max_new_tokens: int, chunk: int = 32) -> list[Ids]:
    """`greedy` of prompts that are token ids already."""
    out: list[Ids] = []
    for start in range(0, len(prompts), chunk):
        rows = prompts[start : start + chunk]
        noise = torch.zeros(len(rows), max_new_tokens, dtype=torch.double)
        out += decode(model, rows, 1, noise, 1.0, GREEDY, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return out
