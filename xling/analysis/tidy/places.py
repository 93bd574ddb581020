"""Where a cell stands in a matrix: at home or abroad, and names in a sentence."""

from collections.abc import Iterable

MOST_NAMED = 6


def is_home(source: str, target: str) -> bool:
    """Trained on the target's own feedback and on nothing else."""
    return source == target


def some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    there = list(dict.fromkeys(names))
    rest = len(there) - MOST_NAMED
    return ", ".join(there[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


# --- tidy tables --------------------------------------------------------------------------------------------
