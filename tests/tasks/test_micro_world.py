"""The embedded world's tables, facts and documents."""

import hashlib
import random
import unicodedata
from collections import Counter

import pytest

from xling.tasks.micro import words, writing
from xling.tasks.micro.gold import assess
from xling.tasks.micro.words import (
    ADDITIONS,
    CUE,
    DOCUMENT,
    FILLERS,
    LANGUAGES,
    SLOTS,
    SUBJECT,
    SUMMARY,
    Item,
    forms,
    is_slot,
    parts_of,
    read,
    vocabulary,
)
from xling.tasks.micro.writing import (
    NATIVE,
    PRETRAIN,
    SPLITS,
    USES,
    Fact,
    fact_set,
    fact_set_of,
    pretraining_texts,
    world_of,
)

USED = [f"{split}-{use}" for split in SPLITS for use in USES]


def values(items: list[Item]) -> list[tuple[str, int]]:
    return [(item.symbol, item.value) for item in items if is_slot(item.symbol)]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_names_are_plain_short_and_composed(lang: str) -> None:
    for slot in SLOTS:
        for name in words.names(lang, slot):
            assert name and name == unicodedata.normalize("NFC", name)
            assert not set(name) & {"\u00a0", "\u202f", "(", ")", "’"}
            assert len(name.split()) <= 3, name


def test_numbers_and_things_agree() -> None:
    house = len(words.CLDR_UNITS)
    assert [words.unit("ru", house, n) for n in (21, 22, 25, 111)] == ["дом", "дома", "домов", "домов"]
    assert [words.unit("ru", 0, n) for n in (31, 43, 500)] == ["километр", "километра", "километров"]
    assert [words.unit(lang, house, 21) for lang in ("de", "en", "es", "tr", "vi")] == [
        "Häuser",
        "houses",
        "casas",
        "ev",
        "ngôi nhà",
    ]
    assert words.wrong_units("tr", house, 21) == ("evler",)
    assert words.wrong_topics("en", 3) == ("a exhibition", "exhibition")


def test_a_name_means_one_thing() -> None:
    for found in forms().values():
        assert len({form.tokens for form in found}) == len(found)
        assert not [f for f in found if len(f.tokens) == 1 and f.tokens[0] in vocabulary()]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_frames_vary_and_correspond_across_languages(lang: str) -> None:
    assert len(words.DOCUMENT[lang]) >= 4
    assert len(words.SUMMARY[lang]) >= 5
    for table in (words.DOCUMENT, words.SUMMARY):
        slots = [tuple(p for p in words.parts_of(f) if is_slot(p)) for f in table[lang]]
        assert len(set(slots)) >= 4
        assert len({len(words.parts_of(f)) for f in table[lang]}) >= 2
        assert all(words.parts_of(f)[0] != "{T}" for f in table[lang])
    for index in range(len(words.SUMMARY["en"])):
        for tail in (False, True):
            mine, english = (
                {p for c in words.chunks_of(of, index) if c.tail == tail for p in c.parts if is_slot(p)}
                for of in (lang, "en")
            )
            assert mine == english


def test_fact_sets_stay_what_they_were() -> None:
    sets = [fact_set(7, world, index) for world in (PRETRAIN, *USED) for index in range(20)]
    assert hashlib.sha256(repr(sets).encode()).hexdigest()[:16] == "54a873bc0e316698"


def test_every_fact_is_of_its_world_whatever_the_seed() -> None:
    for world in (PRETRAIN, *USED):
        for seed in (0, 1):
            for index in range(60):
                assert {world_of(fact) for fact in fact_set(seed, world, index).facts} == {world}


def test_a_group_names_its_fact_set() -> None:
    for world in USED:
        facts_of = fact_set(3, world, 17)
        assert fact_set_of(3, facts_of.group) is facts_of
    assert fact_set(0, "test-prompts", 17).group == "test-0017"


