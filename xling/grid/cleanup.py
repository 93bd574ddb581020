"""Clean-up: leftovers of killed runs, and results that no grid refers to any more."""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.markup import escape

from xling.console import age, size
from xling.errors import ConfigError, StoreError
from xling.grid import claim, files, host
from xling.grid.files import files_below
from xling.grid.grids import chosen_grid, grids, read_grid
from xling.grid.records import Failure, PlanFile, read, read_sheet
from xling.grid.store import Damaged, Listing, Store


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


def garbage(store: Store, timeout: float = claim.TIMEOUT, busy: Set[str] = frozenset()) -> list[Garbage]:
    """Everything that no grid needs, without anything that a process may still work on.

    A runner that cannot be seen from here counts as dead after `timeout` seconds without a sign of life. busy: keys of
    stages that are running or queued all the same, as a cluster says (a suspended job gives no sign of life).

    StoreError if a plan.json cannot be read: what it refers to would count as garbage.
    """
    return _garbage(store, grids(store), timeout, busy)


def grid_garbage(
    store: Store, name: str, timeout: float = claim.TIMEOUT, busy: Set[str] = frozenset()
) -> list[Garbage]:
    """Everything that only this grid needs: its own results, and the files of its folder, the plan last.

    Answers that people have given (human/) are not among it: nothing makes them again. ConfigError for a grid that is
    not there, or that still runs.
    """
    plan, clock = read_grid(store, chosen_grid(store, name)), files.clock(store.root / "stages")
    for stage in plan.stages:
        held = claim.holder(store.beside(stage.kind, stage.key, ".claim"), clock, timeout)
        if held is not None:
            raise ConfigError(f"Grid {name} cannot be deleted: {stage.label} runs on {held.who}. Stop that first.")
    before = {item.path for item in garbage(store, timeout, busy)}
    others = [other for other in grids(store) if other != name]
    found = [item for item in _garbage(store, others, timeout, busy) if item.path not in before]
    found = [replace(item, why=item.why.replace("no grid refers to", f"only {name} refers to")) for item in found]
    folder = store.grid_folder(name)
    own = [path for path in files.matching(folder, "*") if path.name not in ("human", "plan.json")]
    return [*found, *sized((path, f"of grid {name}", "") for path in [*own, folder / "plan.json"])]


def _garbage(store: Store, names: Iterable[str], timeout: float, busy: Set[str]) -> list[Garbage]:
    needed: dict[str, set[str]] = {}
    labels: dict[str, str] = {}
    for name in names:
        plan = _plan(store, name)
        for stage in plan.stages if plan else ():
            needed.setdefault(stage.kind, set()).add(stage.key)
            labels[stage.key] = stage.label
        for start in plan.starts if plan else ():  # policy.checkpoint=outputs/stages/sft/KEY
            needed.setdefault(start.kind, set()).add(start.key)
    found: list[tuple[Path, str, str]] = []
    for kind in store.kinds():
        for name, why in _of_kind(store, kind, needed.get(kind, set()), timeout, busy):
            path = store.kind_folder(kind) / name
            found.append((path, why, labels.get(name[:64]) or _label(path)))
    logs = {f"{kind}/{key[:12]}.log" for kind, keys in needed.items() for key in keys}
    for path in files.matching(store.root / "logs", "*/*.log"):
        if path.relative_to(store.root / "logs").as_posix() not in logs:
            found.append((path, "log of a stage that no grid refers to", _label_of_log(path)))
    return list(sized(found))


def _plan(store: Store, name: str) -> PlanFile | None:
    """A grid's; None if somebody has deleted the grid meanwhile."""
    try:
        return read_grid(store, name)
    except (ConfigError, StoreError):
        if os.path.lexists(store.grid_folder(name) / "plan.json"):
            raise
        return None


