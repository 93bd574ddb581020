"""Jobs that go wrong: nothing is lost, the cause is said, and the same command again fills the matrix."""

from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from toy_grid import Toy


@pytest.fixture
def toy(plain_cluster: Cluster, tmp_path: Path) -> Toy:
    return Toy(plain_cluster, tmp_path)


def mend(toy: Toy) -> None:
    """The same command with well-behaved stages ends with the matrix of a local run."""
    toy.behaviour = {}
    toy.launch()
    toy.wait()
    assert toy.matrix() == toy.expected()
    assert not toy.leftovers() and not toy.failures()


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("raise bad luck", "ValueError: bad luck"),
        ("exit 3", "SystemExit: 3"),
        ("kill SIGKILL", "ended before it was done: killed by signal 9"),
        ("kill SIGSEGV", "ended before it was done: killed by signal 11"),
    ],
)
def test_a_stage_that_ends_its_job(toy: Toy, action: str, words: str) -> None:
    toy.behaviour = {"pool[en]": action}
    toy.launch()
    toy.wait()
    [(label, last)] = toy.failures().items()
    assert label == "pool[en]" and words in last
    rows = toy.matrix().decode().splitlines()[1:]
    assert [",en,best_of_n," in row for row in rows] == [",failed," in row or "blocked" in row for row in rows]
    assert words.rpartition(": ")[2] in toy.matrix().decode()
    mend(toy)


def test_too_much_memory(cluster: Cluster, tmp_path: Path) -> None:
    toy = Toy(cluster, tmp_path, behaviour={"pool[en]": "memory 600"})
    toy.launch()
    toy.wait()
    assert "memory" in toy.failures()["pool[en]"]
    mend(toy)


def test_somebody_cancels_a_running_job(cluster: Cluster, tmp_path: Path) -> None:
    toy = Toy(cluster, tmp_path, behaviour={"sft[de]": "sleep 300"})
    toy.launch()
    toy.wait_running("sft[de]")
    cluster.run("scancel", toy.job_of("sft[de]"))
    toy.wait()
    last = toy.failures()["sft[de]"]
    assert "ended before it was done: cancelled" in last
    if cluster.accounting:
        assert "cancelled by " in last
    mend(toy)


def test_somebody_cancels_jobs_that_wait(toy: Toy) -> None:
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch()
    toy.cluster.run("scancel", "--state=PENDING", toy.job_of("pool[en]"), toy.job_of("score[de, de]"))
    toy.open_gate()
    toy.wait()
    assert "cancelled" in toy.failures()["pool[en]"] and "cancelled" in toy.failures()["score[de, de]"]
    mend(toy)


def test_everything_is_cancelled_and_the_same_command_goes_on(toy: Toy) -> None:
    toy.behaviour = {"sft": "sleep 300"}
    toy.launch()
    wait_until(lambda: toy.is_at("sft[de]"), "it runs", 120)
    toy.cluster.run("scancel", *{job.partition("_")[0] for job in toy.queue()})
    toy.wait()
    mend(toy)


def test_a_parent_that_is_submitted_again_takes_its_waiting_children_along(toy: Toy) -> None:
    """Children of a dead parent that still wait (for others) would start in vain: they are submitted anew."""
    toy.behaviour = {"pool[en]": "kill SIGKILL", "sft[de]": f"until {toy.gate}"}
    toy.launch()
    wait_until(lambda: not {toy.job_of("pool[en]")} & toy.queue().keys(), "pool[en] has died", 120, 0.2)
    toy.behaviour = {}
    said = toy.launch()
    assert "submitted" in said and "are queued or running already" in said
    toy.open_gate()
    toy.wait()
    assert toy.matrix() == toy.expected() and not toy.failures() and not toy.doubles()
