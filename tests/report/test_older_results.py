"""Results folders of other versions: read where nothing is lost, else refused with what to type."""

import json
import shutil

import msgspec
import pytest
from synthetic import SyntheticGrid

from xling.analysis.matrix.types import read_matrix
from xling.cli import main
from xling.errors import StoreError
from xling.grid.status import grid_status
from xling.report.files import reduce_grid
from xling.results.plan import read_plan


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    grid = SyntheticGrid(tmp_path_factory.mktemp("made"))
    for source in ("de", "en"):
        grid.cell(source, "de", [1.0, 0.5, 0.0, 1.0])
    reduce_grid(grid.write().store.root, grid.name)
    return grid


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the grid's root that a test may spoil; its grid's folder."""
    shutil.copytree(made.root, tmp_path / "root")
    return tmp_path / "root" / "grids" / made.name


def changed(path, **fields):
    """Fields set, or taken away where None, as an xling that knew no checksums would have written the file."""
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    path.write_text(json.dumps({k: v for k, v in {**content, **fields}.items() if v is not None}))


@pytest.mark.parametrize(("number", "by"), [(None, "format 0 and was written by an older xling"), (0, "an older xling"),
                                            (2, "a newer xling")])  # fmt: skip
def test_a_plan_of_another_format_is_refused(folder, number, by, capsys):
    changed(folder / "plan.json", format=number)
    with pytest.raises(StoreError, match=f"{by}.*[rR]un the grid's command again"):
        read_plan(folder)
    for command in ("status", "reduce"):
        assert main([command, folder.name, "--root", str(folder.parent.parent)]) == 2
        assert by in capsys.readouterr().err


def test_a_plan_with_unknown_fields_is_read(folder):
    before = read_plan(folder)
    changed(folder / "plan.json", colour="blue")
    assert read_plan(folder) == before


def test_a_matrix_without_the_new_fields_and_with_unknown_ones_is_read(folder):
    before = read_matrix(folder)
    changed(folder / "matrix.json", format=None, agreement=None, optimizers=None, frontiers=None, colour="blue")
    content = json.loads((folder / "matrix.json").read_text())
    panel = content["blocks"][0]["panels"][0]
    for name in ("opponents", "pairs_versus", "unknown_languages", "counts", "verdicts"):
        del panel[name]
    for entry in panel["entries"]:
        entry["mood"] = "good"
        for name in ("win_equal_length", "quality", "repetition", "keys", "best", "tied"):
            del entry[name]
    (folder / "matrix.json").write_text(json.dumps(content))
    after = read_matrix(folder)
    assert [e.win for e in after.entries()] == [e.win for e in before.entries()]
    assert after.agreement == [] and after.blocks[0].panels[0].verdicts == []


def test_an_older_matrix_still_prints_and_draws(folder, capsys, tmp_path):
    changed(folder / "matrix.json", format=None, agreement=None, optimizers=None, frontiers=None)
    root = ["--root", str(folder.parent.parent)]
    assert main(["report", folder.name, *root]) == 0
    assert "Win rate, %" in capsys.readouterr().out
    assert main(["figures", folder.name, *root, "--only", "heatmap", "--width", "column", "--format", "svg"]) == 0
    assert (folder / "figures" / "column" / "heatmap.svg").exists()


@pytest.mark.parametrize("spoil", [{"blocks": None}, {"format": 2}, {"interval_note": None}, {"format": "new"}])
def test_a_matrix_that_lacks_what_is_needed_is_refused(folder, spoil, capsys):
    changed(folder / "matrix.json", **spoil)
    with pytest.raises(StoreError, match=f"run 'xling reduce {folder.name}'"):
        read_matrix(folder)
    for command in ("report", "figures"):
        assert main([command, folder.name, "--root", str(folder.parent.parent)]) == 2
    assert main(["reduce", folder.name, "--root", str(folder.parent.parent)]) == 0
    assert main(["report", folder.name, "--root", str(folder.parent.parent)]) == 0
    capsys.readouterr()


def test_a_result_of_another_format_is_neither_trusted_nor_set_aside(made, folder):
    store = type(made.store)(folder.parent.parent)
    stage = made.cells[0].stage
    marker = store.folder(stage.kind, stage.key) / "done.json"
    content = msgspec.json.decode(marker.read_bytes())
    content.pop("checksum")
    marker.write_bytes(msgspec.json.encode({**content, "format": 3}))
    with pytest.raises(StoreError, match=r"done.json' has format 3 and was written by a newer xling.*root=PATH"):
        grid_status(store, folder.name)
        store.check(stage.kind, stage.key)
    assert marker.exists()
