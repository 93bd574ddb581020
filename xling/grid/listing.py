"""What stands in one kind's folder of the store, told by its names alone."""

import os
import re
from dataclasses import dataclass, field

from xling.grid.files import Unreadable

KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys that have a result, a failure, ...; full names of what a key can have several of."""

    results: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)
    leftovers: list[str] = field(default_factory=list)  # <key>.tmp-*, .old-*, .stale-*
    damaged: list[str] = field(default_factory=list)  # <key>.damaged-*

    def add(self, name: str) -> None:
        key, dot, suffix = name.partition(".")
        if not KEY.fullmatch(key):
            return
        if not dot:
            self.results.add(key)
        elif suffix == "failed.json":
            self.failed.add(key)
        elif suffix == "claim":
            self.claimed.add(key)
        elif suffix == "partial":
            self.partial.add(key)
        elif suffix.startswith("damaged-"):
            self.damaged.append(name)
        elif suffix.startswith(("tmp-", "old-", "stale-")):
            self.leftovers.append(name)


def scan(folder: str) -> Listing:
    """Empty if there is no such folder."""
    found = Listing()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.add(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise Unreadable(error, folder) from error
    return found
