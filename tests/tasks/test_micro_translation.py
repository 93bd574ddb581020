"""The embedded world's translations: what is right stays right, and an error stays the error that it was."""

import random
from itertools import permutations

import pytest

from xling.tasks import micro_summarization as task
from xling.tasks.micro import gold, writing
from xling.tasks.micro.translation import exactly
from xling.tasks.micro.words import LANGUAGES, SUMMARY, chunks_of, is_slot, is_word, read, slots_of
from xling.tasks.micro.writing import document, fact_set, fact_set_of, summary
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.translators.micro_noisy import Settings as MicroNoisy
from xling.translators.micro_noisy import noisily

DIRECTIONS = list(permutations(LANGUAGES, 2))
# Superfluous words, words in another language and words out of order are counted, and languages need different numbers
# of words to say the same: of texts with these errors quality changes a little.
COUNTED = {"concise", "language", "comprehensible"}


def both(text: str, source: str, target: str, group: str) -> tuple[float, float]:
    """Gold quality of a text, and of its translation."""
    facts = fact_set_of(0, group)
    translated = exactly(text, source, target)
    return gold.assess(facts, source, text).quality, gold.assess(facts, target, translated).quality


def test_phrases_are_named_by_their_slots_in_all_languages() -> None:
    """What a summary leaves out is told by its slots, which have to be the same ones everywhere."""
    for index in range(len(SUMMARY["en"])):
        found = {
            lang: sorted((sorted(slots_of(c.parts)), c.optional, c.tail) for c in chunks_of(lang, index) if c.optional)
            for lang in LANGUAGES
        }
        assert all(phrases == found["en"] for phrases in found.values())


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_quality_is_carried_over_in_every_direction(source: str, target: str) -> None:
    """Exactly, but for errors whose words are counted; no text becomes good or stops being it."""
    kinds = [
        (),
        *((kind,) for kind in writing.DIMENSIONS),
        ("attributable", "grammatical"),
        ("no_repetition", "main_idea"),
    ]
    for number, kind in enumerate(kinds * 3):
        facts = fact_set(0, "train-ratings", number)
        text = writing.spoilt_summary(facts, source, kind, random.Random(f"{source}{number}"))
        before, after = both(text, source, target, facts.group)
        assert (before >= gold.GOOD) == (after >= gold.GOOD) == (kind == ())
        if not COUNTED & set(kind):
            assert after == pytest.approx(before, abs=1e-9), f"{text} -> {exactly(text, source, target)}"


def test_a_task_s_own_texts_keep_their_labels() -> None:
    """As the task draws them, with errors in combination and lead bias."""
    config = MicroSummarization(languages=LANGUAGES, pairs=25, label_noise=0.0)
    texts = equal = pairs = turned = 0
    for source, target in DIRECTIONS:
        for pair in task.pairs(config, source, "train"):
            found = [both(text, source, target, pair.prompt.group) for text in (pair.chosen, pair.rejected)]
            assert all((a >= gold.GOOD) == (b >= gold.GOOD) for a, b in found)
            texts, equal = texts + 2, equal + sum(abs(a - b) < 1e-9 for a, b in found)
            pairs, turned = pairs + 1, turned + (found[0][1] <= found[1][1])
    assert (texts, pairs) == (1500, 750)
    assert equal / texts > 0.75 and turned / pairs < 0.03


def test_documents_and_summaries_come_back_as_they_were() -> None:
    for number, (source, target) in enumerate(DIRECTIONS):
        facts = fact_set(0, "train-demonstrations", number)
        text = document(facts, source, random.Random(number))
        assert exactly(exactly(text, source, target), target, source) == text
        right = summary(facts.facts[facts.main], source, number % len(SUMMARY[source]))
        assert exactly(right, source, target) == summary(facts.facts[facts.main], target, number % len(SUMMARY[target]))
        assert exactly(exactly(right, source, target), target, source) == right


def test_what_stood_in_the_wrong_language_still_does() -> None:
    facts = fact_set(0, "train-ratings", 1)
    turkish, german = (summary(facts.facts[facts.main], lang, 0) for lang in ("tr", "de"))
    assert exactly(turkish, "en", "tr") == summary(facts.facts[facts.main], "en", 0)
    assert exactly(german, "en", "tr") == german
    assert both(turkish, "en", "tr", facts.group) == pytest.approx((0.1, 0.1), abs=0.1)


THREE = "saw. открытие и hectáreas, In Тунис — August race a en в 83 530 Romania ламп. стране Главное"


@pytest.mark.parametrize(
    "text", ["", " ", "...", "Hello, world!", "a flood a flood a flood", "300 300", "。你好", "{T}", THREE]
)
def test_any_text_has_a_translation(text: str) -> None:
    assert isinstance(exactly(text, "en", "ru"), str)


def test_translations_are_written_as_the_world_writes() -> None:
    assert exactly("In short: a vote in Peru, 43 tons of rice.", "en", "de").startswith("Kurz gesagt: eine Abstimmung")
    text = "This is about a vote in Peru and about 43 houses, anyway."
    assert exactly(text, "en", "ru") == "Главное здесь — голосование в стране Перу и 43 дома, впрочем."
    twice = "Peru had a vote in July in July with 43 houses."
    assert exactly(twice, "en", "tr") == "Peru ülkesinde Temmuz ayında Temmuz ayında oylama yaşandı, toplam 43 ev."
    assert exactly("This is about an vote in Peru and about 43 house.", "en", "de") == (
        "Es geht um ein Abstimmung in Peru und um 43 Haus."
    )


# --- the noisy translator: its rates are those that were asked for, and a text always fails alike -----------

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
