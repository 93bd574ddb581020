"""All files of your own as rows: bad ones left out and named, responses that several people rated with their mean.

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

from xling.tasks.rows import Parser, Place, Reading, Row, Rows
from xling.tasks.tables import open_table


def read_rows(paths: Sequence[Path], reading: Reading) -> Rows:
    """Read all files. ConfigError if one cannot be read or lacks columns; DataError if it is damaged.

    Bad rows are collected, not raised, so that a caller can name unknown languages beside them, or skip them. A
    response that several rows rate is one row with their mean rating; `again` has the places of the others. Good rows
    are in an order that their content decides, and in which a first part of them is one of all.
    """
    rows = Rows(list(paths))
    seen = _Seen(rows)
    for file, path in enumerate(paths):
        table = open_table(path)
        rows.units.append(table.unit)
        parser = Parser(table, reading) if table.columns else None  # a table of nothing, or of unreadable rows
        if parser is not None:
            rows.without_language |= "lang" not in parser.columns
            rows.rated |= "rating" in parser.columns
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
            rows.binary &= row.kind != "rating" or row.rating in (0.0, 1.0)
            if seen.rated_before(row):
                rows.again.setdefault(row.lang, []).append(place)
                continue
            rows.languages.setdefault(row.lang, []).append(row)
            rows.chats |= row.chat
            if not row.response:
                rows.empty.setdefault(row.lang, []).append(place)
    for lang in rows.again:
        rows.languages[lang] = [seen.averaged(row) for row in rows.languages[lang]]
    for found_rows in rows.languages.values():
        found_rows.sort(key=_order)
    return rows


def _order(row: Row) -> tuple[Any, ...]:
    """By the prompt's hashed id, whatever the order in the files; no two rows of a language have the same."""
    return hashlib.sha256(row.id.encode()).digest(), row.kind, row.system, row.response, row.other


class _Seen:
    """What the rows before have said, for duplicates, contradictions, and responses that several people rated."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._prompts: dict[tuple[str, str], tuple[str, Place]] = {}
        self._answers: dict[tuple[str, ...], Row] = {}
        self._ratings: dict[tuple[str, ...], list[Row]] = {}  # of responses that were rated more than once
        self._splits: dict[str, tuple[str, Place]] = {}

    def conflict(self, row: Row) -> str | None:
        """Why this row cannot stand beside those before it."""
        text, first = self._prompts.setdefault((row.lang, row.id), (row.prompt, row.place))
        if text != row.prompt:
            return f"the prompt of id {row.id!r} differs from the one in {self._rows.name(first)}"
        if row.split:
            split, first = self._splits.setdefault(row.group, (row.split, row.place))
            if split != row.split:
                return f"split {row.split}, and {self._rows.name(first)} of the same group is in {split}"
        same = self._answers.setdefault(_answer(row), row)
        if same is row or (row.kind == "rating" and same.response == row.response):
            return None
        other = ", another response" if row.kind == "rating" else ""
        by = f", system {row.system!r}{other}" if row.system else ", the same response"
        what = f"id {row.id!r}, lang {row.lang!r}{by if row.kind != 'pair' else ''}"
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
