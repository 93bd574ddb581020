"""Exact translation within the embedded world: a text is read, and written in another language with its errors.

What is right in the text is right in the translation, and an error becomes an error of the same kind: a false value
stays, a phrase written twice is written twice, a lost, moved or superfluous word is one again, and so is a wrong form,
or a lost word where the other language has no wrong form. The two languages change places: a passage in the target
language, an error in the source, stands in the source language afterwards. Any text at all has a translation.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise, product
from typing import NamedTuple

from xling.tasks.micro import words
from xling.tasks.micro.gold import agrees, aligned, form_of, nearest, repeats
from xling.tasks.micro.words import (
    ADDITIONS,
    FILLERS,
    LANGUAGES,
    Aside,
    Build,
    Chunk,
    Item,
    Symbols,
    asides_in,
    bit,
    builds,
    is_mark,
    is_slot,
    is_word,
    parts_of,
    read,
    slots_of,
    text_of,
    vocabulary,
)

# --- lost, added and moved words of one frame, repeated on those of another ---------------------------------

# Where there are several ways, the one is taken after which a text is as good as the first one was.


class Part(NamedTuple):
    """A word, name or mark of a translation; `symbol` as in words.Item."""

    symbol: str
    text: str


Parts = list[Part]


class Lost(NamedTuple):
    """A word (or a mark) is not there; `where` in the frame, 0 to 1."""

    where: float
    word: bool

    def ways(self, parts: Parts) -> Iterator[Parts]:
        """The parts without one, the nearest first."""
        places = [i for i, part in enumerate(parts) if is_word(part.symbol) == self.word and not is_slot(part.symbol)]
        for i in _nearest_first(places, self.where, len(parts)):
            yield [*parts[:i], *parts[i + 1 :]]


class Added(NamedTuple):
    """A word, name or mark is there that does not belong."""

    where: float
    part: Part

    def ways(self, parts: Parts) -> Iterator[Parts]:
        """The parts with it, at the nearest place first."""
        for i in _nearest_first(range(1, len(parts) + 1), self.where, len(parts)):
            yield [*parts[:i], self.part, *parts[i:]]


class Swapped(NamedTuple):
    """Two neighbours have changed places."""

    where: float
    symbols: frozenset[str]  # of those of them that are names

    def ways(self, parts: Parts) -> Iterator[Parts]:
        """The parts with two neighbours swapped: first the same names, then the nearest."""
        solid = [not is_mark(part.symbol) for part in parts]
        places = _nearest_first([i for i, both in enumerate(pairwise(solid)) if all(both)], self.where, len(parts))
        same = [i for i in places if self.symbols and self.symbols <= {parts[i].symbol, parts[i + 1].symbol}]
        for i in (*same, *(i for i in places if i not in same)):
            yield [*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]]


class Shuffled(NamedTuple):
    """More than two stand elsewhere: `order` has the ranks of the frame's parts as they stand."""

    order: tuple[int, ...]

    def ways(self, parts: Parts) -> Iterator[Parts]:
        """The parts in an order that is to theirs as that one is to 0, 1, 2, ...; a full stop stays last."""
        place = {rank: number for number, rank in enumerate(self.order)}
        end = len(parts) - 1 if parts and parts[-1].symbol == "." else len(parts)
        scale = (len(self.order) - 1) / max(1, end - 1)
        ranked = sorted(range(end), key=lambda i: (place[round(i * scale)], i))
        yield [*(parts[i] for i in ranked), *parts[end:]]


Edit = Lost | Added | Swapped | Shuffled


def moved_by(matched: Sequence[tuple[int, str]]) -> Swapped | Shuffled | None:
    """How parts, (place in the frame, symbol) as they stand, have been moved; None: they have not."""
    ranks = sorted(place for place, _ in matched)
    order = [ranks.index(place) for place, _ in matched]
    wrong = [i for i, rank in enumerate(order) if i != rank]
    if not wrong:
        return None
    if len(wrong) == 2 and wrong[1] == wrong[0] + 1:
        names = frozenset(matched[i][1] for i in wrong if is_slot(matched[i][1]))
        return Swapped(wrong[0] / len(order), names)
    return Shuffled(tuple(order))


def edited(
    parts: Parts, edits: Sequence[Edit], whole: Callable[[Parts], Parts], alike: Callable[[Parts], bool]
) -> Parts:
    """The `whole` of the parts after all edits; the last one in the first way that is `alike`, or else nearest."""
    if not edits:
        return whole(parts)
    for edit in edits[:-1]:
        parts = next(edit.ways(parts), parts)
    ways = [whole(way) for way in edits[-1].ways(parts)] or [whole(parts)]
    return next((way for way in ways if alike(way)), ways[0]) if len(ways) > 1 else ways[0]


