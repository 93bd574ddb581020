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

import pytest

from xling.errors import ConfigError
from xling.options import Options
from xling.tasks.options import HOOKS, TaskModule, hooks_of

ROOT = Path(__file__).parents[1]


def skeleton(section: str, language: str) -> str:
    """The first block of a language in a section of docs/adding.md."""
    text = (ROOT / "docs" / "adding.md").read_text("utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    block = re.search(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    assert block is not None, f"docs/adding.md has no {language} in the section {section}"
    return textwrap.dedent(block[1])


def install(folder: Path, kind: str, module: str, settings: str, group: str = "") -> None:
    """A package `mypackage` with an option `mine` of a kind, and its conf/GROUP/mine.yaml (GROUP: the kind's name)."""
    package, info, conf = folder / "mypackage", folder / "mypackage-1.0.dist-info", folder / "conf" / (group or kind)
    for path in (package, info, conf):
        path.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / f"{kind}.py").write_text(module, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[xling.{kind}]\nmine = mypackage.{kind}\n")
    (conf / "mine.yaml").write_text(settings, encoding="utf-8")


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python launch.py OVERRIDES` in a folder that has the installed package."""
    command = [sys.executable, str(ROOT / "launch.py"), "--config-dir", str(folder / "conf"), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


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
