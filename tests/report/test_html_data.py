"""What goes into report.html: chosen samples, costs, curves; when it is drawn, and how large it gets."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from grids import recorded_grid
from pages import controlled
from synthetic import realistic

from xling.analysis.matrix.types import read_matrix
from xling.analysis.tidy.finding import Finding
from xling.errors import StoreError
from xling.grid import joined
from xling.grid.store import Store
from xling.report.files import reduce_grid
from xling.report.page.data import Document, encode, thinned
from xling.report.page.stages import LONGEST, MOST_PROMPTS, Sample, chosen, cut, learning, origin, select, within
from xling.report.page.write import page_bytes, update
from xling.report.tables.findings import write_findings
from xling.results.items import read_array
from xling.results.plan import Results, planned_entries, read_plan
from xling.webpage import everywhere

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = recorded_grid(tmp_path_factory.mktemp("recorded"))
    reduce_grid(store.root, "g")
    return store


# --- samples --------------------------------------------------------------------------------------------------


def test_samples_have_the_scores_and_verdicts_of_the_stages(recorded: Store) -> None:
    plan = read_plan(recorded.grid_folder("g"))
    results = Results(recorded, plan)
    entries = planned_entries(plan, results)
    found = select(read_matrix(recorded.grid_folder("g")), recorded, entries)
    assert found.left_out == [] and found.prompts == 20
    assert len(found.samples) == 4 * 20
    for entry in entries:
        cell = entry.cells[0]
        items = json.loads(joined.content(results.folder(cell.judge) / "items.json"))
        reward = read_array(results.folder(cell.stages["score"]) / "pool.npy")
        people = read_array(results.folder(cell.stages["verdict"]) / "pool.npy")
        own = [
            s for s in found.samples if (s.source, s.target) == (entry.axes["source_lang"], entry.axes["target_lang"])
        ]
        assert len(own) == 20
        for sample in own:
            row = items["prompt"].index(sample.prompt)
            pick = items["index"][row]
            assert sample.reward[0] == round(float(reward[row, pick]), 4) == round(items["reward"][row], 4)
            assert sample.score[0] == people[row, pick] and sample.win == items["win"][row]
            assert sample.response != sample.baseline  # people's systems are not compared with themselves
            ours, theirs = sample.score
            assert ours is not None and theirs is not None
            assert sample.verdict == (1.0 if ours > theirs else 0.5 if ours == theirs else 0.0)
            assert sample.text.endswith(f" {int(sample.prompt[2:])} <i>&amp;</i>")


def test_nobody_chooses_the_prompts() -> None:
    names = tuple(f"p{number}" for number in range(500))
    first = chosen("de", names)
    assert len(first) == MOST_PROMPTS == len(set(first))
    assert first == chosen("de", names[::-1]) != sorted(first)
    assert set(first) != set(chosen("en", names))
    assert [p for p in chosen("de", names[:400]) if p in first] == [p for p in first if p in names[:400]]


def test_as_many_prompts_as_fit() -> None:
    def sample(target: str, number: int, source: str, size: int) -> Sample:
        text = f"{target}{number}" + "x" * size
        return Sample(0, source, target, f"p{number}", text, f"{text}{source}", text, (0, 0), (0, 0), 1.0, 1.0)

    few = [sample(t, n, s, 1000) for t in ("de", "en") for s in ("de", "en") for n in range(10)]
    assert within(few).samples == few and within(few).prompts == 10
    kept = within(few, budget=20_000)
    assert kept.prompts == 3  # 2 targets x (1 prompt + 2 responses) of 1 kB each
    assert {s.prompt for s in kept.samples} == {"p0", "p1", "p2"} and len(kept.samples) == 12
    assert within(few, budget=10).prompts == 1  # one is always there
    assert within([]).samples == []
    long = cut("y" * (LONGEST + 1234))
    assert len(long) < LONGEST + 40 and long.endswith("[... 1,234 more characters]")


def test_a_damaged_sample_costs_its_cells_alone(tmp_path: Path) -> None:
    store = recorded_grid(tmp_path)
    plan = read_plan(store.grid_folder("g"))
    cell = next(cell for cell in plan.cells if cell.axes["target_lang"] == "ar")
    file = store.folder(cell.stages["baseline"].kind, cell.stages["baseline"].key) / "samples.jsonl"
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"a", b"b"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time: only the hash tells
    entries = planned_entries(plan, Results(store, plan))
    reduce_grid(tmp_path, "g")
    found = select(read_matrix(store.grid_folder("g")), store, entries)
    assert {sample.target for sample in found.samples} == {"en"}
    assert len(found.left_out) == 1 and "samples.jsonl does not have the bytes that were published" in found.left_out[0]
    assert "does not have the bytes" in (store.grid_folder("g") / "report.html").read_text(encoding="utf-8")


# --- the rest -------------------------------------------------------------------------------------------------


def test_learning_is_the_mean_over_cells_and_its_range(five_panels: Path) -> None:
    store = Store(five_panels.parents[1])
    plan = read_plan(five_panels)
    matrix = read_matrix(five_panels)
    found = learning(matrix, store, planned_entries(plan, Results(store, plan)))
    assert [one.panel for one in found] == [1, 2, 3, 4] and {one.policies for one in found} == {9}
    line = found[0].lines["reward"]  # dpo: 0.05 more, 0.1 at home, at step / 10
    assert line.steps == [0, 20, 40]
    assert np.allclose(line.mean, [0, 2 * (0.05 + 0.1 / 3), 4 * (0.05 + 0.1 / 3)])
    assert np.allclose(line.least, [0, 0.1, 0.2]) and np.allclose(line.greatest, [0, 0.3, 0.6])


def test_costs_count_every_stage_of_the_plan(five_panels: Path) -> None:
    store = Store(five_panels.parents[1])
    plan = read_plan(five_panels)
    found = origin(five_panels.name, read_matrix(five_panels), plan, store)
    assert {cost.kind: cost.planned for cost in found.costs} == {
        kind: sum(stage.kind == kind for stage in plan.stages) for kind in {stage.kind for stage in plan.stages}
    }
    align = next(cost for cost in found.costs if cost.kind == "align")
    assert align.done == align.seconds == 36 and align.planned == 37  # a second each; one waits for its reward model
    assert found.devices == {"cpu": sum(cost.done for cost in found.costs)} and not found.gpus
    assert found.machines == 1 and found.began == "2025-12-31T23:59:59+00:00" < found.ended
    facts = dict(found.facts)
    assert facts["command"] == ["python launch.py -m x=y"] and facts["results made with code"] == ["abc"]
    assert facts["seed"] == ["0"] and found.settings["align"]["optimizer"] == ['"dpo"', '"grpo"', '"ppo"', '"rloo"']


def test_a_curve_keeps_its_ends() -> None:
    assert thinned(4) == [1, 2, 3, 4]
    for n in (15, 64, 256):
        ks = thinned(n)
        assert ks[0] == 1 and ks[-1] == n and len(ks) <= 14 and ks == sorted(set(ks))


def test_every_text_of_the_data_is_made_visible(five_panels: Path) -> None:
    seen: list[str] = []
    everywhere(encode(Document(read_matrix(five_panels), "0")), lambda text: seen.append(text) or text)
    assert "ppo" in seen and any("blocked: reward[vi] failed" in text for text in seen)
    assert everywhere({"a": ["b", {"c": ("d", 1, None)}]}, str.upper) == {"A": ["B", {"C": ["D", 1, None]}]}


# --- when it is drawn -----------------------------------------------------------------------------------------


def test_it_is_drawn_again_only_if_the_matrix_has_changed(tmp_path: Path) -> None:
    folder = controlled(tmp_path)
    store, page = Store(tmp_path), folder / "report.html"
    first = page.read_bytes()
    page.write_bytes(first + b"<!-- kept -->")
    assert update(store, "toy") == page
    reduce_grid(tmp_path, "toy")
    assert page.read_bytes().endswith(b"<!-- kept -->")
    matrix = folder / "matrix.json"
    other = {name: value for name, value in json.loads(matrix.read_bytes()).items() if name != "checksum"}
    matrix.write_text(json.dumps({**other, "name": "boy"}))
    update(store, "toy")
    assert not page.read_bytes().endswith(b"kept -->") and b"<h1>boy</h1>" in page.read_bytes()
    page.unlink()
    reduce_grid(tmp_path, "toy")
    assert page.read_bytes() == first  # the same grid, the same bytes


def test_what_analyse_has_written_stands_on_the_page(tmp_path: Path) -> None:
    folder = controlled(tmp_path)
    page = folder / "report.html"
    assert "`xling analyse toy`" in page.read_text(encoding="utf-8")
    table = pd.DataFrame({"source_lang": ["de", "en"], "r2": [0.25, float("nan")]})
    known = Finding("cross_vs_home", "Not this one", table)
    write_findings(folder, "toy", [Finding("bag_of_words", "What words tell", table, "Held out."), known])
    text = update(Store(tmp_path), "toy").read_text(encoding="utf-8")
    assert "What words tell" in text and "Held out. As `xling analyse` last wrote it." in text
    assert "Not this one" not in text and "Sources ranked within each target" in text
    (folder / "analysis.json").write_text("{}")
    assert "it could not be made (KeyError" in update(Store(tmp_path), "toy").read_text(encoding="utf-8")


def test_a_matrix_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = controlled(tmp_path)
    path = folder / "matrix.json"
    old = json.loads(path.read_bytes())
    del old["checksum"]
    for block in old["blocks"]:
        for panel in block["panels"]:
            del panel["row_means_abroad"]  # which an early version had not
    path.write_text(json.dumps(old))
    with pytest.raises(StoreError, match=r"is not a matrix .*row_means_abroad.*; run 'xling reduce toy'"):
        update(Store(tmp_path), "toy")
    path.unlink()
    with pytest.raises(StoreError, match="is not there; make it with 'xling reduce toy'"):
        update(Store(tmp_path), "toy")


def test_report_open_draws_and_opens(tmp_path: Path) -> None:
    """`xling report --open` in a process of its own, with a browser that writes down what it was asked for."""
    grid = realistic(tmp_path, ("de", "en"), prompts=10, controls=False)
    reduce_grid(tmp_path, grid.write().name)
    page = tmp_path / "grids" / "toy" / "report.html"
    page.unlink()
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    command = [sys.executable, "-m", "xling", "report", "--root", str(tmp_path), "--open"]
    quiet = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    env = {**quiet, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0 and told.stdout == f"Report: {page}\n" and page.exists()
    assert not (tmp_path / "asked").exists()  # no display: its path is enough
    told = subprocess.run(
        command, env={**env, "BROWSER": f"{program} %s"}, cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert told.returncode == 0 and (tmp_path / "asked").read_text() == f"{page.as_uri()}\n"
    told = subprocess.run(command[:-1], env=env, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert "Transfer matrix 'toy'" in told.stdout  # without it, the matrix as text


# --- how large it gets ----------------------------------------------------------------------------------------


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_benchmark", ROOT / "benchmarks" / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_thirty_languages_and_three_optimizers_fit_into_a_mail() -> None:
    document = benchmark().made_up(30, ("best_of_n", "ppo", "rloo"))
    content = page_bytes(document)
    assert len(content) < 15e6
    assert content.count(b'"title":"Win rate, %"') == 3


def test_six_languages_with_controls_are_small(tmp_path: Path) -> None:
    reduce_grid(tmp_path, realistic(tmp_path, prompts=30).write().name)
    assert (tmp_path / "grids" / "toy" / "report.html").stat().st_size < 3e6
