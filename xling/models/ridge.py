"""Ridge regression in closed form on blocks of features; the penalty is chosen by cross-validation by group.

A block (the dimensions of an embedding product, a cosine, hashed counts) is centred and divided by its total
standard deviation, so that the one penalty weighs blocks of 1 and of 1,000 columns alike: otherwise it would
either shrink one strong feature away or leave 1,000 weak ones free to fit noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xling.models.folds import assign_folds

Array = np.ndarray[Any, np.dtype[np.float64]]

PENALTIES = 10.0 ** np.arange(-2, 7)  # in units of a block's total variance in one row
INNER_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Linear:
    """Scores are `features @ weight + bias`."""

    weight: Array  # (columns,)
    bias: float
    penalty: float  # chosen by cross-validation
    explained: float  # share of label variance explained in that cross-validation; negative: worse than the mean

    def predict(self, blocks: Sequence[Array]) -> Array:
        """(rows,) scores; each block is (rows, columns of the block)."""
        return np.hstack(blocks) @ self.weight + self.bias


def fit(blocks: Sequence[Array], labels: Array, groups: Sequence[str]) -> Linear:
    """Least squares with a ridge; the penalty with the least squared error on held-out groups.

    Rows of a group are held out together. With a single group the largest penalty is taken.
    """
    features = np.hstack(blocks)
    centre = features.mean(axis=0)
    scale = np.concatenate([np.full(block.shape[1], _total_deviation(block)) for block in blocks])
    features = (features - centre) / scale
    errors = _held_out_errors(features, labels, groups)
    best = int(np.argmin(errors))
    mean = float(labels.mean())
    weight = _path(features, labels - mean)[best] / scale
    spread = float(((labels - mean) ** 2).sum())
    explained = 1.0 - float(errors[best]) / spread if spread > 0 else 0.0
    return Linear(weight, mean - float(centre @ weight), float(PENALTIES[best]), explained)


def fit_whitened(blocks: Sequence[Array], fitted: Callable[[list[Array]], Linear]) -> Linear:
    """`fitted` on decorrelated columns of unit variance, a block at a time; the head is for the blocks as they came.

    Otherwise the penalty spares the direction in which features vary most, and a head of no signal takes that very
    direction: for features that all go with quality, labels at random would give a good model or its opposite.
    """
    maps = [_whitening(block) for block in blocks]
    head = fitted([block @ turn for block, turn in zip(blocks, maps, strict=True)])
    cuts = np.cumsum([turn.shape[1] for turn in maps])[:-1]
    weight = np.concatenate([turn @ part for turn, part in zip(maps, np.split(head.weight, cuts), strict=True)])
    return replace(head, weight=weight)


def _whitening(block: Array) -> Array:
    """(columns, rank) map to columns of unit variance; directions without variance are left out."""
    values, vectors = np.linalg.eigh(np.cov(block, rowvar=False, ddof=0).reshape(block.shape[1], -1))
    kept = values > 1e-9 * values.max()
    turn: Array = vectors[:, kept] / np.sqrt(values[kept])
    return turn


def fit_pairwise(chosen: Sequence[Array], rejected: Sequence[Array], groups: Sequence[str]) -> Linear:
    """Least squares of feature differences on +1, chosen minus rejected, and on -1 the other way round."""
    forward = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
    both = [np.concatenate([block, -block]) for block in forward]
    return fit(both, np.repeat([1.0, -1.0], len(groups)), [*groups, *groups])


def save(path: Path, head: Linear) -> None:
    """An .npz file."""
    np.savez(path, weight=head.weight, bias=head.bias, penalty=head.penalty, explained=head.explained)


def load(path: Path) -> Linear:
    """What `save` wrote."""
    with np.load(path) as stored:
        return Linear(stored["weight"], float(stored["bias"]), float(stored["penalty"]), float(stored["explained"]))


def _total_deviation(block: Array) -> float:
    return float(np.sqrt(block.var(axis=0).sum())) or 1.0


def _held_out_errors(features: Array, labels: Array, groups: Sequence[str]) -> Array:
    """(penalties,) squared errors summed over held-out groups; with one group, in favour of the largest."""
    fold_of = assign_folds(groups, INNER_FOLDS, "inner")
    folds = np.array([fold_of[group] for group in groups])
    if len(fold_of) < 2:
        return np.arange(len(PENALTIES), 0.0, -1.0)
    errors = np.zeros(len(PENALTIES))
    for fold in np.unique(folds):
        held, train = folds == fold, folds != fold
        centre, mean = features[train].mean(axis=0), labels[train].mean()
        weights = _path(features[train] - centre, labels[train] - mean)  # (penalties, columns)
        predicted = (features[held] - centre) @ weights.T + mean  # (rows, penalties)
        errors += ((predicted - labels[held][:, None]) ** 2).sum(axis=0)
    return errors


def _path(features: Array, labels: Array) -> Array:
    """(penalties, columns) ridge solutions from one eigendecomposition of the smaller Gram matrix."""
    rows, columns = features.shape
    if rows <= columns:
        values, vectors = np.linalg.eigh(features @ features.T)
        target = vectors.T @ labels
        weights: Array = (vectors @ (target[:, None] / (values[:, None] + PENALTIES))).T @ features
        return weights
    values, vectors = np.linalg.eigh(features.T @ features)
    target = vectors.T @ (features.T @ labels)
    weights = (vectors @ (target[:, None] / (values[:, None] + PENALTIES))).T
    return weights
