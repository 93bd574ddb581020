"""All files of your own as rows: bad ones left out and named, responses that several people rated with their mean.

Rows whose prompts are the same, in whatever Unicode form, case and spacing, are of one group, and so are groups that
share one: a group's name is the least of theirs, whatever the order of rows.

    rows = read_rows([Path("ratings.csv")], Reading())
    rows.languages["de"], rows.bad, rows.again

Knows no torch; xling/tasks/files.py makes a task of it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from xling.errors import shown
from xling.measures.language import is_code
from xling.tasks.rows import MISSING, Parser, Place, Reading, Row, Rows, Texts, blank, read_code
from xling.tasks.tables import is_table, open_table

SIMILAR = 3  # names that differ in case alone, of which so many are said


def read_rows(paths: Sequence[Path], reading: Reading) -> Rows:
    """Read all files. ConfigError if one cannot be read or lacks columns; DataError if it is damaged.

    Bad rows are collected, not raised, so that a caller can name unknown languages beside them, or skip them. A
    response that several rows rate is one row with their mean rating; `again` has the places of the others. Good rows
    are in an order that their content decides, and in which a first part of them is one of all.
    """
    rows, texts = Rows(list(paths)), Texts()
    seen, named = _Seen(rows, texts), _languages_of(paths, reading)
    for file, path in enumerate(paths):
        table = open_table(path)
        rows.units.append(table.unit)
        own = msgspec.structs.replace(reading, lang=named.get(path, reading.lang))
        parser = Parser(table, own, rows, texts) if table.columns else None  # a table of nothing, or of unreadable rows
        if parser is not None:
            if "lang" not in parser.columns and path in named:
                rows.named_after[path.name] = named[path]
            rows.without_language |= "lang" not in parser.columns and path not in named
            rows.rated |= "rating" in parser.columns
            if parser.kind == "prompt":
                rows.alone.append((path.name, table.columns))
        for number, found in table.rows():
            rows.n += 1
            if parser is not None and parser.kind == "demonstration" and isinstance(found, dict):
                rows.unrated += parser.unrated(table, found)
            place = Place(file, number)
            row = found if isinstance(found, str) or parser is None else parser.parse(place, found)
            reason = seen.conflict(row) if isinstance(row, Row) else row
            if not isinstance(row, Row) or reason:
                rows.reject(place, str(reason))
                continue
            if rows.binary and row.kind == "rating" and row.rating not in (0.0, 1.0):
                rows.binary = False
            if seen.rated_before(row):
                rows.again.setdefault(row.lang, []).append(place)
                continue
            rows.languages.setdefault(row.lang, []).append(row)
            if row.chat:
                rows.chats.add(row.lang)
            if row.kind == "rating" and blank(row.response):
                rows.empty.setdefault(row.lang, []).append(place)
            if row.response.strip() in MISSING:
                rows.none.setdefault(row.lang, []).append(place)
    for lang in rows.again:
        rows.languages[lang] = [seen.averaged(row) for row in rows.languages[lang]]
    for found_rows in rows.languages.values():
        found_rows.sort(key=_order)
    _join(rows, texts)
    _compare(rows, texts)
    return rows


def _order(row: Row) -> tuple[Any, ...]:
    """By the prompt's hashed id, whatever the order in the files; no two rows of a language have the same."""
    return hashlib.sha256(row.id.encode()).digest(), row.kind, row.system, row.response, row.other


def _languages_of(paths: Sequence[Path], reading: Reading) -> dict[Path, str]:
    """The languages that files are named after: en.jsonl, pairs.en.jsonl; of several also pairs_en.jsonl, en/all.jsonl.

    For files that have no column of languages. One name alone decides nothing where the language is told otherwise.
    """
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


def _join(rows: Rows, texts: Texts) -> None:
    """Give all rows of groups that share a prompt, directly or through others, one group: the least of their names."""
    name: dict[str, str] = {}

    def found(group: str) -> str:
        while name.setdefault(group, group) != group:
            group = name[group]
        return group

    first: dict[str, str] = {}  # a prompt, as it is matched -> the group in which it was seen first
    for own in rows.languages.values():
        for row in own:
            before = first.setdefault(texts.matched(row.prompt), row.group)
            if before != row.group:
                one, other = found(row.group), found(before)
                name[max(one, other)] = min(one, other)
    if not name:
        return
    for lang, own in rows.languages.items():
        rows.languages[lang] = [
            row if (group := found(row.group)) == row.group else msgspec.structs.replace(row, group=group)
            for row in own
        ]


def _compare(rows: Rows, texts: Texts) -> None:
    """Note prompts that are the same text in another form or that stand in two splits, and names that look alike."""
    shapes: dict[str, str] = {}
    splits: dict[str, str] = {}
    for lang in sorted(rows.languages):
        for row in rows.languages[lang]:
            prompt = texts.matched(row.prompt)
            if shapes.setdefault(prompt, row.prompt) != row.prompt:
                rows.alike.setdefault(lang, []).append(row.place)
            if row.split and splits.setdefault(prompt, row.split) != row.split:
                rows.crossing.setdefault(lang, []).append(row.place)
    every = [row for own in rows.languages.values() for row in own]
    for role in ("id", "system", "dataset"):
        first: dict[str, str] = {}
        for name in sorted({getattr(row, role) for row in every}):
            if (other := first.setdefault(name.casefold(), name)) != name and len(rows.similar) < SIMILAR:
                rows.similar.append((role, other, name))


class _Seen:
    """What the rows before have said, for duplicates, contradictions, and responses that several people rated."""

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
        if row.split:
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

    def averaged(self, row: Row) -> Row:
        """The row with the mean of all ratings of its response; what else they say is of the least of them."""
        rated = self._ratings.get(_answer(row))
        if rated is None:
            return row
        least = min(rated, key=lambda one: (one.group, one.dataset, one.split))
        return msgspec.structs.replace(least, place=row.place, rating=fmean(one.rating for one in rated))


def _answer(row: Row) -> tuple[str, ...]:
    """What a prompt has once: a system's response, or, where no system is named, a text or a pair of them."""
    named = row.system if row.kind != "pair" else ""
    return (row.kind, row.lang, row.id, *((named,) if named else (row.response, row.other)))
