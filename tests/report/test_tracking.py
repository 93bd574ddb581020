"""W&B: what stands in the offline files, read back byte by byte; nothing is written twice; nothing can fail."""

import hashlib
import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import SyntheticGrid, realistic
from wandb_file import offline_runs

from xling.compose.grid import composed_grid
from xling.grid.store import Store
from xling.launching import plan_of
from xling.report.files import csv_bytes, reduce_grid
from xling.results.plan import read_plan
from xling.tracking.base import RUNS
from xling.tracking.runs import axes_of, read_result, summary
from xling.tracking.track import having_runs, missing, track_grid
from xling.tracking.wandb import choose_mode, destination_of, read

OFFLINE = {"mode": "offline", "project": "probe", "entity": None}


def published(grid):
    return {cell.stage.key for cell in grid.cells if grid.store.state("judge", cell.stage.key) == "done"}


def done_in(grid, name):
    """Keys of the finished stages of a grid."""
    plan = read_plan(grid.store.grid_folder(name))
    return {stage.key for stage in plan.stages if grid.store.state(stage.kind, stage.key) == "done"}


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
    for role in ("reward", "pool", "baseline"):
        grid.publish(stages[role], {"samples.json": {}})
    matrix = reduce_grid(root, grid.write().name)
    first = track_grid(root, "first", OFFLINE)
    second = SyntheticGrid(root, "second")
    second.cells = list(grid.cells)
    second.cell("tr", "de", [0.0, 0.5])
    reduce_grid(root, second.write().name)
    return root, grid, second, matrix, stages, first, track_grid(root, "second", OFFLINE)


def used(run):
    """Names of the artifacts that a run used."""
    return {name for name, artifact in run.artifacts.items() if artifact.use_after_commit}


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
    assert judge.summary["win_rate"] == 75.0 and judge.summary["prompts"] == 2
    assert judge.summary["win_rate_low"] < 75.0 < judge.summary["win_rate_high"]


def test_runs_are_filtered_by_target_and_grouped_by_seed(tmp_path):
    """As W&B's own filters and groups do it: by the config that stands in its files."""
    grid = SyntheticGrid(tmp_path, "seeds")
    stages = {}
    for source, target in (("de", "de"), ("en", "de"), ("de", "en")):
        for seed in (0, 1):
            stages[source, target, seed] = grid.cell(source, target, [1.0, 0.5], seed=seed)
    grid.publish(stages["de", "de", 0]["pool"], {"samples.json": {}})
    reduce_grid(tmp_path, grid.write().name)
    track_grid(tmp_path, "seeds", OFFLINE)
    judges = of_type(tmp_path, "judge")
    into_de = [run for run in judges if run.config["target_lang"] == "de"]
    assert sorted(run.config["source_lang"] for run in into_de) == ["de", "de", "en", "en"]
    by_seed = {seed: [run.id for run in judges if run.config["seed"] == seed] for seed in ("0", "1")}
    assert [len(ids) for ids in by_seed.values()] == [3, 3]
    assert all(run.config["grid"] == run.group == "seeds" and "judge" in run.tags for run in judges)
    assert len({run.name for run in judges}) == 6 and "judge[de, en] seed=1" in {run.name for run in judges}
    pools = {run.id: run for run in of_type(tmp_path, "pool")}
    pool = pools[stages["de", "de", 0]["pool"].key]
    assert pool.config["target_lang"] == "de" and "source_lang" not in pool.config  # it serves both


def test_the_policy_of_a_target_is_found_by_it_also_where_reward_models_start_from_it(tmp_path):
    cells, _ = composed_grid(
        ["source_lang=de,en", "target_lang=de,en", "rm_backbone=same_as_policy", f"root={tmp_path}"]
    )
    planned = plan_of(cells, "xling.planning")
    planned.write()
    plan = read_plan(planned.store.grid_folder(planned.name))
    by_label = {stage.label: axes_of(plan)[stage.key] for stage in plan.stages}
    assert by_label["sft[en]"]["target_lang"] == by_label["pool[en]"]["target_lang"] == "en"
    assert by_label["reward[en]"]["source_lang"] == "en" and "target_lang" not in by_label["reward[en]"]


