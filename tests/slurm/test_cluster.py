"""xling.runners.slurm.cluster against real daemons: what lives, what has ended and why, what is refused."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, _processes_with, wait_until

from xling.errors import ConfigError
from xling.runners.slurm import cluster as slurm
from xling.runners.slurm.cluster import JobRef
from xling.runners.slurm.limits import check_resources
from xling.runners.slurm.settings import Resources

NAME = "xling-a_grid_with_a_long_name_that_says_what_it_is-1122064412abcd"
Count = Callable[[], list[str]]


def submit(cluster: Cluster, script: str, *options: str, tasks: str = "0", name: str = NAME) -> JobRef:
    return JobRef(cluster.sbatch(script, f"--array={tasks}", "-J", name, *options), name, time.time())


def state(ref: JobRef, task: int = 0) -> slurm.JobState:
    found = slurm.states([ref], {f"{ref.id}_{task}"})
    assert found is not None
    return found[f"{ref.id}_{task}"]


def ended(ref: JobRef, task: int = 0, seconds: float = 60) -> slurm.JobState:
    last = wait_until(lambda: (now := state(ref, task)) and not now.alive and now, "ended", seconds, 0.2)
    assert isinstance(last, slurm.JobState)
    return last


# --- states -------------------------------------------------------------------------------------------------


def test_one_query_tells_all_jobs(cluster: Cluster, commands: Count) -> None:
    failing = submit(cluster, "exit 3", name=f"{NAME}-0")
    running = submit(cluster, "sleep 60", name=f"{NAME}-1", tasks="0-2%2")
    held = submit(cluster, "true", "--hold", name=f"{NAME}-2", tasks="0-5")
    cluster.wait_for(f"{running.id}_1", "RUNNING")
    cluster.wait_for(failing.id, "FAILED")
    tasks = {f"{failing.id}_0", *(f"{running.id}_{n}" for n in range(3)), *(f"{held.id}_{n}" for n in range(6))}
    before = commands()
    found = slurm.states([failing, running, held], tasks)
    assert commands()[len(before) :] == ["squeue"]
    assert found is not None and found.keys() == tasks
    assert (found[f"{failing.id}_0"].state, found[f"{failing.id}_0"].cause) == ("FAILED", "exit code 3")
    assert [found[f"{running.id}_{n}"].state for n in range(3)] == ["RUNNING", "RUNNING", "PENDING"]
    assert found[f"{running.id}_0"].node == "n1" and 0 <= found[f"{running.id}_0"].seconds < 30
    assert found[f"{running.id}_2"].reason == "JobArrayTaskLimit"
    assert {found[f"{held.id}_{n}"].reason for n in range(6)} == {"JobHeldUser"}
    assert [now.alive for now in found.values()].count(True) == 9


def test_992_tasks_in_one_query(plain_cluster: Cluster) -> None:
    refs = [submit(plain_cluster, "true", "--hold", tasks="0-30", name=f"{NAME}-{number}") for number in range(32)]
    tasks = {f"{ref.id}_{task}" for ref in refs for task in range(31)}
    begin = time.monotonic()
    found = slurm.states(refs, tasks)
    assert time.monotonic() - begin < 10
    assert found is not None and len(found) == 992 and all(now.alive for now in found.values())


def test_causes_of_death(cluster: Cluster) -> None:
    cancelled = submit(cluster, "sleep 60", name=f"{NAME}-0")
    memory = "exec python3 -c 'x = bytearray(900_000_000); import time; time.sleep(60)'"
    greedy = submit(cluster, memory, "--mem=100", name=f"{NAME}-1")
    killed = submit(cluster, "kill -SEGV $$", name=f"{NAME}-2")
    fine = submit(cluster, "true", name=f"{NAME}-3")
    cluster.wait_for(cancelled.id, "RUNNING")
    cluster.run("scancel", cancelled.id)
    assert ended(cancelled).state == "CANCELLED" and ended(cancelled).cause.startswith("cancelled")
    if cluster.accounting:
        user = cluster.run("id", "-un").strip()
        wait_until(lambda: state(cancelled).cause == f"cancelled by {user}", "accounting says who", 10, 0.3)
    assert "memory" in ended(greedy).cause
    assert ended(killed).cause == "killed by signal 11 (SIGSEGV: a crash in compiled code)"
    assert (ended(fine).state, ended(fine).cause) == ("COMPLETED", "")


def test_what_was_cancelled_before_it_began_is_not_called_forgotten(cluster: Cluster) -> None:
    """SLURM names what is left of an array by the array's id alone."""
    ref = submit(cluster, "true", "--hold")
    cluster.run("scancel", f"{ref.id}_0")
    assert ended(ref).state == "CANCELLED" and ended(ref).cause.startswith("cancelled")


