"""What submitting to SLURM costs, and how long jobs stand idle: no-op stages on a private test cluster.

    python benchmarks/slurm.py            # 6x6 and 30x30 stages: wall time and calls of sbatch
    python benchmarks/slurm.py --run      # besides: 6x6 stages of 1 s each, run to the end
    python benchmarks/slurm.py --scale 100    # alone: 100x100 stages in 20,302 jobs that wait: submit, look, cancel
    python benchmarks/slurm.py --grid sweeps=embedded    # alone: a grid on 4 nodes and here, and whether they agree
    python benchmarks/slurm.py --grid sweeps=embedded --pilots 2    # the same as jobs and in pilots, with accounting
    python benchmarks/slurm.py --grid sweeps=optimizers source_lang=en,tr target_lang=en,tr seed=0

Needs SLURM's programs on this machine (make test-slurm installs them), but no cluster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "slurm"), str(ROOT / "tests" / "grid")]

from cluster import Cluster, wait_until  # noqa: E402
from msgspec import structs  # noqa: E402
from noop_stages import KINDS, grid  # noqa: E402

from xling.grid import files  # noqa: E402
from xling.grid.plan import Plan, make_plan  # noqa: E402
from xling.grid.store import Store  # noqa: E402
from xling.runners import Work  # noqa: E402
from xling.runners.slurm import cluster as slurm  # noqa: E402
from xling.runners.slurm import holdings, record  # noqa: E402
from xling.runners.slurm.dispatch import arrays_of, assign, dependencies  # noqa: E402
from xling.runners.slurm.settings import Resources, Slurm  # noqa: E402
from xling.runners.slurm.submit import submit  # noqa: E402

PACKED = Slurm(common=Resources(partition="cpu", mem_gb=0.05))  # cheap stages share jobs, as they do by default
ALONE = structs.replace(PACKED, pack_minutes=0)


def plan_of(root: Path, size: int, seconds: float) -> Plan:
    langs = [f"l{number:02}" for number in range(size)]
    slow = {kind: {"do": f"sleep {seconds}"} for kind in KINDS} if seconds else {}
    kinds = {name: replace(kind, seconds=seconds or kind.seconds) for name, kind in KINDS.items()}
    return make_plan(grid(langs, langs, **slow), Store(root), name=f"{size}x{size}", kinds=kinds)


def submitted(root: Path, size: int, seconds: float = 0.0, settings: Slurm = ALONE) -> Plan:
    plan = plan_of(root, size, seconds)
    start = time.perf_counter()
    made = submit(plan, settings, Work("noop_stages:KINDS", "xling.folding:fold", {"mode": "off"}))
    took = time.perf_counter() - start
    start = time.perf_counter()
    holdings.survey(plan.store)
    look = time.perf_counter() - start
    command = [sys.executable, "-m", "xling", "status", plan.name, "--root", str(root)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    status = time.perf_counter() - start
    print(f"{plan.name}: {made.stages} stages, {made.jobs} jobs, {made.calls} calls of sbatch: submitted in {took:.2f} "
          f"s; asking for all of them {look:.2f} s, `xling status` {status:.2f} s", flush=True)  # fmt: skip
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


def both_ways(cluster: Cluster, folder: Path, overrides: Sequence[str]) -> None:
    """A grid through SLURM and on this machine: the bytes of its matrix."""
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *overrides, "tracking.mode=off", "name=both"]
    there = ["hydra/launcher=slurm", "hydra.launcher.mem_gb=4", f"root={folder / 'slurm'}"]
    start = time.perf_counter()
    subprocess.run([*command, *there], env=cluster.env, check=True)
    print(f"submitted in {time.perf_counter() - start:.1f} s", flush=True)
    wait_until(lambda: not cluster.run("squeue", "-h", check=False).strip(), "the grid", 3600, 1.0)
    print(f"done after {time.perf_counter() - start:.0f} s", flush=True)
    subprocess.run([*command, f"root={folder / 'local'}"], check=True)
    ours, theirs = ((folder / where / "grids/both/matrix.csv").read_bytes() for where in ("slurm", "local"))
    print("matrix.csv: " + ("the same bytes" if ours == theirs else "NOT the same bytes"))


def with_pilots(cluster: Cluster, folder: Path, overrides: Sequence[str], pilots: int) -> None:
    """A grid as a job for each stage, packed as usual, and in pilots: wall time, and CPU time of all its jobs."""
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *overrides, "tracking.mode=off", "name=grid",
               "hydra/launcher=slurm", "hydra.launcher.mem_gb=4"]  # fmt: skip
    made = dict[str, bytes]()
    for how, more in {"jobs": [], "pilots": [f"hydra.launcher.pilots={pilots}"]}.items():
        start = time.perf_counter()
        subprocess.run([*command, f"root={folder / how}", *more], env=cluster.env, check=True)
        wait_until(lambda: not cluster.run("squeue", "-h", check=False).strip(), "the grid", 3600, 0.2)
        wall = time.perf_counter() - start
        filed = record.submissions(Store(folder / how))[-1]
        ids = ",".join(ref.id for ref in filed.refs.values())
        time.sleep(3.0)  # for accounting to have it
        rows = cluster.run("sacct", "-nP", "-j", ids, "-o", "JobID,TotalCPU").split()
        cpu = [took for id_, _, took in (row.partition("|") for row in rows) if "." in id_]  # of steps: jobs have none
        idle = sum(event.idle for place, _, _ in filed.tasks() for event in filed.events(place))
        made[how] = (folder / how / "grids/grid/matrix.csv").read_bytes()
        print(f"{how}: {sum(array.size for array in filed.head.arrays)} jobs, {wall:.0f} s until the matrix is there, "
              f"{sum(map(_seconds, cpu)):.0f} s of CPU in jobs, {idle:.0f} s idle", flush=True)  # fmt: skip
    print("matrix.csv: " + ("the same bytes" if len(set(made.values())) == 1 else "NOT the same bytes"))


def _seconds(text: str) -> float:
    """SLURM's `01:02:03` or `02:03.456`."""
    return sum(float(part) * 60**place for place, part in enumerate(reversed(text.split(":"))))


