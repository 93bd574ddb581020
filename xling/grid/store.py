"""The store: results of stages on disk, one folder each, named by the stage's key. The files are the truth.

    <root>/stages/<kind>/<key>/              the result's files, spec.json (or files.zip), done.json (written last)
                        <key>.failed.json    how it failed, until it succeeds
                        <key>.claim          who runs it now (claim.py)
                        <key>.partial/<process>/  scratch of a stage that has not succeeded yet
                        <key>.tmp-<process>/ a result in the making
                        <key>.damaged-<n>/   a result that changed after it was published: never used
                        <key>.weightless/    a result without its weights, until it has been made again with them
                        doubles.jsonl        results made a second time and dropped
    <root>/logs/<kind>/<key[:12]>.log        what the stage printed, attempt after attempt
    <root>/code/<digest>/                    code that jobs of a cluster run (runners/slurm/snapshot.py)
    <root>/grids/<name>/                     plans and matrices; grids own no results

A result is trusted if its folder has a marker, its files have the marker's sizes and times (or else hashes);
`load` checks the hashes always.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from xling.errors import ConfigError, StageError, StoreError
from xling.grid import files, joined
from xling.grid.host import Process
from xling.grid.records import (
    JOINED,
    RESULT,
    Done,
    Failure,
    FileFact,
    JoinedDone,
    Run,
    Sheet,
    check_format,
    read,
    read_sheet,
)

# --- What stands in one kind's folder of the store, told by its names alone -------------------------------

KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys that have a result, a failure, ...; full names of what a key can have several of."""

    results: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)
    weightless: set[str] = field(default_factory=set)
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
        elif suffix == "weightless":
            self.weightless.add(key)
        elif suffix.startswith("damaged-"):
            self.damaged.append(name)
        elif suffix.startswith(("tmp-", "old-", "stale-")):
            self.leftovers.append(name)


MOST_GONE = 3  # results that are told one by one


class Damaged(StoreError):
    """A result is not what was published, or is gone although it is needed."""

    def __init__(self, kind: str, key: str, why: str) -> None:
        super().__init__(f"The result {kind}/{key[:12]} cannot be used: {why}.")
        self.kind, self.key, self.why = kind, key, why


