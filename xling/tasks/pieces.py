"""From rows to what a use of the data takes: splits by group, labels, pairs of ratings, recorded answers.

Pure functions for xling/tasks/files.py; nothing is read here.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from xling.errors import ConfigError
from xling.tasks.defaults import share
from xling.tasks.records import GOOD, Offer, Split
from xling.tasks.rows import Row

NEEDED = 2  # groups of a split: an interval is drawn over them, and a penalty is chosen between them


class Piece(Struct, frozen=True, gc=False):
    """One item of a use. `row` is the prompt's; `other` the rejected response of a pair."""

    row: Row
    split: Split
    response: str = ""
    other: str = ""
    label: float = 0.0
    system: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """How ratings become labels in 0..1, which training on single responses needs (binary cross-entropy).

    With a threshold good (1) or bad (0); else 0 and 1 as they are, or their mean where several people rated a
    response; else a stated scale is mapped to 0..1. Ratings without either are refused: a scale guessed from the data
    would change when data is added.
    """

    threshold: float | None
    scale: tuple[float, float] | None
    binary: bool  # all that people gave is 0 or 1

    def of(self, rating: float, path: str) -> float:
        """The label of a rating; ConfigError with what to type."""
        if self.threshold is not None:
            return float(rating >= self.threshold)
        if self.binary:
            return rating
        if self.scale is not None:
            return (rating - self.scale[0]) / (self.scale[1] - self.scale[0])
        raise ConfigError(
            f"{path} has ratings other than 0 and 1, and labels must lie in 0..1. Type task.threshold=NUMBER (good "
            "from there on) or task.rating_scale=[LOWEST,HIGHEST]; task.feedback=pairwise and policy=recorded need "
            "neither."
        )


# --- splits -------------------------------------------------------------------------------------------------


def split_groups(languages: Mapping[str, Iterable[Row]], seed: int, validation: float, test: float) -> dict[str, Split]:
    """group -> split, by seeded hashes of the groups' names: rows that are added put no other group elsewhere.

    Where chance leaves validation or test with less than NEEDED of those groups of a language that have the same kinds
    of rows, the nearest ones are taken as well, as far as the shares go. A group that several languages have (parallel
    documents) is in one split in all of them; groups in which the same prompt occurs are one already
    (xling/tasks/reading.py). A `split` column wins over this (Piece.split).
    """
    held: dict[str, set[tuple[str, str]]] = {}
    for lang, rows in languages.items():
        for row in rows:
            held.setdefault(row.group, set()).add((lang, row.kind))
    strata: dict[frozenset[tuple[str, str]], list[str]] = {}
    for group, found in held.items():
        strata.setdefault(frozenset(found), []).append(group)
    splits: dict[str, Split] = {}
    for groups in strata.values():
        placed = sorted((share(seed, group), group) for group in groups)
        tested = _at_least(test, len(placed), sum(place < test for place, _ in placed))
        rest = sum(place < test + validation for place, _ in placed[tested:])
        held_out = tested + _at_least(validation, len(placed), rest)
        for rank, (_, group) in enumerate(placed):
            splits[group] = "test" if rank < tested else "validation" if rank < held_out else "train"
    return splits


def _at_least(share: float, n: int, found: int) -> int:
    """How many of n groups a split gets: those `found` by chance, but NEEDED if its share of them is that much."""
    return max(found, min(NEEDED, round(share * n)))


def _split(row: Row, splits: Mapping[str, Split]) -> Split:
    return row.split or splits[row.group]  # type: ignore[return-value]  # checked when it was read


# --- uses ---------------------------------------------------------------------------------------------------


