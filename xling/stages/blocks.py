"""Work in blocks of prompts: what a block gave is kept in the scratch folder, so that a killed stage goes on there.

Memory is bounded by a block, and nothing depends on where the work was cut off.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from xling.grid.stage import Context, Interrupted
from xling.models.ridge import Array
from xling.stages.files import Samples, iterate_samples

PROMPTS = 512  # a block
T = TypeVar("T")


def blocks_of(items: Iterable[T], size: int = PROMPTS) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while block := list(itertools.islice(rest, size)):
        yield block


def both_samples(context: Context) -> Iterator[tuple[Samples, Samples]]:
    """(pool, baseline) a prompt, read line by line."""
    yield from zip(*(iterate_samples(context.parents[role]) for role in ("pool", "baseline")), strict=True)


def kept(
    context: Context, name: str, blocks: Iterable[T], make: Callable[[T], Sequence[Array]], total: int
) -> list[Path]:
    """One .npz a block in the scratch folder, in order; `total` blocks are expected.

    Raises Interrupted before a block that is still to be made, once the runner has to stop.
    """
    folder, paths = context.scratch / name, list[Path]()
    folder.mkdir(exist_ok=True)
    for number, block in enumerate(blocks):
        path = folder / f"{number:06d}.npz"
        if not path.exists():
            if context.stopping():
                raise Interrupted(f"after {number} of {total} blocks of {name}")
            _write(path, make(block))
        paths.append(path)
        context.progress(len(paths), total)
    return paths


def _write(path: Path, arrays: Sequence[Array]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, *arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_arrays(path: Path) -> list[Array]:
    """The arrays of a block, in order."""
    with np.load(path) as stored:
        return [stored[f"arr_{i}"] for i in range(len(stored.files))]
