"""Submissions, jobs and shared folders that go wrong: nothing is lost, the cause is said, the same command goes on."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import Cluster, wait_until
from toy_grid import Toy

from xling.grid.records import Parent, Sheet
from xling.grid.store import Store
from xling.runners.execute import Job
from xling.runners.slurm import holdings, record
from xling.runners.slurm.cluster import JobState, states
from xling.runners.slurm.record import Array, Event, Submission, Task
from xling.runners.slurm.settings import Resources, Slurm
from xling.runners.slurm.task import EARLY

KILLS = 10

# --- submissions: half-way deaths, two shells, refusals, a controller that is killed ---------------------------


def counted(tmp_path: Path) -> dict[str, str]:
    kinds = ("base", "sft", "reward", "pool", "baseline", "score", "gold", "judge")
    return dict.fromkeys(kinds, f"count {tmp_path}/count")


def complete(toy: Toy, tmp_path: Path) -> None:
    """The same command ends with the full matrix, and no stage has run twice."""
    toy.launch()
    toy.finish()
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
    answers = [line for line in (filed.folder / "jobs.jsonl").read_text().splitlines() if '"job"' in line]
    toy.folder = tmp_path / "again"
    toy.folder.mkdir()
    process = toy.start(start_new_session=True)
    wait_until(lambda: len(list(toy.root.glob("grids/toy/slurm/*/jobs.jsonl"))) == 1, "the first answer")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    toy.filed()[-1].folder.joinpath("jobs.jsonl").write_text("")  # as if no answer had come
    assert len(answers) == 6 and toy.queue()
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
    assert len(toy.filed()) == 1, "what was done while the third command planned is not submitted again"


def test_slurm_refuses_half_way(toy: Toy, tmp_path: Path) -> None:
    """The cluster's table of jobs has room for three: those that have ended, which nobody sees queued, are in it."""
    toy.behaviour = counted(tmp_path)
    known = toy.cluster.run("squeue", "-h", "-r", "-t", "all", "-o", "%i").split()
    toy.cluster.configure(MaxJobCount=len(known) + 15, MinJobAge=3600)  # sbatch tries for two minutes: none leaves
    toy.cluster.restart()  # MaxJobCount is read at the start only
    for _ in range(12):
        toy.cluster.run("scancel", toy.cluster.sbatch("true", "--hold"))
    try:
        said = toy.launch(code=1)
        assert "SLURM did not take array" in said and "has been taken back" in said
        assert "The same command tries again" in said
        toy.wait()
        assert not toy.ran(tmp_path / "count")
    finally:
        toy.cluster.configure(MaxJobCount=20000, MinJobAge=300)
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
    toy.finish()


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
    toy.finish()


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
    toy.finish()


# --- jobs that go wrong ----------------------------------------------------------------------------------------


def mend(toy: Toy) -> None:
    """The same command with well-behaved stages ends with the matrix of a local run.

    What killed jobs left unfinished on other hosts stays: `xling gc` deletes it, after a while.
    """
    toy.behaviour = {}
    toy.launch()
    toy.finish()
    assert not list(toy.root.glob("stages/*/*.claim")) and not toy.failures()


ENDINGS = {
    "de": ("raise bad luck", "ValueError: bad luck"),
    "en": ("exit 3", "SystemExit: 3"),
    "es": ("kill SIGKILL", "ended before it was done: killed by signal 9"),
    "ru": (
        "kill SIGSEGV",
        "ended before it was done: killed by signal 11 (SIGSEGV: a crash in compiled code) on node n",
    ),
}


