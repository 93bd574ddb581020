"""Gold quality: exact for what the world writes, bounded and sensible for anything else."""

import random
import statistics
import unicodedata

import pytest

from xling.tasks.micro import words, writing
from xling.tasks.micro.gold import COST, DIMENSIONS, GOOD, NOTHING, TRUTH, assess
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro.writing import LOWERS, SECOND_ERROR, FactSet, drawn_summary, fact_set, spoilt_summary


def told(index: int) -> FactSet:
    return fact_set(0, "validation-prompts", index)


def with_main_later(count: int) -> list[FactSet]:
    """Documents whose first fact is not the main one: a summary of it is one of a side fact."""
    return [facts for facts in map(told, range(count)) if facts.main != 0]


def lowered(facts: FactSet, lang: str, text: str) -> set[str]:
    scores = assess(facts, lang, text)
    return {dimension for dimension in DIMENSIONS if getattr(scores, dimension) < 1.0}


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("frame", range(6))
def test_every_correct_summary_is_worth_exactly_one(lang: str, frame: int) -> None:
    for index in range(150):
        facts = told(index)
        text = writing.summary(facts.facts[facts.main], lang, frame)
        assert assess(facts, lang, text).quality == 1.0, text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_document_s_own_sentence_on_the_main_fact_is_a_correct_summary(lang: str) -> None:
    for index in range(30):
        facts = told(index)
        for frame in words.DOCUMENT[lang]:
            assert assess(facts, lang, writing.sentence(frame, lang, facts.facts[facts.main])).quality == 1.0


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(LOWERS))
def test_an_error_lowers_its_own_dimension_and_no_other(lang: str, kind: str) -> None:
    for index in range(200):
        facts = told(index)
        text = spoilt_summary(facts, lang, [kind], random.Random(f"{lang}{kind}{index}"))
        assert kind in lowered(facts, lang, text) <= LOWERS[kind], text
        assert assess(facts, lang, text).quality < GOOD, text


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(set(LOWERS) - {"main_idea"}))
def test_an_error_in_a_summary_of_a_side_fact_lowers_its_own_dimension_too(lang: str, kind: str) -> None:
    for index, facts in enumerate(with_main_later(200)):
        text = spoilt_summary(facts, lang, [kind], random.Random(f"{lang}{kind}{index}"), told=0)
        assert {kind, "main_idea"} <= lowered(facts, lang, text) <= {"main_idea", *LOWERS[kind]}, text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_one_false_value_costs_its_share(lang: str) -> None:
    facts = told(3)
    main = facts.facts[facts.main]
    place = next(p for p in range(words.SIZES["P"]) if p not in {fact.place for fact in facts.facts})
    scores = assess(facts, lang, writing.summary(main._replace(place=place), lang, 0))
    assert scores.attributable == pytest.approx(4 / 5)
    assert scores.quality == pytest.approx((4 / 5) ** TRUTH)
    side = facts.facts[(facts.main + 1) % 3]
    mixed = main._replace(place=side.place, month=side.month)
    assert assess(facts, lang, writing.summary(mixed, lang, 0)).attributable == pytest.approx(3 / 5)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_side_fact_is_true_but_not_the_main_idea(lang: str) -> None:
    facts = told(4)
    side = facts.facts[(facts.main + 1) % 3]
    scores = assess(facts, lang, writing.summary(side, lang, 1))
    assert (scores.attributable, scores.main_idea) == (1.0, 0.0)
    assert scores.quality == pytest.approx(1 - COST["main_idea"])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_summary_in_another_language_is_only_that(lang: str) -> None:
    facts = told(5)
    for other in set(LANGUAGES) - {lang}:
        text = writing.summary(facts.facts[facts.main], other, 1)
        assert lowered(facts, lang, text) == {"language"}
        assert assess(facts, lang, text).language < 0.45
        assert assess(facts, other, text).quality == 1.0


def test_a_second_sentence_is_superfluous_and_answers_for_itself() -> None:
    facts = told(6)
    main, side = (facts.facts[(facts.main + i) % 3] for i in (0, 1))
    first, second = (writing.summary(fact, "en", 0) for fact in (main, side))
    scores = assess(facts, "en", f"{first} {second}")
    assert (scores.attributable, scores.main_idea, scores.grammatical) == (1.0, 1.0, 1.0)
    assert scores.concise < 0.5
    said_twice = assess(facts, "en", f"{first} {first}")
    assert said_twice.no_repetition < 1.0
    assert assess(facts, "en", f"{second} {first}").main_idea == 0.0


