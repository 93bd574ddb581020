"""Ridge regression in closed form on blocks of features, folds of documents, and features on disk.

The penalty is chosen by cross-validation by group.

A block (the dimensions of an embedding product, a cosine, hashed counts) is centred and divided by its total
standard deviation, so that the one penalty weighs blocks of 1 and of 1,000 columns alike: otherwise it would
either shrink one strong feature away or leave 1,000 weak ones free to fit noise.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xling.errors import StageError
from xling.tasks.records import Half

Array = np.ndarray[Any, np.dtype[np.float64]]
Rows = np.ndarray[Any, np.dtype[np.intp]]

PENALTIES: Array = np.array([10.0**power for power in range(-2, 7)])  # in units of a block's total variance in one row
INNER_FOLDS = 5
# From here on rows are summed up by fold, the same but for rounding: then what is solved is as large as the columns,
# else as a fold of rows. Where it is faster was measured with 129 to 1,025 columns; of fewer rows neither takes long.
MANY_ROWS, ROWS_PER_COLUMN = 1000, 2


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
    centre, mean = features.mean(axis=0), float(labels.mean())
    scale = np.concatenate([np.full(block.shape[1], _deviation(block - block.mean(axis=0))) for block in blocks])
    weight, penalty, explained = _solve((features - centre) / scale, labels - mean, groups, PENALTIES, True)
    weight /= scale
    return Linear(weight, mean - float(centre @ weight), penalty, explained)


def fit_each(features: Array, labels: Array, groups: Sequence[str]) -> list[Linear]:
    """`fit` on one block for every column of (rows, K) labels, each with its own penalty: one decomposition for all."""
    centre, means = features.mean(axis=0), labels.mean(axis=0)
    scale = _deviation(features - centre)
    solver, centred = _solver((features - centre) / scale, groups), labels - means
    errors = _held_out_errors(solver, centred, groups, PENALTIES, True)
    heads = []
    for own, error, mean in zip(centred.T, errors.T, means, strict=True):
        penalty, spread = float(PENALTIES[int(np.argmin(error))]), float((own**2).sum())
        weight = solver.weights(own, penalty) / scale
        explained = 1.0 - float(error.min()) / spread if spread > 0 else 0.0
        heads.append(Linear(weight, float(mean - centre @ weight), penalty, explained))
    return heads


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
    """Least squares of feature differences on +1, chosen minus rejected, and on -1 the other way round.

    The two ways mirror each other: one of them without an intercept and with half the penalty has the same solution.
    """
    forward = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
    scale = np.concatenate([np.full(block.shape[1], _deviation(block)) for block in forward])
    labels = np.ones(len(groups))
    weight, penalty, explained = _solve(np.hstack(forward) / scale, labels, groups, PENALTIES / 2, False)
    return Linear(weight / scale, 0.0, penalty * 2, explained)


def save(path: Path, head: Linear) -> None:
    """An .npz file."""
    np.savez(path, weight=head.weight, bias=head.bias, penalty=head.penalty, explained=head.explained)


def load(path: Path) -> Linear:
    """Reads the file that `save` wrote."""
    return load_all(path)[0]


def save_all(path: Path, heads: Sequence[Linear]) -> None:
    """An .npz file of several heads: weight (heads, columns); bias, penalty, explained (heads,)."""
    numbers = np.array([(head.bias, head.penalty, head.explained) for head in heads])
    bias, penalty, explained = numbers.T
    np.savez(path, weight=np.stack([head.weight for head in heads]), bias=bias, penalty=penalty, explained=explained)


def load_all(path: Path) -> list[Linear]:
    """Reads a file of one head or of several."""
    with np.load(path) as stored:
        weights = np.atleast_2d(stored["weight"])
        numbers = [np.atleast_1d(stored[name]).tolist() for name in ("bias", "penalty", "explained")]
    return [Linear(weight, *own) for weight, *own in zip(weights, *numbers, strict=True)]


def _deviation(centred: Array) -> float:
    """Total standard deviation of a block's columns; 1 for a constant block."""
    return float(np.sqrt((centred**2).mean(axis=0).sum())) or 1.0


