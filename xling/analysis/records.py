"""Per-item records of finished stages, read and checked: the only files that the matrix is folded from.

items.json, curve.npy, summary.json, pairs.json and spearman.json stand in a judge stage's folder;
heldout.json, pool.npy and baseline.npy in a score or gold stage's. StoreError names what does not fit.
"""

import math
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from xling.analysis.intervals import Floats
from xling.errors import StoreError

_T = TypeVar("_T")


class Items(Struct, frozen=True):
    """One entry a prompt, in the task's test order."""

    prompt: list[str]
    group: list[str]
    dataset: list[str]
    win: list[float | None]  # 0..1, mean over opponents and judged responses; None: a judge that gave no answer
    in_language: list[float]  # share of the judged responses: one, or all samples of a trained policy
    length: list[float]


class Summary(Struct, frozen=True):
    n_samples: int
    kl_bound: float | None  # None: a trained policy, whose divergence was measured


class Pairs(Struct, frozen=True):
    """Within a prompt, does the reward model agree with the human ratings: 1, 0.5 or 0."""

    group: list[str]
    correct: list[float]


class Spearman(Struct, frozen=True):
    rho: float | None
    n: int


class LengthRule(Struct, frozen=True):
    """The length baseline, fitted on training data. The threshold is not used for pairs."""

    longer_is_better: bool
    threshold: float = 0.0


class Heldout(Struct, frozen=True):
    """Reward model scores on held-out preferences: score and label (pointwise) or chosen and rejected."""

    group: list[str]
    score: list[float] = []
    label: list[float] = []
    length: list[float] = []
    chosen: list[float] = []
    rejected: list[float] = []
    chosen_length: list[float] = []
    rejected_length: list[float] = []
    length_rule: LengthRule | None = None

    @property
    def pairwise(self) -> bool:
        return bool(self.chosen)


def read_json(path: Path, type_: type[_T]) -> _T:
    """Decode a typed record; StoreError names the file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        raise StoreError(f"{path.name} is missing from the finished stage {_stage(path)}.") from None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path.name} of stage {_stage(path)} does not fit: {error}.") from error


def read_array(path: Path) -> Floats:
    """A float64 matrix (prompts, columns)."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise StoreError(f"{path.name} is missing from the finished stage {_stage(path)}.") from None
    except ValueError as error:
        raise StoreError(f"{path.name} of stage {_stage(path)} is not a numpy array: {error}.") from error
    if array.ndim != 2:
        shape = array.shape
        raise StoreError(f"{path.name} of stage {_stage(path)} has shape {shape}, not (prompts, columns).")
    return np.asarray(array, dtype=np.float64)


def read_items(folder: Path) -> Items:
    """items.json of a judge stage: equal columns, wins in [0, 1], at least one prompt."""
    items = read_json(folder / "items.json", Items)
    _same_length(folder / "items.json", items)
    wins = np.array(items.win, dtype=np.float64)  # None is NaN
    if not ((wins >= 0) & (wins <= 1) | np.isnan(wins)).all():
        raise StoreError(f"items.json of stage {_stage(folder / 'x')} has a win outside 0..1.")
    return items


class Subsets(Struct, frozen=True):
    """What the prompts of a benchmark belong to, by prompt; `weight` is the subset's in its category."""

    prompt: list[str]
    category: list[str]
    subset: list[str]
    weight: list[float | None]


def read_subsets(folder: Path) -> Subsets | None:
    """subsets.json of a recorded stage, or None where prompts have no subsets."""
    path = folder / "subsets.json"
    if not path.exists():
        return None
    subsets = read_json(path, Subsets)
    _same_length(path, subsets)
    return subsets


class Notes(Struct, frozen=True):
    """What a score stage of recorded responses remarks."""

    unknown_languages: list[str] = []


def read_notes(folder: Path) -> Notes:
    """notes.json of a score stage; empty where there is none."""
    path = folder / "notes.json"
    return read_json(path, Notes) if path.exists() else Notes()


def read_heldout(folder: Path) -> Heldout | None:
    """heldout.json of a score stage, or None where the task has no held-out preferences."""
    path = folder / "heldout.json"
    if not path.exists():
        return None
    heldout = read_json(path, Heldout)
    pairs = ("chosen", "rejected", "chosen_length", "rejected_length")
    columns = pairs if heldout.pairwise else ("score", "label", "length")
    for column in columns:
        if len(getattr(heldout, column)) != len(heldout.group):
            raise StoreError(f"heldout.json of {_stage(path)}: '{column}' and 'group' differ in length.")
    return heldout if heldout.group else None


def _same_length(path: Path, record: Struct) -> None:
    lengths = {name: len(getattr(record, name)) for name in record.__struct_fields__}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise StoreError(f"{path.name} of stage {_stage(path)} has columns of unequal lengths {lengths}.")


def _stage(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.parent.name[:12]}"


def finite(value: float | None) -> float | None:
    """None for what JSON and tables cannot show."""
    return value if value is not None and math.isfinite(value) else None


class Record(Struct, frozen=True):
    """All that the matrix needs of one finished judge stage."""

    items: Items
    curve: Floats  # (prompts, n) in 0..1; (prompts, 0) of a trained policy
    summary: Summary
    pairs: Pairs | None
    spearman: Spearman | None


def read_record(folder: Path) -> Record:
    """Read a judge stage's folder; StoreError names the file that does not fit."""
    items = read_items(folder)
    summary = read_json(folder / "summary.json", Summary)
    curve = np.empty((len(items.prompt), 0)) if summary.kl_bound is None else read_array(folder / "curve.npy")
    if len(curve) != len(items.prompt):
        raise StoreError(f"curve.npy of {_stage(folder / 'x')} has {len(curve)} rows, items.json {len(items.prompt)}.")
    recorded = (folder / "pairs.json").exists()
    return Record(
        items,
        curve,
        summary,
        read_json(folder / "pairs.json", Pairs) if recorded else None,
        read_json(folder / "spearman.json", Spearman) if recorded else None,
    )


def bounds(verdict: Path, n: int) -> Floats:
    """(prompts, 2) win rates, 0..1, of the worst and the best of the pool's first n."""
    pool, opponents = read_array(verdict / "pool.npy")[:, :n], read_array(verdict / "baseline.npy")
    there = ~np.isnan(opponents)
    above = pool[:, :, None] > opponents[:, None, :]  # NaN compares as False
    level = pool[:, :, None] == opponents[:, None, :]
    wins = (above + 0.5 * level).sum(axis=2) / there.sum(axis=1)[:, None]
    wins[np.isnan(pool)] = np.nan
    return np.stack([np.nanmin(wins, axis=1), np.nanmax(wins, axis=1)], axis=1)
