"""Grids of more jobs than may be queued at once: they feed themselves, and nothing else about them is different."""

import subprocess
import sys
import time

from cluster import Cluster, wait_until
from toy_grid import Toy

from xling.grid import claim
from xling.runners.slurm.cluster import details
from xling.runners.slurm.submit import LOCK, feed

MOST = 8  # jobs at once, for 20


def most_at_once(toy: Toy, seconds: float = 400) -> int:
    """Jobs in the queue, at most, until it is empty."""
    most, deadline = 0, time.monotonic() + seconds
    while queue := toy.queue():
        most = max(most, len(queue))
        assert time.monotonic() < deadline, queue
        time.sleep(0.2)
    return most


def test_a_grid_of_more_jobs_than_may_be_queued_feeds_itself(toy: Toy) -> None:
    seen = toy.folder / "seen"
    toy.settings = (*toy.settings, f"max_submit={MOST}", f"setup=['echo $PYTHONPATH >> {seen}']")
    toy.behaviour = {"base": f"until {toy.gate}"}
    said = toy.launch()
    assert f"more jobs follow from inside the grid as these end (hydra.launcher.max_submit: {MOST} at once)" in said
    assert 1 < len(toy.queue()) <= MOST
    assert "19 stages are queued or running already" in toy.launch(), "those that are to come as well"
    noted = toy.filed()[-1].folder / "jobs.jsonl"
    before = toy.filed()[-1].refs
    noted.write_text("".join(line for line in noted.read_text().splitlines(True) if '"array":1,' not in line))
    feed(noted.parent)  # a job that was killed before it noted what it had submitted
    assert before.keys() == toy.filed()[-1].refs.keys() and toy.filed()[-1].refs[1].id == before[1].id
    status = [*toy.command()[:1], "-m", "xling"]
    told = subprocess.run([*status, "status", "toy", "--all", "--root", str(toy.root)], env=toy.env, text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert "submitted when earlier jobs of the grid have ended" in told.stdout
    subprocess.run([*status, "cancel", "all", "toy", "--root", str(toy.root)], env=toy.env, check=True)
    assert most_at_once(toy) <= MOST
    assert [one.state for one in toy.filed()] == ["cancelled"], "nothing follows a cancelled grid"
    assert "submitted 19 stages" in toy.launch()
    noted = toy.filed()[-1].folder / "jobs.jsonl"  # as of a shell that died when it had let the jobs go
    noted.write_text("".join(line for line in noted.read_text().splitlines(True) if '"released"' not in line))
    assert toy.filed()[-1].state == "submitting"
    toy.open_gate()
    assert most_at_once(toy) <= MOST
    toy.finish()
    assert not toy.leftovers() and not toy.doubles()
    assert set(seen.read_text().splitlines()) == {toy.env["PYTHONPATH"]}, "setup runs as in the shell, in every wave"


def test_a_second_submission_takes_over_what_was_still_to_follow(toy: Toy) -> None:
    """Also where the last job of the first, which would submit it, is gone."""
    toy.settings = (*toy.settings, f"max_submit={MOST}")
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch()
    first = toy.filed()[-1]
    last = len(first.head.arrays) - 1
    toy.cluster.run("scancel", toy.job_of("sft[de]"), first.refs[last].id)
    wait_until(lambda: f"{first.refs[last].id}_0" not in toy.queue(), "the last job is gone", 30)
    toy.settings = (*toy.settings[:-1], f"max_submit={2 * MOST}")
    assert " more jobs follow from inside the grid" in toy.launch()
    taken = toy.filed()[0].refs
    toy.open_gate()
    toy.finish()
    assert toy.filed()[0].refs == taken and len(taken) < last, "the first submits nothing any more"
    ends = [event.end for filed in toy.filed() for place, *_ in filed.tasks() for event in filed.events(place)]
    assert ends.count("done") == 19 and "found" not in ends, "no job came for a stage that another had"


def test_no_more_jobs_of_a_grid_run_at_once_than_may_also_when_one_is_queued_again(toy: Toy) -> None:
    """Of all arrays together; a second command, which submits what had failed, adds none to them."""
    toy.behaviour = {"sft": "sleep 1", "score": "sleep 1", "base": f"until {toy.gate}", "reward[en]": "raise bad luck"}
    toy.launch("hydra.launcher.max_running=2")
    toy.wait_running("base")
    toy.cluster.run("scontrol", "requeue", toy.job_of("base"))
    toy.open_gate()
    most, again, deadline = set[str](), False, time.monotonic() + 300
    while queue := toy.queue():
        assert time.monotonic() < deadline, queue
        folding = {f"{filed.refs[len(filed.head.arrays) - 1].id}_0" for filed in toy.filed() if filed.refs}
        most = max(most, {job for job, state in queue.items() if state.startswith("RUNNING")} - folding, key=len)
        if not again and "reward[en]" in toy.failures():
            toy.behaviour["reward[en]"] = "sleep 1"
            toy.launch("hydra.launcher.max_running=2")
            again = True
        time.sleep(0.1)
    assert again and len(most) == 2, most
    toy.finish()


HOLD = """import sys, time
from xling.grid.store import Store
from xling.runners.slurm import submit
with submit.lock(Store(sys.argv[1])):
    time.sleep(300)
"""


def test_a_job_that_was_killed_while_it_submitted_keeps_nobody_waiting(toy: Toy) -> None:
    """Its claim is of another host than the shell's, and its heartbeat would be waited for."""
    toy.sources = toy.targets = ("de",)
    path, program = toy.root / LOCK, toy.folder / "hold.py"
    program.write_text(HOLD)
    job = toy.cluster.sbatch(f"{sys.executable} {program} {toy.root}")
    by = wait_until(lambda: claim.read(str(path)), "the job has the claim", 60).by
    assert (by.host[0], by.slurm, by.cluster) == ("n", job, toy.cluster.name)
    toy.cluster.run("scancel", "--signal=KILL", "--full", job)
    toy.cluster.wait_for(job, "FAILED", "CANCELLED", "")
    begin = time.monotonic()
    assert path.exists() and "submitted 8 stages" in toy.launch()
    assert time.monotonic() - begin < 60 and claim.read(str(path)) is None


def test_other_jobs_of_the_user_hold_a_grid_up_and_do_not_end_it(toy: Toy) -> None:
    toy.sources, toy.settings = ("de",), (*toy.settings, f"max_submit={MOST}")
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch()
    others = [toy.cluster.sbatch("true", "--hold") for _ in range(MOST - 1)]
    toy.open_gate()
    last = toy.filed()[-1].refs[len(toy.filed()[-1].head.arrays) - 1].id
    wait_until(lambda: toy.queue().get(f"{last}_0") == "PENDING BeginTime" and len(toy.queue()) == MOST,
               "the last job waits for room", 240, 0.2)  # fmt: skip
    assert float((details(f"{last}_0") or {})["EligibleTime"]) > time.time() + 300
    toy.cluster.run("scancel", *others)
    toy.cluster.run("scontrol", "update", f"JobId={last}_0", "StartTime=now")
    toy.finish()


def test_how_many_may_be_queued_is_asked_of_the_qos(with_accounting: Cluster, toy: Toy) -> None:
    toy.cluster = with_accounting
    toy.sources = ("de",)
    with_accounting.limit(MaxSubmitJobsPerUser=5)
    with_accounting.run("sacctmgr", "-iQ", "add", "qos", "tiny", "set", "MaxSubmitJobsPerUser=1")
    with_accounting.run("sacctmgr", "-iQ", "modify", "user", "root", "set", "qos+=tiny")
    try:  # the last job's own QOS, of which there is no more than one job, limits no other
        assert "(QOS normal: 5 at once)" in toy.launch("hydra.launcher.stages.reduce.qos=tiny")
        toy.finish()
    finally:
        with_accounting.empty()
        with_accounting.run("sacctmgr", "-iQ", "delete", "qos", "tiny")
