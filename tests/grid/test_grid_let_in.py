"""What a results folder that others can write to, a file from elsewhere, or a text may not do."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from noop_stages import KINDS, grid, stage

from xling.analysis.matrix.types import Block, Entry, Matrix, Panel
from xling.cli import main
from xling.compose.overrides import parse
from xling.console import formula_free, harmless, shown, without_secrets
from xling.errors import ConfigError, StoreError
from xling.grid.cleanup import delete, garbage
from xling.grid.files import append_line
from xling.grid.grids import read_grid
from xling.grid.plan import make_plan
from xling.grid.records import Sheet
from xling.grid.store import Store
from xling.report.files import csv_bytes
from xling.results.plan import ENTRY_AXES
from xling.runners.execute import Executor, Job
from xling.sheets.key import CellKey, Key, Pair, Row, SheetKey, identified, key_bytes, read_key
from xling.tracking.track import _lock
from xling.tracking.wandb import Settings, destination_of

POOL = stage("pool", "pool[de]", langs=["de"])


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder outside of the root with a file that nobody may touch."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("all my work")
    yield folder / "file"
    assert (folder / "file").read_text() == "all my work" and os.listdir(folder) == ["file"]


def run(store: Store) -> str:
    report = Executor(store, KINDS).execute(Job(POOL.key, Sheet.of(POOL)))
    return report.text or report.event


# --- links in a shared root -----------------------------------------------------------------------------------


def test_no_log_is_appended_to_somebodys_file(tmp_path: Path, precious: Path) -> None:
    store = Store(tmp_path / "root")
    log = store.log("pool", POOL.key)
    log.parent.mkdir(parents=True)
    log.symlink_to(precious)
    assert run(store) == f"'{log}' is a link, and links are not followed. Delete it."


@pytest.mark.parametrize("name", ["doubles.jsonl", "runs.jsonl"])
def test_no_line_is_appended_to_somebodys_file(tmp_path: Path, precious: Path, name: str) -> None:
    (tmp_path / name).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        append_line(tmp_path / name, {"a": 1})


def test_the_lock_of_the_tracker_empties_no_file(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"), _lock(tmp_path):
        pass


@pytest.mark.parametrize("place", ["stages", "logs", "stages/pool", "grids/small", "cache", "grids/small/human"])
def test_a_folder_that_leads_out_of_the_root_is_refused(tmp_path: Path, precious: Path, place: str) -> None:
    link = tmp_path / "root" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(precious.parent)
    plan = make_plan(grid(["de"], ["de"]), Store(tmp_path / "root"), name="small", kinds=KINDS)
    with pytest.raises(ConfigError, match=rf"'{link}' is a link to '{precious.parent}', outside.*root=PATH"):
        plan.write()


def test_links_within_the_root_and_a_root_that_is_one_are_fine(tmp_path: Path) -> None:
    (tmp_path / "disk" / "grids" / "small").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "grids" / "latest").symlink_to("small")
    make_plan(grid(["de"], ["de"]), Store(tmp_path / "root"), name="small", kinds=KINDS).write()
    assert read_grid(Store(tmp_path / "root"), "small").stages


def test_scratch_and_unfinished_results_that_are_links_are_not_written_through(tmp_path: Path, precious: Path) -> None:
    store, worker = Store(tmp_path / "root"), Executor(Store(tmp_path / "root"), KINDS)
    store.kind_folder("pool").mkdir(parents=True)
    scratch = Path(store.beside("pool", POOL.key, ".partial"))
    for place in (scratch, Path(store.beside("pool", POOL.key, f".tmp-{worker.who.name}"))):
        place.symlink_to(precious.parent)
    assert run(store) == "done"
    scratch.mkdir()
    (scratch / "checkpoint").symlink_to(precious)
    store.set_aside("pool", POOL.key)
    assert run(store) == "done" and not scratch.exists()


def test_gc_deletes_links_and_not_what_they_lead_to(tmp_path: Path, precious: Path) -> None:
    store = Store(tmp_path / "root")
    store.kind_folder("pool").mkdir(parents=True)
    for name in (f"{'a' * 64}", f"{'b' * 64}.damaged-1", f"{'c' * 64}.failed.json"):
        (store.kind_folder("pool") / name).symlink_to(precious.parent if "." not in name else precious)
    (store.kind_folder("pool") / f"{'d' * 64}.partial").symlink_to(tmp_path / "nowhere")
    found = garbage(store)
    assert len(found) == 4
    delete(found)
    assert not os.listdir(store.kind_folder("pool"))


# --- names that lead elsewhere --------------------------------------------------------------------------------


def crafted(folder: Path, **changed: object) -> None:
    """A key whose id fits, whatever it names."""
    pair = Pair("en", "p", "g", "", "t", "a", "b")
    cell = CellKey({"source_lang": "de"}, "a", "b", [0], [0.5])
    key = Key("", "g", 0, 1, "?", [pair], [cell], [SheetKey("sheet", "en", [Row("bcd", 0, "A")])])
    folder.mkdir(exist_ok=True)
    (folder / "key.json").write_bytes(key_bytes(identified(msgspec.structs.replace(key, **changed))))


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", "a/b", "a\\b", "", "a\0b"])
def test_a_key_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    crafted(tmp_path)
    assert read_key(tmp_path).grid == "g"
    for changed in ({"grid": name}, {"sheets": [SheetKey(name, "en", [])]}):
        crafted(tmp_path, **changed)
        with pytest.raises(StoreError, match="which would be elsewhere"):
            read_key(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [{"sheets": [SheetKey("s", "en", [Row("b", 1, "A")])]}, {"sheets": [SheetKey("s", "en", [Row("b", -1, "A")])]},
     {"cells": []}, {"cells": [CellKey({}, "a", "b", [0, 0], [1.0])]}, {"cells": [CellKey({}, "a", "b", [0], [7.0])]}],
)  # fmt: skip
def test_a_key_that_does_not_fit_together_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    crafted(tmp_path, **changed)
    with pytest.raises(StoreError, match="does not fit together"):
        read_key(tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "/etc"])
def test_a_grid_is_a_folder_of_the_root(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a grid"):
        Store(tmp_path).grid_folder(name)
    for command in ("status", "reduce", "report"):
        assert main([command, name, "--root", str(tmp_path)]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("place", ["name", "kind", "key"])
def test_a_plan_that_names_files_elsewhere_is_refused(tmp_path: Path, place: str) -> None:
    store = Store(tmp_path)
    make_plan(grid(["de"], ["de"]), store, name="small", kinds=KINDS).write()
    path = store.grid_folder("small") / "plan.json"
    plan = json.loads(path.read_bytes())
    del plan["checksum"]
    (plan if place == "name" else plan["stages"][0])[place] = "../../x"
    path.write_text(json.dumps(plan))
    with pytest.raises(StoreError, match=r"names a file .\.\./\.\./x., which would be elsewhere"):
        read_grid(store, "small")


# --- passwords ------------------------------------------------------------------------------------------------


def test_passwords_and_tokens_are_written_nowhere(tmp_path: Path) -> None:
    url = "https://ada:pa@ss@wandb.example:8443/x"
    to = destination_of("online", Settings("online", "p"), {"WANDB_BASE_URL": url})
    assert to.host == "wandb.example:8443" and "ada" not in to.ledger and "ss" not in to.ledger
    token = "hf_" + "a1" * 16
    [line] = parse({}, [f"policy.note={url}"], lambda group: []).command
    assert line == "policy.note=https://***@wandb.example:8443/x"
    assert without_secrets(f"{url} {token}; a@b c://d") == "https://***@wandb.example:8443/x ***; a@b c://d"

    failing = stage("pool", "pool[de]", langs=["de"], do=f"raise proxy {url} {token}")
    store = Store(tmp_path)
    report = Executor(store, KINDS).execute(Job(failing.key, Sheet.of(failing)))
    kept = store.log("pool", failing.key).read_text() + str(store.failure_record("pool", failing.key)) + report.text
    assert "https://***@wandb.example:8443/x ***" in kept and "pa@ss" not in kept and token not in kept


# --- texts ----------------------------------------------------------------------------------------------------


def test_nothing_that_turns_text_around_reaches_a_terminal() -> None:
    turning = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C, 0x206F, 0xFEFF, 0xFFFA, 0xE0041]
    for code in [*turning, 0x2028, 0x85, 0x9B, 0xD800]:
        assert harmless(f"a{chr(code)}b") == f"a<U+{code:04X}>b"
    for text in ("می‌خواهم", "क्‍ष", "ก​ข", "co­op", "👩‍🔬 über 中文", "a\nb\tc"):  # joiners and breaks turn nothing
        assert harmless(text) == text


def test_people_read_arabic_with_its_marks_and_without_isolates() -> None:
    assert shown("a\u200fb\u2066c\u202ed") == "a\u200fb<U+2066>c<U+202E>d"
    assert shown(shown("\u2069\ufeff=1")) == shown("\u2069\ufeff=1") == "<U+2069><U+FEFF>=1"


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("@a", "'@a"), ("-2+3|cmd", "'-2+3|cmd"), ("+x", "'+x"), ("\t=1", "'\t=1"),
     ("\uff1d1", "'\uff1d1"), ("-", "-"), ("-0.5", "-0.5"), ("1e-05", "1e-05"), ("-1e-05", "-1e-05"),
     ("de+en", "de+en"), ("", "")],
)  # fmt: skip
def test_tables_hold_no_formulas(text: str, cell: str) -> None:
    assert formula_free(text) == cell


def empty(of: type[Any], **fields: Any) -> Any:
    """A part of a matrix with nothing in it but these fields."""
    needed = {field.name: str(field.type) for field in msgspec.structs.fields(of) if field.required}
    return of(
        **{name: {} if "dict" in kind else [] if "list" in kind else "" for name, kind in needed.items()} | fields
    )


def test_an_error_that_is_a_formula_is_none_in_the_matrix() -> None:
    axes = dict.fromkeys(ENTRY_AXES, "x") | {"task": "=cmd|' /C calc'!A0", "source_lang": "-"}
    panel = empty(Panel, entries=[Entry(axes, "failed", '=HYPERLINK("http://example.com")')])
    matrix = empty(Matrix, blocks=[empty(Block, panels=[panel])])
    [row] = csv.DictReader(io.StringIO(csv_bytes(matrix).decode()))
    assert (row["task"], row["source_lang"]) == ("'=cmd|' /C calc'!A0", "-")
    assert row["reason"] == '\'=HYPERLINK("http://example.com")'
