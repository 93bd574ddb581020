"""Blocks of results: bounded, resumable, and in the order of their items whatever the order of the work."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from xling.grid.stage import Context, Interrupted
from xling.stages.blocks import kept_arrays, kept_lines

IN_ORDER = [[0, 1, 2], [3, 4, 5], [6]]
MIXED = [[6, 0], [5, 1, 3], [4], [2]]


def context(
    scratch: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Context:
    return Context({}, {}, scratch, scratch, progress, stopping)


def work(items: Sequence[int]) -> list[bytes]:
    return [f"item {item} {'x' * item}".encode() for item in items]


def expected() -> bytes:
    return b"".join(line + b"\n" for line in work(range(7)))


@pytest.mark.parametrize("blocks", [IN_ORDER, MIXED])
def test_lines_come_in_the_order_of_the_items(tmp_path: Path, blocks: list[list[int]]) -> None:
    assert b"".join(kept_lines(context(tmp_path), "x", blocks, work)) == expected()


def test_no_items(tmp_path: Path) -> None:
    assert list(kept_lines(context(tmp_path), "x", [], work)) == []


@pytest.mark.parametrize("fails_at", range(4))
def test_finished_blocks_are_not_done_again(tmp_path: Path, fails_at: int) -> None:
    done: list[Sequence[int]] = []

    def failing(items: Sequence[int]) -> list[bytes]:
        if len(done) == fails_at:
            raise MemoryError
        done.append(items)
        return work(items)

    with pytest.raises(MemoryError):
        kept_lines(context(tmp_path), "x", MIXED, failing)
    assert done == MIXED[:fails_at]
    again: list[Sequence[int]] = []
    lines = kept_lines(context(tmp_path), "x", MIXED, lambda items: again.append(items) or work(items))  # type: ignore[func-returns-value]
    assert again == MIXED[fails_at:] and b"".join(lines) == expected()


def test_a_half_written_block_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "000001.partial").write_bytes(b"item 5")
    assert b"".join(kept_lines(context(tmp_path), "x", MIXED, work)) == expected()


def test_progress_and_a_stop_between_blocks(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def told(done: int, total: int) -> None:
        seen.append((done, total))

    with pytest.raises(Interrupted, match="after 5 of 7 items, which are kept"):
        kept_lines(context(tmp_path, told, lambda: len(seen) == 2), "x", MIXED, work)
    assert seen == [(2, 7), (5, 7)]
    kept_lines(context(tmp_path, told), "x", MIXED, work)
    assert seen[2:] == [(2, 7), (5, 7), (6, 7), (7, 7)]


def test_arrays_are_kept_the_same_way(tmp_path: Path) -> None:
    asked = iter([False, True])
    stopped = context(tmp_path, stopping=lambda: next(asked))
    with pytest.raises(Interrupted, match="after 1 of 3 items, which are kept"):
        kept_arrays(stopped, "x", [[1], [2], [3]], lambda block: [np.array(block)], 3)
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["000000.npz", "000000.npz.sha256"]


def test_a_block_that_rotted_is_made_again(tmp_path: Path) -> None:
    kept = list(kept_lines(context(tmp_path), "x", [[0, 1], [2]], lambda items: [b"item %d" % i for i in items]))
    path = tmp_path / "x" / "000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"item 1", b"item 7"))
    made: list[int] = []

    def again(items: Sequence[int]) -> list[bytes]:
        made.extend(items)
        return [b"item %d" % i for i in items]

    assert list(kept_lines(context(tmp_path), "x", [[0, 1], [2]], again)) == kept
    assert made == [0, 1]


@pytest.mark.parametrize("lines", [[b"one"], [b"one", b"two\nthree"]])
def test_work_that_gives_something_else_than_a_line_an_item_is_an_error(tmp_path: Path, lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match="lines for 2 items"):
        kept_lines(context(tmp_path), "x", [[0, 1]], lambda items: lines)
    assert not list(tmp_path.glob("x/*.jsonl"))