def test_a_job_that_dies_after_it_has_made_what_others_need(toy: Toy) -> None:
    """At a stage that rode along: SLURM cancels what waited for the job, and the stages there are told why."""
    toy.settings = ("pack_minutes=0.5", "mem_gb=0.2", "partition=cpu", "stages.reward.mem_gb=0.3")
    toy.behaviour = {"gold[de]": "kill SIGKILL"}
    toy.launch()
    toy.wait()
    said = toy.xling("status")
    assert "killed by signal 9" in toy.failures()["gold[de]"] and "to do" not in said, said
    assert re.search(r"cancelled by SLURM, since .* not end well \(gold\[\w+\] failed", toy.failures()["reward[de]"])
    mend(toy)


def test_stages_that_end_their_jobs(toy: Toy) -> None:
    toy.sources, toy.targets = (*ENDINGS, "tr"), ("de",)
    toy.behaviour = {f"reward[{lang}]": action for lang, (action, _) in ENDINGS.items()}
    toy.launch()
    toy.wait()
    failures, rows = toy.failures(), toy.matrix().decode().splitlines()[1:]
    assert failures.keys() == toy.behaviour.keys()
    for lang, (_, words) in ENDINGS.items():
        [row] = [row for row in rows if f",{lang},de,best_of_n," in row]
        assert words in failures[f"reward[{lang}]"]
        assert ",blocked," in row and words.rpartition(": ")[2] in row
    assert sum(",done," in row for row in rows) == 1
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
    job = toy.job_of("sft[de]")
    cluster.run("scancel", job)
    toy.wait()
    assert "ended before it was done: cancelled" in toy.failures()["sft[de]"]
    if cluster.accounting:  # which knows by whom, some seconds later
        filed = toy.filed()[-1]
        ref = filed.refs[filed.places[toy.stages()["sft[de]"][1]][0]]
        wait_until(lambda: "cancelled by " in (states([ref], {job}) or {})[job].cause, "who has cancelled it", 60, 0.5)
    mend(toy)


def test_a_job_waits_for_the_claim_of_a_dead_local_run_no_longer_than_its_heart_may_be_silent(toy: Toy) -> None:
    """A run on a login node, which jobs cannot see: it was killed, or the node was started anew."""
    toy.sources = toy.targets = ("de",)
    toy.behaviour = {"base": f"until {toy.gate}"}
    typed = [*toy.cluster._inside("login1"), *toy.command(launcher="local"), f"root={toy.root}"]
    local = subprocess.Popen(typed, env=toy.env, cwd=toy.folder, start_new_session=True)
    wait_until(lambda: list(toy.root.glob("stages/base/*.claim")), "the local run is at it", 60)
    os.killpg(local.pid, signal.SIGKILL)
    local.wait()
    [path] = toy.root.glob("stages/base/*.claim")
    assert b"login1" in path.read_bytes()
    toy.behaviour = {}
    begin = time.monotonic()
    toy.launch("hydra.launcher.claim_timeout_s=6")
    toy.finish()
    assert time.monotonic() - begin < 120


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
    toy.finish()
    assert not toy.doubles()


# --- a shared folder that shows files late, and jobs that start before their parents are done --------------------


def hide(toy: Toy, label: str, seconds: float) -> threading.Thread:
    """Take a result away as soon as it is there, and give it back after a while."""
    folder = toy.store.folder(*toy.stages()[label])

    def run() -> None:
        wait_until(folder.exists, label, 60, 0.001)
        hidden = toy.folder / "hidden"
        folder.rename(hidden)
        time.sleep(seconds)
        hidden.rename(folder)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_marker_that_is_seen_late_is_waited_for(toy: Toy) -> None:
    toy.settings = ("pack_minutes=0", "mem_gb=0.2", "partition=cpu", "late_seconds=30")
    toy.behaviour = {"base": "sleep 1"}
    toy.launch()
    hiding = hide(toy, "sft[de]", 6)
    toy.wait()
    hiding.join()
    assert toy.matrix() == toy.expected() and not toy.failures()


