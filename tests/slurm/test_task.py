"""Turns of a job: time limits, preemptions, lost nodes; a stage goes on where it was. Stages in several processes."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from toy_grid import Toy

from xling.grid.grids import read_grid
from xling.grid.records import Done, read

STEPS = 150  # of 0.1 s


def hog(cluster: Cluster, seconds: int) -> str:
    """A job of the partition with more rank that wants all the nodes of the other."""
    return cluster.sbatch(f"sleep {seconds}", "-p", "gpu", "-N4", "--exclusive", "--mem=100", "-t", "5")


def starts_of(toy: Toy, label: str) -> list[int]:
    """The steps from which a training stage has started."""
    return [int(line.rpartition(" ")[2]) for line in toy.turns() if line.startswith(label)]


def wait_training(toy: Toy, label: str) -> None:
    """Until a training stage has a checkpoint to go on from."""
    toy.wait_running(label)
    kind, key = toy.stages()[label]
    wait_until(lambda: list(toy.root.glob(f"stages/{kind}/{key}.partial/*/step")), f"a checkpoint of {label}")


def test_a_time_limit_is_another_turn_and_counts(toy: Toy) -> None:
    toy.behaviour = {"sft[de]": "train 800"}
    toy.sources = toy.targets = ("de",)
    toy.launch("hydra.launcher.stages.sft.timeout_min=1", "hydra.launcher.signal_delay_s=10")
    toy.wait(240)
    starts = starts_of(toy, "sft[de]")
    assert len(starts) >= 2 and starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < 800
    assert "turn 2 after time limit" in toy.log("sft[de]")
    assert toy.matrix() == toy.expected() and not toy.leftovers()


def test_too_many_time_limits_are_a_failure_that_says_what_to_type(toy: Toy) -> None:
    toy.behaviour = {"sft[de]": "train 100000"}
    toy.sources = toy.targets = ("de",)
    toy.launch("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10", "hydra.launcher.max_num_timeout=0")
    toy.wait(180)
    [(label, last)] = toy.failures().items()
    assert label == "sft[de]"
    assert "reached the time limit 1 times" in last and "hydra.launcher.max_num_timeout" in last
    assert "reached the time limit" in toy.matrix().decode()


def test_a_preemption_is_another_turn_and_does_not_count(toy: Toy) -> None:
    toy.behaviour = {"sft[de]": f"train {STEPS}"}
    toy.sources = toy.targets = ("de",)
    toy.settings = ("pack_minutes=0", "mem_gb=0.2", "partition=preemptible", "late_seconds=5",
                    "timeout_min=1", "signal_delay_s=20", "max_num_timeout=0")  # fmt: skip
    toy.launch()
    wait_training(toy, "sft[de]")
    hog(toy.cluster, 3)
    toy.wait(180)
    starts = starts_of(toy, "sft[de]")
    assert len(starts) == 2 and starts[1] > 0
    assert "turn 2 after preempted" in toy.log("sft[de]")
    assert not toy.failures() and toy.matrix() == toy.expected()


def test_an_administrator_takes_a_node_down(toy: Toy) -> None:
    toy.behaviour = {"sft[de]": f"train {STEPS}"}
    toy.sources = toy.targets = ("de",)
    toy.launch()
    wait_training(toy, "sft[de]")
    node = toy.cluster.run("squeue", "-h", "-j", toy.job_of("sft[de]"), "-o", "%N").strip()
    toy.cluster.down(node)
    toy.wait(180)
    starts = starts_of(toy, "sft[de]")
    assert len(starts) == 2 and starts[1] > 0
    assert "turn 2 after node or job lost" in toy.log("sft[de]")
    assert toy.matrix() == toy.expected() and not toy.failures()


def test_a_node_dies_and_its_orphan_runs_on(toy: Toy) -> None:
    """The daemon is killed, the job's process is not: SLURM starts the job a second time beside it."""
    toy.behaviour = {"sft[de]": "train 600"}
    toy.sources = toy.targets = ("de",)
    toy.launch()
    wait_training(toy, "sft[de]")
    node = toy.cluster.run("squeue", "-h", "-j", toy.job_of("sft[de]"), "-o", "%N").strip()
    toy.cluster.kill(node)
    assert toy.cluster.jobs_of_node(node)
    toy.finish(240)
    assert all(double["same_bytes"] for double in toy.doubles())


def test_an_orphan_writes_into_nothing_that_the_next_turn_has(toy: Toy) -> None:
    """Its file is open when the next turn takes the scratch over, and it writes on beside that turn."""
    toy.behaviour = {"pool[de]": f"blocks {toy.gate}"}
    toy.sources = toy.targets = ("de",)
    toy.launch()
    toy.wait_running("pool[de]")
    wait_until(lambda: list(toy.root.glob("stages/pool/*.partial/*/blocks/*.partial")), "it writes")
    toy.cluster.kill(toy.cluster.run("squeue", "-h", "-j", toy.job_of("pool[de]"), "-o", "%N").strip())
    toy.finish(240)
    assert toy.turns() == ["pool[de] turn 0", "pool[de] turn 1"] and not toy.doubles() and not toy.leftovers()


