"""Unlabelled multilingual text of the embedded world, for pretraining the tiny base model.

Only facts of the `pretrain` world, only correct statements; nothing here knows of errors or gold quality.
Documents with their summaries are rendered as the task renders prompts, so that the base learns to copy the
main fact; parallel, cross-lingual and code-mixed text ties the languages together.
"""

import random
from collections.abc import Iterator

from xling.tasks.micro import render, words
from xling.tasks.micro.facts import PRETRAIN, FactSet, fact_set
from xling.tasks.micro.frames import ADDITIONS, CUE, DOCUMENT, FILLERS, SUBJECT, SUMMARY, parts_of
from xling.tasks.micro.words import LANGUAGES

NATIVE = {
    "de": "Deutsch",
    "en": "English",
    "es": "Español",
    "ru": "Русский",
    "tr": "Türkçe",
    "vi": "Tiếng Việt",
}

_ENTRIES = 6  # lines of a slot dictionary


def _with_summary(text: str, facts: FactSet, lang: str, rng: random.Random) -> str:
    """A prompt and its correct summary, as the task renders them."""
    return f"{render.prompt_text(text, lang)} {render.random_summary(facts.facts[facts.main], lang, rng)}"


def _monolingual(facts: FactSet, rng: random.Random) -> str:
    lang = rng.choice(LANGUAGES)
    return _with_summary(render.document(facts, lang, rng), facts, lang, rng)


def _cross_lingual(facts: FactSet, rng: random.Random) -> str:
    """A document and its summary in another language."""
    source, target = rng.sample(LANGUAGES, 2)
    return _with_summary(render.document(facts, source, rng), facts, target, rng)


def _fewer(facts: FactSet, rng: random.Random) -> FactSet:
    """One, two or all of the facts, the main one among them: short documents come before long ones are learnt."""
    main = facts.facts[facts.main]
    others = [fact for fact in facts.facts if fact != main]
    kept = rng.sample(others, rng.randint(0, len(others)))
    if facts.main == 0:
        return facts._replace(facts=(main, *kept))
    return facts._replace(facts=(*kept, main), main=len(kept))


def _quoted(facts: FactSet, rng: random.Random) -> str:
    """A document, and the same again word by word, as agencies' news is: the plainest lesson in copying."""
    text = render.document(_fewer(facts, rng), rng.choice(LANGUAGES), rng)
    return f"{text}\n{text}"


def _restated(facts: FactSet, rng: random.Random) -> str:
    """A document and then each of its facts again, in another order, in other frames and as often in another language.

    What belongs to which fact has to be found in the document: this teaches the base to tie values to their fact.
    """
    facts = _fewer(facts, rng)
    source = rng.choice(LANGUAGES)
    target = source if rng.random() < 0.4 else rng.choice(LANGUAGES)
    again = [render.random_summary(fact, target, rng) for fact in rng.sample(facts.facts, len(facts.facts))]
    return "\n".join([render.document(facts, source, rng), f"{NATIVE[target]}: {' '.join(again)}"])


def _translated_summary(facts: FactSet, rng: random.Random) -> str:
    """One statement in three languages; as often as not in the same frame."""
    frame = rng.randrange(len(SUMMARY["en"]))
    same = rng.random() < 0.5
    fact = facts.facts[facts.main]
    return "\n".join(
        f"{NATIVE[lang]}: {render.summary(fact, lang, frame if same else rng.randrange(len(SUMMARY[lang])))}"
        for lang in rng.sample(LANGUAGES, 3)
    )


def _mixed(facts: FactSet, rng: random.Random) -> str:
    """Every sentence in a language of its own, the summary in one."""
    langs = rng.choices(LANGUAGES, k=len(facts.facts) + 1)
    text = " ".join(render.document_lines(facts, langs, rng))
    return _with_summary(text, facts, rng.choice(LANGUAGES), rng)


def _dictionary(facts: FactSet, rng: random.Random) -> str:
    """Names of the same things in several languages, one thing a line."""
    lines = []
    for _ in range(_ENTRIES):
        slot = rng.choice("TPMU")
        index = rng.randrange(words.SIZES[slot])
        langs = rng.sample(LANGUAGES, rng.randint(2, 4))
        number = rng.choice(words.NUMBERS)
        forms = [
            f"{number} {words.unit(lang, index, number)}" if slot == "U" else words.name(lang, slot, index)
            for lang in langs
        ]
        lines.append(" = ".join(forms))
    return "\n".join(lines)


_MIXTURE = {  # shares of the texts
    _restated: 0.35,
    _quoted: 0.20,
    _monolingual: 0.17,
    _cross_lingual: 0.10,
    _mixed: 0.08,
    _translated_summary: 0.05,
    _dictionary: 0.05,
}


def pretraining_texts(seed: int, count: int) -> Iterator[str]:
    """`count` texts, each of one or several lines; the i-th does not depend on `count`."""
    for index in range(count):
        rng = random.Random(f"corpus/{seed}/{index}")
        kind = rng.choices(list(_MIXTURE), list(_MIXTURE.values()))[0]
        yield kind(fact_set(seed, PRETRAIN, index), rng)


def copying_lessons(seed: int, count: int) -> Iterator[str]:
    """Texts that teach nothing but copying. Read first, they make the rest learnable in a fraction of the time."""
    for index in range(count):
        yield _quoted(fact_set(seed, PRETRAIN, index), random.Random(f"lessons/{seed}/{index}"))


def world_words() -> list[str]:
    """Every word and name the world can write, correct or not, sorted: what a tokenizer should cover."""
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
