"""TensorBoard: what its own reader finds in the event files; series go on; what a kill left is in nobody's way."""

from io import BytesIO
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image
from synthetic import SyntheticGrid
from wandb_file import offline_runs

from xling.errors import ConfigError
from xling.folding import fold
from xling.launching import _tracking
from xling.report.files import reduce_grid
from xling.tracking import tensorboard
from xling.tracking.track import write_runs

pytest.importorskip("tensorboard", reason="needs the extra: tensorboard")

from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

TO, _ = tensorboard.destination(tensorboard.read({"mode": "auto"}), {})


def shown(root):
    """The runs that TensorBoard lists for the folder, each with its reader."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(root / "tracking" / "tensorboard"))
    runs.Reload()
    return {run: runs.GetAccumulator(run) for run in runs.Runs()}


def scalar(reader, tag):
    return [(one.step, round(one.value, 4)) for one in reader.Scalars(tag)]


def text(reader, tag):
    [*_, last] = reader.Tensors(tag)
    return last.tensor_proto.string_val[0].decode()


def hparams(reader):
    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: value.string_value for name, value in found.items()}


@pytest.fixture
def grid(tmp_path):
    """Two seeds of a cell, and a hole."""
    grid = SyntheticGrid(tmp_path, "toy")
    stages = grid.cell("de", "tr", [1.0, 0.5], seed=0)
    grid.cell("de", "tr", [0.5, 0.5], seed=1)
    grid.cell("en", "tr", seed=0)
    curve = b'{"loss": 2.5, "step": 10}\n{"loss": 1.5, "rouge": 0.25, "step": 20}\n'
    grid.publish(stages["sft"], {"curve.jsonl": curve})
    reduce_grid(tmp_path, grid.write().name)
    return grid


def write(grid, runs):
    """In this process, which the command leaves to a child."""
    result = write_runs(grid.store, "toy", replace(TO, runs=runs))
    assert result.problem == ""
    return result.written


def test_its_reader_finds_curves_numbers_axes_matrix_and_pictures(grid, tmp_path):
    assert write(grid, "cells") == 3 + 1 and write(grid, "cells") == 0
    runs = shown(tmp_path)
    assert set(runs) == {"toy/matrix", "toy/sft_de_seed=0", "toy/judge_de_tr_seed=0", "toy/judge_de_tr_seed=1"}
    sft = runs["toy/sft_de_seed=0"]
    assert scalar(sft, "sft/loss") == [(10, 2.5), (20, 1.5)] and scalar(sft, "sft/rouge") == [(20, 0.25)]
    assert hparams(sft) == {
        "task": "toy",
        "policy": "micro",
        "source_lang": "de",
        "seed": "0",
        "grid": "toy",
        "kind": "sft",
    }
    assert '"parents"' in text(sft, "about")
    judges = {name: hparams(reader) for name, reader in runs.items() if "judge" in name}
    assert {name: (axes["target_lang"], axes["seed"]) for name, axes in judges.items()} == {
        "toy/judge_de_tr_seed=0": ("tr", "0"), "toy/judge_de_tr_seed=1": ("tr", "1")}  # fmt: skip
    assert scalar(runs["toy/judge_de_tr_seed=0"], "judge/win_rate") == [(0, 75.0)]
    matrix = runs["toy/matrix"]
    assert scalar(matrix, "grid/holes") == [(0, 1.0)] and scalar(matrix, "win_rate/de-tr") == [(0, 62.5)]
    low, high = (scalar(matrix, f"win_rate_{end}/de-tr")[0][1] for end in ("low", "high"))
    assert low < 62.5 < high and "win_rate/en-tr" not in matrix.Tags()["scalars"]
    [picture] = matrix.Images("images/matrix")
    png = (tmp_path / "grids/toy/matrix.png").read_bytes()
    assert picture.encoded_image_string == png and (picture.width, picture.height) == Image.open(BytesIO(png)).size
    assert "62.5" in text(matrix, "matrix") and "judge" in text(matrix, "stages") and text(matrix, "cells")


def test_series_go_on_and_what_a_kill_left_is_in_nobodys_way(grid, tmp_path):
    write(grid, "grid")
    fill(tmp_path, {"seed": 0})
    ledger = tmp_path / "tracking" / TO.ledger
    before = ledger.read_bytes()
    assert write(grid, "trained") == 2
    ledger.write_bytes(before)  # killed, between the runs and the ledger
    folder = tmp_path / "tracking/tensorboard/toy/matrix"
    (folder / "part").write_bytes(b"torn")
    (folder / ".part.0123").write_bytes(b"torn")
    assert write(grid, "trained") == 2
    runs = shown(tmp_path)
    assert scalar(runs["toy/matrix"], "grid/holes") == [(0, 1.0), (1, 0.0)]
    assert scalar(runs["toy/matrix"], "win_rate/en-tr") == [(1, 25.0)]
    assert scalar(runs["toy/sft_de_seed=0"], "sft/loss") == [(10, 2.5), (20, 1.5)]
    grown = SyntheticGrid(tmp_path, "toy")  # with more cells it is the same series
    grown.cells = list(grid.cells)
    grown.cell("tr", "tr", [1.0, 1.0])
    reduce_grid(tmp_path, grown.write().name)
    assert write(grown, "grid") == 1
    assert [step for step, _ in scalar(shown(tmp_path)["toy/matrix"], "grid/holes")] == [0, 1, 2]


def test_a_matrix_that_comes_back_is_shown_again(grid, tmp_path):
    write(grid, "grid")
    grid.fail(grid.cells[2].stage)  # which changes the hole's reason
    reduce_grid(tmp_path, "toy")
    assert write(grid, "grid") == 1
    Path(grid.store.beside("judge", grid.cells[2].stage.key, ".failed.json")).unlink()
    reduce_grid(tmp_path, "toy")
    assert write(grid, "grid") == 1 and write(grid, "grid") == 0
    steps = shown(tmp_path)["toy/matrix"].Tensors("matrix")
    found = ["loss is nan" in one.tensor_proto.string_val[0].decode() for one in steps]
    assert found == [False, True, False] and [one.step for one in steps] == [0, 1, 2]


@pytest.mark.parametrize("curve", [b"this is no JSON\n", b'{"loss": 2.5, "step": 10}\n'])
def test_stages_that_cannot_be_written_take_no_matrix_along(tmp_path, curve):
    """Whatever is wrong with them; a long name, as of an axis of paths, is not."""
    grid = SyntheticGrid(tmp_path, "toy")
    stages = [grid.cell("de", "tr", [1.0, 0.5], **{"policy.checkpoint": f"/data/{'ü/' * 150}{name}"}) for name in "ab"]
    for role in ("sft", "reward", "pool"):
        grid.publish(stages[0][role], {"curve.jsonl": curve})
    reduce_grid(tmp_path, grid.write().name)
    result = write_runs(grid.store, "toy", replace(TO, runs="cells"))
    if curve.startswith(b"{"):
        assert (result.problem, result.written, len(shown(tmp_path))) == ("", 3 + 2 + 1, 6)
    else:
        assert result.problem.startswith("3 could not be written: DecodeError")
        assert (result.written, set(shown(tmp_path))) == (1, {"toy/matrix"})


def fill(root, axes):
    """The hole's stages are published, and the grid is folded again."""
    other = SyntheticGrid(root, "other")
    other.cell("en", "tr", [0.5, 0.0], **axes)
    reduce_grid(root, "toy")


