"""Blocks of results: bounded, resumable, and in the order of their items whatever the order of the work."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from xling.grid.stage import Interrupted
from xling.stages.shards import Shards

IN_ORDER = [[0, 1, 2], [3, 4, 5], [6]]
MIXED = [[6, 0], [5, 1, 3], [4], [2]]


def work(items: Sequence[int]) -> list[bytes]:
    return [f"item {item} {'x' * item}".encode() for item in items]


def expected() -> bytes:
    return b"".join(line + b"\n" for line in work(range(7)))


@pytest.mark.parametrize("blocks", [IN_ORDER, MIXED])
def test_lines_come_in_the_order_of_the_items(tmp_path: Path, blocks: list[list[int]]) -> None:
    shards = Shards(tmp_path / "shards", blocks)
    shards.run(work)
    shards.write(tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_bytes() == expected() == b"".join(shards.lines())


def test_no_items(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards", [])
    shards.run(work)
    assert list(shards.lines()) == []


@pytest.mark.parametrize("fails_at", range(4))
def test_finished_blocks_are_not_done_again(tmp_path: Path, fails_at: int) -> None:
    done: list[Sequence[int]] = []

    def failing(items: Sequence[int]) -> list[bytes]:
        if len(done) == fails_at:
            raise MemoryError
        done.append(items)
        return work(items)

    with pytest.raises(MemoryError):
        Shards(tmp_path, MIXED).run(failing)
    assert done == MIXED[:fails_at]
    again: list[Sequence[int]] = []
    shards = Shards(tmp_path, MIXED)
    shards.run(lambda items: again.append(items) or work(items))  # type: ignore[func-returns-value]
    assert again == MIXED[fails_at:] and b"".join(shards.lines()) == expected()


def test_a_half_written_block_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "000001.unfinished").write_bytes(b"item 5")
    shards = Shards(tmp_path, MIXED)
    shards.run(work)
    assert b"".join(shards.lines()) == expected()


def test_progress_and_a_stop_between_blocks(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with pytest.raises(Interrupted, match="after 5 of 7 items"):
        Shards(tmp_path, MIXED).run(work, lambda *at: seen.append(at), lambda: len(seen) == 2)
    assert seen == [(2, 7), (5, 7)]
    Shards(tmp_path, MIXED).run(work, lambda *at: seen.append(at))
    assert seen[2:] == [(2, 7), (5, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("lines", [[b"one"], [b"one", b"two\nthree"]])
def test_work_that_gives_something_else_than_a_line_an_item_is_an_error(tmp_path: Path, lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match="lines for 2 items"):
        Shards(tmp_path, [[0, 1]]).run(lambda items: lines)
    assert not list(tmp_path.glob("*.jsonl"))
