"""The front door as a user meets it: `python launch.py` in a process of its own, over no-op stages."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import called
from hydra.core.override_parser.overrides_parser import OverridesParser

from xling.cli import COMMANDS
from xling.cli import main as command
from xling.compose.overrides import quoted

ROOT = Path(__file__).parents[1]
TOY = ("hydra.launcher.catalogue=toy_stages", "hydra.launcher.workers=1", "tracking.mode=off")


def launch(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


Planned = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """(exit code, stdout, stderr) of a command that ends before it runs stages: no process of its own is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: called(list(arguments))


def test_a_grid_from_any_folder(tmp_path: Path) -> None:
    arguments = (*TOY, "-m", "source_lang=en,tr,de+en", "target_lang=glob([d*,en])", "name=g")
    first = launch(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]  # nothing of Hydra's
    grid = tmp_path / "outputs" / "grids" / "g"
    rows = list(csv.DictReader((grid / "matrix.csv").read_text().splitlines()))
    done = {(row["source_lang"], row["target_lang"]) for row in rows if row["status"] == "done"}
    assert done == {(source, target) for source in ("en", "tr", "de+en") for target in ("de", "en")}
    plan = json.loads((grid / "plan.json").read_text())
    assert plan["command"] == [*TOY[2:], *arguments[4:]]
    assert [row["axes"]["target_lang"] for row in plan["left_out"]] == ["da"]  # Danish, which the task lacks
    assert len(plan["cells"]) == 6

    again = launch(tmp_path, *arguments)
    assert again.returncode == 0 and "0 to run" in again.stderr