def test_a_job_of_a_dead_node_is_alive_because_it_is_queued_again(cluster: Cluster) -> None:
    ref = submit(cluster, "sleep 60", "-w", "n1")
    cluster.wait_for(ref.id, "RUNNING")
    cluster.down("n1")
    now = wait_until(lambda: (seen := state(ref)).state == "PENDING" and seen, "queued again", 20, 0.1)
    assert now.alive and now.restarts == 1 and now.cause == ""
    found = slurm.states([ref])  # the history, which says NODE_FAIL, is asked for too
    assert found is not None and found[f"{ref.id}_0"].alive


def test_a_job_that_may_not_be_requeued_dies_with_its_node(cluster: Cluster) -> None:
    ref = submit(cluster, "sleep 60", "-w", "n2", "--no-requeue")
    cluster.wait_for(ref.id, "RUNNING")
    cluster.down("n2")
    assert ended(ref).cause == "node n2 failed"


def test_what_the_controller_has_forgotten_is_in_the_books(cluster: Cluster, commands: Count) -> None:
    cluster.configure(MinJobAge=2)
    try:
        ref = submit(cluster, "exit $((SLURM_ARRAY_TASK_ID + 4))", tasks="0-1")
        tasks = {f"{ref.id}_0", f"{ref.id}_1", f"{ref.id}_2"}
        wait_until(lambda: not cluster.state(ref.id), "forgotten", 120, 0.5)
        before = commands()
        found = slurm.states([ref], tasks)
    finally:
        cluster.configure(MinJobAge=300)
    assert commands()[len(before) :][:2] == ["squeue", "sacct"]
    assert found is not None
    assert [found[f"{ref.id}_{n}"].cause for n in range(3)] == ["exit code 4", "exit code 5", "SLURM has forgotten it"]
    assert not any(now.alive for now in found.values())


def test_while_the_controller_is_away_nothing_is_taken_for_dead(cluster: Cluster) -> None:
    ref = submit(cluster, "sleep 60")
    cluster.wait_for(ref.id, "RUNNING")
    cluster.wait_until_saved()
    if cluster.accounting:
        wait_until(lambda: cluster.run("sacct", "-nX", "-s", "RUNNING", "-j", ref.id), "accounting has heard of it", 60)
    cluster.kill("slurmctld")
    fresh = JobRef("7001", NAME, time.time())  # accounting has not heard of it yet
    begin = time.monotonic()
    found = slurm.states([ref, fresh], {f"{ref.id}_0", "7001_0"})
    assert time.monotonic() - begin < 2 * slurm.SECONDS + 5
    if cluster.accounting:
        assert found is not None
        assert (found[f"{ref.id}_0"].state, found["7001_0"].state) == ("RUNNING", "UNKNOWN")
        assert {(now.alive, now.reason) for now in found.values()} == {(True, "ControllerAway")}
    else:
        assert found is None
    with pytest.raises(slurm.Unreachable, match="controller does not answer"):
        slurm.require()
    cluster.start("slurmctld")
    assert state(ref).state == "RUNNING"


def test_an_id_given_to_another_job_is_not_ours(cluster: Cluster) -> None:
    cluster.wait_until_saved()
    ref = submit(cluster, "true", "--hold")
    if cluster.accounting:
        time.sleep(2)  # accounting has it, and will say PENDING for ever
    cluster.restart("slurmctld")
    if cluster.state(ref.id):
        pytest.skip("the controller happened to save its state in between")
    assert not state(ref).alive and state(ref).state == "GONE"
    other = cluster.sbatch("sleep 60", "-J", "other", "--array=0-1")
    assert other == ref.id
    assert not state(ref).alive and state(ref).state == "GONE"
    slurm.cancel([ref.id], name=ref.name)
    assert cluster.state(f"{other}_1") in ("PENDING", "RUNNING")


def test_jobs_of_another_cluster_are_not_taken_for_dead(plain_cluster: Cluster) -> None:
    """A root that two clusters share, looked at from the wrong one."""
    assert slurm.name() == slurm.limits().cluster == plain_cluster.name
    here, there = (JobRef(f"{number}", NAME, time.time(), name) for number, name in ((7001, plain_cluster.name),
                                                                                   (7002, "other")))  # fmt: skip
    found = slurm.states([here, there], {"7001_0", "7002_0"})
    assert found is not None
    assert (found["7001_0"].state, found["7001_0"].alive) == ("GONE", False)
    assert (found["7002_0"].state, found["7002_0"].alive) == ("UNKNOWN", True)


