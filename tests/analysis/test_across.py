"""Optimizers side by side (paired with best-of-n by prompt, and on the frontier), and judges: do they agree."""

import csv
import io
import itertools

import numpy as np
import pytest
from synthetic import N_SAMPLES, OPTIMIZERS, SyntheticGrid, five, validated

from xling.analysis.catalogue import grid_findings
from xling.analysis.items.scored import SCORED_BY, finished_cells, once, without
from xling.analysis.matrix.across import alike
from xling.analysis.matrix.types import CHANCE, matrix_json, read_matrix
from xling.report.files import write_matrix


def test_differences_to_best_of_n_are_paired_by_prompt(tmp_path):
    grid = SyntheticGrid(tmp_path)
    pattern = (np.arange(100) % 2).astype(float)
    grid.cell("en", "de", pattern)
    grid.cell("en", "de", 0.25 + 0.5 * pattern, optimizer="ppo", columns={"kl": 1.0 + pattern})
    grid.cell("en", "de", 1 - pattern, optimizer="dpo")
    (table,) = grid.folded().optimizers
    assert table.reference == "best_of_n" and "optimizer" not in table.axes and table.axes["judge"] == "gold"
    best, dpo, ppo = table.arms
    assert [arm.name for arm in table.arms] == ["best_of_n", "dpo", "ppo"]
    (cell,) = ppo.cells
    assert (cell.versus.estimate.value, cell.versus.settled) == (0.0, False)
    assert cell.versus.estimate.se == pytest.approx(2.5, rel=0.1)  # half of that of either win rate, not its root sum
    assert dpo.cells[0].versus.estimate.se == pytest.approx(10, rel=0.1)
    assert (cell.kl.value, cell.kl_bound) == (1.5, None)
    assert best.cells[0].kl is None and best.cells[0].kl_bound == pytest.approx(np.log(4) - 0.75)
    assert best.cells[0].versus is None and best.versus is None