def begin(cwd: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """As `launch`, without waiting for its end."""
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *TOY, *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


def pairs(cwd: Path) -> set[tuple[str, str]]:
    text = (cwd / "outputs" / "grids" / "g" / "matrix.csv").read_text(encoding="utf-8")
    return {(row["source_lang"], row["target_lang"]) for row in csv.DictReader(text.splitlines())}


def test_a_name_is_one_grids_while_it_runs_and_everybodys_who_asks_for_the_same_cells(tmp_path: Path) -> None:
    go = tmp_path / "go"
    (tmp_path / "slow.json").write_text(json.dumps({"base": f"until {go}"}), encoding="utf-8")
    slow = {"TOY_BEHAVIOUR": str(tmp_path / "slow.json")}
    both = [begin(tmp_path, "name=g", "source_lang=en", "target_lang=en,de", **slow) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "outputs/grids/g").glob("*.*.claim"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    other = launch(tmp_path, *TOY, "name=g", "source_lang=tr", "target_lang=tr", **slow)
    assert other.returncode == 2 and "name=g is taken: another set of cells runs under it, on " in other.stderr
    assert "Type another name=NAME" in other.stderr and "Traceback" not in other.stderr
    go.touch()
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert pairs(tmp_path) == {("en", "en"), ("en", "de")}
    assert not list((tmp_path / "outputs/grids/g").glob("*.claim"))


def test_a_launch_whose_name_was_taken_from_it_folds_nothing_into_the_other_grid(tmp_path: Path) -> None:
    """Whatever happened: its machine slept for an hour, somebody deleted its claim."""
    go, grid = tmp_path / "go", tmp_path / "outputs" / "grids" / "g"
    (tmp_path / "slow.json").write_text(json.dumps({"base": f"until {go}"}), encoding="utf-8")
    first = begin(tmp_path, "name=g", "source_lang=en", "target_lang=en", TOY_BEHAVIOUR=str(tmp_path / "slow.json"))
    deadline = time.monotonic() + 120
    while not (held := list(grid.glob("*.*.claim"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    held[0].unlink()
    second = begin(tmp_path, "name=g", "source_lang=de", "target_lang=de", TOY_BEHAVIOUR=str(tmp_path / "slow.json"))
    while '"target_lang":"de"' not in (grid / "plan.json").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    go.touch()
    _, error = first.communicate(timeout=120)
    assert first.returncode == 1 and "is another grid's by now" in error and "Traceback" not in error
    assert second.communicate(timeout=120) and second.returncode == 0
    assert pairs(tmp_path) == {("de", "de")}


def test_a_full_dry_run_has_every_stage_and_plus_adds_what_is_there(tmp_path: Path, planned: Planned) -> None:
    code, out, error = planned(*TOY, "+sweeps=demo", "+target_lang=all", "name=g", "dry_run=full")
    assert code == 0, error
    short = planned(*TOY, "-m", "sweeps=demo", "target_lang=glob(*)", "name=g", "dry_run=true")[1]
    assert out.startswith(short.rstrip()) and len(out.splitlines()) > len(short.splitlines()) + 12
    [line] = [line for line in out.splitlines() if " judge[en, tr] " in line]
    assert re.search(r"\brun\b +[0-9a-f]{12} +missing$", line.rstrip())
    assert list(tmp_path.iterdir()) == []


def test_settings_of_one_cell_are_shown_with_m_too(planned: Planned) -> None:
    code, out, error = planned("-m", "--cfg", "job", "+experiment=recorded", "--package", "policy")
    assert code == 0 and "name: recorded" in out, error


def test_dry_run_writes_nothing(tmp_path: Path, planned: Planned) -> None:
    code, out, error = planned(*TOY, "sweeps=embedded", "dry_run=true")
    assert code == 0, error
    assert "embedded: 36 cells" in out and "Left out" in out
    assert list(tmp_path.iterdir()) == []


def test_settings_that_recorded_responses_do_not_read_are_said_with_the_plan(tmp_path: Path, planned: Planned) -> None:
    rows = [
        {"id": d, "lang": lang, "prompt": f"{lang} {d}", "response": s, "system": s, "rating": (d + (s == "a")) % 2}
        for lang in ("de", "tr")
        for d in range(12)
        for s in "ab"
    ]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["experiment=recorded", "rm_backbone=bag_of_words", "task.path=f.jsonl", "task.columns.group=id"]
    asked = ("task.threshold=1", "task.seed=0,1", "source_lang=de", "target_lang=tr", "dry_run=true")
    code, _, error = planned(*own, *asked)
    assert code == 0, error
    assert error.count("xling: task.threshold=1: not read, since with policy=recorded every row is scored") == 1


def test_a_failed_cell_is_exit_code_1_and_the_others_are_done(tmp_path: Path) -> None:
    result = launch(tmp_path, *TOY, "rm_backbone.permutation=0,99", "name=g")
    assert result.returncode == 1
    assert "permutation 99 is the toy's failure" in result.stderr
    rows = list(csv.DictReader((tmp_path / "outputs" / "grids" / "g" / "matrix.csv").read_text().splitlines()))
    assert {row["rm_backbone.permutation"]: row["status"] for row in rows} == {"0": "done", "99": "blocked"}


def test_controls_with_and_without_plus(planned: Planned) -> None:
    for override in ("+controls=true", "controls=true"):
        _, out, error = planned(*TOY, override, "dry_run=true", "name=g")
        assert "g: 2 cells" in out, error


def test_backbones_side_by_side_with_a_setting_that_the_default_one_lacks(planned: Planned) -> None:
    code, out, error = planned(*TOY, "rm_backbone=cosine,sentence_encoder", "rm_backbone.encoder=here", "dry_run=true")
    assert code == 0 and "2 cells" in out, error


def test_a_dry_run_shows_the_jobs_of_a_cluster_at_a_desk(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    asked = ("partition=gpu,big", "exclude=n[1-3],m2", "additional_parameters.mail-type=FAIL,END", "gpus_per_node=2",
             "stages.score.array_parallelism=1", "setup=['module load a, b']", "pack_minutes=0", "gpu_mem_gb=80",
             "stages.reduce.gpus_per_node=0", "timeout_min=2")  # fmt: skip
    code, out, error = planned(
        *TOY[:1], "tracking.mode=off", "hydra/launcher=slurm", *(f"hydra.launcher.{one}" for one in asked),
        "source_lang=en,tr", "target_lang=de", "dry_run=true", "name=g",
    )  # fmt: skip
    assert code == 0, error
    for line in ("--partition=gpu,big", "--exclude='n[1-3],m2'", "--mail-type=FAIL,END", "--gpus-per-node=2"):
        assert f"  #SBATCH {line}\n" in out
    assert "  module load a, b\n" in out and " -m xling.runners.slurm.task " in out
    assert re.search(
        r"^score +2 +1 .*2 GPUs a node, 1 core, 2 min, at most 1 of an array at once, partition gpu,big",
        out,
        re.MULTILINE,
    ), out
    assert "holds 2 GPUs and uses 1, since a process uses one" in out
    assert "No cluster was asked. There is no SLURM on this machine" in out and not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["source_lang=deu"], "Unknown language 'deu' for source_lang."),
        (["sweeps=embeded", "seed=0,1"], "Unknown option 'embeded' for sweeps."),
        (["hydra/launcher=submitit_slurm"], "In place of submitit_slurm type hydra/launcher=slurm."),
        (["hydra/launcher=submitit_local"], "In place of submitit_local type hydra/launcher=local."),
        (["hydra.sweep.dir=x"], "All results lie below root=PATH"),
        (["seed=${hydra.job.num}"], "seed=0,1,2 for seeds"),
        (["hydra/launcher=slrum"], "Unknown option 'slrum' for hydra/launcher."),
        (["hydra/sweeper=basic", "seed=0,1"], "leave hydra/sweeper=xling as it is"),
        (["hydra.launcher.workers=0"], "hydra.launcher.workers=0 does not fit"),
        (["hydra.launcher.wrkers=2"], "Did you mean 'hydra.launcher.workers'?"),
        (["hydra.launcher.name=demo"], "Jobs are called after their grid: type name=demo for that."),
        (["hydra.launcher.submitit_folder=jobs"], "scripts and logs of jobs are kept beside"),
        (["hydra.launcher.stderr_to_stdout=true"], "is one log, `xling logs`. Leave it out."),
        (["hydra.launcher.workers=1,2"], "hydra.launcher.workers=1,2 does not fit"),
        (["mode=retri"], "mode=retri is unknown."),
        (["tracking.mode=of"], "tracking.mode=of is unknown."),
        (["tracking.artifacts=file"], "tracking.artifacts=file is unknown. Allowed: references, files, none."),
        (["dry_run=maybe"], "dry_run=maybe does not fit: allowed are true, false, full. Type dry_run=true."),
        (["dry_run=Full"], "allowed are true, false, full. Did you mean 'full'?"),
        (["target_lang=ALL"], "All languages of the task are target_lang=all."),
        (["tracking=off"], "tracking=off does not fit: it has settings of its own. Type tracking.mode=off."),
        (["tracking=null"], "Type tracking.mode=off."),
        (["tracking=wandb"], "Type tracking.name=wandb."),
        (["tracking.runs=cell"], "tracking.runs=cell is unknown. Allowed: grid, trained, cells, stages. Did you mean"),
        (["tracking.name=wandb,tensorboard"], "cannot be swept. Give it one value, or a list: tracking.name=[wandb,"),
        (["policy.lora="], "policy.lora= does not fit: it has settings of its own. Type policy.lora.r=VALUE."),
        (["policy.lora=true"], "policy.lora=true does not fit: it has settings of its own."),
        (["policy.lora=[]"], "'policy.lora=[]' does not fit: policy.lora is of another kind (a value, a list, or"),
        (["hydra.launcher="], "hydra.launcher and hydra.sweeper are chosen by name. Type hydra/launcher=slurm"),
        (["cost=2"], "cost=2 does not fit: it has settings of its own."),
        (["pairs=[]"], "pairs=[] is unknown. Allowed: all, cross, home"),
        (["seed=range(0,1,0)"], "never ends: its step must be another number than 0."),
        (["seed=range(0,3000000)"], "has 3,000,000 values; at most 100,000 can be swept."),
        (["seed=range(0,1000)", "task.seed=range(0,1000)"], "1,000,000 cells are asked for (1,000 of seed x 1,000 of"),
        (["~translator=null,1"], "'~translator=null,1' deletes a setting, and every cell needs each"),
        (["~translator=float(3)"], "'~translator=float(3)': Hydra cannot read the command line: Config group override"),
        (["task.lead_bias=nan"], "task.lead_bias=nan does not fit: expected a finite number."),
        (["policy.n=nan"], "policy.n=nan does not fit: expected a finite number. Type policy.n=1, or another."),
        (["sft.learning_rate=inf"], "sft.learning_rate=inf does not fit: expected a finite number."),
        (["cost.utilisation.training=-inf"], "cost.utilisation.training=-inf does not fit: expected a finite number."),
        (["policy.max_prompt_tokens=" + "9" * 400], "policy.max_prompt_tokens has 1329 bits: at most 64 fit"),
        (["seed=4294967296"], "seed=4294967296 does not fit: expected int"),
        (["task.seed=99999999999999999999"], "task.seed has 67 bits: at most 64 fit, of a seed 32."),
        (["root="], "root='' names no folder. Type root=outputs."),
        (["root=null"], "root=null names no folder."),
        (["root=[a]"], "root=['a'] names no folder."),
        (["root=3"], """root=3 names no folder. Type root="'3'"."""),
        (["root=" + "a" * 300], "cannot be a folder: [Errno 36] File name too long"),
        (["name=" + "a" * 300], "cannot name a folder. Use letters, digits"),
        (["--experimental-rerun=/nope"], "--experimental-rerun unpickles the file it is given, which can run any code"),
        (["--experimental-reru=/nope"], "--experimental-rerun unpickles the file it is given"),
        (["--exp", "/nope"], "--experimental-rerun unpickles the file it is given"),
        (["--dry-run"], "'--dry-run': settings have no dashes before them. Type dry_run=true."),
        (["--name=x"], "Type name=x."),
        (
            ["sft.optimizer=" + "a" * 100_000],
            "aaa... does not fit: allowed are adafactor, adamw, adamw_8bit",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_before_anything_runs(tmp_path: Path, planned: Planned, arguments: list[str], sentence: str) -> None:
    code, out, error = planned(*TOY, *arguments)
    assert code == 2 and out == ""
    [line] = error.splitlines()
    assert line.startswith("xling: ") and sentence in line
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("arguments", [["source_lang=deu"], ["seed=["], ["tracking=off"], ["--dry-run"]], ids=str)
def test_the_process_ends_as_it_says(tmp_path: Path, planned: Planned, arguments: list[str]) -> None:
    result = launch(tmp_path, *TOY, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == planned(*TOY, *arguments)


def test_stages_that_are_nowhere(planned: Planned) -> None:
    code, _, error = planned("hydra.launcher.catalogue=nope", "dry_run=true")
    assert code == 2 and "hydra.launcher.catalogue=nope is no package with stages" in error
    code, _, error = planned("hydra.launcher._target_=x", "dry_run=true")
    assert code == 2 and "Invalid plugin 'x'" in error and "Traceback" not in error
    assert "Leave out what it speaks of" in error


STRANGE = ["a=b", "a,b", "a#b!c~d", "(a)[b]{c}", "Häuser/größe", "it's", 'say "x"', "a\\b", "plain", "x:y|z", "[a]"]


@pytest.mark.parametrize("name", STRANGE)
def test_paths_are_typed_as_they_are(tmp_path: Path, name: str) -> None:
    """Whatever Hydra's grammar makes of the characters, of data that is there and of a root that is to be made."""
    path = tmp_path / name
    path.mkdir(parents=True)
    for line in (f"task.path={path}", f"rm_backbone.checkpoint={path}", f"root={tmp_path}/new/{name}"):
        [override] = OverridesParser.create().parse_overrides([quoted(line)])
        assert not override.is_sweep_override()
        assert override.value() == line.partition("=")[2]


def test_a_grid_of_data_in_a_strange_place(tmp_path: Path, planned: Planned) -> None:
    rows = [{"id": f"{n}", "lang": "de", "prompt": f"Frage {n}", "response": f"{k}", "rating": k, "system": f"s{k}"}
            for n in range(12) for k in range(2)]  # fmt: skip
    folder = tmp_path / "Häuser (a,b)=c"
    folder.mkdir()
    (folder / "d#1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = ["experiment=recorded", "rm_backbone=bag_of_words", "source_lang=de", "target_lang=de", "dry_run=true"]
    code, _, error = planned(*own, f"task.path={folder.name}/d#1.jsonl", "root=out, ü")
    assert code == 0, error


def test_a_comma_between_files_is_a_sweep_and_in_a_file_s_name_is_none(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert quoted(f"policy.checkpoint={tmp_path}/a,b") == f"policy.checkpoint='{tmp_path}/a,b'"
    assert quoted("policy.checkpoint=a,b") == "policy.checkpoint=a,b"
    assert quoted("policy.n=4,8") == "policy.n=4,8" and quoted("seed=range(0,3)") == "seed=range(0,3)"
    assert quoted("source_lang='de") == "source_lang='de" and quoted("root=${oc.env:X}/a") == "root=${oc.env:X}/a"


def test_a_launcher_that_runs_no_grids(planned: Planned) -> None:
    code, _, error = planned("hydra/launcher=basic")
    assert code == 2 and "hydra/launcher=basic runs no grid." in error


def test_an_unwritable_root_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = launch(tmp_path, *TOY, f"root={tmp_path}/file/below")
    assert result.returncode == 2  # nothing was run
    assert "cannot be written" in result.stderr.splitlines()[-1]


def test_hydras_flags_still_show(tmp_path: Path) -> None:
    shown = launch(tmp_path, "--cfg", "job", "source_lang=tr")
    assert shown.returncode == 0 and "code: tr" in shown.stdout
    assert "conf" in launch(tmp_path, "--info", "searchpath").stdout
    assert list(tmp_path.iterdir()) == []


def test_full_tracebacks_on_request(tmp_path: Path) -> None:
    result = launch(tmp_path, *TOY, "source_lang=deu", HYDRA_FULL_ERROR="1")
    assert result.returncode == 1 and "Traceback" in result.stderr


# --- the other commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("status root=/a", "root=/a is how `python launch.py` takes it. For `xling status` type --root /a."),
        ("analyse --only power name=g", "name=g is how .* For `xling analyse` type the grid's name alone: g."),
        ("gc name=g", "For `xling gc` type --grid g."),
        ("repot", "There is no command 'repot'. There are: .* Did you mean 'report'?"),
    ],
)
def test_what_is_typed_as_for_a_launch_is_said_as_the_command_takes_it(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(typed.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in said.split(".* "))


def test_the_root_may_stand_before_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["--root", str(tmp_path), "status"], ["status", "--root", str(tmp_path)]):
        assert command(typed) == 2
        assert f"no grid in '{tmp_path}'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(["--help"])
    listed = capsys.readouterr().out
    assert all(f"\n    {name} " in listed for name in COMMANDS)