def _label(path: Path) -> str:
    """The stage's label, from a result, a part of one or a failure."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return read(Failure, str(path)).label if path.suffix == ".json" else read_sheet(str(path)).label
    return ""


def _label_of_log(path: Path) -> str:
    """From the header that each attempt begins with."""
    with contextlib.suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        header = re.match(r"--- (.*), attempt \d+, ", file.readline(1000))
        return header[1] if header else ""
    return ""


def _of_kind(store: Store, kind: str, needed: set[str], timeout: float, busy: Set[str]) -> Iterator[tuple[str, str]]:
    listing, clock = store.listing(kind), files.clock(store.kind_folder(kind))
    held = {key for key in listing.claimed if claim.holder(store.beside(kind, key, ".claim"), clock, timeout)} | busy
    for key in sorted(listing.claimed - held):
        yield f"{key}.claim", "claim of a runner that is gone"
    for name in sorted(listing.leftovers):
        with contextlib.suppress(FileNotFoundError):  # it is a result by now, or gone
            age = clock - os.lstat(store.kind_folder(kind) / name).st_mtime
            if is_abandoned(name) or (age > timeout and name.partition(".")[0] not in held):
                yield name, "left behind by a killed run"
    for name in sorted(listing.damaged):
        yield name, "damaged result, set aside"
    for key in sorted(listing.partial - held):
        if key in listing.results or key not in needed:
            yield f"{key}.partial", "scratch that nothing goes on from"
    for key in sorted(listing.weightless - held):
        if key in listing.results or key not in needed:
            yield f"{key}.weightless", "result without its weights, which are trained again"
    yield from _unneeded(listing, needed | held)


def _unneeded(listing: Listing, needed: set[str]) -> Iterator[tuple[str, str]]:
    for key in sorted(listing.results - needed):
        yield key, "result that no grid refers to"
    for key in sorted(listing.failed - needed):
        yield f"{key}.failed.json", "failure of a stage that no grid refers to"


def sized(found: Iterable[tuple[Path, str, str]]) -> Iterator[Garbage]:
    """Less what others have removed meanwhile. Links count for themselves: what they lead to stays."""
    for path, why, label in found:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(path)
            yield Garbage(path, why, _size(path, status), label, status.st_mtime)


def _size(path: Path, status: os.stat_result) -> int:
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    return sum(entry.stat(follow_symlinks=False).st_size for _, entry in files_below(os.fspath(path)))


def delete(items: Iterable[Garbage]) -> None:
    """Folders are renamed first, so that a kill half way leaves no result with files missing.

    What somebody has touched since it was listed may be needed again, and is left.
    """
    for item in items:
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(item.path).st_mtime != item.modified:
                continue
            if item.path.is_dir() and not item.path.is_symlink():
                doomed = item.path.with_name(f"{item.path.name[:64]}.tmp-{host.this_process().name}.gc")
                os.rename(item.path, doomed)
                if os.lstat(doomed).st_mtime == item.modified:
                    shutil.rmtree(doomed)
                elif not os.path.lexists(item.path):
                    os.rename(doomed, item.path)
            else:
                item.path.unlink()


def kept(store: Store, items: Iterable[Garbage]) -> tuple[int, int]:
    """(count, bytes) of the results that stay when these have been deleted."""
    gone = {item.path for item in items}
    results = (store.folder(kind, key) for kind in store.kinds() for key in store.listing(kind).results)
    sizes = [item.size for item in sized((folder, "", "") for folder in results if folder not in gone)]
    return len(sizes), sum(sizes)


def damaged_results(store: Store) -> Iterator[Damaged]:
    """Hash every file of every result; yields those that are not what was published."""
    for kind in store.kinds():
        for key in sorted(store.listing(kind).results):
            try:
                store.load(kind, key)
            except Damaged as damaged:
                if os.path.lexists(store.folder(kind, key)):  # else somebody has deleted it meanwhile
                    yield damaged


def garbage_lines(items: Sequence[Garbage], root: Path) -> Iterable[str]:
    """Size, age, stage, why and where; then their sum."""
    for item in items:
        what = f"{item.label or '-':28s} ({item.why})"
        yield escape(f"{size(item.size):>10s}  {age(item.modified):>4s}  {what}  {item.path.relative_to(root)}")
    if items:
        yield f"{size(sum(item.size for item in items)):>10s}  in {len(items)} items"
