"""Formats of the files that results folders are made of, and what is said of one that another xling wrote.

A number goes up when old readers would misread the file; a field that may be missing or unknown needs none.
"""

from collections.abc import Sequence

import msgspec

from xling.errors import StoreError
from xling.grid.files import are_plain
from xling.jsonfiles import decode

PLAN = 1  # plan.json
PLAN_AGAIN = "run the grid's command again: it writes the plan anew, and finished results are found by their keys"
RESULT = 1  # done.json of a stage's result
MATRIX = 1  # matrix.json


def check_format(what: str, found: int, known: int, redo: str) -> None:
    """StoreError unless the format is the known one. redo: what brings the file up to date, a clause."""
    if found > known:
        raise StoreError(
            f"{what} has format {found} and was written by a newer xling; this one reads format {known}. "
            f"Use that version, or {redo}."
        )
    if found < known:
        raise StoreError(
            f"{what} has format {found} and was written by an older xling; this one reads format {known}. "
            f"{redo[:1].upper()}{redo[1:]}."
        )


def check_plan(path: str, words: set[str]) -> None:
    """StoreError if a plan's name, kinds or keys lead to what is outside of the results folder."""
    if are_plain(words):
        return
    for word in sorted(words):
        if not are_plain({word}):
            raise StoreError(f"'{path}' names a file '{word}', which would be elsewhere. {PLAN_AGAIN.capitalize()}.")


def check_order(path: str, parents: Sequence[Sequence[int]]) -> None:
    """StoreError unless each stage's parents are places before its own."""
    if any(not 0 <= parent < place for place, above in enumerate(parents) for parent in above):
        raise StoreError(f"'{path}' names parents of a stage that do not stand before it. {PLAN_AGAIN.capitalize()}.")


def format_of(content: bytes, default: int = 0) -> int | None:
    """The format that a JSON file of cells or blocks names, `default` where it names none; None: no such file."""
    try:
        fields = decode(content, type=dict[str, msgspec.Raw])
        if "format" in fields:
            return decode(fields["format"], type=int)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return default if {"cells", "blocks"} & set(fields) else None
