"""Pilots: a few jobs that take stages as they become ready, and the same matrix, whatever becomes of them."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from noop_stages import KINDS as NOOP
from noop_stages import grid
from toy_grid import Toy

from xling.grid import host
from xling.grid.plan import make_plan
from xling.grid.records import Sheet
from xling.grid.store import Store
from xling.runners import GpuTime
from xling.runners.execute import Job
from xling.runners.slurm import pilot, record
from xling.runners.slurm.cost import cost
from xling.runners.slurm.dispatch import dependencies, dependency, pilots_of
from xling.runners.slurm.record import Array, Event, Submission, Task
from xling.runners.slurm.settings import Resources, Slurm
from xling.runners.slurm.watch import look

KINDS = ("base", "sft", "reward", "pool", "baseline", "score", "gold", "judge")
PATIENCE = 240  # seconds; a second of work takes half a minute on busy cores


@pytest.fixture
def flown(toy: Toy) -> Toy:
    return for_pilots(toy)


@pytest.fixture
def flown_anywhere(cluster: Cluster, tmp_path: Path) -> Toy:
    """With accounting and without: it matters for what is known of jobs that have ended."""
    return for_pilots(Toy(cluster, tmp_path))


def for_pilots(toy: Toy) -> Toy:
    """A grid for two pilots of two stages at once, which counts how often each stage runs."""
    toy.settings = ("mem_gb=1", "cpus_per_task=2", "partition=cpu", "pilots=2", "pilot_stages=2")
    toy.behaviour = dict.fromkeys(KINDS, f"count {toy.folder}/count")
    return toy


def pilots(toy: Toy) -> list[list[Event]]:
    """What each pilot of the latest submission has written about itself."""
    filed = toy.filed()[-1]
    return [filed.events(place) for place in filed.among((0, 0))]


def started(toy: Toy) -> None:
    wait_until(lambda: all(any(event.event == "start" for event in one) for one in pilots(toy)), "all start", PATIENCE)


def pilot_of(toy: Toy, label: str) -> str:
    """The job that is at a stage."""
    wait_until(lambda: toy.is_at(label), f"{label} runs", PATIENCE)
    view = look(toy.store, toy.name)
    held = view.held[toy.stages()[label][1]]
    assert held.pilot and held.state.node, held
    return held.job


def ran_once(toy: Toy, *but: str) -> bool:
    ran = toy.ran(toy.folder / "count")
    return len(ran) == len(toy.stages()) and all(times == 1 for label, times in ran.items() if label not in but)


def test_pilots_take_what_is_ready_and_leave(flown: Toy) -> None:
    flown.sources = flown.targets = ("de", "en", "tr")
    flown.behaviour["base"] += f"; until {flown.gate}"
    said = flown.launch()
    assert "submitted 34 stages as 3 jobs in 2 arrays" in said, said
    started(flown)
    job = pilot_of(flown, "base")
    told = flown.xling("status", "toy", "--all")
    assert f", pilot {job}" in told and "waits for base" in told and "2 running" in told, told
    assert "stages are queued or running already" in flown.launch()
    flown.open_gate()
    flown.finish()
    assert ran_once(flown) and not flown.leftovers() and not flown.doubles()
    done = [Counter(event.end for event in one)["done"] for one in pilots(flown)]
    assert sum(done) == len(flown.stages()) and min(done) > 3, done
    idle = [sum(event.idle for event in one) for one in pilots(flown)]
    assert min(idle) > 2, "one waited for base with both its processes, the other with one"
    assert [filed.state for filed in flown.filed()] in (["finished"], ["released"])
    flown.launch()
    assert len(flown.filed()) == 1


def test_a_pilot_for_which_there_is_nothing_leaves(flown: Toy) -> None:
    flown.sources = flown.targets = ("de",)
    flown.behaviour["score"] += f"; until {flown.gate}"
    flown.launch()
    busy = pilot_of(flown, "score[de, de]")
    wait_until(lambda: list(flown.queue().values()).count("RUNNING None") == 1, "the other one has left", PATIENCE)
    assert [job for job, state in flown.queue().items() if state.startswith("RUNNING")] == [busy]
    assert any("other pilots are enough" in event.text for one in pilots(flown) for event in one)
    flown.open_gate()
    flown.finish()
    assert ran_once(flown)


def test_pilots_are_cancelled_and_lose_their_nodes(flown_anywhere: Toy) -> None:
    """One is cancelled: the other makes what it was at. That one's node goes down: it goes on elsewhere."""
    flown = flown_anywhere
    flown.behaviour["sft"] += "; train 40"
    flown.behaviour["score"] += f"; train 20; until {flown.gate}"
    flown.launch()
    started(flown)
    first = pilot_of(flown, "sft[de]")
    flown.cluster.run("scancel", first)
    wait_until(lambda: first not in flown.queue(), "it is gone", PATIENCE)
    scores = [label for label, (kind, _) in flown.stages().items() if kind == "score"]  # two at once, in any order
    second = pilot_of(flown, wait_until(lambda: next(filter(flown.is_at, scores), ""), "a score runs", PATIENCE))
    assert second != first
    flown.cluster.down(flown.cluster.run("squeue", "-h", "-j", second, "-o", "%N").strip())
    wait_until(lambda: "turn 2 after node or job lost" in logs_of_scores(flown), "it goes on elsewhere", PATIENCE)
    flown.open_gate()
    flown.finish()
    assert not flown.doubles()


