"""Work in blocks: what a block gave is kept in the scratch folder, so that a killed stage goes on there.

    paths = kept_arrays(context, "samples", blocks_of(prompts), make, len(prompts))    # an .npz a block
    lines = kept_lines(context, "samples", blocks, make)    # blocks: [[item, ...], ...], items 0 .. N-1 once each

Memory is bounded by a block. A block's file appears whole or not at all, so nothing depends on where the work was cut
off; the scratch folder is deleted once the stage has published. A stage's key fixes blocks of arrays; those of lines
may be others when it goes on, and what was made is kept all the same.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from xling.grid.files import UNFINISHED, sha256_of, write_atomically
from xling.grid.stage import Context, Interrupted
from xling.models.ridge import Array
from xling.results.samples import Samples, iterate_samples

PROMPTS = 512  # a block
T = TypeVar("T")
B = TypeVar("B", bound=Sequence[object])


def blocks_of(items: Iterable[T], size: int = PROMPTS) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while block := list(itertools.islice(rest, size)):
        yield block


def both_samples(context: Context) -> Iterator[tuple[Samples, Samples]]:
    """(pool, baseline) a prompt, read line by line."""
    yield from zip(*(iterate_samples(context.parents[role]) for role in ("pool", "baseline")), strict=True)


def kept_arrays(
    context: Context,
    name: str,
    blocks: Iterable[list[T]],
    make: Callable[[list[T]], Sequence[Array]],
    total: int,
    rounds: int = 0,
) -> list[Path]:
    """One .npz a block, in order, of `total` items in all.

    Raises Interrupted before a block that is still to be made, once the runner has to stop. rounds: as often it is
    asked, whatever there is to make, by processes that ask together and have blocks of their own.
    """
    folder, paths, done = context.scratch / name, list[Path](), 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, block in enumerate(blocks):
        paths.append(folder / f"{number:06d}.npz")
        left = not _is_whole(paths[-1])
        if (left or rounds) and context.stopping():
            raise Interrupted(f"after {done} of {total} items, which are kept")
        if left:
            _write(paths[-1], lambda file, block: np.savez(file, *make(block)), block)
        done += len(block)
        context.progress(done, total)
    if any(context.stopping() for _ in range(len(paths), rounds)):
        raise Interrupted(f"after {done} of {total} items, which are kept")
    return paths


def read_arrays(path: Path) -> list[Array]:
    """The arrays of a block, in order."""
    with np.load(path) as stored:
        return [stored[f"arr_{i}"] for i in range(len(stored.files))]


def kept_lines(
    context: Context, name: str, blocks: Sequence[Sequence[int]], make: Callable[[Sequence[int]], Sequence[bytes]]
) -> Iterator[bytes]:
    """The line that `make` gives for each item, line break included, in the order of the items, whatever the blocks'.

    All are made before the first is read; one is in memory at a time. Raises Interrupted as above.
    """

    def store(file: BinaryIO, items: Sequence[int]) -> None:
        lines = make(items)
        if len(lines) != len(items) or any(b"\n" in line for line in lines):
            raise ValueError(f"{len(lines)} lines for {len(items)} items, or a line break in one.")
        file.write(msgspec.json.encode(Items(list(items))) + b"\n")
        file.writelines(line + b"\n" for line in lines)

    folder, total, done = context.scratch / name, sum(map(len, blocks)), 0
    folder.mkdir(parents=True, exist_ok=True)
    places = {item: place for path in sorted(folder.glob("*.jsonl")) for item, place in _places(path)}
    for block in blocks:
        if left := [item for item in block if item not in places]:
            if context.stopping():
                raise Interrupted(f"after {done} of {total} items, which are kept")
            path = folder / f"{left[0]:06d}.jsonl"  # whole files with that name have the item
            _write(path, store, left)
            places.update(_places(path))
        done += len(block)
        context.progress(done, total)
    return itertools.starmap(_line, [places[item] for item in range(total)])


class Items(Struct, forbid_unknown_fields=True):
    """The first line of a file of lines: whose the others are."""

    items: list[int]


def _places(path: Path) -> list[tuple[int, tuple[Path, int]]]:
    """Each item of a file with the first byte of its line; none of a file that is not whole."""
    if not _is_whole(path):
        return []
    with path.open("rb") as file:
        try:
            start = len(first := file.readline())
            items = msgspec.json.decode(first, type=Items).items
        except msgspec.DecodeError:  # of another version
            return []
        places = []
        for item, line in zip(items, file, strict=True):
            places.append((item, (path, start)))
            start += len(line)
    return places


def _line(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.readline()


def _sum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    """Whether a block is there with the bytes that were written; one that is not is made again."""
    try:
        return sha256_of(str(path)) == _sum(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False


def _write(path: Path, store: Callable[[BinaryIO, B], None], block: B) -> None:
    """Whole or not at all; its checksum before it."""
    partial = path.with_suffix(UNFINISHED)
    with partial.open("wb") as file:
        store(file, block)
        file.flush()
        os.fsync(file.fileno())
    write_atomically(_sum(path), sha256_of(str(partial)).encode())
    partial.replace(path)
