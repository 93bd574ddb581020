"""Alignment of representations while a reward model is trained: parallel texts pulled together, beside the feedback.

After regularised representation alignment (Liu et al. 2020, arXiv 2009.14510): what is learnt from one language is tied
to others while it is learnt. A text of a source language, its translation, and another text of the translation's
language are read as prompts with responses are. The loss gets `weight` times -log sigmoid((u v - u w) / TEMPERATURE) of
their states u, v and w, the ones that the head reads, each of length 1: the translation is to be nearer than the other
text. To pull parallel texts together without that makes the states of all texts one and the same (docs/decisions.md).
No labels of the other language are read.

Each example of the feedback brings its own texts, the same in every pass over the feedback: so the term is a mean over
the rows of a batch, as the loss is, however these are shared out over processes and micro-batches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from xling.rewards import Parallel

Batch = dict[str, Tensor]
# rows, what makes a batch of some of them, and the loss of a model on it, a mean over its rows
Learnt = tuple[Sequence[Any], Callable[[list[Any]], Batch], Callable[[Any, Batch], Tensor]]

SIDES = ("here_", "there_", "other_")  # what names of a batch begin with: the source's text, its translation, another
TEMPERATURE = 0.1
PROBE, AT_ONCE = 64, 8  # parallel texts that are watched, so many at once


def added(net: Any, learnt: Learnt, texts: Sequence[Parallel], weight: float, seed: int) -> Learnt:
    """What is learnt, with parallel texts beside each row: in one random order, again where there are fewer."""
    rows, collate, loss = learnt
    order = np.random.default_rng(seed).permutation(len(texts))
    read = as_read(net, [texts[order[i % len(order)]] for i in range(len(rows))])

    def both(some: list[Any]) -> Batch:
        return collate([row for row, _ in some]) | batch_of(net, [beside for _, beside in some])

    def joint(model: Any, batch: Batch) -> Tensor:
        own = {name: value for name, value in batch.items() if not name.startswith(SIDES)}
        nearer = nearness(model, batch) / TEMPERATURE
        return loss(model, own) - weight * logsigmoid(nearer).mean()

    return list(zip(rows, read, strict=True)), both, joint


def as_read(net: Any, texts: Sequence[Parallel]) -> list[Any]:
    """All sides of parallel texts as the net reads them."""
    sides = (net.rows([p for p, _ in side], [r for _, r in side]) for side in zip(*texts, strict=True))
    return list(zip(*sides, strict=True))


def batch_of(net: Any, texts: Sequence[Any]) -> Batch:
    """The arguments of the net's `state` for all sides."""
    sides = zip(SIDES, zip(*texts, strict=True), strict=True)
    return {f"{side}{name}": value for side, rows in sides for name, value in net.collate(list(rows)).items()}


def nearness(model: Any, batch: Batch) -> Tensor:
    """(B,) by how much more the cosine of a text's state is with its translation's than with the other text's."""
    sides = ({name.removeprefix(side): batch[name] for name in batch if name.startswith(side)} for side in SIDES)
    here, there, other = (normalize(model.state(**side)) for side in sides)
    return (here * (there - other)).sum(1)


@torch.no_grad()
def nearer(net: Any, texts: Sequence[Parallel]) -> float:
    """Share of PROBE texts of all languages that are nearer to their translation than to another; chance: half."""
    net.eval()
    device, read = next(net.parameters()).device, as_read(net, texts[:: -(-len(texts) // PROBE)])
    batches = [batch_of(net, read[start : start + AT_ONCE]) for start in range(0, len(read), AT_ONCE)]
    found = [nearness(net, {name: value.to(device) for name, value in batch.items()}) for batch in batches]
    return float((torch.cat(found) > 0).float().mean())