def _nearest_first(places: Sequence[int], where: float, length: int) -> list[int]:
    return sorted(places, key=lambda i: (abs(i - where * length), i))


# --- reading and writing again ------------------------------------------------------------------------------

CLOSE = 1e-9
UNCOUNTED = 14  # the number that a unit without one agrees with


def exactly(text: str, source: str, target: str) -> str:
    """The translation of a text from one language of the world to another."""
    return text_of([part.text for part in parts(text, source, target)])


def parts(text: str, source: str, target: str) -> list[Part]:
    """The same, as words, names and marks."""
    return [part for sentence in sentences(read(text)) for part in _Sentence(sentence, source, target).parts()]


def sentences(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items up to and with each full stop."""
    sentence: list[Item] = []
    for item in items:
        sentence.append(item)
        if item.symbol == ".":
            yield sentence
            sentence = []
    if sentence:
        yield sentence


@cache
def builds_by_symbols() -> dict[Symbols, list[Build]]:
    """Symbols of a sentence -> the frames that it may be made of."""
    found: dict[Symbols, list[Build]] = {}
    for head, tail in product(LANGUAGES, repeat=2):
        for build in builds(head, tail):
            found.setdefault(build.symbols(), []).append(build)
    return found


# --- one sentence -------------------------------------------------------------------------------------------


class _Sentence:
    """A sentence of the source, to be said in the target."""

    def __init__(self, items: list[Item], source: str, target: str) -> None:
        self.source, self.target = source, target
        self.change = {lang: {source: target, target: source}.get(lang, lang) for lang in LANGUAGES}
        again = repeats(items)
        self.all = items
        self.items = [item for i, item in enumerate(items) if not any(i in phrase for phrase in again)]
        self.again = [[items[i] for i in sorted(phrase)] for phrase in again]
        self.strange = [item.langs for item in self.items if item.langs and not item.langs & bit(source)]
        others = [lang for lang in LANGUAGES if lang != source]
        # the other language that most of the words are in that are not the source's
        self.foreign = max(others, key=lambda lang: sum(1 for langs in self.strange if langs & bit(lang)))
        self.faults = 0  # wrong forms that the target has no like of

    def parts(self) -> list[Part]:
        kept, said = asides_in(tuple(item.symbol for item in self.items))
        core = [self.items[i] for i in kept]
        symbols = tuple(item.symbol for item in core)
        known = builds_by_symbols().get(symbols)
        places = list(range(len(symbols)))
        if known is None:
            frame = nearest(symbols, (self.source, self.foreign) if self.strange else (self.source,)).symbols
            known, places = builds_by_symbols()[frame], aligned(symbols, frame)
        # of several the one that is most in the source's language, and in one language
        build = max(known, key=lambda b: ((b.head == self.source) + (b.tail == self.source), b.head == b.tail))
        out, edits = self._framed(build, core, places), self._edits(build, core, places)

        def whole(parts: Parts) -> Parts:
            end = len(parts) - 1 if parts and parts[-1].symbol == "." else len(parts)
            return [*parts[:end], *(part for aside in said for part in self._aside(*aside)), *parts[end:]]

        return edited(out, edits, whole, lambda parts: self._alike(parts, bool(said)))

    def _alike(self, parts: Parts, superfluous: bool) -> bool:
        """Whether the translation has as many errors as the source, each as grave; superfluous words may differ."""
        forms = form_of(self.source, self.all), form_of(self.target, read(text_of([part.text for part in parts])))
        first, second = (
            (f.shape.comprehensible, f.faults, f.repeats, f.shape.extra * (not superfluous)) for f in forms
        )
        return all(abs(a - b) < CLOSE for a, b in zip(first, second, strict=True))

    # --- its words ------------------------------------------------------------------------------------------

    def _framed(self, build: Build, core: list[Item], places: list[int]) -> Parts:
        """The target's frame with those of the source's names in it that the source has."""
        own = [(part, chunk.lang) for chunk in build.chunks() for part in chunk.parts]
        at = {place: item for item, place in zip(core, places, strict=True) if place >= 0}
        named = {own[place][0]: (item, own[place][1]) for place, item in at.items() if is_slot(own[place][0])}
        out: Parts = []
        for chunk in self._said_again(build.chunks(self.change)):
            for part in chunk.parts:
                if not is_slot(part):
                    out.append(Part(part, part))
                elif part in named:
                    out.append(self._name(*named[part], chunk.lang, named))
        return out

    def _edits(self, build: Build, core: list[Item], places: list[int]) -> list[Edit]:
        """Edits of the source's frame: words lost, moved and added."""
        own = [part for chunk in build.chunks() for part in chunk.parts]
        there = set(places)
        lost = [(number, part) for number, part in enumerate(own) if number not in there and not is_slot(part)]
        edits: list[Edit] = [Lost(number / len(own), is_word(part)) for number, part in lost]
        edits += [Lost(0.5, True)] * self.faults
        matched = [(place, item.symbol) for item, place in zip(core, places, strict=True) if place >= 0]
        if (moved := moved_by(matched)) is not None:
            edits.append(moved)
        for number, (item, place) in enumerate(zip(core, places, strict=True)):
            if place < 0:
                edits.append(Added(number / len(core), self._stray(item)))
        return edits

    def _said_again(self, phrases: list[Chunk]) -> list[Chunk]:
        """The phrases, those twice that have a name which the source says twice; of a word, one with a word alone."""
        for phrase in self.again:
            slots = slots_of(item.symbol for item in phrase)
            have = [i for i, chunk in enumerate(phrases) if slots & slots_of(chunk.parts)]
            where = have[-1] if have else 0
            said = phrases[where]
            if not slots:
                word = next((part for part in said.parts if is_word(part)), "")
                at = said.parts.index(word)
                said = said._replace(parts=(*said.parts[: at + 1], word, *said.parts[at + 1 :]))
                phrases = [*phrases[:where], said, *phrases[where + 1 :]]
            else:
                phrases = [*phrases[:where], said, *phrases[where:]]
        return phrases

    def _name(self, item: Item, home: str, lang: str, named: dict[str, tuple[Item, str]]) -> Part:
        """A name in the language that it is in: the phrase's own, or, where it was a foreign one, a foreign one."""
        spoken = lang
        if item.langs and not item.langs & bit(home):
            home = _home(item, self.foreign)
            spoken = self.change[home]
        number = named["{N}"][0].value if "{N}" in named else None
        return Part(item.symbol, self._form(item, home, spoken, number))

    def _form(self, item: Item, home: str, lang: str, number: int | None) -> str:
        slot = item.symbol[1]
        if slot == "U":
            right = words.unit(lang, item.value, UNCOUNTED if number is None else number)
            fits = number is None or agrees(home, item, number)
            wrong = () if fits else words.wrong_units(lang, item.value, number or UNCOUNTED)
        else:
            right = words.name(lang, slot, item.value)
            fits = slot != "T" or bool(item.right & bit(home))
            wrong = () if fits else words.wrong_topics(lang, item.value)
        if fits:
            return right
        if wrong:
            return wrong[0]
        self.faults += 1
        return right

    def _stray(self, item: Item) -> Part:
        """A word or name where none belongs."""
        home = _home(item, self.source, self.foreign)
        if is_slot(item.symbol):
            return self._name(item, home, self.change[home], {})
        if not item.langs:
            return Part(item.symbol, item.text)
        word = _like(item.symbol, home, self.change[home])
        return Part(word, word)

    def _aside(self, aside: Aside, places: range) -> list[Part]:
        lang = self.change[aside.lang]
        if aside.table == "filler":
            phrase = min(FILLERS[lang], key=lambda one: abs(len(parts_of(one)) - len(places)))
            return [Part(part, part) for part in parts_of(phrase)]
        items = [self.items[i] for i in places]
        named = {item.symbol: (item, aside.lang) for item in items if is_slot(item.symbol)}
        return [
            self._name(*named[part], lang, {}) if is_slot(part) else Part(part, part)
            for part in parts_of(ADDITIONS[lang][aside.frame])
        ]


def _home(item: Item, *likely: str) -> str:
    """The language that a word or name is of: the first of the likely ones that has it, else any that has."""
    return next(lang for lang in (*likely, *LANGUAGES) if not item.langs or item.langs & bit(lang))


@cache
def _like(word: str, source: str, target: str) -> str:
    """A word of the target that is to its words as this one is to the source's, in alphabetical order."""
    own, other = (sorted(w for w, langs in vocabulary().items() if langs & bit(x)) for x in (source, target))
    same_case = [w for w in other if w[:1].isupper() == word[:1].isupper()] or other
    return same_case[own.index(word) * len(same_case) // len(own)]
