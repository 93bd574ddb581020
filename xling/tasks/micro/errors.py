"""Summaries that go wrong along Seahorse's six dimensions, or in language.

Some errors lengthen, some shorten, some keep the length, so that length tells little. Which dimensions of
gold quality (gold.py) an error lowers is in LOWERS.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from xling.tasks.micro import render, words
from xling.tasks.micro.facts import Fact, FactSet
from xling.tasks.micro.frames import ADDITIONS, FILLERS, SUMMARY, Chunk, chunks_of, parts_of, text_of
from xling.tasks.micro.render import fill, slot_text

SECOND_ERROR = 0.3  # share of bad summaries with two errors

LOWERS = {
    "comprehensible": {"comprehensible", "grammatical"},
    "no_repetition": {"no_repetition", "main_idea"},  # main_idea where another phrase made room
    "grammatical": {"grammatical"},
    "attributable": {"attributable"},
    "main_idea": {"main_idea"},
    "concise": {"concise"},
    "language": {"language"},
}
DIMENSIONS = tuple(LOWERS)


class Draft(NamedTuple):
    """A summary in the making."""

    facts: FactSet
    lang: str
    frame: int
    fact: Fact  # the values it states
    chunks: tuple[Chunk, ...]
    names: str = ""  # language of the names, where it is not the chunk's own


def _side_fact(draft: Draft, rng: random.Random) -> Fact:
    return rng.choice([fact for i, fact in enumerate(draft.facts.facts) if i != draft.facts.main])


def _another_fact(draft: Draft, rng: random.Random) -> Fact:
    """Not the one that is told: the topic says which, no error changes it."""
    return rng.choice([fact for fact in draft.facts.facts if fact.topic != draft.fact.topic])


def _optional(draft: Draft) -> list[int]:
    return [i for i, chunk in enumerate(draft.chunks) if chunk.optional]


def _without(draft: Draft, dropped: Sequence[int]) -> Draft:
    return draft._replace(chunks=tuple(c for i, c in enumerate(draft.chunks) if i not in dropped))


def _main_idea(draft: Draft, rng: random.Random) -> Draft:
    """A correct statement of a side fact, or one that leaves phrases out."""
    optional = _optional(draft)
    if optional and rng.random() < 0.5:
        return _without(draft, rng.sample(optional, rng.randint(1, min(2, len(optional)))))
    return draft._replace(fact=_side_fact(draft, rng))


def _attributable(draft: Draft, rng: random.Random) -> Draft:
    """One or two values from a side fact of the document, or from nowhere."""
    stated = {part[1] for chunk in draft.chunks for part in chunk.parts if part[0] == "{"}
    slots = rng.sample(sorted(stated - {"T"}), min(rng.randint(1, 2), len(stated) - 1))
    values = list(draft.fact)
    side = rng.choice([fact for fact in draft.facts.facts if fact != draft.fact])
    invented = rng.random() < 0.5
    for slot in slots:
        column = words.SLOTS.index(slot)
        known = {fact[column] for fact in draft.facts.facts}
        possible = words.NUMBERS if slot == "N" else range(words.SIZES[slot])
        values[column] = rng.choice([v for v in possible if v not in known]) if invented else side[column]
    return draft._replace(fact=Fact(*values))


def _language(draft: Draft, rng: random.Random) -> Draft:
    """Another language: wholly, from or up to the middle, or in the names."""
    other = rng.choice([lang for lang in words.LANGUAGES if lang != draft.lang])
    kind = rng.choice(("whole", "tail", "head", "names"))
    own, foreign = draft.chunks, chunks_of(other, draft.frame)
    if _would_be_misspelt(draft, other):
        return draft._replace(chunks=foreign)
    if kind == "names":
        return draft._replace(names=other)
    if kind == "tail":
        return draft._replace(chunks=tuple(c for c in own if not c.tail) + tuple(c for c in foreign if c.tail))
    if kind == "head":
        return draft._replace(chunks=tuple(c for c in foreign if not c.tail) + tuple(c for c in own if c.tail))
    return draft._replace(chunks=foreign)


def _would_be_misspelt(draft: Draft, other: str) -> bool:
    """Whether a foreign name is at home a wrong form of the same name: Turkish "festival" in English."""
    wrong = words.wrong_topics(draft.lang, draft.fact.topic)
    wrong += words.wrong_units(draft.lang, draft.fact.unit, draft.fact.number)
    return bool({slot_text(other, slot, draft.fact) for slot in "TU"} & set(wrong))


def _repetition(draft: Draft, rng: random.Random) -> Draft:
    """A phrase twice; in half the cases another phrase makes room."""
    optional = _optional(draft)
    if not optional:
        return draft
    twice = rng.choice(optional)
    rest = [i for i in optional if i != twice]
    dropped = [rng.choice(rest)] if rest and rng.random() < 0.5 else []
    chunks: list[Chunk] = []
    for i, chunk in enumerate(draft.chunks):
        chunks += [] if i in dropped else [chunk, chunk] if i == twice else [chunk]
    return draft._replace(chunks=tuple(chunks))


def _concise(draft: Draft, rng: random.Random) -> Draft:
    """Empty words or a second fact's detail, before the full stop."""
    if rng.random() < 0.5:
        extra = list(parts_of(rng.choice(FILLERS[draft.lang])))
    else:
        extra = fill(parts_of(rng.choice(ADDITIONS[draft.lang])), draft.lang, _another_fact(draft, rng))
    return draft._replace(chunks=(*draft.chunks[:-1], Chunk(tuple(extra), draft.lang), draft.chunks[-1]))


