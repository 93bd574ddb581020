"""Gold quality: exact, from the facts, for any text whatever.

Seven dimensions in [0, 1] (Seahorse's six, and language), each computed by a rule below, and the overall

    quality = attributable ** 3 * prod_d (1 - COST[d] * (1 - score_d)),   d the other six

A correct summary in any frame has exactly 1. Empty text, and text that states nothing, has 0.
Attribution and the main idea count most: one false value of five takes half of the quality, a correct summary
of a side fact four fifths. Any one of the errors in writing.py takes more than 1 - GOOD, a missing full stop
less, so that GOOD separates flawless from flawed. Upper and lower case are told apart.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise, product
from typing import NamedTuple

from xling.tasks.micro import words
from xling.tasks.micro.words import (
    LANGUAGES,
    Item,
    Symbols,
    asides_in,
    bit,
    builds,
    is_mark,
    is_slot,
    is_word,
    read,
    vocabulary,
)
from xling.tasks.micro.writing import Fact, FactSet

# --- how near a text's build is to the frames of the world, whatever names it holds -------------------------

# A shape is found from the sequence of symbols (words, marks, slots without their values), so it is computed once for
# the many responses that differ only in names.

_SUBJECT_NEEDS = 4  # a bare subject line says one of the (at least) four things that a summary frame says


class Shape(NamedTuple):
    """Errors of a build, and the parts that are right.

    `faults`: grammatical operations away from the frame, a mark counting half; `extra`: names and empty words
    too many; `asides`: positions of the names of each second statement; `needed`: names the frame has.
    """

    comprehensible: float
    faults: float
    extra: int
    asides: tuple[tuple[int, ...], ...]
    needed: int


class _Frame(NamedTuple):
    symbols: Symbols
    needed: int
    mask: int  # bits of its symbols in _bits()


@cache
def _bits() -> dict[str, int]:
    symbols = {part for build in _exact() for part in build}
    return {symbol: 1 << i for i, symbol in enumerate(sorted(symbols))}


def _mask(symbols: Symbols) -> int:
    bits = _bits()
    mask = 0
    for symbol in symbols:
        mask |= bits.get(symbol, 0)
    return mask


@cache
def _needed(head: str, tail: str) -> dict[Symbols, int]:
    """Every acceptable build -> names needed: those of the whole frame, whatever phrases are left out."""
    needed: dict[Symbols, int] = {}
    for build in builds(head, tail):
        symbols = build.symbols()
        names = sum(map(is_slot, symbols)) + sum(map(len, build.left_out))
        names = _SUBJECT_NEEDS if build.table == "subject" else names
        needed[symbols] = min(names, needed.get(symbols, names))
    return needed


@cache
def _frames(head: str, tail: str) -> tuple[_Frame, ...]:
    return tuple(_Frame(symbols, names, _mask(symbols)) for symbols, names in _needed(head, tail).items())


@cache
def _exact() -> dict[Symbols, int]:
    """The builds of all languages -> names needed."""
    merged: dict[Symbols, int] = {}
    for head, tail in product(LANGUAGES, repeat=2):
        for symbols, names in _needed(head, tail).items():
            merged[symbols] = min(names, merged.get(symbols, names))
    return merged


def nearest(symbols: Symbols, langs: tuple[str, ...]) -> _Frame:
    """The frame of these languages that shares most symbols with the text; the first among equals."""
    mask = _mask(symbols)
    frames = [frame for head in langs for tail in langs for frame in _frames(head, tail)]
    return max(frames, key=lambda f: (mask & f.mask).bit_count() / (len(symbols) + len(f.symbols)))


def aligned(symbols: Symbols, frame: Symbols) -> list[int]:
    """For each symbol its place in the frame, -1 if it has none; of several of a kind, firsts to firsts or
    lasts to lasts, whichever keeps more in order."""
    forward = _paired(symbols, frame)
    if _in_order([p for p in forward if p >= 0]) == sum(p >= 0 for p in forward):
        return forward
    last = len(frame) - 1
    backward = [last - p if p >= 0 else -1 for p in reversed(_paired(symbols[::-1], frame[::-1]))]
    return max(forward, backward, key=lambda places: _in_order([p for p in places if p >= 0]))


def _paired(symbols: Symbols, frame: Symbols) -> list[int]:
    places: dict[str, list[int]] = {}
    for i in range(len(frame) - 1, -1, -1):
        places.setdefault(frame[i], []).append(i)
    return [places[s].pop() if places.get(s) else -1 for s in symbols]


def _in_order(places: list[int]) -> int:
    """Length of the longest increasing subsequence."""
    tails: list[int] = []
    for place in places:
        at = bisect_left(tails, place)
        tails[at : at + 1] = [place]
    return len(tails)


def _compared(symbols: Symbols, frame: _Frame) -> tuple[float, float, int]:
    """(comprehensible, faults, extra) of symbols against the nearest frame.

    One word out of place is a fault of grammar; the second and further ones make the text hard to
    understand, as do words unknown to the world and more than three words too many or too few.
    """
    places = aligned(symbols, frame.symbols)
    matched = [place for place in places if place >= 0]
    surplus = [symbol for symbol, place in zip(symbols, places, strict=True) if place < 0]
    lacking = [frame.symbols[i] for i in set(range(len(frame.symbols))) - set(matched)]
    displaced = len(matched) - _in_order(matched)
    wrong_words = sum(map(is_word, surplus)) + sum(map(is_word, lacking))
    marks = sum(map(is_mark, (*surplus, *lacking)))
    known = vocabulary()
    unknown = sum(is_word(s) and s not in known for s in surplus)
    order = 1 - max(0, displaced - 1) / max(1, len(matched) - 1)
    build = max(0.0, 1 - max(0, wrong_words - 3) / len(symbols)) * (1 - unknown / len(symbols))
    return order * build, wrong_words + marks / 2 + min(1, displaced), sum(map(is_slot, surplus))


def _first_sentence(symbols: Symbols) -> int:
    """Where the first sentence ends: behind the first full stop that follows a word or name."""
    for i, symbol in enumerate(symbols):
        if symbol == "." and not all(map(is_mark, symbols[:i])):
            return i + 1
    return len(symbols)


def _with_more(shape: Shape, symbols: Symbols, end: int) -> Shape:
    """The first sentence's shape, and what follows it: further statements, each answering for itself."""
    rest = symbols[end:]
    known = vocabulary()
    solid = sum(not is_mark(s) for s in rest)
    unknown = sum(is_word(s) and s not in known for s in rest)
    names: list[list[int]] = [[]]
    for i, symbol in enumerate(rest, end):
        if is_slot(symbol):
            names[-1].append(i)
        elif symbol == ".":
            names.append([])
    return Shape(
        shape.comprehensible * (1 - unknown / len(symbols)),
        shape.faults + (0 if solid else len(rest) / 2),
        shape.extra + solid,
        (*shape.asides, *(tuple(found) for found in names if found)),
        shape.needed,
    )