def logs_of_scores(flown: Toy) -> str:
    return "".join(path.read_text() for path in flown.root.glob("logs/score/*"))


def test_a_stage_that_has_its_job_killed_is_no_other_pilots_end(flown_anywhere: Toy) -> None:
    """Two of three are killed for memory; the last leaves the stage alone and does everything else."""
    flown = flown_anywhere
    flown.settings = ("mem_gb=1", "cpus_per_task=2", "partition=cpu", "pilots=3", "pilot_stages=1")
    flown.behaviour["reward[de]"] = f"count {flown.folder}/count; memory 1500"
    flown.launch()
    flown.wait()
    [(label, last)] = flown.failures().items()
    assert label == "reward[de]" and last.startswith("SLURM has killed 2 pilots that were at it; the last: killed ")
    assert flown.matrix().decode().count(",done,") == 2 and flown.ran(flown.folder / "count")["reward[de]"] == 2


def test_a_stage_of_a_pilot_is_cancelled(flown: Toy) -> None:
    """One that runs and one that waits; the same command makes them, in pilots that count among those that may run."""
    flown.sources = ("de", "en", "tr")
    flown.behaviour |= dict.fromkeys(("reward[de]", "reward[en]"), f"until {flown.gate}")
    flown.launch()
    pilot_of(flown, "reward[en]")
    assert "reward[en]: cancelled; the pilots of toy go on" in flown.xling("cancel", "reward[en]", "toy")
    assert not flown.is_at("reward[en]")
    flown.xling("cancel", "score[de, de]", "toy")
    assert set(flown.failures()) == {"reward[en]", "score[de, de]"}
    assert all(last.startswith("Cancelled by ") for last in flown.failures().values())
    assert "score[de, de]" not in flown.ran(flown.folder / "count")
    before = set(flown.queue())
    assert "submitted" in flown.launch("hydra.launcher.max_running=2")
    waiting = {"PENDING Dependency"}  # two run already; until SLURM has looked, it says PENDING None
    wait_until(lambda: {said for job, said in flown.queue().items() if job not in before} == waiting, "told why", 30)
    flown.open_gate()
    flown.finish()
    assert flown.ran(flown.folder / "count")["score[de, de]"] == 1 and not flown.leftovers()


def test_time_limits_of_a_pilot_count_while_it_gets_nothing_done(flown: Toy) -> None:
    """It goes on where it was, as often as it gets something done; then a stage that never ends fails alone."""
    flown.sources = flown.targets = ("de",)
    flown.settings = ("mem_gb=1", "cpus_per_task=2", "partition=cpu", "pilots=1", "pilot_stages=2", "timeout_min=1",
                      "signal_delay_s=20", "max_num_timeout=0")  # fmt: skip
    flown.behaviour["gold"] = "wait"
    flown.launch()
    flown.wait(240)
    assert "reached the time limit" in flown.failures()["gold[de]"] and len(flown.failures()) == 1
    ran = flown.ran(flown.folder / "count")
    assert set(ran.values()) == {1} and "score[de, de]" in ran, "the others were done meanwhile"
    assert not flown.leftovers()


