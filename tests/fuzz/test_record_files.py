"""Record files that rot, are cut off, deleted, swapped or edited: named or made again, no other number in silence.

A finished grid of no-op stages (with a cluster's records, claims, failures, caches and a sheet's key beside it) is
spoilt in one place at a time, and read in this process as `xling status`, `gc`, `reduce` and `report` read it; then the
grid's command is repeated, in this process too. Whatever is raised has to be an XlingError, within seconds.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from xling import digests
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import read_matrix
from xling.compose.grid import composed_grid
from xling.errors import XlingError
from xling.grid import claim, files
from xling.grid.cleanup import garbage
from xling.grid.plan import Plan, make_plan
from xling.grid.records import Sheet
from xling.grid.status import grid_status
from xling.grid.store import Store
from xling.judges.cache import Answer, Cache
from xling.launching import _healing, plan_of
from xling.report.files import csv_bytes, write_matrix
from xling.report.tables.findings import written_findings
from xling.results import items as records
from xling.runners.execute import Executor, Job
from xling.runners.slurm import record
from xling.runners.slurm.holdings import failed_since
from xling.sheets.key import CellKey, Key, Pair, Row, SheetKey, identified, key_bytes, read_key
from xling.tracking.base import Destination, TrackingResult
from xling.tracking.dashboard import _read
from xling.tracking.track import read_ledger
from xling.translators.seq2seq import Memory

SECONDS = 60  # that reading and repairing a spoilt root may take, on a busy machine
GRID = ["source_lang=de,en", "target_lang=de,en", "name=g", "tracking.mode=off"]
KEY = "f" * 64  # of a stage that no grid has

# --- ways to spoil a file -------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.sampled_from([None, True, -1, 0, 2**70, 1e308, -0.5, "", "x", "../../x", [], {}, [[]], {"a": 1}]),
    st.text(max_size=4),
    st.integers(),
)


@dataclass(frozen=True)
class Spoilt:
    """One way to spoil a file; `rot` leaves its time as it was, as bits that flip on a disk do."""

    how: str
    places: tuple[tuple[int, int], ...] = ()
    value: Any = None
    other: int = 0
    rot: bool = True

    def apply(self, content: bytes, others: list[bytes]) -> bytes | None:
        """None: the file is gone."""
        if self.how == "delete":
            return None
        if self.how == "swap":
            return others[self.other % len(others)]
        if self.how == "bytes":
            return bytes(self.value)
        if self.how == "truncate":
            return content[: self.places[0][0] % (len(content) + 1)]
        if self.how in ("json", "older"):
            return _edited(content, self.places[0][0], self.value, self.places[0][1] % 3 == 0, self.how == "older")
        changed = bytearray(content or b"\0")
        for place, bit in self.places:
            changed[place % len(changed)] ^= 1 << bit
        return bytes(changed)


def _edited(content: bytes, place: int, value: Any, drop: bool, older: bool) -> bytes:
    """JSON in which one value is another, or gone; `older`: as an xling wrote it that knew no checksums."""
    try:
        whole = json.loads(content)
    except ValueError:
        return content[::-1]
    if older and isinstance(whole, dict):
        whole.pop("checksum", None)
    inner = list(_inner(whole))
    if not inner:
        return json.dumps(value).encode()
    holder, name = inner[place % len(inner)]
    if drop:
        del holder[name]
    else:
        holder[name] = value
    return json.dumps(whole).encode(errors="surrogatepass")


def _inner(value: Any) -> Iterator[tuple[Any, Any]]:
    """(dict or list, key or place) of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in list(items):
        yield value, name
        yield from _inner(one)


PLACES = st.tuples(st.integers(0, 1 << 20), st.integers(0, 7))
SPOILT = st.one_of(
    st.builds(Spoilt, st.just("flip"), st.lists(PLACES, min_size=1, max_size=3).map(tuple), rot=st.booleans()),
    st.builds(Spoilt, st.just("truncate"), st.tuples(PLACES), rot=st.booleans()),
    st.builds(Spoilt, st.sampled_from(["json", "older"]), st.tuples(PLACES), LEAVES),
    st.builds(Spoilt, st.just("bytes"), value=st.binary(max_size=200)),
    st.builds(Spoilt, st.just("swap"), other=st.integers(0, 1000)),
    st.just(Spoilt("delete")),
)