def test_a_result_that_never_comes_blocks_what_needs_it_and_is_made_again(toy: Toy) -> None:
    toy.settings = ("pack_minutes=0", "mem_gb=0.2", "partition=cpu", "late_seconds=2")
    toy.behaviour = {"base": "sleep 1"}
    toy.launch()
    hiding = hide(toy, "sft[de]", 15)
    toy.wait()
    assert b"blocked" in toy.matrix() or b"not run" in toy.matrix()
    hiding.join()
    toy.launch()
    toy.finish()


def test_a_damaged_result_is_made_again_by_the_job_that_needs_it(toy: Toy) -> None:
    toy.launch()
    toy.wait()
    [note] = [path for path in toy.root.glob("stages/reward/*/note.json") if '"de"' in path.read_text()]
    times = note.stat()
    note.write_bytes(note.read_bytes().replace(b'"de"', b'"xx"'))
    os.utime(note, ns=(times.st_atime_ns, times.st_mtime_ns))  # sizes and times are as they were
    for kind in ("score", "judge"):
        shutil.rmtree(toy.root / "stages" / kind)
    toy.launch()
    toy.finish()
    assert not toy.leftovers()
    assert list(toy.root.glob("stages/reward/*.damaged-1")) and b'"xx"' not in note.read_bytes()


def test_a_job_that_starts_too_early_goes_back_behind_its_parents(toy: Toy) -> None:
    """SLURM takes an edge to a job that it has forgotten for fulfilled. One may go back five times, or not at all."""
    toy.behaviour = {"sft": "sleep 8"}
    toy.launch()
    filed = toy.filed()[-1]
    for _ in range(EARLY):
        record.note_event(filed.folder, filed.places[toy.stages()["pool[en]"][1]], Event("requeue", text="too early"))
    toy.cluster.run("scontrol", "update", f"JobId={toy.job_of('baseline[en]')}", "Requeue=0")
    for label in ("pool[de]", "pool[en]", "baseline[en]"):
        toy.cluster.run("scontrol", "update", f"JobId={toy.job_of(label)}", "Dependency=")
    toy.wait()
    words = [event.text for event in toy.events("pool[de]") if event.event == "requeue"]
    assert words and words[0].startswith("sft[de] is still ")
    [end] = [event for event in toy.events("pool[en]") if event.event == "stage"]
    assert end.end == "blocked" and f"this job has started before its end {EARLY} times" in end.text
    last = toy.failures()["baseline[en]"]
    assert "it said: it started too early (sft[en] is still " in last and "could not be queued again" in last
    mend(toy)


# --- without SLURM ----------------------------------------------------------------------------------------------


def test_what_is_below_another_grids_failure_is_blocked(tmp_path: Path) -> None:
    """And not failed for a cancellation of which nobody knows the reason."""
    store, filed = Store(tmp_path), list[record.Filed]()
    above = Job("a" * 64, Sheet("reward", 1, "reward[de]", {}, {}))
    up = {"reward": Parent("reward", above.key, above.sheet.label)}
    below = Job("b" * 64, Sheet("score", 1, "score[de, en]", {}, up))
    for stage, task in ((above, Task((0,))), (below, Task((0,), others=("7_0",), sure_others=("7_0",)))):
        name = stage.sheet.kind
        array = Array(0, f"xling-{name}-0", Resources(), (task,))
        submission = Submission(
            name, name, str(tmp_path), 0.0, (), "c", False, None, "", "", "", (), Slurm(), {}, (array,), (stage,)
        )
        folder = record.write(record.folder_of(store, name) / "1", submission).folder
        record.note_job(folder, 0, str(7 + len(filed)))
        filed.append(record.read(folder))
    record.note_event(filed[0].folder, (0, 0), Event("stage", key=above.key, end="failed", text="no luck"))
    holdings.settle(store, filed[1], {"8_0": JobState("CANCELLED", alive=False, cause="cancelled")})
    assert [(event.end, event.text) for event in filed[1].events((0, 0))] == [("blocked", "reward[de] failed")]
    assert store.failure("score", below.key) is None
