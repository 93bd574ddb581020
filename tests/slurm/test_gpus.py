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
