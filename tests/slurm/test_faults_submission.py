"""Submissions that go wrong: half-way deaths, two shells, refusals, a controller that is killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from toy_grid import Toy

KILLS = 10


@pytest.fixture
def toy(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    return Toy(plain_cluster, tmp_path)


def counted(tmp_path: Path) -> dict[str, str]:
    kinds = ("base", "sft", "reward", "pool", "baseline", "score", "gold", "judge")
    return dict.fromkeys(kinds, f"count {tmp_path}/count")


def complete(toy: Toy, tmp_path: Path) -> None:
    """The same command ends with the full matrix, and no stage has run twice."""
    toy.launch()
    toy.wait()
    assert toy.matrix() == toy.expected()
    assert not toy.leftovers() and not toy.failures() and not toy.doubles()
    assert set(toy.ran(tmp_path / "count").values()) == {1}


def test_the_shell_is_killed_at_random_moments_of_submitting(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = counted(tmp_path)
    moments, states = random.Random(1), set()
    for _ in range(KILLS):
        process = toy.start(start_new_session=True)
        wait_until(lambda p=process: (toy.root / "slurm.claim").exists() or p.poll() is not None, "it submits", 60)
        time.sleep(moments.uniform(0.0, 0.6))
        process.kill()
        process.communicate()
        states |= {one.state for one in toy.filed()}
    complete(toy, tmp_path)
    assert states & {"submitting", "abandoned"}, "some kill came in the middle"
    assert not [one for one in toy.filed() if one.state == "submitting"]


def test_a_lost_answer_of_sbatch_is_found_by_the_jobs_name(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = {**counted(tmp_path), "base": f"sleep 2; count {tmp_path}/count"}
    toy.launch()
    toy.wait()
    filed = toy.filed()[-1]
    lines = (filed.folder / "jobs.jsonl").read_text().splitlines()
    toy.folder = tmp_path / "again"
    toy.folder.mkdir()
    process = toy.start(start_new_session=True)
    wait_until(lambda: len(list(toy.root.glob("grids/toy/slurm/*/jobs.jsonl"))) == 1, "the first answer")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    toy.filed()[-1].folder.joinpath("jobs.jsonl").write_text("")  # as if no answer had come
    assert len(lines) == 7 and toy.queue()
    (tmp_path / "count").unlink()
    complete(toy, tmp_path)
    assert toy.filed()[0].state == "abandoned"


def test_two_shells_submit_the_same_grid_at_once(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = {**counted(tmp_path), "base": f"until {toy.gate}; count {tmp_path}/count"}
    shells = [toy.start(), toy.start()]
    said = sorted(shell.communicate(timeout=120)[1] for shell in shells)
    toy.open_gate()
    assert [shell.returncode for shell in shells] == [0, 0]
    assert sum("submitted 19 stages" in words for words in said) == 1
    assert sum("19 stages are queued or running already" in words for words in said) == 1
    complete(toy, tmp_path)
    assert len(toy.filed()) == 1


def test_slurm_refuses_half_way(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = counted(tmp_path)
    toy.cluster.configure(MaxJobCount=10)
    toy.cluster.restart()  # MaxJobCount is read at the start only
    try:
        said = toy.launch(code=1)
        assert "SLURM did not take array" in said and "has been taken back" in said
        assert "The same command tries again" in said
        toy.wait()
        assert not toy.ran(tmp_path / "count")
    finally:
        toy.cluster.configure(MaxJobCount=20000)
        toy.cluster.restart()
    complete(toy, tmp_path)


def test_the_controller_goes_away_while_submitting(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = counted(tmp_path)
    process = toy.start()
    wait_until(lambda: list(toy.root.glob("grids/toy/slurm/*/jobs.jsonl")), "the first answer", 30)
    toy.cluster.kill("slurmctld")
    said = process.communicate(timeout=180)[1]
    toy.cluster.start("slurmctld")
    assert process.returncode in (0, 1), said
    assert process.returncode == 0 or "tries again" in said
    time.sleep(2)
    complete(toy, tmp_path)


def test_the_controller_is_killed_right_after_submission(toy: Toy, tmp_path: Path) -> None:
    """What it has not saved is lost: ids are given again, and edges to lost jobs count as fulfilled."""
    toy.behaviour = {"sft": "sleep 2"}
    toy.launch()
    toy.cluster.kill("slurmctld")
    time.sleep(20)
    toy.cluster.start("slurmctld")
    wait_until(lambda: not toy.queue() or "launch failed" in str(toy.queue()), "all ended, or one held", 240, 0.2)
    toy.launch()
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures()


def test_a_job_that_slurm_could_not_start_is_let_go_by_the_same_command(toy: Toy) -> None:
    """A broken prolog drains the node and holds the job: `launch failed requeued held`."""
    broken, prolog = toy.cluster.folder / "broken", toy.cluster.folder / "prolog"
    prolog.write_text(f"#!/bin/sh\ntest ! -e {broken}\n", encoding="utf-8")
    prolog.chmod(0o755)
    toy.cluster.configure(Prolog=prolog)
    broken.touch()
    toy.launch()
    wait_until(lambda: "launch failed" in str(toy.queue()), "a job held by SLURM", 60, 0.2)
    said = subprocess.run([sys.executable, "-m", "xling", "status", "--root", str(toy.root)], env=toy.env, text=True,
                          capture_output=True, check=True).stdout  # fmt: skip
    assert "the same command lets it go" in said
    broken.unlink()
    assert "held and may go on" in toy.launch()
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures()


def test_a_job_id_that_is_given_again_is_not_ours(toy: Toy) -> None:
    toy.behaviour = {"base": "sleep 5"}
    toy.launch()
    ids = {ref.id for ref in toy.filed()[-1].refs.values()}
    toy.cluster.kill("slurmctld")
    for path in (toy.cluster.folder / "state").glob("job_state*"):
        path.unlink()
    toy.cluster.configure(FirstJobId=min(map(int, ids)))
    toy.cluster.start("slurmctld")
    others = [toy.cluster.sbatch("sleep 15", "--hold") for _ in range(3)]
    assert ids & set(others), "the same ids again"
    said = toy.launch()
    assert "submitted" in said
    toy.cluster.run("scancel", *others)
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures()
