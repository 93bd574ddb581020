"""What a judge is asked, in which order, and what becomes of its answers: hand-computed."""

import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest

from xling.errors import StageError
from xling.judges.asker import asker
from xling.judges.asking import (
    Compared,
    EndpointSettings,
    How,
    Verdict,
    capped,
    coin,
    compare,
    judge_prompt,
    points,
    shortened,
)
from xling.judges.cache import Answer, Cache

HOW = How("summarization", "Turkish", None, "right")


class Scripted:
    """Answers in the order of what is asked; keeps what that was."""

    def __init__(self, *answers: float | None) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def __call__(self, prompts: Sequence[str]) -> list[Answer]:
        self.asked += prompts
        return [Answer(self.answers.pop(0)) for _ in prompts]


def test_both_orders_are_asked_and_turned_to_the_response() -> None:
    ask = Scripted(0.9, 0.25)
    (verdict,) = compare(ask, HOW, [Compared("text", "mine", "theirs", True, True)])
    assert verdict == Verdict(0.9, 0.75, False, False)
    assert verdict.preference == pytest.approx(0.825) and verdict.inconsistent is False
    assert "Summary 1: mine\n\nSummary 2: theirs" in ask.asked[0]
    assert "Summary 1: theirs\n\nSummary 2: mine" in ask.asked[1]


def test_a_judge_that_always_says_1_is_inconsistent_and_gives_a_tie() -> None:
    (verdict,) = compare(Scripted(1.0, 1.0), HOW, [Compared("text", "mine", "theirs", True, True)])
    assert (verdict.preference, verdict.inconsistent) == (0.5, True)
    assert points(0.5) == 0.5 and points(0.51) == 1.0 and points(0.49) == 0.0


def test_one_order_is_one_request() -> None:
    pairs = [Compared("t", "a", "b", True, False), Compared("t", "a", "b", False, True)]
    first, second = compare(Scripted(0.75, 0.75), HOW, pairs)
    assert (first, second) == (Verdict(0.75, None, False, False), Verdict(None, 0.25, False, False))
    assert (first.preference, second.preference) == (0.75, 0.25) and first.inconsistent is None


def test_an_order_that_is_not_answered_leaves_the_pair_out() -> None:
    pairs = [Compared("t", "a", "b", True, True), Compared("t", "c", "d", True, True)]
    one, other = compare(Scripted(None, 0.0, 1.0, 0.0), HOW, pairs)
    assert one == Verdict(None, 1.0, True, False) and one.preference is None and one.inconsistent is None
    assert other.preference == 1.0


def test_equal_texts_are_a_tie_that_nobody_is_asked_about() -> None:
    ask = Scripted(0.9, 0.1)
    pairs = [Compared("t", "same", "same", True, True), Compared("t", "a", "b", True, True)]
    tie, other = compare(ask, HOW, pairs)
    assert (tie.preference, other.preference) == (0.5, pytest.approx(0.9)) and len(ask.asked) == 2
    assert (tie.inconsistent, tie.unanswered) == (None, None)  # in neither share
    assert (other.inconsistent, other.unanswered) == (False, False)


@pytest.mark.parametrize("key", ["k\r", "k\n", " k", "k k", "k\u00e9", "k\x7f", "k\u200b"])
def test_a_key_that_no_header_can_hold_is_not_echoed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret" + key)
    where = EndpointSettings("http://127.0.0.1:9/v1", "JUDGE_KEY", retries=0)
    with pytest.raises(StageError, match=r"JUDGE_KEY .* holds no key: .* printable ASCII") as caught:
        asker({"endpoint": "m"}, where, None, Cache(tmp_path), lambda: False).__enter__()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_prompts_hold_everything_they_should() -> None:
    braces = 'a {text} "quoted"'
    summary = judge_prompt("summarization", "Turkish", braces, "one", "two")
    for axis in ("Coherence", "Accuracy", "Coverage", "Overall quality"):
        assert f"\n{axis}: " in summary
    assert "expert rater" in summary and "Turkish" in summary and f"Text: {braces}\n" in summary
    dialog = judge_prompt("dialog", "Russian", braces, "Привет\nмир", "two")
    assert r'{"instruction": "a {text} \"quoted\""}' in dialog and r'{"model": 1, "answer": "Привет\nмир"}' in dialog
    assert "leaderboard" in dialog and "Russian" in dialog
    assert summary.endswith("(1 or 2):") and dialog.endswith("(1 or 2):")


def test_long_documents_lose_their_end_and_chats_their_beginning() -> None:
    assert [
        shortened("abcdef", most, side) for most, side in ((None, "right"), (6, "left"), (2, "right"), (2, "left"))
    ] == [
        "abcdef",
        "abcdef",
        "ab",
        "ef",
    ]
    ask = Scripted(0.5)
    compare(ask, How("summarization", "Turkish", 3, "right"), [Compared("abcdef", "a", "b", True, False)])
    assert "Text: abc\n" in ask.asked[0]


def test_a_cap_is_by_dataset_and_the_same_whatever_else_is_asked() -> None:
    ids, datasets = [f"p{i}" for i in range(40)], ["x"] * 30 + ["y"] * 10
    kept = capped(ids, datasets, 12, seed=0)
    assert kept == sorted(kept) and [datasets[i] for i in kept] == ["x"] * 12 + ["y"] * 10
    fewer = capped(ids, datasets, 5, seed=0)
    assert set(fewer) < set(kept) and len(fewer) == 10
    backwards = capped(ids[::-1], datasets[::-1], 12, seed=0)
    assert {ids[::-1][i] for i in backwards} == {ids[i] for i in kept}
    assert capped(ids, datasets, 12, seed=1) != kept and capped(ids, datasets, None, 0) == list(range(40))


def test_a_coin_is_fair_and_always_falls_the_same_way() -> None:
    flips = [coin(0, "order", "de", f"p{i}", 0) for i in range(1000)]
    assert flips == [coin(0, "order", "de", f"p{i}", 0) for i in range(1000)]
    assert 450 < sum(flips) < 550 and flips != [coin(1, "order", "de", f"p{i}", 0) for i in range(1000)]
