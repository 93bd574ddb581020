"""What a plan will cost: recorded run times of the same kind of stage, and the critical path."""

import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from xling.grid.records import Done, read
from xling.grid.stage import Kind, Stage
from xling.grid.store import Store

SAMPLED = 32  # markers read of a kind that the plan has no finished stage of


@dataclass(frozen=True, slots=True)
class Estimate:
    seconds: float
    recorded: bool  # False: the kind's own guess


def estimate(
    store: Store, kind: str, recorded: Iterable[Done], others: Iterable[str], kinds: Mapping[str, Kind]
) -> Estimate:
    """Median seconds of a kind: of the plan's own results, else of others in the store, else a guess."""
    seconds = [done.run.seconds for done in recorded] or _seconds_of(store, kind, others)
    if seconds:
        return Estimate(statistics.median(seconds), True)
    return Estimate(kinds[kind].seconds if kind in kinds else 1.0, False)


def _seconds_of(store: Store, kind: str, keys: Iterable[str]) -> list[float]:
    found = []
    for key in itertools.islice(keys, SAMPLED):
        try:
            found.append(read(Done, str(store.folder(kind, key) / "done.json")).run.seconds)
        except (OSError, msgspec.DecodeError):
            continue
    return found


def path_lengths(stages: Iterable[Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of the longest chain below it, by key.

    `stages` in topological order; `seconds` by key, 0 for what does not run.
    """
    ordered = list(stages)
    below = dict.fromkeys((stage.key for stage in ordered), 0.0)
    for stage in reversed(ordered):
        length = below[stage.key] + seconds[stage.key]
        below[stage.key] = length
        for parent in stage.parents.values():
            if below[parent.key] < length:
                below[parent.key] = length
    return below
