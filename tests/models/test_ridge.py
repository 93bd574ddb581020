"""Ridge regression with the penalty chosen by group, and the folds it is chosen by."""

from collections import Counter

import numpy as np
import pytest

from xling.models import ridge
from xling.models.ridge import PENALTIES, _spectrum, assign_folds, fit, fit_pairwise


def test_folds_are_balanced_and_decided_by_names_and_seeds_alone() -> None:
    groups = [f"g{i}" for i in range(23)]
    folds = assign_folds(groups, 5, 0, 1)
    assert sorted(Counter(folds.values()).values()) == [4, 4, 5, 5, 5]
    assert assign_folds([*reversed(groups), *groups], 5, 0, 1) == folds
    assert assign_folds(groups, 5, 0, 2) != folds
    assert assign_folds(groups, 5, 1, 1) != folds


def test_both_gram_matrices_give_the_textbook_solution() -> None:
    draw = np.random.default_rng(0)
    for rows, columns in ((30, 7), (7, 30)):
        features, labels = draw.normal(size=(rows, columns)), draw.normal(size=rows)
        spectrum = _spectrum(features)
        for penalty in PENALTIES:
            weight = spectrum.weights(labels, penalty)
            gram = features.T @ features + penalty * np.eye(columns)
            assert weight == pytest.approx(np.linalg.solve(gram, features.T @ labels), rel=1e-6, abs=1e-9)


def left_out_errors(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, penalty: float) -> float:
    """The slow way: a fit, centred anew, for each fold left out."""
    total = 0.0
    for fold in np.unique(folds):
        held, train = folds == fold, folds != fold
        centre, mean = features[train].mean(axis=0), labels[train].mean()
        own = features[train] - centre
        weight = np.linalg.solve(own.T @ own + penalty * np.eye(own.shape[1]), own.T @ (labels[train] - mean))
        total += float((((features[held] - centre) @ weight + mean - labels[held]) ** 2).sum())
    return total


@pytest.mark.parametrize("columns", [6, 90])
def test_the_penalty_is_that_of_cross_validation_by_group(columns: int) -> None:
    draw = np.random.default_rng(5)
    features = draw.normal(size=(60, columns))
    labels = features[:, 0] + 2 * draw.normal(size=60) + 3
    groups = [f"g{i // 3}" for i in range(60)]
    fold_of = assign_folds(groups, 5, "inner")
    scaled = (features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).sum())
    folds = np.array([fold_of[group] for group in groups])
    errors = [left_out_errors(scaled, labels, folds, penalty) for penalty in PENALTIES]
    head = fit([features], labels, groups)
    assert head.penalty == PENALTIES[int(np.argmin(errors))]
    assert head.explained == pytest.approx(1 - min(errors) / ((labels - labels.mean()) ** 2).sum(), abs=1e-9)


def test_pairs_one_way_are_pairs_both_ways() -> None:
    draw = np.random.default_rng(6)
    better, worse = draw.normal(size=(40, 5)) + 0.3, draw.normal(size=(40, 5))
    groups = [f"g{i // 2}" for i in range(40)]
    forward = better - worse
    one, both = fit_pairwise([better], [worse], groups), np.concatenate([forward, -forward])
    two = fit([both], np.repeat([1.0, -1.0], 40), [*groups, *groups])
    assert one.weight == pytest.approx(two.weight)
    assert (one.bias, one.penalty) == (0.0, two.penalty)
    assert one.explained == pytest.approx(two.explained) and two.bias == pytest.approx(0, abs=1e-12)


def test_a_strong_feature_beside_many_weak_ones_is_found() -> None:
    draw = np.random.default_rng(1)
    noise, signal = draw.normal(size=(200, 300)), draw.normal(size=(200, 1))
    labels = 3.0 + 2.0 * signal[:, 0] + 0.1 * draw.normal(size=200)
    groups = [f"g{i // 2}" for i in range(200)]
    head = fit([noise, signal], labels, groups)
    assert head.weight[-1] == pytest.approx(2.0, abs=0.15)
    assert head.explained > 0.9
    new = [draw.normal(size=(500, 300)), draw.normal(size=(500, 1))]
    assert np.corrcoef(head.predict(new), new[1][:, 0])[0, 1] > 0.95
    assert head.predict([noise, signal]).mean() == pytest.approx(labels.mean())


def test_pure_noise_gets_the_hardest_penalties_and_explains_nothing() -> None:
    draw = np.random.default_rng(2)
    head = fit([draw.normal(size=(100, 50))], draw.normal(size=100), [str(i) for i in range(100)])
    assert head.penalty >= 10
    assert head.explained < 0.05


def test_copies_in_one_group_do_not_make_noise_look_learnable() -> None:
    draw = np.random.default_rng(3)
    features, labels = draw.normal(size=(30, 100)).repeat(5, axis=0), draw.normal(size=30).repeat(5)
    groups = [str(i) for i in range(30) for _ in range(5)]
    assert fit([features], labels, groups).explained < 0.3
    rows_apart = [str(i) for i in range(150)]
    assert fit([features], labels, rows_apart).explained > 0.9  # so the test above can fail


def test_constant_blocks_and_a_single_group_do_not_break() -> None:
    head = fit([np.ones((4, 1)), np.arange(4.0)[:, None]], np.arange(4.0), ["one"] * 4)
    assert head.penalty == PENALTIES[-1]
    assert np.isfinite(head.weight).all()


