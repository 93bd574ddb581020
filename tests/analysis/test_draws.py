"""Draws of a grid's entries give back the intervals of its matrix; ranks, correlations and intervals over draws."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr
from synthetic import SyntheticGrid, five, realistic

from xling.analysis.findings.sources import home_differences
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.statistics.bootstrap import draw
from xling.analysis.statistics.draws import (
    best_shares,
    centred,
    kendall,
    p_two_sided,
    pearson,
    percentile,
    ranks,
    spanning,
    spearman,
)
from xling.analysis.tidy.entries import Draws, grid_entries
from xling.analysis.tidy.finding import place_of


def test_one_seed_the_very_bootstrap_of_the_matrix(tmp_path):
    found = realistic(tmp_path, ("de", "en"), prompts=60).entries()
    table = found.table
    assert sorted(set(table["source_lang"])) == ["de", "en"]  # neither references nor shuffled labels
    assert set(table["rm_backbone"]) == {"same_as_policy"}
    drawn = table["win_rate"].to_numpy() + found.errors["win"].astype(float)
    np.testing.assert_allclose(np.quantile(drawn, 0.025, axis=0), table["win_rate_low"], atol=1e-4)
    np.testing.assert_allclose(np.quantile(drawn, 0.975, axis=0), table["win_rate_high"], atol=1e-4)
    right = table["accuracy"].to_numpy() + found.errors["accuracy"].astype(float)
    np.testing.assert_allclose(np.quantile(right, 0.025, axis=0), table["accuracy_low"], atol=1e-4)


def test_where_few_lose_the_interval_of_the_matrix_and_pairs_stay_pairs(tmp_path):
    """The bootstrap of 60 wins in 60 is a point, of 57 too narrow; two that are the same differ in nothing."""
    grid = SyntheticGrid(tmp_path)
    for source, losses in (("de", 0), ("en", 0), ("ru", 3), ("tr", 4)):
        grid.cell(source, "de", np.arange(60) >= losses)
    found = grid.entries()
    drawn = found.table["win_rate"].to_numpy() + found.errors["win"].astype(float)
    np.testing.assert_allclose(np.quantile(drawn, 0.025, axis=0), found.table["win_rate_low"], atol=0.1)
    np.testing.assert_allclose(np.quantile(drawn, 0.975, axis=0), found.table["win_rate_high"], atol=0.1)
    de, en, ru, tr = drawn.T
    assert (de == en).all() and np.ptp(de) > 4 and np.corrcoef(ru, tr)[0, 1] > 0.8


def test_several_seeds_the_t_interval_of_the_matrix_and_of_its_paired_differences(tmp_path):
    grid = five(tmp_path)
    draws = Draws()
    matrix = fold_grid(grid.write().store, grid.name, draws.add)
    found = grid_entries(matrix, draws)
    drawn = found.table["win_rate"].to_numpy() + found.errors["win"].astype(float)
    table = found.table
    half = (table["win_rate_high"] - table["win_rate_low"]).to_numpy() / 2
    ours = np.diff(np.quantile(drawn, [0.025, 0.975], axis=0), axis=0)[0] / 2
    np.testing.assert_allclose(ours, half, rtol=0.1)  # 2,000 draws of a t with two degrees of freedom
    assert (np.abs(np.median(drawn, axis=0) - table["win_rate"]) < 0.1 * half).all()
    panel = matrix.blocks[0].panels[0]
    for (_, one), home in zip(table.iterrows(), _at_home(matrix), strict=True):
        assert one["home_p"] == home or (np.isnan(one["home_p"]) and home is None)
    places = table[table["optimizer"] == panel.axes["optimizer"]]
    row = {(one.source_lang, one.target_lang): one.Index for one in places.itertuples()}
    found_widths = []
    for entry in panel.entries:
        if entry.versus_home is not None:
            pair = row[entry.source, entry.target], row[entry.target, entry.target]
            difference = drawn[:, pair[0]] - drawn[:, pair[1]]
            width = entry.versus_home.estimate.high - entry.versus_home.estimate.low
            found_widths.append(np.ptp(np.quantile(difference, [0.025, 0.975])) / width)
    assert np.mean(found_widths) == pytest.approx(1, abs=0.1) and min(found_widths) > 0.7 and max(found_widths) < 1.6


def _at_home(matrix):
    entries = [entry for block in matrix.blocks for panel in block.panels for entry in panel.entries]
    return [entry.versus_home and entry.versus_home.p for entry in entries]


def test_differences_to_home_have_the_p_of_the_matrix(tmp_path):
    """A t, and Holm's correction of it: of 2,000 draws none is below 1/2000, too much for a matrix of 900."""
    grid = five(tmp_path)
    draws = Draws()
    matrix = fold_grid(grid.write().store, grid.name, draws.add)
    found = home_differences(grid_entries(matrix, draws)).table
    for panel in matrix.blocks[0].panels:
        rows = found[(found["optimizer"] == panel.axes["optimizer"]) & (found["target_lang"] != "all")]
        theirs = {(e.source, e.target): e.versus_home for e in panel.entries if e.versus_home is not None}
        assert len(rows) == len(theirs) > 0
        for one in rows.itertuples():
            known = theirs[one.source_lang, one.target_lang]
            assert (one.p, one.p_holm) == (known.p, known.p_holm)