@contextmanager
def within_time() -> Iterator[None]:
    def over(*_: object) -> None:
        raise TimeoutError(f"It took more than {SECONDS} s.")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- a whole root ---------------------------------------------------------------------------------------------


class Root:
    """A finished grid that can be spoilt and put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cells, _ = composed_grid([*GRID, f"root={folder}"])
        self.plan = plan_of(cells, "toy_stages")
        self.repeat()
        self.csv = self.fold(self.store())
        self._beside()
        self.content = {path: (path.read_bytes(), path.stat()) for path in self._files()}
        self.names = sorted(self.content)
        self.matrix = read_matrix(self.folder / "grids" / "g")

    def store(self) -> Store:
        return Store(self.folder)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]

    def _beside(self) -> None:
        """What a cluster, other runners and failures leave."""
        slurm = self.folder / "grids" / "g" / "slurm" / "s"
        submitted = {"id": "s", "grid": "g", "root": "r", "created": 1.0, "command": [], "catalogue": "c", "git": None,
                     "force": False, "code": "c", "python": "p", "cwd": "c", "path": [], "tracking": {},
                     "settings": msgspec.to_builtins(_settings()), "stages": [],
                     "arrays": [{"number": 0, "name": "a", "tasks": [{"stages": []}],
                                 "resources": msgspec.to_builtins(_settings().common)}]}  # fmt: skip
        (slurm / "tasks").mkdir(parents=True)
        (slurm / "submission.json").write_bytes(files.sealed_json(submitted))
        record.note_job(slurm, 0, "123")
        record.note_state(slurm, "released")
        record.note_event(slurm, (0, 0), record.Event("start", 1.0, "123_0", "node"))
        assert [filed.state for filed in record.submissions(self.store(), "g")] == ["released"]
        kind = self.folder / "stages" / "judge"
        (kind / f"{KEY}.claim").write_bytes(b'{"by":{"host":"elsewhere","pid":1,"start":"a","slurm":""},"since":1.0}')
        failed = {"label": "x", "attempts": 1, "last": "no", "traceback": "no", "log": "l", "host": "h",
                  "when": "2026-01-01T00:00:00+00:00"}  # fmt: skip
        (kind / f"{KEY}.failed.json").write_text(json.dumps(failed))
        tracking = self.folder / "tracking"
        tracking.mkdir()
        (tracking / TO.ledger).write_bytes(b'{"key":"a"}\n{"key":"b"}\n')
        (tracking / "g.json").write_bytes(files.json_bytes(TrackingResult("off")))
        table = {"name": "n", "title": "t", "note": "", "left_out": [], "columns": ["a"], "rows": [{"a": 1.25}]}
        (self.folder / "grids" / "g" / "analysis.json").write_bytes(files.sealed_json({"findings": [table]}))

    # --- what the commands do ---------------------------------------------------------------------------------

    def fold(self, store: Store) -> bytes:
        matrix = fold_grid(store, "g")
        write_matrix(self.folder / "grids" / "g", matrix)
        return csv_bytes(matrix)

    def look(self) -> None:
        """As `xling status` and `gc` do, and the readers that they and others have in common."""
        store, key = self.store(), Job(KEY, Sheet("judge", 1, "x", {}, {}))
        with suppress(XlingError):
            grid_status(store, "g")
        with suppress(XlingError):
            needed = {store.folder(stage.kind, stage.key) for stage in grid_status(store, "g").plan.stages}
            assert not needed & {item.path for item in garbage(store)}
        record.submissions(store, "g")
        record.unreadable(store, "g")
        for filed in record.submissions(store):
            filed.events((0, 0))
        failed_since(store, key, 1.0)
        claim.read(store.beside("judge", KEY, ".claim"))
        read_ledger(self.folder / "tracking", TO)
        _read(self.folder / "tracking" / "g.json", TrackingResult, TrackingResult("off"))

    def repeat(self) -> None:
        """The grid's command once more, as launching.launch does it, but in this process."""
        store = self.store()
        plan: Plan = make_plan(self.plan.cells, store, name="g", command=self.plan.command, kinds=TOYS())
        for _ in range(3):
            plan.write()
            worker = Executor(store, TOYS())
            left = [Job(stage.key, Sheet.of(stage)) for stage in plan.to_run]
            turns = 0
            while left and (turns := turns + 1) < 200:
                report = worker.execute(left[0])
                if report.event == "damaged":  # a parent: made again first
                    parent = plan.steps[report.parent].stage
                    left.insert(0, Job(parent.key, Sheet.of(parent), suspect=True))
                else:
                    assert report.event in ("done", "found"), report
                    left.pop(0)
            self.fold(store)
            if not store.damaged:
                return
            plan = _healing(plan, "toy_stages", "retry")

    def put_back(self) -> None:
        for path in self._files():
            if path not in self.content:
                path.unlink()
        for path, (content, stat) in self.content.items():
            now = path.stat() if path.is_file() else None
            if now is None or now.st_mtime_ns != stat.st_mtime_ns or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for folder in self.folder.glob("stages/*/*.*"):
            if folder.is_dir():
                shutil.rmtree(folder)