def _solve(
    features: Array, labels: Array, groups: Sequence[str], penalties: Array, intercept: bool
) -> tuple[Array, float, float]:
    """(weights, penalty, explained) for scaled features, with labels and features centred if there is an intercept."""
    solver = _solver(features, groups)
    errors = _held_out_errors(solver, labels, groups, penalties, intercept)
    best = int(np.argmin(errors))
    spread = float((labels**2).sum())
    explained = 1.0 - float(errors[best]) / spread if spread > 0 else 0.0
    return solver.weights(labels, penalties[best]), float(penalties[best]), explained


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """Features as left @ diag(values ** 0.5) @ right.T: rows, spectrum of the Gram matrix, columns."""

    left: Array  # (rows, rank), orthonormal columns
    values: Array  # (rank,)
    right: Array  # (columns, rank), orthonormal columns

    def weights(self, labels: Array, penalty: float) -> Array:
        """(columns,) ridge solution."""
        found: Array = self.right @ (np.sqrt(self.values) / (self.values + penalty) * (self.left.T @ labels))
        return found

    def held_out(self, held: Rows, labels: Array, penalties: Array, intercept: bool) -> Array:
        """(penalties, held rows, *labels' columns) errors on rows of a fit without them, centred anew.

        No such fit is made: with the hat matrix H of the fit on all rows (its intercept included), they are
        (I - H_gg)^-1 times the residuals (Golub, Heath and Wahba 1979, for several rows at once).
        """
        own, projected = self.left[held], self.left.T @ labels
        errors = []
        for penalty in penalties:
            shrunk = own * (self.values / (self.values + penalty))
            hat = shrunk @ own.T + intercept / len(labels)
            errors.append(np.linalg.solve(np.eye(len(own)) - hat, labels[held] - shrunk @ projected))
        return np.stack(errors)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The same of many rows from their sums by fold: nothing is as big as the square of a fold's rows."""

    features: Array  # (rows, columns)
    grams: Mapping[int, Array]  # fold -> (columns, columns)
    folds: Rows

    def weights(self, labels: Array, penalty: float) -> Array:
        """(columns,) ridge solution."""
        return _ridge(sum(self.grams.values()), self.features.T @ labels, penalty)

    def held_out(self, held: Rows, labels: Array, penalties: Array, intercept: bool) -> Array:
        """As of `_Spectrum`, by the fit itself: held rows are a fold."""
        own, kept = self.features[held], len(labels) - int(held.sum())
        gram = sum(g for fold, g in self.grams.items() if fold != self.folds[held][0])
        right = self.features.T @ labels - own.T @ labels[held]
        # with an intercept the mean of all rows is 0, and those that are left have minus the sum of the held ones
        centre, mean = (-intercept * side[held].sum(axis=0) / kept for side in (self.features, labels))
        gram -= kept * np.outer(centre, centre)
        right -= kept * np.multiply.outer(centre, mean)
        fits = (_ridge(gram, right, penalty) for penalty in penalties)
        return np.stack([labels[held] - mean - (own @ weight - centre @ weight) for weight in fits])


def _ridge(gram: Any, right: Array, penalty: float) -> Array:
    # Folds of documents are asked for while planning, which does without scipy.
    from scipy.linalg import cho_factor, cho_solve

    found: Array = cho_solve(cho_factor(gram + penalty * np.eye(len(gram)), overwrite_a=True), right)
    return found


def _solver(features: Array, groups: Sequence[str]) -> _Spectrum | _Sums:
    rows, columns = features.shape
    if rows < MANY_ROWS or rows < ROWS_PER_COLUMN * columns:
        return _spectrum(features)
    folds = _inner_folds(groups)
    return _Sums(features, {fold: (part := features[folds == fold]).T @ part for fold in np.unique(folds)}, folds)


