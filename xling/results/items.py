"""Per-item records of finished stages, read and checked: the only files that the matrix is folded from.

items.json, curve.npy, summary.json, pairs.json and spearman.json stand in a judge stage's folder; heldout.json,
pool.npy and baseline.npy in a score or gold stage's; curve.jsonl in an align stage's; accuracy.json in that of a
judge's accuracy. StoreError names what does not fit.
"""

import functools
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from xling.errors import StoreError
from xling.grid import joined
from xling.jsonfiles import decode

Floats = npt.NDArray[np.float64]

_T = TypeVar("_T")


Column = list[float | None]  # null: not judged, or not measured
Flags = list[float | bool | None]


class Items(Struct, frozen=True):
    """One entry a prompt, in the task's test order; measures are means over the judged responses: one, or all samples
    of a trained policy. Columns that a judge or an optimizer has nothing to say in are empty."""

    prompt: list[str]
    group: list[str]
    dataset: list[str]
    win: Column  # 0..1, mean over the opponents and the judged responses; null: this prompt was not judged
    in_language: Column  # share of the text; null: the detector does not know the language
    length: Column  # tokens
    eos: Column = []  # share that ended by itself
    repetition: Column = []  # share of word bigrams (xling/measures/words.py)
    reward: Column = []  # of RM_s, in its own units
    quality: Column = []  # of the judge's verdict scores, in their units
    kl: Column = []  # nats a response from SFT_t, measured along the samples; of trained policies
    baseline_in_language: Column = []
    baseline_length: Column = []
    baseline_eos: Column = []
    baseline_repetition: Column = []
    baseline_reward: Column = []
    baseline_quality: Column = []
    win_soft: Column = []  # of judge=llm, by the preference for the response in each pair
    win_hard: Column = []  # by 1, 0.5 or 0 in each pair
    # shares of the pairs that the judge was asked about (not of equal texts); null: none
    inconsistent: Flags = []  # of those answered in both orders, that the two orders decide differently
    unanswered: Flags = []  # with an order that was not answered
    mass: Column = []  # P("1") + P("2"), mean over the answers that have probabilities

    def column(self, name: str) -> Floats | None:
        """(prompts,) float64 with NaN for null; None where there is no value."""
        values = getattr(self, name)
        return np.array(values, dtype=np.float64) if any(value is not None for value in values) else None


_TYPES: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Items)}
_Raw: Any = msgspec.defstruct(
    "Raw",
    [
        (field.name, msgspec.Raw) if field.required else (field.name, msgspec.Raw, msgspec.Raw())
        for field in msgspec.structs.fields(Items)
    ],
)
# the same in most cells of a target, whose sources have the prompts and the opponents in common
_COMMON = {"prompt", "group", "dataset", "in_language", "eos"}
_COMMON |= {f"baseline_{name}" for name in ("in_language", "length", "eos", "repetition", "quality")}


def _items(content: bytes) -> Items:
    """Columns that many cells have in common are decoded once: 9 of 17 that are there, mostly the longest."""
    raw = decode(content, type=_Raw)
    parts = ((name, bytes(getattr(raw, name))) for name in _TYPES)
    return Items(**{name: (_common if name in _COMMON else _column)(part, name) for name, part in parts if part})


def _column(part: bytes, name: str) -> Any:
    return decode(part, type=_TYPES[name])


_common = functools.lru_cache(maxsize=64)(_column)


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
    return _read(path, lambda content: decode(content, type=type_))


def _read(path: Path, decoded: Callable[[bytes], _T]) -> _T:
    try:
        return decoded(joined.content(path))
    except FileNotFoundError:
        raise StoreError(f"{path.name} is missing from the finished stage {_stage(path)}.") from None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path.name} of stage {_stage(path)} does not fit: {error}.") from error


