"""Policies trained by real stages in two processes: on two nodes, killed there, and gone on with on one node."""

import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from toy_grid import ROOT, Toy

from xling.grid.records import Done, read
from xling.jsonfiles import read_json

OPTIMIZERS = ("ppo", "rloo", "dpo")
SMALL = (
    "task=micro_tiny", "rm_backbone=bag_of_words", "judge=gold", "policy.n=2",
    "policy.baseline_samples=1", "policy.max_new_tokens=8", "sft.steps=4", "sft.eval_every=4",
)  # fmt: skip
TRAINING = (
    "optimizer.steps=30", "optimizer.batch_size=8", "optimizer.eval_every=2", "optimizer.eval_prompts=4",
    "optimizer.reward_samples=16",
)  # fmt: skip


class Policies(Toy):
    """The same grid with the stages that there are."""

    def command(self, *overrides: str, launcher: str = "slurm") -> list[str]:
        settings = self.settings if launcher == "slurm" else ("workers=1",)
        return [
            sys.executable, str(ROOT / "launch.py"), "-m", f"hydra/launcher={launcher}", "tracking.mode=off",
            *(f"hydra.launcher.{setting}" for setting in settings), "source_lang=en", "target_lang=de", *SMALL,
            f"root={self.root}", f"name={self.name}", *overrides,
        ]  # fmt: skip


@pytest.fixture
def policies(plain_cluster: Cluster, tmp_path: Path) -> Policies:
    grid = Policies(plain_cluster, tmp_path, ("en",), ("de",), name="policies")
    grid.settings = ("pack_minutes=0", "partition=cpu", "mem_gb=1", "late_seconds=5", "stages.align.mem_gb=3")
    return grid


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_processes_on_two_nodes_then_on_one(policies: Policies, optimizer: str) -> None:
    """Killed once on two nodes, with a checkpoint; the same command goes on, on one node."""
    asked = [f"optimizer={optimizer}", *TRAINING, *(["optimizer.trainer=own"] if optimizer == "rloo" else [])]
    policies.launch("optimizer=best_of_n", launcher="local")  # what all of them need
    policies.launch(*asked, "hydra.launcher.stages.align.nodes=2")
    [label] = [label for label in policies.stages() if label.startswith("align[")]
    scratch = Path(policies.store.beside(*policies.stages()[label], ".partial"))
    wait_until(lambda: any(scratch.glob("*/checkpoint-*/state.json")), "a checkpoint", 300, 0.05)
    policies.cluster.run("scancel", "--signal=KILL", "--full", policies.job_of(label))
    policies.wait(120)
    assert not list(policies.root.glob("stages/align/*/done.json"))
    assert [read_json(path)["processes"] for path in scratch.glob("*/checkpoint-*/state.json")][:1] == [2]

    policies.launch(*asked, "hydra.launcher.stages.align.tasks_per_node=2")
    policies.wait(400)
    assert not policies.failures() and not policies.leftovers()
    assert "Goes on after step" in policies.log(label) and " in 2 processes." in policies.log(label)
    [marker] = policies.root.glob("stages/align/*/done.json")
    assert read(Done, str(marker)).run.processes == 2