def test_a_dead_accounting_daemon_delays_nothing(with_accounting: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", with_accounting.env["SLURM_CONF"])
    ref = submit(with_accounting, "sleep 30")
    with_accounting.wait_for(ref.id, "RUNNING")
    with_accounting.kill("slurmdbd")
    try:
        found = slurm.states([ref], {f"{ref.id}_0", f"{ref.id}_1"})
    finally:
        with_accounting.start("slurmdbd")
        with_accounting.empty()
    assert found is not None
    assert (found[f"{ref.id}_0"].state, found[f"{ref.id}_1"].state) == ("RUNNING", "GONE")


# --- changing jobs ------------------------------------------------------------------------------------------


def test_dependencies_of_tasks_then_release(plain_cluster: Cluster) -> None:
    first = submit(plain_cluster, "sleep $((SLURM_ARRAY_TASK_ID * 20))", "--hold", name=f"{NAME}-0", tasks="0-1")
    second = submit(plain_cluster, "true", "--hold", name=f"{NAME}-1", tasks="0-1")
    edges = {f"{second.id}_{n}": f"afterany:{first.id}_{n}" for n in range(2)}
    assert slurm.update_dependencies(edges) == []
    assert slurm.release([first.id, second.id]) == []
    assert ended(second, 0).state == "COMPLETED"
    assert state(second, 1).reason == "Dependency"
    assert state(first, 1).state == "RUNNING"
    complaints = slurm.update_dependencies({"999_1": "afterany:1", f"{second.id}_1": f"afterany:{first.id}_1"})
    assert len(complaints) == 1 and "999_1" in complaints[0] and "Invalid job id" in complaints[0]


def test_names_of_the_queue_and_cancelling_by_name(plain_cluster: Cluster) -> None:
    refs = [submit(plain_cluster, "true", "--hold", name=f"{NAME}-{n}", tasks="0-2") for n in range(2)]
    other = submit(plain_cluster, "true", "--hold", name="other")
    assert slurm.mine() == ({**{ref.name: ref.id for ref in refs}, "other": other.id}, 3 * len(refs) + 1)
    slurm.cancel([f"{refs[0].id}_1", "999_3"])
    assert [state(refs[0], n).alive for n in range(3)] == [True, False, True]
    slurm.cancel([refs[0].id, refs[1].id], name=refs[1].name)
    assert [state(ref).alive for ref in refs] == [True, False]


def test_a_running_task_can_be_queued_again_behind_another(plain_cluster: Cluster) -> None:
    slow, early = (submit(plain_cluster, "sleep 60", name=f"{NAME}-{n}") for n in range(2))
    plain_cluster.wait_for(early.id, "RUNNING")
    slurm.requeue(f"{early.id}_0", until=f"Dependency=afterany:{slow.id}_0")
    now = wait_until(lambda: (seen := state(early)).reason == "Dependency" and seen, "waits", 30, 0.2)
    assert now.alive and now.restarts == 1
    with pytest.raises(slurm.ClusterError, match="could not be queued again"):
        slurm.requeue("999_0")


def test_a_controller_that_goes_away_while_jobs_are_changed(plain_cluster: Cluster) -> None:
    plain_cluster.kill("slurmctld")
    begin = time.monotonic()
    with pytest.raises(slurm.Unreachable):
        slurm.scontrol([f"release {number}" for number in range(1, 100)], seconds=5)
    assert time.monotonic() - begin < 15  # it is asked twice


# --- limits -------------------------------------------------------------------------------------------------


def test_the_cluster_says_what_it_allows(cluster: Cluster) -> None:
    limits = slurm.limits()
    assert (limits.max_array_size, limits.default) == (1001, "cpu")
    gpu = limits.partitions["gpu"]
    assert gpu.minutes == 1440 and gpu.most(lambda kind: kind.gpus) == 4 and gpu.most(lambda kind: kind.cpus) == 8
    assert limits.qos == (("normal",) if cluster.accounting else None)
    check_resources(Resources(partition="gpu", gpus_per_node=4, cpus_per_task=8, mem_gb=3, nodes=4), limits)
    check_resources(Resources(partition="cpu,gpu", gpus_per_node=1, constraint="fakegpu"), limits)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"partition": "gpux"}, "has no partition 'gpux'. Partitions: cpu, gpu, preemptible. Did you mean 'gpu'?"),
        ({"partition": "gpu", "timeout_min": 5000}, "partition gpu allows 1440 minutes. Type here.timeout_min=1440"),
        ({"partition": "gpu", "gpus_per_node": 9}, "here.gpus_per_node=9: that is 9 GPUs a node, but no node of "),
        ({"partition": "gpu", "gres": "gpu:a100:5"}, "here.gres=gpu:a100:5: that is 5 GPUs a node"),
        ({"gpus_per_node": 1, "constraint": "nogpu"}, "gives a job more than 0. Another partition may have them."),
        ({"cpus_per_task": 3, "tasks_per_node": 3}, "here.cpus_per_task=3: that is 9 CPUs a node"),
        ({"mem_gb": 64}, "here.mem_gb=64: that is 65536 MB of memory a node, but no node of partition cpu gives "),
        ({"mem_per_cpu": "3G", "cpus_per_task": 2}, "here.mem_per_cpu=3G: that is 6144 MB of memory"),
        ({"partition": "gpu", "nodes": 5}, "here.nodes=5: partition gpu gives a job like this at most 4 nodes"),
        ({"partition": "gpu", "constraint": "fakegpus"}, "no node of partition gpu has the feature 'fakegpus'"),
    ],
)  # fmt: skip
def test_what_can_never_run_is_refused_before_it_is_submitted(
    plain_cluster: Cluster, asked: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_resources(Resources(**asked), slurm.limits(), "here")  # type: ignore[arg-type]
    assert sentence in str(refused.value)


def test_closed_partitions_and_unknown_qos_are_refused(
    with_accounting: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", with_accounting.env["SLURM_CONF"])
    with pytest.raises(ConfigError, match=r"here\.qos=norml: the cluster has no QOS 'norml'.*Did you mean 'normal'"):
        check_resources(Resources(qos="norml"), slurm.limits(), "here")
    with_accounting.partition("gpu", "DRAIN")
    try:
        with pytest.raises(ConfigError, match=r"takes no jobs now \(state DRAIN\)"):
            check_resources(Resources(partition="gpu"), slurm.limits(), "here")
    finally:
        with_accounting.partition("gpu", "UP")


def test_no_slurm_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="There is no SLURM on this machine: 'sbatch' is not in PATH"):
        slurm.require()


@pytest.mark.skipif(os.path.exists("/etc/slurm/slurm.conf"), reason="this machine belongs to a cluster")
def test_slurm_without_a_cluster(plain_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nowhere.conf"))
    with pytest.raises(ConfigError, match=r"nowhere\.conf: there is no such file"):
        slurm.require()
    monkeypatch.delenv("SLURM_CONF")
    with pytest.raises(ConfigError, match="SLURM is installed here but belongs to no cluster"):
        slurm.require()


# --- the test cluster itself: it runs jobs with fake GPUs, survives its own faults, and leaves nothing ------------


def test_gpus_are_handed_out_one_by_one(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [cluster.sbatch("echo gpus=$CUDA_VISIBLE_DEVICES; sleep 1", "-p", "gpu", "-w", "n1", f"--gres=gpu:{count}",
                           folder=tmp_path) for count in (1, 2)]  # fmt: skip
    for job in jobs:
        cluster.wait_for(job, "COMPLETED")
    first, second = ((tmp_path / f"{job}.out").read_text().strip() for job in jobs)
    assert first == "gpus=0" and second == "gpus=1,2"


def test_hosts_differ_and_a_node_can_see_less_than_the_others(plain_cluster: Cluster, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    script = f"hostname; ls {shared}; touch {shared}/$(hostname)"

    def run(node: str) -> list[str]:
        job = plain_cluster.sbatch(script, "-w", node, folder=tmp_path)
        plain_cluster.wait_for(job, "COMPLETED", "FAILED")
        return (tmp_path / f"{job}.out").read_text().splitlines()

    assert run("n1") == ["n1"] and run("n2") == ["n2", "n1"]
    assert socket.gethostname() not in plain_cluster.nodes
    if os.getuid():
        return
    plain_cluster.hide("n3", shared)
    plain_cluster.read_only("n4", shared)
    assert run("n3") == ["n3"] and "Read-only file system" in run("n4")[-1]
    plain_cluster.empty()
    assert run("n3") == ["n3", "n1", "n2"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes users")
def test_users_who_do_not_see_each_others_jobs(plain_cluster: Cluster) -> None:
    plain_cluster.configure(PrivateData="jobs")
    job = plain_cluster.sbatch("id -un; hostname; sleep 60", "-w", "n2", user="ann")
    plain_cluster.wait_for(job, "RUNNING")
    assert job in plain_cluster.run("squeue", "-h", user="ann") and not plain_cluster.run("squeue", "-h", user="bob")
    assert (plain_cluster.home("ann") / f"{job}.out").read_text() == "ann\nn2\n"
    assert plain_cluster.run("hostname", user="bob") == "login1\n"
    plain_cluster.run(sys.executable, "-c", "import xling.grid.store", user="bob")
    plain_cluster.empty()
    assert job not in plain_cluster.run("squeue", "-h", user="ann")


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes users")
def test_a_limit_of_the_qos(with_accounting: Cluster) -> None:
    with_accounting.limit("ann", MaxSubmitJobsPerUser=1)
    with_accounting.sbatch("true", "--hold", user="ann")
    with pytest.raises(RuntimeError, match="QOSMaxSubmitJobPerUserLimit"):
        with_accounting.sbatch("true", user="ann")
    with_accounting.empty()
    for _ in range(2):
        with_accounting.sbatch("true", "--hold", user="ann")
    with_accounting.empty()


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
