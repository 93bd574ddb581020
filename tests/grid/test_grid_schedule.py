"""What runs next, the longest chain first and cheap stages together; and what is shown while it runs."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from noop_stages import KINDS, stage
from rich.console import Console

from xling.console import duration, size
from xling.grid.plan import Plan, make_plan
from xling.grid.stage import Cell, Kind, Stage
from xling.grid.store import Store
from xling.runners.local.display import Live, Plain, display_for
from xling.runners.local.schedule import BATCH, HEALS, Schedule

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "planner.py"


def plan_of(tmp_path: Path, *stages: Stage, seconds: float = 1.0) -> Plan:
    kinds = {name: Kind(name, 1, kind.run, seconds, gpu=kind.gpu) for name, kind in KINDS.items()}
    return make_plan([Cell({}, what) for what in stages], Store(tmp_path), kinds=kinds)


def test_the_stage_with_most_work_below_it_goes_first(tmp_path: Path) -> None:
    short = stage("pool", "short")
    long = stage("base", "long")
    chain = stage("reward", "end", {"sft": stage("sft", "middle", {"base": long})})
    schedule = Schedule(plan_of(tmp_path, short, chain))
    order = []
    while schedule.ready():
        (taken,) = schedule.take(workers=1)
        order.append(taken.label)
        schedule.done(taken.key, seconds=1.0)
    assert order == ["long", "middle", "short", "end"]
    assert schedule.left == 0 and schedule.work == {"base": 1.0, "sft": 1.0, "pool": 1.0, "reward": 1.0}


def test_stages_travel_together_once_their_kind_is_known_to_be_cheap(tmp_path: Path) -> None:
    schedule = Schedule(plan_of(tmp_path, *(stage("pool", f"pool{n}", n=n) for n in range(400))))
    first = schedule.take(workers=2)
    assert len(first) == 1
    schedule.done(first[0].key, seconds=0.0001)
    batch = schedule.take(workers=2)
    assert len(batch) == BATCH
    for what in batch:
        schedule.done(what.key, seconds=10.0)
    assert len(schedule.take(workers=2)) == 1


def test_the_last_cheap_stages_are_shared_by_the_workers(tmp_path: Path) -> None:
    schedule = Schedule(plan_of(tmp_path, *(stage("pool", f"pool{n}", n=n) for n in range(13))))
    schedule.done(schedule.take(workers=4)[0].key, seconds=0.0001)
    assert len(schedule.take(workers=4)) == 3


def test_a_failure_blocks_what_is_below_and_nothing_else(tmp_path: Path) -> None:
    base = stage("base", "base")
    left, right = stage("sft", "left", {"base": base}, x=1), stage("sft", "right", {"base": base}, x=2)
    below = stage("score", "below", {"a": left, "b": right})
    schedule = Schedule(plan_of(tmp_path, below, stage("pool", "free", {"a": right})))
    schedule.done(schedule.take(1)[0].key)
    schedule.fail(left.key)
    assert schedule.ends[below.key] == "blocked"
    assert right.key not in schedule.ends and schedule.left == 2


def test_a_damaged_parent_is_made_again_before_its_children_a_limited_number_of_times(tmp_path: Path) -> None:
    base = stage("base", "base")
    child, other = stage("sft", "child", {"base": base}, x=1), stage("sft", "other", {"base": base}, x=2)
    schedule = Schedule(plan_of(tmp_path, child, other))
    schedule.done(schedule.take(1)[0].key)
    for _ in range(HEALS):
        taken = [schedule.take(1)[0].key for _ in range(2)]
        assert set(taken) == {child.key, other.key}
        assert all(schedule.heal(base.key, key) for key in taken)
        (again,) = schedule.take(1)
        assert again.key == base.key and not schedule.ready()
        schedule.done(base.key)
    assert schedule.ready() == 2
    assert not schedule.heal(base.key, schedule.take(1)[0].key)


def test_the_planner_benchmark_runs_every_stage_once(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--languages", "3", "--workers", "1", "--within", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "19 stages, 9 cells" in done.stdout, done.stderr
    assert "ok   every stage ran once, and none the second time" in done.stdout
    assert list(tmp_path.iterdir()) == []


# --- what a run shows while it runs -----------------------------------------------------------------------------


def test_without_a_terminal_lines_are_few_and_failures_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    display = Plain(total=100)
    for number in range(50):
        display.finished(f"pool{number}", 1.25)
        display.tick(99 - number)
    display.failed("sft", "ValueError: no")
    display.tick(0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "pool0 done in 1.2 s (1 of 100 stages)",
        "sft FAILED: ValueError: no",
        "pool49 done in 1.2 s (100 of 100 stages)",
    ]


def test_on_a_terminal_the_grid_and_each_running_stage_have_a_bar() -> None:
    file = io.StringIO()
    display = Live(Console(file=file, force_terminal=True, width=100), total=10)
    display.started("sft[de]")
    display.progress("sft[de]", 3, 7)
    display.tick(8)
    display.failed("pool[[x]", "it [broke]")
    display.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert "sft[de]" in shown and "3/7" in shown and "2/10" in shown
    assert "pool[[x] failed:" in shown and "it [broke]" in shown


def test_nothing_is_shown_when_nothing_shall_be(capsys: pytest.CaptureFixture[str]) -> None:
    display_for(1, show=False).failed("a", "b")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.001, "<0.01 s"), (0.25, "0.25 s"), (9.96, "10 s"), (75, "75 s"), (200, "3 min 20 s"), (18720, "5 h 12 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert [size(count) for count in (0, 999, 1500, 2_500_000_000)] == ["0 B", "999 B", "1.5 kB", "2.5 GB"]
