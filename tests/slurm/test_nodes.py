"""Before Python starts: nodes that cannot run a job, lines of `setup`, signals; what the job's own environment is."""

import shutil
import sys
from pathlib import Path
from shlex import quote

import pytest
from cluster import wait_until
from toy_grid import ROOT, Toy

ONE = ("de",)


@pytest.fixture
def small(toy: Toy) -> Toy:
    toy.sources = toy.targets = ONE
    return toy


def lose(toy: Toy, what: str, *nodes: str) -> None:
    """Nodes cannot do what the others can."""
    for node in nodes:
        if what == "no environment":
            toy.cluster.hide(node, Path(sys.prefix))
        elif what == "not mounted":
            toy.cluster.hide(node, toy.folder)
        else:
            toy.cluster.read_only(node, toy.folder)


def base_is_made(toy: Toy) -> None:
    """The first stage, which is enough; what waits for it is taken away."""
    stage = toy.stages()["base"]
    wait_until(lambda: toy.store.state(*stage) == "done", "the base", 120, 0.2)
    toy.cluster.run("scancel", "--me")
    toy.wait()


@pytest.mark.parametrize("what", ["no environment", "not mounted", "read-only"])
def test_a_node_that_cannot_run_a_job_sends_it_to_another(small: Toy, what: str) -> None:
    lose(small, what, "n1")
    small.launch()
    wait_until(lambda: "n1" in small.cluster.run("squeue", "-h", "-o", "%x"), "n1 is left out", 60, 0.2)
    if what == "no environment":
        assert f"jobs that came to node n1 went to another: '{sys.executable}' does not start" in small.xling("status")
    small.cluster.reopen("n1")
    base_is_made(small)
    unfit = [event for event in small.events("base") if event.event == "unfit"]
    assert [event.node for event in unfit] == ["n1"]
    assert ("does not start" if what == "no environment" else "cannot be written") in unfit[0].text
    assert not small.leftovers()


@pytest.mark.parametrize(
    ("exclude", "unfit"), [("n[3-6]", ["n1", "n2"]), ("", ["n1", "n2", "n3"])], ids=["none is left", "three are enough"]
)
def test_when_no_node_is_left_or_three_have_failed_the_job_fails_and_says_so(
    small: Toy, exclude: str, unfit: list[str]
) -> None:
    """The jobs below are taken away, since they would find the same."""
    lose(small, "no environment", *unfit)
    small.launch(*([f"hydra.launcher.exclude={exclude}"] if exclude else []))
    job = small.job_of("base")
    wait_until(lambda: small.cluster.state(job) == "FAILED", "base has failed", 120, 0.3)
    small.xling("status")
    last, out = small.failures()["base"], ",".join(filter(None, (exclude, *unfit)))
    assert f"'{sys.executable}' does not start" in last
    assert f"on nodes {', '.join(unfit)}. If others are fit, type {quote(f'hydra.launcher.exclude={out}')}" in last
    small.xling("cancel", "all")
    for node in unfit:
        small.cluster.reopen(node)
    small.launch()
    base_is_made(small)


def test_a_job_on_several_nodes_leaves_out_each_that_cannot_run_it(small: Toy) -> None:
    lose(small, "no environment", "n2")
    lose(small, "not mounted", "n3")
    small.launch("hydra.launcher.stages.sft.nodes=4", "hydra.launcher.stages.sft.mem_gb=2")
    stage = small.stages()["sft[de]"]
    wait_until(lambda: small.store.state(*stage) == "done", "the fine-tuning", 180, 0.2)
    small.cluster.run("scancel", "--me")
    small.wait()
    unfit = [event.node for event in small.events("sft[de]") if event.event == "unfit"]
    assert unfit == ["n2", "n3"] and [event.event for event in small.events("sft[de]")].count("start") == 1


def test_what_cannot_be_imported_after_all_is_said(small: Toy) -> None:
    """xling itself can, as the check before has found."""
    checkout = small.folder / "checkout"
    for name in ("xling", "conf", "hydra_plugins", "tests/toy_stages"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "launch.py", checkout)
    small.code, small.behaviour = checkout, {"base": f"until {small.gate}"}
    small.launch("hydra.launcher.snapshot=false")
    small.wait_running("base")
    (checkout / "xling/runners/slurm/task.py").write_text("import a_library_that_is_not_there")
    small.open_gate()
    small.wait()
    small.xling("status")
    assert "exit code 1 on node n" in small.failures()["sft[de]"]
    assert "ModuleNotFoundError: No module named 'a_library_that_is_not_there'" in small.failures()["sft[de]"]


