"""Cross-fitting folds by document: balanced, and decided by names and seeds, never by the order of rows."""

import hashlib
from collections.abc import Iterable


def assign_folds(groups: Iterable[str], folds: int, *seeds: int | str) -> dict[str, int]:
    """group -> fold in 0..folds-1; groups are dealt out by their hashes, so sizes differ by 1 at most."""

    def place(group: str) -> bytes:
        return hashlib.sha256("\0".join([*map(str, seeds), group]).encode()).digest()

    return {group: rank % folds for rank, group in enumerate(sorted(set(groups), key=place))}