def test_several_trackers_write_the_same_grid_each_with_its_own_ledger(grid, tmp_path, capsys):
    asked = {"name": ["wandb", "tensorboard"], "mode": "offline", "project": "p", "runs": "grid"}
    fold(grid.store, "toy", _tracking(asked))
    told = capsys.readouterr().err
    assert "W&B (offline): 1 runs written" in told and "TensorBoard (offline): 1 runs written" in told
    assert set(shown(tmp_path)) == {"toy/matrix"} and [run.job_type for run in offline_runs(tmp_path)] == ["reduce"]
    assert {path.name for path in (tmp_path / "tracking").glob("*.jsonl")} == {"offline-p.jsonl", TO.ledger}
    read = _tracking({**asked, "name": "tensorboard", "mode": False})
    assert (read["mode"], read["name"]) == ("off", ["tensorboard"])


def test_what_does_not_fit_is_said_before_anything_runs(monkeypatch):
    with pytest.raises(ConfigError, match=r"tracking.runs=all is unknown. Allowed: grid, trained, cells, stages."):
        _tracking({"name": "tensorboard", "mode": "auto", "runs": "all"})
    with pytest.raises(ConfigError, match=r"tracking=tensorboard does not fit: .* Type tracking.name=tensorboard"):
        _tracking("tensorboard")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracking.name=tensorboard needs tensorboard. Type pip install"):
        _tracking({"name": ["wandb", "tensorboard"], "mode": "auto"})
    assert _tracking({"name": "tensorboard", "mode": "off"})["mode"] == "off"
