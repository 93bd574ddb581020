"""The files inside stage folders: one writer and one reader a format.

samples.jsonl  a line a prompt: what a policy said (or the recorded systems)
*.npy          float64 (prompts, responses), NaN where a prompt has fewer responses
*.json         columns or settings
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from xling.jsonfiles import decode

Array = np.ndarray[Any, np.dtype[np.float64]]


class Samples(Struct, frozen=True, omit_defaults=True):
    """One prompt's responses; the lists run in parallel."""

    prompt: str
    group: str
    dataset: str
    responses: list[str]
    lengths: list[int]  # in the policy's tokens, eos included
    eos: list[bool]  # False: cut at max_new_tokens
    kl: list[float] = []  # nats from the SFT policy along each response; of trained policies alone


def write_samples(folder: Path, samples: Iterable[Samples]) -> None:
    """samples.jsonl."""
    with (folder / "samples.jsonl").open("wb") as file:
        for row in samples:
            file.write(msgspec.json.encode(row, order="sorted") + b"\n")


def iterate_samples(folder: Path) -> Iterator[Samples]:
    """The samples of a pool or baseline folder, in prompt order, read line by line."""
    with (folder / "samples.jsonl").open("rb") as file:
        for line in file:
            yield decode(line, type=Samples)


def read_samples(folder: Path) -> list[Samples]:
    """The same, all at once."""
    return list(iterate_samples(folder))


def ragged(rows: Sequence[Sequence[float]]) -> Array:
    """(len(rows), longest) float64, NaN-padded."""
    out = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
