"""The examples run as they stand, but for sizes: real models, fewer prompts and steps."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import xling

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
    assert "4 cells by" in first and "by reward model" not in first.splitlines()[0]
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
    lengths = grid.measures.set_index(place).length.drop("(baseline)")
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
