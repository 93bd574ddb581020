"""Win rates at equal length: by hand, where length decides, where it does not, and from the files."""

import numpy as np
import pytest
from scipy.special import expit, logit
from synthetic import SyntheticGrid

from xling.analysis.matrix.equal_length import PRIOR_PRECISION, Lengths, at_equal_length, maximum
from xling.analysis.statistics.bootstrap import draw, resample
from xling.analysis.statistics.intervals import fold


def column(wins, longer, datasets=None, target="de", trained=None):
    wins, longer = np.asarray(wins, dtype=float), np.asarray(longer, dtype=float)
    clusters = draw([([f"g{i}" for i in range(len(wins))], datasets or [""] * len(wins))])[0]
    made = np.ones(wins.shape[1], bool) if trained is None else np.asarray(trained)
    return Lengths(target, clusters, wins, longer, made, "0", False, False)


def controlled(*columns):
    cells, slope = at_equal_length([list(columns)])
    return cells, slope


def test_two_lengths_by_hand():
    """Equally long responses win 0.6, longer ones 0.9: a saturated model, whose intercept is logit 0.6."""
    wins, term = np.array([0.6] * 500 + [0.9] * 500), np.repeat([0.0, 0.8], 500)
    (intercept,), slope = maximum([wins], [term])
    assert intercept == pytest.approx(logit(0.6), abs=1e-3)  # the prior of the slope pulls by so much at most
    assert slope == pytest.approx((logit(0.9) - logit(0.6)) / 0.8, abs=2e-3)
    cells, _ = controlled(column(wins[:, None], np.repeat([0.0, 5.0], 500)[:, None]))
    assert cells["de"][0].value == pytest.approx(60, abs=0.02)


def newton(wins, terms, precision):
    """All parameters of the same regression by Newton's method on its whole Hessian: intercepts, then the slope."""
    design = np.zeros((sum(map(len, wins)), len(wins) + 1))
    at = 0
    for number, term in enumerate(terms):
        design[at : at + len(term), number], design[at : at + len(term), -1] = 1, term
        at += len(term)
    penalty, found = np.diag([0.0] * len(wins) + [precision]), np.zeros(len(wins) + 1)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ found))
        gradient = design.T @ (np.concatenate(wins) - p) - penalty @ found
        found = found + np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]) + penalty, gradient)
    return found


def test_it_is_the_regression_fitted_in_another_way():
    random = np.random.default_rng(7)
    longer = random.normal([[3.0, -1.0, 2.0]], 4.0, (90, 3)).round()
    wins = random.binomial(4, expit([0.5, -0.3, 0.1] + 1.5 * np.tanh(longer / 4))) / 4
    terms = np.tanh(longer / longer.std())
    *intercepts, slope = newton(list(wins.T), list(terms.T), PRIOR_PRECISION)
    cells, found = controlled(column(wins, longer))
    assert found.value == pytest.approx(slope)
    assert [one.value for one in cells["de"]] == pytest.approx((100 * expit(intercepts)).tolist())


def test_references_are_given_the_slope_of_trained_cells_and_move_nothing():
    random = np.random.default_rng(8)
    longer = np.stack([random.normal(2, 4, 200), np.full(200, 30.0), random.normal(-9, 2, 200)], axis=1).round()
    wins = (random.random((200, 3)) < expit(0.3 + np.tanh(longer / 4) * [1.0, 0.0, -2.0])).astype(float)
    alone, slope = controlled(column(wins[:, :1], longer[:, :1]))
    cells, with_others = controlled(column(wins, longer, trained=[True, False, False]))
    for one, other in ((alone["de"][0], cells["de"][0]), (slope, with_others)):
        for name in ("value", "low", "high", "se"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)
    spread = longer[:, 0].std()
    for place in (1, 2):  # the residuals of a reference vanish at its own intercept, whatever its own slope would be
        a = logit(cells["de"][place].value / 100)
        rest = wins[:, place] - expit(a + slope.value * np.tanh(longer[:, place] / spread))
        assert rest.sum() == pytest.approx(0, abs=1e-6)
    turned, _ = controlled(column(wins[:, ::-1], longer[:, ::-1], trained=[False, False, True]))
    assert [one.low for one in turned["de"][::-1]] == pytest.approx([one.low for one in cells["de"]])


