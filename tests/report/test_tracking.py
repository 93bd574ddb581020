"""W&B: what stands in the offline files, read back byte by byte; nothing is written twice; nothing can fail."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from synthetic import SyntheticGrid
from wandb_file import offline_runs

from xling.analysis.reduce import reduce_grid
from xling.report.files import csv_bytes
from xling.report.tracking import choose_mode, track_grid

OFFLINE = {"mode": "offline", "project": "probe", "entity": None}


def published(grid):
    return {cell.stage.key for cell in grid.cells if grid.store.state("judge", cell.stage.key) == "done"}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A grid with a hole, tracked; and a second grid with one cell more, tracked after it."""
    root = tmp_path_factory.mktemp("tracked")
    grid = SyntheticGrid(root, "first")
    stages = grid.cell("de", "de", [1.0, 0.5])
    grid.cell("en", "de", [0.5, 0.5])
    grid.cell("ru", "de", fails="judge")
    curve = b'{"loss": 2.5, "step": 10}\n{"loss": 1.5, "step": 20, "validation": 1.75}\n'
    grid.publish(stages["sft"], {"curve.jsonl": curve, "weights.bin": b"0" * (2 << 20)})
    matrix = reduce_grid(root, grid.write().name)
    first = track_grid(root, "first", OFFLINE)
    second = SyntheticGrid(root, "second")
    second.cells = list(grid.cells)
    second.cell("tr", "de", [0.0, 0.5])
    reduce_grid(root, second.write().name)
    return root, grid, second, matrix, stages, first, track_grid(root, "second", OFFLINE)


def of_type(root, job_type):
    return [run for run in offline_runs(root) if run.job_type == job_type]


def test_every_finished_stage_has_one_run_with_its_key_as_id(tracked):
    root, _grid, second, _, stages, first, then = tracked
    assert (first.mode, first.problem) == ("offline", "")
    assert (then.mode, then.problem) == ("offline", "")
    runs = offline_runs(root)
    assert len(runs) == first.written + then.written
    ids = [run.id for run in runs]
    assert len(set(ids)) == len(ids)
    assert {run.id for run in of_type(root, "judge")} == published(second)
    assert all(run.finished and run.project == "probe" for run in runs)
    (judge,) = [run for run in runs if run.id == stages["judge"].key]
    assert judge.name == "judge[de, de]"
    assert judge.config["parents"]["score"] == stages["score"].key
    assert judge.summary["win_rate"] == 75.0


def test_training_curves_and_the_small_files_are_there(tracked):
    root, _, _, _, stages, _, _ = tracked
    (sft,) = of_type(root, "sft")
    assert sft.id == stages["sft"].key
    assert sft.config["spec"]["lang"] == "de"
    assert [(row["_step"], row["loss"]) for row in sft.history] == [(10, 2.5), (20, 1.5)]
    assert sft.history[1]["validation"] == 1.75
    artifact = sft.artifacts[f"sft-{sft.id}"]
    assert artifact.type == "sft"
    assert [entry.path for entry in artifact.manifest.contents] == ["curve.jsonl", "spec.json"]  # 2 MiB: hash only
    assert set(json.loads(artifact.metadata)["sha256"]) == {"curve.jsonl", "spec.json", "weights.bin"}


def test_the_reduce_run_carries_the_matrix_and_uses_the_stages(tracked):
    root, grid, _, matrix, _, _, _ = tracked
    run = of_type(root, "reduce")[0]
    assert (run.name, run.group) == ("first", "first")
    table = run.table("matrix")
    lines = csv_bytes(matrix).decode().splitlines()
    assert table["columns"] == lines[0].split(",")
    assert len(table["data"]) == len(lines) - 1 == 3
    by_source = {row[3]: row for row in table["data"]}
    assert by_source["de"][7] == 75.0 and by_source["ru"][7] is None
    assert by_source["ru"][-2:] == ["failed", "ValueError: loss is nan"]
    (picture,) = (run.folder / "files/media/images").glob("picture_*.png")
    assert picture.read_bytes() == (root / "grids/first/matrix.png").read_bytes()
    used = {name for name, artifact in run.artifacts.items() if artifact.use_after_commit}
    assert {f"judge-{key}" for key in published(grid)} < used


def test_a_grid_of_several_optimizers_logs_its_frontier(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5, None])
    grid.cell("de", "de", [1.0, 1.0, 1.0], optimizer="ppo", learning=[{"step": 5, "loss": 1.0, "validation_kl": 0.25}])
    reduce_grid(tmp_path, grid.write().name)
    assert track_grid(tmp_path, "toy", OFFLINE).problem == ""
    (run,) = of_type(tmp_path, "reduce")
    (picture,) = (run.folder / "files/media/images").glob("frontier_*.png")
    assert picture.read_bytes() == (tmp_path / "grids/toy/frontier.png").read_bytes()
    assert (run.summary["above_50/best_of_n"], run.summary["above_50/ppo"]) == (0, 1)
    assert sorted(judge.summary["win_rate"] for judge in of_type(tmp_path, "judge")) == [75.0, 100.0]
    (align,) = of_type(tmp_path, "align")
    assert align.history[0]["validation_kl"] == 0.25