def test_where_nothing_can_be_written_the_exit_code_says_it(small: Toy) -> None:
    lose(small, "not mounted", "n1")
    small.launch("hydra.launcher.exclude=n[2-6]")
    job = small.job_of("base")
    wait_until(lambda: small.cluster.state(job) == "FAILED", "base has failed", 120, 0.3)
    small.xling("status")
    assert "is not there or cannot be written on node n1" in small.failures()["base"]
    small.xling("cancel", "all")


# --- setup ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("module load cuda/99", "its setup line `module load cuda/99` ended with exit code 127 on node n"),
        ("exit 7", "its setup line `exit 7` ended with exit code 7 on node n"),
        ("exit 0", "its setup line `exit 0` ended with exit code 1 on node n"),
    ],
)
def test_a_setup_line_that_fails_ends_the_job_before_its_stage(small: Toy, line: str, words: str) -> None:
    small.launch(f"hydra.launcher.setup=['{line}']")
    job = small.job_of("base")
    wait_until(lambda: small.cluster.state(job) == "FAILED", "base has failed", 60, 0.2)
    small.xling("status")
    assert words in small.failures()["base"]
    assert not [event for event in small.events("base") if event.event == "start"]
    small.xling("cancel", "all")


def test_setup_runs_as_in_a_shell_of_the_users(small: Toy, tmp_path: Path) -> None:
    """Another Python, files that are sourced, tests that are false, functions that recover: none of it is a failure."""
    (tmp_path / "profile").write_text("false\nexport FROM_PROFILE=1\n")
    other = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    lines = [
        f"source {tmp_path}/profile",
        "[ -e /nowhere ] && echo there",
        "false || true",
        "f() { false; true; }; f",
        f'{other} -c \'import json, sys; open("{tmp_path}/paths", "a").write(json.dumps(sys.path) + chr(10))\'',
        f"echo $FROM_PROFILE $PYTHONPATH >> {tmp_path}/said",
    ]
    quoted = ",".join('"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"' for line in lines)
    small.launch(f"hydra.launcher.setup=[{quoted}]")
    base_is_made(small)
    paths = (tmp_path / "paths").read_text()
    assert "pyenv" not in paths or other == sys.executable
    assert f"{Path(sys.prefix)}" not in paths, "nothing of ours is in another Python's way"
    assert (tmp_path / "said").read_text().startswith(f"1 {ROOT}")  # as typed in the shell that submitted


def test_signals_before_python_listens_end_nothing(small: Toy, tmp_path: Path) -> None:
    """As of a preemption (preempt_send_user_signal) while modules are loaded."""
    small.launch(f"hydra.launcher.setup=['touch {tmp_path}/begun','sleep 3']")
    wait_until((tmp_path / "begun").exists, "setup has begun", 60)
    job = small.job_of("base")
    for word in ("USR2", "TERM"):
        small.cluster.run("scancel", "--batch", f"--signal={word}", job)
    base_is_made(small)


# --- what is typed wins over the environment ------------------------------------------------------------------


def test_options_in_the_environment_do_not_beat_settings(small: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"SBATCH_JOB_NAME": "mine", "SBATCH_TIMELIMIT": "3", "SBATCH_ARRAY_INX": "0-9", "SBATCH_EXPORT": "NONE",
              "SBATCH_WAIT": "1", "SBATCH_NO_REQUEUE": "1", "SBATCH_MEM_PER_CPU": "7", "SBATCH_SIGNAL": "INT@3",
              "SLURM_TIMELIMIT": "1", "SBATCH_OPEN_MODE": "truncate", "SBATCH_COMMENT": "by the way",
              "SBATCH_PARTITION": "gpu"}  # fmt: skip
    small.behaviour = {"base": f"until {small.gate}"}
    typed = [*small.settings]
    typed.remove("partition=cpu")
    small.settings = tuple(typed)
    env = {**small.env, **values}
    monkeypatch.setattr(Toy, "env", property(lambda toy: env))
    said = small.launch("hydra.launcher.constraint=nogpu", code=2)
    assert "no node of partition gpu has the feature 'nogpu'" in said  # of the partition that the jobs go to
    said = small.launch()
    assert "SBATCH_TIMELIMIT=3" in said and "SBATCH_JOB_NAME=mine" in said and "SBATCH_PARTITION" not in said
    told = dict(word.split("=", 1) for word in small.cluster.run("scontrol", "-o", "show", "job", small.job_of("base")
                                                                ).split() if "=" in word)  # fmt: skip
    assert (told["TimeLimit"], told["Requeue"], told["Partition"]) == ("00:10:00", "1", "gpu")
    assert told["JobName"].startswith("xling-toy-") and told["Comment"] == "xling"
    small.open_gate()
    base_is_made(small)