def test_a_whitened_fit_finds_what_a_plain_one_finds_and_scores_the_blocks_as_they_came() -> None:
    draw = np.random.default_rng(5)
    features = draw.normal(size=(400, 4)) @ draw.normal(size=(4, 4)) + 3
    labels = features @ np.array([1.0, -2.0, 0.5, 0.0]) + draw.normal(size=400) / 10
    groups = [str(i) for i in range(400)]
    head = ridge.fit_whitened([features[:, :3], features[:, 3:]], lambda parts: ridge.fit(parts, labels, groups))
    assert np.corrcoef(head.predict([features[:, :3], features[:, 3:]]), labels)[0, 1] > 0.99


def test_a_column_that_never_varies_does_no_harm() -> None:
    draw = np.random.default_rng(6)
    features = np.hstack([draw.normal(size=(60, 2)), np.ones((60, 1))])
    labels, groups = features[:, 0], [str(i) for i in range(60)]
    head = ridge.fit_whitened([features], lambda parts: ridge.fit(parts, labels, groups))
    assert np.isfinite(head.weight).all() and head.weight[2] == pytest.approx(0)


def test_random_labels_take_no_direction_for_its_variance() -> None:
    """One direction has a hundred times the variance of nine others: it gets a tenth of a null head, not all of it."""
    draw = np.random.default_rng(7)
    features = draw.normal(size=(300, 10)) * np.array([100.0, *[1.0] * 9])
    groups = [str(i) for i in range(300)]

    def share(whiten: bool) -> float:
        shares = []
        for _ in range(40):
            labels = draw.permutation(np.repeat([-1.0, 1.0], 150))
            head = (
                ridge.fit_whitened([features], lambda parts, y=labels: ridge.fit(parts, y, groups))  # type: ignore[misc]
                if whiten
                else ridge.fit([features], labels, groups)
            )
            spread = (head.weight * features.std(0)) ** 2
            shares.append(spread[0] / spread.sum())
        return float(np.mean(shares))

    assert share(True) < 0.25 < 0.75 < share(False)


@pytest.mark.parametrize("rows", [300, 17])  # of few columns, and of as good as all of them
def test_many_rows_are_summed_up_by_fold_with_the_same_result(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(9)
    features = draw.normal(size=(rows, 16)) + draw.normal(size=16)
    features[:, 3] = 1.0  # constant
    labels = features[:, :2] @ draw.normal(size=2) + draw.normal(size=rows) + 4
    several, groups = (
        np.stack([labels, -2 * labels + draw.normal(size=rows)], axis=1),
        [f"g{i // 4}" for i in range(rows)],
    )
    blocks = [features[:, :10], features[:, 10:]]

    def fits() -> list[ridge.Linear]:
        one = fit_pairwise([features], [draw_again], groups)
        return [fit(blocks, labels, groups), one, *ridge.fit_each(features, several, groups)]

    draw_again = draw.normal(size=(rows, 16))
    usual = fits()
    monkeypatch.setattr(ridge, "MANY_ROWS", 1)
    monkeypatch.setattr(ridge, "ROWS_PER_COLUMN", 1)
    monkeypatch.setattr(ridge, "_spectrum", None)  # nothing of it is asked
    for one, other in zip(usual, fits(), strict=True):
        assert one.penalty == other.penalty
        assert other.explained == pytest.approx(one.explained, rel=1e-9, abs=1e-9)
        assert other.weight == pytest.approx(one.weight, rel=1e-7, abs=1e-9)
        assert other.bias == pytest.approx(one.bias, rel=1e-7, abs=1e-9)


def _hard(kind: str) -> ridge.Array:
    """(1000, 40) features, the fewest rows that are summed up by fold, that are far from the plain case."""
    draw = np.random.default_rng(4)
    features = draw.normal(size=(ridge.MANY_ROWS, 40))
    match kind:
        case "counts":  # most of them 0, some columns always
            return np.where(features > 1.5, 1.0, 0.0) * (np.arange(40) < 30)
        case "copies":  # half the rank
            return np.hstack([features[:, :20], features[:, :20] + 3])
        case "scales":
            return features * 10.0 ** np.linspace(-4, 4, 40) + 1e5
        case _:
            return features


@pytest.mark.parametrize("kind", ["plain", "counts", "copies", "scales"])
@pytest.mark.parametrize("whitened", [False, True])
def test_both_ways_agree_to_six_digits_where_the_fast_one_begins(
    kind: str, whitened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, draw = _hard(kind), np.random.default_rng(5)
    labels = features[:, :3] @ draw.normal(size=3) / features.std() + draw.normal(size=len(features))
    groups = [f"g{i // 4}" for i in range(len(features))]

    def fitted(parts: list[ridge.Array]) -> ridge.Linear:
        return fit(parts, labels, groups)

    def head() -> ridge.Linear:
        return ridge.fit_whitened([features], fitted) if whitened else fitted([features])

    assert isinstance(ridge._solver(features, groups), ridge._Sums)
    fast = head()
    monkeypatch.setattr(ridge, "MANY_ROWS", len(features) + 1)
    usual = head()
    assert fast.penalty == usual.penalty
    assert fast.explained == pytest.approx(usual.explained, abs=1e-7)
    scores = usual.predict([features])
    assert np.abs(fast.predict([features]) - scores).max() < 1e-6 * scores.std()


@pytest.mark.parametrize(
    ("rows", "columns", "summed"), [(999, 9, False), (1000, 9, True), (1100, 551, False), (1102, 551, True)]
)
def test_rows_are_summed_up_where_that_is_faster(rows: int, columns: int, summed: bool) -> None:
    solver = ridge._solver(np.eye(rows, columns), [f"g{i}" for i in range(rows)])
    assert isinstance(solver, ridge._Sums if summed else ridge._Spectrum)
