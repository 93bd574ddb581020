"""Cross-fitting folds by document: balanced, and decided by names and seeds, never by the order of rows."""

import hashlib
from collections.abc import Iterable

from xling.tasks.records import Half


def in_order(groups: Iterable[str], *seeds: int | str) -> list[str]:
    """Each group once, in a random order that the seeds decide: its first N are a nested sample."""

    def place(group: str) -> bytes:
        return hashlib.sha256("\0".join([*map(str, seeds), group]).encode()).digest()

    return sorted(set(groups), key=place)


def assign_folds(groups: Iterable[str], folds: int, *seeds: int | str) -> dict[str, int]:
    """group -> fold in 0..folds-1; dealt out `in_order`, so that sizes differ by 1 at most, of any first N as well."""
    return {group: rank % folds for rank, group in enumerate(in_order(groups, *seeds))}


def half_of(group: str) -> Half:
    """Of all documents, by a hash of the name alone: parallel documents stand in the same half in every language."""
    return "second" if hashlib.sha256(f"half\0{group}".encode()).digest()[0] & 1 else "first"
