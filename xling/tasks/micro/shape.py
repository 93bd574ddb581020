"""How near a text's build is to the frames of the world, whatever names it holds.

A shape is found from the sequence of symbols (words, marks, slots without their values), so it is computed
once for the many responses that differ only in names.
"""

from bisect import bisect_left
from functools import cache, lru_cache
from itertools import combinations
from typing import NamedTuple

from xling.tasks.micro.frames import ADDITIONS, DOCUMENT, FILLERS, SUBJECT, SUMMARY, chunks_of, parts_of
from xling.tasks.micro.lexicon import is_slot, is_word, vocabulary
from xling.tasks.micro.words import LANGUAGES

Symbols = tuple[str, ...]

_SUBJECT_NEEDS = 4  # a bare subject line says one of the (at least) four things that a summary frame says


class Shape(NamedTuple):
    """What is right and wrong with a build.

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
    symbols = {part for a in LANGUAGES for b in LANGUAGES for frame in _builds(a, b) for part in frame}
    return {symbol: 1 << i for i, symbol in enumerate(sorted(symbols))}


def _mask(symbols: Symbols) -> int:
    bits = _bits()
    mask = 0
    for symbol in symbols:
        mask |= bits.get(symbol, 0)
    return mask


@cache
def _builds(head: str, tail: str) -> dict[Symbols, int]:
    """Every acceptable build -> names needed: summary frames that start in one language and end in another,
    with or without their optional phrases; within one language document and subject sentences too."""
    needed: dict[Symbols, int] = {}
    for index in range(len(SUMMARY[head])):
        chunks = [c for c in chunks_of(head, index) if not c.tail] + [c for c in chunks_of(tail, index) if c.tail]
        optional = [i for i, chunk in enumerate(chunks) if chunk.optional]
        total = sum(is_slot(part) for chunk in chunks for part in chunk.parts)
        for count in range(len(optional) + 1):
            for dropped in combinations(optional, count):
                build = tuple(p for i, chunk in enumerate(chunks) if i not in dropped for p in chunk.parts)
                needed[build] = min(total, needed.get(build, total))
    if head == tail:
        needed |= {parts_of(frame): 5 for frame in DOCUMENT[head]}
        needed |= {parts_of(frame): _SUBJECT_NEEDS for frame in SUBJECT[head]}
    return needed


@cache
def _frames(head: str, tail: str) -> tuple[_Frame, ...]:
    return tuple(_Frame(symbols, needed, _mask(symbols)) for symbols, needed in _builds(head, tail).items())


@cache
def _exact() -> dict[Symbols, int]:
    merged: dict[Symbols, int] = {}
    for head in LANGUAGES:
        for tail in LANGUAGES:
            for build, needed in _builds(head, tail).items():
                merged[build] = min(needed, merged.get(build, needed))
    return merged


@cache
def _asides() -> dict[str, tuple[Symbols, ...]]:
    """Second symbol -> fillers and additions that begin with a comma and it, longest first."""
    found: dict[str, list[Symbols]] = {}
    for lang in LANGUAGES:
        for phrase in (*FILLERS[lang], *ADDITIONS[lang]):
            symbols = parts_of(phrase)
            found.setdefault(symbols[1], []).append(symbols)
    return {second: tuple(sorted(phrases, key=lambda s: (-len(s), s))) for second, phrases in found.items()}


def _without_asides(symbols: Symbols) -> tuple[Symbols, tuple[tuple[int, ...], ...], int]:
    """The symbols without fillers and additions, the positions of the names these held, their words."""
    kept: list[str] = []
    asides: list[tuple[int, ...]] = []
    extra = at = 0
    while at < len(symbols):
        phrases = _asides().get(symbols[at + 1], ()) if symbols[at] == "," and at + 1 < len(symbols) else ()
        phrase = next((p for p in phrases if symbols[at : at + len(p)] == p), None)
        if phrase is None:
            kept.append(symbols[at])
            at += 1
            continue
        extra += sum(is_word(symbol) or is_slot(symbol) for symbol in phrase)
        asides.append(tuple(i for i in range(at, at + len(phrase)) if is_slot(symbols[i])))
        at += len(phrase)
    return tuple(kept), tuple(aside for aside in asides if aside), extra


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
    marks = sum(not is_word(s) and not is_slot(s) for s in (*surplus, *lacking))
    known = vocabulary()
    unknown = sum(is_word(s) and s not in known for s in surplus)
    order = 1 - max(0, displaced - 1) / max(1, len(matched) - 1)
    build = max(0.0, 1 - max(0, wrong_words - 3) / len(symbols)) * (1 - unknown / len(symbols))
    return order * build, wrong_words + marks / 2 + min(1, displaced), sum(map(is_slot, surplus))


def _first_sentence(symbols: Symbols) -> int:
    """Where the first sentence ends: behind the first full stop that follows a word or name."""
    for i, symbol in enumerate(symbols):
        if symbol == "." and any(is_word(s) or is_slot(s) for s in symbols[:i]):
            return i + 1
    return len(symbols)


def _with_more(shape: Shape, symbols: Symbols, end: int) -> Shape:
    """The first sentence's shape, and what follows it: further statements, each answering for itself."""
    rest = symbols[end:]
    known = vocabulary()
    solid = sum(is_word(s) or is_slot(s) for s in rest)
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
    core, asides, extra = _without_asides(symbols)
    needed = _exact().get(core)
    if needed is not None:
        return Shape(1.0, 0.0, extra, asides, needed)
    if not core:
        return Shape(0.0, 1.0, extra, asides, _SUBJECT_NEEDS)
    frame = nearest(core, langs)
    comprehensible, faults, surplus = _compared(core, frame)
    return Shape(comprehensible, faults, extra + surplus, asides, frame.needed)
