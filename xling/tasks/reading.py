"""All files of your own as rows, and as what a use of the data takes: splits by group, labels, pairs, answers.

Bad rows are left out and named, responses that several people rated have their mean.

Rows whose prompts are the same, in whatever Unicode form, case and spacing, are of one group, and so are groups that
share one: a group's name is the least of theirs, whatever the order of rows. So are long prompts that one character
tells apart.

    rows = read_rows([Path("ratings.csv")], Reading())
    rows.languages["de"], rows.bad, rows.again

Knows no torch; xling/tasks/files.py makes a task of it.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, shown
from xling.measures.language import is_code
from xling.tasks.defaults import share
from xling.tasks.parsing import Parser, is_number, read_code
from xling.tasks.paths import SPLITS, is_table, told_by
from xling.tasks.records import GOOD, Offer, Split, turns_of
from xling.tasks.repeats import Repeats, nearly_same
from xling.tasks.rows import ALSO, DOCUMENTS, MISSING, Columns, Place, Reading, Row, Rows, Unrated
from xling.tasks.tables import Table, open_table
from xling.tasks.texts import Texts, blank
from xling.tasks.wmt import published

SIMILAR = 3  # names of one role that look alike, of which so many are said


def read_rows(paths: Sequence[Path], reading: Reading) -> Rows:
    """Read all files. ConfigError if one cannot be read or lacks columns; DataError if it is damaged.

    Bad rows are collected, not raised, so that a caller can name unknown languages beside them, or skip them. A
    response that several rows rate is one row with their mean rating; `again` has the places of the others. Good rows
    are in an order that their content decides, and in which a first part of them is one of all.
    """
    rows, texts = Rows(list(paths)), Texts()
    seen, named = _Seen(rows, texts), _languages_of(paths, reading)
    watched, raters = list[tuple[str, Repeats]](), set[str]()
    for file, path in enumerate(paths):
        own = msgspec.structs.replace(reading, lang=named.get(path, reading.lang), split=_split_of(path, reading))
        table, own = _opened(path, own, rows)
        rows.units.append(table.unit)
        parser = Parser(table, own, rows, texts) if table.columns else None  # a table of nothing, or of unreadable rows
        repeats = Repeats(_described(rows, table, parser, named) if parser is not None else ())
        for number, found in table.rows():
            rows.n += 1
            place = Place(file, number)
            row = found if isinstance(found, str) or parser is None else parser.parse(place, found)
            reason = seen.conflict(row) if isinstance(row, Row) else row
            if not isinstance(row, Row) or reason:
                rows.reject(place, str(reason))
                continue
            repeats.see(found, (row.lang, row.id))  # type: ignore[arg-type]  # a row that could be read
            if rows.binary and row.kind == "rating" and row.rating not in (0.0, 1.0):
                rows.binary = False
            raters.add(row.rater)
            if seen.rated_before(row):
                rows.noted["again", row.lang].append(place)
                continue
            rows.languages.setdefault(row.lang, []).append(row)
            if row.chat:
                rows.chats.add(row.lang)
            if row.kind == "rating" and blank(row.response):
                rows.noted["empty", row.lang].append(place)
            if row.response.strip() in MISSING:
                rows.noted["none", row.lang].append(place)
        if repeats:
            watched.append((path.name, repeats))
    for lang, good in rows.languages.items():
        score = _rating if reading.raters == "mean" else seen.by_rater(lang, good)
        changed = ("again", lang) in rows.noted or reading.raters != "mean"
        rows.languages[lang] = sorted((seen.averaged(row, score) for row in good) if changed else good, key=_order)
    rows.binary &= reading.raters == "mean"
    _join(rows, texts)
    # what is counted by groups is counted by those that splits and intervals go by
    rows.several = {lang: seen.several(good) for lang, good in rows.languages.items()}
    groups = {(row.lang, row.id): row.group for own in rows.languages.values() for row in own} if watched else {}
    for name, repeats in watched:
        for column, counts in repeats.found(groups).items():
            rows.repeats.setdefault(column, (name, *counts))
    _compare(rows, texts, raters)
    return rows


def _described(rows: Rows, table: Table, parser: Parser, named: Mapping[Path, str]) -> Sequence[str]:
    """Note what is said of a file as a whole; its unread columns, unless one that was named tells its groups."""
    path, columns = table.path, parser.columns
    if "lang" not in columns and path in named:
        alone = [one.name for one in rows.paths].count(path.name) == 1
        rows.named_after[path.name if alone else f"{path.parent.name}/{path.name}"] = named[path]
    rows.without_language |= "lang" not in columns and path not in named
    rows.rated |= "rating" in columns
    if parser.kind == "prompt":
        rows.alone.append((path.name, table.columns))
    unread = [name for name in table.columns if name not in columns.values()]
    first = next((row for _, row in table.rows() if isinstance(row, dict)), None)
    if parser.kind == "demonstration" and first is not None:
        numbers = tuple(name for name in unread if is_number(first.get(name)))
        rows.unrated.append(Unrated(path.name, table.columns, numbers))
    if columns.get("group") in DOCUMENTS:
        rows.documents[path.name] = columns["group"]
    return () if "group" in columns or parser.ungrouped else unread


def _opened(path: Path, reading: Reading, rows: Rows) -> tuple[Table, Reading]:
    """A file, and how it is read: one in a layout of WMT has columns of its own."""
    table = open_table(path, encoding=reading.encoding)
    if not {reading.columns.prompt, *ALSO["prompt"]}.isdisjoint(table.columns):
        return table, reading
    if (found := published(table, reading.lang, reading.rating_field)) is None:
        return table, reading
    rows.published.append(found.note)
    asked = reading.columns
    ignored = {role: None for role in ("system", "group", "rater") if getattr(asked, role) is None}
    columns = Columns(split=asked.split, dataset=asked.dataset, **ignored)
    return found.table, msgspec.structs.replace(reading, columns=columns, rating_field="rating")


def _order(row: Row) -> tuple[Any, ...]:
    """By the prompt's hashed id, whatever the order in the files; no two rows of a language have the same."""
    return hashlib.sha256(row.id.encode()).digest(), row.kind, row.system, row.response, row.other


