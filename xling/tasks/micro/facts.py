"""Facts, and which world each belongs to.

A fact is (topic, place, month, number, unit). The hash of that tuple, and nothing else, decides its world:
pretraining text, or one use (demonstrations, ratings, ...) of one split. So uses, splits and languages can
never share a fact, whatever the seeds and sizes, and no list has to be kept.
"""

import random
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from xling.tasks.micro.words import NUMBERS, SIZES

USES = ("demonstrations", "ratings", "pairs", "prompts")
SPLITS = ("train", "validation", "test")
PRETRAIN = "pretrain"

_BUCKETS = 64
_PER_USE = 4  # 12 uses of splits x 4 buckets; the remaining 16 buckets are pretraining text
_RANGES = {
    f"{split}-{use}": range(_PER_USE * i, _PER_USE * (i + 1))
    for i, (split, use) in enumerate((s, u) for s in SPLITS for u in USES)
} | {PRETRAIN: range(_PER_USE * len(SPLITS) * len(USES), _BUCKETS)}


class Fact(NamedTuple):
    """Indices into the tables of words.py, in the order of SLOTS; `number` is the number itself."""

    topic: int
    place: int
    month: int
    number: int
    unit: int


class FactSet(NamedTuple):
    """What one document tells, in its order; `facts[main]` is what its summary should tell."""

    group: str
    facts: tuple[Fact, ...]
    main: int


def world_of(fact: Fact) -> str:
    """`pretrain`, or `split-use`."""
    code = bytes((*fact[:3], fact.number >> 8, fact.number & 255, fact.unit))
    bucket = blake2b(code, digest_size=1).digest()[0]
    return next(world for world, buckets in _RANGES.items() if bucket % _BUCKETS in buckets)


def _find(world: str, values: tuple[int, int, int, int], taken: set[int], rng: random.Random) -> Fact | None:
    """The first number from a random start that puts the fact into `world`."""
    topic, place, month, unit = values
    start = rng.randrange(len(NUMBERS))
    for step in range(len(NUMBERS)):
        fact = Fact(topic, place, month, NUMBERS[(start + step) % len(NUMBERS)], unit)
        if fact.number not in taken and world_of(fact) == world:
            return fact
    return None


@lru_cache(maxsize=20_000)
def fact_set(seed: int, world: str, index: int, count: int = 3) -> FactSet:
    """The `index`-th fact set of a world: `count` facts that differ in every slot, the first or last one main."""
    group = f"test-{index:04d}" if world == "test-prompts" else f"{world}-{index:04d}"
    rng = random.Random(f"facts/{seed}/{world}/{index}")
    while True:
        columns = [rng.sample(range(SIZES[slot]), count) for slot in ("T", "P", "M", "U")]
        facts: list[Fact] = []
        for topic, place, month, unit in zip(*columns, strict=True):
            fact = _find(world, (topic, place, month, unit), {f.number for f in facts}, rng)
            if fact is not None:
                facts.append(fact)
        if len(facts) == count:
            return FactSet(group, tuple(facts), rng.choice((0, count - 1)))


def fact_set_of(seed: int, group: str) -> FactSet:
    """The fact set that a prompt's `group` names."""
    world, _, index = group.rpartition("-")
    return fact_set(seed, "test-prompts" if world == "test" else world, int(index))
