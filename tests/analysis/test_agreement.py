"""Judges against each other and against people: by hand, and the paper's own ranking agreement from its tables."""

import csv
import io

import numpy as np
import pytest
from synthetic import SyntheticGrid

from xling.analysis.items.scored import SCORED_BY, finished_cells, once, without
from xling.analysis.matrix.across import alike
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import matrix_json, read_matrix
from xling.report.files import write_matrix

# Win rates of best-of-64 summarisation, rows source, columns target, de en es ru tr vi (paper, Tables 6 and 10).
PALM = """52.3,50.8,63.0,66.7,63.0,60.4
56.4,55.5,66.1,70.7,67.2,63.1
51.9,51.2,62.4,66.0,64.4,57.5
48.1,46.5,59.2,63.6,59.0,56.3
53.3,52.9,62.6,66.6,60.4,59.0
46.5,48.2,60.0,65.6,62.1,58.0"""
GPT4 = """49.0,50.2,58.2,63.6,57.6,56.6
52.6,56.6,62.7,70.2,67.0,62.1
51.7,54.1,59.8,65.9,63.6,59.2
48.7,51.2,56.0,63.0,59.0,56.8
56.7,57.8,62.3,69.5,66.6,61.5
45.2,52.1,56.6,62.8,60.5,56.5"""
CODES = ("de", "en", "es", "ru", "tr", "vi")


def table(text):
    return np.array([[float(value) for value in row] for row in csv.reader(io.StringIO(text))])


def judged(root, judges, targets=("de",), **kwargs):
    """A grid of judges -> source -> wins."""
    grid = SyntheticGrid(root)
    for judge, sources in judges.items():
        for source, wins in sources.items():
            for target in targets:
                grid.cell(source, target, wins, judge=judge, prompts=[f"{target}{i}" for i in range(len(wins))])
    return fold_grid(grid.write().store, grid.name)


def test_signs_agree_by_hand():
    left, right = np.array([1.0, 1.0, 1.0, 0.0, 0.0, np.nan]), np.array([2.0, -1.0, 0.0, 0.0, -3.0, 1.0])
    np.testing.assert_array_equal(alike(left, right), [1, 0, 0.5, 1, 0.5, np.nan])


def test_instances_and_rankings_by_hand(tmp_path):
    gold = {"de": [1.0, 1.0, 0.5, 0.0], "en": [1.0, 0.0, 0.0, 0.0], "ru": [0.0, 0.0, 0.0, 0.0]}
    llm = {"de": [1.0, 0.0, 0.5, 0.5], "en": [0.9, 0.9, 0.9, 0.9], "ru": [0.9, 0.9, 0.9, 0.9]}
    (found,) = judged(tmp_path, {"gold": gold, "llm": llm}).agreement
    assert found.judges == ("gold", "llm") and found.axes["optimizer"] == "best_of_n"
    by_hand = [(1 + 0 + 1 + 0.5) / 4, 1 / 4, 0]  # de, en, ru
    assert found.instances.value == pytest.approx(100 * np.mean(by_hand))
    assert found.by_target["de"].value == found.instances.value
    # gold: de > en > ru; llm: en and ru level, above de: 0 for de-en, 0 for de-ru, half for en-ru
    assert (found.source_pairs, found.ranking.value) == (3, pytest.approx(100 * 0.5 / 3))
    assert found.ranking.low <= found.ranking.value <= found.ranking.high


def test_judges_of_other_responses_are_not_compared(tmp_path):
    """judge.half=true makes the cell's own reward model another one, which picks other responses."""
    grid = SyntheticGrid(tmp_path)
    for half in (False, True):
        grid.cell("de", "en", [1.0, 0.0, 0.5], judge="target_rm", **{"judge.half": half})
    assert fold_grid(grid.write().store, grid.name).agreement == []
    finished = finished_cells(grid.store, grid.name)
    assert [cell.axes["judge.half"] for cell in once(finished.cells, *SCORED_BY)] == ["false", "true"]
    assert "judge.half" in without(finished.cells[0].axes, *SCORED_BY)


def test_agreement_on_every_pair_of_few_prompts_is_not_certain(tmp_path):
    wins = {"de": [1.0, 1.0, 1.0, 1.0], "en": [0.0, 0.0, 0.0, 0.0]}
    (found,) = judged(tmp_path, {"gold": wins, "llm": wins}).agreement
    assert found.ranking.value == found.instances.value == 100
    assert 0 < found.ranking.low < 70 and found.ranking.high == 100


def test_the_papers_ranking_agreement(tmp_path):
    """70 of 90 pairs of sources within a target, from its two published matrices."""
    grid = SyntheticGrid(tmp_path)
    for judge, rates in (("llm", table(PALM)), ("target_rm", table(GPT4))):
        for row, source in enumerate(CODES):
            for column, target in enumerate(CODES):
                prompts = [f"{target}{i}" for i in range(1000)]
                wins = np.arange(1000) < round(10 * rates[row, column])
                grid.cell(source, target, wins, judge=judge, prompts=prompts, groups=prompts)
    (found,) = fold_grid(grid.write().store, grid.name).agreement
    assert (found.source_pairs, found.ranking.value) == (90, pytest.approx(100 * 70 / 90))


