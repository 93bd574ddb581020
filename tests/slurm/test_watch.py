"""What people see of a grid on the cluster, and what they can do: status, logs, cancel, waiting."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cluster import GROUP_ID, USERS, Cluster, wait_until
from noop_stages import KINDS, grid
from toy_grid import Toy

from xling import cli
from xling.grid import claim, host
from xling.grid.plan import make_plan
from xling.grid.stage import Cell
from xling.grid.status import GridStatus
from xling.runners import Work
from xling.runners.slurm import record
from xling.runners.slurm.settings import Slurm
from xling.runners.slurm.submit import submit
from xling.runners.slurm.watch import look

Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def xling(said: Said, toy: Toy, *arguments: str) -> tuple[int, str, str]:
    said.readouterr()
    code = cli.main([*arguments, "--root", str(toy.root)])
    return code, *said.readouterr()


def states(status: GridStatus) -> dict[str, str]:
    return {row.stage.label: row.state for row in status.rows}


def index_of(toy: Toy, label: str) -> str:
    return str(next(row.index for row in look(toy.store, toy.name).status.rows if row.stage.label == label))


def test_status_says_what_runs_where_and_what_waits_for_what(cluster: Cluster, tmp_path: Path, capsys: Said) -> None:
    toy = Toy(cluster, tmp_path, behaviour={"reward[en]": "raise no luck"})
    toy.behaviour["sft[de]"] = f"until {toy.gate}"
    toy.launch()
    job = toy.wait_running("sft[de]")
    wait_until(lambda: toy.failures(), "the failure", 30)
    code, out, _ = xling(capsys, toy, "status")
    assert code == 0 and "toy: 0 of 4 cells done" in out
    assert re.search(rf"^ +\d+ +sft\[de\] +running +n\d, job {job} +[\d.]+ s *$", out, re.MULTILINE), out
    assert re.search(r"^ +\d+ +reward\[de\] +queued +job \d+_\d+ +[\d.]+ s +waits for sft\[de\] *$", out, re.MULTILINE)
    assert re.search(r"^ +\d+ +reward\[en\] +failed +ValueError: no luck *$", out, re.MULTILINE)
    assert re.search(r"^Jobs: .*running.* The last one folds the matrix\.$", out, re.MULTILINE)
    toy.open_gate()
    toy.wait()
    code, out, _ = xling(capsys, toy, "status", "--all")
    assert re.search(r"score\[en, de\] +blocked +below reward\[en\] *$", out, re.MULTILINE)
    assert "Jobs:" not in out and "2 of 4 cells done" in out


def test_status_of_992_stages_is_one_query(
    plain_cluster: Cluster, tmp_path: Path, capsys: Said, commands: Callable[[], list[str]]
) -> None:
    toy = Toy(plain_cluster, tmp_path, name="wide")
    plain_cluster.partition("cpu", "DOWN")  # so that all of it stays in the queue
    languages = [f"l{number}" for number in range(30)]
    cells = [Cell(cell.axes, cell.stage.parents["score"]) for cell in grid(languages, languages)]
    plan = make_plan(cells, toy.store, name="wide", kinds=KINDS)
    made = submit(plan, Slurm(pack_minutes=0), Work("noop_stages:KINDS", "xling.folding:fold", {"mode": "off"}))
    assert made.stages == 991 and made.jobs == 992  # the last one folds
    before = commands()
    begin = time.monotonic()
    code, out, _ = xling(capsys, toy, "status")
    assert time.monotonic() - begin < 10  # 2 on a machine that does nothing else
    assert commands()[len(before) :] == ["squeue"]
    assert code == 0 and "wide: 0 of 900 cells done" in out and "and 971 more queued" in out
    assert "cancelled 992 jobs" in xling(capsys, toy, "cancel", "all")[1]
    assert not toy.queue()


def test_watch_ends_with_the_grid(toy: Toy, capsys: Said) -> None:
    toy.behaviour = {"sft": "sleep 2"}
    toy.launch()
    code, out, _ = xling(capsys, toy, "status", "--watch")
    assert code == 0 and "toy: 0 of 4 cells done, " in out and "4 of 4 cells done" in out
    assert not toy.queue()


def test_wait_stays_until_the_matrix_is_there(toy: Toy) -> None:
    said = toy.launch("hydra.launcher.wait=true", "hydra.launcher.poll_seconds=1")
    assert "4 of 4 cells done" in said and "More tables: `xling report --full`" in said
    assert toy.matrix() == toy.expected()
    toy.behaviour = {"score[de, en]": "raise no luck"}
    toy.name = "second"
    said = toy.launch("hydra.launcher.wait=true", "hydra.launcher.poll_seconds=1", "seed=1", code=1)
    assert "3 of 4 cells done" in said or "1 failed" in said


def test_logs_follow_a_stage_from_the_queue_to_its_end(toy: Toy, capsys: Said) -> None:
    toy.behaviour = {"base": "sleep 3", "sft[de]": "sleep 3; raise no luck"}
    toy.launch()
    code, out, error = xling(capsys, toy, "logs", index_of(toy, "sft[de]"), "--follow")
    assert code == 1 and "--- sft[de], attempt 1" in out and "ValueError: no luck" in out
    assert "xling: sft[de] is queued on job" in error and "(waits for base)" in error
    assert "xling: sft[de] is running on n" in error and "xling: sft[de] is failed (ValueError: no luck)." in error


def test_a_job_that_dies_before_its_stage_has_a_log_too(toy: Toy, capsys: Said) -> None:
    toy.launch("hydra.launcher.setup=['echo no module called cuda >&2; exit 7']")
    toy.wait()
    index = index_of(toy, "base")
    code, out, error = xling(capsys, toy, "logs", index)
    assert code == 0 and "no module called cuda" in out and "_log." in error
    code, out, _ = xling(capsys, toy, "status")
    assert re.search(r"base +failed +Its SLURM job \d+_0 ended before it was done: its setup line", out)


def test_cancel_one_costs_what_is_below_it(toy: Toy, capsys: Said) -> None:
    toy.behaviour = {"sft[de]": "sleep 60", "sft[en]": f"until {toy.gate}"}
    toy.launch()
    job = toy.wait_running("sft[de]")
    waiting = {toy.job_of(label) for label in ("reward[en]", "score[en, de]", "score[en, en]", "judge[en, en]")}
    assert waiting < toy.queue().keys()
    xling(capsys, toy, "cancel", "reward[en]")  # one of an array that waits: SLURM takes nothing below it along
    assert not waiting & toy.queue().keys()
    now = states(look(toy.store, "toy").status)
    assert (now["reward[en]"], now["score[en, en]"], now["gold[en]"]) == ("failed", "blocked", "queued")
    code, out, _ = xling(capsys, toy, "cancel", index_of(toy, "sft[de]"))
    assert code == 0 and out.startswith(f"sft[de]: job {job} cancelled.")
    toy.open_gate()
    toy.wait()
    now = states(look(toy.store, "toy").status)
    assert (now["sft[de]"], now["reward[de]"], now["gold[en]"]) == ("failed", "blocked", "done")
    assert [event.event for event in toy.events("score[en, en]")] == ["stage"], "it has not started"
    assert "cancelled" in toy.failures()["sft[de]"]
    code, _, error = xling(capsys, toy, "cancel", "sft[en]")
    assert code == 2 and "sft[en] has no job on the cluster: it is done." in error
    toy.behaviour = {}
    toy.launch()
    toy.finish()


def test_cancel_all_leaves_other_peoples_jobs_and_the_next_command_goes_on(toy: Toy, capsys: Said) -> None:
    other = toy.cluster.sbatch("sleep 60", "-J", "other")
    toy.behaviour = {"sft": "sleep 60"}
    toy.launch()
    toy.wait_running("sft[de]")
    code, out, _ = xling(capsys, toy, "cancel", "all")
    assert code == 0 and re.search(r"^toy: cancelled \d+ jobs\.", out)
    wait_until(lambda: set(toy.queue()) == {other}, "only the other job", 30, 0.2)
    assert "nothing of it is queued or running" in xling(capsys, toy, "cancel", "all")[1]
    assert states(look(toy.store, "toy").status)["sft[de]"] == "to do"
    toy.cluster.run("scancel", other)
    toy.behaviour = {}
    toy.launch()
    toy.finish()


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes users")
def test_a_cancel_that_slurm_refuses_is_said_and_not_noted(toy: Toy) -> None:
    """Jobs of root's whose record ann has come to own: to SLURM they are not hers."""
    toy.folder = toy.cluster.home("ann") / "refused"
    toy.folder.mkdir()
    toy.folder.chmod(0o777)
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch()
    toy.wait_running("base")
    for path in [toy.root, *toy.root.rglob("*")]:
        os.chown(path, USERS["ann"], GROUP_ID)
    toy.user = "ann"
    assert "toy: cancelled 0 jobs, but not 20 others. SLURM does not cancel" in toy.xling("cancel", "all", code=2)
    assert "Access/permission denied" in toy.xling("cancel", "base", code=2)
    assert [one.state for one in toy.filed()] == ["released"] and len(toy.queue()) == 20
    toy.user = ""
    assert "cancelled 20 jobs" in toy.xling("cancel", "all")


