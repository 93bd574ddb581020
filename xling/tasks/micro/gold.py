"""Gold quality: exact, from the facts, for any text whatever.

Seven dimensions in [0, 1] (Seahorse's six, and language), each computed by a rule below, and the overall

    quality = attributable ** 3 * prod_d (1 - COST[d] * (1 - score_d)),   d the other six

A correct summary in any frame has exactly 1. Empty text, and text that states nothing, has 0.
Attribution and the main idea count most: one false value of five takes half of the quality, a correct summary
of a side fact four fifths. Any one of the errors in errors.py takes more than 1 - GOOD, a missing full stop
less, so that GOOD separates flawless from flawed. Upper and lower case are told apart.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from xling.tasks.micro import words
from xling.tasks.micro.facts import Fact, FactSet
from xling.tasks.micro.lexicon import Item, bit, is_slot, is_word, read
from xling.tasks.micro.shape import Shape, shape_of
from xling.tasks.micro.words import LANGUAGES

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
                wrong += not any(_agrees(o, item, numbers[0]) for o in spoken)
    return wrong


def _agrees(lang: str, item: Item, number: int) -> bool:
    return " ".join(item.text.split()) == words.unit(lang, item.value, number).replace("-", " - ")


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
    """What can be told of a text without the facts. `faults` of grammar, wrong forms of names among them."""

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