def test_a_second_grid_shows_the_stages_it_shares_and_writes_only_its_own(tracked):
    root, grid, _, _, _, first, then = tracked
    assert then.known == first.written
    assert then.written == 3  # score and judge of the new cell, and the reduce run; gold is shared
    reduce_runs = {run.name: run for run in of_type(root, "reduce")}
    shared = {f"judge-{key}" for key in published(grid)}
    used = {name for name, artifact in reduce_runs["second"].artifacts.items() if artifact.use_after_commit}
    assert shared < used
    assert shared < set(reduce_runs["second"].config["artifacts"]["judge"])
    for name in shared:
        assert reduce_runs["first"].artifacts[name].digest == reduce_runs["second"].artifacts[name].digest
    assert reduce_runs["first"].id != reduce_runs["second"].id


def test_nothing_is_written_twice_and_a_new_matrix_goes_to_the_same_run(tmp_path):
    grid = SyntheticGrid(tmp_path)
    stages = grid.cell("de", "de", [1.0, 0.5])
    grid.cell("en", "de")
    reduce_grid(tmp_path, grid.write().name)
    first = track_grid(tmp_path, "toy", OFFLINE)
    again = track_grid(tmp_path, "toy", OFFLINE)
    assert (again.written, again.known) == (0, first.written)
    assert len(offline_runs(tmp_path)) == first.written
    grid.fail(grid.cells[1].stage)
    reduce_grid(tmp_path, "toy")
    assert track_grid(tmp_path, "toy", OFFLINE).written == 1
    runs = of_type(tmp_path, "reduce")
    assert len(runs) == 2 and len({run.id for run in runs}) == 1
    assert stages["judge"].key in {run.id for run in offline_runs(tmp_path)}


def test_off_writes_nothing(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5])
    reduce_grid(tmp_path, grid.write().name)
    result = track_grid(tmp_path, "toy", {**OFFLINE, "mode": "off"})
    assert result.mode == "off"
    assert not (tmp_path / "tracking").exists()


def test_trouble_is_told_and_never_raised(tmp_path):
    assert "no grid 'nothing'" in track_grid(tmp_path, "nothing", OFFLINE).problem
    grid = SyntheticGrid(tmp_path)
    stages = grid.cell("de", "de", [1.0, 0.5])
    grid.publish(stages["sft"], {"curve.jsonl": b"this is no JSON\n"})
    reduce_grid(tmp_path, grid.write().name)
    result = track_grid(tmp_path, "toy", OFFLINE)
    assert result.problem.startswith("1 could not be written: DecodeError")
    assert stages["judge"].key in {run.id for run in offline_runs(tmp_path)}
    assert "Traceback" in (tmp_path / "tracking" / "wandb.log").read_text()
    (tmp_path / "tracking").rename(tmp_path / "elsewhere")
    (tmp_path / "tracking").write_text("a file where a folder should be")
    assert "Error" in track_grid(tmp_path, "toy", OFFLINE).problem


def test_online_needs_a_key_and_a_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        there = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "NETRC": str(tmp_path / "netrc")}
        assert choose_mode("auto", {**there, "WANDB_API_KEY": "k"}) == ("online", "")
        assert choose_mode("auto", there)[0] == "offline"
        assert "no key" in choose_mode("online", there)[1]
        Path(there["NETRC"]).write_text("machine 127.0.0.1 login user password secret\n")
        assert choose_mode("auto", there) == ("online", "")
    assert choose_mode("auto", there)[0] == "offline"  # nobody listens any more
    assert "does not answer" in choose_mode("online", there)[1]
    assert choose_mode("off", there) == ("off", "")
    assert choose_mode("offline", {**there, "WANDB_API_KEY": "k"}) == ("offline", "")
    assert choose_mode("auto", {"WANDB_MODE": "disabled"}) == ("off", "")


def test_a_server_that_talks_nonsense_ends_in_offline_runs(tmp_path, monkeypatch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Nonsense(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args):
            pass

    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", np.ones(3))
    reduce_grid(tmp_path, grid.write().name)
    server = HTTPServer(("127.0.0.1", 0), Nonsense)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("WANDB_MODE", raising=False)  # CI sets it
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    result = track_grid(tmp_path, "toy", {"mode": "auto", "project": "probe", "entity": None})
    server.shutdown()
    server.server_close()
    assert result.mode == "offline" and result.written == 4
    assert result.problem.startswith("Not online (")
    assert {run.job_type for run in offline_runs(tmp_path)} == {"score", "gold", "judge", "reduce"}