@pytest.mark.parametrize(("memory", "words"), [("1", "cancelled"), ("0.03", "killed .*memory")])
def test_a_reducer_that_is_cancelled_or_killed_is_missed(toy: Toy, tmp_path: Path, memory: str, words: str) -> None:
    toy.sources = toy.targets = ("de",)
    toy.behaviour = {"base": f"until {toy.gate}"}
    holder = tmp_path / "holder"  # SLURM looks at memory every two seconds: the reducer is stopped while it has some
    holder.write_text("""
        while [ -e /proc/$1 ]; do
            [ "$(awk '/^VmRSS/ {print $2}' /proc/$1/status)" -gt 60000 ] && kill -STOP $1 && exit
            sleep 0.05
        done""")
    held = [] if words == "cancelled" else [f"hydra.launcher.stages.reduce.setup=['bash {holder} $$ &']"]
    toy.launch(f"hydra.launcher.stages.reduce.mem_gb={memory}", *held)
    if words == "cancelled":
        toy.cluster.run("scancel", f"{max(int(job.partition('_')[0]) for job in toy.queue())}_0")
    toy.open_gate()
    toy.wait()
    said = " ".join(toy.xling("status", "--watch", code=1).split())
    assert "1 of 1 cells done" in said
    assert re.search(rf"there is no matrix of it yet: its job \d+_0 ended: {words}", said)
    assert "Type `xling reduce toy`" in said
    toy.xling("reduce")
    assert "no matrix" not in toy.xling("status", "--watch")


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_keeps_nobody_from_looking_and_cancelling(toy: Toy) -> None:
    """Nor does it leave anything behind in the queue of what could not be submitted."""
    toy.folder = toy.folder / "disk"
    toy.folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "none", str(toy.folder)], check=True)
    filler = toy.folder / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(20_000_000))

    try:
        toy.behaviour = {"base": "sleep 60"}
        toy.cluster.partition("cpu", "DOWN")
        shell = toy.start()
        wait_until(lambda: list(toy.root.glob("grids/toy/slurm/*/submission.json")), "the record", 60, 0.001)
        fill()
        said = shell.communicate(timeout=120)[1]
        assert shell.returncode == 1 and "No space left on device" in said and "has been taken back" in said, said
        assert "Traceback" not in said
        wait_until(lambda: not toy.queue(), "an empty queue", 30, 0.2)
        filler.unlink()
        toy.launch()
        env = toy.env
        fill()
        for command, words in (("status", "0 of 4 cells done"), ("cancel", "cancelled 20 jobs")):
            typed = [sys.executable, "-m", "xling", command, *(["all"] if command == "cancel" else [])]
            done = subprocess.run(
                [*typed, "--root", str(toy.root)], env=env, text=True, capture_output=True, check=False
            )
            assert done.returncode == 0 and words in done.stdout, done.stdout + done.stderr
            assert "Traceback" not in done.stderr
        assert not toy.queue()
    finally:
        subprocess.run(["umount", "--lazy", str(toy.folder)], check=True)


