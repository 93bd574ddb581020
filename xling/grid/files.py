"""Small things with files that the rest of grid/ shares: atomic writes, fsync, modes, JSON, disk errors."""

import errno
import fnmatch
import functools
import hashlib
import os
import pwd
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from xling.errors import ConfigError, StoreError
from xling.jsonfiles import sealed

_LEADING = re.compile(r"[/\\\x00-\x1f]")
PAGE = 1 << 14  # bytes; most records have fewer
SMALL = 1 << 20  # bytes that are read at once; of the many small files of a grid that takes half the time


def json_bytes(value: Any, indent: int = 2) -> bytes:
    """UTF-8 JSON with sorted keys and a final newline; `indent=-1` gives one line."""
    return _json(value, indent) + b"\n"


def _json(value: Any, indent: int) -> bytes:
    encoded = msgspec.json.encode(value, order="sorted")  # one line already; plans are megabytes
    return encoded if indent < 0 else msgspec.json.format(encoded, indent=indent)


def sealed_json(value: Any, indent: int = 2) -> bytes:
    """`json_bytes` of an object, with its checksum (xling/jsonfiles.py)."""
    return sealed(_json(value, indent))


def is_plain(name: str) -> bool:
    """Whether a name that was read somewhere is that of one file in one folder, and leads nowhere else."""
    return are_plain({name})


def are_plain(names: Set[str]) -> bool:
    """`is_plain` of all the names; big grids have tens of thousands."""
    return names.isdisjoint(("", ".", "..")) and not _LEADING.search("".join(names))


def no_link(path: str, flags: int) -> int:
    """An opener for what is appended to or locked: a link in a shared folder may lead to somebody's file."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def refuse_no_file(path: str, what: str) -> None:
    """StoreError for a folder, a link or another thing where `what` belongs; FileNotFoundError if nothing is there."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISREG(mode):
        found = "folder" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "special file"
        raise StoreError(f"'{path}' is a {found}, where {what} belongs. Delete it: rm -r '{path}'")


def own_folder(path: Path) -> None:
    """A folder to write in, made if it is not there; one that is a link, or has links in it, is emptied first."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        found = path.is_symlink() or any(entry.is_symlink() for _, entry in files_below(os.fspath(path)))
        if found:
            remove(path)
            path.mkdir()


UNFINISHED = ".partial"  # ends the names of files and folders that are being written, wherever work can go on later


def take_over(old: str, new: str) -> None:
    """Make what somebody left whole in one folder one's own in another; what was still being written goes.

    Its maker may live on, with files open, or with handles of folders that a network file system keeps: so files go to
    folders that are new, and those that are open to be written go to nobody.
    """
    made = f"{os.path.dirname(new)}/.{os.path.basename(new)}"
    for folder in (made, new):
        shutil.rmtree(folder, ignore_errors=True)
    for folder, inner, names in os.walk(old):
        inner[:] = [name for name in inner if not name.endswith(UNFINISHED)]
        own = made + folder[len(old) :]
        os.mkdir(own)
        for name in names:
            if not name.endswith(UNFINISHED):
                _take(f"{folder}/{name}", f"{own}/{name}")
    os.rename(made, new)  # a kill before this has changed nothing
    shutil.rmtree(old, ignore_errors=True)


def _take(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        pass  # its maker deletes it
    except OSError:  # no links here, or somebody else's file
        os.rename(source, target)


def remove(path: Path) -> None:
    """A file, a link or a folder; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_links(root: Path, folders: Iterable[Path]) -> None:
    """ConfigError if something in the folders is a link that leads out of the root, where others' files are."""
    inside = os.path.realpath(root)
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if os.path.commonpath([target, inside]) != inside:
                        raise ConfigError(
                            f"'{entry.path}' is a link to '{target}', outside of the results folder: nothing is "
                            "written there. Delete the link, or name the folder that is meant with root=PATH "
                            "(--root PATH)."
                        )


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
    """Readers see the old bytes or the new ones, never a part. A device is written to: root could replace /dev/null."""
    if path.is_char_device():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # a pid is another process elsewhere
    try:
        write_new(str(temporary), content)
        sync(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, value: Any) -> None:
    """One JSON line in one write, so that lines of several processes do not mix."""
    with open(path, "ab", buffering=0, opener=no_link) as file:
        file.write(json_bytes(value, indent=-1))


def sync(path: str) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clock(folder: Path) -> float:
    """The time by which a folder's file system stamps files (a server's); this machine's if it cannot be written."""
    probe = folder / f".clock-{secrets.token_hex(4)}"
    try:
        write_new(str(probe), b"")
        stamp = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return stamp


