"""The test cluster itself: it starts, runs jobs with fake GPUs, survives its own faults, and leaves nothing."""

import subprocess
from pathlib import Path

from cluster import Cluster, _processes_with


def test_gpus_are_handed_out_one_by_one(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [cluster.sbatch("echo gpus=$CUDA_VISIBLE_DEVICES; sleep 1", "-p", "gpu", "-w", "n1", f"--gres=gpu:{count}",
                           folder=tmp_path) for count in (1, 2)]  # fmt: skip
    for job in jobs:
        cluster.wait_for(job, "COMPLETED")
    first, second = ((tmp_path / f"{job}.out").read_text().strip() for job in jobs)
    assert first == "gpus=0" and second == "gpus=1,2"


def test_a_job_outlives_the_controller(plain_cluster: Cluster, tmp_path: Path) -> None:
    job = plain_cluster.sbatch("sleep 8; echo done", folder=tmp_path)
    plain_cluster.wait_for(job, "RUNNING")
    plain_cluster.wait_until_saved()
    plain_cluster.restart("slurmctld", away=0.5)
    plain_cluster.wait_for(job, "COMPLETED", seconds=90)
    assert (tmp_path / f"{job}.out").read_text() == "done\n"


def test_a_controller_killed_at_once_forgets_a_job_and_reuses_its_id(plain_cluster: Cluster) -> None:
    first = plain_cluster.sbatch("true", "--hold")
    plain_cluster.restart("slurmctld")
    assert plain_cluster.state(first) == ""
    assert plain_cluster.sbatch("true", "--hold") == first


def test_nothing_is_left_of_a_cluster_that_was_stopped_in_the_middle() -> None:
    with Cluster(gpu_nodes=1, cpu_nodes=0) as small:
        job = small.sbatch("trap '' TERM INT USR2; sleep 300; sleep 300")
        small.wait_for(job, "RUNNING")
        folder, setting = small.folder, f"SLURM_CONF={small.env['SLURM_CONF']}"
        assert subprocess.run(["squeue"], env=small.env, capture_output=True).returncode == 0
    assert not folder.exists()
    assert list(_processes_with(setting)) == []
