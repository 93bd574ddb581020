"""GPUs go to stages that compute on one, and to no job whose parents have failed; what a grid has had of them."""

from pathlib import Path

import pytest
from cluster import Cluster
from toy_grid import Toy

GPUS = ("partition=gpu", "gpus_per_node=1", "cpu.partition=cpu")


@pytest.fixture
def toy(cluster: Cluster, tmp_path: Path) -> Toy:
    return Toy(cluster, tmp_path, settings=(*Toy.settings, *GPUS), sources=("de",))


def test_what_computes_on_no_gpu_holds_none(toy: Toy) -> None:
    toy.behaviour = {"base": f"until {toy.gate}"}
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


def test_jobs_that_would_take_whole_nodes_are_refused(toy: Toy) -> None:
    toy.cluster.configure(DefMemPerCPU=0)
    toy.settings = tuple(setting for setting in toy.settings if not setting.startswith("mem_gb"))
    said = toy.launch(code=2)
    assert "Type hydra.launcher.mem_gb=0.9 hydra.launcher.cpu.mem_gb=4" in said and not toy.root.exists()
    toy.launch("hydra.launcher.mem_gb=0.3")
    toy.finish()


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
    assert {line.split("  ")[-1].strip() for line in said.splitlines() if " blocked " in line} == {
        "below sft[de]", "below reward[de]", "below reward[en]", "below reward[es]",
        *(f"below score[{lang}, tr]" for lang in ("de", "en", "es")),
    }  # fmt: skip
    rows = toy.matrix().decode().splitlines()
    assert sum("done" in row for row in rows) == 1 and sum(",blocked," in row for row in rows) == 3, rows
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


def test_a_job_of_a_block_that_finds_what_it_needs_dead_ends_at_once(toy: Toy) -> None:
    """Jobs that wait for a whole array are started, whoever of it has failed."""
    toy.sources, toy.behaviour = ("de", "en", "tr"), {"reward[en]": "kill SIGKILL"}
    toy.launch("hydra.launcher.late_seconds=60", "hydra.launcher.max_submit=8")
    toy.wait()
    events = toy.events("score[en, de]")
    at = {event.event: event.at for event in events}
    assert at["stage"] - at["start"] < 20 and [event.end for event in events if event.end] == ["blocked"]
    assert toy.failures().keys() == {"reward[en]"} and "score[en, de]" in started(toy)
    assert toy.cluster.state(toy.job_of("score[en, de]")) == "CANCELLED"