def _languages_of(paths: Sequence[Path], reading: Reading) -> dict[Path, str]:
    """The languages that files are named after: en.jsonl, pairs.en.jsonl; of several also pairs_en.jsonl, en/all.jsonl.

    For files that have no column of languages. One name alone decides nothing where the language is told otherwise.
    """
    if "{lang}" in reading.pattern:
        return {path: read_code(told_by(reading.pattern, path)["lang"], reading.varieties) for path in paths}
    surely, perhaps = dict[Path, str](), dict[Path, str]()
    for path in paths:
        stem = path.name
        while is_table(Path(stem)) or stem.lower().endswith(".gz"):
            stem = Path(stem).stem
        last = stem.rpartition(".")[2]
        parts = (*last.replace("-", "_").split("_")[::-1][:1], path.parent.name)
        if is_code(last):
            surely[path] = perhaps[path] = read_code(last, reading.varieties)
        elif code := next((part for part in parts if is_code(part)), None):
            perhaps[path] = read_code(code, reading.varieties)
    found = perhaps if len(set(perhaps.values())) > 1 and len(perhaps) == len(paths) else surely
    return found if not reading.lang or len(set(found.values())) > 1 else {}


def _split_of(path: Path, reading: Reading) -> str:
    """The split that the pattern of paths says; empty if it says none. ConfigError for a name that is none."""
    name = told_by(reading.pattern, path).get("split", "") if reading.pattern else ""
    if name and name.lower() not in SPLITS:
        raise ConfigError(
            f"task.path={reading.pattern}: {shown(name)} of {path.name} is no split; {{split}} is {', '.join(SPLITS)}."
        )
    return SPLITS.get(name.lower(), "")


