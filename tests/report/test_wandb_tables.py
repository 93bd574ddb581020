"""Tables that W&B shows: samples against the records of their stages, findings against the analyses."""

import json

import numpy as np
from grids import recorded_grid
from synthetic import realistic

from xling.analysis.catalogue import OF_ENTRIES, grid_findings
from xling.console import shown
from xling.report.files import reduce_grid
from xling.results.items import read_array
from xling.results.plan import read_plan
from xling.tracking.runs import PROMPTS, sample_rows


def test_every_row_says_what_its_stages_say(tmp_path):
    store = recorded_grid(tmp_path)
    plan = read_plan(store.grid_folder("g"))
    table = sample_rows(store, plan)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert len(rows) == len(plan.cells) * PROMPTS
    for cell in plan.cells:
        place = {axis: cell.axes[axis] for axis in ("source_lang", "target_lang")}
        found = [row for row in rows if place.items() <= row.items()]
        folders = {role: store.folder(ref.kind, ref.key) for role, ref in cell.stages.items()}
        items = json.loads(store.content(cell.judge.kind, cell.judge.key, "items.json"))
        said = {line["prompt"]: line["responses"] for line in lines(folders["pool"] / "samples.jsonl")}
        order = [line["prompt"] for line in lines(folders["pool"] / "samples.jsonl")]
        opposed = {line["prompt"]: line["responses"] for line in lines(folders["baseline"] / "samples.jsonl")}
        scores, qualities = (read_array(folders[role] / "pool.npy") for role in ("score", "verdict"))
        assert len(found) == PROMPTS
        for row in found:
            number = items["prompt"].index(row["prompt"])
            index, line = items["index"][number], order.index(row["prompt"])
            assert row["aligned_response"] == shown(said[row["prompt"]][index])
            assert row["sft_response"] == shown(opposed[row["prompt"]][0])
            assert (row["reward"], row["quality"]) == (scores[line, index], qualities[line, index])
            level = np.sign(row["quality"] - row["sft_quality"])
            assert row["verdict"] == {-1: "loss", 0: "tie", 1: "win"}[int(level)]
            assert row["win"] == items["win"][number]
            assert "<i>&amp;</i>" in row["text"]


def test_the_cells_of_a_target_show_the_same_prompts(tmp_path):
    store = recorded_grid(tmp_path)
    table = sample_rows(store, read_plan(store.grid_folder("g")))
    by_cell: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        source, target, prompt = (row[table.columns.index(name)] for name in ("source_lang", "target_lang", "prompt"))
        by_cell.setdefault((source, target), []).append(prompt)
    assert by_cell["ar", "en"] == by_cell["en", "en"]
    assert by_cell["ar", "ar"] == by_cell["en", "ar"]


def test_findings_are_tables_with_nothing_where_no_number_is(tmp_path):
    from xling.tracking.runs import findings

    grid = realistic(tmp_path, languages=("de", "en", "tr"), prompts=20, controls=False)
    reduce_grid(tmp_path, grid.write().name)
    found = {finding.name: finding.table for finding in grid_findings(grid.store, "toy", list(OF_ENTRIES))}
    logged = dict(findings(grid.store, read_plan(grid.store.grid_folder("toy"))))
    assert logged and set(logged) == {f"finding/{name}" for name, table in found.items() if len(table)}
    for key, shown_table in logged.items():
        frame = found[key.removeprefix("finding/")]
        assert shown_table.columns == [str(column) for column in frame.columns]
        for row, expected in zip(shown_table.rows, frame.itertuples(index=False), strict=True):
            assert all(a == b or (a is None and b != b) for a, b in zip(row, expected, strict=True))


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]
