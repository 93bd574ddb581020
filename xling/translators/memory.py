"""What was translated before, by whichever stage of a root: a folder a model, its settings and a pair of languages.

    memory = Memory(folder, {"model": ..., "source": "en", "target": "tr"})
    memory.get(text)              # (True, "..."), or (False, None)
    memory.add({text: "..."})     # one more file, which appears whole or not at all

A file a block of texts rather than one a text, since there may be millions. Files are only ever added; a line that its
checksum does not fit is as if it were not there, and the folder can be deleted. Two stages that run at once may
translate a text twice, to the same.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from xling.grid.files import write_atomically
from xling.grid.stage import canonical_json
from xling.jsonfiles import decode

# sha256 of a text, its translation (None: the model made nothing of it), and a checksum of both
Entry = tuple[str, str | None, str]


class Memory:
    """Translations on disk; where each one stands is kept in memory, not the text itself."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        self.folder = root / hashlib.sha256(canonical_json(dict(identity))).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[Path, int]] = {}
        self._seen: set[str] = set()

    def refresh(self) -> None:
        """See what other stages have added."""
        for path in sorted(self.folder.glob("*.jsonl")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._index(path)

    def get(self, text: str) -> tuple[bool, str | None]:
        """(whether it was translated, the translation)."""
        place = self._places.get(_name(text))
        if place is None:
            return False, None
        path, start = place
        try:
            with path.open("rb") as file:
                file.seek(start)
                return True, _entry(file.readline())[1]
        except (OSError, msgspec.DecodeError):  # deleted or damaged meanwhile
            return False, None

    def add(self, translations: Mapping[str, str | None]) -> None:
        """Keep some translations."""
        if not translations:
            return
        named = [(_name(text), said) for text, said in translations.items()]
        lines = [msgspec.json.encode((name, said, _check(name, said))) + b"\n" for name, said in named]
        content = b"".join(lines)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
        write_atomically(path, content)
        self._seen.add(path.name)
        self._index(path)

    def _index(self, path: Path) -> None:
        start = 0
        with path.open("rb") as file:
            for line in file:
                with suppress(msgspec.DecodeError):  # a damaged line is as if it were not there
                    self._places.setdefault(_entry(line)[0], (path, start))
                start += len(line)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check(name: str, said: str | None) -> str:
    return hashlib.sha256(msgspec.json.encode((name, said))).hexdigest()[:16]


def _entry(line: bytes) -> Entry:
    """What a line says; DecodeError if it is not what was written."""
    found: Entry = decode(line, type=Entry)
    if found[2] != _check(*found[:2]):
        raise msgspec.DecodeError("the checksum does not fit")
    return found
