"""Texts of the embedded world: facts as documents, prompts, summaries right and wrong, and pretraining text.

A fact is (topic, place, month, number, unit). The hash of that tuple, and nothing else, decides its world: pretraining
text, or one use (demonstrations, ratings, ...) of one split. So uses, splits and languages can never share a fact,
whatever the seeds and sizes, and no list has to be kept.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from xling.tasks.micro import words
from xling.tasks.micro.words import (
    ADDITIONS,
    CUE,
    DOCUMENT,
    FILLERS,
    LANGUAGES,
    NUMBERS,
    SIZES,
    SUBJECT,
    SUMMARY,
    Chunk,
    chunks_of,
    parts_of,
    text_of,
)

# --- facts, and which world each belongs to -----------------------------------------------------------------

USES = ("demonstrations", "ratings", "pairs", "prompts")
SPLITS = ("train", "validation", "test")
PRETRAIN = "pretrain"

_BUCKETS = 64
_PER_USE = 4  # 12 uses of splits x 4 buckets; the remaining 16 buckets are pretraining text
_RANGES = {
    f"{split}-{use}": range(_PER_USE * i, _PER_USE * (i + 1))
    for i, (split, use) in enumerate((s, u) for s in SPLITS for u in USES)
} | {PRETRAIN: range(_PER_USE * len(SPLITS) * len(USES), _BUCKETS)}


class Fact(NamedTuple):
    """Indices into the tables of words.py, in the order of SLOTS; `number` is the number itself."""

    topic: int
    place: int
    month: int
    number: int
    unit: int


class FactSet(NamedTuple):
    """Facts of one document, in its order; `facts[main]` is the one that its summary should tell."""

    group: str
    facts: tuple[Fact, ...]
    main: int


def world_of(fact: Fact) -> str:
    """`pretrain`, or `split-use`."""
    code = bytes((*fact[:3], fact.number >> 8, fact.number & 255, fact.unit))
    bucket = blake2b(code, digest_size=1).digest()[0]
    return next(world for world, buckets in _RANGES.items() if bucket % _BUCKETS in buckets)


def _find(world: str, values: tuple[int, int, int, int], taken: set[int], rng: random.Random) -> Fact | None:
    """The first number from a random start that puts the fact into `world`."""
    topic, place, month, unit = values
    start = rng.randrange(len(NUMBERS))
    for step in range(len(NUMBERS)):
        fact = Fact(topic, place, month, NUMBERS[(start + step) % len(NUMBERS)], unit)
        if fact.number not in taken and world_of(fact) == world:
            return fact
    return None


@lru_cache(maxsize=20_000)
def fact_set(seed: int, world: str, index: int, count: int = 3) -> FactSet:
    """The `index`-th fact set of a world: `count` facts that differ in every slot, the first or last one main."""
    group = f"test-{index:04d}" if world == "test-prompts" else f"{world}-{index:04d}"
    rng = random.Random(f"facts/{seed}/{world}/{index}")
    while True:
        columns = [rng.sample(range(SIZES[slot]), count) for slot in ("T", "P", "M", "U")]
        facts: list[Fact] = []
        for topic, place, month, unit in zip(*columns, strict=True):
            fact = _find(world, (topic, place, month, unit), {f.number for f in facts}, rng)
            if fact is not None:
                facts.append(fact)
        if len(facts) == count:
            return FactSet(group, tuple(facts), rng.choice((0, count - 1)))


def fact_set_of(seed: int, group: str) -> FactSet:
    """The fact set that a prompt's `group` names."""
    world, _, index = group.rpartition("-")
    return fact_set(seed, "test-prompts" if world == "test" else world, int(index))


# --- documents, prompts, correct summaries ------------------------------------------------------------------


def slot_text(lang: str, slot: str, fact: Fact) -> str:
    """The form of one of the fact's values: slot is one of SLOTS."""
    if slot == "U":
        return words.unit(lang, fact.unit, fact.number)
    return words.name(lang, slot, fact[words.SLOTS.index(slot)])


