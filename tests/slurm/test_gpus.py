"""GPUs go to stages that compute on one, and to no job whose parents have failed; what a grid has had of them."""

import re
from pathlib import Path

import msgspec
import pytest
from cluster import Cluster
from toy_grid import Toy

from xling.grid.host import Process
from xling.grid.records import Run, Sheet
from xling.grid.store import Store
from xling.report.page.write import update
from xling.runners import GpuTime, gpu_time
from xling.runners.execute import Job
from xling.runners.slurm import record
from xling.runners.slurm.cost import cost
from xling.runners.slurm.record import TIME_LIMIT, Array, Event, Submission, Task
from xling.runners.slurm.settings import Resources, Slurm

GPUS = ("partition=gpu", "gpus_per_node=1", "cpu.partition=cpu")


@pytest.fixture
def toy(cluster: Cluster, tmp_path: Path) -> Toy:
    return Toy(cluster, tmp_path, settings=(*Toy.settings, *GPUS), sources=("de",))


@pytest.fixture
def plain(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    return Toy(plain_cluster, tmp_path, settings=(*Toy.settings, *GPUS), sources=("de",))


def test_what_computes_on_no_gpu_holds_none(toy: Toy) -> None:
    toy.behaviour = {"base": f"until {toy.gate}", "sft": "sleep 2"}
    toy.launch()
    filed = toy.filed()[-1]
    rows = [
        row.split("|")
        for row in toy.cluster.run("squeue", "-h", "-r", "-O", "JobArrayID:|,Partition:|,tres-per-node:|").splitlines()
    ]
    held = {job: (partition, gpus) for job, partition, gpus, *_ in rows}
    of = {label.partition("[")[0]: held[toy.job_of(label)] for label in toy.stages()}
    of["reduce"] = held[filed.job((len(filed.head.arrays) - 1, 0)) or ""]
    on_gpu = {kind for kind, where in of.items() if where == ("gpu", "gres:gpu:1")}
    assert on_gpu == {"sft", "reward", "pool", "baseline", "score"}, of
    assert {where for kind, where in of.items() if kind not in on_gpu} == {("cpu", "N/A")}, of
    toy.open_gate()
    toy.finish()
    scripts = [path.read_text() for path in filed.folder.glob("logs/*submission.sh")]
    assert sum("CUDA_VISIBLE_DEVICES=''" in script for script in scripts) == sum(
        "--partition=cpu" in s for s in scripts
    )
    # and what it has cost
    spent = cost(toy.store, toy.name)
    assert spent.keys() == on_gpu
    assert (spent["sft"].jobs, spent["sft"].asked) == (2, 2 * 600.0) and 4 <= spent["sft"].used <= spent[
        "sft"
    ].held < 60
    if toy.cluster.accounting:
        answer = toy.cluster.run("sacct", "-X", "-n", "-P", "-o", "ElapsedRaw,AllocTRES")
        had = sum(int(row.partition("|")[0]) for row in answer.splitlines() if "gres/gpu=1" in row)
        jobs = sum(one.jobs for one in spent.values())
        assert abs(sum(one.held for one in spent.values()) - had) <= jobs, "seconds are whole ones there"
    said = toy.xling("status", "--cost")
    assert re.search(r"sft .* 2 .* 0\.33 ", said) and re.search(r"all .* %\)", said), said
    assert '"gpus":[{"asked":1200.0,' in update(toy.store, toy.name).read_text(encoding="utf-8")


def test_what_jobs_say_is_counted_where_there_are_no_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of two GPUs and one process: to its time limit, then to its end; a verdict rides along."""
    monkeypatch.setenv("PATH", str(tmp_path))
    store, sheet = Store(tmp_path), Sheet("sft", 1, "sft[de]", {}, {})
    array = Array(0, "xling-g-0", Resources(gpus_per_node=2), (Task((0, 1, 2), light=(2,)),))
    kinds = ("sft", "pool", "judge")
    stages = tuple(Job(f"{kind:0<64}", msgspec.structs.replace(sheet, kind=kind)) for kind in kinds)
    submission = Submission(
        "s", "g", str(tmp_path), 0.0, (), "c", False, None, "", "", "", (), Slurm(), {}, (array,), stages
    )
    filed = record.write(record.folder_of(store, "g") / "s", submission)
    record.note_job(filed.folder, 0, "7")
    sft, pool, judge = (job.key for job in stages)
    for event in (
        Event("unfit", at=900.0),
        Event("start", at=1000.0),
        Event("requeue", at=1110.0, text=TIME_LIMIT),
        Event("start", at=2000.0),
        Event("stage", at=2050.0, key=sft, end="done", seconds=40.0),
        Event("stage", at=2060.0, key=pool, end="failed"),
        Event("stage", at=2065.0, key=judge, end="done", seconds=5.0),
        Event("end", at=2066.0),
    ):
        record.note_event(filed.folder, (0, 0), event)
    here = Run(50.0, 50.0, "", 1, Process("h", 1, 0.0), 1, "NVIDIA H100", None, {}, processes=2)
    runs = [("align", here), ("gold", msgspec.structs.replace(here, device="cpu"))]
    assert gpu_time(store, "g", runs) == {
        "align": GpuTime(held=100.0, used=100.0),
        "sft": GpuTime(1, asked=2 * 3600.0, held=2 * (110.0 + 50.0 + 1.0), used=110.0 + 40.0),
        "pool": GpuTime(0, held=2 * 10.0, used=10.0),
        "judge": GpuTime(0, held=2 * 5.0),
    }


def test_jobs_that_would_take_whole_nodes_are_refused(plain: Toy) -> None:
    plain.cluster.configure(DefMemPerCPU=0)
    plain.settings = tuple(setting for setting in plain.settings if not setting.startswith("mem_gb"))
    said = plain.launch(code=2)
    assert "Type hydra.launcher.mem_gb=0.9 hydra.launcher.cpu.mem_gb=4" in said and not plain.root.exists()
    plain.launch("hydra.launcher.mem_gb=0.3")
    plain.finish()


def started(toy: Toy) -> set[str]:
    return {label for label in toy.stages() if any(event.event == "start" for event in toy.events(label))}


def test_what_is_below_a_failure_is_never_started(toy: Toy) -> None:
    """However a stage's job has ended: by itself, by a signal that nobody hears of, or cancelled."""
    toy.sources, toy.targets = ("de", "en", "es", "tr"), ("tr",)
    toy.behaviour = {"sft[de]": "raise no luck", "reward[en]": "kill SIGKILL", "reward[es]": f"until {toy.gate}"}
    toy.launch("hydra.launcher.late_seconds=60")
    toy.wait_running("reward[es]")
    assert "cancelled" in toy.xling("cancel", "reward[es]")
    toy.wait(60)
    lost = {"reward[de]", *(f"{kind}[{lang}, tr]" for kind in ("score", "judge") for lang in ("de", "en", "es"))}
    assert started(toy) == toy.stages().keys() - lost
    assert toy.failures().keys() == {"sft[de]", "reward[en]", "reward[es]"}
    said = toy.xling("status", "--all")
    assert {line.rpartition(" below ")[2].strip() for line in said.splitlines() if " below " in line} == {
        *("sft[de]", "reward[de]", "reward[en]", "reward[es]"),
        *(f"score[{lang}, tr]" for lang in ("de", "en", "es")),
    }
    rows = toy.matrix().decode().splitlines()
    assert sum(",done," in row for row in rows) == 1 and sum(",blocked," in row for row in rows) == 3, rows
    if toy.cluster.accounting:
        told = toy.cluster.run(
            "sacct",
            "-X",
            "-n",
            "-P",
            "-o",
            "JobID,State",
            "-j",
            ",".join(ref.id for ref in toy.filed()[-1].refs.values()),
        )
        failed = {row.partition("|")[0] for row in told.splitlines() if "FAILED" in row}
        assert failed <= {toy.job_of("sft[de]"), toy.job_of("reward[en]")}, told
    toy.behaviour = {}
    assert "submitted 10 stages as 11 jobs" in toy.launch()
    toy.finish()


def test_a_job_of_a_block_that_finds_what_it_needs_dead_ends_at_once(plain: Toy) -> None:
    """Jobs of arrays whose parents differ are started, whoever of those has failed."""
    plain.sources, plain.behaviour = ("de", "en", "tr"), {"reward[en]": "kill SIGKILL"}
    plain.launch("hydra.launcher.late_seconds=60", "hydra.launcher.max_submit=12")
    plain.wait()
    for label in ("score[en, de]", "score[en, en]"):
        events = plain.events(label)
        at = {event.event: event.at for event in events}
        assert [event.end for event in events if event.end] == ["blocked"], label
        assert "start" not in at or at["stage"] - at["start"] < 30, "half of what a late result is waited for"
        assert plain.cluster.state(plain.job_of(label)) == "CANCELLED"
    assert plain.failures().keys() == {"reward[en]"}
