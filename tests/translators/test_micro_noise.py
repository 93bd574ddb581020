"""The embedded world's noisy translator: its rates are those that were asked for, and a text always fails alike."""

import random

import pytest

from xling.tasks.micro.translation import exactly
from xling.tasks.micro.words import is_slot, is_word, read
from xling.tasks.micro.writing import document, fact_set
from xling.translators.micro_noisy import Settings as MicroNoisy
from xling.translators.micro_noisy import noisily

TEXTS = [document(fact_set(0, "train-demonstrations", i), "en", random.Random(i)) for i in range(150)]


def solid(text: str) -> list[tuple[str, int]]:
    return [(item.symbol, item.value) for item in read(text) if is_slot(item.symbol) or is_word(item.symbol)]


def test_without_noise_it_is_the_exact_one() -> None:
    exact = [exactly(text, "en", "tr") for text in TEXTS]
    assert [noisily(text, "en", "tr", MicroNoisy(wrong=0, dropped=0)) for text in TEXTS] == exact


@pytest.mark.parametrize("dropped", [0.05, 0.3])
def test_as_many_words_are_lost_as_was_asked_for(dropped: float) -> None:
    exact = [exactly(text, "en", "tr") for text in TEXTS]
    noisy = [noisily(text, "en", "tr", MicroNoisy(wrong=0, dropped=dropped)) for text in TEXTS]
    before, after = (sum(len(solid(text or "")) for text in some) for some in (exact, noisy))
    assert 1 - after / before == pytest.approx(dropped, abs=0.02)


def test_as_many_words_are_mistaken_as_was_asked_for() -> None:
    exact = [exactly(text, "en", "de") for text in TEXTS]
    noisy = [noisily(text, "en", "de", MicroNoisy(wrong=0.2, dropped=0)) for text in TEXTS]
    pairs = [(solid(a or ""), solid(b or "")) for a, b in zip(exact, noisy, strict=True)]
    same_length = [(a, b) for a, b in pairs if len(a) == len(b)]  # a wrong word may be read as part of a name
    assert len(same_length) > len(pairs) / 2
    places = [x != y for a, b in same_length for x, y in zip(a, b, strict=True)]
    assert sum(places) / len(places) == pytest.approx(0.2, abs=0.03)


def test_the_same_text_fails_the_same_way_whoever_asks() -> None:
    settings = MicroNoisy(wrong=0.2, dropped=0.2)
    found = [noisily(text, "en", "ru", settings) for text in TEXTS]
    assert [noisily(text, "en", "ru", settings) for text in TEXTS[::-1]] == found[::-1]
    assert [noisily(text, "en", "ru", settings) for text in TEXTS[:3]] == found[:3]
    other = [noisily(text, "en", "ru", MicroNoisy(wrong=0.2, dropped=0.2, seed=1)) for text in TEXTS]
    assert sum(a != b for a, b in zip(found, other, strict=True)) > 140


def test_everything_may_be_lost() -> None:
    left = [noisily(text, "en", "ru", MicroNoisy(wrong=0, dropped=1)) for text in TEXTS]
    assert {(text or "").strip(" .,:—") for text in left} == {""}
