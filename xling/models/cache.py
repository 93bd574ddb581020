"""A key-value cache with room to grow: one prompt's entries fan out to its responses, new ones are written in place.

transformers' DynamicCache copies the whole cache at every step, which was 80 % of the sampling time of a small
model on a CPU; its StaticCache attends to the unused room as well.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


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

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, new, head_dim) and return all that is cached."""
        end = self.used + key_states.shape[-2]
        self._keys[:, :, self.used : end] = key_states
        self._values[:, :, self.used : end] = value_states
        self.used = end
        self._view()
        return self._keys[:, :, :end], self._values[:, :, :end]


def fan_out(cache: Any, rows: Tensor, room: int) -> Any:
    """A new cache whose batch is `cache`'s rows by index, with room for `room` more positions."""
    return Cache(layers=[RoomyLayer(layer.keys, layer.values, rows, room) for layer in cache.layers])


def stack(caches: Sequence[Any]) -> Any:
    """The rows of several caches in the first one."""
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        layer.keys = torch.cat([layer.keys, *(other.keys for other in others)])
        layer.values = torch.cat([layer.values, *(other.values for other in others)])
    return caches[0]