@dataclass(frozen=True, slots=True)
class Status:
    state: str  # done | damaged | failed | missing; and lost, as planning finds it (Kind.lost)
    why: str = ""
    done: Done | None = None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """Results below one root. Cheap to make; opens nothing until asked."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._stages = os.path.join(self.root, "stages")
        self._cache = self.root / "cache"
        self._verified: dict[tuple[str, str], tuple[tuple[str, int, int, int], ...]] = {}
        self.damaged: dict[tuple[str, str], Damaged] = {}  # what readers have met
        self.lacking: dict[tuple[str, str], StoreError] = {}  # what they did without: it may not be read, or is gone

    # --- where things are ---------------------------------------------------------------------------------

    def folder(self, kind: str, key: str) -> Path:
        return Path(f"{self._stages}/{kind}/{key}")

    def beside(self, kind: str, key: str, suffix: str) -> str:
        return f"{self._stages}/{kind}/{key}{suffix}"

    def kind_folder(self, kind: str) -> Path:
        return Path(self._stages, kind)

    def grid_folder(self, name: str) -> Path:
        """ConfigError for a name that would lead elsewhere, as one from a file of somebody else's can."""
        if not files.is_plain(name):
            raise ConfigError(f"'{name}' cannot be the name of a grid: it would be no folder of '{self.root}/grids'.")
        return self.root / "grids" / name

    def log(self, kind: str, key: str) -> Path:
        return Path(f"{self.root}/logs/{kind}/{key[:12]}.log")

    def cache(self) -> Path:
        """Folder of caches that stages share, addressed by content; made by whoever writes to it."""
        return self._cache

    def kinds(self) -> list[str]:
        """Kinds of which there is anything."""
        return sorted(name for name in files.names_in(self._stages) if os.path.isdir(f"{self._stages}/{name}"))

    def prepare(self) -> None:
        """Make the root and see that it can be written; StoreError says what is wrong with it."""
        try:
            self.refuse_links()
            Path(self._stages).mkdir(parents=True, exist_ok=True)
            probe = Path(self._stages, f".probe-{secrets.token_hex(4)}")
            files.write_new(str(probe), b"x")
            probe.unlink()
        except OSError as error:
            raise files.disk_error(error, self.root) from error

    def refuse_links(self, *grids: str) -> None:
        """ConfigError if writing results, or into the folders of these grids, would write outside of the root."""
        top = [self.root, *(self.root / name for name in ("stages", "grids", "logs", "cache", "tracking"))]
        own = [folder for name in grids for folder in (self.grid_folder(name), self.grid_folder(name) / "human")]
        files.refuse_links(self.root, [*top, *own])

    # --- what is there ------------------------------------------------------------------------------------

    def listing(self, kind: str) -> Listing:
        """One look into a kind's folder instead of a stat per key; empty if there is none."""
        found = Listing()
        for name in files.names_in(f"{self._stages}/{kind}"):
            found.add(name)
        return found

    def state(self, kind: str, key: str) -> str:
        """done | damaged | failed | missing, by marker, sizes and times."""
        return self.check(kind, key).state

    def check(self, kind: str, key: str) -> Status:
        """The state with its reason; files whose times differ (a copied store) count if their hash agrees.

        A damaged result is looked at again until its folder stands still: another process may have published or
        deleted it between two looks. Raises Unreadable where it cannot be told: a file that may not be read is not
        a damaged one.
        """
        folder = f"{self._stages}/{kind}/{key}"
        status = self._look(folder, kind, key)
        while status.state == "damaged":
            before, status = version(folder), self._look(folder, kind, key)
            if version(folder) == before:
                break
        return status

    def _look(self, folder: str, kind: str, key: str) -> Status:
        try:
            done = read(Done, f"{folder}/done.json")
        except FileNotFoundError:
            if os.path.isdir(folder):
                return Status("damaged", "done.json is missing")
            failure = self.failure(kind, key)
            return Status("missing") if failure is None else Status("failed", failure)
        except (NotADirectoryError, IsADirectoryError) as error:
            return Status("damaged", f"done.json cannot be read ({error})")
        except OSError as error:
            raise files.Unreadable(error, f"{folder}/done.json") from error
        except msgspec.DecodeError as error:
            return Status("damaged", f"done.json cannot be read ({error})")
        if (done.kind, done.key) != (kind, key):
            return Status("damaged", "done.json is not that of this key")
        if done.format not in (RESULT, JOINED):
            again = "give another root=PATH, where results are made anew"
            check_format(f"'{folder}/done.json'", done.format, JOINED, again)
        why = _differs(folder, done)
        return Status("damaged", why, done) if why else Status("done", "", done)

    def examine(self, kind: str, key: str) -> Status:
        """`check` for readers of results, who go on without a damaged one: it stands in `damaged` afterwards."""
        status = self.check(kind, key)
        if status.state == "damaged":
            self._met(kind, key, status.why)
        return status

    def damage(self) -> list[str]:
        """A sentence for each result that readers went on without."""
        found = [f"{damaged} The grid's command makes it again." for damaged in self.damaged.values()]
        found += [str(error) for error in self.lacking.values() if isinstance(error, files.Unreadable)]
        gone = [f"{error} It is left out." for error in self.lacking.values() if isinstance(error, Damaged)]
        more = [f"{len(gone) - MOST_GONE} more results are not there."] if len(gone) > MOST_GONE else []
        return [*found, *gone[:MOST_GONE], *more]

    @property
    def trusted(self) -> bool:
        """Whether nothing that is there was damaged, or could not be read. What is gone is a hole that anybody sees."""
        return not self.damaged and not any(isinstance(error, files.Unreadable) for error in self.lacking.values())

    def failure(self, kind: str, key: str) -> str | None:
        """Last line of the failure's traceback; None if the stage has not failed."""
        record = self.failure_record(kind, key)
        return None if record is None else record.last

    def failure_record(self, kind: str, key: str) -> Failure | None:
        try:
            return read(Failure, self.beside(kind, key, ".failed.json"))
        except OSError:
            return None
        except msgspec.DecodeError:
            return Failure("", 1, "the record of the failure is damaged", "", "", "", "")

    def sheet(self, kind: str, key: str) -> Sheet | None:
        """The spec a stored result was made from; None if there is none to read."""
        folder = f"{self._stages}/{kind}/{key}"
        try:
            return read_sheet(folder)
        except msgspec.DecodeError:
            return None
        except OSError as error:
            if error.errno in files.ABSENT:
                return None
            raise files.Unreadable(error, f"{folder}/spec.json") from error

    def load(self, kind: str, key: str) -> Path:
        """The folder of a result, after its hashes and its spec have been checked; `Damaged` names the file.

        Hashes are computed once a process and file; after that size, time and inode are compared.
        """
        folder = f"{self._stages}/{kind}/{key}"
        with self._remembering(kind, key):
            before, done = version(folder), self._published(kind, key)
            signature = _signature(folder, done)
            if self._verified.get((kind, key)) != signature:
                why = _hashes_differ(folder, done) or self._spec_differs(kind, key)
                if why and version(folder) != before:  # somebody deletes it, or has made it anew
                    return self.load(kind, key)
                if why:
                    raise self._met(kind, key, why)
                self._verified[kind, key] = signature
        return Path(folder)

    def content(self, kind: str, key: str, name: str) -> bytes:
        """One file of a finished result, its hash checked, the others not read; `Damaged` says what is wrong."""
        with self._remembering(kind, key):
            digest = self._published(kind, key).digests.get(name)
            if digest is None:
                raise Damaged(kind, key, f"{name} is not there")
            path = self.folder(kind, key) / name
            try:
                content = joined.content(path)
            except FileNotFoundError:
                raise self._met(kind, key, f"file {name} is missing") from None
            except OSError as error:
                raise files.Unreadable(error, os.fspath(path)) from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise self._met(kind, key, f"file {name} does not have the bytes that were published")
            return content

    @contextlib.contextmanager
    def _remembering(self, kind: str, key: str) -> Iterator[None]:
        """Readers of many results go on without one: what they lack stands in `damaged` or in `lacking`."""
        try:
            yield
        except StoreError as error:
            if (kind, key) not in self.damaged:
                self.lacking[kind, key] = error
            raise

    def _published(self, kind: str, key: str) -> Done:
        """The marker of a result that is there and fits it by sizes and times."""
        status = self.check(kind, key)
        if status.state == "damaged":
            raise self._met(kind, key, status.why)
        if status.done is None:
            raise Damaged(kind, key, "it is not there")
        return status.done

    def _met(self, kind: str, key: str, why: str) -> Damaged:
        error = Damaged(kind, key, why)
        self.damaged[kind, key] = error
        return error

    def _spec_differs(self, kind: str, key: str) -> str:
        sheet = self.sheet(kind, key)
        if sheet is None:
            return "spec.json cannot be read"
        return "" if sheet.kind == kind and sheet.key() == key else "spec.json is not the spec of this key"

    def dropped(self, kind: str, key: str) -> bool:
        """Whether a result's weights are gone on purpose: whoever reads them has to make it again."""
        status = self.check(kind, key)
        return status.done is not None and bool(status.done.dropped)

    def drop(self, kind: str, key: str, names: Collection[str]) -> int:
        """Delete the files of a result that have such names (`*.safetensors`); returns their bytes.

        The marker says so first: at no moment does a result look damaged, and what a kill leaves goes the next time.
        """
        done, folder = self._published(kind, key), self.folder(kind, key)
        gone = {
            name: fact for name, fact in done.files.items() if any(fnmatch(os.path.basename(name), n) for n in names)
        }
        if gone:
            left = {name: fact for name, fact in done.files.items() if name not in gone}
            marker = msgspec.structs.replace(done, files=left, dropped=done.dropped | gone)
            files.write_atomically(folder / "done.json", files.sealed_json(marker))
        for name in done.dropped | gone:
            (folder / name).unlink(missing_ok=True)
        return sum(fact.size for fact in gone.values())

    def put_by(self, kind: str, key: str) -> None:
        """Move a result whose weights were dropped out of the way, until `publish` has it with weights again."""
        if self.dropped(kind, key):
            with contextlib.suppress(OSError):  # it is gone, or only its owner may; then it is replaced where it is
                os.rename(self.folder(kind, key), self.beside(kind, key, ".weightless"))

    def without_weights(self, kind: str, key: str) -> Done | None:
        """The marker of what was `put_by`."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return read(Done, self.beside(kind, key, ".weightless") + "/done.json")
        return None

    def put_back(self, kind: str, key: str) -> None:
        """What was `put_by`, where nobody makes it again."""
        if not os.path.lexists(self.beside(kind, key, ".claim")):
            with contextlib.suppress(OSError):  # there is a result, or only its owner may
                os.rename(self.beside(kind, key, ".weightless"), self.folder(kind, key))

    # --- making results -----------------------------------------------------------------------------------

    def begin(self, kind: str, key: str, who: Process) -> Path:
        """An empty folder, on the result's file system, to make a result in."""
        temporary = self.beside(kind, key, f".tmp-{who.name}")
        try:
            os.mkdir(temporary)
        except FileNotFoundError:
            os.makedirs(temporary)
        except FileExistsError:  # of an earlier stage of this process that could not clean up
            files.remove(Path(temporary))
            os.mkdir(temporary)
        return Path(temporary)

    def scratch(self, kind: str, key: str, who: Process) -> Path:
        """The folder that survives a kill of the stage: what the last runner left there, in a folder of this one's own.

        A runner that has lost its claim and lives on finds nothing under its own name, and writes into nobody's.
        """
        above = self.beside(kind, key, ".partial")
        mine = f"{above}/{who.name}"
        with contextlib.suppress(OSError):  # there is one already, or the folder above it is not there yet
            os.mkdir(above)
            os.mkdir(mine)
            return Path(mine)
        files.own_folder(Path(above))
        with contextlib.suppress(FileNotFoundError):  # the other runner of the stage tidies up just now
            with os.scandir(above) as entries:
                left = {item.stat().st_mtime_ns: item.path for item in entries
                        if item.is_dir(follow_symlinks=False) and not item.name.startswith(".")}  # fmt: skip
            if left and left[max(left)] != mine:
                files.take_over(left[max(left)], mine)
        os.makedirs(mine, exist_ok=True)
        return Path(mine)

    def publish(
        self, sheet: Sheet, key: str, temporary: Path, run: Run, replace: bool = False, join: bool = False
    ) -> bool:
        """Make a finished folder the result of its key, all or nothing; False if there was one already.

        Everything reaches the disk before the rename. A result that is there is never overwritten: the second
        is dropped and noted in doubles.jsonl. `replace` (mode=force) swaps the old out. join: its files
        become one (joined.py).
        """
        folder = os.fspath(temporary)
        for name in ("spec.json", "done.json", joined.NAME):
            if os.path.lexists(f"{folder}/{name}"):
                raise StageError(f"The stage {sheet.label} wrote '{name}', a name that is the store's own.")
        inside = joined.join(folder) if join else {}
        if not inside:
            files.write_new(f"{folder}/spec.json", files.json_bytes(sheet))
        about = (sheet.kind, key, sheet.label, _facts(folder), run)
        done = JoinedDone(*about, JOINED, inside=inside, sheet=sheet) if inside else Done(*about)
        files.write_new(f"{folder}/done.json", files.sealed_json(done))
        _sync(folder, done)
        published = self._move_in(sheet.kind, key, folder, done, replace)
        self.forget_attempts(sheet.kind, key, run.by)
        return published

    def _move_in(self, kind: str, key: str, folder: str, done: Done, replace: bool) -> bool:
        final = f"{self._stages}/{kind}/{key}"
        old = self.beside(kind, key, f".old-{done.run.by.name}") if replace and os.path.isdir(final) else None
        if old:
            os.rename(final, old)
        try:
            os.rename(folder, final)  # not synced: a power cut that undoes it costs the stage, not the trust
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._note_double(kind, key, done)
            shutil.rmtree(folder)
            return False
        finally:
            if old:
                shutil.rmtree(old)

    def _note_double(self, kind: str, key: str, second: Done) -> None:
        first = self.check(kind, key).done
        before, after = first.digests if first else {}, second.digests
        differing = sorted(
            name
            for name in before.keys() | after.keys()
            if name != "spec.json" and before.get(name) != after.get(name)  # spec.json has the label
        )
        line = {"key": key, "label": second.label, "when": now(), "by": second.run.by,
                "same_bytes": not differing, "differing": differing}  # fmt: skip
        files.append_line(self.kind_folder(kind) / "doubles.jsonl", line)

    def forget_attempts(self, kind: str, key: str, who: Process | None = None) -> None:
        """Of a stage that has succeeded: its failures, its scratch, and what it was without weights. who: made it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.beside(kind, key, ".failed.json"))
        if os.path.lexists(weightless := self.beside(kind, key, ".weightless")):
            shutil.rmtree(weightless, ignore_errors=True)
        scratch = self.beside(kind, key, ".partial")
        try:
            if who is not None:
                os.rmdir(f"{scratch}/{who.name}")  # most stages leave nothing there
            os.rmdir(scratch)
        except OSError:
            if os.path.lexists(scratch):
                shutil.rmtree(scratch, ignore_errors=True)

    def record_failure(self, kind: str, key: str, failure: Failure) -> None:
        """Best effort: on a full disk the failure is known to the runner only."""
        with contextlib.suppress(OSError):
            path = Path(self.beside(kind, key, ".failed.json"))
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, files.json_bytes(failure))

    def set_aside(self, kind: str, key: str) -> str | None:
        """Move a damaged result out of the way and return its new name; None if it is gone already."""
        for number in range(1, 1000):
            name = f"{key}.damaged-{number}"
            if os.path.lexists(f"{self._stages}/{kind}/{name}"):
                continue
            try:
                os.rename(f"{self._stages}/{kind}/{key}", f"{self._stages}/{kind}/{name}")
            except FileNotFoundError:
                return None
            except OSError:
                continue
            self._verified.pop((kind, key), None)
            self.damaged.pop((kind, key), None)
            return name
        raise StoreError(f"More than 999 damaged copies of {kind}/{key[:12]} in '{self.root}': delete them.")


# --- the files of one result ------------------------------------------------------------------------------


def _facts(folder: str) -> dict[str, FileFact]:
    """Of all files below; they and their folders get the modes that the umask allows on the way."""
    facts = {}
    for name, entry in files.files_below(folder):
        digest = files.sha256_of(entry.path)
        stat = os.stat(entry.path)
        files.open_up(entry.path, stat.st_mode, 0o666)
        facts[name] = FileFact(digest, stat.st_size, stat.st_mtime_ns)
    inner = {name[:at] for name in facts for at, sign in enumerate(name) if sign == "/"}
    for path in (folder, *(f"{folder}/{name}" for name in inner)):
        files.open_up(path, os.stat(path).st_mode, 0o777)
    return facts


def _sync(folder: str, done: Done) -> None:
    """All files were written before the first of them is synced: that is one commit of a journal, not five."""
    inner = {name.rpartition("/")[0] for name in done.files}
    for name in (*done.files, "done.json", *sorted(inner, reverse=True)):
        files.sync(f"{folder}/{name}")


def _stats(folder: str, done: Done) -> Iterator[tuple[str, FileFact, os.stat_result | None]]:
    for name, fact in done.files.items():
        try:
            yield name, fact, os.stat(f"{folder}/{name}")
        except OSError as error:
            if error.errno not in files.ABSENT:
                raise files.Unreadable(error, f"{folder}/{name}") from error
            yield name, fact, None


def version(folder: str) -> tuple[int, int] | None:
    """Changes when a folder is replaced or renamed, or a file in it comes or goes; None without the folder."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _differs(folder: str, done: Done) -> str:
    """How a folder differs from its marker, or nothing. Another time alone is no difference if the hash agrees."""
    for name, fact, stat in _stats(folder, done):
        if name.startswith("/") or (".." in name and ".." in name.split("/")):
            return f"done.json names '{name}', which is not in the folder"
        if stat is None:
            return f"file {name} is missing"
        if stat.st_mode & 0o444 != 0o444 and not files.readable(f"{folder}/{name}"):  # before anything runs
            raise files.Unreadable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), f"{folder}/{name}")
        if stat.st_size != fact.size:
            return f"file {name} has {stat.st_size} bytes instead of {fact.size}"
        if stat.st_mtime_ns != fact.mtime_ns and _sha256(folder, name) != fact.sha256:
            return f"file {name} was changed after it was published"
    return ""


def _hashes_differ(folder: str, done: Done) -> str:
    for name, fact in done.files.items():
        digest = _sha256(folder, name)
        if not digest:
            return f"file {name} is missing"
        if digest != fact.sha256:
            return f"file {name} does not have the bytes that were published"
    return ""


def _sha256(folder: str, name: str) -> str:
    """Of one file of a result; "" if it is gone."""
    path = f"{folder}/{name}"
    try:
        return joined.sha256_of(path)
    except OSError as error:
        if error.errno in files.ABSENT:
            return ""
        raise files.Unreadable(error, path) from error


def _signature(folder: str, done: Done) -> tuple[tuple[str, int, int, int], ...]:
    return tuple(
        (fact.sha256, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for _, fact, stat in _stats(folder, done)
        if stat is not None
    )
