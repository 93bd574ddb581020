"""`xling wandb`: the workspace and the report, as they arrive at a small server that is not W&B (wandb_server.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import SyntheticGrid
from wandb_server import ENTITY, WandbServer

from xling.cli import main
from xling.report.files import reduce_grid


@pytest.fixture
def root(tmp_path):
    """A grid of two optimizers, folded and never tracked."""
    grid = SyntheticGrid(tmp_path)
    stages = grid.cell("de", "de", [1.0, 0.5, None])
    grid.publish(stages["sft"], {"curve.jsonl": b'{"loss": 2.5, "rouge": null, "step": 10}\n'})
    learning = [{"step": 5, "loss": 1.0, "validation_kl": 0.25}]
    grid.cell("de", "de", [1.0, 1.0, 1.0], optimizer="ppo", learning=learning)
    grid.cell("en", "de", fails="judge")
    reduce_grid(tmp_path, grid.write().name)
    return tmp_path


def wandb(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "xling", "wandb", "toy", "--root", str(root), *arguments]
    return subprocess.run(command, env=own | environment, capture_output=True, text=True, check=False)


def keys_of(spec: object) -> set[str]:
    """Every key that a panel shows: of tables, custom charts, media and lines."""
    found: set[str] = set()
    if isinstance(spec, dict):
        if spec.get("viewType") == "Run History Line Plot":
            found |= set(spec["config"]["metrics"])
        elif spec.get("viewType") == "Media Browser":
            found |= set(spec["config"]["mediaKeys"])
        elif spec.get("viewType") == "Weave":
            found.add(spec["config"]["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"])
        elif spec.get("name") == "tableKey":
            found.add(spec["value"])
        for value in spec.values():
            found |= keys_of(value)
    elif isinstance(spec, list):
        for value in spec:
            found |= keys_of(value)
    return found


def test_it_tracks_saves_and_updates_the_same_view_and_report(root):
    with WandbServer() as server:
        there = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40, "NETRC": str(root / "netrc")}
        first = wandb(root, **there)
        assert first.returncode == 0, first.stderr
        assert f"{server.url}/{ENTITY}/xling?nw=" in first.stdout and "/reports/xling-toy--" in first.stdout
        assert {view["type"] for view in server.views.values()} == {"project-view", "runs"}
        check_panels(server)
        runs, views = len(server.runs), dict(server.views)
        again = wandb(root, **there)
        assert again.returncode == 0, again.stderr
        assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]  # the same addresses
        assert (len(server.runs), set(server.views)) == (runs, set(views))
        assert server.unknown == []
        newer = wandb(root, "--new", **there)
        assert newer.returncode == 0 and len(server.views) == len(views) + 2


def check_panels(server: WandbServer) -> None:
    """What the panels show has been logged, and the run set is that of the grid."""
    (reduce_run,) = [run for run in server.runs.values() if run.job_type == "reduce"]
    training = {run.id: run for run in server.runs.values() if run.job_type in ("sft", "align")}
    logged = set(reduce_run.summary) | {key for run in training.values() for row in run.history for key in row}
    for view in server.views.values():
        shown = keys_of(view["spec"])
        assert shown <= logged
        assert {"matrix", "measures", "heatmap/best_of_n_table", "heatmap/ppo_table", "frontier"} <= shown
        assert {"images/matrix", "sft/loss", "align/loss", "align/validation_kl", "stages"} <= shown
        text = json.dumps(view["spec"])
        assert all(run in text for run in (reduce_run.id, *training))
    (page,) = [view for view in server.views.values() if view["type"] == "runs"]
    assert "75.0" in json.dumps(page["spec"]) and "(failed)" in json.dumps(page["spec"])


def test_offline_it_says_what_it_would_do_and_writes_the_specs(root):
    done = wandb(root, "--project", "elsewhere", NETRC=str(root / "netrc"))
    assert done.returncode == 0, done.stderr
    tracked, told = done.stdout.splitlines()
    assert "There is no key for api.wandb.ai" in tracked
    assert "nothing was saved to W&B" in told and "project elsewhere" in told
    folder = root / "tracking/dashboard/toy"
    shown = [keys_of(json.loads((folder / name).read_bytes())) for name in ("workspace.json", "report.json")]
    assert shown[0] == shown[1] >= {"matrix", "stages", "sft/loss", "images/frontier"}
    assert not (root / "tracking/dashboards.json").exists()


def test_without_wandb_workspaces_a_sentence_says_what_to_install(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["wandb", "toy", "--root", str(root), "--mode", "offline"]) == 2
    assert "[wandb]'" in capsys.readouterr().err
    assert list((root / "tracking/wandb").glob("offline-run-*"))


def test_where_tracking_fails_it_says_so(root, capsys):
    (root / "tracking").write_text("a file where a folder should be")
    assert main(["wandb", "toy", "--root", str(root), "--mode", "offline"]) == 2
    assert "Without runs there is nothing to show" in capsys.readouterr().err


def test_a_grid_that_has_no_matrix_yet_is_told_how_to_get_one(tmp_path, capsys):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de")
    grid.write()
    assert main(["wandb", "toy", "--root", str(tmp_path), "--mode", "offline"]) == 2
    assert "xling reduce toy" in capsys.readouterr().err
    assert not (tmp_path / "tracking").exists()
