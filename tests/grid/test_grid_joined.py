"""Small results as one file: fewer files, the same bytes, the same trust; and results of before, read alike."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from noop_stages import stage

from xling.errors import StageError
from xling.grid import host, joined
from xling.grid.records import RESULT, Done, Run, Sheet, read, read_sheet
from xling.grid.stage import Stage
from xling.grid.store import Damaged, Store

RUN = Run(1.5, 1.0, "2026-01-01T00:00:00+00:00", 1, host.this_process(), 1, "cpu", None, {})
SCORE = stage("score", "score[de, tr]", n=16)
PARTS = {"pool.npy": np.arange(6.0).reshape(3, 2), "score.json": {"cut": 0}}


def publish(store: Store, what: Stage = SCORE, label: str = "", cut: int = 0) -> bool:
    folder = store.begin(what.kind, what.key, host.this_process())
    np.save(folder / "pool.npy", PARTS["pool.npy"])
    (folder / "score.json").write_text(json.dumps({"cut": cut}), encoding="utf-8")
    sheet = Sheet(what.kind, what.version, label or what.label, dict(what.spec), {})
    return store.publish(sheet, what.key, folder, RUN, join=True)


def test_a_joined_result_is_a_folder_with_two_files_that_read_as_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert publish(store)
    folder = Store(tmp_path).load("score", SCORE.key)
    assert sorted(os.listdir(folder)) == ["done.json", "files.zip"]
    assert np.array_equal(np.load(joined.opened(folder / "pool.npy")), PARTS["pool.npy"])
    assert store.content("score", SCORE.key, "score.json") == b'{"cut": 0}'
    assert joined.exists(folder / "score.json") and not joined.exists(folder / "heldout.json")
    with pytest.raises(FileNotFoundError):
        joined.content(folder / "heldout.json")
    sheet = store.sheet("score", SCORE.key)
    assert sheet is not None and (sheet.key(), sheet.label) == (SCORE.key, "score[de, tr]")
    with zipfile.ZipFile(folder / "files.zip") as archive:  # for people, with any tool
        assert archive.testzip() is None and archive.namelist() == ["pool.npy", "score.json"]
        assert np.array_equal(np.load(io.BytesIO(archive.read("pool.npy"))), PARTS["pool.npy"])
    assert np.array_equal(np.load(folder / "files.zip")["pool"], PARTS["pool.npy"])


def test_the_same_files_make_the_same_bytes_and_doubles_are_told_by_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    before = (store.folder("score", SCORE.key) / "files.zip").read_bytes()
    assert not publish(store, label="the same by another name") and not publish(store, cut=1)
    lines = (store.kind_folder("score") / "doubles.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["differing"] for line in lines] == [[], ["score.json"]]
    store.set_aside("score", SCORE.key)
    publish(store)
    assert (store.folder("score", SCORE.key) / "files.zip").read_bytes() == before


def flip(path: Path, at: int) -> None:
    """Another bit under the same size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("at", [60, -20, -5])  # of a file, of the table of files, of where that starts
def test_a_bit_that_rotted_anywhere_in_it_is_damage(tmp_path: Path, at: int) -> None:
    store = Store(tmp_path)
    publish(store)
    folder = store.load("score", SCORE.key)
    assert store.content("score", SCORE.key, "pool.npy")
    flip(folder / "files.zip", at)
    with pytest.raises(Damaged, match=r"files.zip does not have the bytes"):
        Store(tmp_path).load("score", SCORE.key)
    if at != -20:
        with pytest.raises(Damaged, match=r"pool\.npy"):
            Store(tmp_path).content("score", SCORE.key, "pool.npy")


def test_what_is_too_much_or_has_folders_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(joined, "MOST", 100)
    publish(store)
    folder = store.load("score", SCORE.key)
    assert sorted(os.listdir(folder)) == ["done.json", "pool.npy", "score.json", "spec.json"]
    assert read(Done, f"{folder}/done.json").format == RESULT and read_sheet(f"{folder}").key() == SCORE.key


def test_no_stage_may_write_an_archive_of_that_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.begin("score", SCORE.key, host.this_process())
    (folder / "files.zip").write_bytes(b"")
    with pytest.raises(StageError, match=r"wrote 'files.zip'"):
        store.publish(Sheet.of(SCORE), SCORE.key, folder, RUN)
