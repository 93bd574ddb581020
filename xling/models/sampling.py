"""Samples n responses a prompt from a policy, with the prompt encoded once.

Reproducible to the bit on one machine: a prompt's random numbers come from its own stream, named by (seed, purpose,
prompt id); prompts are decoded in chunks, and padded to a width that depends on the chunk's prompts alone. With chunks
of another size, or where keys and values of a chunk's samples take more memory than there is for them and it is decoded
in parts, samples are the same but for the last bits of their logits. With policy.engine=vllm, vLLM decodes instead.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from xling.models.architecture import check_room, layer_windows, logits_of, reads_flat_masks, text_config, trunk_of
from xling.models.checkpoints import cached_numbers
from xling.models.sizes import ACCELERATOR_ROOM, DRAWN
from xling.models.states import GROWTH, by_layer, fan_out, key_positions, padding_mask, prefill
from xling.models.text import Ids, ends, pad_right, padded_length, prompt_ids

# --- reading prompts once, and going on token by token ------------------------------------------------------

# Two kinds of models, one interface: `logits` of each prompt's first response token, `take` to go on with chosen rows
# (a prompt's samples at first, later those not finished), `step` for the next token. Keys and values grow in place
# (`fan_out`, xling/models/states.py); an encoder-decoder's are computed from the prompt once and shared out with it.

WIDTHS = 8  # prompts are padded to a multiple of it


def read(model: Any, rows: Sequence[Ids], pad: int) -> "CausalReader | EncoderDecoderReader":
    """Read prompts, padded on the right to a width that the rows alone decide."""
    width = padded_length(max(map(len, rows)), WIDTHS)
    ids = torch.from_numpy(pad_right(rows, width, pad)).to(model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    kind = EncoderDecoderReader if model.config.is_encoder_decoder else CausalReader
    return kind(model, ids, lengths)


class CausalReader:
    """A decoder-only LM. Layers with a sliding window are cached whole and masked."""

    def __init__(self, model: Any, ids: Tensor, lengths: Tensor) -> None:
        self.model, self.width = model, ids.shape[1]
        self.lengths = self.position = lengths
        self.windows = layer_windows(model.config)
        self.flat = reads_flat_masks(model.config)
        self.cache, last = prefill(trunk_of(model), ids, lengths)
        self.logits = logits_of(model, last)

    def take(self, rows: Tensor, room: int) -> None:
        """Go on with these rows, each of them for up to `room` more tokens."""
        check_room(self.model.config, max(self.width, int(self.position.max()) + room))
        keys = self.cache.get_seq_length() + room
        self.cache = fan_out(self.cache, rows, min(room, GROWTH), keep=False)
        self.lengths, self.position = self.lengths[rows], self.position[rows]
        self.key_position = key_positions(self.lengths, self.width, keys)
        padding = padding_mask(self.lengths, self.width, self.model.dtype)
        self.mask = torch.nn.functional.pad(padding, (0, keys - self.width))  # (R, 1, 1, keys)

    def step(self, token: Tensor) -> Tensor:
        """(R,) tokens just said -> (R, vocabulary) logits of the next."""
        used = self.cache.get_seq_length() + 1
        logits: Tensor = self.model(
            input_ids=token[:, None],
            attention_mask=self._readable(used),
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.position = self.position + 1
        return logits

    def _readable(self, used: int) -> Tensor | dict[str, Tensor]:
        """Attention mask of the next token over the first `used` keys: one, or one for each kind of layer."""
        mask: Tensor = self.mask[..., :used]
        if self.flat:
            return (mask[:, 0, 0] == 0).long()
        return by_layer(self.windows, mask, self.position[:, None], self.key_position[:, :used])


class EncoderDecoderReader:
    """An encoder-decoder: the encoder reads the prompt, the decoder begins with decoder_start."""

    def __init__(self, model: Any, ids: Tensor, lengths: Tensor) -> None:
        self.model = model
        readable = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        self.encoded = model.get_encoder()(input_ids=ids, attention_mask=readable.long(), return_dict=True)
        self.mask = padding_mask(lengths, ids.shape[1], self.encoded.last_hidden_state.dtype)
        self.cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.logits = self.step(torch.full_like(lengths, model.config.decoder_start_token_id))

    def take(self, rows: Tensor, room: int) -> None:
        """Go on with these rows, each of them for up to `room` more tokens."""
        own, cross = self.cache.self_attention_cache, self.cache.cross_attention_cache
        self.cache = EncoderDecoderCache(
            fan_out(own, rows, min(room, GROWTH), keep=False), fan_out(cross, rows, 0, keep=False)
        )
        states = self.encoded.last_hidden_state[:, :1]  # their keys and values are cached: not read again
        self.encoded = replace(self.encoded, last_hidden_state=states[rows])
        self.mask = self.mask[rows]

    def step(self, token: Tensor) -> Tensor:
        """(R,) tokens just said -> (R, vocabulary) logits of the next."""
        logits: Tensor = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=token[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        return logits


# --- sampling -----------------------------------------------------------------------------------------------

GIB = 1 << 30
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
    memory: float | None = None  # GiB for keys, values and logits; None: by the device (`room_of`)


def sample_chunk(
    model: Any, tokenizer: Any, names: Sequence[str], rows: Sequence[Ids], how: Sampling
) -> list[list[Ids]]:
    """n lists of token ids (an end last where it came) for each of `rows` (prompt ids), together if they fit."""
    noise = np.concatenate([uniforms(how.seed, how.purpose, name, how.n, how.max_new_tokens) for name in names])
    settings = (how.temperature, how.top_p, ends(tokenizer), tokenizer.pad_token_id, how.memory)
    flat = decode(model, rows, how.n, torch.from_numpy(noise), *settings)
    return [flat[i * how.n : (i + 1) * how.n] for i in range(len(rows))]


CPU_ROOM = 2.0  # GiB: a processor has several workers


def room_of(device: torch.device) -> float:
    """GiB for the keys, values and logits of what is decoded together."""
    if device.type != "cuda":
        return CPU_ROOM
    return ACCELERATOR_ROOM * torch.cuda.get_device_properties(device).total_memory / GIB


def rows_that_fit(model: Any, longest: int, steps: int, memory: float | None) -> int | None:
    """Samples after prompts of `longest` tokens that fit into `memory` GiB, at least 1; None: its config does not tell.

    As if each went on to the last step.
    """
    numbers = cached_numbers(model.config.to_dict(), padded_length(longest, WIDTHS), padded_length(steps, GROWTH))
    if numbers is None:
        return None
    each = model.dtype.itemsize * numbers + DRAWN * text_config(model.config).vocab_size
    return max(1, int((room_of(model.device) if memory is None else memory) * GIB / each))


@torch.inference_mode()
def decode(
    model: Any,
    rows: Sequence[Ids],
    n: int,
    noise: Tensor,
    temperature: float,
    top_p: float,
    stops: Sequence[int],
    pad: int,
    memory: float | None = None,
) -> list[Ids]:
    """Sample len(rows) * n sequences, each up to the first of `stops`; `noise` is (len(rows) * n, steps).

    In parts that fit into `memory` GiB: some prompts with all their samples, or some samples of one prompt.
    """
    steps = noise.shape[1]
    fit = rows_that_fit(model, max(map(len, rows)), steps, memory) or len(noise)
    prompts = _even(len(rows), max(1, min(fit // n, len(rows))))
    samples, streams = _even(n, min(n, fit)), noise.view(len(rows), n, steps)
    out: list[Ids] = []
    for start in range(0, len(rows), prompts):
        cut = slice(start, start + prompts)
        for part in streams[cut].split(samples, 1):
            out += _decode(model, rows[cut], part.shape[1], part.flatten(0, 1), temperature, top_p, stops, pad)
    return out


def _even(count: int, most: int) -> int:
    """The size of parts of like size, as few as can be, of at most `most` each."""
    return -(-count // -(-count // most))


def _decode(
    model: Any,
    rows: Sequence[Ids],
    n: int,
    noise: Tensor,
    temperature: float,
    top_p: float,
    stops: Sequence[int],
    pad: int,
) -> list[Ids]:
    device, steps = model.device, noise.shape[1]
    last = torch.tensor(stops, device=device)
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
        done = done | torch.isin(token, last)
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
        out += decode(model, rows, 1, noise, 1.0, GREEDY, ends(tokenizer), tokenizer.pad_token_id)
    return out
