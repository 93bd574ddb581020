"""Which prompts a resample holds: one draw for all columns that share documents or facts, fixed for given names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
SEED = 8191  # fixed, so that the same records give the same bytes


@dataclass(frozen=True, slots=True)
class Clusters:
    """The prompts of one column, arranged for resampling. R rows are the (dataset, group) pairs, in order."""

    order: Ints  # (N,) prompts sorted by row
    starts: Ints  # (R,) where each row begins in `order`
    counts: Floats  # (R,) prompts a row
    dataset: Ints  # (R,)
    weights: npt.NDArray[np.uint8]  # (RESAMPLES, R) how often each row's group was drawn
    groups: int


def draw(columns: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[Clusters]:
    """Resampling weights for columns given as (group of each prompt, dataset of each prompt).

    Columns that share a group share one draw: where the prompts of several languages are parallel, they are
    resampled together and a mean over languages gets the right interval. Groups are drawn within strata (the
    set of datasets a group occurs in), since datasets are fixed, not sampled.
    """
    universes = _universes([groups for groups, _ in columns])
    weights: dict[int, tuple[dict[str, int], npt.NDArray[np.uint8]]] = {}
    arranged: dict[tuple[tuple[str, ...], tuple[str, ...]], Clusters] = {}
    for (groups, datasets), universe in zip(columns, universes, strict=True):
        if universe not in weights:
            members = [column for column, u in zip(columns, universes, strict=True) if u == universe]
            weights[universe] = _weights(members)
        layout = (tuple(groups), tuple(datasets))
        if layout not in arranged:
            arranged[layout] = _arrange(groups, datasets, *weights[universe])
    return [arranged[tuple(groups), tuple(datasets)] for groups, datasets in columns]


def _universes(columns: Sequence[Sequence[str]]) -> list[int]:
    """Number the connected components of columns that share groups."""
    components: list[tuple[set[str], list[int]]] = []
    for position, groups in enumerate(columns):
        names, members = set(groups), [position]
        apart = []
        for component in components:
            if component[0].isdisjoint(names):
                apart.append(component)
            else:
                names |= component[0]
                members += component[1]
        components = [*apart, (names, members)]
    number = {member: min(members) for _, members in components for member in members}
    return [number[position] for position in range(len(columns))]


def _weights(
    columns: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> tuple[dict[str, int], npt.NDArray[np.uint8]]:
    """Draw every stratum's groups with replacement; (groups -> column of the weights, weights)."""
    occurs: dict[str, set[str]] = {}
    for groups, datasets in columns:
        for group, dataset in set(zip(groups, datasets, strict=True)):
            occurs.setdefault(group, set()).add(dataset)
    strata: dict[tuple[str, ...], list[str]] = {}
    for group in sorted(occurs):
        strata.setdefault(tuple(sorted(occurs[group])), []).append(group)
    names = [name for stratum in sorted(strata) for name in strata[stratum]]
    digest = hashlib.sha256("\n".join(names).encode()).digest()
    random = np.random.Generator(np.random.PCG64([SEED, int.from_bytes(digest[:8], "big")]))
    blocks = [_multinomial(random, len(strata[stratum])) for stratum in sorted(strata)]
    return {name: column for column, name in enumerate(names)}, np.hstack(blocks)


def _multinomial(random: np.random.Generator, size: int) -> npt.NDArray[np.uint8]:
    """(RESAMPLES, size) multinomial counts of `size` draws from `size` equal cells."""
    picks = random.integers(0, size, size=(RESAMPLES, size))
    picks += size * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(picks.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
    return np.minimum(counts, 255).astype(np.uint8)


def _arrange(
    groups: Sequence[str],
    datasets: Sequence[str],
    index: dict[str, int],
    drawn: npt.NDArray[np.uint8],
) -> Clusters:
    clusters = list(zip(datasets, groups, strict=True))
    names = sorted(set(clusters))
    number = {name: row for row, name in enumerate(names)}
    row_of_prompt = np.array([number[cluster] for cluster in clusters], dtype=np.int64)
    known = sorted({dataset for dataset, _ in names})
    counts = np.bincount(row_of_prompt, minlength=len(names))
    return Clusters(
        order=np.argsort(row_of_prompt, kind="stable"),
        starts=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64),
        counts=counts.astype(np.float64),
        dataset=np.array([known.index(dataset) for dataset, _ in names], dtype=np.int64),
        weights=drawn[:, [index[group] for _, group in names]],
        groups=len({group for _, group in names}),
    )
