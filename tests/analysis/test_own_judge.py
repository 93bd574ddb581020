"""A cell judged by the reward model that was optimised is shown, marked, and part of no comparison."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from synthetic import SyntheticGrid

from xling.analysis.findings.choosing import choice
from xling.analysis.findings.sources import source_ranking
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import Matrix
from xling.analysis.matrix.verdicts import answers, headline
from xling.analysis.tidy.entries import Draws
from xling.analysis.tidy.tables import counts
from xling.report.files import csv_bytes
from xling.report.tables.panel import panel_tables
from xling.report.tables.terminal import print_matrix
from xling.results.plan import OWN_JUDGE

LANGS = ("de", "en", "tr")
AXES = {"judge": "target_rm"}


def wins(rate: float, seed: int = 0) -> list[float]:
    return [float(x) for x in (np.random.default_rng([int(rate), seed]).random(200) < rate / 100)]


def three_by_three(root: Path, own: bool, **home: object) -> Matrix:
    """At home 95 by the very reward model, abroad 60; `own`: whether the judge is that reward model."""
    grid = SyntheticGrid(root)
    for target in LANGS:
        for source in LANGS:
            at_home = source == target
            grid.cell(source, target, wins(95 if at_home else 60), own_judge=own and at_home, **AXES)
    return fold_grid(grid.write().store, grid.name, Draws().add)


def test_it_is_in_no_mean_tie_count_or_headline(tmp_path: Path) -> None:
    panel = three_by_three(tmp_path, own=True).blocks[0].panels[0]
    home = [entry for entry in panel.entries if entry.home]
    assert [entry.status for entry in home] == [OWN_JUDGE] * 3
    assert all(entry.win is None and entry.win_own and 90 < entry.win_own.value < 99 for entry in home)
    for name in ("best", "tied", "versus_best", "quality", "win_equal_length"):
        assert not any(getattr(entry, name) for entry in home)
    assert not any(entry.versus_home for entry in panel.entries)
    assert all(any(e.best for e in panel.entries if e.target == target and e.abroad) for target in LANGS)
    for means in (panel.column_means, panel.row_means):
        assert all(mean.estimate.value < 70 and (mean.entries, mean.of) == (2, 2) for mean in means.values())
    assert {count.name: (count.of, count.planned) for count in panel.counts} == {"above_50": (6, 6)}
    assert all("home" not in line for line in panel.verdicts)


def test_another_judge_counts_as_ever(tmp_path: Path) -> None:
    panel = three_by_three(tmp_path, own=False).blocks[0].panels[0]
    assert all(entry.best for entry in panel.entries if entry.home)
    assert all(mean.estimate.value > 70 and mean.of == 3 for mean in panel.column_means.values())


def test_the_headline_says_how_many_are_left_out(tmp_path: Path) -> None:
    text = headline(three_by_three(tmp_path, own=True))
    assert "best source" not in text
    assert "3 of 9 cells are judged by the very reward model whose reward was optimised" in text
    assert "in 6 of 6 cells" in text and "not there" not in text


def test_a_grid_of_nothing_else_has_no_evidence(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", wins(95), own_judge=True, **AXES)
    text = headline(grid.folded())
    assert text.startswith("No evidence: 1 of 1 cell is judged by the very reward model")


def test_it_is_shown_and_marked_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = three_by_three(tmp_path, own=True)
    rows = {
        (row["source_lang"], row["target_lang"]): row for row in csv.DictReader(csv_bytes(matrix).decode().splitlines())
    }
    assert rows["de", "de"]["status"] == OWN_JUDGE and rows["de", "de"]["win_rate"] == ""
    assert " % by it)" in rows["de", "de"]["reason"]
    assert "judge.half=true" in rows["de", "de"]["reason"] and rows["en", "de"]["status"] == "done"
    block = matrix.blocks[0]
    table = next(table for table in panel_tables(block, block.panels[0]) if table.kind == "matrix")
    assert table.rows[0][1][0].shown.startswith("[9") and table.rows[0][1][0].shown.endswith("](1)")
    assert "no evidence" in table.notes[0]
    print_matrix(matrix)
    assert "own judge" in capsys.readouterr().out
    assert counts(matrix)["holes"] == 0


def test_a_judge_that_learnt_from_a_source_s_language_favours_it(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    langs = (*LANGS, "vi")
    for number, (target, source) in enumerate(itertools.product(langs, (*langs, "de+en", "others"))):
        grid.cell(source, target, wins(80 if source == "en" else 60, number), **AXES, **{"judge.lang": "en"})
    matrix = grid.folded()
    [panel] = matrix.blocks[0].panels
    akin = {(entry.source, entry.target) for entry in panel.entries if entry.akin == "en"}
    assert akin == {(s, t) for t in langs for s in ("en", "de+en", "others") if (s, t) != ("others", "en")}
    assert not any(entry.akin for entry in panel.entries if entry.source in ("de", "tr", "vi"))
    said = "which favours them: en's (rows: en, de+en, others); the target's (rows: home, de+en)."
    table = next(table for table in panel_tables(matrix.blocks[0], panel) if table.kind == "matrix")
    assert said in headline(matrix) and said in table.notes[-1]
    assert "the judge has learnt from en, too, which favours it" in answers(matrix)[0]
    entries = grid.entries()
    chosen = choice(entries)
    assert said in source_ranking(entries).note and said in chosen.note
    assert "en (as the judge)" in set(chosen.table["pick"])


def test_a_seed_that_the_judge_shares_leaves_the_other_seeds(tmp_path: Path) -> None:
    """judge.seed=1 beside seed=0,1: under seed 1 the judge is the cell's own reward model, under seed 0 it is not."""
    grid = SyntheticGrid(tmp_path)
    for seed in (0, 1, 2):
        grid.cell("de", "de", wins(95 if seed == 1 else 60, seed), seed=seed, own_judge=seed == 1, **AXES)
    matrix = grid.folded()
    [entry] = matrix.blocks[0].panels[0].entries
    assert entry.win is not None and entry.win.seeds == 2 and entry.win.value < 70
    assert entry.status == "partial" and entry.reason.startswith("seed=1: the judge is the very reward model")


def test_optimizers_are_compared_without_it(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    for optimizer in ("best_of_n", "ppo"):
        for source in ("de", "en"):
            own = source == "de"
            grid.cell(source, "de", wins(95 if own else 60), own_judge=own, optimizer=optimizer, **AXES)
    [table] = grid.folded().optimizers
    assert all(arm.mean is not None and arm.mean.value < 70 and arm.above_50 <= 1 for arm in table.arms)