def test_a_pilot_of_two_gpus_is_preempted(flown_anywhere: Toy) -> None:
    """What it runs on both of them goes on where it was."""
    flown = flown_anywhere
    flown.settings = ("mem_gb=1", "cpus_per_task=2", "partition=preemptible", "gpus_per_node=2", "pilots=1",
                      "signal_delay_s=20", "max_num_timeout=0")  # fmt: skip
    flown.behaviour["sft"] += "; train 150"
    flown.launch()
    wait_until(lambda: len(flown.turns()) == 2, "both train", PATIENCE)
    flown.cluster.sbatch("sleep 3", "-p", "gpu", "-N4", "--exclusive", "--mem=100", "-t", "5")
    flown.finish()
    for label in ("sft[de]", "sft[en]"):
        first, second = (int(line.rpartition(" ")[2]) for line in flown.turns() if line.startswith(label))
        assert first == 0 < second and "turn 2 after preempted" in flown.log(label)
    assert ran_once(flown, "sft[de]", "sft[en]") and not flown.leftovers()
    spent = cost(flown.store, flown.name)
    assert 0 < spent["sft"].used < spent["sft"].held and "judge" not in spent


def test_what_pilots_cannot_do_is_refused(flown: Toy) -> None:
    for typed, words in {
        "hydra.launcher.stages.sft.mem_gb=2": "hydra.launcher.stages.sft.mem_gb=2.0: with hydra.launcher.pilots=2 all",
        "hydra.launcher.tasks_per_node=2": "a pilot has one node, and runs each stage in one process",
        "mode=force": "each pilot would run all stages again",
        "hydra.launcher.max_submit=2": "Or type hydra.launcher.pilots=1",
    }.items():
        assert words in flown.launch(typed, code=2)
    assert not flown.queue()


# --- without SLURM ----------------------------------------------------------------------------------------------


def test_a_pilot_stops_when_told_and_two_share_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    gate, cells = tmp_path / "gate", grid(["a", "b"], ["a", "b"], pool={"do": f"until {tmp_path / 'gate'}"})
    plan = make_plan(cells, Store(tmp_path / "out"), name="flown", kinds=NOOP)
    plan.store.prepare()
    settings = Slurm(pilots=2, pilot_stages=2)
    jobs, arrays = pilots_of(plan, settings, 2, {plan.to_run[1].key}, 1001, "xling-flown")
    assert [len(array.tasks) for array in arrays] == [2, 1] and len(jobs) == len(plan.to_run) == 15
    submission = Submission("1", "flown", str(plan.store.root), time.time(), (), "noop_stages:KINDS", False, None,
                            host.code_digest(), sys.executable, "", (), settings, {}, arrays, jobs)  # fmt: skip
    folder = record.folder_of(plan.store, "flown") / "1"
    record.write(folder, submission)
    filed = record.read(folder)
    assert (folder / "tasks.jsonl").read_bytes().count(b"\n") == 3 + 2, "its stages are written down once"
    assert filed.submission.arrays[0].tasks[1].stages == tuple(range(15)) and filed.among((0, 1)) == [(0, 0), (0, 1)]
    notes = list[Event]()

    def flight(told: Callable[[], str]) -> pilot.Flown:
        turn = pilot.Turn("1_0", notes.append, told, 10.0, lambda _: False, lambda _: "", lambda: None, lambda _: None)
        return pilot.fly(filed, filed.task((0, 1))[1], turn, "")

    pools = [plan.store.beside(job.sheet.kind, job.key, ".claim") for job in jobs if job.sheet.kind == "pool"]
    stopped = flight(lambda: "preempted" if all(map(os.path.exists, pools)) else "")
    assert {job.sheet.label for job in stopped.at} == {"pool[a]", "pool[b]"} and not stopped.over
    assert not any(map(os.path.exists, pools)) and not list(plan.store.root.glob("stages/*/*.failed.json"))
    gate.touch()
    with ThreadPoolExecutor() as both:
        assert all(flown.over for flown in both.map(flight, [lambda: ""] * 2))
    done = Counter(event.key for event in notes if event.end == "done")
    assert done == dict.fromkeys((job.key for job in jobs), 1)
    assert any(event.idle for event in notes)


