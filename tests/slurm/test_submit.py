"""A grid on a real cluster, from the command to the matrix, and the same command again."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from noop_stages import KINDS, grid
from toy_grid import LANGUAGES, ROOT, Toy

from xling.grid import host
from xling.grid.plan import make_plan
from xling.grid.records import Done, read
from xling.grid.stage import Cell
from xling.runners import Work
from xling.runners.slurm import record
from xling.runners.slurm.settings import Resources, Slurm
from xling.runners.slurm.submit import submit


def test_a_grid_runs_through_to_the_bytes_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    toy = Toy(cluster, tmp_path)
    said = toy.launch()
    assert "submitted 19 stages as 20 jobs in 6 arrays" in said
    toy.finish()
    assert not toy.leftovers() and not toy.failures()
    filed = toy.filed()[-1]
    logs = {path.name.partition("_0_log")[0] for path in filed.folder.glob("logs/*_0_log.*")}
    assert logs <= {filed.job((len(filed.head.arrays) - 1, 0))}, "jobs that had nothing to say leave no logs"
    cells = [path for kind in ("score", "gold", "judge") for top in ("stages", "logs")
             for path in toy.root.glob(f"{top}/{kind}/**/*")]  # fmt: skip
    assert len(cells) == 3 * 10, "a folder with two files each"
    assert len(list(filed.folder.glob("tasks/*"))) == 20, "and one for each job, however many stages that has"
    again = toy.launch()
    assert "0 to run" in again and not toy.queue()
    assert [one.state for one in toy.filed()] == ["finished"], "as its last job has noted"


def test_the_same_command_while_it_runs_submits_nothing(toy: Toy) -> None:
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch()
    queued = toy.queue().keys()
    assert "19 stages are queued or running already" in toy.launch()
    assert toy.queue().keys() == queued
    toy.open_gate()
    assert len(toy.filed()) == 1
    toy.finish()


def test_a_failure_costs_what_is_below_it_and_the_same_command_fills_the_hole(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = {"reward[de]": "raise bad luck"}
    toy.launch()
    toy.wait()
    assert toy.failures() == {"reward[de]": "ValueError: bad luck"}
    rows = toy.matrix().decode().splitlines()
    assert sum("done" in row for row in rows) == 2 and sum("bad luck" in row for row in rows) == 2
    toy.behaviour = {"reward": f"count {tmp_path}/count", "score": f"count {tmp_path}/count"}
    assert "submitted 5 stages as 6 jobs" in toy.launch()
    toy.finish()
    assert toy.ran(tmp_path / "count") == {"reward[de]": 1, "score[de, de]": 1, "score[de, en]": 1}
    assert not toy.failures()


def test_a_larger_grid_waits_for_the_jobs_of_a_smaller_one(toy: Toy, tmp_path: Path) -> None:
    toy.behaviour = dict.fromkeys(("sft", "reward", "pool"), f"count {tmp_path}/count")
    toy.behaviour["base"] = f"until {toy.gate}; count {tmp_path}/count"
    toy.launch()
    toy.name, toy.targets = "wider", ("de", "en", "tr")
    said = toy.launch()
    assert "19 stages are queued or running already (toy)" in said
    toy.open_gate()
    toy.wait()
    assert set(toy.ran(tmp_path / "count").values()) == {1}, "nothing ran twice"
    assert toy.matrix() == toy.expected()
    assert not toy.doubles()


def test_a_name_is_one_grids_while_its_jobs_are_queued(toy: Toy) -> None:
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch()
    toy.targets = ("de", "en", "tr")
    assert "name=toy is taken: jobs of another set of cells were submitted under it" in toy.launch(code=2)
    assert len(toy.filed()) == 1
    toy.open_gate()
    toy.targets = ("de", "en")
    toy.finish()
    toy.targets = ("de", "en", "tr")
    assert "submitted" in toy.launch()
    toy.finish()


def test_a_slow_stage_holds_up_nothing_but_what_needs_it(toy: Toy) -> None:
    toy.behaviour = {"sft[de]": f"until {toy.gate}"}
    toy.launch()
    stages = toy.stages()

    def done() -> set[str]:
        return {label for label, stage in stages.items() if toy.store.state(*stage) == "done"}

    wait_until(lambda: "judge[en, en]" in done(), "the cell that needs no German", 180, 0.2)
    assert done() == {label for label in stages if "de" not in label}
    toy.open_gate()
    toy.finish()


def test_cheap_stages_share_jobs(toy: Toy) -> None:
    toy.settings = ("pack_minutes=0.5", "mem_gb=0.2", "partition=cpu")
    toy.sources = toy.targets = LANGUAGES
    said = toy.launch()
    assert "submitted 103 stages as 2 jobs in 2 arrays" in said
    toy.finish()


def test_several_arrays_where_slurm_takes_small_ones_only(toy: Toy) -> None:
    toy.cluster.configure(MaxArraySize=4)
    try:
        assert "submitted 19 stages as 20 jobs in 8 arrays" in toy.launch()
        toy.finish()
    finally:
        toy.cluster.configure(MaxArraySize=10001)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["hydra.launcher.stages.reward.gpus_per_node=8"], ["hydra.launcher.stages.reward.gpus_per_node=8"]),
        (["hydra.launcher.timeout_mn=1"], ["Unknown key 'hydra.launcher.timeout_mn'"]),
        (["hydra.launcher.timeout_min=1"], ["signal_delay_s=90", "Type hydra.launcher.signal_delay_s=30"]),
        (["+hydra.launcher.additional_parameters.array=0-3"], ["what xling gives sbatch as --array. Leave it out"]),
        (["+hydra.launcher.additional_parameters.time=5"], ["Type hydra.launcher.timeout_min="]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_submitted(
    toy: Toy, overrides: list[str], words: list[str]
) -> None:
    said = toy.launch(*overrides, code=2)
    assert all(word in said for word in words), said
    assert not toy.queue() and not toy.root.exists()


def test_a_dry_run_asks_what_submitting_asks_and_shows_what_it_submits(toy: Toy) -> None:
    asked = ("hydra.launcher.partition=gpu", "hydra.launcher.stages.score.gpus_per_node=2",
             "hydra.launcher.exclude=n[1-2],n3", "hydra.launcher.setup=['echo a, b']")  # fmt: skip
    said = toy.launch(*asked, "hydra.launcher.timeout_min=2000000", "dry_run=true", code=2)
    refused = toy.launch(*asked, "hydra.launcher.timeout_min=2000000", code=2)
    assert refused.splitlines()[-1] in said and "partition gpu allows" in refused
    said = toy.launch(*asked, "dry_run=true")
    assert "Partition gpu allows" in said and "its nodes: 4 with 8 CPUs, 4,000 MB and 4 GPUs." in said
    assert not toy.queue() and not toy.root.exists()
    shown = [line.strip() for line in said.splitlines() if line.startswith("  #SBATCH")]
    assert "#SBATCH --gpus-per-node=2" in shown and "#SBATCH --exclude='n[1-2],n3'" in shown
    toy.launch(*asked)
    seen = toy.cluster.run("squeue", "-h", "-O", "Name:.90,Comment:.90").splitlines()
    assert any(re.search(r"xling-toy-\w+-0-base +xling toy: base$", line) for line in seen), seen
    assert any(re.search(r"-reduce +xling toy: folds the matrix$", line) for line in seen), seen
    scripts = [path.read_text().splitlines() for path in toy.filed()[-1].folder.glob("logs/*_submission.sh")]
    added = ("#SBATCH --job-name", "#SBATCH --hold", "#SBATCH --dependency")
    submitted = [[line for line in script if line.startswith("#SBATCH")] for script in scripts]
    assert [line for line in shown if not line.startswith(added)] in [
        [line for line in lines if not line.startswith(added)] for lines in submitted
    ]


LUA = """
function slurm_job_submit(job, partitions, uid) %s return slurm.SUCCESS end
function slurm_job_modify(change, job, partitions, uid) %s end
return slurm.SUCCESS
"""


@pytest.fixture
def plugin(toy: Toy) -> Callable[[str, str], None]:
    """A cluster whose administrators have a say: lines of Lua at each submission, and at each change of a job."""

    path = toy.cluster.folder / "etc" / "job_submit.lua"

    def write(submit: str, modify: str) -> None:
        path.unlink(missing_ok=True)
        path.write_text(LUA % (submit, modify))
        toy.wait(60)  # a controller that starts again within a second holds what the test before left running
        toy.cluster.configure(JobSubmitPlugins="lua")
        toy.cluster.reread()  # the file, too, and that not again within the same second

    return write


def test_jobs_whose_order_is_refused_are_taken_back(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    plugin("", "return slurm.ERROR")
    said = toy.launch(code=1)
    assert "SLURM did not take the order of the jobs: " in said and "has been taken back" in said
    assert [one.state for one in toy.filed()] == ["abandoned"]
    toy.wait(30)
    plugin("", "return slurm.SUCCESS")
    toy.launch()
    toy.finish()


def test_a_limit_that_the_cluster_lowers_counts_as_a_time_limit(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    plugin("job.time_limit = 1", "return slurm.SUCCESS")
    toy.sources = toy.targets = ("de",)
    toy.behaviour = {"sft[de]": "train 100000"}
    toy.launch("hydra.launcher.signal_delay_s=10", "hydra.launcher.max_num_timeout=0")
    toy.wait(180)
    [(label, last)] = toy.failures().items()
    assert label == "sft[de]"
    assert "reached the time limit 1 times (1 minutes, which the cluster set in place of 10)" in last


def test_what_was_done_since_a_plan_was_made_is_not_submitted(toy: Toy) -> None:
    """Another command ran it between the plan and the look at the queue, which then knew nothing of it any more."""
    cells = [Cell(cell.axes, cell.stage.parents["score"]) for cell in grid(["a"], ["a"])]
    plan = make_plan(cells, toy.store, name="toy", kinds=KINDS)
    settings = Slurm(pack_minutes=0, common=Resources(mem_gb=0.2))
    work = Work("noop_stages:KINDS", "xling.folding:fold", {"mode": "off"})
    assert submit(plan, settings, work).stages == len(plan.to_run)
    toy.wait()
    made = submit(plan, settings, work)
    assert (made.stages, made.calls, made.done) == (0, 0, True) and len(toy.filed()) == 1


def test_secrets_stay_out_of_what_is_written(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret_of_the_user")
    toy.launch()
    toy.wait()
    written = [path for path in toy.root.rglob("*") if path.is_file()]
    assert len(written) > 60
    assert not [path for path in written if b"hf_a_secret_of_the_user" in path.read_bytes()]


def test_a_submission_of_before_is_run_by_changed_code_that_says_so(toy: Toy) -> None:
    """Its record says neither what folds the grid nor, here, that it was submitted by this code."""
    toy.behaviour = {"base": f"until {toy.gate}"}
    toy.launch("hydra.launcher.snapshot=false")
    filed = toy.filed()[-1]
    path = filed.folder / "submission.json"
    content = json.loads(path.read_bytes())
    del content["checksum"], content["fold"]  # the checksum holds for what was written
    path.write_text(json.dumps({**content, "code": "of another day"}))
    toy.open_gate()
    toy.wait()
    notes = [event.text for event in filed.events((1, 0)) if event.event == "note"]
    assert notes == ["the code has changed since this job was submitted"]
    assert (toy.root / "grids" / "toy" / "matrix.csv").exists()


def test_jobs_run_the_code_that_was_submitted_whatever_becomes_of_the_checkout(toy: Toy) -> None:
    checkout = toy.folder / "checkout"
    for name in ("xling", "conf", "hydra_plugins", "tests/toy_stages"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "launch.py", checkout)
    later = checkout / "imported_later.py"  # by a stage, when it runs
    later.touch()
    toy.code, toy.behaviour = checkout, {"base": f"until {toy.gate}", "judge": f"import {later.stem}"}
    digest = host.code_digest()
    edited = [checkout / "tests/toy_stages/behaviour.py", checkout / "xling/grid/store.py", later]
    toy.expected()
    toy.launch()
    [copied] = toy.root.glob("code/*")
    os.utime(copied, (0, 0))
    assert "code that no submission needs" not in toy.xling("gc")
    before = [path.read_text() for path in edited]
    for path in edited:
        path.write_text("raise RuntimeError('half edited')")
    other = checkout / "peft-99.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 99.0\n")
    toy.open_gate()
    toy.finish()
    made = [read(Done, str(path)).run for path in toy.root.glob("stages/*/*/done.json")]
    assert {run.code for run in made} == {digest}
    [note] = {event.text for event in toy.events("judge[de, en]") if event.event == "note"}
    assert note.startswith("packages have changed since this job was submitted: peft ") and note.endswith(" -> 99.0")
    for path, content in zip(edited, before, strict=True):
        path.write_text(content)
    assert "code that no submission needs" in toy.xling("gc", "--delete") and not copied.exists()


def test_jobs_run_in_a_container(toy: Toy) -> None:
    """A program before Python, which keeps SLURM's commands out, as images do that have none."""
    container, seen = toy.folder / "my container", toy.folder / "seen"
    container.write_text(f'#!/bin/sh\necho "$1 $2" >> {seen}\nshift 2\nPATH=/nowhere exec "$@"\n')
    container.chmod(0o755)
    toy.launch(f"hydra.launcher.python='\"{container}\" exec image.sif {sys.executable}'")
    toy.finish()
    assert set(seen.read_text().splitlines()) == {"exec image.sif"}


def test_a_step_that_starts_python_passes_the_signal_on(toy: Toy) -> None:
    """As pyxis and MPI clusters want it: warned, the job goes back into the queue and goes on."""
    toy.sources = toy.targets = ("de",)
    toy.behaviour = {"sft[de]": "train 100"}
    toy.launch(f"hydra.launcher.python=srun --ntasks=1 {sys.executable}", "hydra.launcher.mem_gb=1")
    job = toy.wait_running("sft[de]")
    wait_until(lambda: toy.turns(), "a step of training", 60)
    toy.cluster.run("scancel", "--signal=USR2", "--batch", job)
    toy.finish()
    assert [event.event for event in toy.events("sft[de]")] == ["start", "requeue", "start", "stage", "end"]


def test_the_record_is_there_before_the_jobs(toy: Toy) -> None:
    process = toy.start()
    first = wait_until(lambda: list(toy.root.glob("grids/toy/slurm/*/submission.json")), "the record")
    assert record.read(first[0].parent).submission.arrays
    process.communicate(timeout=60)
    toy.wait()
