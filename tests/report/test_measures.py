"""A new measure is two edits; a table's title is for people, and nothing is found by it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser
from pages import CELLS, controlled, opened

from xling.analysis.matrix.types import MEASURES

ROOT = Path(__file__).parents[2]
EDITS = {  # file -> (the line before, the new line)
    "results/items.py": ("    reward: Column = []", "    brevity: Column = []  # 1 / words"),
    "analysis/matrix/types.py": (
        "    kl_bound: float | None = None",
        '    brevity: Annotated[Estimate | None, Measure("Brevity, 1/words", "brevity", "1/w", "brevity", digits=3)]'
        " = None",
    ),
}
FOLD = """
import io, json, sys
from pathlib import Path
from synthetic import SyntheticGrid
from xling.analysis.tidy.entries import Draws
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.tidy.entries import grid_entries
from xling.analysis.tidy.tables import tables
from xling.console import Console
from xling.grid.store import Store
from xling.report.page.data import Document, encode
from xling.report.tables.terminal import print_matrix

grid = SyntheticGrid(Path(sys.argv[1]))
for source in ("de", "en"):
    grid.cell(source, "de", [1, 0, 1, 1], columns={"brevity": [0.25, 0.125, None, 0.5]})
grid.write()
draws = Draws()
matrix = fold_grid(Store(grid.root), grid.name, draws.add)
text = io.StringIO()
print_matrix(matrix, Console(file=text, width=200), full=True)
rows = tables(matrix)["measures"]
page = encode(Document(matrix, ""))["panels"][0]["tables"]["maps"]
print(json.dumps({
    "terminal": text.getvalue(),
    "page": next((table for table in page if table["name"] == "brevity"), None),
    "tidy": grid_entries(matrix, draws).table["brevity"].tolist(),
    "wandb": [row[rows.columns.index("brevity")] for row in rows.rows if row[3] == "de"],
}))
"""


def test_a_new_measure_is_a_column_of_items_and_a_field_of_entries(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "xling", tmp_path / "xling", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, line) in EDITS.items():
        path = tmp_path / "xling" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(f"\n{before}") == 1
        path.write_text(text.replace(f"\n{before}", f"\n{line}\n{before}"), encoding="utf-8")
    places = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests' / 'analysis'}", "PATH": "/usr/bin"}
    command = [sys.executable, "-c", FOLD, str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, env=places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    mean = 0.875 / 3  # over the prompts that have one
    assert "brevity" in shown["terminal"] and "0.292" in shown["terminal"]
    assert shown["page"]["title"] == "Brevity, 1/words" and shown["page"]["value"] == pytest.approx(
        [mean] * 2, abs=1e-6
    )
    assert shown["tidy"] == pytest.approx([mean] * 2) and shown["wandb"] == pytest.approx([mean])


DOTS = """new Promise((found) => {  // what is far below is drawn when one comes near
    document.querySelector('#sources').scrollIntoView();
    const look = () => {
        const count = document.querySelectorAll('#sources g.dots').length;
        if (count) found(count); else setTimeout(look, 20);
    };
    look();
})"""


def test_a_table_is_found_whatever_its_title(tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("win", "length", "reward"):
        monkeypatch.setitem(MEASURES, name, replace(MEASURES[name], title=f"{name}, renamed"))
    opened(browser, controlled(tmp_path))
    assert browser.run("document.querySelector('#matrix figcaption').textContent").startswith("win, renamed")
    assert len(browser.run(CELLS)) == 4 and browser.run(DOTS) == 4
    tabs = browser.run("[...document.querySelectorAll('#matrix .choices label')].map((tab) => tab.textContent)")
    assert {"win rate", "minus home", "length", "reward"} <= set(tabs)
