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
Prompt = tuple[str, str]  # (language, id)


class Repeats:
    """Watches the columns of a file while its rows are read."""

    def __init__(self, unread: Sequence[str]) -> None:
        self._values: dict[str, dict[Prompt, str]] = {name: {} for name in unread if NAMES.fullmatch(name)}

    def see(self, row: Mapping[str, Any], prompt: Prompt) -> None:
        """A good row; a column that says two things of one prompt is no document's, nor is one of long texts."""
        for name in list(self._values):
            value = row.get(name)
            named = isinstance(value, str | int) and not isinstance(value, bool) and len(str(value)) <= LONGEST
            if not named or self._values[name].setdefault(prompt, str(value)) != str(value):
                del self._values[name]

    def found(self) -> dict[str, tuple[int, int]]:
        """Column -> (values, prompts), of those that several prompts share and not all."""
        counts = {name: (len(set(of.values())), len(of)) for name, of in self._values.items()}
        return {name: (values, prompts) for name, (values, prompts) in counts.items() if 1 < values < prompts}
