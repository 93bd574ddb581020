"""What runs next: the longest chain first, cheap stages together, healed parents before their children."""

from pathlib import Path

from noop_stages import KINDS, stage

from xling.grid.plan import Plan, make_plan
from xling.grid.stage import Cell, Kind, Stage
from xling.grid.store import Store
from xling.runners.local.schedule import BATCH, HEALS, Schedule


def plan_of(tmp_path: Path, *stages: Stage, seconds: float = 1.0) -> Plan:
    kinds = {name: Kind(name, 1, kind.run, seconds) for name, kind in KINDS.items()}
    return make_plan([Cell({}, what) for what in stages], Store(tmp_path), kinds=kinds)


def test_the_stage_with_most_work_below_it_goes_first(tmp_path: Path) -> None:
    short = stage("pool", "short")
    long = stage("base", "long")
    chain = stage("reward", "end", {"sft": stage("sft", "middle", {"base": long})})
    schedule = Schedule(plan_of(tmp_path, short, chain))
    order = []
    while schedule.ready:
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
        assert again.key == base.key and not schedule.ready
        schedule.done(base.key)
    assert schedule.ready == 2
    assert not schedule.heal(base.key, schedule.take(1)[0].key)