def fill(parts: Iterable[str], lang: str, fact: Fact) -> list[str]:
    """Parts with their slots filled."""
    return [slot_text(lang, part[1], fact) if part[0] == "{" else part for part in parts]


def sentence(frame: str, lang: str, fact: Fact) -> str:
    """One frame, filled."""
    return text_of(fill(parts_of(frame), lang, fact))


def document_lines(facts: FactSet, langs: Sequence[str], rng: random.Random) -> list[str]:
    """The sentences of a document, the last of `langs` being that of the subject line.

    The subject line opens the document or closes it, beside the main fact: found by neighbourhood, the fact is in
    reach of a reader of a million parameters (one that has to find it by its topic learns that far too late). Frames of
    one document differ, so that a sentence is not known by its frame.
    """
    frames = rng.sample(range(len(DOCUMENT[langs[0]])), len(facts.facts))
    main = facts.facts[facts.main]
    *body, first = langs
    lines = [
        sentence(DOCUMENT[lang][frame], lang, fact) for lang, frame, fact in zip(body, frames, facts.facts, strict=True)
    ]
    subject = sentence(rng.choice(SUBJECT[first]), first, main)
    return [subject, *lines] if facts.main == 0 else [*lines, subject]


def document(facts: FactSet, lang: str, rng: random.Random) -> str:
    """A whole document in one language, 35 to 50 words."""
    return " ".join(document_lines(facts, [lang] * (len(facts.facts) + 1), rng))


def prompt_text(text: str, lang: str) -> str:
    """A document with the cue that asks for its summary in `lang`; the summary follows after one space."""
    return f"{text}\n{CUE[lang]}"


def summary(fact: Fact, lang: str, frame: int) -> str:
    """The correct one-sentence statement of a fact in the `frame`-th summary frame."""
    return text_of([word for chunk in chunks_of(lang, frame) for word in fill(chunk.parts, lang, fact)])


def told(facts: FactSet, lead_bias: float, rng: random.Random) -> int:
    """Which fact a summary in the wild tells: with chance `lead_bias` the first, main or not, else the main one.

    Lead bias is the best known habit of summaries and of models trained on them (Newsroom, arXiv 1804.11283).
    """
    return 0 if rng.random() < lead_bias else facts.main


def random_summary(fact: Fact, lang: str, rng: random.Random) -> str:
    """A correct summary in any frame."""
    return summary(fact, lang, rng.randrange(len(SUMMARY[lang])))


# --- summaries that go wrong along Seahorse's six dimensions, or in language --------------------------------

# Some errors lengthen, some shorten, some keep the length, so that length tells little. Which dimensions of gold
# quality (gold.py) an error lowers is in LOWERS.

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


def _optional(draft: Draft) -> list[int]:
    return [i for i, chunk in enumerate(draft.chunks) if chunk.optional]


def _main_idea(draft: Draft, rng: random.Random) -> Draft:
    """A correct statement of a side fact, or one that leaves phrases out."""
    optional = _optional(draft)
    if optional and rng.random() < 0.5:
        dropped = rng.sample(optional, rng.randint(1, min(2, len(optional))))
        return draft._replace(chunks=tuple(c for i, c in enumerate(draft.chunks) if i not in dropped))
    return draft._replace(fact=rng.choice([f for i, f in enumerate(draft.facts.facts) if i != draft.facts.main]))


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
    # a foreign name may be at home a wrong form of the same name: Turkish "festival" in English
    wrong = words.wrong_topics(draft.lang, draft.fact.topic)
    wrong += words.wrong_units(draft.lang, draft.fact.unit, draft.fact.number)
    if {slot_text(other, slot, draft.fact) for slot in "TU"} & set(wrong):
        return draft._replace(chunks=foreign)
    if kind == "names":
        return draft._replace(names=other)
    if kind == "tail":
        return draft._replace(chunks=tuple(c for c in own if not c.tail) + tuple(c for c in foreign if c.tail))
    if kind == "head":
        return draft._replace(chunks=tuple(c for c in foreign if not c.tail) + tuple(c for c in own if c.tail))
    return draft._replace(chunks=foreign)


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
        phrase = parts_of(rng.choice(ADDITIONS[draft.lang]))
        # not the fact that is told: the topic says which, no error changes it
        another = rng.choice([fact for fact in draft.facts.facts if fact.topic != draft.fact.topic])
        extra = fill(phrase, draft.lang, another)
    return draft._replace(chunks=(*draft.chunks[:-1], Chunk(tuple(extra), draft.lang), draft.chunks[-1]))