def test_the_kl_of_trained_policies_is_drawn_and_best_of_n_has_its_bound(tmp_path):
    found = five(tmp_path, seeds=(0,)).entries()
    trained = (found.table["optimizer"] != "best_of_n").to_numpy()
    assert found.table["kl"].notna().to_numpy().tolist() == trained.tolist()
    assert not np.isnan(found.errors["kl"][:, trained]).any()
    assert found.table["kl_bound"].notna().to_numpy().tolist() == (~trained).tolist()


def test_one_document_gives_no_draws(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for source in ("de", "en"):
        grid.cell(source, "de", [1.0, 0.0], groups=["same", "same"])
    assert np.isnan(grid.entries().errors["win"]).all()


def test_an_axis_that_an_entry_has_not_is_no_part_of_its_name():
    assert place_of({"judge": "gold", "optimizer.beta": ""}) == place_of({"judge": "gold"})


def test_groups_whose_names_end_in_nul_are_groups_of_their_own() -> None:
    """Strings of a fixed width lose NULs at their end, and clusters became one."""
    groups, datasets = ["g", "g\0", "g\0\0", "g"], ["d", "d", "d\0", "d"]
    [clusters] = draw([(groups, datasets)])
    assert clusters.counts.tolist() == [2, 1, 1] and clusters.groups == 3
    assert clusters.order.tolist() == [0, 3, 1, 2] and clusters.dataset.tolist() == [0, 0, 1]


# --- statistics over draws: by hand, and against scipy -------------------------------------------------------


def test_equal_numbers_share_the_best_of_their_ranks():
    np.testing.assert_array_equal(ranks(np.array([50.0, 60.0, 60.0, 40.0])), [3, 1, 1, 4])
    close = np.array([60.001, 60.004, 59.0])
    np.testing.assert_array_equal(ranks(close), [2, 1, 3])
    np.testing.assert_array_equal(ranks(close, digits=2), [1, 1, 3])
    np.testing.assert_array_equal(ranks(np.array([[1.0, 2.0], [2.0, 1.0]])), [[2, 1], [1, 2]])


def test_the_best_share_their_draws():
    draws = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    np.testing.assert_allclose(best_shares(draws), [0.625, 0.375])


def test_correlations_are_those_of_scipy_with_ties_too():
    random = np.random.default_rng(0)
    left, right = random.integers(0, 5, (20, 7)).astype(float), random.integers(0, 5, (20, 7)).astype(float)
    for ours, theirs in ((kendall, kendalltau), (pearson, pearsonr), (spearman, spearmanr)):
        expected = [theirs(a, b)[0] for a, b in zip(left, right, strict=True)]
        np.testing.assert_allclose(ours(left, right), expected, atol=1e-12)


def test_a_constant_side_has_no_correlation():
    same, other = np.full(4, 2.0), np.arange(4.0)
    for of in (kendall, pearson, spearman):
        assert math.isnan(of(same, other)) and math.isnan(of(other, same))


def test_intervals_by_hand():
    draws = np.arange(1001.0)
    assert percentile(draws) == pytest.approx((25.0, 975.0))
    assert spanning(2000.0, draws) == pytest.approx((25.0, 2000.0))
    assert centred(600.0, draws) == pytest.approx((125.0, 1075.0))  # moved by 100
    assert centred(600.0, draws, 200.0, 1000.0) == (200.0, 1000.0)
    nothing = np.append(draws, math.nan)
    assert all(math.isnan(end) for end in (*percentile(nothing), *centred(1.0, nothing)))


def test_p_counts_the_far_side():
    draws = np.concatenate([np.full(10, -1.0), np.zeros(20), np.full(970, 1.0)])
    assert p_two_sided(draws) == pytest.approx(2 * 0.02)
    assert p_two_sided(np.ones(1000)) == pytest.approx(1 / 1000)
    assert p_two_sided(np.zeros(1000)) == 1.0
