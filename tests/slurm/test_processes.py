"""A stage in several processes: torchrun on each node of its job, gloo between them, one result."""

from pathlib import Path

import pytest
from cluster import Cluster
from toy_grid import Toy

from xling.grid.records import Done, read


@pytest.fixture
def toy(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    toy = Toy(plain_cluster, tmp_path, ("de",), ("de",))
    toy.settings = ("pack_minutes=0", "partition=cpu", "mem_gb=0.3", "late_seconds=5", "stages.sft.mem_gb=3",
                    "stages.sft.tasks_per_node=2", "stages.sft.nodes=2")  # fmt: skip
    return toy


def test_four_processes_on_two_nodes(toy: Toy) -> None:
    toy.behaviour = {"sft": "together"}
    toy.launch()
    toy.wait(300)
    meetings = sorted(line.removeprefix("sft[de] ") for line in toy.turns())
    assert [line.split()[1:] for line in meetings] == [["0/4", "6"], ["1/4", "6"], ["2/4", "6"], ["3/4", "6"]]
    nodes = [line.split()[0] for line in meetings]
    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    assert toy.matrix() == toy.expected() and not toy.leftovers()
    [marker] = toy.root.glob("stages/sft/*/done.json")
    assert read(Done, str(marker)).run.processes == 4


def test_one_of_several_processes_fails(toy: Toy) -> None:
    toy.settings = (*toy.settings[:-1], "stages.sft.nodes=1")
    toy.behaviour = {"sft": "together 1"}
    toy.launch()
    toy.wait(300)
    assert toy.failures() == {"sft[de]": "Process 1: ValueError: one of many"}
    assert "one of many" in toy.log("sft[de]")
    assert not toy.leftovers()


def test_several_processes_are_told_to_stop_before_the_time_limit(toy: Toy) -> None:
    toy.behaviour = {"sft": "wait"}
    toy.launch("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20", "hydra.launcher.max_num_timeout=1")
    toy.wait(400)
    assert len(toy.turns()) == 2 * 4
    assert "reached the time limit 2 times" in toy.failures()["sft[de]"]
    assert "turn 2 after time limit" in toy.log("sft[de]")
    assert not toy.leftovers()


def test_a_batch_that_cannot_be_shared_is_refused(toy: Toy) -> None:
    toy.settings = (*toy.settings[:-2], "stages.reward.tasks_per_node=3")
    said = toy.launch(code=2)
    assert "reward[de] has a global batch size of 32, which 3 processes cannot share equally" in said
    assert "hydra.launcher.stages.reward" in said and not toy.queue()