def _singly(draft: Draft) -> list[Chunk]:
    """One chunk a part."""
    return [Chunk((part,), chunk.lang) for chunk in draft.chunks for part in chunk.parts]


def _is_word(chunk: Chunk) -> bool:
    return chunk.parts[0][0].isalpha()


def _wrong_form(parts: list[Chunk], draft: Draft) -> list[list[Chunk]]:
    """An article or a plural that does not agree; nothing where the language or the draft has none."""
    found: list[list[Chunk]] = []
    for i, chunk in enumerate([] if draft.names else parts):
        forms: tuple[str, ...] = ()
        if chunk.parts[0] == "{T}":
            forms = words.wrong_topics(chunk.lang, draft.fact.topic)
        elif chunk.parts[0] == "{U}":
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

    With chance `lead_bias` it tells the document's first fact, main or not, as many summarisers do (told).
    """
    kinds: tuple[str, ...] = ()
    if rng.random() < error:
        kinds = tuple(rng.sample(DIMENSIONS, 2 if rng.random() < SECOND_ERROR else 1))
    index = told(facts, lead_bias, rng)
    text = spoilt_summary(facts, lang, kinds, rng, index)
    if index != facts.main and "main_idea" not in kinds:
        kinds = ("main_idea", *kinds)
    return text, kinds


# --- unlabelled multilingual text, for pretraining the tiny base model --------------------------------------

# Only facts of the `pretrain` world, only correct statements; nothing here knows of errors or gold quality. Documents
# with their summaries are rendered as the task renders prompts, so that the base learns to copy the main fact;
# parallel, cross-lingual and code-mixed text ties the languages together.

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
    return f"{prompt_text(text, lang)} {random_summary(facts.facts[facts.main], lang, rng)}"


def _monolingual(facts: FactSet, rng: random.Random) -> str:
    lang = rng.choice(LANGUAGES)
    return _with_summary(document(facts, lang, rng), facts, lang, rng)


def _cross_lingual(facts: FactSet, rng: random.Random) -> str:
    """A document and its summary in another language."""
    source, target = rng.sample(LANGUAGES, 2)
    return _with_summary(document(facts, source, rng), facts, target, rng)


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
    text = document(_fewer(facts, rng), rng.choice(LANGUAGES), rng)
    return f"{text}\n{text}"


def _restated(facts: FactSet, rng: random.Random) -> str:
    """A document and then each of its facts again, in another order, in other frames and as often in another language.

    What belongs to which fact has to be found in the document: this teaches the base to tie values to their fact.
    """
    facts = _fewer(facts, rng)
    source = rng.choice(LANGUAGES)
    target = source if rng.random() < 0.4 else rng.choice(LANGUAGES)
    again = [random_summary(fact, target, rng) for fact in rng.sample(facts.facts, len(facts.facts))]
    return "\n".join([document(facts, source, rng), f"{NATIVE[target]}: {' '.join(again)}"])


def _translated_summary(facts: FactSet, rng: random.Random) -> str:
    """One statement in three languages; as often as not in the same frame."""
    frame = rng.randrange(len(SUMMARY["en"]))
    same = rng.random() < 0.5
    fact = facts.facts[facts.main]
    return "\n".join(
        f"{NATIVE[lang]}: {summary(fact, lang, frame if same else rng.randrange(len(SUMMARY[lang])))}"
        for lang in rng.sample(LANGUAGES, 3)
    )


def _mixed(facts: FactSet, rng: random.Random) -> str:
    """Every sentence in a language of its own, the summary in one."""
    langs = rng.choices(LANGUAGES, k=len(facts.facts) + 1)
    text = " ".join(document_lines(facts, langs, rng))
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
