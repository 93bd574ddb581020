"""From token ids to hidden states, for all that reads responses to prompts: batches, states, and what is read off them.

Scoring without gradients encodes a prompt once for its responses: rewards, likelihoods and frozen features are read off
`response_states`. A decoder-only model reads the response after the prompt; an encoder-decoder reads the prompt with
its encoder and the response with its decoder. A row's arithmetic depends on the row alone: prompts and responses are
padded on the right to widths given by their own lengths, a batch's number of rows is given by its width, and every mask
is written out (one that is left out where no row of the batch has padding would take another path through the
attention). On an accelerator the last batch of a width has fewer rows: there a row's last bits depend on how many texts
of its width its stage reads, which the stage's spec decides.

Training reads prompt and response in one go, with gradients (`padded_batch`, `predicting_states`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, DynamicLayer

from xling.models.architecture import check_room, layer_windows, logits_of, reads_flat_masks, text_config, trunk_of
from xling.models.gathering import at_once
from xling.models.lean import in_chunks, recomputing, without_adapters
from xling.models.sizes import (
    PROMPTS_PER_BATCH,
    ROWS_PER_BATCH,
    TOKENS_KEPT,
    VOCABULARY_AT_ONCE,
    rows_on_accelerator,
)
from xling.models.text import EXACT, Ids, Row, pad_right, row_width

# --- a key-value cache with room to grow: one prompt's entries fan out to its responses ---------------------

# transformers' DynamicCache copies the whole cache at every step, which was 80 % of the sampling time of a small
# model on a CPU; its StaticCache attends to the unused room as well.

GROWTH = 64  # positions that a layer that is full gets room for


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, (B, heads, used, head_dim) views of a larger buffer."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.used = keys.shape[-2]
        self._keys, self._values = (  # keys and values may differ in width (DeepSeek's latent attention)
            one.new_empty((len(rows), one.shape[1], self.used + room, one.shape[3])) for one in (keys, values)
        )
        torch.index_select(keys, 0, rows, out=self._keys[:, :, : self.used])
        torch.index_select(values, 0, rows, out=self._values[:, :, : self.used])
        self._view()

    def _view(self) -> None:
        self.keys, self.values = self._keys[:, :, : self.used], self._values[:, :, : self.used]

    def _grown(self, buffer: Tensor, size: int) -> Tensor:
        grown = buffer.new_empty((*buffer.shape[:2], size, buffer.shape[3]))
        grown[:, :, : self.used] = buffer[:, :, : self.used]
        return grown

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, new, head_dim) and return all that is cached."""
        end = self.used + key_states.shape[-2]
        if end > self._keys.shape[2]:
            size = max(end, self.used + GROWTH)
            self._keys, self._values = self._grown(self._keys, size), self._grown(self._values, size)
        self._keys[:, :, self.used : end] = key_states
        self._values[:, :, self.used : end] = value_states
        self.used = end
        self._view()
        return self._keys[:, :, :end], self._values[:, :, :end]


def fan_out(cache: Any, rows: Tensor, room: int, keep: bool = True) -> Any:
    """A new cache whose batch is `cache`'s rows by index, with room for `room` more positions at first.

    Unless `keep`, `cache` is used up: each of its layers is freed once it has been copied.
    """
    given, layers = cache.layers[::-1], list[Any]()
    if not keep:
        cache.layers = []
    while given:
        layers.append(_roomy(given.pop(), rows, room))
    return Cache(layers=layers)


def _roomy(layer: Any, rows: Tensor, room: int) -> RoomyLayer:
    return RoomyLayer(layer.keys, layer.values, rows, room)


def stack(caches: Sequence[Any]) -> Any:
    """The rows of several caches in the first one."""
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
        layer.values = torch.cat([layer.values, *(other.values for other in others)])
    return caches[0]


# --- batches ------------------------------------------------------------------------------------------------

Batch = dict[str, Tensor]