def bare_makespan(cluster: Cluster, plan: Plan) -> float:
    """Seconds that SLURM itself needs for jobs of the same number, order and length that do nothing but sleep."""
    _, arrays = arrays_of(assign(plan, ALONE, {}), ALONE, 1001, "bare")
    with tempfile.TemporaryDirectory() as name:
        log, ids, begin = Path(name) / "log", {}, time.time()
        for array in arrays[:-1]:
            indices = f"--array=0-{len(array.tasks) - 1}"
            script = f"sleep 1; date +%s.%N >> {log}"
            ids[array.number] = cluster.sbatch(script, "-p", "cpu", "--mem=50", "--hold", indices)
        slurm.update_dependencies(dependencies(arrays[:-1], ids))
        slurm.release(list(ids.values()))
        wait_until(lambda: not cluster.run("squeue", "-h", check=False).strip(), "bare jobs", 300, 1.0)
        return max(map(float, log.read_text().split())) - begin


def scale(folder: Path, size: int) -> None:
    """A grid whose first stage waits: what its submission, a look and its cancellation cost, and what its jobs read."""
    langs = [f"l{number:03}" for number in range(size)]
    cells = grid(langs, langs, base={"do": f"until {folder / 'gate'}"})
    plan = make_plan(cells, Store(folder / "out"), name=f"{size}x{size}", kinds=KINDS)
    start = time.perf_counter()
    made = submit(plan, ALONE, Work("noop_stages:KINDS", "xling.folding:fold", {"mode": "off"}))
    print(
        f"{made.stages} stages, {made.jobs} jobs in {made.calls} arrays: {time.perf_counter() - start:.1f} s",
        flush=True,
    )
    [filed] = record.submissions(plan.store)
    sizes = {path.name: path.stat().st_size for path in filed.folder.glob("*.json*")}
    line = len(files.json_bytes(filed.task((filed.head.arrays[-2].number, 0))))
    print(f"record: {sizes}; of it a job reads submission.json and about {line} bytes")
    for verb, *more in (("status",), ("cancel", "all")):
        command = [sys.executable, "-m", "xling", verb, *more, plan.name, "--root", str(plan.store.root)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"`xling {' '.join((verb, *more))}`: {time.perf_counter() - start:.1f} s", flush=True)
    wait_until(lambda: not slurm.ours(), "an empty queue", 120, 0.5)


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
    parser.add_argument("--grid", nargs="+", metavar="OVERRIDE", help="run this grid on 4 nodes, then here")
    parser.add_argument("--scale", type=int, metavar="SIZE", help="only submit a grid of SIZE x SIZE, look and cancel")
    parser.add_argument("--pilots", type=int, metavar="N", help="run the grid of --grid as jobs, then in N pilots")
    options = parser.parse_args(arguments)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # jobs start from compiled modules, as they do elsewhere
    if options.grid:
        with (
            Cluster(options.pilots is not None, gpu_nodes=4, cpu_nodes=0, cpus=1, memory_mb=5000) as cluster,
            tempfile.TemporaryDirectory() as name,
        ):
            if options.pilots is not None:
                return with_pilots(cluster, Path(name), options.grid, options.pilots)
            return both_ways(cluster, Path(name), options.grid)
    many = {"MaxJobCount": 60000} if options.scale else {}
    with Cluster(cpus=32, options=many) as cluster, tempfile.TemporaryDirectory() as name:
        os.environ.update(cluster.env)
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
        if options.scale:
            return scale(Path(name), options.scale)
        for size in (6, 30):
            withdraw(submitted(Path(name) / str(size), size))
        if options.run:
            plan = submitted(Path(name) / "c", 6, 1.0, PACKED)
            makespan(cluster, plan)
            print(f"the same jobs without xling and Python, each `sleep 1`: {bare_makespan(cluster, plan):.1f} s")
            print(f"a bare job starts {bare_latency(cluster):.2f} s (median) after the one it waits for")
    return None


if __name__ == "__main__":
    main()