def test_pilots_have_gpus_if_a_stage_computes_on_one(tmp_path: Path) -> None:
    plan = make_plan(grid(["a"], ["a"]), Store(tmp_path), name="flown", kinds=NOOP)
    settings = Slurm(Resources(gpus_per_node=2), cpu=Resources(cpus_per_task=3), pilots=2)
    light = replace(plan, kinds={name: replace(kind, gpu=lambda stage: False) for name, kind in NOOP.items()})
    for one, asked in ((plan, settings.common), (light, settings.cpu)):
        _, arrays = pilots_of(one, settings, 2, set(), 1001, "x")
        assert [array.resources for array in arrays] == [asked, settings.cpu]
    waits = pilots_of(plan, settings, 2, {stage.key for stage in plan.to_run}, 1001, "x", ["7"])
    assert waits[0] == () and [array.tasks for array in waits[1]] == [(Task((), (), ("7",)),)], "the one that folds"


def test_what_takes_long_without_gpus_waits_for_the_end_of_pilots(tmp_path: Path) -> None:
    """And what is below it, in arrays that find room in the queue; without GPUs pilots do all."""
    light = ("score", "judge")
    kinds = {
        name: replace(kind, gpu=lambda stage: stage.kind not in light, seconds=60.0) for name, kind in NOOP.items()
    }
    plan = make_plan(grid(["a", "b"], ["a", "b"]), Store(tmp_path), name="flown", kinds=kinds)
    left = [stage for stage in plan.to_run if stage.kind in light]
    assert left and {stage.kind for stage in plan.to_run} - set(light)
    for asked, waits in ((Resources(gpus_per_node=1), True), (Resources(), False)):
        settings = Slurm(asked, cpu=Resources(mem_gb=3), pilots=2)
        jobs, arrays = pilots_of(plan, settings, 2, set(), 3, "x", before=["9"])
        assert {job.key for job in jobs} == {stage.key for stage in plan.to_run}
        own = {jobs[number].key for number in arrays[0].tasks[0].stages}
        assert own == {stage.key for stage in plan.to_run} - {stage.key for stage in left if waits}
        assert arrays[0].pilots and arrays[0].tasks[0].others == ("9",)
        assert [array.number for array in arrays] == list(range(len(arrays)))
        ids = {array.number: str(array.number + 100) for array in arrays}
        edges = dependencies(arrays, ids)
        for array in arrays[1:]:
            assert not array.pilots and array.resources == settings.cpu and len(array.tasks) <= 3
            whole = dependency(array, arrays, ids)
            each = [edges[f"{ids[array.number]}_{task}"] for task in range(len(array.tasks) if not whole else 0)]
            assert all("afterany:100" in words for words in (each or [whole])), (whole, each)


def test_what_pilots_have_used_is_what_was_not_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By kind as their stages took; a turn that was lost without a word has used what it had said by then."""
    monkeypatch.setenv("PATH", str(tmp_path))
    store, kinds = Store(tmp_path), ("sft", "pool", "judge")
    stages = tuple(Job(f"{kind:0<64}", Sheet(kind, 1, f"{kind}[de]", {}, {})) for kind in kinds)
    array = Array(0, "xling-g-0", Resources(gpus_per_node=2), (Task((0, 1, 2), light=(2,)),), pilots=True)
    submission = Submission(
        "s", "g", str(tmp_path), 0.0, (), "c", False, None, "", "", "", (), Slurm(pilots=1), {}, (array,), stages
    )
    filed = record.write(record.folder_of(store, "g") / "s", submission)
    record.note_job(filed.folder, 0, "7")
    sft, pool, judge = (job.key for job in stages)
    for event in (
        Event("start", at=1000.0),
        Event("stage", at=1060.0, key=sft, end="done", seconds=60.0, idle=50.0),
        Event("stage", at=1061.0, key=judge, end="done", seconds=9.0),
        Event("start", at=2000.0),
        Event("stage", at=2030.0, key=pool, end="done", seconds=20.0, idle=12.0),
        Event("note", at=2039.0, idle=18.0),
        Event("end", at=2039.0),
    ):
        record.note_event(filed.folder, (0, 0), event)
    assert cost(store, "g") == {
        "sft": GpuTime(1, asked=2 * 3600.0, held=150.0, used=90.0),
        "pool": GpuTime(held=50.0, used=30.0),
    }