def test_cells_above_50_and_means_over_cells_and_seeds(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for optimizer, lift in (("best_of_n", 0.0), ("ppo", 0.25)):
        for (source, target), seed in itertools.product(itertools.product(("de", "en"), repeat=2), range(3)):
            base = 0.5 if source == target else 0.25
            wins = np.full(8, base + lift) + np.array([0.0, 0.05 * seed] * 4)
            prompts = [f"{target}{i}" for i in range(8)]
            grid.cell(source, target, wins, seed=seed, optimizer=optimizer, prompts=prompts)
    grid.cell("ru", "de", optimizer="ppo", fails="align")
    (table,) = grid.folded().optimizers
    best, ppo = table.arms
    assert (best.above_50, ppo.above_50) == (0, 2)
    assert best.mean.value == pytest.approx(100 * (0.375 + 0.025)) and best.mean.seeds == 3
    assert ppo.mean.n == 16
    assert ppo.versus.estimate.value == pytest.approx(25) and ppo.versus.settled
    assert [(c.source, c.status) for c in ppo.cells if c.win is None] == [("ru", "blocked")]


def test_settings_of_one_optimizer_are_arms_and_the_largest_n_is_the_reference(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for n, win in ((2, 0.5), (4, 0.75)):
        grid.cell("de", "de", [win] * 4, **{"optimizer.n": n})
    for beta in (0.1, 1.0):
        grid.cell("de", "de", [0.5] * 4, optimizer="rloo", **{"optimizer.beta": beta})
    (table,) = grid.folded().optimizers
    names = [arm.name for arm in table.arms]
    assert names == ["best_of_n n=2", "best_of_n n=4", "rloo beta=0.1", "rloo beta=1.0"]
    assert table.reference in ("best_of_n n=2", "best_of_n n=4")


def test_without_best_of_n_nothing_is_subtracted_and_one_optimizer_makes_no_table(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for optimizer in ("ppo", "rloo"):
        grid.cell("de", "de", [1.0, 0.5], optimizer=optimizer)
    (table,) = grid.folded().optimizers
    assert table.reference == "" and all(arm.versus is None for arm in table.arms)
    alone = SyntheticGrid(tmp_path, "alone")
    alone.cell("de", "de", [1.0, 0.5])
    matrix = alone.folded()
    assert matrix.optimizers == [] and matrix.frontiers == []


def test_an_optimizer_that_failed_everywhere_is_shown_as_such(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5])
    grid.cell("de", "de", optimizer="grpo", fails="align")
    matrix = grid.folded()
    (table,) = matrix.optimizers
    best, failed = table.arms
    assert (failed.name, failed.mean, failed.versus, failed.above_50) == ("grpo", None, None, 0)
    assert [cell.status for cell in failed.cells] == ["blocked"] and best.mean.value == 75
    assert matrix.frontiers == []  # nothing to compare


# --- the frontier -----------------------------------------------------------------------------------------


def pool_grid(root):
    """Two prompts, four samples; the reward likes what the judge likes in the first prompt only."""
    grid = SyntheticGrid(root)
    scores = {"pool": np.array([[1.0, 2, 3, 4], [1.0, 2, 3, 4]]), "baseline": np.array([[0.0, 4.0], [0.0, 4.0]])}
    quality = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    columns = {"baseline_reward": [2.0, 2.0], "baseline_quality": [0.2, 0.2]}
    picks = columns | {"reward": [4.0, 4.0], "quality": [0.4, 0.1]}
    curve = np.linspace(0.5, 1.0, N_SAMPLES) * np.ones((2, 1))
    grid.cell("en", "de", [1.0, 1.0], pool=quality, scores=scores, columns=picks, curve=curve)
    return grid, scores, columns


def test_points_of_best_of_k_by_hand(tmp_path):
    grid, scores, columns = pool_grid(tmp_path)
    own = columns | {"reward": [6.0, 2.0], "quality": [0.3, 0.3], "kl": [1.0, 3.0]}
    grid.cell("en", "de", [0.5, 1.0], scores=scores, columns=own, optimizer="ppo")
    (frontier,) = grid.folded().frontiers
    found = {(point.arm, point.k): point for point in frontier.points}
    assert list(found) == [("best_of_n", 1), ("best_of_n", 2), ("best_of_n", 4), ("ppo", None)]
    one, two, four, ppo = found.values()
    assert [point.kl.value for point in found.values()] == pytest.approx([0, np.log(2) - 0.5, np.log(4) - 0.75, 2])
    # the standard deviation of the baseline's rewards is 2; a mean of 2.5, of the best of two 20/6, of four 4
    assert [point.reward.value for point in (one, two, four)] == pytest.approx([0.25, (20 / 6 - 2) / 2, 1.0])
    assert [point.quality.value for point in (one, two, four)] == pytest.approx([0.05, 0.05, 0.05])
    assert [point.win.value for point in (one, two, four)] == pytest.approx([50, 100 * (0.5 + 0.5 / 3), 100])
    assert (ppo.reward.value, ppo.quality.value, ppo.win.value) == pytest.approx((1.0, 0.1, 75))
    assert four.quality.low < 0.05 < four.quality.high  # the prompts differ
    assert frontier.cells == 1


def test_the_last_point_of_the_curve_is_the_entry(tmp_path):
    grid, scores, columns = pool_grid(tmp_path)
    grid.cell("en", "de", [0.5, 1.0], scores=scores, columns=columns, optimizer="ppo")
    matrix = grid.folded()
    entry = matrix.blocks[0].panels[0].entries[0]
    last = matrix.frontiers[0].points[2]
    assert (entry.reward.value, entry.quality.value) == pytest.approx((last.reward.value, last.quality.value))
    assert (entry.reward.low, entry.quality.high) == pytest.approx((last.reward.low, last.quality.high))
    assert entry.reward_scale == 2


def test_a_judge_of_picks_alone_gives_best_of_n_alone(tmp_path):
    """As judge=llm, which is asked about some prompts and no other sample of the pool."""
    grid = SyntheticGrid(tmp_path)
    scores = {"pool": np.ones((5, N_SAMPLES)), "baseline": np.array([[0.0, 2.0]] * 5)}
    kwargs = {"judge": "llm", "curve": np.empty((3, 0)), "scores": scores}
    grid.cell("en", "de", [1.0, 1.0, 0.5], columns={"reward": [1.0, 2.0, 3.0], "quality": [None] * 3}, **kwargs)
    grid.cell("en", "de", [1.0, 0.5, 0.5], optimizer="ppo", **kwargs)
    best, ppo = grid.folded().frontiers[0].points
    assert (best.k, best.reward.value, best.quality) == (N_SAMPLES, 2.0, None)
    assert (best.win.value, ppo.win.value) == pytest.approx((250 / 3, 200 / 3))


def test_the_frontier_is_over_cells_that_all_optimizers_have(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for target, win in (("de", 0.25), ("en", 1.0)):
        prompts = [f"{target}{i}" for i in range(4)]
        grid.cell("de", target, [win] * 4, prompts=prompts)
    grid.cell("de", "de", [0.75] * 4, prompts=[f"de{i}" for i in range(4)], optimizer="rloo")
    (frontier,) = grid.folded().frontiers
    assert frontier.cells == 1
    assert [point.win.value for point in frontier.points] == [25, 25, 25, 75]  # en is not in it


def test_learning_curves_are_means_over_the_steps_that_all_cells_have(tmp_path):
    grid = SyntheticGrid(tmp_path)
    rows = [{"step": step, "loss": 1.0} | validated(step, 0.5) for step in (10, 20, 30)] + [{"step": 31, "loss": 2.0}]
    for source, curve in (("de", rows), ("en", [{"step": s} | validated(s, 1.5) for s in (10, 30)])):
        grid.cell(source, "de", [0.5, 1.0])
        grid.cell(source, "de", [0.5, 1.0], optimizer="ppo", learning=curve)
    (frontier,) = grid.folded().frontiers
    assert [(row.arm, row.step, row.reward, row.quality) for row in frontier.learning] == [
        ("ppo", 10, 1.0, 10.0),
        ("ppo", 30, 1.0, 30.0),
    ]


def test_five_optimizers_three_by_three_and_two_seeds(tmp_path):
    matrix = five(tmp_path, seeds=(0, 1), prompts=20).folded()
    (table,) = matrix.optimizers
    assert [arm.name for arm in table.arms] == list(OPTIMIZERS)
    for arm, block in zip(table.arms, matrix.blocks, strict=True):
        entries = block.panels[0].entries
        assert arm.above_50 == sum(entry.win.low > CHANCE for entry in entries)
        assert {(c.source, c.target): c.win.value for c in arm.cells} == {
            (e.source, e.target): e.win.value for e in entries
        }
    assert matrix.frontiers[0].cells == 9


# --- judges --------------------------------------------------------------------------------------------------


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
    return grid.folded()


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
    assert grid.folded().agreement == []
    finished = finished_cells(grid.store, grid.name)
    assert [cell.axes["judge.half"] for cell in once(finished.cells, *SCORED_BY)] == ["false", "true"]
    assert "judge.half" in without(finished.cells[0].axes, *SCORED_BY)


def test_agreement_on_every_pair_of_few_prompts_is_not_certain(tmp_path):
    wins = {"de": [1.0, 1.0, 1.0, 1.0], "en": [0.0, 0.0, 0.0, 0.0]}
    (found,) = judged(tmp_path, {"gold": wins, "llm": wins}).agreement
    assert found.ranking.value == found.instances.value == 100
    assert 0 < found.ranking.low < 70 and found.ranking.high == 100


def test_an_agreement_on_rankings_lies_in_its_interval_which_is_that_of_the_analysis(tmp_path):
    """Sources that hardly differ: the judges agree less in resamples than on what was measured."""
    grid, random = SyntheticGrid(tmp_path), np.random.default_rng(4)
    for source, target in itertools.product(CODES, CODES):
        wins = random.random(50) < 0.5
        for judge, wrong in (("llm", 0.0), ("target_rm", 0.2)):
            grid.cell(source, target, wins ^ (random.random(50) < wrong), judge=judge)
    (found,) = grid.folded().agreement
    (analysed,) = grid_findings(grid.store, grid.name, ["judge_ranking"])
    (row,) = analysed.table[analysed.table.target_lang == "all"].itertuples()
    assert row.agree == pytest.approx(found.ranking.value) and found.ranking.low < row.agree < found.ranking.high
    assert (found.ranking.low, found.ranking.high) == pytest.approx((row.agree_low, row.agree_high), abs=1)


def test_the_papers_ranking_agreement(tmp_path):
    """70 of 90 pairs of sources within a target, from its two published matrices."""
    grid = SyntheticGrid(tmp_path)
    for judge, rates in (("llm", table(PALM)), ("target_rm", table(GPT4))):
        for row, source in enumerate(CODES):
            for column, target in enumerate(CODES):
                prompts = [f"{target}{i}" for i in range(1000)]
                wins = np.arange(1000) < round(10 * rates[row, column])
                grid.cell(source, target, wins, judge=judge, prompts=prompts, groups=prompts)
    (found,) = grid.folded().agreement
    assert (found.source_pairs, found.ranking.value) == (90, pytest.approx(100 * 70 / 90))


def test_judges_that_are_the_same_agree_in_everything_and_seeds_are_points(tmp_path):
    grid = SyntheticGrid(tmp_path)
    random = np.random.default_rng(0)
    for seed in range(3):
        for source in ("de", "en"):
            wins = random.random(30).round(1)
            for judge in ("gold", "target_rm"):
                grid.cell(source, "de", wins, judge=judge, seed=seed)
    matrix = grid.folded()
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
    (found,) = grid.folded().agreement
    assert (found.instances.value, found.instances.n) == (50, 2)  # de: p2 yes, p1 no; en: p1 yes, p2 no
    assert (found.source_pairs, found.ranking.value) == (1, 100)  # on these two prompts both call the sources level


def test_a_cell_with_an_unjudged_dataset_is_a_hole_that_says_so(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, None], datasets=["a", "b"], judge="llm")
    grid.cell("en", "de", [1.0, 0.5], datasets=["a", "b"], judge="llm")
    hole, there = grid.folded().blocks[0].panels[0].entries
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
    (block,) = grid.folded().blocks
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
    (checked,) = grid.folded().blocks[0].judge_accuracy
    assert (checked.accuracy.value, checked.inconsistent) == (50.0, None)
