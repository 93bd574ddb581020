"""What submitting to SLURM costs, and how long jobs stand idle: no-op stages on a private test cluster.

    python benchmarks/slurm.py            # 6x6 and 30x30 stages: wall time and calls of sbatch
    python benchmarks/slurm.py --run      # besides: 6x6 stages of 1 s each, run to the end

Needs SLURM's programs on this machine (make test-slurm installs them), but no cluster.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "slurm"), str(ROOT / "tests" / "grid")]

from cluster import Cluster, wait_until  # noqa: E402
from noop_stages import KINDS, grid  # noqa: E402

from xling.grid.plan import Plan, make_plan  # noqa: E402
from xling.grid.store import Store  # noqa: E402
from xling.slurm import cluster as slurm  # noqa: E402
from xling.slurm import record, survey  # noqa: E402
from xling.slurm.settings import Resources, Slurm  # noqa: E402
from xling.slurm.submit import submit  # noqa: E402

ALONE = Slurm(common=Resources(partition="cpu", mem_gb=0.05), pack_minutes=0)


def plan_of(root: Path, size: int, seconds: float) -> Plan:
    langs = [f"l{number:02}" for number in range(size)]
    slow = {kind: {"do": f"sleep {seconds}"} for kind in KINDS} if seconds else {}
    kinds = {name: replace(kind, seconds=seconds or kind.seconds) for name, kind in KINDS.items()}
    return make_plan(grid(langs, langs, **slow), Store(root), name=f"{size}x{size}", kinds=kinds)


def submitted(root: Path, size: int, seconds: float = 0.0) -> Plan:
    plan = plan_of(root, size, seconds)
    start = time.perf_counter()
    made = submit(plan, ALONE, "noop_stages:KINDS", {"mode": "off"})
    took = time.perf_counter() - start
    start = time.perf_counter()
    survey.survey(plan.store)
    look = time.perf_counter() - start
    print(f"{plan.name}: {made.stages} stages, {made.jobs} jobs, {made.calls} calls of sbatch: submitted in {took:.2f} "
          f"s; a look at all of them {look:.2f} s", flush=True)  # fmt: skip
    return plan


def withdraw(plan: Plan) -> None:
    """By the arrays' ids: one message each, where `scancel --user` sends one for each of two thousand jobs."""
    [filed] = record.submissions(plan.store)
    slurm.cancel([ref.id for ref in filed.refs.values()])
    wait_until(lambda: not slurm.ours(), "an empty queue", 120, 0.5)


def bare_latency(cluster: Cluster, count: int = 5) -> float:
    """Seconds from the end of a bare job to the start of one that waits for it, median."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        script, after = f"date +%s.%N >> {log}; sleep 1; date +%s.%N >> {log}", ""
        for _ in range(count + 1):
            job = cluster.sbatch(script, "-p", "cpu", "--mem=50", *([after] if after else []))
            after = f"--dependency=afterany:{job}"
        cluster.wait_for(job, "COMPLETED", seconds=300)
        times = [float(line) for line in log.read_text().split()]
    return statistics.median(start - end for end, start in zip(times[1::2], times[2::2], strict=False))


def makespan(cluster: Cluster, plan: Plan) -> None:
    """Wait for the grid and say where its time went."""
    wait_until(lambda: not cluster.run("squeue", "-h", check=False).strip(), "the grid", 1800, 1.0)
    filed = record.submissions(plan.store, plan.name)[-1]
    starts, ends, gaps = {}, {}, []
    for array in filed.submission.arrays[:-1]:
        for number, task in enumerate(array.tasks):
            events = {event.event: event.at for event in filed.events((array.number, number))}
            starts[array.number, number], ends[array.number, number] = events["start"], events["end"]
            if task.needs:
                gaps.append(events["start"] - max(ends[need] for need in task.needs))
    path = max(plan.cost(1000)[1], 1e-9)
    total = max(ends.values()) - filed.submission.created
    print(f"{plan.name}: {total:.1f} s from the command to the last verdict, critical path {path:.1f} s; a job starts "
          f"{statistics.median(gaps):.2f} s (median, {max(gaps):.2f} s at most) after its last parent")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true", help="run a grid of 1-second stages as well")
    options = parser.parse_args(arguments)
    with Cluster(cpus=32) as cluster, tempfile.TemporaryDirectory() as name:
        os.environ.update(cluster.env)
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
        for size in (6, 30):
            withdraw(submitted(Path(name) / str(size), size))
        if options.run:
            print(f"a bare job starts {bare_latency(cluster):.2f} s (median) after the one it waits for")
            makespan(cluster, submitted(Path(name) / "c", 6, 1.0))


if __name__ == "__main__":
    main()