NARROW = 256  # hidden size up to which a model is small


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def by_width(lengths: Mapping[Any, int]) -> dict[int, list[Any]]:
    """Items by the width that their length is padded to, narrow ones first."""
    groups: dict[int, list[Any]] = {}
    for item, length in lengths.items():
        groups.setdefault(row_width(length), []).append(item)
    return dict(sorted(groups.items()))


def filled(model: Any, items: list[Any], size: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """(some of the items, the same with the last one repeated): batches of `size` rows.

    On an accelerator, where a row that fills costs what any other does, the last one has as many as the next power of
    two: of few sizes, for each of which its libraries may choose another way to multiply.
    """
    for real in batches(items, size):
        rows = size if model.device.type == "cpu" else min(size, 1 << (len(real) - 1).bit_length())
        yield real, real + [real[-1]] * (rows - len(real))


def filled_batches(
    model: Any, lengths: Mapping[Any, int], size: Callable[[int], int]
) -> Iterator[tuple[int, list[Any], list[Any]]]:
    """(width, items of that width, the same filled up), `size(width)` rows or fewer at a time, narrow ones first."""
    for width, group in by_width(lengths).items():
        for real, rows in filled(model, group, size(width)):
            yield width, real, rows


def rows_per_batch(model: Any, width: int, most: int = ROWS_PER_BATCH) -> int:
    """Rows of `width` tokens read together: fixed by the model, the width and the kind of device.

    Not by how many rows there are, since a matrix product's bits depend on its size: a row's would then depend on what
    is read beside it (`filled` says of the last batch of each width). On a processor only short rows of a small model,
    whose passes cost their calls, gain from that: all others are read one by one, and nothing is filled.
    """
    if model.device.type == "cpu":
        return most if width <= EXACT and text_config(model.config).hidden_size <= NARROW else 1
    return rows_on_accelerator(width, most)


def padded_batch(config: Any, rows: Sequence[tuple[Any, Any]], pad: int) -> Batch:
    """Prompts and responses (token ids) as a model reads them in one go, right-padded: what its trunk is called with.

    A decoder-only model reads them in a row (B, L). Of an encoder-decoder the encoder reads the prompts (B, L), the
    decoder its start token and the responses (B, M). With `response_mask`, True on the responses.
    """
    if config.is_encoder_decoder:
        prompts, said = [prompt for prompt, _ in rows], [[config.decoder_start_token_id, *said] for _, said in rows]
        width, tail = max(map(len, prompts)), max(map(len, said))
        ends, place = torch.tensor([[len(p), len(r)] for p, r in zip(prompts, said, strict=True)]), torch.arange(tail)
        return {
            "input_ids": torch.from_numpy(pad_right(prompts, width, pad)),
            "attention_mask": (torch.arange(width) < ends[:, :1]).long(),
            "decoder_input_ids": torch.from_numpy(pad_right(said, tail, pad)),
            "response_mask": (place >= 1) & (place < ends[:, 1:]),
        }
    border = torch.tensor([len(prompt) for prompt, _ in rows])[:, None]
    end = torch.tensor([len(prompt) + len(response) for prompt, response in rows])[:, None]
    place = torch.arange(int(end.max()))
    return {
        "input_ids": torch.from_numpy(pad_right([prompt + response for prompt, response in rows], len(place), pad)),
        "attention_mask": (place < end).long(),
        "response_mask": (place >= border) & (place < end),
    }


# --- reading responses after their prompts ------------------------------------------------------------------


@dataclass(frozen=True)
class States:
    """Hidden states of some responses; rows past the owners fill the batch and mean nothing."""

    owners: list[tuple[int, int]]  # (prompt, response) of the first rows
    ids: Tensor  # (R, L), padded on the right
    mask: Tensor  # (R, L) bool
    hidden: Tensor  # (R, L, D)
    before: Tensor  # (R, D): the state that predicts token 0


@dataclass(frozen=True)
class Read:
    """Prompts that have been read: what their responses are read after."""

    cache: Any
    last: Tensor  # (P, D): the state that predicts a response's first token
    lengths: Tensor  # (P,) tokens
    width: int  # tokens with padding


@torch.inference_mode()
def response_states(
    trunk: Any, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], pad: int
) -> Iterator[States]:
    """States of every response of every prompt, in batches of any order; `trunk` has no LM head."""
    pairs = ((len(prompt), len(said)) for prompt, row in zip(prompts, responses, strict=True) for said in row)
    longest = max((max(row_width(prompt), prompt + row_width(said)) for prompt, said in pairs), default=0)
    check_room(trunk.config, longest)
    if "flash" in trunk.config._attn_implementation:  # reads no masks of our own
        trunk.set_attn_implementation("sdpa")
    for width, group in by_width({i: len(row) for i, row in enumerate(prompts) if responses[i]}).items():
        size = rows_per_batch(trunk, width, PROMPTS_PER_BATCH)
        kept = max(TOKENS_KEPT // (width * size), 1) * size
        for chosen in batches(group, kept):
            read = _read(trunk, [prompts[i] for i in chosen], width, size, pad)
            slots = {(slot, j): len(row) for slot, i in enumerate(chosen) for j, row in enumerate(responses[i])}
            for tail, real, part in filled_batches(trunk, slots, lambda tail: rows_per_batch(trunk, tail)):
                slot = torch.tensor([s for s, _ in part], device=trunk.device)
                said = [responses[chosen[s]][j] for s, j in part]
                owners = [(chosen[s], j) for s, j in real]
                yield States(owners, *_continue(trunk, read, slot, said, tail, pad), read.last[slot])


def _tokens(rows: Sequence[Ids], width: int, pad: int, device: torch.device) -> Tensor:
    return torch.from_numpy(pad_right(rows, width, pad)).to(device)


def padding_mask(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(R, 1, 1, width), additive: 0 on what is read, minus infinity on padding."""
    mask = torch.zeros(len(lengths), 1, 1, width, dtype=dtype, device=lengths.device)
    outside = torch.arange(width, device=lengths.device) >= lengths[:, None]
    return mask.masked_fill_(outside[:, None, None], -torch.inf)


def _read(trunk: Any, prompts: list[Ids], width: int, size: int, pad: int) -> Read:
    caches, last = [], []
    one = _encode if trunk.config.is_encoder_decoder else prefill
    for _, batch in filled(trunk, prompts, size):
        lengths = torch.tensor([len(row) for row in batch], device=trunk.device)
        cache, state = one(trunk, _tokens(batch, width, pad, trunk.device), lengths)
        caches.append(cache)
        last.append(state)
    return Read(_stacked(caches), torch.cat(last), torch.tensor([len(p) for p in prompts], device=trunk.device), width)


def prefill(trunk: Any, ids: Tensor, lengths: Tensor) -> tuple[Any, Tensor]:
    """(cache, last states) of prompts; what is padded stands behind all that is read, and needs no mask."""
    cache = DynamicCache()
    hidden = trunk(input_ids=ids, past_key_values=cache, use_cache=True)[0]
    return cache, hidden[torch.arange(len(ids), device=ids.device), lengths - 1]


def _encode(trunk: Any, ids: Tensor, lengths: Tensor) -> tuple[Any, Tensor]:
    """(cache, first states of the decoder): the encoder reads the prompts, the decoder its start token."""
    mask = padding_mask(lengths, ids.shape[1], trunk.dtype)
    read = trunk.get_encoder()(input_ids=ids, attention_mask=mask)[0]
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    start = torch.full_like(ids[:, :1], trunk.config.decoder_start_token_id)
    hidden = trunk.get_decoder()(
        input_ids=start,
        encoder_hidden_states=read,
        encoder_attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    )[0]
    return cache, hidden[:, 0]


def _continue(
    trunk: Any, read: Read, slot: Tensor, texts: list[Ids], tail: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, hidden) of `texts` read after the prompts at `slot`; leaves the cache as it was."""
    ids = _tokens(texts, tail, pad, trunk.device)
    step = torch.arange(tail, device=trunk.device)
    lengths = read.lengths[slot]
    here = torch.zeros(len(texts), 1, tail, tail, dtype=trunk.dtype, device=trunk.device)
    here.masked_fill_(step > step[:, None], -torch.inf)  # (R, 1, tail, tail), additive: a token's own and earlier ones
    prompt = padding_mask(lengths, read.width, trunk.dtype)
    if trunk.config.is_encoder_decoder:
        hidden = trunk.get_decoder()(
            input_ids=ids,
            attention_mask=torch.nn.functional.pad(here, (1, 0)),  # the start token
            encoder_hidden_states=read.last[slot][:, None],  # their keys and values are in the cache: not read again
            encoder_attention_mask=prompt,
            past_key_values=_shared_out(read.cache, slot, tail),
            use_cache=True,
        )[0]
    else:
        if reads_flat_masks(trunk.config):
            mask: Any = torch.nn.functional.pad((prompt[:, 0, 0] == 0).long(), (0, tail), value=1)
        else:
            whole = torch.cat([prompt.expand(-1, -1, tail, -1), here], -1)
            key = key_positions(lengths, read.width, read.width + tail)
            mask = by_layer(layer_windows(trunk.config), whole, lengths[:, None] + step, key)
        hidden = trunk(
            input_ids=ids,
            attention_mask=mask,
            position_ids=lengths[:, None] + step,
            past_key_values=fan_out(read.cache, slot, tail),
            use_cache=True,
        )[0]
    return ids, step < torch.tensor([len(text) for text in texts], device=trunk.device)[:, None], hidden


def key_positions(lengths: Tensor, width: int, keys: int) -> Tensor:
    """(R, keys): where each key stands in its own text, of prompts padded to `width` and what follows them."""
    place = torch.arange(keys, device=lengths.device)
    return torch.where(place < width, place, place - width + lengths[:, None])


def by_layer(windows: Mapping[str, int | None], mask: Tensor, query: Tensor, key: Tensor) -> Tensor | dict[str, Tensor]:
    """`mask` (R, 1, queries, keys), or one for each kind of layer where some see no further than a window.

    query (R, queries), key (R, keys): positions in a row's own text.
    """
    if set(windows.values()) == {None}:
        return mask
    distance = (query[:, :, None] - key[:, None])[:, None]
    masks = {
        kind: mask if window is None else mask.masked_fill(distance >= window, -torch.inf)
        for kind, window in windows.items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _shared_out(cache: Any, slot: Tensor, room: int) -> Any:
    """An encoder-decoder's cache for the responses of the prompts at `slot`."""
    own, cross = cache.self_attention_cache, cache.cross_attention_cache
    return EncoderDecoderCache(fan_out(own, slot, room), fan_out(cross, slot, 0))


def _stacked(caches: list[Any]) -> Any:
    if not isinstance(caches[0], EncoderDecoderCache):
        return stack(caches)
    stack([cache.self_attention_cache for cache in caches])
    stack([cache.cross_attention_cache for cache in caches])
    return caches[0]


@torch.inference_mode()
def each_response(
    trunk: Any,
    prompts: Sequence[Ids],
    responses: Sequence[Sequence[Ids]],
    pad: int,
    value: Callable[[States], Tensor],
) -> list[list[Any]]:
    """Results of `value` for each response of each prompt: floats of (R,), arrays of (R, columns).

    What a prompt has several times is read once.
    """
    distinct = [list({tuple(ids): ids for ids in row}.values()) for row in responses]
    found: list[dict[tuple[int, ...], Any]] = [{} for _ in responses]
    for states in response_states(trunk, prompts, distinct, pad):
        values = value(states).double().cpu()
        for (i, j), one in zip(states.owners, values.tolist() if values.dim() == 1 else values.numpy(), strict=False):
            found[i][tuple(distinct[i][j])] = one
    return [[found[i][tuple(ids)] for ids in row] for i, row in enumerate(responses)]


@torch.inference_mode()
def each_row(model: Any, rows: Sequence[Row], value: Callable[[list[Row], int], Tensor]) -> list[Any]:
    """Results of `value` (rows, width) -> (R,) or (R, columns) for each row, read whole; equal rows are read once.

    At least one column is padding in every batch, so that the mask is never left out.
    """
    names = [(tuple(ids), tuple(types)) for ids, types in rows]
    distinct = dict(zip(names, rows, strict=True))
    found: dict[Any, Any] = {}
    lengths = {name: len(name[0]) + 1 for name in distinct}
    for width, real, part in filled_batches(model, lengths, lambda width: rows_per_batch(model, width)):
        values = value([distinct[name] for name in part], width).double().tolist()
        found |= dict(zip(real, values, strict=False))
    return [found[name] for name in names]


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(R, L, D) -> (R, D) float32: the state at the last token of the mask, or the mean over its tokens."""
    if pooling == "last":
        places = torch.arange(mask.shape[1], device=mask.device)
        return hidden[torch.arange(len(hidden), device=hidden.device), (mask * places).amax(1)].float()
    weight = mask[..., None].float()
    return (hidden.float() * weight).sum(1) / weight.sum(1)


# --- probabilities of tokens --------------------------------------------------------------------------------


def all_log_probabilities(model: Any, states: Tensor, temperature: float = 1.0) -> Tensor:
    """(..., D) states -> (..., vocabulary) log-probabilities in nats of the next token."""
    logits = logits_of(model, states).float()
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def of_tokens(
    model: Any, value: Callable[..., tuple[Tensor, ...]], states: Tensor, *columns: Tensor, temperature: float = 1.0
) -> tuple[Tensor, ...]:
    """Results of `value`, (...) each: of all tokens' log-probabilities in nats after `states` (..., D), and of columns.

    Of a few tokens at a time where the table of all would not fit in memory.
    """

    def once(states: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
        return value(all_log_probabilities(model, states, temperature), *columns)

    def chunks(*columns: Tensor) -> tuple[Tensor, ...]:
        shape, size = columns[0].shape[:-1], tokens_at_once(model)
        if shape.numel() <= size:
            return once(*columns)
        flat = (column.flatten(0, len(shape) - 1) for column in columns)
        return tuple(column.view(shape) for column in in_chunks(once, size, *flat))

    return at_once(model, chunks, states, *columns)


def that_predict(states: States) -> Tensor:
    """(R, L, D): the state before each token of the responses."""
    return torch.cat([states.before[:, None], states.hidden[:, :-1]], 1)


def rows_at_once(model: Any, width: int) -> int:
    """Rows of `width` tokens whose table of all tokens' log-probabilities fits in memory; at least one."""
    return max(1, tokens_at_once(model) // width)


def tokens_at_once(model: Any) -> int:
    """Tokens whose table of all tokens' log-probabilities fits in memory."""
    vocabulary: int = text_config(model.config).vocab_size
    return max(1, VOCABULARY_AT_ONCE // vocabulary)


def in_parts(model: Any, value: Callable[[States], Tensor]) -> Callable[[States], Tensor]:
    """`value` of a few rows at a time where the table of all tokens' log-probabilities would not fit in memory.

    Of one row, if its own does not: what `value` makes of it by `of_tokens` is of a few tokens then.
    """

    def parts(states: States) -> Tensor:
        rows = rows_at_once(model, states.ids.shape[1])
        cuts = [slice(start, start + rows) for start in range(0, len(states.ids), rows)]
        every = (states.ids, states.mask, states.hidden, states.before)
        return torch.cat([value(States([], *(one[cut] for one in every))) for cut in cuts])

    return parts


def log_likelihood(
    model: Any, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]], pad: int, total: bool = False
) -> list[list[float]]:
    """Mean (or `total`) log-probability in nats of each response's tokens, eos included, given its prompt."""

    def value(states: States) -> Tensor:
        summed = (log_probabilities(model, that_predict(states), states.ids) * states.mask).sum(1)
        return summed if total else summed / states.mask.sum(1)

    return each_response(trunk_of(model), prompts, responses, pad, in_parts(model, value))


# --- with gradients: what optimizers that train a policy are made of ----------------------------------------


@dataclass(frozen=True)
class Responses:
    """Prompts with one response each, ready to be read; R is the longest response."""

    read: dict[str, Tensor]  # arguments of the trunk
    places: Tensor  # (B, R) where the state stands that predicts each response token
    ids: Tensor  # (B, R) response tokens, padded
    mask: Tensor  # (B, R) bool, True on the response, eos included

    def __len__(self) -> int:
        return len(self.ids)


def responses_of(model: Any, prompts: Sequence[Ids], responses: Sequence[Ids], pad: int) -> Responses:
    """Aligned prompts and responses (token ids; eos last where it came) on the model's device."""
    rows = list(zip(prompts, responses, strict=True))
    width = max(map(len, responses))
    lengths = torch.tensor([len(response) for response in responses])
    step = torch.arange(width)
    read = padded_batch(model.config, rows, pad)
    if model.config.is_encoder_decoder:
        places = step.expand(len(rows), -1)
    else:
        places = torch.tensor([len(prompt) - 1 for prompt in prompts])[:, None] + step
        places = places.clamp_max(read["input_ids"].shape[1] - 1)
    del read["response_mask"]
    device = model.device
    return Responses(
        {name: value.to(device) for name, value in read.items()},
        places.to(device),
        torch.from_numpy(pad_right(responses, width, pad)).to(device),
        (step < lengths[:, None]).to(device),
    )


def hidden_states(model: Any, read: Mapping[str, Tensor]) -> Tensor:
    """(B, L, D): last hidden states of what `padded_batch` made; of an encoder-decoder the decoder's (B, M, D)."""
    with recomputing(model):
        if not model.config.is_encoder_decoder:
            return trunk_of(model)(**read, use_cache=False)[0]  # type: ignore[no-any-return]
        mask = read["attention_mask"]
        states = model.get_encoder()(input_ids=read["input_ids"], attention_mask=mask)[0]
        return model.get_decoder()(  # type: ignore[no-any-return]
            input_ids=read["decoder_input_ids"],
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        )[0]


def predicting_states(model: Any, batch: Responses) -> Tensor:
    """(B, R, D): the last hidden state before each response token."""
    hidden = hidden_states(model, batch.read)
    return hidden.gather(1, batch.places[..., None].expand(-1, -1, hidden.shape[-1]))


def log_probabilities(model: Any, states: Tensor, ids: Tensor) -> Tensor:
    """(...) log-probabilities in nats of the tokens `ids` that follow `states` (..., D)."""
    return of_tokens(model, lambda every, ids: (every.gather(-1, ids[..., None])[..., 0],), states, ids)[0]


@torch.inference_mode()
def kl_along(
    policy: Any, reference: Any, prompts: Sequence[Ids], responses: Sequence[Ids], pad: int, temperature: float = 1.0
) -> list[float]:
    """KL(policy || reference) in nats along each response: the divergence of the next-token distributions, summed.

    At `temperature`. Its mean over the policy's own samples is an unbiased estimate of the divergence between the
    distributions of whole responses (chain rule), with less variance than log-ratios of the sampled tokens. Where both
    are one model, the reference is that without its adapters.
    """
    batch, adapted = responses_of(policy, prompts, responses, pad), reference is policy
    own = predicting_states(policy, batch)
    with without_adapters(reference, adapted):
        other = predicting_states(reference, batch)

    def divergence(log_p: Tensor, other: Tensor) -> tuple[Tensor]:
        with without_adapters(reference, adapted):
            log_q = all_log_probabilities(reference, other, temperature)
        return ((log_p.exp() * (log_p - log_q)).sum(-1),)

    rows = rows_at_once(policy, batch.ids.shape[1])
    sums: list[float] = []
    for start in range(0, len(batch), rows):
        cut = slice(start, start + rows)
        [each] = of_tokens(policy, divergence, own[cut], other[cut], temperature=temperature)
        sums += (each * batch.mask[cut]).sum(1).tolist()
    return sums