def test_runs_are_of_what_is_asked_for_and_lineage_leads_from_run_to_run(tmp_path):
    grid = SyntheticGrid(tmp_path, "seeds")
    stages = {seed: grid.cell("de", "de", [1.0, 0.5], seed=seed) for seed in (0, 1)}
    for role in ("sft", "reward", "pool", "baseline"):
        grid.publish(stages[0][role], {"samples.json": {}})
    grid.publish(stages[1]["pool"], {"curve.jsonl": b'{"loss": 2.5, "step": 10}\n'})  # it has trained
    reduce_grid(tmp_path, grid.write().name)
    plan = read_plan(tmp_path / "grids/seeds")
    kinds = {runs: having_runs(grid.store, plan, runs) for runs in RUNS}
    trained = {stages[0]["sft"].key, stages[0]["reward"].key, stages[1]["pool"].key, *(
        stages[1][role].key for role in ("sft", "reward"))}  # fmt: skip
    assert (kinds["grid"], kinds["trained"]) == (set(), trained)
    assert kinds["cells"] == trained | published(grid) and kinds["stages"] == {stage.key for stage in plan.stages}

    settings = {**OFFLINE, "runs": "trained"}
    first = track_grid(tmp_path, "seeds", settings)
    assert (first.problem, first.runs, first.written) == ("", "trained", 4)
    runs = {run.id: run for run in offline_runs(tmp_path)}
    (folded,) = of_type(tmp_path, "reduce")
    rows = rows_of(folded.table("cells"))
    assert [(row["seed"], row["target_lang"], row["status"]) for row in rows] == [
        ("0", "de", "done"),
        ("1", "de", "done"),
    ]
    for row, cell in zip(rows, plan.cells, strict=True):
        result = read_result(grid.store, "judge", cell.judge.key)
        found = summary(result.folder, result.done, result.sheet)
        for column in ("win_rate", "win_rate_low", "win_rate_high", "prompts"):
            assert row[column] == found[column]
    names = {role: f"{stage.kind}-{stage.key}" for role, stage in stages[0].items()}
    assert used(runs[stages[0]["reward"].key]) == {names["sft"]}
    assert used(folded) == {names["sft"], names["reward"], f"pool-{stages[1]['pool'].key}"}  # the nearest above
    assert folded.config["stages"].keys() == {"sft", "reward", "pool"}
    assert track_grid(tmp_path, "seeds", settings).written == 0
    assert len(missing(grid.store, plan, destination_of("offline", read(OFFLINE), {}))[0]) == len(
        done_in(grid, "seeds")) - 3  # all stages, as before there was a choice  # fmt: skip


def test_training_curves_are_the_lines_of_the_stage(tracked):
    root, _, _, _, stages, _, _ = tracked
    (sft,) = of_type(root, "sft")
    assert sft.id == stages["sft"].key
    assert sft.config["spec"]["lang"] == "de"
    lines = (root / "stages/sft" / sft.id / "curve.jsonl").read_text().splitlines()
    logged = [{k: v for k, v in row.items() if k not in ("_runtime", "_timestamp")} for row in sft.history]
    renamed = {"loss": "sft/loss", "validation": "sft/validation", "step": "_step"}
    assert logged == [{renamed[name]: value for name, value in json.loads(line).items()} for line in lines]


def test_an_artifact_names_the_files_and_takes_only_spec_and_manifest_along(tracked):
    root = tracked[0]
    (sft,) = of_type(root, "sft")
    artifact = sft.artifacts[f"sft-{sft.id}"]
    assert (artifact.type, artifact.use_after_commit) == ("sft", False)
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    assert set(entries) == {"manifest.json", "spec.json", "curve.jsonl", "weights.bin"}
    folder = root / "stages/sft" / sft.id
    assert entries["weights.bin"].ref == (folder / "weights.bin").as_uri()
    assert not entries["spec.json"].ref and entries["spec.json"].local_path == str(folder / "spec.json")
    manifest = json.loads(Path(entries["manifest.json"].local_path).read_bytes())
    assert manifest["files"]["weights.bin"]["sha256"] == hashlib.sha256(b"0" * (2 << 20)).hexdigest()