def test_where_there_are_references_alone_they_make_the_slope():
    random = np.random.default_rng(9)
    longer = random.normal(1.0, 4.0, (300, 2))
    wins = (random.random((300, 2)) < expit(np.tanh(longer / 4))).astype(float)
    assert controlled(column(wins, longer, trained=[False, False])) == controlled(column(wins, longer))


def test_the_fit_is_where_the_gradient_vanishes():
    random = np.random.default_rng(0)
    wins = [random.random(40).round(2) for _ in range(3)]
    terms = [np.tanh(random.normal(0.3, 1, 40)) for _ in range(3)]
    intercepts, slope = maximum(wins, terms)
    residuals = [y - expit(a + slope * z) for y, z, a in zip(wins, terms, intercepts, strict=True)]
    assert [r.sum() for r in residuals] == pytest.approx([0, 0, 0], abs=1e-8)
    along = sum(r @ z for r, z in zip(residuals, terms, strict=True))
    assert along == pytest.approx(PRIOR_PRECISION * slope, abs=1e-8)


def test_where_length_alone_decides_it_comes_to_50():
    random = np.random.default_rng(1)
    longer = random.normal([[4.0, -2.0, 1.0]], 5.0, (1500, 3)).round()
    wins = random.binomial(4, expit(2.5 * np.tanh(longer / longer.std()))) / 4
    cells, slope = controlled(column(wins, longer))
    assert wins.mean(axis=0)[0] > 0.65 and wins.mean(axis=0)[1] < 0.42
    for estimate in cells["de"]:
        assert estimate.value == pytest.approx(50, abs=3)
        assert 0.3 < estimate.se < 2
    assert slope.value == pytest.approx(2.5, abs=0.3) and slope.low > 0


def test_length_that_decides_without_exception_has_a_finite_slope():
    longer = np.array([-6.0, -4.0, -2.0, 2.0, 4.0, 6.0] * 20)
    cells, slope = controlled(column((longer > 0).astype(float)[:, None], longer[:, None]))
    assert cells["de"][0].value == pytest.approx(50, abs=1e-6)
    assert 5 < slope.value < 50


def test_where_length_does_not_matter_it_is_the_raw_win_rate_with_its_interval():
    random = np.random.default_rng(2)
    wins = (random.random((1200, 2)) < [0.7, 0.45]).astype(float)
    layout = column(wins, random.normal(3.0, 5.0, wins.shape), ["a"] * 300 + ["b"] * 900)
    raw = fold([resample(layout.clusters, 100 * wins)])
    cells, slope = controlled(layout)
    assert slope.contains(0)
    for estimate, plain in zip(cells["de"], raw, strict=True):
        assert estimate.value == pytest.approx(plain.value, abs=1.0)
        assert estimate.se == pytest.approx(plain.se, rel=0.25)


def test_without_any_difference_in_length_it_is_the_raw_win_rate_exactly():
    wins = np.random.default_rng(3).random((30, 2)).round(1)
    cells, slope = controlled(column(wins, np.zeros_like(wins), ["a"] * 10 + ["b"] * 20))
    raw = 100 * (wins[:10].mean(axis=0) + wins[10:].mean(axis=0)) / 2
    assert [estimate.value for estimate in cells["de"]] == pytest.approx(raw.tolist())
    assert slope.value == 0