def test_facts_of_a_document_differ_everywhere_and_the_main_one_is_first_or_last() -> None:
    sets = [fact_set(0, "train-prompts", index) for index in range(900)]
    for found in sets:
        assert all(len(set(column)) == 3 for column in zip(*found.facts, strict=True))
    mains = Counter(found.main for found in sets)
    assert mains.keys() == {0, 2} and all(400 < count < 500 for count in mains.values())


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_document_says_its_facts_and_names_the_main_one(lang: str) -> None:
    for index in range(100):
        told = fact_set(0, "test-prompts", index)
        lines = writing.document_lines(told, [lang] * 4, random.Random(index))
        bare = [line for line in lines if len(values(read(line))) == 1]
        assert [values(read(line)) for line in bare] == [[("{T}", told.facts[told.main].topic)]]
        stated = [line for line in lines if line not in bare]
        expected = [{(f"{{{s}}}", v) for s, v in zip(SLOTS, fact, strict=True)} for fact in told.facts]
        assert [set(values(read(line))) for line in stated] == expected
        assert 20 <= len(" ".join(lines).split()) <= 60


def test_the_subject_line_stands_beside_the_main_fact() -> None:
    for index in range(100):
        told = fact_set(0, "test-prompts", index)
        lines = writing.document_lines(told, ["en"] * 4, random.Random(index))
        bare = [len(values(read(line))) == 1 for line in lines]
        assert bare == ([True, False, False, False] if told.main == 0 else [False, False, False, True])


def test_pretraining_text_holds_no_fact_of_any_split() -> None:
    held_out = {f for w in USED for seed in (0, 5) for i in range(300) for f in fact_set(seed, w, i).facts}
    seen = 0
    for text in pretraining_texts(0, 2000):
        for sentence in text.replace("\n", ". ").split(". "):
            said = dict(values(read(sentence)))
            if len(said) == 5:
                fact = Fact(*(said[f"{{{slot}}}"] for slot in SLOTS))
                assert fact not in held_out
                assert world_of(fact) == PRETRAIN
                seen += 1
    assert seen > 4000


def test_pretraining_summaries_are_flawless() -> None:
    seen: Counter[str] = Counter()
    for index, text in enumerate(pretraining_texts(1, 3000)):
        for lang, cue in words.CUE.items():
            if f"\n{cue} " in text:
                summary = text.split(f"\n{cue} ")[1]
                assert assess(fact_set(1, PRETRAIN, index), lang, summary).quality == 1.0
                seen[lang] += 1
    assert min(seen.values()) > 100


def test_pretraining_text_is_the_same_again_and_a_prefix_of_more() -> None:
    first = list(pretraining_texts(2, 50))
    assert list(pretraining_texts(2, 80))[:50] == first
    assert list(pretraining_texts(3, 50)) != first


def world_words() -> list[str]:
    """Every word and name the world can write, correct or not, sorted."""
    found: set[str] = set(NATIVE.values())
    found.update(part for cue in CUE.values() for part in parts_of(cue))
    for lang in LANGUAGES:
        for table in (SUBJECT, DOCUMENT, SUMMARY, FILLERS, ADDITIONS):
            found.update(part for frame in table[lang] for part in parts_of(frame) if part[0] != "{")
        for slot in words.SLOTS:
            found.update(words.names(lang, slot))
        for index in range(words.SIZES["U"]):
            found.update(form for number in (13, 14, 21) for form in words.wrong_units(lang, index, number))
        for index in range(words.SIZES["T"]):
            found.update(words.wrong_topics(lang, index))
    return sorted({word for phrase in found for word in phrase.split()})


def test_pretraining_text_is_made_of_the_world_s_words() -> None:
    known = {token for word in world_words() for token in (i.text for i in read(word))}
    known |= {token for word in world_words() for token in word.split()} | set(NATIVE.values()) | set(",.:—=")
    for text in pretraining_texts(0, 300):
        unknown = {word.strip(",.:") for word in text.split()} - known - {"", "—", "="}
        assert not unknown


def test_buckets_are_evenly_filled() -> None:
    rng = random.Random(0)
    drawn = Counter(
        world_of(
            Fact(
                rng.randrange(words.SIZES["T"]),
                rng.randrange(words.SIZES["P"]),
                rng.randrange(12),
                rng.choice(words.NUMBERS),
                rng.randrange(words.SIZES["U"]),
            )
        )
        for _ in range(16000)
    )
    assert set(drawn) == set(writing._RANGES)
    assert all(850 < drawn[world] < 1150 for world in USED)
