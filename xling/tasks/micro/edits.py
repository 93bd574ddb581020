"""What was done to the words of one frame, done to those of another: words lost, added and moved, about as they were.

Where there are several ways, the one is taken after which a text is as good as the first one was.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from xling.tasks.micro.lexicon import is_slot, is_word


class Part(NamedTuple):
    """A word, name or mark of a translation; `symbol` as in lexicon.Item."""

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
        pairs = range(len(parts) - 1)
        places = _nearest_first([i for i in pairs if _solid(parts[i]) and _solid(parts[i + 1])], self.where, len(parts))
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


def _solid(part: Part) -> bool:
    return is_slot(part.symbol) or is_word(part.symbol)


def _nearest_first(places: Sequence[int], where: float, length: int) -> list[int]:
    return sorted(places, key=lambda i: (abs(i - where * length), i))
