"""Findings in the terminal, as Markdown, JSON and CSV, and the two commands that print them."""

import csv
import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic import SyntheticGrid, five, realistic

from xling.analysis.catalogue import grid_findings, paper_findings
from xling.analysis.tidy.finding import Finding
from xling.cli import main
from xling.report.tables.findings import csv_bytes, finding_tables, findings_json, markdown, print_finding


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """Of a grid with five optimizers and two seeds, of one with a hole, and of the paper."""
    one = five(tmp_path_factory.mktemp("five"), seeds=(0, 1), prompts=20).write()
    holed = realistic(tmp_path_factory.mktemp("holed"), ("de", "en", "tr"), prompts=20, controls=False)
    holed.cell("fr", "de", fails="reward")
    holed.write()
    return [*grid_findings(one.store, "toy"), *grid_findings(holed.store, "toy"), *paper_findings()]


def shown(finding, width=80, **kwargs):
    console = Console(width=width, file=io.StringIO())
    print_finding(finding, console, **kwargs)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_every_finding_fits_and_shows_no_nan(findings, width):
    for finding in findings:
        text = shown(finding, width)
        assert max(map(len, text.splitlines())) <= width, finding.name
        assert not re.search(r"\b(nan|NaN|None|inf)\b", text), finding.name
        assert finding.title in text


def small():
    table = pd.DataFrame({
        "optimizer": ["ppo"] * 3,
        "judge": ["gold", "gold", "llm"],
        "target_lang": ["de", "all", "de"],
        "difference": [1.26, -0.5, math.nan],
        "difference_low": [0.5, -1.0, math.nan],
        "difference_high": [2.0, 0.25, math.nan],
        "cells": [3, 4, 0],
    })  # fmt: skip
    return Finding("small", "A small one", table, "Means. Draws: of a model.", ("x: nothing.", "x: nothing."))


def test_numbers_with_their_intervals_and_what_is_the_same_everywhere():
    (table,) = finding_tables(small())
    assert (table.title, table.corner, table.columns) == ("ppo", "judge, target", ["difference", "cells"])
    assert [label for label, _ in table.rows] == ["gold, de", "gold, all", "llm, de"]
    cells = [row[0] for _, row in table.rows]
    assert [(cell.text, cell.span, cell.look) for cell in cells] == [
        ("+1.3", "+0.5..+2.0", "above"), ("-0.5", "-1.0..+0.2", ""), ("", "", ""),
    ]  # fmt: skip
    assert [row[1].text for _, row in table.rows] == ["3", "4", "0"]


def test_what_a_compact_table_leaves_out_is_named_and_truths_are_words(findings):
    """The note of home differences speaks of p_holm: whoever reads it has to know where it is."""
    home = next(one for one in findings if one.name == "home_differences")
    assert "home_differences.csv has also: p_better, p, p_holm." in " ".join(shown(home, 200).split())
    assert "csv has also" not in shown(small())
    text = shown(Finding("truths", "Truths", pd.DataFrame({"of": ["a", "b"], "home": [True, False], "n": [1, 2]})))
    assert re.search(r"a +yes +1", text) and re.search(r"b +no +2", text)


def test_the_draws_are_explained_once_and_holes_said_once():
    heard = set()
    first, second = shown(small(), heard=heard), shown(small(), heard=heard)
    assert "Draws: of a model." in first and "Draws" not in second and "Means." in second
    assert first.count("x: nothing.") == 1


def test_a_finding_without_rows_says_why_and_nothing_else():
    text = shown(Finding("empty", "An empty one", pd.DataFrame(columns=["tau"]), "A long note.", ("one source only.",)))
    assert text.split() == ["An", "empty", "one", "Left", "out:", "one", "source", "only."]