def test_status_while_the_controller_is_away(toy: Toy, capsys: Said) -> None:
    toy.behaviour = {"sft": "sleep 60"}
    toy.launch()
    toy.wait_running("sft[de]")
    toy.cluster.wait_until_saved()
    toy.cluster.kill("slurmctld")
    code, out, _ = xling(capsys, toy, "status")
    assert code == 0 and "the cluster does not answer" in out
    assert re.search(r"sft\[de\] +running", out) and re.search(r"reward\[de\] +queued", out)
    toy.cluster.start("slurmctld")
    toy.finish(180)


def test_a_claim_of_a_job_that_slurm_knows_to_be_dead_is_not_shown_as_running(toy: Toy) -> None:
    toy.behaviour = {"sft[de]": "sleep 60"}
    toy.launch()
    job = toy.wait_running("sft[de]")
    toy.cluster.run("scancel", job)
    toy.wait()
    row = next(row for row in look(toy.store, "toy").status.rows if row.stage.label == "sft[de]")
    path = Path(toy.store.beside("sft", row.stage.key, ".claim"))
    elsewhere = host.Process("another-node", 1, "", job)
    path.write_bytes(msgspec.json.encode(claim.Claim(elsewhere, time.time())))
    assert states(look(toy.store, "toy").status)["sft[de]"] == "failed"
    not_ours = host.Process("another-node", 1, "", "99999_1")
    path.write_bytes(msgspec.json.encode(claim.Claim(not_ours, time.time())))
    assert states(look(toy.store, "toy").status)["sft[de]"] == "running"


def test_changed_code_is_said(toy: Toy, capsys: Said) -> None:
    toy.behaviour = {"base": "sleep 5"}
    toy.launch("hydra.launcher.snapshot=false")
    path = toy.filed()[-1].folder / "submission.json"
    unsealed = re.sub(r',\s*"checksum": ?"[0-9a-f]+"', "", path.read_text())  # which holds for what was written
    path.write_text(re.sub(r'"code": ?"[0-9a-f]+"', '"code":"another"', unsealed))
    assert record.read(path.parent).submission.code == "another"
    assert "the code has changed since it was submitted" in xling(capsys, toy, "status")[1]
    toy.wait()
