"""What lets a step of training take less memory and stay the same step: for all that trains a language model.

Tables over the vocabulary are made for a few tokens at a time, layers are computed again for the gradients, and what a
policy with adapters is held to is the policy itself with its adapters switched off.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def in_chunks(value: Callable[..., tuple[Tensor, ...]], size: int, *columns: Tensor) -> tuple[Tensor, ...]:
    """`value` of `columns`, (T, ...) each, whose results are (T, ...) too: of `size` rows at a time.

    What it makes on the way is made again for the gradients of more than one chunk, so that memory holds that of one.
    """
    if len(columns[0]) <= size:
        return value(*columns)
    parts = [
        checkpoint(value, *cut, use_reentrant=False) if torch.is_grad_enabled() else value(*cut)
        for cut in zip(*(column.split(size) for column in columns), strict=True)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Where gradients are wanted, layers with gradient checkpointing do it in evaluation mode too.

    transformers has it of layers in training mode alone; without gradients it would only be in a cache's way.
    """
    parts = model.modules() if torch.is_grad_enabled() else ()
    layers = [
        part
        for part in parts
        if isinstance(part, GradientCheckpointingLayer) and part.gradient_checkpointing and not part.training
    ]
    for layer in layers:
        layer.training = True  # of the layer itself: dropout is modules inside it, or has a probability of 0
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


@contextlib.contextmanager
def without_adapters(model: Any, wanted: bool = True) -> Iterator[Any]:
    """`model`, its adapters (peft's layers around a `base_layer`) switched off for the moment if `wanted`.

    For reading without gradients: their weights are left as they are. peft's own way changes what of them learns, which
    several processes that share them out (FSDP2) would take for good.
    """
    layers = [part for part in model.modules() if hasattr(part, "base_layer")] if wanted else []
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield model
    finally:
        for layer in layers:
            layer._disable_adapters = False
