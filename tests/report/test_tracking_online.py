"""W&B online, end to end: the real client against a small server of our own, which is not W&B (wandb_server.py).

What arrives there is what is asserted: each run once, curves line by line, tables and artifacts; nothing at the second
launch; the same run with a new matrix when a hole has been filled.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import SyntheticGrid
from wandb_file import offline_runs
from wandb_server import ENTITY, WandbServer

from xling.report.files import reduce_grid
from xling.tracking.track import track_grid

SETTINGS = {"mode": "auto", "project": "probe", "entity": None, "artifacts": "references"}
CURVE = b'{"loss": 2.5, "step": 10}\n{"loss": 1.5, "step": 20, "rouge": 0.25}\n'


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)  # CI sets it
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield server


def grid_with_hole(root: Path) -> tuple[SyntheticGrid, dict[str, object]]:
    """A filled cell with its SFT, pool and baseline; and one whose judge has not run."""
    grid = SyntheticGrid(root)
    stages = grid.cell("de", "de", [1.0, 0.5])
    grid.publish(stages["sft"], {"curve.jsonl": CURVE, "weights.bin": b"0" * 5000})
    for role in ("pool", "baseline", "reward"):
        grid.publish(stages[role], {"samples.json": {}})
    grid.cell("en", "de")
    reduce_grid(root, grid.write().name)
    return grid, stages


def test_runs_arrive_once_and_a_filled_hole_updates_the_matrix(online, tmp_path):
    grid, stages = grid_with_hole(tmp_path)
    first = track_grid(tmp_path, "toy", SETTINGS)
    assert (first.mode, first.problem, first.team) == ("online", "", ENTITY)
    assert online.unknown == []
    assert set(online.runs) == {run for run in online.runs if run.startswith("reduce-")} | {
        stages[role].key for role in ("sft", "pool", "baseline", "reward", "gold", "score", "judge")
    }
    assert first.written == len(online.runs) == 8
    assert {run.exits for run in online.runs.values()} == {1}
    check_sft(online, tmp_path, stages)
    check_lineage(online, stages)

    asked = len(online.asked)
    again = track_grid(tmp_path, "toy", SETTINGS)
    assert (again.written, again.known, len(online.asked)) == (0, 8, asked)  # not even a question

    (reduce_run,) = [run for run in online.runs.values() if run.job_type == "reduce"]
    assert win_rates(reduce_run) == {"de": 75.0, "en": None}
    fill(grid, tmp_path)
    then = track_grid(tmp_path, "toy", SETTINGS)
    assert (then.written, then.problem) == (3, "")  # score and judge of the new cell, and the matrix
    assert win_rates(reduce_run) == {"de": 75.0, "en": 25.0}
    assert (reduce_run.summary["holes"], reduce_run.exits) == (0, 2)
    assert [row["_step"] for row in reduce_run.history] == [0, 1]
    assert sum(run.job_type == "reduce" for run in online.runs.values()) == 1
    assert [version.number for version in online.artifacts["matrix-toy"]] == [0, 1]

    for ledger in (tmp_path / "tracking").glob("online*.jsonl"):  # lost: what is there already is not doubled
        ledger.unlink()
    assert track_grid(tmp_path, "toy", SETTINGS).written == len(online.runs) == 10
    assert [row["_step"] for row in online.runs[stages["sft"].key].history] == [10, 20]
    assert win_rates(reduce_run) == {"de": 75.0, "en": 25.0}
    stage_versions = [v for name, v in online.artifacts.items() if name.split("-")[0] in {"sft", "judge", "score"}]
    assert {len(versions) for versions in stage_versions} == {1}


def check_sft(server, root, stages):
    run = server.runs[stages["sft"].key]
    assert (run.name, run.job_type, run.project) == ("sft[de]", "sft", "probe")
    history = [{k: v for k, v in row.items() if k not in ("_runtime", "_timestamp")} for row in run.history]
    assert history == [{"sft/loss": 2.5, "_step": 10}, {"sft/loss": 1.5, "sft/rouge": 0.25, "_step": 20}]
    (version,) = server.artifacts[f"sft-{run.id}"]
    assert version.committed and version.type == "sft"
    assert set(version.files) == {"spec.json", "manifest.json"}
    assert version.files["spec.json"] == (root / "stages/sft" / run.id / "spec.json").read_bytes()
    assert version.manifest["contents"]["weights.bin"]["ref"] == (root / "stages/sft" / run.id / "weights.bin").as_uri()


def check_lineage(server, stages):
    label = {role: f"{stage.kind}-{stage.key}:v0" for role, stage in stages.items()}
    runs = server.runs
    assert runs[stages["sft"].key].logged == {label["sft"]}
    assert runs[stages["pool"].key].used == {label["sft"]}
    assert runs[stages["score"].key].used == {label[role] for role in ("reward", "pool", "baseline")}
    assert label["score"] in runs[stages["judge"].key].used
    (reduce_run,) = [run for run in runs.values() if run.job_type == "reduce"]
    assert {label["judge"], label["score"]} <= reduce_run.used
    assert "matrix-toy:v0" in reduce_run.logged


def fill(grid, root):
    """The hole's stages are published, and the grid is folded again."""
    other = SyntheticGrid(root, "other")
    other.cell("en", "de", [0.5, 0.0])
    reduce_grid(root, grid.name)


def win_rates(run):
    table = run.table("matrix")
    return {
        row[table["columns"].index("source_lang")]: row[table["columns"].index("win_rate")] for row in table["data"]
    }


def test_offline_runs_arrive_by_wandb_sync(online, tmp_path):
    grid, stages = grid_with_hole(tmp_path)
    offline = {**SETTINGS, "mode": "offline", "artifacts": "files"}
    track_grid(tmp_path, "toy", offline)
    fill(grid, tmp_path)
    track_grid(tmp_path, "toy", offline)
    assert online.runs == {}
    folders = [str(run.folder) for run in offline_runs(tmp_path)]
    command = [str(Path(sys.executable).with_name("wandb")), "sync", *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(online.runs) == 10
    assert [row["sft/loss"] for row in online.runs[stages["sft"].key].history] == [2.5, 1.5]
    (reduce_run,) = [run for run in online.runs.values() if run.job_type == "reduce"]
    assert win_rates(reduce_run) == {"de": 75.0, "en": 25.0}
    assert len(reduce_run.history) == 2
    (version,) = online.artifacts[f"sft-{stages['sft'].key}"]
    assert set(version.files) == {"manifest.json", "spec.json", "curve.jsonl", "weights.bin"}
    assert version.files["weights.bin"] == b"0" * 5000
    assert json.loads(version.files["manifest.json"])["key"] == stages["sft"].key
