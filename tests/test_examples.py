"""The examples run as they stand, but for sizes: real models, fewer prompts and steps."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import xling
from xling.errors import ConfigError

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
GRID = '"sweeps=demo", '
SMALL = (
    "task.demonstrations=200", "task.ratings=200", "task.test_prompts=16", "sft.steps=4", "policy.n=4",
    "policy.baseline_samples=2", "policy.max_new_tokens=12", "hydra.launcher.workers=1", "name=demo",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all examples are run: they share stages."""
    return tmp_path_factory.mktemp("examples")


def ran(example: Path, folder: Path) -> str:
    """What an example prints, run at the sizes of SMALL."""
    text = example.read_text(encoding="utf-8")
    assert GRID in text, "the example's grid is the demo"
    (folder / example.name).write_text(text.replace(GRID, GRID + "".join(f'"{one}", ' for one in SMALL)), "utf-8")
    done = subprocess.run(
        [sys.executable, example.name], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "MPLBACKEND": "agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    return ran(EXAMPLES / "first_grid.py", folder)


@pytest.fixture(scope="module")
def grid(first: str, folder: Path) -> "xling.Grid":
    return xling.load(folder / "outputs", "demo")


def test_a_first_grid_is_planned_run_and_read(first: str, folder: Path) -> None:
    assert "4 cells by" in first and "Drawn:" in first
    assert (folder / "outputs" / "grids" / "demo" / "wins.png").exists()


def test_cells_are_the_rows_of_matrix_csv(grid: "xling.Grid") -> None:
    written = pd.read_csv(grid.folder / "matrix.csv", keep_default_na=False).rename(
        columns={"ci_low": "win_rate_low", "ci_high": "win_rate_high"}
    )
    assert grid.cells.columns.tolist() == written.columns.tolist()
    assert grid.cells[["source_lang", "target_lang"]].equals(written[["source_lang", "target_lang"]])
    assert abs(grid.cells.win_rate - written.win_rate).max() < 0.06  # matrix.csv has fewer digits


def test_the_tables_agree_with_each_other(grid: "xling.Grid") -> None:
    """A cell's win rate is the mean of its items', its length that of its samples."""
    place = ["source_lang", "target_lang"]
    wins = grid.items.groupby(place).win.mean() * 100
    assert abs(grid.cells.set_index(place).win_rate - wins).max() < 1e-4
    lengths = grid.measures[grid.measures.source_lang != "(baseline)"].set_index(place).length
    assert abs(lengths - grid.samples.groupby(place).length.mean()).max() < 1e-4
    assert len(grid.samples) == len(grid.items) == 4 * 16  # best-of-n: one pick a prompt
    assert (grid.samples.merge(grid.items, on=[*place, "prompt"]).eval("abs(reward_x - reward_y)") < 1e-6).all()
    assert grid.samples.text.str.len().min() > 20
    assert len(grid.baselines) == 2 * 16 * 2 and set(grid.baselines.target_lang) == {"en", "tr"}
    assert grid.accuracy.accuracy.between(0, 100).all() and len(grid.accuracy) == 4


def test_a_matrix_is_folded_again_from_what_is_there(grid: "xling.Grid") -> None:
    again = grid.reduce()
    assert again.matrix == grid.matrix
    assert len(grid.entries.table) == 4 and grid.analyse("source_ranking")[0].name == "source_ranking"


def test_a_measure_of_ones_own_is_shown_everywhere(first: str, folder: Path, grid: "xling.Grid") -> None:
    """By the second run of the same grid, which runs no stage."""
    before = {path.name for path in (folder / "outputs" / "stages").rglob("*")}
    printed = ran(EXAMPLES / "own_measure.py", folder)
    assert {path.name for path in (folder / "outputs" / "stages").rglob("*")} == before
    again = xling.load(folder / "outputs", "demo")
    measured = again.measures.set_index(["source_lang", "target_lang"]).sort_index()
    words = again.samples.response.str.split().str.len()
    means = words.groupby([again.samples.source_lang, again.samples.target_lang]).mean()
    assert abs(measured.words.drop("(baseline)") - means).max() < 1e-4
    said = again.baselines.response.str.split().str.len().groupby(again.baselines.target_lang).mean()
    assert abs(measured.words["(baseline)"] - said).max() < 1e-4
    assert measured.copied.between(measured.copied_low, measured.copied_high).all()
    assert measured.copied_low.min() >= 0 and measured.copied_high.max() <= 100
    title = "Words of the response that stand in the prompt, %"
    assert title in printed  # the terminal
    for name in ("matrix.md", "report.html", "matrix.json"):
        assert title in (again.folder / name).read_text("utf-8"), name
    assert again.cells.equals(grid.cells)
    assert again.reduce().measures.equals(again.measures)  # from what was remembered


def test_a_measure_that_fails_is_a_sentence_and_costs_no_other_number(grid: "xling.Grid", folder: Path) -> None:
    file = folder / "failing.py"
    file.write_text("def half(responses, language):\n    return [1 / (language != 'tr') for _ in responses]\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "xling",
        "run",
        "sweeps=demo",
        "tracking.mode=off",
        *SMALL,
        "measures=failing:half",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    sentence = f"The measure half failed in {file}, line 2: ZeroDivisionError: division by zero."
    again = xling.load(folder / "outputs", "demo")
    assert again.matrix.left_out == [sentence] and sentence in " ".join(done.stdout.split())
    half = again.measures.set_index("target_lang").half
    assert (half["en"] == 1).all() and half["tr"].isna().all()
    assert again.cells.equals(grid.cells)
    asked = ("sweeps=demo", *SMALL, f"root='{folder / 'outputs'}'", "measures=[]")  # and of the matrix without it
    assert (
        f"folded without half, which the last command of demo measured; that is kept, and measures=[{file}:half]"
        in (" ".join(xling.plan(*asked).warnings))
    )
    assert "measures=[] asks for no measures of your own" in " ".join(xling.plan(*asked, "name=new").warnings)
    damaged = next((folder / "outputs" / "stages" / "pool").glob("*/samples.jsonl"))
    whole = damaged.read_bytes()
    (again.folder / "measures" / "half.json").unlink()
    damaged.write_bytes(b"x" + whole[1:])  # which costs no other number either
    left = again.reduce()
    assert left.cells.win_rate.equals(grid.cells.win_rate) and "samples.jsonl" in " ".join(left.matrix.left_out)
    damaged.write_bytes(whole)
    file.unlink()
    assert again.reduce().matrix.left_out == [f"The measures of this grid are in {file}, which is not there any more."]


def test_an_analysis_of_ones_own_is_shown_and_written(grid: "xling.Grid", folder: Path) -> None:
    own = f"{EXAMPLES / 'own_analysis.py'}:abroad"
    command = [sys.executable, "-m", "xling", "analyse", "demo", "--only", own]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Mean win rate of foreign reward models, %, by target" in done.stdout
    assert (grid.folder / "analysis" / "abroad.csv").exists()
    [finding] = grid.analyse(own)
    wins = grid.cells[grid.cells.source_lang != grid.cells.target_lang].set_index("target_lang").win_rate
    assert abs(finding.table.set_index("target_lang").win - wins).max() < 1e-4
    (folder / "words.py").write_text("def words(entries):\n    return 'ninety'\n", "utf-8")
    with pytest.raises(ConfigError, match=r"The analysis words of .*words.py gave 'ninety': it must give a pandas"):
        grid.analyse(f"{folder / 'words.py'}:words")


def test_a_judge_of_ones_own_is_a_package_of_ones_own(first: str, folder: Path, tmp_path: Path) -> None:
    """The policies of the first grid are judged again: by entry points, as pip leaves them."""
    judge = EXAMPLES / "own_judge"
    alone = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *alone, "--target", str(tmp_path)]
    installed = subprocess.run([*pip, str(judge)], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    settings = ["sweeps=demo", "tracking.mode=off", *SMALL, "name=shortest", "judge=shortest", "judge.enough=3"]
    command = [sys.executable, "-m", "xling", "run", *settings, f"hydra.searchpath=[file://{judge / 'conf'}]"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    grid = xling.load(folder / "outputs", "shortest")
    assert grid.cells.judge.str.startswith("shortest").all() and grid.cells.win_rate.between(0, 100).all()
    words = grid.samples.response.str.split().str.len().clip(lower=3)
    assert (grid.samples.quality == -words).all()
