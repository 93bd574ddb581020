"""Bytes that rot on a disk: named, never read as something else, and made again by the same command."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from xling.analysis.matrix.types import read_matrix
from xling.cli import main
from xling.compose.grid import composed_grid
from xling.errors import ConfigError, StoreError
from xling.grid import claim, files, host, joined, launches
from xling.grid.cleanup import garbage
from xling.grid.records import Done, read
from xling.grid.store import Store
from xling.jsonfiles import decode, sealed, unsealed
from xling.launching import launch, plan_of
from xling.runners.slurm import record
from xling.translators.seq2seq import Memory

GRID = ("source_lang=de,en", "target_lang=de,en", "name=g", "tracking.mode=off")


def launched(root: Path, *more: str) -> int:
    """The grid of no-op stages, planned and run as launch.py does it."""
    cells, _ = composed_grid([*GRID, f"root={root}", *more])
    settings = {"workers": 1, "threads": 1, "claim_timeout_s": 180}
    return launch(cells, "toy_stages", "local", settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a finished grid of no-op stages."""
    sys.path.insert(0, str(Path(__file__).parent))
    root = tmp_path_factory.mktemp("made") / "root"
    assert launched(root) == 0
    yield root
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil, times and all."""
    return shutil.copytree(made, tmp_path / "root")


def rot(path: Path, old: bytes = b"", new: bytes = b"") -> None:
    """Other bytes under the same size and time: `old` becomes `new`, or a bit in the middle flips."""
    stat, content = path.stat(), path.read_bytes()
    if old:
        assert old in content and len(old) == len(new)
        content = content.replace(old, new, 1)
    else:
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :]
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def one(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def matrix(root: Path) -> bytes:
    return (root / "grids" / "g" / "matrix.csv").read_bytes()


# --- results --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["judge/*/files.zip", "gold/*/files.zip"])
def test_what_rotted_is_named_and_the_same_command_makes_it_again(
    root: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes and times are those of the marker, so that planning finds nothing: who reads it does."""
    before = matrix(root)
    path = one(root, f"stages/{pattern}")
    name = f"{path.parent.parent.name}/{path.parent.name[:12]}"
    rot(path)
    for _ in range(2):  # looking changes nothing: neither does it heal, nor is it said once only
        assert main(["reduce", "g", "--root", str(root)]) == 1
        said = capsys.readouterr().err
        assert re.search(rf"{name} cannot be used: file (items.json|files.zip) does not have the bytes", said)
        assert "Traceback" not in said and "The grid's command makes it again" in said
    assert launched(root) == 0
    assert f"{name} cannot be used" in capsys.readouterr().err
    assert matrix(root) == before
    assert main(["reduce", "g", "--root", str(root)]) == 0


def test_a_rotted_gold_pool_does_not_drop_the_ceiling(root: Path) -> None:
    folder = root / "grids" / "g"
    bounds = [panel.bounds for block in read_matrix(folder).blocks for panel in block.panels]
    assert all(bounds)
    rot(one(root, "stages/gold/*/files.zip"))
    assert launched(root) == 0
    assert [panel.bounds for block in read_matrix(folder).blocks for panel in block.panels] == bounds


def test_a_ceiling_that_is_gone_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, folder = matrix(root), one(root, "stages/gold/*")
    shutil.rmtree(folder)
    assert main(["reduce", "g", "--root", str(root)]) == 0
    assert f"gold/{folder.name[:12]} cannot be used: it is not there. It is left out" in capsys.readouterr().err
    assert matrix(root) == before
    assert launched(root) == 0 and folder.exists()


