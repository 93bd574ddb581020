"""Copies of the code that jobs of a cluster run: of whatever is imported, by several shells and users at once."""

import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xling.grid.cleanup import delete
from xling.grid.store import Store
from xling.measures.own import own_measure
from xling.runners.slurm import record, snapshot


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An imported package of one's own."""
    folder = tmp_path / "mine_for_snapshots"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "stages.py").write_text("ONE = 1")
    monkeypatch.syspath_prepend(tmp_path)
    __import__(f"{folder.name}.stages")
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_root_inside_a_package_is_not_copied_into_itself(package: Path) -> None:
    copied = snapshot.take(Store(package / "outputs"))
    assert {path.name for path in (copied / package.name).glob("*")} - {"__pycache__"} == {"__init__.py", "stages.py"}


def test_whoever_shares_the_root_can_read_the_copy(package: Path, tmp_path: Path) -> None:
    (package / "stages.py").chmod(0o600)
    assert (snapshot.take(Store(tmp_path / "out")) / package.name / "stages.py").stat().st_mode & 0o444 == 0o444


def test_jobs_that_compile_the_copy_do_not_change_it(package: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    copied = snapshot.take(store)
    number, above = copied.stat().st_ino, copied.parent.stat().st_mtime_ns
    (copied / package.name / "__pycache__").mkdir(exist_ok=True)
    (copied / package.name / "__pycache__" / "stages.cpython-312.pyc.140221").touch()
    assert snapshot.take(store) == copied and copied.stat().st_ino == number
    assert copied.parent.stat().st_mtime_ns == above, "nothing is copied before it is known to be there"
    (copied / package.name / "stages.py").write_text("ONE = 2")
    assert snapshot.take(store) == copied and (copied / package.name / "stages.py").read_text() == "ONE = 1"


def test_the_copy_of_a_quicker_shell_is_as_good(package: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    copied = snapshot.take(store)
    made = copied.with_name(".made")
    made.mkdir()
    (made / "stages.py").touch()
    snapshot._publish(made, copied)
    assert (copied / package.name / "stages.py").exists()


def test_a_file_of_measures_hides_no_module_from_jobs(tmp_path: Path) -> None:
    file = tmp_path / "statistics.py"
    file.write_text("def words(responses):\n    return [len(one.split()) for one in responses]\n")
    assert own_measure(f"{file}:words").file == str(file)
    assert Path(statistics.__file__) != file
    assert not list(snapshot.take(Store(tmp_path / "out")).glob("statistics.py"))


def test_what_a_stage_may_import_when_it_runs_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, installed = tmp_path / "mine", tmp_path / "installed"
    for path in ("one_of_mine.py", "many_of_mine/__init__.py", "many_of_mine/words.txt", "data/of_mine.py",
                 "statistics.py", "huge_of_mine/__init__.py"):  # fmt: skip
        (mine / path).parent.mkdir(parents=True, exist_ok=True)
        (mine / path).touch()
    (installed / "a_tool-1.0.dist-info").mkdir(parents=True)
    (installed / "a_tool.py").touch()
    monkeypatch.setattr(snapshot, "MOST_FILES", 2)
    for number in range(2):
        (mine / f"huge_of_mine/{number}.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed), str(mine)])
    copied = snapshot.take(Store(tmp_path / "out"))
    for path in ("one_of_mine.py", "many_of_mine/__init__.py", "many_of_mine/words.txt"):
        assert (copied / path).exists()
    for path in ("data", "statistics.py", "a_tool.py", "huge_of_mine"):
        assert not (copied / path).exists(), "it is no package, `import` finds another, it is installed, or too big"
    assert f"'{mine}/huge_of_mine' is not copied" in capsys.readouterr().err
    assert not {"one_of_mine", "many_of_mine"} & sys.modules.keys(), "nothing is imported for it"
    assert (copied / "many_of_mine/words.txt").is_symlink()


def test_a_copy_that_a_submission_has_taken_up_since_gc_looked_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    copied = snapshot.take(store)
    os.utime(copied, (0, 0))
    found = list(snapshot.garbage(store))
    assert [item.path for item in found] == [copied] == [snapshot.take(store)]
    delete(found)
    assert (copied / "xling" / "__init__.py").exists()
    os.utime(copied, (0, 0))
    delete(snapshot.garbage(store))
    assert not copied.exists()


def test_no_copy_is_garbage_while_a_record_cannot_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    copied = snapshot.take(store)
    os.utime(copied, (0, 0))
    assert [item.path for item in snapshot.garbage(store)] == [copied]
    damaged = record.folder_of(store, "demo") / "1" / "submission.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    assert not list(snapshot.garbage(store))
