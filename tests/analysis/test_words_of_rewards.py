"""What words explain of rewards: where the truth is known, by hand, and on grids with holes."""

import numpy as np
import pandas as pd
import pytest
from synthetic import SyntheticGrid, samples_file

from xling.analysis.items.word_effects import bag_of_words, cross_fitted, explained_by_words, r_squared, word_counts
from xling.analysis.statistics.bootstrap import draw
from xling.models.ridge import fit, fit_each

WORDS = [f"w{number}" for number in range(12)]


def world(documents=60, each=4, noise=0.5, seed=0, target="de", sources=("de", "en")):
    """Scores that are a fixed weight a word, plus noise of known variance for the second source only."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=len(WORDS))
    counts = random.poisson(1.0, (documents * each, len(WORDS)))
    texts = [" ".join(np.repeat(WORDS, row)) or "empty" for row in counts]
    truth = counts @ weight
    rows = []
    for number, source in enumerate(sources):
        score = truth + (number > 0) * noise * truth.std() * random.normal(size=len(truth))
        for row, (text, value) in enumerate(zip(texts, score, strict=True)):
            rows.append((source, target, "0", "", f"{target}{row // each}", text, value))
    columns = ["source_lang", "target_lang", "seed", "dataset", "document", "text", "score"]
    return pd.DataFrame(rows, columns=columns).assign(rm_backbone="rm")


def test_counts_are_of_words_that_two_documents_use():
    counts = word_counts(["Tea, tea! milk", "tea MILK", "salt salt", "milk"], ["a", "b", "c", "c"])
    assert counts.tolist() == [[1, 2], [1, 1], [0, 0], [1, 0]]  # milk (3 documents), tea (2); salt is in one only


def test_r2_by_hand_and_its_resamples():
    clusters = draw([(["a", "a", "b", "b"], [""] * 4)])[0]
    scores, predicted = np.array([[1.0], [2.0], [3.0], [6.0]]), np.array([[1.0], [3.0], [3.0], [4.0]])
    sample = r_squared(clusters, scores, predicted, "0")
    assert sample.means[0] == pytest.approx(1 - 5 / 14)  # errors 0, 1, 0, 4; deviations from 3: 4, 1, 0, 9
    only_a = (clusters.weights == [2, 0]).all(axis=1)
    assert only_a.any() and sample.resamples[only_a] == pytest.approx(1 - 1 / 0.5)


def test_all_columns_at_once_are_the_fits_one_by_one():
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(80, 6)), random.normal(size=(80, 3))
    groups = [f"d{row // 2}" for row in range(80)]
    for own, head in zip(labels.T, fit_each(features, labels, groups), strict=True):
        alone = fit([features], own, groups)
        assert head.penalty == alone.penalty and head.weight == pytest.approx(alone.weight)
        assert (head.bias, head.explained) == pytest.approx((alone.bias, alone.explained))


def test_a_document_is_never_predicted_by_a_fit_that_has_seen_it():
    table = world()
    rows = table[table.source_lang == "de"]
    documents, scores = rows.document.tolist(), rows.score.to_numpy()[:, None]
    counts, own = word_counts(rows.text.tolist(), documents), np.array(documents) == "de7"
    held, fitted = cross_fitted(counts, scores, documents)
    held_then, fitted_then = cross_fitted(counts, scores + 100.0 * own[:, None], documents)
    assert (held[own] == held_then[own]).all() and (held[~own] != held_then[~own]).any()
    assert (fitted[own] != fitted_then[own]).all()


def test_the_truth_is_found_and_native_is_set_against_foreign():
    rows, means = explained_by_words(world(noise=0.5))
    by_source = rows.table.set_index("source_lang")
    assert by_source.r2["de"] > 0.95
    assert by_source.r2_low["en"] < 1 / (1 + 0.25) < by_source.r2_high["en"]  # signal / (signal + noise)
    assert by_source.in_sample["en"] > by_source.r2["en"]
    assert by_source.native.to_dict() == {"de": True, "en": False}
    assert (by_source.n["de"], by_source.documents["de"], by_source.words["de"]) == (240, 60, 12)
    (row,) = means.table.to_dict("records")
    assert row["difference"] == pytest.approx(row["native"] - row["foreign"]) and row["difference_low"] > 0
    assert row["n"] == 1 and rows.left_out == ()


def test_noise_has_no_r2_where_it_is_held_out():
    table = world()
    table["score"] = np.random.default_rng(5).normal(size=len(table))
    rows, _ = explained_by_words(table)
    assert (rows.table.r2 < 0.05).all() and (rows.table.in_sample >= rows.table.r2).all()


def test_what_cannot_be_fitted_is_said():
    table = pd.concat([world(), world(target="tr"), world(documents=5, target="vi", sources=("vi",))])
    table.loc[(table.source_lang == "en") & (table.target_lang == "de"), "score"] = 1.0
    rows, means = explained_by_words(table, ["given"])
    assert set(zip(rows.table.source_lang, rows.table.target_lang, strict=True)) == {
        ("de", "de"), ("de", "tr"), ("en", "tr")}  # fmt: skip
    assert means.table.empty
    said = " ".join(rows.left_out)
    assert "all alike" in said and "vi has fewer than 10 documents" in said and rows.left_out[0] == "given"
    assert "No native reward model for tr." in said and "No foreign reward model for de." in said


def test_a_source_with_other_responses_is_left_out():
    table = world()
    table.loc[table.index[-1], "text"] = "something else"
    rows, _ = explained_by_words(table)
    assert rows.table.source_lang.tolist() == ["de"] and "en -> de: its responses" in rows.left_out[0]


def test_a_grid_is_read_with_its_holes(tmp_path):
    grid, random = SyntheticGrid(tmp_path), np.random.default_rng(3)
    texts = [[" ".join(random.choice(WORDS, 3)) for _ in range(4)] for _ in range(30)]
    length = np.array([[said.count("w1") for said in row] for row in texts], dtype=float)
    for source in ("de", "en", "de+en"):
        scores = {"pool": length, "baseline": np.zeros((30, 2))}
        stages = grid.cell(source, "de", [1.0] * 30, scores=scores)
        grid.publish(stages["pool"], {"samples.jsonl": samples_file(texts)})
    grid.cell("tr", "de")
    grid.untrained("de", "de", [0.5] * 30, rm_backbone="random")
    grid.write()
    rows, means = bag_of_words(grid.store, grid.name)
    assert rows.table.source_lang.tolist() == ["de", "de+en", "en"] and rows.table.n.tolist() == [120] * 3
    assert rows.left_out == ("Not finished: tr -> de.",)
    assert means.table.native[0] == pytest.approx(means.table.foreign[0])  # de+en is neither
    assert explained_by_words(pd.DataFrame())[0].table.empty
