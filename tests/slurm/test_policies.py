"""Policies trained by real stages in two processes: on two nodes, killed there, and gone on with on one node."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from toy_grid import ROOT, Toy

from xling.grid.records import Done, read
from xling.models.resuming import SEAL, STATE

OPTIMIZERS = {
    "ppo": (["optimizer=ppo"], STATE),
    "rloo": (["optimizer=rloo", "optimizer.trainer=own"], STATE),
    "dpo": (["optimizer=dpo"], STATE),
    "rloo of trl": (["optimizer=rloo", "optimizer.trainer=trl"], SEAL),
    "grpo": (["optimizer=grpo"], SEAL),
}  # what is typed; the file that a whole checkpoint has
SMALL = (
    "task=micro_tiny", "rm_backbone=bag_of_words", "judge=gold", "policy.n=2",
    "policy.baseline_samples=1", "policy.max_new_tokens=8", "sft.steps=4", "sft.eval_every=4",
)  # fmt: skip
TRAINING = (
    "optimizer.batch_size=8", "optimizer.eval_every=2", "optimizer.eval_prompts=4", "optimizer.reward_samples=16",
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


@pytest.fixture(scope="module")
def begun(without_accounting: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the stages that all of them need."""
    grid = Policies(without_accounting, tmp_path_factory.mktemp("begun"), name="policies")
    grid.launch("optimizer=best_of_n", launcher="local")
    return grid.root


@pytest.fixture
def policies(begun: Path, plain_cluster: Cluster, tmp_path: Path) -> Policies:
    grid = Policies(plain_cluster, tmp_path, ("en",), ("de",), name="policies")
    shutil.copytree(begun, grid.root)
    grid.settings = ("pack_minutes=0", "partition=cpu", "mem_gb=1", "late_seconds=5", "stages.align.mem_gb=3")
    return grid


@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(name, marks=[pytest.mark.nightly] * (whole == SEAL)) for name, (_, whole) in OPTIMIZERS.items()],
)
def test_two_processes_on_two_nodes_then_on_one(policies: Policies, optimizer: str) -> None:
    """Killed once on two nodes, with a checkpoint; the same command goes on, on one node."""
    typed, whole = OPTIMIZERS[optimizer]
    asked = [*typed, *TRAINING, f"optimizer.steps={30 if whole == STATE else 60}"]  # more than a kill takes
    policies.launch(*asked, "hydra.launcher.stages.align.nodes=2")
    [label] = [label for label in policies.stages() if label.startswith("align[")]
    scratch = Path(policies.store.beside(*policies.stages()[label], ".partial"))
    wait_until(lambda: any(scratch.glob(f"*/checkpoint-*/{whole}")), "a checkpoint", 300, 0.05)
    policies.cluster.run("scancel", "--signal=KILL", "--full", policies.job_of(label))
    policies.wait(120)
    assert not list(policies.root.glob("stages/align/*/done.json"))

    policies.launch(*asked, "hydra.launcher.stages.align.tasks_per_node=2")
    policies.wait(400)
    assert not policies.failures() and not policies.leftovers()
    assert re.search(r"Goes on after step \d+ in 2 processes\.", policies.log(label))  # by another number: said too
    [marker] = policies.root.glob("stages/align/*/done.json")
    assert read(Done, str(marker)).run.processes == 2