def test_lineage_leads_from_sft_over_pool_and_cell_to_the_matrix(tracked):
    root, _, _, _, stages, _, _ = tracked
    names = {role: f"{stage.kind}-{stage.key}" for role, stage in stages.items()}
    by_id = {run.id: run for run in offline_runs(root)}
    assert used(by_id[stages["pool"].key]) == {names["sft"]}
    assert used(by_id[stages["score"].key]) == {names["reward"], names["pool"], names["baseline"]}
    assert used(by_id[stages["judge"].key]) == {names["score"], names["gold"], names["pool"], names["baseline"]}
    reduce_run = of_type(root, "reduce")[0]
    assert {names["judge"], names["score"]} <= used(reduce_run)
    (given,) = [artifact for artifact in reduce_run.artifacts.values() if artifact.type == "matrix"]
    assert given.name == "matrix-first" and not given.use_after_commit
    files = {"matrix.csv", "matrix.json", "measures.csv", "measures.parquet", "plan.json", "report.html"}
    assert files <= {entry.path for entry in given.manifest.contents}


def test_the_reduce_run_carries_the_matrix(tracked):
    root, _, _, matrix, stages, _, _ = tracked
    run = of_type(root, "reduce")[0]
    assert (run.name, run.group) == ("first", "first")
    table = run.table("matrix")
    lines = csv_bytes(matrix).decode().splitlines()
    assert table["columns"] == lines[0].split(",")
    assert len(table["data"]) == len(lines) - 1 == 3
    by_source = {row[3]: row for row in table["data"]}
    assert by_source["de"][7] == 75.0 and by_source["ru"][7] is None
    assert by_source["ru"][-2:] == ["failed", "ValueError: loss is nan"]
    assert (run.summary["cells"], run.summary["holes"]) == (3, 1)
    assert run.table("heatmap/all_table")["data"] == [["de", "de", 75.0], ["de", "en", 50.0]]
    chart = run.config["_wandb/visualize/heatmap/all"]["panel_config"]
    assert chart["panelDefId"] == "wandb/heatmap/v1" and "heatmap/all_table" in json.dumps(chart["userQuery"])
    (picture,) = (run.folder / "files/media/images").rglob("matrix_*.png")
    assert picture.read_bytes() == (root / "grids/first/matrix.png").read_bytes()
    rows = {row[2]: row for row in run.table("stages")["data"]}
    assert rows[stages["sft"].key][:4] == ["sft", "sft[de]", stages["sft"].key, "done"]


def test_every_table_equals_matrix_json(tmp_path):
    grid = realistic(tmp_path, languages=("de", "en"), prompts=30)
    reduce_grid(tmp_path, grid.write().name)
    assert track_grid(tmp_path, "toy", {**OFFLINE, "artifacts": "none"}).problem == ""
    (run,) = of_type(tmp_path, "reduce")
    (panel,) = json.loads((tmp_path / "grids/toy/matrix.json").read_bytes())["blocks"][0]["panels"]
    by_place = {(e["axes"]["source_lang"], e["axes"]["target_lang"]): e for e in panel["entries"]}
    measures = rows_of(run.table("measures"))
    assert len(measures) == 4 + 2  # cells, and the baseline of each target
    for row in measures:
        entry = by_place.get((row["source_lang"], row["target_lang"]))
        if entry is not None:
            for name in ("length", "win_equal_length", "quality"):
                found = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
                assert found == [entry[name]["value"], entry[name]["low"], entry[name]["high"]]
    for row in rows_of(run.table("rm_accuracy")):
        (found,) = [
            a for a in panel["accuracy"] if [a["source"], a["target"]] == [row["source_lang"], row["target_lang"]]
        ]
        assert row["accuracy"] == found["accuracy"]["value"] and row["auc"] == found["auc"]["value"]
    for row in rows_of(run.table("best_of_k")):
        curve = by_place[row["source_lang"], row["target_lang"]]["curve"]
        assert [row["win_rate"], row["win_rate_low"]] == [curve[side][row["k"] - 1] for side in ("value", "low")]
    bands = {(band["source"], band["target"]): band for band in panel["bands"]}
    for row in rows_of(run.table("null_bands")):
        assert row["band_high"] == max(bands[row["source_lang"], row["target_lang"]]["values"])
    controls = rows_of(run.table("controls"))
    assert {row["rm_backbone"] for row in controls} >= {"random", "gold", "shuffled_1"}
    assert not any(r.artifacts for r in offline_runs(tmp_path) if r.job_type != "reduce")  # tables are artifacts too