def _join(rows: Rows, texts: Texts) -> None:
    """Give all rows of groups that share a prompt, directly or through others, one group: the least of their names.

    Prompts that one character tells apart are shared, too.
    """
    name: dict[str, str] = {}

    def found(group: str) -> str:
        while name.setdefault(group, group) != group:
            group = name[group]
        return group

    def join(left: str, right: str) -> None:
        one, other = found(left), found(right)
        name[max(one, other)] = min(one, other)

    first: dict[str, str] = {}  # a prompt, as it is matched -> the group in which it was seen first
    for own in rows.languages.values():
        for row in own:
            before = first.setdefault(texts.matched(row.prompt), row.group)
            if before != row.group:
                join(row.group, before)
    for one, other in nearly_same(first):
        rows.near += found(first[one]) != found(first[other])
        join(first[one], first[other])
    if not name:
        return
    for lang, own in rows.languages.items():
        rows.languages[lang] = [
            row if (group := found(row.group)) == row.group else msgspec.structs.replace(row, group=group)
            for row in own
        ]


def _compare(rows: Rows, texts: Texts, raters: Collection[str]) -> None:
    """Note prompts that are the same text in another form, groups in two splits, and names that look alike.

    raters: of all good rows, also of those that are averaged with another.
    """
    shapes: dict[str, str] = {}
    splits: dict[str, str] = {}
    for lang in sorted(rows.languages):
        for row in rows.languages[lang]:
            prompt = texts.matched(row.prompt)
            if shapes.setdefault(prompt, row.prompt) != row.prompt:
                rows.noted["alike", lang].append(row.place)
            # prompts that came alone are counted where they are tested and trained on (`trained_on`)
            if row.split and row.kind != "prompt" and splits.setdefault(row.group, row.split) != row.split:
                rows.noted["crossing", lang].append(row.place)
    every = [row for own in rows.languages.values() for row in own]
    names = {role: {getattr(row, role) for row in every} for role in ("id", "system", "dataset")} | {"rater": raters}
    for role, own in names.items():
        first: dict[str, str] = {}
        alike = ((first.setdefault(" ".join(name.casefold().split()), name), name) for name in sorted(own))
        rows.similar += [(role, other, name) for other, name in alike if other != name][:SIMILAR]


class _Seen:
    """Memory of earlier rows, to detect duplicates, contradictions, and responses that several people rated."""

    def __init__(self, rows: Rows, texts: Texts) -> None:
        self._rows, self._texts = rows, texts
        self._prompts: dict[tuple[str, str], tuple[str, Place]] = {}
        self._answers: dict[tuple[str, ...], Row] = {}
        self._ratings: dict[tuple[str, ...], list[Row]] = {}  # of responses that were rated more than once
        self._splits: dict[str, tuple[str, Place]] = {}

    def conflict(self, row: Row) -> str | None:
        """Why this row cannot stand beside those before it."""
        text, first = self._prompts.setdefault((row.lang, row.id), (row.prompt, row.place))
        if text != row.prompt:
            alike = self._texts.matched(text) == self._texts.matched(row.prompt)
            form = " in Unicode form, case or spaces alone" if alike else ""
            return f"the prompt of id {shown(row.id)} differs from the one in {self._rows.name(first)}{form}"
        if turns_of(text) != turns_of(row.prompt):
            return f"the prompt of id {shown(row.id)} has other turns than the one in {self._rows.name(first)}"
        if row.split and row.kind != "prompt":  # prompts that came alone are counted where they are trained on, too
            split, first = self._splits.setdefault(row.group, (row.split, row.place))
            if split != row.split:
                return f"split {row.split}, and {self._rows.name(first)} of the same group is in {split}"
        same = self._answers.setdefault(_answer(row), row)
        if same is row or (row.kind == "rating" and same.response == row.response):
            return None
        other = ", another response" if row.kind == "rating" else ""
        by = f", system {shown(row.system)}{other}" if row.system else ", the same response"
        what = f"id {shown(row.id)}, lang {shown(row.lang)}{by if row.kind in ('rating', 'demonstration') else ''}"
        return f"duplicate of {self._rows.name(same.place)}: {what}"

    def rated_before(self, row: Row) -> bool:
        """Whether an earlier row rates the same response, to which this one's rating is then added."""
        key = _answer(row)
        if (first := self._answers[key]) is row:
            return False
        self._ratings.setdefault(key, [first]).append(row)
        return True

    def averaged(self, row: Row, score: Callable[[Row], float]) -> Row:
        """The row with the mean of all scores of its response; what else they say is of the least of them."""
        if row.kind != "rating":
            return row
        rated = self._ratings.get(_answer(row), [row])
        least = min(rated, key=lambda one: (one.group, one.dataset, one.split))
        return msgspec.structs.replace(least, place=row.place, rating=_mean(list(map(score, rated))))

    def several(self, rows: Sequence[Row]) -> list[tuple[str, list[float]]]:
        """(group, ratings) of those of a language's responses that were rated more than once."""
        rated = [(row.group, self._ratings.get(_answer(row))) for row in rows if row.kind == "rating"]
        return [(group, _one_a_rater(own)) for group, own in rated if own]

    def by_rater(self, lang: str, rows: Sequence[Row]) -> Callable[[Row], float]:
        """A rating less the mean of its rater's in the language, over their standard deviation (n - 1); 0 without any.

        Graham et al. 2013, Continuous Measurement Scales in Human Evaluation of Machine Translation: WMT's z scores.
        """
        given: dict[str, list[float]] = {}
        for row in rows:
            if row.kind == "rating":
                for one in self._ratings.get(_answer(row), [row]):
                    given.setdefault(one.rater, []).append(one.rating)
        scales = {}
        for rater, ratings in given.items():
            mean, flat = fmean(ratings), min(ratings) == max(ratings)  # whose mean may be off by a last digit
            squares = math.fsum((one - mean) ** 2 for one in ratings)
            scales[rater] = mean, 0.0 if flat else math.sqrt(squares / (len(ratings) - 1))
        self._rows.one_note[lang] = sum(not spread for _, spread in scales.values())

        def score(row: Row) -> float:
            mean, spread = scales[row.rater]
            return (row.rating - mean) / spread if spread else 0.0

        return score