TO = Destination("offline", "p", None)


def TOYS() -> Any:
    import toy_stages

    return toy_stages.KINDS


def _settings() -> Any:
    from xling.runners.slurm.settings import read as settings_from

    defaults = Path(__file__).parents[2] / "conf" / "hydra" / "launcher" / "slurm.yaml"
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(defaults))
    assert isinstance(values, dict)
    own = {
        str(key): value
        for key, value in values.items()
        if not str(key).startswith(("_", "name", "defaults", "catalogue"))
    }
    return settings_from(own, TOYS())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    yield Root(tmp_path_factory.mktemp("fuzz") / "root")
    sys.path.remove(str(Path(__file__).parents[1]))


@given(data=st.data(), how=SPOILT)
def test_no_number_of_a_spoilt_root_changes_in_silence(root: Root, data: st.DataObject, how: Spoilt) -> None:
    path = data.draw(st.sampled_from(root.names), label="file")
    content, stat = root.content[path]
    spoilt = how.apply(content, [other for name, (other, _) in sorted(root.content.items()) if name.name == path.name])
    event(f"{how.how}")
    with within_time():
        try:
            if spoilt is None:
                path.unlink()
            else:
                path.write_bytes(spoilt)
                if how.rot:
                    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            root.look()
            store = root.store()
            told = how.how == "older"  # without its checksum a file says what it says
            try:
                matrix = read_matrix(root.folder / "grids" / "g")
                assert told or matrix == root.matrix
            except XlingError:
                assert path.name == "matrix.json"
            _findings(root.folder / "grids" / "g", told)
            try:
                folded = csv_bytes(fold_grid(store, "g"))
                assert told or folded == root.csv or store.damaged, (path, how)
            except XlingError as error:
                assert path.name == "plan.json" or path.parent.name in str(error) or str(path) in str(error)
            root.repeat()
            assert (root.folder / "grids" / "g" / "matrix.csv").read_bytes() == root.csv
        finally:
            root.put_back()


def _findings(folder: Path, told: bool) -> None:
    """What `xling analyse` left: the page says of what it cannot read that it could not be made."""
    found = written_findings(folder)
    assert all(told or not len(one.table) or one.table.to_dict("records") == [{"a": 1.25}] for one in found)


# --- files that no hash covers, and readers by themselves -----------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A file, what is right in it, and who reads it: the same again, or one of `nothing`, or an XlingError."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    nothing: tuple[Any, ...] = ()


def _of_spoilt(path: Path, spoilt: bytes | None, read: Callable[[Path], Any]) -> Any:
    """What a reader makes of a file with other bytes, or of one that is gone; the error that it refuses it with."""
    with within_time():
        if spoilt is None:
            path.unlink()
        else:
            path.write_bytes(spoilt)
        try:
            return read(path)
        except XlingError as error:
            return error