def test_one_step_resamples_are_close_to_whole_fits():
    random = np.random.default_rng(4)
    longer = random.normal(2.0, 4.0, (150, 1))
    wins = (random.random((150, 1)) < expit(0.4 + np.tanh(longer / 4))).astype(float)
    layout = column(wins, longer)
    cells, _ = controlled(layout)
    spread = longer.std()
    whole = []
    for weights in layout.clusters.weights[:200]:
        rows = np.repeat(np.arange(150), weights[np.argsort(layout.clusters.order)])
        (a,), _ = maximum([wins[rows, 0]], [np.tanh(longer[rows, 0] / spread)])
        whole.append(100 * expit(a))
    assert cells["de"][0].se == pytest.approx(np.std(whole), rel=0.15)
    assert cells["de"][0].value == pytest.approx(np.mean(whole), abs=1.0)


def test_a_cell_that_wins_everything_stays_and_does_not_touch_the_slope():
    random = np.random.default_rng(5)
    longer = random.normal(1.0, 4.0, (80, 2))
    wins = np.stack([np.ones(80), (random.random(80) < expit(np.tanh(longer[:, 1] / 4))).astype(float)], axis=1)
    cells, slope = controlled(column(wins, longer))
    won, other = cells["de"]
    assert (won.value, won.high) == (100, 100)
    assert won.low == pytest.approx(100 / (1 + 1.99045**2 / 80), abs=1e-3)  # Wilson's of 80 in 80, t(79)
    half, alone = controlled(column(wins[:, 1:], longer[:, 1:]))
    assert slope.value == pytest.approx(alone.value, rel=0.1)  # only the standardisation differs
    assert other.value == pytest.approx(half["de"][0].value, abs=0.5)


def test_cells_of_a_block_share_one_slope_and_prompts_without_a_verdict_are_left_out(tmp_path):
    random = np.random.default_rng(6)
    grid = SyntheticGrid(tmp_path)
    for target in ("de", "en"):
        for judge, taste in (("gold", 0.0), ("llm", 3.0)):
            length = 7 + random.normal(3.0, 4.0, 400).round()
            wins = (random.random(400) < expit(0.8 + taste * np.tanh((length - 7) / 4))).astype(float)
            asked = [None if judge == "llm" and i < 100 else win for i, win in enumerate(wins)]
            prompts = [f"{target}{i}" for i in range(400)]
            grid.cell("de", target, asked, columns={"length": length}, prompts=prompts, judge=judge)
    gold, llm = grid.folded().blocks
    assert gold.length_slope.contains(0) and llm.length_slope.low > 1
    for entry in gold.panels[0].entries:
        assert entry.win_equal_length.value == pytest.approx(entry.win.value, abs=3)
    for entry in llm.panels[0].entries:
        assert entry.win_equal_length.value < entry.win.value - 4
        assert entry.win_equal_length.value == pytest.approx(100 * expit(0.8), abs=8)
        assert (entry.win.n, entry.win_equal_length.n) == (300, 300)


def test_a_grid_s_controls_move_no_trained_cell(tmp_path):
    random = np.random.default_rng(10)
    length = {name: 7 + random.normal(shift, 4.0, 120).round() for name, shift in (("de", 2), ("en", 3), ("-", 25))}
    found = {}
    for name in ("alone", "controls"):
        grid = SyntheticGrid(tmp_path / name)
        for source in ("de", "en"):
            wins = (np.random.default_rng(11).random(120) < expit(np.tanh((length[source] - 7) / 4))).astype(float)
            grid.cell(source, "de", wins, columns={"length": length[source]})
        if name == "controls":
            wins = (np.arange(120) % 3 == 0).astype(float)
            grid.untrained("en", "de", wins, columns={"length": length["-"]}, rm_backbone="length")
            grid.cell("en", "de", wins, columns={"length": length["-"]}, rm_backbone="shuffled_1:same_as_policy")
        (block,) = grid.folded().blocks
        found[name] = [entry.win_equal_length for entry in block.panels[0].entries], block.length_slope
        others = [*block.shuffled, *(entry for control in block.controls for entry in control.entries)]
        assert len(others) == 2 * (name == "controls") and all(entry.win_equal_length for entry in others)
    assert found["alone"] == found["controls"]