def test_agreement_is_checked_in_any_frame() -> None:
    facts = told(7)
    main = facts.facts[facts.main]
    right = words.unit("ru", main.unit, main.number)
    for wrong in words.wrong_units("ru", main.unit, main.number):
        text = writing.summary(main, "ru", 0).replace(f"{main.number} {right}", f"{main.number} {wrong}")
        assert lowered(facts, "ru", text) == {"grammatical"}


@pytest.mark.parametrize("text", ["", " ", "\n", ".", "{T}", "²³", "...", "zxcv qwer", "\u0301"])
def test_text_that_states_nothing_is_worth_nothing(text: str) -> None:
    assert assess(told(0), "en", text).quality == 0.0
    assert text.strip() or assess(told(0), "vi", text) == NOTHING


def test_any_text_has_scores_between_nought_and_one() -> None:
    rng = random.Random(0)
    for index in range(1500):
        facts = told(index % 50)
        lang = rng.choice(LANGUAGES)
        tokens = " ".join(
            writing.random_summary(rng.choice(facts.facts), rng.choice(LANGUAGES), rng) for _ in range(2)
        ).split()
        tokens += ["{", "—", "٣", "9999999999999", "Kenyzia", "́", "\x00", "_", "[SEP]", "ı"]
        text = " ".join(rng.choices(tokens, k=rng.randrange(1, 33)))
        scores = assess(facts, lang, text)
        assert all(0.0 <= score <= 1.0 for score in scores), text
        assert scores == assess(facts, lang, text)


def test_a_damaged_summary_is_worth_less_the_more_is_damaged() -> None:
    rng = random.Random(2)
    means = []
    for damage in (0, 1, 2, 4):
        found = []
        for index in range(200):
            facts = told(index)
            tokens = writing.random_summary(facts.facts[facts.main], "de", rng).split()
            for _ in range(damage):
                tokens.pop(rng.randrange(len(tokens)))
            found.append(assess(facts, "de", " ".join(tokens)).quality)
        means.append(statistics.mean(found))
    assert means == sorted(means, reverse=True)
    assert means[0] == 1.0 and means[-1] < 0.5


def test_canonically_equal_text_is_equal() -> None:
    facts = told(8)
    text = writing.summary(facts.facts[facts.main], "vi", 1)
    assert assess(facts, "vi", unicodedata.normalize("NFD", text)).quality == 1.0


def test_errors_are_drawn_at_the_stated_rates() -> None:
    rng = random.Random(3)
    kinds = [drawn_summary(told(index % 100), "en", 0.4, 0.0, rng)[1] for index in range(4000)]
    bad = [found for found in kinds if found]
    assert 0.37 < len(bad) / len(kinds) < 0.43
    assert abs(sum(len(found) == 2 for found in bad) / len(bad) - SECOND_ERROR) < 0.04
    for dimension in DIMENSIONS:
        assert abs(sum(dimension in found for found in bad) / len(bad) - 1.3 / 7) < 0.04


def test_lead_bias_leaves_all_errors_but_the_main_idea_at_their_rates() -> None:
    rng = random.Random(4)
    kinds = [drawn_summary(told(index % 300), "tr", 0.4, 0.6, rng)[1] for index in range(4000)]
    assert all(len(set(found)) == len(found) for found in kinds)
    spoilt = 0.4 * (1 + SECOND_ERROR) / 7
    for dimension in set(DIMENSIONS) - {"main_idea"}:
        assert abs(sum(dimension in found for found in kinds) / len(kinds) - spoilt) < 0.02
    aside = 0.6 * len(with_main_later(300)) / 300
    assert abs(sum("main_idea" in found for found in kinds) / len(kinds) - (aside + (1 - aside) * spoilt)) < 0.03


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_lead_summary_is_true_and_named_main_idea_where_the_first_fact_is_not_the_main_one(lang: str) -> None:
    rng = random.Random(lang)
    for index in range(100):
        facts = told(index)
        text, kinds = drawn_summary(facts, lang, 0.0, 1.0, rng)
        assert kinds == (() if facts.main == 0 else ("main_idea",))
        assert lowered(facts, lang, text) == set(kinds), text
        assert assess(facts._replace(main=0), lang, text).quality == 1.0, text


@pytest.mark.parametrize("lead_bias", [0.0, 0.6, 1.0])
def test_every_error_that_is_named_is_one_to_the_annotator(lead_bias: float) -> None:
    rng = random.Random(5)
    for index in range(1200):
        lang = rng.choice(LANGUAGES)
        text, kinds = drawn_summary(told(index % 300), lang, 0.5, lead_bias, rng)
        assert (assess(told(index % 300), lang, text).quality < GOOD) == bool(kinds), (kinds, text)