def test_compact_tables_have_rows_columns_and_a_table_for_each_panel(findings):
    ranking = next(finding for finding in findings if finding.name == "source_ranking")
    tables = finding_tables(ranking)
    assert len(tables) == 5 and tables[0].columns == ["de", "en", "tr", "all"]
    assert sorted(label for label, _ in tables[0].rows) == ["de", "en", "tr"]
    (brief,) = finding_tables(ranking, brief=True)  # five panels are too many: what stands over all targets
    assert [label for label, _ in brief.rows] == ["best_of_n", "dpo", "grpo", "ppo", "rloo"]
    assert "Target by target: analysis.md." in shown(ranking, rest="analysis.md")
    assert "Target by target" not in shown(small(), rest="analysis.md")


def test_machines_get_every_row_with_null_for_what_is_missing(findings):
    told = json.loads(findings_json("All of them", findings))
    assert [one["name"] for one in told["findings"]] == [finding.name for finding in findings]
    for one, finding in zip(told["findings"], findings, strict=True):
        assert len(one["rows"]) == len(finding.table) and one["columns"] == list(finding.table.columns)
        rows = list(csv.DictReader(io.StringIO(csv_bytes(finding).decode())))
        assert len(rows) == len(finding.table)
        for name in finding.table.select_dtypes("number"):
            expected = finding.table[name].to_numpy(dtype=float)
            ours = np.array([math.nan if row[name] is None else row[name] for row in one["rows"]], dtype=float)
            np.testing.assert_allclose(ours, expected, atol=1e-6)
            theirs = np.array([float(row[name] or "nan") for row in rows])
            np.testing.assert_allclose(theirs, expected, atol=1e-6)


def test_markdown_has_every_finding_and_no_control_codes(findings):
    text = markdown("All of them", findings).decode()
    assert text.startswith("# All of them\n") and all(f"## {finding.title}" in text for finding in findings)
    assert not re.search(r"\b(nan|NaN|None|inf)\b|\x1b", text)


# --- commands ---------------------------------------------------------------------------------------------


def test_analyse_prints_and_writes_into_the_grid_s_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    grid = realistic(tmp_path, ("de", "en", "tr"), prompts=20, controls=False).write()
    assert main(["analyse", "toy", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    folder = grid.store.grid_folder("toy")
    assert "Sources ranked within each target" in out and f"Written to {folder}" in out.replace("\n", "")
    assert {path.name for path in (folder / "analysis").iterdir()} >= {"source_ranking.csv", "power.csv"}
    assert json.loads((folder / "analysis.json").read_bytes())["title"] == "What the matrix 'toy' says"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["analyse", "--root", str(tmp_path)]) == 0
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}  # the same bytes


def test_analyse_paper_writes_only_where_it_is_told_to(tmp_path, capsys):
    assert main(["analyse", "paper", "--root", str(tmp_path), "--only", "bilingual,translate_train", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["findings"]] == ["translate_train", "bilingual"]
    assert not list(tmp_path.iterdir())
    out = tmp_path / "said"
    assert main(["analyse", "paper", "--only", "power", "--root", str(tmp_path), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["name"] == "power" and "Written to" in captured.err
    assert sorted(path.name for path in out.iterdir()) == ["analysis", "analysis.json", "analysis.md"]


def test_compare_prints_three_findings(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    realistic(tmp_path, ("de", "en", "es"), prompts=20, controls=False).write()
    asked = ["compare", "toy", "paper:win_rate_summarization_palm_bon", "--root", str(tmp_path)]
    assert main([*asked, "--out", str(tmp_path / "c")]) == 0
    out = capsys.readouterr().out
    assert "Left minus right, cell by cell" in out and "win_rate_summarization_palm_bon" in out
    written = sorted(path.name for path in (tmp_path / "c" / "compare").iterdir())
    assert written == ["compare_cells.csv", "compare_means.csv", "compare_ranks.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyse", "nope"], "There is no grid 'nope'"),
        (["analyse", "--only", "nope"], "There is no analysis 'nope' here"),
        (["analyse", "paper", "--only", "nope"], "There is no analysis 'nope' here"),
        (["compare", "toy", "paper:nope"], "The paper has no matrix 'nope'"),
        (["compare", "toy:judge=llm", "paper"], "'toy' has no judge 'llm'. There are: gold."),
    ],
)
def test_errors_are_sentences(tmp_path, capsys, arguments, message):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    grid.write()
    assert main([*arguments, "--root", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
