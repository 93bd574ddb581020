"""The bag-of-words reward model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from xling.grid.stage import Context
from xling.rewards import Feedback, Request, Scores, bag_of_words
from xling.rewards.bag_of_words import features, pieces
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.records import Pair, Prompt, Rating


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


def prompt(text: str) -> Prompt:
    return Prompt(text, "de", text, text, text)


PROMPTS = [prompt(f"document {i}") for i in range(60)]


def trained(folder: Path, objective: str, items: Sequence[Pair] | Sequence[Rating]) -> Scores:
    """Fit in a folder and loaded from there."""
    feedback = Feedback(0, objective, "right", lambda split, permutation: list(items), list)
    context = Context({}, {"reward": folder}, folder, folder)
    bag_of_words.fit(context, bag_of_words.Settings(), feedback)
    return bag_of_words.load(context, bag_of_words.Settings(), Request(MicroSummarization(("de",)))).score


def test_pointwise_learns_a_word_and_survives_saving(tmp_path: Path) -> None:
    items = [Rating(p, f"{'good' if i % 2 else 'bad'} item {i}", float(i % 2)) for i, p in enumerate(PROMPTS)]
    score = trained(tmp_path, "pointwise", items)
    scores = score([prompt("new"), prompt("other")], [["bad thing", "good thing"], []])
    assert scores[0][1] > scores[0][0] + 0.5
    assert scores[1] == []


def test_pairwise_learns_which_of_two_is_chosen(tmp_path: Path) -> None:
    score = trained(tmp_path, "pairwise", [Pair(p, f"good {i}", f"bad {i}") for i, p in enumerate(PROMPTS)])
    [[bad, good]] = score([prompt("new")], [["bad thing", "good thing"]])
    assert good > bad + 0.5


def test_a_score_does_not_depend_on_its_companions(tmp_path: Path) -> None:
    items = [Rating(p, f"item {i} {i % 7}", float(i % 7)) for i, p in enumerate(PROMPTS)]
    score = trained(tmp_path, "pointwise", items)
    together = score([prompt("p")], [["item 3", "item 4", "item 5"]])[0]
    alone = [score([prompt("p")], [[text]])[0][0] for text in ("item 3", "item 4", "item 5")]
    assert together == pytest.approx(alone, rel=1e-12)
