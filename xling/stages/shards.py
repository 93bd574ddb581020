"""Results made block by block, each on disk once it is done: bounded memory, and a killed stage goes on where it was.

    shards = Shards(context.scratch / "shards", blocks)         # blocks: [[item, ...], ...], items 0 .. N-1 once each
    shards.run(lambda items: [line_of(i) for i in items], context.progress, context.stopping)
    shards.write(context.out / "samples.jsonl")                  # the items' lines, in the order of the items

A block's file appears whole or not at all, so its lines are those of an undisturbed run. The folder belongs in a
stage's scratch, which outlives a kill and is deleted once the stage has published; a stage's key fixes its blocks.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xling.grid.stage import Interrupted


class Shards:
    """Lines of bytes without line breaks, an item each, in a file a block."""

    def __init__(self, folder: Path, blocks: Sequence[Sequence[int]]) -> None:
        self.folder, self.blocks = folder, blocks
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        work: Callable[[Sequence[int]], Sequence[bytes]],
        progress: Callable[[int, int], None] = lambda done, total: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Do `work` (a block's items to their lines) for each block that is not there yet.

        Progress is in items. Raises Interrupted between two blocks once `stopping` has become true.
        """
        done, total = 0, sum(map(len, self.blocks))
        for number, items in enumerate(self.blocks):
            path = self._path(number)
            if not path.exists():
                if stopping():
                    raise Interrupted(f"after {done} of {total} items, which are kept")
                self._store(path, items, work(items))
            done += len(items)
            progress(done, total)

    def _store(self, path: Path, items: Sequence[int], lines: Sequence[bytes]) -> None:
        if len(lines) != len(items) or any(b"\n" in line for line in lines):
            raise ValueError(f"{len(lines)} lines for {len(items)} items, or a line break in one.")
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)

    def lines(self) -> Iterator[bytes]:
        """Every item's line, line break included, in the order of the items; one is in memory at a time."""
        if list(itertools.chain.from_iterable(self.blocks)) == list(range(sum(map(len, self.blocks)))):
            for number in range(len(self.blocks)):
                with self._path(number).open("rb") as file:
                    yield from file
            return
        for number, start in self._places():
            with self._path(number).open("rb") as file:
                file.seek(start)
                yield file.readline()

    def _places(self) -> list[tuple[int, int]]:
        """Block and first byte of each item's line."""
        places = [(0, 0)] * sum(map(len, self.blocks))
        for number, items in enumerate(self.blocks):
            start = 0
            with self._path(number).open("rb") as file:
                for item, line in zip(items, file, strict=True):
                    places[item] = (number, start)
                    start += len(line)
        return places

    def write(self, path: Path) -> None:
        """All lines in the order of the items."""
        with path.open("wb") as file:
            file.writelines(self.lines())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.jsonl"