def files_below(folder: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(name relative to the folder with `/`, entry) of every file below, in order of name."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def names_in(folder: str) -> list[str]:
    """Names of what a folder holds; none if there is no such folder. Unreadable where it cannot be told."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise Unreadable(error, folder) from error


def matching(folder: Path, pattern: str) -> list[Path]:
    """Paths below a folder that fit `*/name.*`, in order; what is gone, or private, by the time it is listed has none.

    Path.glob raises where a folder is renamed or removed while it looks, as other processes do in a shared root.
    """
    found = [folder]
    for part in pattern.split("/"):
        found = [above / name for above in found for name in fnmatch.filter(_shown_in(above), part)]
    return sorted(found)


def _shown_in(folder: Path) -> list[str]:
    try:
        return names_in(os.fspath(folder))
    except Unreadable as error:
        if isinstance(error.__cause__, PermissionError):
            return []
        raise


def content_of(path: str) -> bytes:
    """A small file's bytes, by the system's calls alone: stages read so many that Python's own layers count."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, PAGE)
        while more := os.read(descriptor, SMALL):  # a network may give less than is there
            content += more
        return content
    finally:
        os.close(descriptor)


def sha256_of(path: str) -> str:
    if os.stat(path).st_size < SMALL:
        return hashlib.sha256(content_of(path)).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def umask() -> int:
    """This process's umask. Linux tells it; elsewhere asking means setting it for a moment."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def share(folder: str) -> None:
    """Give a folder and all below the modes that the umask allows. What is gone meanwhile is left out."""
    for parent, _, names in os.walk(folder):
        for path, wanted in ((parent, 0o777), *((os.path.join(parent, name), 0o666) for name in names)):
            with suppress(OSError):
                open_up(path, os.lstat(path).st_mode, wanted)


def open_up(path: str, mode: int, wanted: int) -> None:
    """Add what the umask allows: some libraries make private files (safetensors, mkstemp).

    What belongs to somebody else is left as it is.
    """
    if (missing := wanted & ~umask() & ~mode) and not stat.S_ISLNK(mode):
        with suppress(OSError):
            os.chmod(path, stat.S_IMODE(mode) | missing)


ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # all others say nothing about what stands in a file


def readable(path: str) -> bool:
    """Whether this process may read a file."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


class Unreadable(StoreError):
    """A file is there, and this process cannot read it: no damage, so it is neither made again nor deleted."""

    def __init__(self, error: OSError, path: str) -> None:
        closed = _closed(path)
        what = f"'{path}' cannot be read: {error.strerror or error}."
        if error.errno in (errno.EACCES, errno.EPERM):
            super().__init__(f"{what} {_whose(closed)} It is not taken for damaged: nothing is made again or deleted.")
        else:
            super().__init__(
                f"{what} That need not be damage, so nothing is made again or deleted. Run the same command again when "
                f"the disk answers (and `ulimit -n` allows enough open files); if the file is lost for good, delete "
                f"the folder of the result."
            )


def _closed(path: str) -> str:
    """The file itself, or the folder above it that lets nobody in."""
    while True:
        try:
            os.stat(path)
        except OSError:
            above = os.path.dirname(path)
            if above == path:
                return path
            path = above
        else:
            return path


def _whose(path: str, modes: str = "go+rX") -> str:
    """Whose a file is, its mode, and what its owner can type."""
    facts = os.stat(path)
    owner = user_name(facts.st_uid)
    what = f"The folder '{path}'" if stat.S_ISDIR(facts.st_mode) else "It"
    above, stages, _ = path.partition("/stages/")
    return (
        f"{what} belongs to {owner} and has mode {stat.S_IMODE(facts.st_mode):04o}; you are {user_name(os.geteuid())}. "
        f"Let {owner} type: chmod -R {modes} '{above + stages.rstrip('/')}' (and before the next run `umask 022`, or "
        f"`umask 002` for a group that writes to one root)."
    )


def user_name(uid: int) -> str:
    """For people."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def disk_error(error: OSError, root: Path, setting: str = "root=PATH") -> StoreError:
    """Say what a write error under the root, or in another folder that is typed as `setting`, means; what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"The disk that holds '{root}' is full ({error.strerror}). What has been published is safe. "
            f"Free some space (`xling gc` lists what no grid needs) or choose another disk with {setting}, "
            f"and run the same command again."
        )
    if error.errno == errno.ELOOP:
        return StoreError(f"'{error.filename}' is a link, and links are not followed. Delete it.")
    where = f" at '{error.filename}'" if error.filename else ""
    whose = ""
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename:
        whose = f"{_whose(_closed(os.fspath(error.filename)), 'g+rwX')} "
    what = "results folder" if setting == "root=PATH" else "folder"
    return StoreError(
        f"The {what} '{root}' cannot be written{where}: {error.strerror or error}. {whose}"
        f"Choose a folder you can write to with {setting}."
    )
