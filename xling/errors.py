"""The errors people meet. Every message is a sentence: what was wrong, the value, what is allowed,
and the override to type instead.

XlingError
├── ConfigError     what was asked for cannot be: raised while planning, before anything runs
├── DataError       an input file or dataset is not what it should be (names the line)
├── StoreError      a stored result is damaged, edited or unreadable: named, never used
└── StageError      a stage cannot go on (diverged, killed, out of budget)
"""

import difflib
from collections.abc import Iterable


class XlingError(Exception):
    """Base of every error that xling raises on purpose."""


class ConfigError(XlingError):
    """The request cannot be fulfilled; nothing has been run."""


class DataError(XlingError):
    """Input data does not have the promised form."""


class StoreError(XlingError):
    """A stored result cannot be trusted or the store cannot be written."""


class StageError(XlingError):
    """A stage stopped for a reason that running on would not mend."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the nearest known word (of equally near ones, one that begins alike), or nothing."""
    close = difflib.get_close_matches(word, list(known), n=5, cutoff=0.6)
    if not close:
        return ""
    nearness = [difflib.SequenceMatcher(None, one, word).ratio() for one in close]
    nearest = [one for one, value in zip(close, nearness, strict=True) if value == max(nearness)]
    return f" Did you mean '{max(nearest, key=lambda one: one[:1] == word[:1])}'?"
