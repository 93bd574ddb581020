"""Cost estimates of a plan: recorded run times of the same kind of stage, a model of the work, the critical path.

    python launch.py -m ... dry_run=true cost.flops_per_second=3.12e14

Where no run of a kind is recorded, a dry run takes the work that the kind's stages say they are (`Kind.work`) at the
rate of `cost` or of the device that would do it, but no less than the kind's guess, which covers starting and reading.
docs/paper.md has the formulas.
"""

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec

from xling.config.common import Positive, PositiveFloat, Share, check_names, fitting
from xling.errors import ConfigError
from xling.grid.records import Done, read, read_sheet
from xling.grid.stage import Stage, Tokens, Work
from xling.grid.store import Store

SAMPLED = 32  # markers read of a kind that the plan has no finished stage of


@dataclass(frozen=True, slots=True)
class Estimate:
    seconds: float  # a stage
    recorded: bool  # False: the kind's own guess, or
    modelled: bool = False  # what its work takes at a stated rate
    units: Mapping[str, int] = field(default_factory=dict)  # of all that run: {"samples": 4488064}
    flops: float = 0.0  # of all that run
    stored: float = 0.0  # bytes on disk of all that run
    processes: int = 1  # that share a stage, where the time is modelled


class Speed(NamedTuple):
    """A device, by its data sheet or as measured."""

    name: str
    flops: float  # a second, of dense matrices in bfloat16
    single: float  # the same in float32, as torch multiplies it: without TF32
    bandwidth: float  # bytes of its memory a second


# By a word of the names that drivers and clusters have for them.
SPEEDS = {
    "gh200": Speed("GH200", 9.89e14, 6.7e13, 4.0e12),
    "h200": Speed("H200", 9.89e14, 6.7e13, 4.8e12),
    "h100": Speed("H100", 9.89e14, 6.7e13, 3.35e12),
    "b200": Speed("B200", 2.25e15, 7.5e13, 8.0e12),
    "a100": Speed("A100", 3.12e14, 1.95e13, 2.0e12),
    "l40s": Speed("L40S", 3.62e14, 9.16e13, 8.64e11),
    "l4": Speed("L4", 1.21e14, 3.03e13, 3.0e11),
    "a40": Speed("A40", 1.5e14, 3.74e13, 6.96e11),
    "a30": Speed("A30", 1.65e14, 1.03e13, 9.33e11),
    "v100": Speed("V100", 1.25e14, 1.57e13, 9.0e11),
    "4090": Speed("RTX 4090", 1.65e14, 8.26e13, 1.01e12),
    "3090": Speed("RTX 3090", 7.1e13, 3.56e13, 9.36e11),
}


def speed_of(name: str) -> Speed | None:
    """Of a GPU by what it is called; None for one that is not in the table."""
    return next((SPEEDS[word] for word in re.split(r"[^a-z0-9]+", name.lower()) if word in SPEEDS), None)


THREAD = 1e11  # of one core with AVX-512: a matrix product in float32 reaches 0.99e11 (numpy, EPYC; docs/paper.md)


def of_processor(threads: int) -> Speed:
    """Threads of a processor, which gains nothing by 16 bits."""
    return Speed(f"{threads} CPU thread{'s' * (threads > 1)}", threads * THREAD, threads * THREAD, 2e10)


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast work is taken to be done: the settings `cost`, and the device."""

    speed: Speed
    utilisation: Mapping[str, float]  # by the sort of work, above 0 and at most 1
    tokens: Tokens

    def seconds(self, work: Work) -> float:
        rate = self.speed.single if work.single else self.speed.flops
        return sum(flops / self.utilisation[sort] for sort, flops in work.flops.items()) / rate


def rates_from(cost: Mapping[str, Any], device: Speed | None = None) -> Rates:
    """With the speed of `device` unless one is stated; of None an H100's. ConfigError where they are no rates."""
    known = ("flops_per_second", "utilisation", "prompt_tokens", "response_tokens")
    for key in ("cost", "cost.utilisation"):
        value = cost if key == "cost" else cost.get("utilisation")
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{key}={value} does not fit: it has settings of its own. Leave it as conf/config.yaml has it."
            )
    check_names(cost, known, "cost")
    if missing := sorted(set(known) - set(cost)):
        raise ConfigError(
            f"cost.{missing[0]} is missing: leave cost as conf/config.yaml has it, and set what is in it."
        )
    stated = fitting(cost["flops_per_second"], PositiveFloat | None, "cost.flops_per_second", "3.12e14")
    speed = (device or SPEEDS["h100"]) if stated is None else Speed(f"{stated:.3g} FLOP/s", stated, stated, 0.0)
    shares = {str(k): fitting(v, Share, f"cost.utilisation.{k}", "0.35") for k, v in cost["utilisation"].items()}
    lengths = [fitting(cost[name], Positive | None, f"cost.{name}", "null") for name in known[2:]]
    return Rates(speed, shares, Tokens(*lengths))


def estimate(
    store: Store,
    kind: str,
    recorded: Sequence[float],
    others: Iterable[str] = (),
    guess: float = 1.0,
    works: Sequence[Work] = (),
    rates: Rates | None = None,
    roots: Set[str] | None = None,
) -> Estimate:
    """Median seconds of a kind: of the plan's own results, else of others in the store, else a model or a guess.

    works: of the plan's stages of the kind that run. With `roots`, keys of the first stages that those are made from,
    results of another model tell nothing.
    """
    units: Counter[str] = Counter()
    for work in works:
        units.update(work.units)
    flops, stored = sum(sum(work.flops.values()) for work in works), sum(work.stored for work in works)
    if seconds := recorded or _seconds_of(store, kind, others, roots):
        return Estimate(statistics.median(seconds), True, False, units, flops, stored)
    modelled = statistics.mean([rates.seconds(work) for work in works]) if works and rates else 0.0
    return Estimate(max(guess, modelled), False, modelled > guess, units, flops, stored)


def in_processes(one: Estimate, count: int, guess: float) -> Estimate:
    """An estimate by the work, where several processes share a stage equally; recorded runs were as they were."""
    return replace(one, seconds=max(guess, one.seconds / count), processes=count) if one.modelled else one


def _seconds_of(store: Store, kind: str, keys: Iterable[str], roots: Set[str] | None) -> list[float]:
    found = []
    for key in itertools.islice(keys, SAMPLED):
        try:
            if roots is None or _alike(store, kind, key, roots):
                found.append(read(Done, str(store.folder(kind, key) / "done.json")).run.seconds)
        except (OSError, msgspec.DecodeError):
            continue
    return found


def _alike(store: Store, kind: str, key: str, roots: Set[str]) -> bool:
    """Whether a result was made from one of the first stages `roots`; what was made from nothing is alike."""
    parents = read_sheet(str(store.folder(kind, key))).parents.values()
    return not parents or any(_is_above(store, up.kind, up.key, roots) for up in parents)


def _is_above(store: Store, kind: str, key: str, roots: Set[str]) -> bool:
    if key in roots:
        return True
    parents = read_sheet(str(store.folder(kind, key))).parents.values()
    return any(_is_above(store, up.kind, up.key, roots) for up in parents)


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