def test_judges_that_are_the_same_agree_in_everything_and_seeds_are_points(tmp_path):
    grid = SyntheticGrid(tmp_path)
    random = np.random.default_rng(0)
    for seed in range(3):
        for source in ("de", "en"):
            wins = random.random(30).round(1)
            for judge in ("gold", "target_rm"):
                grid.cell(source, "de", wins, judge=judge, seed=seed)
    matrix = fold_grid(grid.write().store, grid.name)
    (found,) = matrix.agreement
    assert (found.instances.value, found.instances.high, found.instances.seeds) == (100, 100, 3)
    assert found.instances.low == pytest.approx(100 / (1 + 2.04523**2 / 30), abs=1e-3)  # Wilson's of 30 in 30, t(29)
    assert (found.ranking.value, found.ranking.high, found.ranking.seeds) == (100, 100, 3)
    assert found.ranking.low == pytest.approx(found.instances.low, abs=1e-3)
    write_matrix(tmp_path / "grids/toy", matrix)
    assert matrix_json(read_matrix(tmp_path / "grids/toy")) == matrix_json(matrix)


def test_prompts_that_one_judge_did_not_judge_are_left_out(tmp_path):
    gold, llm = {"de": [1.0, 1.0, 0.0, 0.0]}, {"de": [1.0, None, 1.0, None]}
    matrix = judged(tmp_path, {"gold": gold, "llm": llm})
    (found,) = matrix.agreement
    assert (found.instances.value, found.ranking, found.source_pairs) == (50, None, 0)
    assert found.by_target["de"].n == 2
    entry = matrix.blocks[1].panels[0].entries[0]
    assert (entry.win.value, entry.win.n, entry.win.clusters) == (100, 2, 2)


def test_a_judge_that_was_asked_about_fewer_prompts_is_compared_on_those(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for source, wins in (("de", [1.0, 0.0, 1.0, 0.0]), ("en", [0.0, 1.0, 0.0, 0.5])):
        grid.cell(source, "de", wins)
        grid.cell(source, "de", [1.0, 0.75], prompts=["p2", "p1"], groups=["g2", "g1"], judge="llm")
    (found,) = fold_grid(grid.write().store, grid.name).agreement
    assert (found.instances.value, found.instances.n) == (50, 2)  # de: p2 yes, p1 no; en: p1 yes, p2 no
    assert (found.source_pairs, found.ranking.value) == (1, 100)  # on these two prompts both call the sources level


def test_a_cell_with_an_unjudged_dataset_is_a_hole_that_says_so(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, None], datasets=["a", "b"], judge="llm")
    grid.cell("en", "de", [1.0, 0.5], datasets=["a", "b"], judge="llm")
    hole, there = fold_grid(grid.write().store, grid.name).blocks[0].panels[0].entries
    assert (hole.win, hole.status, hole.reason) == (None, "partial", "no prompt of one of its datasets was judged")
    assert there.win.value == 75


def test_one_judge_has_nobody_to_agree_with(tmp_path):
    assert judged(tmp_path, {"gold": {"de": [1.0, 0.0]}}).agreement == []


def test_what_an_llm_judge_adds_is_folded(tmp_path):
    grid = SyntheticGrid(tmp_path)
    columns = {
        "win_soft": [0.6, 0.8, None, 0.1],
        "win_hard": [1.0, 1.0, None, 0.0],
        "inconsistent": [0.0, 1.0, None, 0.0],
        "unanswered": [0.0, 0.0, 1.0, 0.0],
    }
    accuracy = {"group": list("abcd"), "correct": [1.0, 0.5, 0.0, None], "inconsistent": [False, True, False, None]}
    grid.cell("de", "de", [0.6, 0.8, None, 0.1], columns=columns, judge="llm", accuracy=accuracy)
    grid.cell("de", "en", [0.6, 0.8], judge="llm", prompts=["e0", "e1"])  # its judge was not checked
    (block,) = fold_grid(grid.write().store, grid.name).blocks
    entry = block.panels[0].at()["de", "de"]
    assert entry.win.value == entry.win_soft.value == pytest.approx(50.0)
    assert (entry.win_hard.value, entry.inconsistent.value) == pytest.approx((200 / 3, 100 / 3))
    assert (entry.unanswered.value, entry.unanswered.n) == (25.0, 4)
    (checked,) = block.judge_accuracy
    assert (checked.target, checked.accuracy.value, checked.accuracy.n) == ("de", 50.0, 3)
    assert checked.inconsistent.value == pytest.approx(100 / 3)


def test_accuracy_of_a_judge_is_the_macro_average_over_datasets(tmp_path):
    grid = SyntheticGrid(tmp_path)
    accuracy = {"group": list("abcd"), "correct": [1.0, 1.0, 1.0, 0.0], "dataset": ["x", "x", "x", "y"]}
    grid.cell("de", "de", [1.0, 0.5], judge="llm", accuracy=accuracy)
    (checked,) = fold_grid(grid.write().store, grid.name).blocks[0].judge_accuracy
    assert (checked.accuracy.value, checked.inconsistent) == (50.0, None)
