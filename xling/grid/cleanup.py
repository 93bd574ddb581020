"""What killed runs left behind, and what no grid refers to any more."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from xling.errors import ConfigError
from xling.grid import claim, files, host
from xling.grid.files import files_below
from xling.grid.listing import Listing
from xling.grid.records import Failure, Sheet, read
from xling.grid.status import chosen_grid, grids, read_grid
from xling.grid.store import Damaged, Store


def remove_leftovers(store: Store, kinds: Iterable[str]) -> None:
    """Clear away what processes of this host left when they were killed; of other hosts `xling gc` can.

    Unfinished results go, and claims, failures and scratch beside a finished one. A result that mode=force was
    about to replace is put back.
    """
    for kind in kinds:
        listing = store.listing(kind)
        for name in filter(is_abandoned, listing.leftovers):
            _restore_or_remove(store.kind_folder(kind), name)
        for key in listing.results & (listing.claimed | listing.partial | listing.failed):
            with contextlib.suppress(OSError):
                if claim.remove_stale(store.beside(kind, key, ".claim")):
                    store.forget_attempts(kind, key)


def _restore_or_remove(folder: Path, name: str) -> None:
    key, _, rest = name.partition(".")
    if rest.startswith("old-"):
        with contextlib.suppress(OSError):  # there is a new one
            os.rename(folder / name, folder / key)
    shutil.rmtree(folder / name, ignore_errors=True)


SUFFIX = re.compile(r"(?:tmp|old)-(?P<host>.+)-(?P<pid>\d+)-(?P<start>0|[^-.]*\.[^-.]*\.\d+)(?:\.gc|\.0)?")


def is_abandoned(name: str) -> bool:
    """Whether it is certain that the maker of `<key>.tmp-<host>-<pid>-<start>` has ended."""
    found = SUFFIX.fullmatch(name.partition(".")[2])
    if found is None:
        return False
    start = "" if found["start"] == "0" else found["start"]
    return not host.is_alive(host.Process(found["host"], int(found["pid"]), start))


@dataclass(frozen=True, slots=True)
class Garbage:
    path: Path
    why: str
    size: int  # bytes
    label: str  # of the stage; empty where nothing says it any more
    modified: float  # seconds since the epoch


def garbage(store: Store, timeout: float = claim.TIMEOUT) -> list[Garbage]:
    """What can be deleted without any grid missing it; nothing that a process works on that may live.

    A runner that cannot be seen from here counts as dead after `timeout` seconds without a sign of life.

    StoreError if a plan.json cannot be read: what it refers to would count as garbage.
    """
    return _garbage(store, grids(store), timeout)


def grid_garbage(store: Store, name: str, timeout: float = claim.TIMEOUT) -> list[Garbage]:
    """What goes with a grid: the results that it alone needs, and what stands in its folder, its plan last.

    Answers that people have given (human/) are not among it: nothing makes them again. ConfigError for a grid that is
    not there, or that still runs.
    """
    plan, clock = read_grid(store, chosen_grid(store, name)), files.clock(store.root / "stages")
    for stage in plan.stages:
        held = claim.living(store.beside(stage.kind, stage.key, ".claim"), clock, timeout)
        if held is not None:
            raise ConfigError(f"Grid {name} cannot be deleted: {stage.label} runs on {held.who}. Stop that first.")
    before = {item.path for item in garbage(store, timeout)}
    others = [other for other in grids(store) if other != name]
    found = [item for item in _garbage(store, others, timeout) if item.path not in before]
    found = [replace(item, why=item.why.replace("no grid refers to", f"only {name} refers to")) for item in found]
    folder = store.grid_folder(name)
    own = sorted(path for path in folder.iterdir() if path.name not in ("human", "plan.json"))
    return [*found, *(_sized(path, f"of grid {name}", "") for path in [*own, folder / "plan.json"])]


def _garbage(store: Store, names: Iterable[str], timeout: float) -> list[Garbage]:
    needed: dict[str, set[str]] = {}
    labels: dict[str, str] = {}
    for name in names:
        for stage in read_grid(store, name).stages:
            needed.setdefault(stage.kind, set()).add(stage.key)
            labels[stage.key] = stage.label
    found = []
    for kind in store.kinds():
        for name, why in _of_kind(store, kind, needed.get(kind, set()), timeout):
            path = store.kind_folder(kind) / name
            found.append(_sized(path, why, labels.get(name[:64]) or _label(path)))
    logs = {f"{kind}/{key[:12]}.log" for kind, keys in needed.items() for key in keys}
    for path in sorted((store.root / "logs").glob("*/*.log")):
        if path.relative_to(store.root / "logs").as_posix() not in logs:
            found.append(_sized(path, "log of a stage that no grid refers to", _label_of_log(path)))
    return found


def _label(path: Path) -> str:
    """What a result, a part of one or a failure says of its stage."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return read(Failure, str(path)).label if path.suffix == ".json" else read(Sheet, f"{path}/spec.json").label
    return ""


