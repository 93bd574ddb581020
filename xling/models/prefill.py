"""Reading a batch of prompts once, and going on from them token by token for any number of samples a prompt.

Two kinds of models, one interface: `logits` of each prompt's first response token, `take` to go on with chosen rows (a
prompt's samples at first, later those not finished), `step` for the next token. Keys and values grow in place
(models/cache.py); an encoder-decoder's are computed from the prompt once and shared out with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from xling.models.cache import fan_out
from xling.models.load import check_room, layer_windows, logits_of, reads_flat_masks, trunk_of
from xling.models.text import Ids, pad_right, padded_length

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
        self.cache: Any = DynamicCache()
        hidden = trunk_of(model)(input_ids=ids, past_key_values=self.cache, use_cache=True).last_hidden_state
        self.logits = logits_of(model, hidden[torch.arange(len(ids), device=ids.device), lengths - 1])

    def take(self, rows: Tensor, room: int) -> None:
        """Go on with these rows, each of them for up to `room` more tokens."""
        check_room(self.model.config, max(self.width, int(self.position.max()) + room))
        self.cache = fan_out(self.cache, rows, room)
        self.lengths, self.position = self.lengths[rows], self.position[rows]
        place = torch.arange(self.cache.get_seq_length() + room, device=rows.device)
        # (R, keys): where each key stands in its own sequence, past the padding
        self.key_position = torch.where(place < self.width, place, place - self.width + self.lengths[:, None])
        padding = (place < self.width) & (place >= self.lengths[:, None])
        # (R, 1, 1, keys), additive: what is padding in the prompt is not read
        self.mask = torch.zeros(len(rows), 1, 1, len(place), dtype=self.model.dtype, device=rows.device)
        self.mask.masked_fill_(padding[:, None, None], -torch.inf)

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
        """What the next token reads of the first `used` keys: one mask, or one for each kind of layer."""
        mask: Tensor = self.mask[..., :used]
        if self.flat:
            return (mask[:, 0, 0] == 0).long()
        masks = {kind: mask if window is None else self._near(mask, window) for kind, window in self.windows.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _near(self, mask: Tensor, window: int) -> Tensor:
        far = self.position[:, None] - self.key_position[:, : mask.shape[-1]] >= window
        return mask.masked_fill(far[:, None, None], -torch.inf)


class EncoderDecoderReader:
    """An encoder-decoder: the encoder reads the prompt, the decoder begins with decoder_start."""

    def __init__(self, model: Any, ids: Tensor, lengths: Tensor) -> None:
        self.model = model
        readable = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        self.encoded = model.get_encoder()(input_ids=ids, attention_mask=readable.long(), return_dict=True)
        dtype = self.encoded.last_hidden_state.dtype
        # (R, 1, 1, width), additive
        self.mask = torch.zeros(len(ids), 1, 1, ids.shape[1], dtype=dtype, device=ids.device)
        self.mask.masked_fill_(~readable[:, None, None], -torch.inf)
        self.cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.logits = self.step(torch.full_like(lengths, model.config.decoder_start_token_id))

    def take(self, rows: Tensor, room: int) -> None:
        """Go on with these rows, each of them for up to `room` more tokens."""
        own, cross = self.cache.self_attention_cache, self.cache.cross_attention_cache
        self.cache = EncoderDecoderCache(fan_out(own, rows, room), fan_out(cross, rows, 0))
        self.encoded = replace(self.encoded, last_hidden_state=self.encoded.last_hidden_state[rows])
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
