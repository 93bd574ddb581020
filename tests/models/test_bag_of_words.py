"""The bag-of-words reward model."""

from pathlib import Path

import numpy as np
import pytest

from xling.models.bag_of_words import (
    features,
    fit_pairwise,
    fit_pointwise,
    load_bag_of_words,
    pieces,
    save_bag_of_words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße, (straße)!", ["strasse", "strasse"]),
        ("İzmir'de 1,5 kg", ["i̇zmir'de", "1,5", "kg"]),
        ("雅虎宣布。Yahoo", ["雅", "虎", "宣", "布", "yahoo"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("— ... !", []),
        ("", []),
    ],
)
def test_pieces_in_many_scripts(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_overlap_is_counted_with_repetition() -> None:
    [_, overlap] = features(["a a b c", "x"], ["a a a d", ""])
    assert overlap[0] == pytest.approx([2 / 4, 2 / 4, np.log(3), np.log(3)])
    assert overlap[1] == pytest.approx([0, 0, 0, 0])


def test_counts_know_words_but_not_their_order() -> None:
    [counts, _] = features(["d"] * 3, ["one two two", "two one two", "one one two"])
    assert counts[0] == pytest.approx(counts[1])
    assert counts[0] != pytest.approx(counts[2])
    assert np.linalg.norm(counts, axis=1) == pytest.approx([1, 1, 1])


PROMPTS = [f"document {i}" for i in range(60)]
GROUPS = [str(i) for i in range(60)]


def test_pointwise_learns_a_word_and_survives_saving(tmp_path: Path) -> None:
    responses = [f"{'good' if i % 2 else 'bad'} item {i}" for i in range(60)]
    model = fit_pointwise(PROMPTS, responses, [float(i % 2) for i in range(60)], GROUPS)
    scores = model.score(["new", "other"], [["bad thing", "good thing"], []])
    assert scores[0][1] > scores[0][0] + 0.5
    assert scores[1] == []
    save_bag_of_words(tmp_path, model)
    assert load_bag_of_words(tmp_path).score(["new", "other"], [["bad thing", "good thing"], []]) == scores


def test_pairwise_learns_which_of_two_is_chosen() -> None:
    chosen, rejected = [f"good {i}" for i in range(60)], [f"bad {i}" for i in range(60)]
    model = fit_pairwise(PROMPTS, chosen, rejected, GROUPS)
    [[bad, good]] = model.score(["new"], [["bad thing", "good thing"]])
    assert good > bad + 0.5


def test_a_score_does_not_depend_on_its_companions() -> None:
    model = fit_pointwise(PROMPTS, [f"item {i} {i % 7}" for i in range(60)], [float(i % 7) for i in range(60)], GROUPS)
    together = model.score(["p"], [["item 3", "item 4", "item 5"]])[0]
    alone = [model.score(["p"], [[text]])[0][0] for text in ("item 3", "item 4", "item 5")]
    assert together == pytest.approx(alone, rel=1e-12)