def _singly(draft: Draft) -> list[Chunk]:
    """One chunk a part."""
    return [Chunk((part,), chunk.lang) for chunk in draft.chunks for part in chunk.parts]


def _is_word(chunk: Chunk) -> bool:
    return chunk.parts[0][0].isalpha()


def _wrong_form(parts: list[Chunk], draft: Draft) -> list[list[Chunk]]:
    """An article or a plural that does not agree; nothing where the language or the draft has none."""
    found: list[list[Chunk]] = []
    for i, chunk in enumerate(parts):
        forms: tuple[str, ...] = ()
        if chunk.parts[0] == "{T}" and not draft.names:
            forms = words.wrong_topics(chunk.lang, draft.fact.topic)
        if chunk.parts[0] == "{U}" and not draft.names:
            forms = words.wrong_units(chunk.lang, draft.fact.unit, draft.fact.number)
        found += [[*parts[:i], Chunk((form,), chunk.lang), *parts[i + 1 :]] for form in forms]
    return found


def _has_stutter(parts: Sequence[Chunk]) -> bool:
    return any(a.parts == b.parts for a, b in itertools.pairwise(parts))


def _dropped_word(parts: list[Chunk]) -> list[list[Chunk]]:
    """Without one of its words; not a label after a comma, which a sentence can do without."""
    places = [i for i in range(1, len(parts)) if _is_word(parts[i]) and parts[i - 1].parts[0] not in ",:"]
    return [parts[:i] + parts[i + 1 :] for i in places]


def _swapped_words(parts: list[Chunk]) -> list[list[Chunk]]:
    """Two neighbours in the wrong order."""
    solid = [chunk.parts[0][0] == "{" or _is_word(chunk) for chunk in parts]
    places = [i for i in range(1, len(parts) - 1) if solid[i] and solid[i + 1]]
    return [[*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]] for i in places]


def _stray_word(parts: list[Chunk], lang: str) -> list[list[Chunk]]:
    """A function word where none belongs."""
    stray = sorted({p for frame in SUMMARY[lang] for p in parts_of(frame) if p[0].isalpha() and p.islower()})
    return [
        [*parts[:i], Chunk((word,), lang), *parts[i:]]
        for i in range(1, len(parts))
        if parts[i].parts[0] not in ",:"
        for word in stray
    ]


def _grammatical(draft: Draft, rng: random.Random) -> Draft:
    """A wrong form, or a function word lost, moved or too many."""
    parts = _singly(draft)
    kinds = [
        _wrong_form(parts, draft),
        _dropped_word(parts),
        _swapped_words(parts),
        _stray_word(parts, draft.lang),
    ]
    possible = [[p for p in kind if _has_stutter(p) <= _has_stutter(parts)] for kind in kinds]
    chosen = rng.choice(rng.choice([kind for kind in possible if kind]))
    return draft._replace(chunks=tuple(chosen))


def _salad(draft: Draft, rng: random.Random) -> Draft:
    """The words in random order; names stay whole, the full stop stays last."""
    *parts, stop = _singly(draft)
    order = list(range(len(parts)))
    descents = 0
    while descents < min(3, len(parts) - 1) or _has_stutter([parts[i] for i in order]):
        rng.shuffle(order)
        descents = sum(a > b for a, b in itertools.pairwise(order))
    return draft._replace(chunks=(*(parts[i] for i in order), stop))


_SPOIL: dict[str, Callable[[Draft, random.Random], Draft]] = {  # in the order in which they can be combined
    "language": _language,
    "main_idea": _main_idea,
    "attributable": _attributable,
    "no_repetition": _repetition,
    "concise": _concise,
    "grammatical": _grammatical,
    "comprehensible": _salad,
}


def spoilt_summary(facts: FactSet, lang: str, kinds: Sequence[str], rng: random.Random, told: int | None = None) -> str:
    """A summary of the `told`-th fact (None: of the main one) with the errors named."""
    frame = rng.randrange(len(SUMMARY[lang]))
    draft = Draft(facts, lang, frame, facts.facts[facts.main if told is None else told], chunks_of(lang, frame))
    for kind, spoil in _SPOIL.items():
        if kind in kinds:
            draft = spoil(draft, rng)
    filled = [word for chunk in draft.chunks for word in fill(chunk.parts, draft.names or chunk.lang, draft.fact)]
    return text_of(filled)


def drawn_summary(
    facts: FactSet, lang: str, error: float, lead_bias: float, rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """A simulated system's summary and its errors: some with chance `error`, uniform over dimensions.

    With chance `lead_bias` it tells the document's first fact, main or not, as many summarisers do (render.told).
    """
    kinds: tuple[str, ...] = ()
    if rng.random() < error:
        kinds = tuple(rng.sample(DIMENSIONS, 2 if rng.random() < SECOND_ERROR else 1))
    told = render.told(facts, lead_bias, rng)
    text = spoilt_summary(facts, lang, kinds, rng, told)
    if told != facts.main and "main_idea" not in kinds:
        kinds = ("main_idea", *kinds)
    return text, kinds
