"""ROUGE-L by hand, in every script."""

import pytest

from xling.measures.words import rouge_l, words


@pytest.mark.parametrize(
    ("reference", "candidate", "f1"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "a c", 2 * 2 / 6),
        ("the cat sat on the mat", "the mat sat on a cat", 2 * 3 / 12),  # the sat on
        ("a b c", "c b a", 2 * 1 / 6),
        ("a a b", "a b b", 2 * 2 / 6),
        ("one two", "three four", 0.0),
        ("", "words", 0.0),
        ("words", "", 0.0),
        ("... !", "...", 0.0),
        ("Ein FEST, in Chile!", "ein fest in chile", 1.0),
        ("наводнение в Канаде в мае", "в Канаде наводнение", 2 * 2 / 8),
        ("الشتاء بارد", "الشتاء حار", 2 * 1 / 4),
        ("冬天很冷", "冬天不冷", 2 * 3 / 8),
        ("ฝนตก", "ฝนตก", 1.0),
        ("lễ hội ở Cuba", "lễ hội ở Peru", 2 * 3 / 8),
        ("12 000 кг", "12 кг", 2 * 2 / 5),
    ],
)
def test_by_hand(reference: str, candidate: str, f1: float) -> None:
    assert rouge_l(reference, candidate) == pytest.approx(f1)


def test_f1_is_symmetric() -> None:
    a, b = "a flood in Chile destroyed 40 houses", "40 houses in Chile, a flood"
    assert rouge_l(a, b) == rouge_l(b, a)


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert rouge_l("lễ hội", "le\u0302\u0303 ho\u0323\u0302i") == 1.0


def test_marks_belong_to_their_words() -> None:
    """Vowel signs are combining marks: without them Hindi's "of" loses its gender, and a word falls to pieces."""
    assert words("हिन्दी की") == ["हिन्दी", "की"]
    assert rouge_l("की", "का") == 0.0
    assert words("வணக்கம்") == ["வணக்கம்"]
    assert words("كِتَابٌ") == ["كِتَابٌ"]
    assert len(words("İstanbul'da")) == 2


def test_each_character_is_a_word_where_there_are_no_spaces() -> None:
    assert words("東京は、3月。") == ["東", "京", "は", "3", "月"]


def test_underscores_and_punctuation_part_words() -> None:
    assert words("a_b c-d, e.") == ["a", "b", "c", "d", "e"]
