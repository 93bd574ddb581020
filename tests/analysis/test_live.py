"""The matrix as it fills, in a terminal: what it says is what `xling reduce` will say."""

import io
import itertools
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import AXES, LANGUAGES, SyntheticGrid, realistic

from xling import cli
from xling.console import Console
from xling.grid.grids import read_grid
from xling.grid.plan import make_plan
from xling.results.live import LiveMatrix
from xling.runners.local.display import LIVE_SECONDS, Live, print_so_far


def live_of(grid: SyntheticGrid, width: int, states: dict[str, str] | None = None) -> LiveMatrix:
    live = LiveMatrix(grid.store, read_grid(grid.store, grid.name), width)
    live.look({cell.stage.key: "done" for cell in grid.cells} | (states or {}))
    return live


def text(live: LiveMatrix, width: int, height: int = 60) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(live.shown(height))
    return file.getvalue()


def judges(grid: SyntheticGrid, source: str, target: str) -> list[str]:
    return [cell.stage.key for cell in grid.cells
            if (cell.axes["source_lang"], cell.axes["target_lang"]) == (source, target)
            and cell.axes["rm_backbone"] == AXES["rm_backbone"]]  # fmt: skip


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_it_says_what_the_matrix_says(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    grid = realistic(tmp_path, LANGUAGES[:3], prompts=60, seeds=seeds, controls=len(seeds) == 1).write()
    shown = text(live_of(grid, 80), 80)
    for entry in grid.panel().entries:
        win = entry.win
        assert win is not None and f"{win.value:.1f} [{win.low:.1f}-{win.high:.1f}]" in shown
    assert len(shown.splitlines()) == 5 and "shuffled" not in shown and "\x1b" not in shown  # title, head, three rows


def test_cells_that_are_not_done_say_how_they_stand(tmp_path: Path) -> None:
    grid = realistic(tmp_path, LANGUAGES[:3], prompts=40, seeds=(0, 1), controls=False).write()
    both, [_, second] = judges(grid, "de", "en"), judges(grid, "en", "de")
    states = dict(zip(both, ("running", "to do"), strict=True)) | {second: "failed"}
    states |= dict.fromkeys(judges(grid, "es", "es"), "blocked") | dict.fromkeys(judges(grid, "es", "de"), "to do")
    shown = text(live_of(grid, 100, states), 100)
    rows = {line.split()[0]: line for line in shown.splitlines()[2:5]}
    assert re.fullmatch(r"de +\S+ \[\S+\] +▸ +\S+ \[\S+\] *", rows["de"])
    assert re.fullmatch(r"en +\S+ \[\S+\]\* .*", rows["en"]) and re.fullmatch(r"es +· +\S+ \S+ +✗ *", rows["es"])
    assert shown.splitlines()[-1].split("; ") == ["· to do", "▸ running", "✗ failed or damaged", "* some seeds to do"]


def test_a_look_reads_what_is_new_and_stops_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = realistic(tmp_path, LANGUAGES[:3], prompts=40, controls=False).write()
    read: list[Path] = []
    real = __import__("xling.results.live", fromlist=["read_wins"]).read_wins
    monkeypatch.setattr("xling.results.live.read_wins", lambda folder: read.append(folder) or real(folder))
    live, states = LiveMatrix(grid.store, read_grid(grid.store, "toy"), 80), dict[str, str]()
    assert text(live, 80).strip() == ""  # nothing is done
    for cell in grid.cells[:4]:
        states[cell.stage.key] = "cached"
    live.look(states)
    live.look(states)
    assert len(read) == 4
    states |= {cell.stage.key: "done" for cell in grid.cells}
    live.look(states, seconds=-1.0)
    assert len(read) == 4 and "5 more cells are done and not read yet" in text(live, 80)
    live.look(states, seconds=60.0)
    assert len(read) == 9 and "not read" not in text(live, 80)


def test_what_does_not_fit_is_summed_up_by_target(tmp_path: Path) -> None:
    grid = realistic(tmp_path, LANGUAGES[:4], prompts=40, controls=False).write()
    panel, live = grid.panel(), live_of(grid, 40, {judges(grid, "de", "ru")[0]: "to do"})
    wins = {(e.source, e.target): e.win.value for e in panel.entries if e.win and (e.source, e.target) != ("de", "ru")}
    lines = {line.split()[0]: line.split() for line in text(live, 40).splitlines()}
    for target in panel.targets:
        found = {source: value for (source, other), value in wins.items() if other == target}
        low, high = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
        ends = [f"{found[low]:.1f}", low, f"{found[high]:.1f}", high]
        assert lines[target] == [target, str(len(found)), "of", "4", f"{np.mean(list(found.values())):.1f}", *ends]
    assert "and 1 more target" in text(live, 40, height=8)


def test_own_judges_and_what_cannot_be_read_have_no_number(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    wins = [1.0, 0.0, 1.0, 1.0, 0.0]
    for source, target in itertools.product(("de", "en"), repeat=2):
        grid.cell(source, target, wins, own_judge=source == target == "en")
    key = judges(grid.write(), "de", "de")[0]
    (grid.store.folder("judge", key) / "items.json").write_bytes(b"no items")
    shown = text(live_of(grid, 80), 80).splitlines()
    assert shown[2].split()[:2] == ["de", "✗"]
    assert shown[3].split()[-1] == "own" and "own by its own reward model" in shown[-1]


def test_several_panels_are_told_apart_and_there_is_room_for_few(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    for optimizer in ("best_of_n", "dpo", "ppo"):
        grid.cell("de", "en", [1.0, 0.0, 1.0, 1.0], optimizer=optimizer)
    live = live_of(grid.write(), 80)
    assert "Win rates so far, %: optimizer=dpo" in text(live, 80)
    assert "2 more matrices: `xling reduce toy`" in text(live, 80, height=5)


def test_bars_of_a_run_have_the_matrix_below_and_one_that_is_stopped_leaves_it(tmp_path: Path, capsys: Any) -> None:
    grid = realistic(tmp_path, LANGUAGES[:2], prompts=40, controls=False).write()
    plan = make_plan(grid.cells, grid.store, name=grid.name)
    file, ends = io.StringIO(), dict[str, str]()
    display = Live(Console(file=file, force_terminal=True, width=100, height=40), total=4)
    display.follow(plan, ends)
    display.tick(4)
    assert "Win rates" not in file.getvalue()
    ends |= {cell.stage.key: "done" for cell in grid.cells}
    time.sleep(LIVE_SECONDS)
    display.tick(0)
    display.close()
    win = grid.panel().entries[0].win.value
    assert f"{win:.1f}" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    print_so_far(plan, {})
    assert capsys.readouterr().err == ""
    print_so_far(plan, ends)
    said = capsys.readouterr().err
    assert f"{win:.1f} [" in said and "\x1b" not in said


def test_watching_ends_with_the_matrix_without_escape_codes(tmp_path: Path, capsys: Any) -> None:
    grid = realistic(tmp_path, LANGUAGES[:2], prompts=40, controls=False).write()
    assert cli.main(["status", "toy", "--watch", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "Win rates so far" in out and "toy: 4 of 4 cells done" in out
    assert f"{grid.panel().entries[0].win.value:.1f} [" in out