def read_array(path: Path) -> Floats:
    """A float64 matrix (prompts, columns)."""
    try:
        array = _array(joined.content(path))
    except FileNotFoundError:
        raise StoreError(f"{path.name} is missing from the finished stage {_stage(path)}.") from None
    except Exception as error:  # numpy raises whatever its parsers of headers, archives and pickles do
        raise StoreError(f"{path.name} of stage {_stage(path)} is not a numpy array: {error}.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise StoreError(f"{path.name} of stage {_stage(path)} is not an array of numbers.")
    if array.ndim != 2:
        shape = array.shape
        raise StoreError(f"{path.name} of stage {_stage(path)} has shape {shape}, not (prompts, columns).")
    return np.asarray(array, dtype=np.float64)


def _array(content: bytes) -> npt.NDArray[Any]:
    """What `np.load` gives; it takes a tenth of a millisecond to read a header, and most of a grid's are alike."""
    start = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] != b"\x93NUMPY\x01\x00":  # another version of the format, or none
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    shape, by_columns, dtype = _header(content[:start])
    if dtype.hasobject:
        raise ValueError("objects are not loaded")
    values = np.frombuffer(content, dtype, math.prod(shape), start)
    return values.reshape(shape, order="F" if by_columns else "C").copy(order="K")


@functools.lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = np.lib.format.read_array_header_1_0(file)
    return found


def read_items(folder: Path) -> Items:
    """items.json of a judge stage: equal columns, wins in [0, 1], at least one prompt that was judged."""
    items = _read(folder / "items.json", _items)
    _same_length(folder / "items.json", items)
    wins = np.array(items.win, dtype=np.float64)
    judged = wins[~np.isnan(wins)]
    if not len(judged):
        raise StoreError(f"items.json of stage {_stage(folder / 'x')} has no prompt that was judged.")
    if not ((judged >= 0) & (judged <= 1)).all():
        raise StoreError(f"items.json of stage {_stage(folder / 'x')} has a win outside 0..1.")
    return items


class Wins(NamedTuple):
    """Of items.json what a win rate is made of."""

    win: Floats  # (prompts,) 0..1; NaN: not judged
    group: list[str]
    dataset: list[str]


class _RawWins(Struct, frozen=True):
    win: Column
    group: msgspec.Raw
    dataset: msgspec.Raw


def read_wins(folder: Path) -> Wins:
    """The same file for who looks at many: its other columns are passed over; errors as above."""
    raw = _read(folder / "items.json", lambda content: decode(content, type=_RawWins))
    win, group, dataset = (np.array(raw.win, dtype=np.float64), *(_common(bytes(getattr(raw, name)), name)
                                                                   for name in ("group", "dataset")))  # fmt: skip
    if not len(win) == len(group) == len(dataset) or np.isnan(win).all():
        raise StoreError(f"items.json of stage {_stage(folder / 'x')} has no prompt that was judged.")
    return Wins(win, group, dataset)


class Subsets(Struct, frozen=True):
    """Subsets and categories of a benchmark's prompts; `weight` is the subset's in its category."""

    prompt: list[str]
    category: list[str]
    subset: list[str]
    weight: list[float | None]


def read_subsets(folder: Path) -> Subsets | None:
    """subsets.json of a recorded stage, or None where prompts have no subsets."""
    path = folder / "subsets.json"
    if not joined.exists(path):
        return None
    subsets = read_json(path, Subsets)
    _same_length(path, subsets)
    return subsets


class Notes(Struct, frozen=True):
    """Remarks of a score stage of recorded responses."""

    unknown_languages: list[str] = []


def read_notes(folder: Path) -> Notes:
    """notes.json of a score stage; empty where there is none."""
    path = folder / "notes.json"
    return read_json(path, Notes) if joined.exists(path) else Notes()


def read_heldout(folder: Path) -> Heldout | None:
    """heldout.json of a score stage, or None where the task has no held-out preferences."""
    path = folder / "heldout.json"
    if not joined.exists(path):
        return None
    heldout = read_json(path, Heldout)
    pairs = ("chosen", "rejected", "chosen_length", "rejected_length")
    columns = pairs if heldout.pairwise else ("score", "label", "length")
    for column in columns:
        if len(getattr(heldout, column)) != len(heldout.group):
            raise StoreError(f"heldout.json of {_stage(path)}: '{column}' and 'group' differ in length.")
    return heldout if heldout.group else None