TEXTS = {"one": "eins", "two": None, "three": "drei"}
ANSWER = Answer(0.25, "text", "A")
SHEETS = [SheetKey("s", "en", [Row("b", 0, "A")])]
CELLS = [CellKey({"source_lang": "de"}, KEY, KEY, [0], [1.0])]
MARKED = Key("", "g", 0, 1, "?", [Pair("en", "p", "g", "", "t", "a", "b")], CELLS, SHEETS)


def _memory(folder: Path) -> Path:
    Memory(folder, {"m": 1}).add(TEXTS)
    [path] = folder.glob("*/*.jsonl")
    return path


def _remembered(path: Path) -> Any:
    memory = Memory(path.parent.parent, {"m": 1})
    memory.refresh()
    found = {text: memory.get(text) for text in TEXTS}
    return {text: said if known else TEXTS[text] for text, (known, said) in found.items()}


def _answer(folder: Path) -> Path:
    Cache(folder).put(KEY, ANSWER)
    [path] = folder.glob("*/*.json")
    return path


def _digest(folder: Path) -> Path:
    (folder / "xling").mkdir(parents=True)
    os.environ["XDG_CACHE_HOME"] = str(folder)
    digests._remember(digests._Known("/a", 1, 2, 3, "b" * 64))
    return folder / "xling" / "digests.jsonl"


def _key(folder: Path) -> Path:
    (folder / "key.json").write_bytes(key_bytes(identified(MARKED)))
    return folder / "key.json"


PARTS = {
    "translation memory": Part(_memory, _remembered),
    "judge's answer": Part(_answer, lambda path: Cache(path.parent.parent).get(KEY), (None,)),
    "remembered digest": Part(_digest, lambda path: digests._remembered().get(("/a", 1, 2, 3)), (None,)),
    "a sheet's key": Part(_key, lambda path: read_key(path.parent)),
}


@pytest.mark.parametrize("name", PARTS)
@given(how=SPOILT)
def test_a_spoilt_cache_is_as_if_it_were_not_there(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, name: str, how: Spoilt
) -> None:
    part, folder = PARTS[name], tmp_path_factory.getbasetemp() / "parts" / name.replace(" ", "_")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = part.write(folder)
    right, content = part.read(path), path.read_bytes()
    assert right not in part.nothing
    spoilt = how.apply(content, [content])
    found = _of_spoilt(path, spoilt, part.read)
    if isinstance(found, XlingError):
        assert str(folder) in str(found)
    else:
        assert found == right or found in part.nothing or how.how == "older"


def _items() -> bytes:
    columns = {"prompt": ["p", "q"], "group": ["g", "h"], "dataset": ["", ""], "win": [0.5, 1.0], "length": [3, 4],
               "in_language": [1.0, 0.5], "reward": [0.25, None]}  # fmt: skip
    return json.dumps(columns).encode()


def _array() -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, np.array([[0.25, 0.5], [1.0, np.nan]]))
    return out.getvalue()


READERS: dict[str, tuple[bytes, Callable[[Path], Any]]] = {
    "items.json": (_items(), lambda path: records.read_items(path.parent)),
    "curve.npy": (_array(), records.read_array),
    "summary.json": (b'{"n_samples": 4, "kl_bound": null}', lambda path: records.read_json(path, records.Summary)),
    "heldout.json": (b'{"group": ["a"], "score": [0.5], "label": [1], "length": [3]}',
                     lambda path: records.read_heldout(path.parent)),
    "accuracy.json": (b'{"group": ["a"], "correct": [0.5]}', lambda path: records.read_judge_accuracy(path.parent)),
    "curve.jsonl": (b'{"step": 1, "validation_win": 0.5}\n', lambda path: records.read_learning(path.parent)),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@given(how=SPOILT)
def test_readers_refuse_by_name_what_they_cannot_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, how: Spoilt
) -> None:
    """Even where the hash fits, as of a result that other code has published."""
    content, read = READERS[name]
    folder = tmp_path_factory.getbasetemp() / "stages" / "judge" / KEY
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    read(path)
    spoilt = how.apply(content, [other for other, _ in READERS.values()])
    found = _of_spoilt(path, spoilt, read)
    assert name in str(found) or not isinstance(found, XlingError)
