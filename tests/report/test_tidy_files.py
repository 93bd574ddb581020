"""Files for programs beside the matrix: measures.parquet and .csv, and the schema of matrix.json."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq
import pytest

from xling.analysis.matrix.schema import FILE, written
from xling.analysis.matrix.types import MEASURES
from xling.analysis.tidy.long import OTHERS

AXES = ["task", "policy", "rm_backbone", "source_lang", "target_lang", "optimizer", "judge"]


@pytest.fixture(params=["five_panels", "with_controls"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def panels(matrix: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for block in matrix["blocks"] for panel in block["panels"]]


def test_every_number_of_every_cell_has_a_row(folder: Path) -> None:
    matrix = json.loads((folder / "matrix.json").read_text())
    table = pq.read_table(folder / "measures.parquet").to_pandas()
    cells = table[table.row == "cell"].set_index([*AXES, "measure"])
    assert not cells.index.duplicated().any()
    found = dict.fromkeys(cells[cells.value.notna()].index, False)
    for entry in (entry for panel in panels(matrix) for entry in panel["entries"]):
        place = tuple(entry["axes"][axis] for axis in AXES)
        own = {name: entry[name] for name in MEASURES if entry[name] is not None} | entry["own"]
        for name, estimate in own.items():
            row = cells.loc[(*place, "win_rate" if name == "win" else name)]
            assert (row.value, row.n, row.seeds) == (estimate["value"], estimate["n"], estimate["seeds"])
            assert [row.low, row.high] == [estimate["low"], estimate["high"]] or estimate["low"] is None
            assert row.unit == (MEASURES[name].unit if name in MEASURES else "")
            found[row.name] = True
        if entry["win"] is None:
            hole = cells.loc[(*place, "win_rate")]
            assert math.isnan(hole.value) and (hole.status, hole.reason) == (entry["status"], entry["reason"])
        for name, column in (("versus_home", "win_rate_minus_home"), ("versus_best", "win_rate_minus_best")):
            if entry[name] is not None:
                row = cells.loc[(*place, column)]
                assert (row.value, row.p) == (entry[name]["estimate"]["value"], pytest.approx(entry[name]["p"]))
    others = {place[-1] for place, seen in found.items() if not seen}
    assert others <= set(OTHERS)
    accuracies = sum(len(panel["accuracy"]) for panel in panels(matrix))
    assert len(table[(table.row == "cell") & (table.measure == "accuracy")]) == accuracies


def test_margins_baselines_and_references_are_marked(folder: Path) -> None:
    matrix = json.loads((folder / "matrix.json").read_text())
    table = pq.read_table(folder / "measures.parquet").to_pandas()
    for panel in panels(matrix):
        here = table[(table[list(panel["axes"])] == pd.Series(panel["axes"])).all(axis=1)]
        for row, means in (("mean", "means"), ("mean abroad", "means_abroad")):
            of = here[here.row == row]
            sources, targets = (of[of[f"{one}_lang"] != ""] for one in ("source", "target"))
            for rows, known, axis in ((sources, f"row_{means}", "source"), (targets, f"column_{means}", "target")):
                values = dict(zip(rows[f"{axis}_lang"], zip(rows.value, rows.cells, strict=True), strict=True))
                assert values == {lang: (m["estimate"]["value"], m["entries"]) for lang, m in panel[known].items()}
        baselines = here[(here.row == "baseline") & (here.measure == "length")]
        assert sorted(baselines.target_lang) == panel["targets"] and set(baselines.source_lang) == {""}
    controls = [entry for block in matrix["blocks"] for one in block["controls"] for entry in one["entries"]]
    shuffled = [entry for block in matrix["blocks"] for entry in block["shuffled"]]
    wins = table[table.measure == "win_rate"].row.value_counts()
    assert (wins.get("control", 0), wins.get("shuffled", 0)) == (len(controls), len(shuffled))


def test_others_read_both_files_alike(with_controls: Path, tmp_path: Path) -> None:
    table = pq.read_table(with_controls / "measures.parquet").to_pandas()
    text = pd.read_csv(with_controls / "measures.csv", keep_default_na=False, na_values={"value": "", "low": ""})
    assert list(text.columns) == list(table.columns) == [*AXES, *table.columns[len(AXES) :]]
    assert text.measure.equals(table.measure) and text.value.equals(table.value) and text.row.equals(table.row)
    for kind in ("parquet", "csv"):
        file = str(with_controls / f"measures.{kind}")
        loaded = datasets.load_dataset(kind, data_files=file, cache_dir=str(tmp_path))["train"]
        assert len(loaded) == len(table) and loaded.column_names == list(table.columns)


def test_matrix_json_fits_the_schema_that_is_shipped(folder: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json.loads(FILE.read_text(encoding="utf-8")))
    matrix = json.loads((folder / "matrix.json").read_text())
    validator.validate(matrix)
    for spoil in (
        lambda one: one.update(format=2),
        lambda one: one.pop("blocks"),
        lambda one: panels(one)[0]["entries"][0].update(win="71.3"),
        lambda one: panels(one)[0]["entries"][0]["axes"].update(seed=0),
    ):
        spoilt = copy.deepcopy(matrix)
        spoil(spoilt)
        assert not validator.is_valid(spoilt)


def test_the_schema_that_is_shipped_is_that_of_the_types() -> None:
    again = "type: python -m xling.analysis.matrix.schema"
    assert json.loads(FILE.read_text(encoding="utf-8")) == json.loads(written()), again
