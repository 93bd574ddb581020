"""Small files of a result as one, `files.zip` in its folder, so that a grid of 10,000 cells is no 100,000 files.

    join(folder)                                     # the store does, as it publishes a stage of such a kind
    content(folder / "items.json")                   # the bytes, whether the file stands there or in files.zip
    np.load(opened(folder / "pool.npy"))

A zip archive without compression, which `unzip` and `numpy.load` read, of the same bytes whenever it is made. Results
of before there were any have each file by itself; whoever reads through here reads both.
"""

import hashlib
import io
import os
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

from xling.grid import files

NAME = "files.zip"
MOST = 64 << 20  # bytes; a folder with more is left as it is
_END, _ENTRY, _LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4s6H3L5H2L"), 30  # of the format; PKWARE's APPNOTE


def join(folder: str) -> dict[str, str]:
    """Put the files of a folder into its files.zip: the SHA-256 of each by its name; nothing where there is too much,
    or a folder among them."""
    found = list(files.files_below(folder))
    if any("/" in name for name, _ in found) or sum(entry.stat().st_size for _, entry in found) > MOST:
        return {}
    digests = {}
    with zipfile.ZipFile(f"{folder}/{NAME}", "x") as archive:
        for name, entry in found:
            part = files.content_of(entry.path)
            digests[name] = hashlib.sha256(part).hexdigest()
            about = zipfile.ZipInfo(name)  # of 1980, whenever that is
            about.external_attr = 0o644 << 16
            archive.writestr(about, part)
    for _, entry in found:
        os.unlink(entry.path)
    return digests


def content(path: Path | str) -> bytes:
    """A file's bytes; FileNotFoundError where it stands neither by itself nor in an archive that can be read."""
    where = os.fspath(path)
    folder, _, name = where.rpartition("/")
    same = _same(folder)
    place = _table(folder, same).get(name) if same else None
    if same is None or place is None:
        return files.content_of(where)
    return _whole(folder, same)[place[0] : place[1]]


def opened(path: Path | str) -> io.BytesIO:
    """For what reads from files."""
    return io.BytesIO(content(path))


def exists(path: Path | str) -> bool:
    folder, _, name = os.fspath(path).rpartition("/")
    same = _same(folder)
    return (same is not None and name in _table(folder, same)) or os.path.exists(path)


def sha256_of(path: str) -> str:
    """As `files.sha256_of`, but that an archive is read once for its hash and for what is in it."""
    folder, _, name = path.rpartition("/")
    same = _same(folder) if name == NAME else None
    return files.sha256_of(path) if same is None else hashlib.sha256(_whole(folder, same)).hexdigest()


Same = tuple[int, int, int]  # changes whenever the file does


def _same(folder: str) -> Same | None:
    """Of a folder's archive; None if it has none."""
    try:
        status = os.stat(f"{folder}/{NAME}")
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


@lru_cache(maxsize=2)  # the files of a result are read one after the other
def _whole(folder: str, same: Same) -> bytes:
    return files.content_of(f"{folder}/{NAME}")


@lru_cache(maxsize=2)
def _table(folder: str, same: Same) -> dict[str, tuple[int, int]]:
    """Where each file starts and ends, by the table at the end (`zipfile` takes twenty times as long); none if it is
    spoilt."""
    whole, found = _whole(folder, same), {}
    try:
        end = _END.unpack_from(whole, len(whole) - _END.size)
        place = end[6]
        for _ in range(end[4]):
            entry = _ENTRY.unpack_from(whole, place)
            name_size, start = entry[10], entry[16] + _LOCAL + entry[10]
            found[whole[place + _ENTRY.size :][:name_size].decode()] = (start, start + entry[9])
            place += _ENTRY.size + name_size + entry[11] + entry[12]
    except (struct.error, UnicodeDecodeError):
        return {}
    return found