def _spectrum(features: Array) -> _Spectrum:
    """One eigendecomposition of the smaller Gram matrix; directions without variance are left out."""
    rows, columns = features.shape
    values, vectors = np.linalg.eigh(features @ features.T if rows <= columns else features.T @ features)
    kept = values > max(values[-1], 1e-300) * 1e-13
    values, vectors = values[kept], vectors[:, kept]
    other = (features.T if rows <= columns else features) @ vectors / np.sqrt(values)
    return _Spectrum(vectors, values, other) if rows <= columns else _Spectrum(other, values, vectors)


def _held_out_errors(
    solver: _Spectrum | _Sums, labels: Array, groups: Sequence[str], penalties: Array, intercept: bool
) -> Array:
    """(penalties, *labels' columns) squared errors summed over held-out groups; with one group, in favour of the
    largest penalty.
    """
    folds = _inner_folds(groups)
    if len(set(groups)) < 2:
        order = np.arange(len(penalties), 0.0, -1.0)
        return np.broadcast_to(order.reshape(-1, *[1] * (labels.ndim - 1)), (len(penalties), *labels.shape[1:]))
    errors = np.zeros((len(penalties), *labels.shape[1:]))
    for fold in np.unique(folds):
        errors += (solver.held_out(folds == fold, labels, penalties, intercept) ** 2).sum(axis=1)
    return errors


def _inner_folds(groups: Sequence[str]) -> Rows:
    fold_of = assign_folds(groups, INNER_FOLDS, "inner")
    return np.array([fold_of[group] for group in groups])


# --- folds of documents: balanced, decided by names and seeds, never by the order of rows -------------------


def in_order(groups: Iterable[str], *seeds: int | str) -> list[str]:
    """Each group once, in a random order that the seeds decide: its first N are a nested sample."""

    def place(group: str) -> bytes:
        return hashlib.sha256("\0".join([*map(str, seeds), group]).encode()).digest()

    return sorted(set(groups), key=place)


def assign_folds(groups: Iterable[str], folds: int, *seeds: int | str) -> dict[str, int]:
    """group -> fold in 0..folds-1; dealt out `in_order`, so that sizes differ by 1 at most, of any first N as well."""
    return {group: rank % folds for rank, group in enumerate(in_order(groups, *seeds))}


def half_of(group: str) -> Half:
    """Of all documents, by a hash of the name alone: parallel documents stand in the same half in every language."""
    return "second" if hashlib.sha256(f"half\0{group}".encode()).digest()[0] & 1 else "first"


# --- features of texts on disk, found again by the text itself ----------------------------------------------

Keys = np.ndarray[Any, np.dtype[np.uint64]]


def write_rows(path: Path, texts: Sequence[str], blocks: Sequence[Array]) -> None:
    """An .npz of blocks (len(texts), columns), sorted by the texts' keys; `texts` holds each once."""
    keys = _keys(texts)
    order = np.argsort(keys)
    np.savez(path, keys[order], *(block[order] for block in blocks))


def read_rows(path: Path, texts: Sequence[str]) -> list[Array]:
    """The blocks' rows of these texts, in their order; StageError for one that is not there."""
    with np.load(path) as stored:
        keys: Keys = stored["arr_0"]
        blocks = [stored[f"arr_{i}"] for i in range(1, len(stored.files))]
    wanted = _keys(texts)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    missing = np.flatnonzero(keys[places] != wanted)
    if len(missing):
        raise StageError(f"{path.parent.parent.name}: {len(missing)} texts of {len(texts)} have no features there.")
    return [block[places] for block in blocks]


def pair_text(document: str, response: str) -> str:
    """The text that stands for a response to a document."""
    return f"{document}\0{response}"


def _keys(texts: Sequence[str]) -> Keys:
    """(n,) the first eight bytes of each text's sha256."""
    found = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(found, dtype=">u8").astype(np.uint64)