def rows_of(table):
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_a_grid_of_several_optimizers_logs_its_frontier(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5, None] * 4)
    learning = [{"step": 5, "loss": 1.0, "validation_kl": 0.25}]
    grid.cell("de", "de", [1.0, 1.0, 1.0] * 4, optimizer="ppo", learning=learning)
    reduce_grid(tmp_path, grid.write().name)
    assert track_grid(tmp_path, "toy", OFFLINE).problem == ""
    (run,) = of_type(tmp_path, "reduce")
    (picture,) = (run.folder / "files/media/images").rglob("frontier_*.png")
    assert picture.read_bytes() == (tmp_path / "grids/toy/frontier.png").read_bytes()
    assert (run.summary["above_50/best_of_n"], run.summary["above_50/ppo"]) == (0, 1)
    assert sorted(judge.summary["win_rate"] for judge in of_type(tmp_path, "judge")) == [75.0, 100.0]
    (align,) = of_type(tmp_path, "align")
    assert align.history[0]["align/validation_kl"] == 0.25
    points = json.loads((tmp_path / "grids/toy/matrix.json").read_bytes())["frontiers"][0]["points"]
    table = rows_of(run.table("frontier"))
    assert [(row["arm"], row["k"], row["kl"], row["win"]) for row in table] == [
        (p["arm"], p["k"], p["kl"]["value"], p["win"]["value"]) for p in points
    ]
    assert len(run.table("frontier_chart/all_table")["data"]) == len(points)
    assert {row["arm"] for row in rows_of(run.table("optimizers"))} == {"best_of_n", "ppo"}


def test_a_second_grid_shows_the_stages_it_shares_and_writes_only_its_own(tracked):
    root, grid, _, _, _, first, then = tracked
    assert then.known == first.written
    assert then.written == 3  # score and judge of the new cell, and the reduce run; gold is shared
    reduce_runs = {run.name: run for run in of_type(root, "reduce")}
    shared = {f"judge-{key}" for key in published(grid)}
    assert shared < used(reduce_runs["second"])
    assert published(grid) < set(reduce_runs["second"].config["stages"]["judge"])
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
    assert [run.history[0]["_step"] for run in runs] == [0, 1]  # `wandb sync` puts one after the other
    assert stages["judge"].key in {run.id for run in offline_runs(tmp_path)}


def test_off_writes_nothing(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5])
    reduce_grid(tmp_path, grid.write().name)
    result = track_grid(tmp_path, "toy", {**OFFLINE, "mode": "off"})
    assert result.mode == "off"
    assert not (tmp_path / "tracking").exists()


def test_off_imports_nothing_of_it(tmp_path, monkeypatch, capsys):
    from xling.folding import fold

    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5])
    grid.write()
    monkeypatch.delitem(sys.modules, "xling.tracking.track")
    fold(Store(tmp_path), "toy", {**OFFLINE, "mode": "off"})
    assert "xling.tracking.track" not in sys.modules
    assert "W&B" not in capsys.readouterr().err


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


def test_every_destination_has_a_ledger_of_its_own(tmp_path):
    here = {"mode": "online", "project": "p", "entity": "team"}
    default = destination_of("online", read(here), {})
    assert default.ledger == destination_of("online", read(here), {"WANDB_BASE_URL": "https://api.wandb.ai"}).ledger
    others = [
        destination_of("online", read(here), {"WANDB_BASE_URL": "https://wandb.example.org"}),
        destination_of("offline", read(here), {}),
        destination_of("online", read({**here, "entity": None}), {}),
        destination_of("online", read({**here, "project": "q"}), {}),
    ]
    assert len({default.ledger, *(one.ledger for one in others)}) == 5
    grid = SyntheticGrid(tmp_path)
    stages = grid.cell("de", "de", [1.0, 0.5])
    reduce_grid(tmp_path, grid.write().name)
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / default.ledger).write_text(json.dumps({"key": stages["judge"].key}) + '\n{"torn')
    plan = read_plan(tmp_path / "grids/toy")
    there, elsewhere = ({stage.key for stage in missing(grid.store, plan, to)[0]} for to in (default, others[0]))
    assert elsewhere == done_in(grid, "toy")
    assert elsewhere - there == {stages["judge"].key}


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
    assert result.mode == "offline" and result.written == len(done_in(grid, "toy")) + 1
    assert result.problem.startswith("Not online (") and "\n" not in result.problem
    assert {run.job_type for run in offline_runs(tmp_path)} >= {"score", "gold", "judge", "reduce"}
