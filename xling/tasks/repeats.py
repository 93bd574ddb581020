"""Columns that name what several prompts share, and that nothing reads: perhaps the documents.

Splits and intervals go by groups; where prompts of one document are taken for independent, what is tested was trained
on and intervals are too narrow. No numbers change by this: the plan says what to type.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Names of such columns; domain, year and other kinds of text are shared as well and name no document.
NAMES = re.compile(
    r"(doc|document|article|thread|tree|conversation|dialog|dialogue|story|source|url|page|passage|context|talk|session)"
    r"(_?(id|url|name|title))?",
    re.IGNORECASE,
)
LONGEST = 500  # characters of a name
MANY = 100  # prompts a value: a source that has more is no document
STRAY = 0.05  # prompts of which it may say two things: the same question opens two conversations
Prompt = tuple[str, str]  # (language, id)


class Repeats:
    """Watches the columns of a file while its rows are read."""

    def __init__(self, unread: Sequence[str]) -> None:
        self._values: dict[str, dict[Prompt, str]] = {name: {} for name in unread if NAMES.fullmatch(name)}
        self._differ: dict[str, set[Prompt]] = {name: set() for name in self._values}

    def see(self, row: Mapping[str, Any], prompt: Prompt) -> None:
        """A good row; a column without a value, or with a long text, names no documents."""
        for name in list(self._values):
            value = row.get(name)
            if not isinstance(value, str | int) or isinstance(value, bool) or len(str(value)) > LONGEST:
                del self._values[name]
            elif self._values[name].setdefault(prompt, str(value)) != str(value):
                self._differ[name].add(prompt)

    def found(self) -> dict[str, tuple[int, int]]:
        """Column -> (values, prompts), of those that say one thing of a prompt and that some prompts share."""
        counts = {name: (len(set(of.values())), len(of)) for name, of in self._values.items()}
        return {
            name: (values, prompts)
            for name, (values, prompts) in counts.items()
            if 1 < values < prompts <= MANY * values and len(self._differ[name]) <= STRAY * prompts
        }