def _rating(row: Row) -> float:
    return row.rating


def _one_a_rater(rows: Sequence[Row]) -> list[float]:
    """The ratings of one response; who rated it again has the mean of theirs. A row that names nobody is another's."""
    own: dict[str, list[float]] = {}
    for place, row in enumerate(rows):
        own.setdefault(f"rater {row.rater}" if row.rater else f"row {place}", []).append(row.rating)
    return [_mean(ratings) for ratings in own.values()]


def _mean(ratings: Sequence[float]) -> float:
    """Their mean; the decimal that it is but for a float's last digits: as good as 0.1 are 0.1, 0.1 and 0.1."""
    found = fmean(ratings)
    decimal = round(found, 9)
    return decimal if math.isclose(found, decimal, rel_tol=1e-15, abs_tol=1e-15) else found


def _answer(row: Row) -> tuple[str, ...]:
    """Key of a response that a prompt has once: the system, or, where none is named, the text or pair of texts."""
    named = row.system if row.kind != "pair" else ""
    return (row.kind, row.lang, row.id, *((named,) if named else (row.response, row.other)))


# --- what a use of the data takes ---------------------------------------------------------------------------

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

    path: str  # for errors
    threshold: float | None
    scale: tuple[float, float] | None
    binary: bool  # all that people gave is 0 or 1

    def of(self, rating: float) -> float:
        """The label of a rating; ConfigError with what to type."""
        if self.threshold is not None:
            return float(rating >= self.threshold)
        if self.binary:
            return rating
        if self.scale is not None:
            return (rating - self.scale[0]) / (self.scale[1] - self.scale[0])
        raise ConfigError(
            f"{self.path} has ratings other than 0 and 1, and labels must lie in 0..1. Type task.threshold=NUMBER "
            "(good from there on) or task.rating_scale=[LOWEST,HIGHEST]; task.feedback=pairwise and policy=recorded "
            "need neither."
        )