@pytest.mark.parametrize("mode", ["cached", "read-only"])
def test_modes_that_make_nothing_again_say_so_and_fail(
    root: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rot(one(root, "stages/judge/*/files.zip"))
    assert launched(root, f"mode={mode}") == 1
    assert "items.json does not have the bytes that were published" in capsys.readouterr().err
    assert not list(root.glob("stages/judge/*damaged*"))


def test_a_damaged_parent_is_made_again_before_its_child(root: Path) -> None:
    before = matrix(root)
    shutil.rmtree(one(root, "stages/judge/*"))
    for path in root.glob("stages/score/*/files.zip"):
        rot(path)
    assert launched(root) == 0
    assert matrix(root) == before


# --- results of before: each file by itself -------------------------------------------------------------------


def inodes(root: Path, kind: str) -> int:
    """Files and folders of a kind's stages, logs and all."""
    found = [*root.glob(f"stages/{kind}/**/*"), *root.glob(f"logs/{kind}/*")]
    return len(found)


def unjoin(store: Store, kind: str, key: str) -> None:
    """A result as xling wrote it before: each file by itself, and spec.json."""
    folder, sheet = store.folder(kind, key), store.sheet(kind, key)
    assert sheet is not None
    done = read(Done, f"{folder}/done.json")
    temporary = store.begin(kind, key, host.this_process())
    for name in done.inside:
        (temporary / name).write_bytes(joined.content(folder / name))
    shutil.rmtree(folder)
    store.publish(sheet, key, temporary, done.run)
    marker = json.loads((folder / "done.json").read_bytes())
    for name in ("inside", "checksum"):
        del marker[name]
    (folder / "done.json").write_bytes(files.json_bytes(marker))


def test_cells_leave_three_files_a_stage_and_a_root_of_before_is_read_and_gone_on_with(root: Path) -> None:
    store = Store(root)
    for kind, count in (("score", 4), ("gold", 2), ("judge", 4)):
        assert len(store.listing(kind).results) == count and inodes(root, kind) == 3 * count
    before = matrix(root)
    for kind in ("score", "gold", "judge"):
        for key in sorted(store.listing(kind).results)[::2]:
            unjoin(store, kind, key)
    times = {path: path.stat().st_mtime_ns for path in root.glob("stages/*/*/done.json")}
    assert main(["reduce", "g", "--root", str(root)]) == 0
    assert matrix(root) == before
    shutil.rmtree(next(path for path in root.glob("stages/judge/*") if (path / "files.zip").exists()))
    assert launched(root) == 0  # its parents are of both layouts; nothing else runs again
    assert matrix(root) == before
    again = {path for path in root.glob("stages/*/*/done.json") if times.get(path) != path.stat().st_mtime_ns}
    assert len(again) == 1 and next(iter(again)).parent.parent.name == "judge"


def test_a_stage_without_a_word_has_no_log_and_logs_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not list(root.glob("logs/judge/*")) and len(list(root.glob("logs/sft/*"))) == 2
    assert main(["logs", "judge[de, en]", "g", "--root", str(root)]) == 0
    assert "is done, and had nothing to say" in capsys.readouterr().err


# --- records --------------------------------------------------------------------------------------------------


SPOILT = {
    "no UTF-8, as in done_one_bit.json": lambda path: rot(path, b"judge[", b"judge\xdb"),
    "a bit of what decides nothing": lambda path: rot(path, b'"device": "cpu"', b'"device": "cqu"'),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "deep": lambda path: path.write_bytes(b"[" * 20_000),
    "another result's": lambda path: path.write_bytes(sorted(path.parent.parent.glob("*/done.json"))[1].read_bytes()),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_marker_is_named_and_stops_nothing(root: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = one(root, "stages/judge/*/done.json")
    SPOILT[how](path)
    for command, code in (("status", 0), ("reduce", 1)):
        assert main([command, "g", "--root", str(root)]) == code
    assert f"{path.parent.name[:12]} cannot be used: done.json" in capsys.readouterr().err
    assert main(["gc", "--root", str(root)]) == 0


def test_a_damaged_marker_is_made_again(root: Path) -> None:
    before = matrix(root)
    for kind in ("judge", "gold", "reward", "base"):
        rot(one(root, f"stages/{kind}/*/done.json"))
    assert launched(root) == 0
    assert matrix(root) == before
    assert main(["reduce", "g", "--root", str(root)]) == 0


def test_a_file_that_the_marker_does_not_name_any_more_is_no_way_around_its_hash(root: Path) -> None:
    path = one(root, "stages/judge/*/done.json")
    content = json.loads(path.read_bytes())
    del content["files"]["files.zip"]
    path.write_text(json.dumps(content))
    assert Store(root).state("judge", path.parent.name) == "damaged"


def test_a_damaged_claim_stops_nothing(root: Path) -> None:
    """It is somebody's whom nobody knows, for as long as a runner may be silent."""
    path = root / "stages" / "judge" / f"{'a' * 64}.claim"
    path.write_bytes(b'{"by":{"host":"v\xed","pid":1,"start":"a","slurm":""},"since":1.0}')  # cases/claim_one_bit.claim
    held = claim.read(str(path))
    assert held is not None and "unknown" in held.who
    assert main(["status", "g", "--root", str(root)]) == 0
    assert garbage(Store(root)) == []
    os.utime(path, (1, 1))
    assert [item.path.name for item in garbage(Store(root))] == [path.name]


@pytest.mark.parametrize(
    ("name", "commands"),
    [("plan.json", ("status", "reduce", "analyse", "gc")), ("matrix.json", ("report", "figures"))],
)
@pytest.mark.parametrize("change", [(b'"de"', b'"dd"'), (b'"de"', b'"d\xe5"')])
def test_a_plan_and_a_matrix_that_rotted_are_refused_by_name(
    root: Path, name: str, commands: tuple[str, ...], change: tuple[bytes, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    before, path = matrix(root), root / "grids" / "g" / name
    rot(path, *change)
    for command in commands:
        assert main([command, *([] if command == "gc" else ["g"]), "--root", str(root)]) == 2
        assert str(path) in capsys.readouterr().err
    if name == "matrix.json":
        assert main(["reduce", "g", "--root", str(root)]) == 0
    else:
        assert launched(root) == 0
    assert matrix(root) == before and main(["report", "g", "--root", str(root)]) == 0


def test_a_failures_record_that_rotted_is_a_failure_still(root: Path) -> None:
    store = Store(root)
    path = root / "stages" / "judge" / f"{'b' * 64}.failed.json"
    path.write_bytes(b'{"label":"\xff"}')
    assert store.failure("judge", "b" * 64) == "the record of the failure is damaged"


def test_a_submission_that_rotted_is_named(root: Path) -> None:
    folder = root / "grids" / "g" / "slurm" / "s"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_bytes(sealed(b'{"id": "s", "grid": "g"}').replace(b'"g"', b'"h"'))
    assert record.submissions(Store(root), "g") == []
    [said] = record.unreadable(Store(root), "g")
    assert str(folder / "submission.json") in said and "checksum" in said
    (folder / "submission.json").write_bytes(sealed(b'{"id": "s", "format": 9}'))
    [said] = record.unreadable(Store(root), "g")
    assert "a newer version of xling wrote it, in format 9" in said


@pytest.mark.parametrize("command", ["reduce", "figures", "analyse"])
def test_no_command_writes_through_a_link_out_of_the_root(
    root: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "grids" / "g" / "figures").symlink_to(tmp_path / "elsewhere")
    assert main([command, "g", "--root", str(root)]) == 2
    assert "is a link to" in capsys.readouterr().err and not list((tmp_path / "elsewhere").iterdir())


# --- caches ---------------------------------------------------------------------------------------------------


def test_a_translation_that_rotted_is_not_remembered(tmp_path: Path) -> None:
    Memory(tmp_path, {"model": "m"}).add({"one": "eins", "two": "zwei"})
    [path] = tmp_path.glob("*/*.jsonl")
    rot(path, b"eins", b"fins")
    memory = Memory(tmp_path, {"model": "m"})
    memory.refresh()
    assert memory.get("one") == (False, None) and memory.get("two") == (True, "zwei")


# --- reading JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b'"\xff"', b"[" * 50_000, b"", b"1e999", b'{"a": 1'])
def test_what_is_no_json_is_one_error(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(content, list[float] if content == b"1e999" else object)


def test_a_seal_holds_for_every_bit() -> None:
    content = sealed(msgspec.json.format(msgspec.json.encode({"a": 1.25, "b": "ü"}), indent=1))
    assert json.loads(content)["a"] == 1.25
    there = unsealed(content, dict[str, object])
    for place in range(len(content)):
        for bit in range(8):
            changed = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            try:
                found = unsealed(changed, dict[str, object])
            except msgspec.DecodeError:
                continue
            assert {name: found.get(name) for name in "ab"} == {name: there[name] for name in "ab"}
    for kept in range(len(content) - 1):
        with pytest.raises(msgspec.DecodeError):
            unsealed(content[:kept], dict[str, object])


def test_a_store_error_names_a_file(root: Path) -> None:
    (root / "grids" / "g" / "plan.json").write_bytes(b"\xff")
    with pytest.raises(StoreError, match=r"grids/g/plan.json"):
        garbage(Store(root))


def test_a_command_that_is_refused_drops_nothing(root: Path) -> None:
    """Other cells run under its name, and may have to read what its own have read."""
    others, _ = composed_grid([*GRID, f"root={root}", "target_lang=de,en,tr"])
    with launches.running(plan_of(others, "toy_stages")), pytest.raises(ConfigError, match="name=g is taken"):
        launched(root, "keep_weights=none")
    assert len(list(root.glob("stages/*/*/weights.bin"))) == 4
    for more in ([], ["mode=force"]):
        assert launched(root, "keep_weights=none", *more) == 0 and not list(root.glob("stages/*/*/weights.bin"))