def test_a_stage_may_take_longer_than_any_timeout(toy: Toy, tmp_path: Path) -> None:
    """Its job's heartbeat keeps others out; while it is suspended, and gives none, the cluster is asked."""
    toy.behaviour = {"sft[de]": f"until {toy.gate}; count {tmp_path}/count"}
    toy.sources = toy.targets = ("de",)
    toy.launch("hydra.launcher.claim_timeout_s=4")
    job = toy.wait_running("sft[de]")
    here = toy.command("hydra.launcher.claim_timeout_s=4", launcher="local")
    here = [f"root={toy.root}" if word.startswith("root=") else word for word in here]
    local = subprocess.Popen(here, env=toy.env, cwd=toy.folder, text=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    time.sleep(16)
    local.terminate()
    assert "sft[de]: waiting for n" in local.communicate(timeout=60)[1] and toy.is_at("sft[de]")
    toy.cluster.run("scontrol", "suspend", job)
    mine = [*toy.root.glob("stages/sft/*.claim"), *toy.root.glob("stages/sft/*.tmp-*")]
    for path in mine:
        os.utime(path, (0, 0))
    assert len(mine) == 2 and "sft" not in toy.xling("gc", "--delete") and all(path.exists() for path in mine)
    toy.cluster.run("scontrol", "resume", job)
    toy.open_gate()
    toy.finish()
    assert toy.ran(tmp_path / "count") == {"sft[de]": 1} and not toy.doubles()


# --- torchrun on each node of a job, gloo between them, one result ----------------------------------------------


@pytest.fixture
def several(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    """Fine-tuning in two processes on each of two nodes."""
    toy = Toy(plain_cluster, tmp_path, ("de",), ("de",))
    toy.settings = ("pack_minutes=0", "partition=cpu", "mem_gb=0.3", "late_seconds=5", "stages.sft.mem_gb=3",
                    "stages.sft.tasks_per_node=2", "stages.sft.nodes=2")  # fmt: skip
    return toy


def test_weights_that_all_have_read_go_and_come_again(toy: Toy) -> None:
    """keep_weights=none: by the task that ends the last reader; with a target more some that read them are to run.

    Where all are made anew by the last job, as readers of before count for done.
    """
    for targets, mode in ((("de",), "retry"), (("de", "en"), "retry"), (("de", "en"), "force")):
        toy.targets = targets
        toy.launch("keep_weights=none", f"mode={mode}")
        toy.finish()
        assert not list(toy.root.glob("stages/*/*/weights.bin")) and not toy.leftovers()
    assert "Weights were dropped on purpose (keep_weights) of 2 sft, 2 reward." in toy.xling("status", toy.name)
    # and where they go although they were planned to be there: the job that misses them makes them, and what they need
    toy.targets, toy.behaviour = ("de", "en", "tr"), {"pool[tr]": f"until {toy.gate}"}
    toy.launch()
    toy.wait_running("pool[tr]")
    wait_until(lambda: len(list(toy.root.glob("stages/reward/*/weights.bin"))) == 2, "the reward models are there")
    for stage in read_grid(toy.store, toy.name).stages:
        if stage.label in ("reward[de]", "reward[en]", "sft[de]", "sft[en]"):
            toy.store.drop(stage.kind, stage.key, ["*.bin"])
    toy.open_gate()
    toy.finish()


def test_four_processes_on_two_nodes(several: Toy) -> None:
    several.behaviour = {"sft": "together"}
    several.launch()
    several.wait(300)
    meetings = sorted(line.removeprefix("sft[de] ") for line in several.turns())
    assert [line.split()[1:] for line in meetings] == [["0/4", "6"], ["1/4", "6"], ["2/4", "6"], ["3/4", "6"]]
    nodes = [line.split()[0] for line in meetings]
    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    assert several.matrix() == several.expected() and not several.leftovers()
    [marker] = several.root.glob("stages/sft/*/done.json")
    assert read(Done, str(marker)).run.processes == 4


def test_several_processes_run_the_code_that_was_submitted(several: Toy) -> None:
    several.settings = (*several.settings[:-1], "stages.sft.nodes=1")
    several.behaviour = {"base": f"until {several.gate}", "sft": "together"}
    several.launch()
    edited = several.folder / "xling"  # in the folder of the launch, where `python -m` looks first
    edited.mkdir()
    (edited / "__init__.py").write_text("raise RuntimeError('half edited')")
    several.open_gate()
    several.wait(300)
    assert len(several.turns()) == 2 and not several.failures()


def test_one_of_several_processes_fails(several: Toy) -> None:
    several.settings = (*several.settings[:-1], "stages.sft.nodes=1")
    several.behaviour = {"sft": "together 1"}
    several.launch()
    several.wait(300)
    assert several.failures() == {"sft[de]": "Process 1: ValueError: one of many"}
    assert "one of many" in several.log("sft[de]")
    assert not several.leftovers()


def test_several_processes_are_told_to_stop_before_the_time_limit(several: Toy) -> None:
    several.behaviour = {"sft": "wait"}
    several.launch(
        "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20", "hydra.launcher.max_num_timeout=1"
    )
    several.wait(400)
    assert len(several.turns()) == 2 * 4
    assert "reached the time limit 2 times" in several.failures()["sft[de]"]
    assert "turn 2 after time limit" in several.log("sft[de]")
    assert not several.leftovers()


def test_a_batch_that_cannot_be_shared_is_refused(several: Toy) -> None:
    """By a dry run, which needs no cluster, in the same words."""
    several.settings = (*several.settings[:-2], "stages.reward.tasks_per_node=3")
    for words in ((), ("dry_run=true",)):
        said = several.launch(*words, code=2)
        assert "reward[de] has a global batch size of 32, which 3 processes cannot share equally" in said
        assert "hydra.launcher.stages.reward" in said and not several.queue()
