"""What the planner itself costs: a grid of stages that do nothing, planned, executed, and found cached.

    python benchmarks/planner.py                  # 100 x 100 languages: 10,301 stages
    python benchmarks/planner.py --languages 10 --workers 1 --within /dev/shm

CPU seconds are of this process and its workers together. Beside it, in the same run, a bare loop that writes
one small file per cell, and the same loop with an fsync. Exit code 1 if a limit is broken; the limit on
execution holds for the full size only, because starting the workers is a fixed cost.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from xling.grid.plan import Plan, make_plan
from xling.grid.stage import Cell, Context, Kind, Stage
from xling.grid.store import Store
from xling.runners.local.runner import run_local
from xling.runners.local.schedule import Outcome

T = TypeVar("T")
VALUE = b'{"win_rate": 50.0}\n'


def write_value(context: Context) -> None:
    (context.out / "value.json").write_bytes(VALUE)


NAMES = ("base", "sft", "reward", "pool", "score")
KINDS = {name: Kind(name, 1, write_value, seconds=0.001, gpu=lambda stage: False) for name in NAMES}


def cells(languages: int) -> list[Cell]:
    """base, an sft, reward and pool for each language, a score for each pair: 1 + 3 L + L * L stages."""
    base = Stage.make("base", 1, "base", {"checkpoint": "packaged"}, {})
    training = {"steps": 300, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 20}
    names = [f"l{number:03d}" for number in range(languages)]
    reward, pool = {}, {}
    for name in names:
        spec = {"lang": name, "training": training}
        sft = Stage.make("sft", 1, f"sft[{name}]", spec, {"base": base})
        reward[name] = Stage.make("reward", 1, f"reward[{name}]", spec, {"sft": sft})
        pool[name] = Stage.make("pool", 1, f"pool[{name}]", {"lang": name, "n": 16}, {"sft": sft})
    return [_cell(source, target, reward[source], pool[target]) for source in names for target in names]


def _cell(source: str, target: str, reward: Stage, pool: Stage) -> Cell:
    spec = {"source": source, "target": target, "task": {"name": "none", "seed": 0}, "chunk": 32}
    stage = Stage.make("score", 1, f"score[{source}, {target}]", spec, {"reward": reward, "pool": pool})
    return Cell({"task": "none", "source_lang": source, "target_lang": target, "seed": 0}, stage)


def cpu_seconds() -> float:
    """User and system time of this process and of the children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measured(name: str, work: Callable[[], T], count: int) -> tuple[T, float]:
    cpu, wall = cpu_seconds(), time.perf_counter()
    value = work()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    print(f"{name:34s} {cpu:8.2f} CPU-s {1000 * cpu / count:8.3f} CPU-ms a cell {wall:8.2f} s", flush=True)
    return value, cpu


def bare_loop(root: Path, count: int, sync: bool = False) -> None:
    root.mkdir()
    for number in range(count):
        with open(root / f"{number}.json", "wb") as file:
            file.write(VALUE)
            if sync:
                file.flush()
                os.fsync(file.fileno())


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--languages", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--within", help="a folder on the disk to measure (default: the temporary one)")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="planner-", dir=options.within))
    try:
        return benchmark(root, options.languages, options.workers)
    finally:
        shutil.rmtree(root)


def benchmark(root: Path, languages: int, workers: int) -> int:
    count = languages * languages
    store = Store(root / "outputs")

    def planned() -> Plan:
        return make_plan(cells(languages), store, name="bench", kinds=KINDS)

    plan, plan_cpu = measured("planned from cells", planned, count)
    kilobyte = 1 if sys.platform == "linux" else 1024  # macOS counts bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kilobyte / 1024
    print(f"{len(plan.steps)} stages, {len(plan.cells)} cells; peak memory of planning {memory:.0f} MB")

    def run() -> Outcome:
        return run_local(plan, "planner:KINDS", workers, show=False)

    outcome, run_cpu = measured(f"executed, {workers} workers", run, count)
    again, cached_cpu = measured("all cached", lambda: run_local(planned(), show=False), count)
    _, bare = measured("bare loop, a file a cell", lambda: bare_loop(root / "bare", count), count)
    measured("bare loop with fsync", lambda: bare_loop(root / "synced", count, sync=True), count)
    print(f"executed costs {run_cpu / bare:.1f} times the bare loop")
    once = sum(outcome.executed.values()) == len(plan.steps)
    limits = {
        "every stage ran once, and none the second time": once and not again.executed,
        "planned in 5 CPU-s": plan_cpu <= 5,
        "planned in 200 MB": memory <= 200,
        "executed at 3 CPU-ms a cell": languages < 100 or run_cpu / count <= 0.003,
        "all cached in 5 CPU-s": cached_cpu <= 5,
    }
    for name, holds in limits.items():
        print(f"{'ok  ' if holds else 'MISS'} {name}")
    return 0 if all(limits.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