def pieces(rows: Sequence[Row], splits: Mapping[str, Split], what: Offer, labels: Labels, path: str) -> list[Piece]:
    """One language's items of a use, in all splits; `path` is for errors."""
    if what == "ratings":
        return [_rating(row, splits, labels, path) for row in rows if row.kind == "rating"]
    if what == "pairs":
        return _pairs(rows, splits)
    if what == "prompts":
        first = {row.id: row for row in reversed(rows)}
        return [Piece(first[name], _split(first[name], splits)) for name in sorted(first)]
    return _demonstrations(rows, splits, labels, path)


def _rating(row: Row, splits: Mapping[str, Split], labels: Labels, path: str) -> Piece:
    return Piece(row, _split(row, splits), row.response, "", labels.of(row.rating, path), row.system)


def _pairs(rows: Sequence[Row], splits: Mapping[str, Split]) -> list[Piece]:
    """Pairs as they are, then each two responses to a prompt that people rated differently, the better one first."""
    found = [Piece(row, _split(row, splits), row.response, row.other) for row in rows if row.kind == "pair"]
    for rated in _by_prompt(row for row in rows if row.kind == "rating"):
        for better in rated:
            found += [
                Piece(better, _split(better, splits), better.response, worse.response)
                for worse in rated
                if better.rating > worse.rating and better.response != worse.response
            ]
    return found


def _demonstrations(rows: Sequence[Row], splits: Mapping[str, Split], labels: Labels, path: str) -> list[Piece]:
    """What the data has to imitate; without any, what people preferred."""
    shown = [Piece(row, _split(row, splits), row.response) for row in rows if row.kind == "demonstration"]
    if shown:
        return shown
    preferred: dict[tuple[str, str], Piece] = {}
    for paired in _by_prompt(row for row in rows if row.kind == "pair"):
        worse = {row.other for row in paired}
        for row in paired:
            if row.response not in worse:
                preferred.setdefault((row.id, row.response), Piece(row, _split(row, splits), row.response))
    for rated in _by_prompt(row for row in rows if row.kind == "rating" and row.response.strip()):
        best = max(rated, key=lambda row: row.rating)
        if labels.of(best.rating, path) >= GOOD:
            preferred.setdefault((best.id, best.response), Piece(best, _split(best, splits), best.response))
    return list(preferred.values())


def _by_prompt(rows: Iterable[Row]) -> Iterable[list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found.values()


def answers(rows: Sequence[Row]) -> list[tuple[Row, list[Piece]]]:
    """(the prompt's row, its recorded responses by system name, rated as people did), by prompt id.

    A pair is a prompt of its own: chosen 1, rejected 0. Its two `systems` are 1 and 2, by a hash, so that the order
    says nothing about which was chosen. Without a system column a prompt's responses are numbered by their text.
    """
    found: list[tuple[Row, list[Piece]]] = []
    for paired in _by_prompt(row for row in rows if row.kind == "pair"):
        for number, row in enumerate(paired, start=1):
            own = row if len(paired) == 1 else replace(row, id=f"{row.id}/{number}")
            found.append((own, in_random_order(own, row.response, row.other)))
    for rated in _by_prompt(row for row in rows if row.kind == "rating"):
        if not rated[0].system:
            by_text = sorted(rated, key=lambda row: row.response)
            rated = [replace(row, system=str(number)) for number, row in enumerate(by_text, start=1)]
        rated = sorted(rated, key=lambda row: row.system)
        answered = [Piece(row, "test", row.response, "", row.rating, row.system) for row in rated]
        found.append((rated[0], answered))
    return sorted(found, key=lambda one: one[0].id)


def in_random_order(row: Row, chosen: str, rejected: str) -> list[Piece]:
    """The two responses of a pair as systems 1 and 2, ordered by a hash of the prompt's id."""
    first = hashlib.sha256(row.id.encode()).digest()[0] % 2
    both = [Piece(row, "test", chosen, "", 1.0), Piece(row, "test", rejected, "", 0.0)]
    ordered = [both[first], both[1 - first]]
    return [replace(piece, system=str(number)) for number, piece in enumerate(ordered, start=1)]
