"""An option of a kind is one module and one YAML: the skeletons of docs/adding.md run in a package of somebody's own.

The package is installed as pip leaves one: a module, and a .dist-info folder whose entry points name it.
"""

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xling.errors import ConfigError
from xling.grid import joined
from xling.judges import JUDGES
from xling.optimizers import HOOKS_OF_PICKING, HOOKS_OF_TRAINING, OPTIMIZERS
from xling.options import Options
from xling.results.samples import read_samples
from xling.rewards import REWARDS
from xling.runners import LAUNCHERS
from xling.tasks.options import HOOKS, TaskModule, hooks_of
from xling.tracking.base import TRACKERS
from xling.translators import TRANSLATORS

ROOT = Path(__file__).parents[1]


def skeleton(section: str, language: str) -> str:
    """The first block of a language in a section of docs/adding.md."""
    text = (ROOT / "docs" / "adding.md").read_text("utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    block = re.search(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    assert block is not None, f"docs/adding.md has no {language} in the section {section}"
    return textwrap.dedent(block[1])


def test_a_pasted_skeleton_passes_the_linter(tmp_path: Path) -> None:
    pages = (ROOT / "docs" / "adding.md").read_text("utf-8")
    for number, block in enumerate(re.findall(r"^( *```python\n.*?)^ *```$", pages, re.DOTALL | re.MULTILINE)):
        (tmp_path / f"skeleton_{number}.py").write_text(textwrap.dedent(block).partition("\n")[2], encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "-q", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    linted = subprocess.run(command, capture_output=True, text=True)
    assert linted.returncode == 0 and (tmp_path / "skeleton_1.py").exists(), linted.stdout


def install(folder: Path, kind: str, module: str, settings: str, group: str = "") -> None:
    """Gives a package `mypackage` an option `mine` of a kind, and conf/GROUP/mine.yaml (GROUP: the kind's name)."""
    package, info, conf = folder / "mypackage", folder / "mypackage-1.0.dist-info", folder / "conf" / (group or kind)
    for path in (package, info, conf):
        path.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / f"{kind}.py").write_text(module, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    with (info / "entry_points.txt").open("a") as points:
        points.write(f"[xling.{kind}]\nmine = mypackage.{kind}\n")
    (conf / "mine.yaml").write_text(settings, encoding="utf-8")


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python launch.py OVERRIDES` in a folder that has the installed package."""
    return _python(folder, [str(ROOT / "launch.py"), "--config-dir", str(folder / "conf"), *overrides])


def dry(folder: Path, *each: tuple[str, ...]) -> list[tuple[int, str]]:
    """Exit code and what was said of several dry runs there, one after the other in one process."""
    commands = [["--config-dir", str(folder / "conf"), *overrides, "dry_run=true"] for overrides in each]
    done = _python(folder, [str(ROOT / "tests" / "command_line.py")], json.dumps(commands))
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, _, said in json.loads(done.stdout)]


def _python(folder: Path, command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT / "tests"))), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *command],
        input=stdin,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def results(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a grid's matrix.csv."""
    return list(csv.DictReader((folder / "outputs" / "grids" / name / "matrix.csv").read_text("utf-8").splitlines()))


def without(module: str, name: str) -> str:
    """A module's source in which a definition has another name; of `Settings` the tag, for annotations use the name."""
    if name == "Settings":
        return module.replace('tag="mine"', 'tag="its_mine"')
    changed = re.sub(rf"^(def |class |){name}\b(?=[ (:=])", rf"\1its_{name}", module, count=1, flags=re.MULTILINE)
    assert changed != module, f"nothing defines {name}"
    return changed


# --- tasks --------------------------------------------------------------------------------------------------

TASK = ("task=mine", "task.path=own.jsonl", "source_lang=de", "target_lang=glob(*)")
MODELS = ("sft.steps=2", "sft.batch_size=4", "policy.n=2", "policy.baseline_samples=1", "policy.max_new_tokens=4")
QUICK = ("rm_backbone=bag_of_words", "judge=target_rm", "hydra.launcher.workers=1", "tracking.mode=off", "name=g")


def own_data(folder: Path) -> None:
    rows = [
        {"lang": lang, "id": f"{split} {number}", "split": split, "prompt": f"{lang} {number}", 
         "chosen": "gut " * number, "rejected": "schlecht " * number}
        for lang in ("de", "tr") for split in ("train", "validation", "test") for number in range(1, 13)
    ]  # fmt: skip
    (folder / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_the_skeleton_of_a_task_runs_end_to_end(tmp_path: Path) -> None:
    own_data(tmp_path)
    install(tmp_path, "task", skeleton("A task", "python"), skeleton("A task", "yaml"))
    done = launch(tmp_path, *TASK, *MODELS, *QUICK)
    assert done.returncode == 0, done.stderr
    rows = results(tmp_path, "g")
    assert [(row["task"], row["target_lang"], row["status"]) for row in rows] == [
        ("mine", "de", "own judge"), ("mine", "tr", "done"),
    ]  # fmt: skip
    again = launch(tmp_path, *TASK, *MODELS, *QUICK)
    assert again.returncode == 0 and "0 to run" in again.stderr
    module = tmp_path / "mypackage" / "task.py"  # what it made of its file before is not remembered
    module.write_text(module.read_text("utf-8").replace('row["chosen"])', 'row["rejected"])'), encoding="utf-8")
    changed = launch(tmp_path, *TASK, *MODELS, *QUICK, "dry_run=true")
    assert changed.returncode == 0 and "sft" in changed.stdout and "0 to run" not in changed.stdout


@pytest.mark.parametrize("name", ["Settings", "languages", "pairs"])
def test_a_task_without_a_hook_is_refused_while_planning(name: str, tmp_path: Path) -> None:
    own_data(tmp_path)
    install(tmp_path, "task", without(skeleton("A task", "python"), name), skeleton("A task", "yaml"))
    refused = launch(tmp_path, *TASK, *MODELS, *QUICK, "dry_run=true")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert all(part in refused.stderr for part in ("task=mine", f"`{name}`", "docs/adding.md"))


@pytest.mark.parametrize("name", [*HOOKS, "demonstrations", "prompts"])
def test_every_hook_of_a_task_is_asked_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "task", without(skeleton("A task", "python"), name), skeleton("A task", "yaml"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mypackage", raising=False)
    monkeypatch.delitem(sys.modules, "mypackage.task", raising=False)
    with pytest.raises(ConfigError, match=f"task=mine: the module mypackage.task lacks `{name}`"):
        Options[TaskModule]("task", {"mine": "mypackage.task"}, hooks_of)["mine"]


# --- judges and translators ---------------------------------------------------------------------------------

# The embedded task, small, and a policy that is sampled as it is: a cell in seconds.
SMALL = (
    "source_lang=en", "target_lang=tr", "rm_backbone=bag_of_words", "sft.steps=0", "policy.n=2",
    "policy.baseline_samples=2", "policy.max_new_tokens=10", "task.test_prompts=12", "task.demonstrations=40",
    "task.ratings=40", "task.pairs=40", "task.validation=16", "hydra.launcher.workers=1", "tracking.mode=off", "name=g",
)  # fmt: skip
# by kind: its table, its section of docs/adding.md, and what is typed besides for a cell to use the option
KINDS: dict[str, tuple[Options[Any], str, tuple[str, ...]]] = {
    "judge": (JUDGES, "A judge", ()),
    "translator": (TRANSLATORS, "A translator", ("reward_data=translated",)),
    "optimizer": (OPTIMIZERS, "An optimizer", ()),
    "rm_backbone": (REWARDS, "A reward model", ()),
}
ASKED = {
    "judge": JUDGES.hooks,
    "translator": TRANSLATORS.hooks,
    "optimizer": HOOKS_OF_PICKING,
    "rm_backbone": REWARDS.hooks,
}
EACH = [(kind, hook) for kind, hooks in ASKED.items() for hook in ("Settings", *hooks)]  # type: ignore[misc]  # mappings


def ours(folder: Path, kind: str) -> tuple[str, ...]:
    """Install the kind's skeleton; the overrides of a small cell that uses it."""
    _, section, more = KINDS[kind]
    install(folder, kind, skeleton(section, "python"), skeleton(section, "yaml"))
    return (*(override for override in SMALL if not override.startswith(f"{kind}=")), f"{kind}=mine", *more)


def stages(folder: Path, kind: str) -> list[Path]:
    return [path for path in (folder / "outputs" / "stages" / kind).iterdir() if (path / "done.json").exists()]


def test_a_judge_of_ones_own_decides(tmp_path: Path) -> None:
    done = launch(tmp_path, *ours(tmp_path, "judge"), "judge.most=40")
    assert done.returncode == 0, done.stderr
    [row] = results(tmp_path, "g")
    assert (row["judge"], row["status"], row["n"]) == ("mine", "done", "12")
    [longest], [pool] = stages(tmp_path, "longest"), stages(tmp_path, "pool")
    lengths = [[min(len(text), 40) for text in samples.responses] for samples in read_samples(pool)]
    assert np.load(longest / "pool.npy").tolist() == lengths
    [judged] = stages(tmp_path, "judge")
    items = json.loads(joined.content(judged / "items.json"))
    assert items["quality"] == [row[pick] for row, pick in zip(lengths, items["index"], strict=True)]
    assert float(row["win_rate"]) == pytest.approx(100 * np.mean(items["win"]), abs=0.01)


def test_a_kind_of_stage_that_is_there_already_is_refused_of_who_chooses_the_judge(tmp_path: Path) -> None:
    asked = ours(tmp_path, "judge")
    module = tmp_path / "mypackage" / "judge.py"
    module.write_text(module.read_text("utf-8").replace('"longest"', '"pool"'), encoding="utf-8")
    (refused, said), (gold, _) = dry(tmp_path, asked, (*asked, "judge=gold"))
    assert refused == 2 and "judge=mine brings stages `pool`, which are there" in said
    assert gold == 0


def test_a_translator_of_ones_own_translates(tmp_path: Path) -> None:
    done = launch(tmp_path, *ours(tmp_path, "translator"), "translator.marks=3")
    assert done.returncode == 0, done.stderr
    [row] = results(tmp_path, "g")
    assert row["status"] == "done"
    [translated] = stages(tmp_path, "translate")
    records = [json.loads(line) for line in (translated / "train.jsonl").read_text("utf-8").splitlines()]
    texts = [record[part] for record in records for part in ("document", "response")]
    assert len(records) == 40 and all(text == text.upper() and text.endswith("!!!") for text in texts)


def test_an_optimizer_of_ones_own_picks(tmp_path: Path) -> None:
    done = launch(tmp_path, *ours(tmp_path, "optimizer"), "policy.n=3")
    assert done.returncode == 0, done.stderr
    [row] = results(tmp_path, "g")
    assert (row["optimizer"], row["status"], row["n"]) == ("mine", "done", "12")
    [judged], [scored] = stages(tmp_path, "judge"), stages(tmp_path, "score")
    items = json.loads(joined.content(judged / "items.json"))
    rewards = np.load(joined.opened(scored / "pool.npy"))
    assert items["index"] == np.argsort(-rewards, axis=1, kind="stable")[:, 1].tolist()


def test_a_reward_model_of_ones_own_is_trained_and_scores(tmp_path: Path) -> None:
    done = launch(tmp_path, *ours(tmp_path, "rm_backbone"), "rm_backbone.most=60")
    assert done.returncode == 0, done.stderr
    [row] = results(tmp_path, "g")
    assert (row["rm_backbone"], row["source_lang"], row["status"], row["n"]) == ("mine", "en", "done", "12")
    [trained], [scored], [pool] = (stages(tmp_path, kind) for kind in ("reward", "score", "pool"))
    usual = json.loads((trained / "usual.json").read_text("utf-8"))["length"]
    lengths = [[min(len(text), 60) for text in samples.responses] for samples in read_samples(pool)]
    scores = np.load(joined.opened(scored / "pool.npy"))
    assert 0 < usual <= 60 and scores == pytest.approx(-np.abs(np.array(lengths) - usual))


TRAINS = "An optimizer that trains"
STEPS = (
    "optimizer.steps=3", "optimizer.batch_size=8", "optimizer.eval_every=2", "optimizer.eval_prompts=4",
    "optimizer.reward_samples=8",
)  # fmt: skip


def test_an_optimizer_of_ones_own_trains(tmp_path: Path) -> None:
    install(tmp_path, "optimizer", skeleton(TRAINS, "python"), skeleton(TRAINS, "yaml"))
    done = launch(tmp_path, *SMALL, *STEPS, "optimizer=mine", "optimizer.k=2")
    assert done.returncode == 0, done.stderr
    [row] = results(tmp_path, "g")
    assert (row["optimizer"], row["status"], row["n"]) == ("mine", "done", "12")
    [trained] = stages(tmp_path, "align")
    curve = [json.loads(line) for line in (trained / "curve.jsonl").read_text("utf-8").splitlines()]
    assert [step["step"] for step in curve] == [1, 2, 3] and all(step["loss"] > 0 for step in curve)
    assert "validation_reward" in curve[1] and (trained / "model.safetensors").exists()
    refused = launch(tmp_path, *SMALL, *STEPS, "optimizer=mine", "optimizer.k=3", "dry_run=true")
    assert (
        refused.returncode == 2
        and "xling: optimizer.k=3 " in refused.stderr
        and "type optimizer.batch_size=6" in refused.stderr
    )


@pytest.mark.parametrize("hook", HOOKS_OF_TRAINING)
def test_each_hook_of_an_optimizer_that_trains_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    name = f"lacking_trainer_{hook}"
    (tmp_path / f"{name}.py").write_text(without(skeleton(TRAINS, "python"), hook), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=rf"lacks `{hook}` \("):
        Options[Any]("optimizer", {"mine": name}, OPTIMIZERS.hooks)["mine"]


def test_what_it_refuses_is_said(tmp_path: Path) -> None:
    settings = {
        "judge": "judge.most=0", "translator": "translator.marks=-1", "optimizer": "optimizer.k=3",
        "rm_backbone": "rm_backbone.most=0",
    }  # fmt: skip
    asked = [(*ours(tmp_path, kind), setting) for kind, setting in settings.items()]
    for setting, (code, said) in zip(settings.values(), dry(tmp_path, *asked), strict=True):
        assert code == 2 and f"xling: {setting} " in said and "Type " in said


def test_a_module_without_one_of_its_hooks_is_refused_while_planning(tmp_path: Path) -> None:
    asked = [ours(tmp_path, kind) for kind in KINDS]
    for kind in KINDS:
        module = tmp_path / "mypackage" / f"{kind}.py"
        module.write_text(without(module.read_text("utf-8"), "check"), encoding="utf-8")
    for kind, (code, said) in zip(KINDS, dry(tmp_path, *asked), strict=True):
        sentence = f"xling: {kind}=mine: the module mypackage.{kind} lacks `check` (what planning refuses). docs/adding"
        assert code == 2 and sentence in said and "Traceback" not in said
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("kind", "hook"), EACH)
def test_each_hook_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, hook: str) -> None:
    table, section, _ = KINDS[kind]
    name = f"lacking_{kind}_{hook.lower()}"
    (tmp_path / f"{name}.py").write_text(without(skeleton(section, "python"), hook), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = Options[Any](kind, {"mine": name}, table.hooks)
    wanted = rf"^{kind}=mine: the module {name} (lacks `{hook}` \(|needs `Settings`, a msgspec Struct)"
    with pytest.raises(ConfigError, match=wanted):
        found["mine"]


UNSAID = "from xling.grid.stage import Kind\nKINDS = (Kind('x', 1, print, seconds=1),)"
ALIEN = "import msgspec\nclass Settings(msgspec.Struct, tag_field='name', tag='mine'): ..."


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero."),
        ("def (:", "cannot be imported: SyntaxError: invalid syntax"),
        ("import no_such_package", "cannot be imported: No module named 'no_such_package'."),
        (UNSAID, "cannot be imported: the kind of stage 'x' does not say whether it computes on a GPU"),
        ("class Settings: ...", "needs `Settings`, a msgspec Struct derived from xling.judges.JudgeSettings"),
        (ALIEN, "needs `Settings`, a msgspec Struct derived from xling.judges.JudgeSettings"),
    ],
)
def test_what_is_wrong_with_a_module_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, sentence: str
) -> None:
    (tmp_path / f"faulty_{len(module)}.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    table = Options[Any]("judge", {"mine": f"faulty_{len(module)}"}, {}, JUDGES.base)
    with pytest.raises(ConfigError, match=re.escape(f"judge=mine: the module faulty_{len(module)} {sentence}")):
        table["mine"]


def test_faults_in_packages_are_said_to_those_who_choose_their_options(tmp_path: Path) -> None:
    kinds = ("task", "judge", "translator", "optimizer", "rm_backbone", "tracker", "launcher")
    points = ""
    for kind in kinds:
        (tmp_path / f"faulty_{kind}.py").write_text("1 / 0" if kind in ("task", "tracker") else ALIEN, encoding="utf-8")
        points += f"[xling.{kind}]\nmine = faulty_{kind}\n"
    info = tmp_path / "faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    (tmp_path / "conf").mkdir()
    settings = [
        {"tracker": "tracking.name", "launcher": "hydra.launcher.name"}.get(kind, f"{kind}.name") for kind in kinds
    ]
    also = {"translator": ("reward_data=translated", "translator=micro_exact")}
    chosen = [(*SMALL, *also.get(kind, ()), f"{name}=mine") for kind, name in zip(kinds, settings, strict=True)]
    (without, _), *refused, unknown = dry(tmp_path, SMALL, *chosen, (*SMALL, "optimizer.name=pp"))
    assert without == 0
    for kind, (code, said) in zip(kinds, refused, strict=True):
        assert code == 2 and f"xling: {kind}=mine: the module faulty_{kind} " in said
    assert unknown[0] == 2 and "xling: optimizer.name=pp is unknown. Allowed: best_of_n" in unknown[1]


def test_a_name_that_two_packages_use_is_refused_when_it_is_chosen(tmp_path: Path) -> None:
    install(tmp_path, "judge", "", "")
    (tmp_path / "mypackage-1.0.dist-info" / "entry_points.txt").write_text("[xling.judge]\ngold = mypackage.judge\n")
    (refused, said), (other, _) = dry(tmp_path, SMALL, (*SMALL, "judge=target_rm"))
    assert refused == 2 and "judge=gold is ambiguous: the modules mypackage.judge and " in said
    assert other == 0


# --- trackers and launchers ---------------------------------------------------------------------------------

TOY = ("hydra.launcher.catalogue=toy_stages", "source_lang=en,tr", "target_lang=de", "name=g")


def test_the_skeleton_of_a_tracker_is_given_each_run_of_a_grid_once(tmp_path: Path) -> None:
    install(tmp_path, "tracker", skeleton("A tracker", "python"), "")
    tracked = ("tracking.name=mine", "tracking.project=p", "tracking.runs=stages", "hydra.launcher.workers=1")
    for _ in range(2):
        done = launch(tmp_path, *TOY, *tracked)
        assert done.returncode == 0 and "JSON lines (offline): " in done.stderr, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "outputs" / "tracking" / "runs.jsonl").read_text().splitlines()]
    plan = json.loads((tmp_path / "outputs" / "grids" / "g" / "plan.json").read_text("utf-8"))
    stages = {line["id"]: line for line in lines if "kind" in line}
    assert stages.keys() == {stage["key"] for stage in plan["stages"]} and len(lines) == len(stages) + 1
    assert all(set(line["config"]["parents"].values()) <= stages.keys() for line in stages.values())
    assert {line["kind"] for line in stages.values() if "win_rate" in line} == {"judge"}
    (grid,) = [line for line in lines if "grid" in line]
    assert grid["grid"] == "g" and {"matrix", "stages"} <= grid["tables"].keys()
    assert "source_lang" in grid["tables"]["matrix"]
    refused = launch(tmp_path, *TOY, "tracking.name=nobody")
    assert (
        refused.returncode == 2
        and "tracking.name=nobody is unknown. Allowed: mine, tensorboard, wandb." in refused.stderr
    )


def test_the_skeleton_of_a_launcher_fills_a_grid(tmp_path: Path) -> None:
    install(tmp_path, "launcher", skeleton("A launcher", "python"), skeleton("A launcher", "yaml"), "hydra/launcher")
    done = launch(tmp_path, "hydra/launcher=mine", *TOY, "tracking.mode=off")
    assert done.returncode == 0, done.stderr
    assert [(row["source_lang"], row["status"]) for row in results(tmp_path, "g")] == [("en", "done"), ("tr", "done")]
    again = launch(tmp_path, "hydra/launcher=mine", *TOY, "tracking.mode=off")
    assert again.returncode == 0 and "0 to run" in again.stderr
    refused = launch(tmp_path, "hydra/launcher=mine", *TOY, "hydra.launcher.claim_timeout_s=soon")
    assert refused.returncode == 2 and "hydra.launcher.claim_timeout_s=soon does not fit" in refused.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("tracker", name) for name in TRACKERS.hooks), *(("launcher", name) for name in LAUNCHERS.hooks)],
)
def test_every_hook_of_trackers_and_launchers_is_asked_for(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, kind, without(skeleton(f"A {kind}", "python"), name), "")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("mypackage", f"mypackage.{kind}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    hooks = {"tracker": TRACKERS.hooks, "launcher": LAUNCHERS.hooks}[kind]
    with pytest.raises(ConfigError, match=f"{kind}=mine: the module mypackage.{kind} lacks `{name}`"):
        Options[object](kind, {"mine": f"mypackage.{kind}"}, hooks)["mine"]