@lru_cache(maxsize=100_000)
def shape_of(symbols: Symbols, langs: tuple[str, ...]) -> Shape:
    """Compare with the frames of all languages exactly, then with those of `langs` for the nearest.

    One sentence is asked for; whatever follows the first is superfluous.
    """
    needed = _exact().get(symbols)
    if needed is not None:
        return Shape(1.0, 0.0, 0, (), needed)
    end = _first_sentence(symbols)
    if end < len(symbols):
        return _with_more(shape_of(symbols[:end], langs), symbols, end)
    kept, found = asides_in(symbols)
    core = tuple(symbols[i] for i in kept)
    extra = sum(not is_mark(symbols[i]) for _, places in found for i in places)
    named = (tuple(i for i in places if is_slot(symbols[i])) for _, places in found)
    asides = tuple(places for places in named if places)
    needed = _exact().get(core)
    if needed is not None:
        return Shape(1.0, 0.0, extra, asides, needed)
    if not core:
        return Shape(0.0, 1.0, extra, asides, _SUBJECT_NEEDS)
    frame = nearest(core, langs)
    comprehensible, faults, surplus = _compared(core, frame)
    return Shape(comprehensible, faults, extra + surplus, asides, frame.needed)


# --- quality ------------------------------------------------------------------------------------------------