# --- splits -------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def split_groups(rows: Rows, seed: int, validation: float, test: float) -> Mapping[str, Split]:
    """group -> split, by seeded hashes of the groups' names: rows that are added put no other group elsewhere.

    Where chance leaves validation or test with less than NEEDED of those groups of a language that have the same kinds
    of rows, the nearest ones are taken as well, as far as the shares go. A group that several languages have (parallel
    documents) is in one split in all of them; groups in which the same prompt occurs are one already. A `split`
    column wins over this (Piece.split).
    """

    def at_least(share: float, n: int, found: int) -> int:
        """Of n groups those `found` by chance, but NEEDED if the split's share of them is that much."""
        return max(found, min(NEEDED, round(share * n)))

    held: dict[str, set[tuple[str, str]]] = {}
    for lang, own in rows.languages.items():
        for row in own:
            held.setdefault(row.group, set()).add((lang, row.kind))
    strata: dict[frozenset[tuple[str, str]], list[str]] = {}
    for group, found in held.items():
        strata.setdefault(frozenset(found), []).append(group)
    splits: dict[str, Split] = {}
    for groups in strata.values():
        placed = sorted((share(seed, group), group) for group in groups)
        tested = at_least(test, len(placed), sum(place < test for place, _ in placed))
        rest = sum(place < test + validation for place, _ in placed[tested:])
        held_out = tested + at_least(validation, len(placed), rest)
        for rank, (_, group) in enumerate(placed):
            splits[group] = "test" if rank < tested else "validation" if rank < held_out else "train"
    return splits


def _split(row: Row, splits: Mapping[str, Split]) -> Split:
    """Of a prompt that came alone test: who gives prompts beside the data wants to know what is said to them."""
    asked = "test" if row.kind == "prompt" else splits[row.group]
    return row.split or asked  # type: ignore[return-value]  # checked when it was read


def trained_on(rows: Sequence[Row], splits: Mapping[str, Split]) -> list[Row]:
    """A language's prompts that came alone and are tested, and of whose group other rows train."""
    seen = {row.group for row in rows if row.kind != "prompt" and _split(row, splits) == "train"}
    return [row for row in rows if row.kind == "prompt" and row.group in seen and _split(row, splits) == "test"]


# --- uses ---------------------------------------------------------------------------------------------------


def pieces(rows: Sequence[Row], splits: Mapping[str, Split], what: Offer, labels: Labels) -> list[Piece]:
    """One language's items of a use, in all splits."""
    if what == "ratings":
        rated = [row for row in rows if row.kind == "rating"]
        return [Piece(row, _split(row, splits), row.response, "", labels.of(row.rating), row.system) for row in rated]
    if what == "pairs":
        return _pairs(rows, splits)
    if what == "prompts":
        alone = [row for row in rows if row.kind == "prompt"]
        first = {row.id: row for row in reversed(alone or rows)}
        return [Piece(first[name], _split(first[name], splits)) for name in sorted(first)]
    return _demonstrations(rows, splits, labels)


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


def _demonstrations(rows: Sequence[Row], splits: Mapping[str, Split], labels: Labels) -> list[Piece]:
    """Demonstrations in the data; without any, the responses that people preferred."""
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
        if labels.of(best.rating) >= GOOD:
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
            own = row if len(paired) == 1 else msgspec.structs.replace(row, id=f"{row.id}/{number}")
            found.append((own, in_random_order(own, row.response, row.other)))
    for rated in _by_prompt(row for row in rows if row.kind == "rating"):
        if not rated[0].system:
            by_text = sorted(rated, key=lambda row: row.response)
            rated = [msgspec.structs.replace(row, system=str(number)) for number, row in enumerate(by_text, start=1)]
        rated = sorted(rated, key=lambda row: row.system)
        answered = [Piece(row, "test", row.response, "", row.rating, row.system) for row in rated]
        found.append((rated[0], answered))
    return sorted(found, key=lambda one: one[0].id)


def in_random_order(row: Row, chosen: str, rejected: str) -> list[Piece]:
    """The two responses of a pair as systems 1 and 2, ordered by a hash of the prompt's id."""
    first = hashlib.sha256(row.id.encode()).digest()[0] % 2
    both = [Piece(row, "test", chosen, "", 1.0), Piece(row, "test", rejected, "", 0.0)]
    ordered = [both[first], both[1 - first]]
    return [msgspec.structs.replace(piece, system=str(number)) for number, piece in enumerate(ordered, start=1)]