def _same_length(path: Path, record: Struct) -> None:
    """All columns have one length, at least 1; those with a default may be empty."""
    fields = _fields(type(record))
    lengths = {name: len(getattr(record, name)) for name in fields}
    told = {name: length for name, length in lengths.items() if fields[name] or length}
    if len(set(told.values())) != 1 or 0 in told.values():
        raise StoreError(f"{path.name} of stage {_stage(path)} has columns of unequal lengths {told}.")


@functools.cache
def _fields(of: type[Struct]) -> dict[str, bool]:
    """Its fields, and whether they are required; msgspec looks at all annotations every time it is asked."""
    return {field.name: field.required for field in msgspec.structs.fields(of)}


def _stage(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.parent.name[:12]}"


def finite(value: float | None) -> float | None:
    """None for what JSON and tables cannot show."""
    return value if value is not None and math.isfinite(value) else None


class Record(Struct, frozen=True):
    """All that the matrix needs of one finished judge stage."""

    items: Items
    curve: Floats  # (prompts, n) in 0..1; (prompts, 0) of a trained policy, or where only the picks were judged
    summary: Summary
    pairs: Pairs | None
    spearman: Spearman | None

    @property
    def trained(self) -> bool:
        """The responses are a trained policy's, whose divergence was measured."""
        return self.summary.kl_bound is None


def read_record(folder: Path) -> Record:
    """Read a judge stage's folder; StoreError names the file that does not fit."""
    items = read_items(folder)
    curve = (
        read_array(folder / "curve.npy") if joined.exists(folder / "curve.npy") else np.empty((len(items.prompt), 0))
    )
    if len(curve) != len(items.prompt):
        raise StoreError(f"curve.npy of {_stage(folder / 'x')} has {len(curve)} rows, items.json {len(items.prompt)}.")
    recorded = joined.exists(folder / "pairs.json")
    return Record(
        items,
        curve,
        read_json(folder / "summary.json", Summary),
        read_json(folder / "pairs.json", Pairs) if recorded else None,
        read_json(folder / "spearman.json", Spearman) if recorded else None,
    )


class JudgeItems(Struct, frozen=True):
    """A judge on held-out human preferences, one entry a pair: 1, 0.5 or 0; null where it gave no verdict."""

    group: list[str]
    correct: Column
    inconsistent: Flags = []
    dataset: list[str] = []  # empty: all of one


def read_judge_accuracy(folder: Path) -> JudgeItems:
    """accuracy.json of a stage that checks a judge."""
    items = read_json(folder / "accuracy.json", JudgeItems)
    _same_length(folder / "accuracy.json", items)
    return items


def read_learning(folder: Path) -> list[dict[str, float]]:
    """The validation rows of an align stage's curve.jsonl; none where there is no such file."""
    path = folder / "curve.jsonl"
    return validation_rows(path.read_bytes(), _stage(path)) if path.exists() else []


def validation_rows(content: bytes, stage: str) -> list[dict[str, float]]:
    """Of the lines of a curve.jsonl those with validation measures: step, and the measures without their prefix."""
    prefix, rows = "validation_", []
    for line in content.splitlines():
        try:
            row = decode(line, type=dict[str, float | None])
        except msgspec.DecodeError as error:
            raise StoreError(f"curve.jsonl of stage {stage} does not fit: {error}.") from error
        found = {name.removeprefix(prefix): v for name, v in row.items() if name.startswith(prefix) and v is not None}
        if found and row.get("step") is not None:
            rows.append({"step": float(row["step"] or 0), **found})
    return rows


def bounds(verdict: Path, n: int) -> Floats:
    """(prompts, 2) win rates, 0..1, of the worst and the best of the pool's first n."""
    pool, opponents = read_array(verdict / "pool.npy")[:, :n], read_array(verdict / "baseline.npy")
    there = ~np.isnan(opponents)
    above = pool[:, :, None] > opponents[:, None, :]  # NaN compares as False
    level = pool[:, :, None] == opponents[:, None, :]
    wins = (above + 0.5 * level).sum(axis=2) / there.sum(axis=1)[:, None]
    wins[np.isnan(pool)] = np.nan
    return np.stack([np.nanmin(wins, axis=1), np.nanmax(wins, axis=1)], axis=1)
