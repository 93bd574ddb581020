"""sha256 of files, whole, and what is remembered of them: what was made of a file that differs in one byte is another.

Hashing gigabytes takes a while, so the digest of a large file is remembered on disk by its path, size, modification
time and inode: `$XDG_CACHE_HOME/xling/digests.jsonl`, a line a file, only ever added to. What takes a while to make of
files is remembered beside it by their digests (`recalled`). What does not fit its checksum is as if it were not there.
Deleting either costs time alone.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from xling.jsonfiles import decode, sealed, unsealed

LARGE = 64 << 20  # bytes; from here on a digest is remembered on disk
SLOW = 0.05  # seconds; what takes less to make is made again

Facts = tuple[str, int, int, int]
Made = TypeVar("Made")


class _Known(msgspec.Struct, array_like=True):
    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str
    check: str = ""  # of the fields before

    def checked(self) -> str:
        facts = (self.path, self.size, self.mtime_ns, self.inode, self.sha256)
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 of a file's content, hexadecimal; read once for each size, modification time and inode."""
    status = path.stat()
    return _digest((str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino))


def text_digest(text: str) -> str:
    """sha256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def chance(name: str) -> float:
    """A number in [0, 1) that a name alone decides, so that what else is there draws nothing anew."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / 2**56


@functools.lru_cache(maxsize=1 << 16)  # a release can have thousands of small files
def _digest(facts: Facts) -> str:
    large = facts[1] >= LARGE
    if large and (known := _remembered().get(facts)):
        return known
    with open(facts[0], "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if large:
        _remember(_Known(*facts, found))
    return found


def recalled(name: str, kind: type[Made], make: Callable[[], Made]) -> Made:
    """The Struct that `make` returned when any process last asked under this name; without one `make` is called.

    The name, a sha256, must be of everything that decides it: the digests of the files, the settings, the code.
    """
    path = _memory().with_name("made") / f"{name}.json"
    with suppress(OSError, msgspec.DecodeError):  # not there, or damaged
        return unsealed(path.read_bytes(), kind)
    start = time.perf_counter()
    made = make()
    if time.perf_counter() - start < SLOW:
        return made
    with suppress(OSError):  # no home, or a full one: then it is made again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        unfinished.write_bytes(sealed(msgspec.json.encode(made)))
        unfinished.replace(path)
    return made


def _memory() -> Path:
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if folder.startswith("~"):  # nobody's home, as containers have it: nothing is remembered
        folder = os.devnull
    return Path(folder) / "xling" / "digests.jsonl"


def _remembered() -> dict[Facts, str]:
    known: dict[Facts, str] = {}
    with suppress(OSError):
        for line in _memory().read_bytes().splitlines():
            with suppress(msgspec.DecodeError):  # two processes may write at once
                one = decode(line, type=_Known)
                if one.check == one.checked():
                    known[one.path, one.size, one.mtime_ns, one.inode] = one.sha256
    return known


def _remember(one: _Known) -> None:
    with suppress(OSError):  # no home, or a full one: then it is hashed again next time
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with _memory().open("ab") as file:
            file.write(msgspec.json.encode(msgspec.structs.replace(one, check=one.checked())) + b"\n")
