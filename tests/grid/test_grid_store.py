"""The store publishes whole results only, once, and never hands out one that has changed."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from noop_stages import stage

from xling.errors import StageError
from xling.grid import files, host
from xling.grid.records import Failure, Run, Sheet
from xling.grid.stage import Stage
from xling.grid.store import Damaged, Store

RUN = Run(1.5, 1.0, "2026-01-01T00:00:00+00:00", 1, host.this_process(), 1, "cpu", None, {})
POOL = stage("pool", "pool[de]", n=16, nested={"share": 0.1, "words": ["über", "да"]})


def publish(store: Store, what: Stage = POOL, text: str = "result", replace: bool = False) -> bool:
    folder = store.begin(what.kind, what.key, host.this_process())
    (folder / "value.txt").write_text(text, encoding="utf-8")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "x.txt").write_text("deep", encoding="utf-8")
    return store.publish(Sheet.of(what), what.key, folder, RUN, replace)


def value(store: Store, what: Stage = POOL) -> Path:
    return store.folder(what.kind, what.key) / "value.txt"


def test_a_device_is_written_to_and_not_replaced() -> None:
    """As /dev/null would be by root, for the whole machine."""
    ours, theirs = os.openpty()
    path = Path(os.ttyname(theirs))
    files.write_atomically(path, b"result")
    assert os.read(ours, 100) == b"result" and path.is_char_device()


def test_a_published_result_can_be_loaded_and_says_how_it_was_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.state("pool", POOL.key) == "missing"
    assert publish(store)
    folder = Store(tmp_path).load("pool", POOL.key)
    assert (folder / "value.txt").read_text(encoding="utf-8") == "result"
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    assert spec["spec"] == {"n": 16, "nested": {"share": 0.1, "words": ["über", "да"]}}
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    assert set(done["files"]) == {"spec.json", "value.txt", "deep/er/x.txt"}
    assert done["run"]["seconds"] == 1.5 and done["run"]["by"]["host"] == host.hostname()
    assert sorted(os.listdir(folder.parent)) == [POOL.key]


def test_a_second_result_is_dropped_and_noted_with_whether_its_bytes_agree(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert publish(store)
    assert not publish(store)
    assert not publish(store, text="another")
    assert value(store).read_text(encoding="utf-8") == "result"
    lines = (store.kind_folder("pool") / "doubles.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(line["same_bytes"], line["differing"]) for line in map(json.loads, lines)] == [
        (True, []),
        (False, ["value.txt"]),
    ]
    assert sorted(os.listdir(store.kind_folder("pool"))) == [POOL.key, "doubles.jsonl"]


def test_replace_swaps_the_old_result_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    store.load("pool", POOL.key)
    assert publish(store, text="anew!!", replace=True)
    assert (store.load("pool", POOL.key) / "value.txt").read_text(encoding="utf-8") == "anew!!"
    assert os.listdir(store.kind_folder("pool")) == [POOL.key]


def truncate(folder: Path) -> None:
    (folder / "value.txt").write_text("res", encoding="utf-8")


def edit(folder: Path) -> None:
    (folder / "value.txt").write_text("RESULT", encoding="utf-8")


def edit_secretly(folder: Path) -> None:
    path = folder / "value.txt"
    times = path.stat()
    path.write_text("RESULT", encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def delete(folder: Path) -> None:
    (folder / "deep" / "er" / "x.txt").unlink()


def unmark(folder: Path) -> None:
    (folder / "done.json").unlink()


def garble_marker(folder: Path) -> None:
    (folder / "done.json").write_text('{"kind": ', encoding="utf-8")


def edit_spec(folder: Path) -> None:
    path = folder / "spec.json"
    path.write_text(path.read_text(encoding="utf-8").replace("16", "64"), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (truncate, "value.txt has 3 bytes instead of 6"),
        (edit, "value.txt was changed"),
        (delete, "deep/er/x.txt is missing"),
        (unmark, "done.json is missing"),
        (garble_marker, "done.json cannot be read"),
        (edit_spec, "spec.json was changed"),
    ],
)
def test_a_changed_result_is_named_and_not_used(tmp_path: Path, damage, names: str) -> None:
    store = Store(tmp_path)
    publish(store)
    store.load("pool", POOL.key)
    damage(store.folder("pool", POOL.key))
    status = store.check("pool", POOL.key)
    assert status.state == "damaged" and names in status.why
    with pytest.raises(Damaged, match=names):
        store.load("pool", POOL.key)


def test_loading_finds_a_change_that_size_and_time_hide(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    edit_secretly(store.folder("pool", POOL.key))
    assert store.state("pool", POOL.key) == "done"
    with pytest.raises(Damaged, match=r"value.txt does not have the bytes"):
        store.load("pool", POOL.key)


def test_a_result_under_another_key_is_not_the_one_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    other = stage("pool", "pool[de]", n=64).key
    shutil.copytree(store.folder("pool", POOL.key), store.folder("pool", other))
    with pytest.raises(Damaged, match="not that of this key"):
        store.load("pool", other)


def test_a_copied_store_is_as_good_as_the_first(tmp_path: Path) -> None:
    publish(Store(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    copy = Store(tmp_path / "b")
    assert copy.state("pool", POOL.key) == "done"
    assert copy.load("pool", POOL.key).is_dir()


def test_damaged_results_are_set_aside_one_after_the_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in (1, 2):
        publish(store)
        assert store.set_aside("pool", POOL.key) == f"{POOL.key}.damaged-{number}"
        assert store.state("pool", POOL.key) == "missing"
    assert store.set_aside("pool", POOL.key) is None
    assert len(store.listing("pool").damaged) == 2


def test_a_failure_is_remembered_until_the_stage_succeeds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failure = Failure("pool[de]", 2, "ValueError: no", "Traceback ...", "logs/x.log", "", "")
    store.record_failure("pool", POOL.key, failure)
    assert store.state("pool", POOL.key) == "failed"
    assert store.failure("pool", POOL.key) == "ValueError: no"
    scratch = store.scratch("pool", POOL.key, host.this_process())
    publish(store)
    assert store.failure("pool", POOL.key) is None
    assert not scratch.parent.exists()


def test_a_stage_may_not_write_the_marker_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.begin("pool", POOL.key, host.this_process())
    (folder / "done.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StageError, match=r"wrote 'done.json'"):
        store.publish(Sheet.of(POOL), POOL.key, folder, RUN)
    assert store.state("pool", POOL.key) == "missing"


def test_a_full_disk_is_told_from_other_errors() -> None:
    full = files.disk_error(OSError(errno.ENOSPC, "No space left on device"), Path("outputs"))
    assert "'outputs' is full" in str(full) and "xling gc" in str(full)


def test_names_beside_results_are_told_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    folder = store.kind_folder("pool")
    for suffix in (".claim", ".failed.json", ".tmp-h-1-2", ".old-h-1-2", ".damaged-1"):
        (folder / (POOL.key + suffix)).write_text("", encoding="utf-8")
    (folder / "doubles.jsonl").write_text("", encoding="utf-8")
    listing = store.listing("pool")
    assert listing.results == listing.claimed == listing.failed == {POOL.key}
    assert len(listing.leftovers) == 2 and len(listing.damaged) == 1
