"""Small things with files that the rest of grid/ shares: atomic writes, fsync, JSON, disk errors."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from xling.errors import StoreError

SMALL = 1 << 20  # bytes that are read at once; of the many small files of a grid that takes half the time


def json_bytes(value: Any, indent: int = 2) -> bytes:
    """UTF-8 JSON with sorted keys and a final newline; `indent=-1` gives one line."""
    encoded = msgspec.json.encode(value, order="sorted")
    return msgspec.json.format(encoded, indent=indent) + b"\n"


def write_new(path: str, content: bytes) -> None:
    """Write a file that must not exist yet; `sync` makes sure that the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, content)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """`os.write` may write less than asked (a nearly full disk, a pipe); this does not."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_new(str(temporary), content)
        sync(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, value: Any) -> None:
    """One JSON line in one write, so that lines of several processes do not mix."""
    with open(path, "ab", buffering=0) as file:
        file.write(json_bytes(value, indent=-1))


def sync(path: str) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(folder: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(name relative to the folder with `/`, entry) of every file below, in order of name."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(SMALL)
        if len(start) < SMALL:
            return hashlib.sha256(start).hexdigest()
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_error(error: OSError, root: Path) -> StoreError:
    """Say what a write error under the root means and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"The disk that holds '{root}' is full ({error.strerror}). What has been published is safe. "
            f"Free some space (`xling gc` lists what no grid needs) or choose another disk with root=PATH, "
            f"and run the same command again."
        )
    where = f" at '{error.filename}'" if error.filename else ""
    return StoreError(
        f"The results folder '{root}' cannot be written{where}: {error.strerror or error}. "
        f"Choose a folder you can write to with root=PATH."
    )