def _label_of_log(path: Path) -> str:
    """From the header that each attempt begins with."""
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        header = re.match(r"--- (.*), attempt \d+, ", file.readline(1000))
        return header[1] if header else ""
    return ""


def _of_kind(store: Store, kind: str, needed: set[str], timeout: float) -> Iterator[tuple[str, str]]:
    listing, clock = store.listing(kind), files.clock(store.kind_folder(kind))
    held = {key for key in listing.claimed if claim.living(store.beside(kind, key, ".claim"), clock, timeout)}
    for key in sorted(listing.claimed - held):
        yield f"{key}.claim", "claim of a runner that is gone"
    for name in sorted(listing.leftovers):
        age = clock - os.lstat(store.kind_folder(kind) / name).st_mtime
        if is_abandoned(name) or (age > timeout and name.partition(".")[0] not in held):
            yield name, "left behind by a killed run"
    for name in sorted(listing.damaged):
        yield name, "damaged result, set aside"
    for key in sorted(listing.partial - held):
        if key in listing.results or key not in needed:
            yield f"{key}.partial", "scratch that nothing goes on from"
    yield from _unneeded(listing, needed | held)


def _unneeded(listing: Listing, needed: set[str]) -> Iterator[tuple[str, str]]:
    for key in sorted(listing.results - needed):
        yield key, "result that no grid refers to"
    for key in sorted(listing.failed - needed):
        yield f"{key}.failed.json", "failure of a stage that no grid refers to"


def _sized(path: Path, why: str, label: str) -> Garbage:
    """Links count for themselves: what they lead to stays."""
    stat, size = os.lstat(path), 0
    if path.is_symlink() or not path.is_dir():
        size = stat.st_size
    else:
        with contextlib.suppress(FileNotFoundError):  # somebody else deletes it meanwhile
            size = sum(entry.stat(follow_symlinks=False).st_size for _, entry in files_below(os.fspath(path)))
    return Garbage(path, why, size, label, stat.st_mtime)


def delete(items: Iterable[Garbage]) -> None:
    """Folders are renamed first, so that a kill half way leaves no result with files missing."""
    for item in items:
        with contextlib.suppress(FileNotFoundError):
            if item.path.is_dir() and not item.path.is_symlink():
                doomed = item.path.with_name(f"{item.path.name[:64]}.tmp-{host.this_process().name}.gc")
                os.rename(item.path, doomed)
                shutil.rmtree(doomed)
            else:
                item.path.unlink()


def kept(store: Store, items: Iterable[Garbage]) -> tuple[int, int]:
    """(count, bytes) of the results that stay when these have been deleted."""
    gone = {item.path for item in items}
    sizes = []
    for kind in store.kinds():
        for key in store.listing(kind).results:
            if store.folder(kind, key) not in gone:
                sizes.append(_sized(store.folder(kind, key), "", "").size)
    return len(sizes), sum(sizes)


def damaged_results(store: Store) -> Iterator[Damaged]:
    """Hash every file of every result; yields those that are not what was published."""
    for kind in store.kinds():
        for key in sorted(store.listing(kind).results):
            try:
                store.load(kind, key)
            except Damaged as damaged:
                yield damaged