TRUTH = 3  # the power of `attributable`
COST = {  # of losing a dimension wholly, as a share of quality
    "comprehensible": 1.0,
    "no_repetition": 0.6,
    "grammatical": 0.5,
    "main_idea": 0.8,
    "concise": 0.6,
    "language": 0.9,
}
GOOD = 0.92  # simulated annotators call a summary good from here on

_FAULT = 0.3  # of grammaticality, for each operation away from the nearest frame
_REPEAT = 0.5  # of no_repetition, for each phrase said again
_BREVITY = 4  # concise = _BREVITY / (_BREVITY + superfluous words)


class Scores(NamedTuple):
    """Quality by dimension, and overall."""

    comprehensible: float
    no_repetition: float
    grammatical: float
    attributable: float
    main_idea: float
    concise: float
    language: float
    quality: float


DIMENSIONS = Scores._fields[:-1]
NOTHING = Scores(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _share_in(lang: str, items: Sequence[Item]) -> float:
    """Share of the world's words and names that the language has; numbers belong to none."""
    known = [item.langs for item in items if item.langs]
    return sum(1 for langs in known if langs & bit(lang)) / len(known) if known else 0.0


def _present_languages(lang: str, items: Sequence[Item], share: float) -> tuple[str, ...]:
    """The target, and the other language that most words are in if some are not the target's."""
    if share == 1.0:
        return (lang,)
    foreign = [item.langs for item in items if not item.langs & bit(lang)]
    votes = {other: sum(1 for langs in foreign if langs & bit(other)) for other in LANGUAGES if other != lang}
    return (lang, max(votes, key=lambda other: (votes[other], other)))


def _misspelt(present: Sequence[str], items: Sequence[Item]) -> int:
    """Names in a form that is wrong where they stand: article, plural beside its number.

    In a text of one language its own forms count, in a mixed one those of any language.
    """
    possible = present if len(present) == 1 else LANGUAGES
    wrong = 0
    for i, item in enumerate(items):
        spoken = [other for other in possible if item.langs & bit(other)]
        if item.symbol == "{T}":
            wrong += not any(item.right & bit(o) for o in spoken)
        elif item.symbol == "{U}":
            numbers = [items[j].value for j in (i - 1, i + 1) if 0 <= j < len(items) and items[j].symbol == "{N}"]
            if numbers:
                wrong += not any(agrees(other, item, numbers[0]) for other in spoken)
    return wrong


def agrees(lang: str, item: Item, number: int) -> bool:
    """Whether a unit has the form that it has beside a number, spaces apart."""
    right = words.unit(lang, item.value, number).replace("-", " - ")
    return item.text.split() == right.split()


def repeats(items: Sequence[Item]) -> list[set[int]]:
    """Positions of each phrase that repeats an earlier one.

    A repeated phrase: a name said again with the words that came before it, or a word twice in a row.
    """
    keys = [(item.symbol, item.value) for item in items]
    again = [key in keys[:i] and is_slot(key[0]) for i, key in enumerate(keys)]
    if not any(again) and not any(a == b and is_word(a[0]) for a, b in pairwise(keys)):
        return []
    found: list[set[int]] = []
    for i in range(len(keys)):
        if any(i in phrase for phrase in found):
            continue
        if again[i] or (i and keys[i] == keys[i - 1] and is_word(keys[i][0])):
            found.append(_phrase_around(keys, keys.index(keys[i]), i))
    return found


def _without_repeats(items: list[Item]) -> tuple[list[Item], int]:
    """The items without phrases that repeat earlier ones, and how many such phrases there were."""
    found = repeats(items)
    dropped = set[int]().union(*found)
    return [item for i, item in enumerate(items) if i not in dropped] if found else items, len(found)


def _phrase_around(keys: list[tuple[str, int]], first: int, second: int) -> set[int]:
    """Positions of the phrase around `second` that also stands around `first`, the final mark left alone."""
    start = 0
    while first > start and second - start - 1 > first and keys[first - start - 1] == keys[second - start - 1]:
        start += 1
    end = 0
    while (
        second + end + 1 < len(keys) - 1
        and first + end + 1 < second - start
        and keys[first + end + 1] == keys[second + end + 1]
    ):
        end += 1
    return set(range(second - start, second + end + 1))


def _matches(fact: Fact, said: Sequence[Item]) -> int:
    return sum(item.value == fact[words.SLOTS.index(item.symbol[1])] for item in said)


def _told(facts: FactSet, said: Sequence[Item]) -> tuple[int, int]:
    """(index of the fact that most of these names belong to, how many do). The topic decides a draw."""
    topics = {item.value for item in said if item.symbol == "{T}"}
    ranked = [(_matches(fact, said), fact.topic in topics, i == facts.main, -i) for i, fact in enumerate(facts.facts)]
    best = max(ranked)
    return -best[3], best[0]


def _truth(facts: FactSet, items: Sequence[Item], shape: Shape) -> tuple[float, float]:
    """(attributable, main_idea).

    Attributable: the share of the names said that belong to the same single fact of the document; a second
    statement ("also a fair in Peru") answers for itself. Main idea: 1 if the first statement is of the main
    fact, times the share of the frame's slots it fills.
    """
    aside = {i for positions in shape.asides for i in positions}
    said = [item for i, item in enumerate(items) if is_slot(item.symbol) and i not in aside]
    if not said:
        return 0.0, 0.0
    told, true = _told(facts, said)
    total = len(said)
    for positions in shape.asides:
        true += _told(facts, [items[i] for i in positions])[1]
        total += len(positions)
    covered = min(1.0, len({item.symbol for item in said}) / shape.needed)
    return true / total, covered if told == facts.main else 0.0


class Form(NamedTuple):
    """Properties of a text that need no facts. `faults` of grammar, wrong forms of names among them."""

    language: float
    kept: list[Item]  # without what is said again
    repeats: int
    shape: Shape
    faults: float


def form_of(lang: str, items: list[Item]) -> Form:
    """The form of the items of a text that should be in `lang`."""
    language = _share_in(lang, items)
    present = _present_languages(lang, items, language)
    kept, again = _without_repeats(items)
    shape = shape_of(tuple(item.symbol for item in kept), present)
    return Form(language, kept, again, shape, shape.faults + _misspelt(present, kept))


def assess(facts: FactSet, lang: str, text: str) -> Scores:
    """Scores of `text` as a summary, in `lang`, of the document that `facts` tell."""
    items = read(text)
    if not items:
        return NOTHING
    language, kept, again, shape, faults = form_of(lang, items)
    attributable, main_idea = _truth(facts, kept, shape)
    scores = {
        "comprehensible": shape.comprehensible,
        "no_repetition": max(0.0, 1 - _REPEAT * again),
        "grammatical": max(0.0, 1 - _FAULT * faults),
        "attributable": attributable,
        "main_idea": main_idea,
        "concise": _BREVITY / (_BREVITY + shape.extra),
        "language": language,
    }
    quality = attributable**TRUTH
    for dimension, cost in COST.items():
        quality *= 1 - cost * (1 - scores[dimension])
    return Scores(**scores, quality=quality)
