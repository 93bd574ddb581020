"""LaTeX: numbers and intervals in booktabs tables, text that is never a command, all of it compiled where TeX is."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from synthetic import five, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.tidy.finding import Finding
from xling.cli import main
from xling.report.pictures.write import Asked, write_figures
from xling.report.tables.latex import escaped, finding_latex, table_latex
from xling.report.tables.table import Cell, Table

EVIL = r"\input{/etc/passwd} $x$ 100% a_b & {c} #1 ~^ <|> " + "\x1b[2J\x00 \u202e Größe τ ≤ 5 -> ▲"


def rows_of(latex):
    """Cells of each row between the rules."""
    body = latex.partition("\\toprule")[2].partition("\\bottomrule")[0]
    return [
        re.split(r"(?<!\\)&", line.removesuffix("\\\\").strip()) for line in body.splitlines() if line.endswith("\\\\")
    ]


def balanced(latex):
    plain = re.sub(r"\\[{}$]", "", latex)
    return plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    grid = realistic(tmp_path_factory.mktemp("latex"), ("de", "en"), prompts=20)
    grid.cell("fr", "de", fails="reward")
    return grid.write()


def test_text_is_printed_and_never_obeyed():
    text = escaped(EVIL)
    assert "\\textbackslash{}input\\{/etc/passwd\\}" in text
    assert r"100\% a\_b \& \{c\} \#1 \textasciitilde{}\textasciicircum{}" in text
    assert r"$\tau$ $\le$ 5 $\to$ $\blacktriangle$" in text and "Größe" in text
    assert not set(text) & {"\x1b", "\x00", "\u202e"}


def test_a_table_has_intervals_below_and_marks_as_type():
    rows = [
        ("de", [Cell("52.3", "50.1-54.4", home=True, marks="◆▲"), Cell("-1.2", "-2.0..-0.4", marks="*")]),
        ("en", [Cell("hole", note="(1)"), Cell()]),
    ]
    table = Table("win_rate", "Win rate, %", "source", ["de", "en"], rows, ["* settled"], frozenset({1}))
    latex = table_latex(table, "tab:x", "a_b")
    assert rows_of(latex) == [
        ["source ", " de ", " en"],
        ["de ", r" \underline{\textbf{52.3}} ", " $-$1.2$^{*}$"],
        ["", r" {\scriptsize 50.1--54.4} ", r" {\scriptsize $-$2.0, $-$0.4}"],
        ["en ", " hole(1) ", ""],
    ]
    assert latex.count("\\midrule") == 2 and "\\label{tab:x}" in latex
    assert r"\caption{Win rate, \%. a\_b. Underlined: home; bold: best source of its column; $^{*}$ settled.}" in latex


def test_any_finding_becomes_a_table():
    table = pd.DataFrame({
        "task": ["a_b", "a_b", "a_b"], "source_lang": ["de", "en", "русский"], "win_rate": [52.34, 48.0, np.nan],
        "win_rate_low": [50.1, -1.5, np.nan], "win_rate_high": [54.4, 50.0, np.nan], "n": [100, 200, 0],
    })  # fmt: skip
    latex = finding_latex(Finding("x", "A title", table, "Formula 1.", ("de: 100% gone",)), "tab:x")
    rows = [[cell.strip() for cell in row] for row in rows_of(latex)]
    assert rows[0] == ["source", "win rate", "n"]
    assert ["de", "52.3", "100"] in rows and ["", r"{\scriptsize 50.1--54.4}", ""] in rows
    assert ["", r"{\scriptsize $-$1.5, 50.0}", ""] in rows and ["русский", "", "0"] in rows
    assert r"\caption{A title: a\_b. Formula 1. Left out: de: 100\% gone." in latex
    assert latex.startswith("% needs XeLaTeX") and "\\label{tab:x}" in latex
    assert balanced(latex)


def test_a_finding_of_several_tables_has_as_many_labels():
    places = [(judge, s, t) for judge in ("gold", "llm") for s in ("de", "en") for t in ("de", "en")]
    table = pd.DataFrame(places, columns=["judge", "source_lang", "target_lang"]).assign(rank=range(8))
    finding = Finding("x", "Ranks", table, compact=("source_lang", "target_lang", "rank"))
    latex = finding_latex(finding, "tab:x")
    assert "\\label{tab:x-1}" in latex and "\\label{tab:x-2}" in latex and latex.count("\\begin{tabular}{lrr}") == 2


def test_long_tables_are_several_floats_and_wide_ones_go_over_both_columns():
    """longtable is an error in two columns."""
    long = pd.DataFrame({"x": [f"row {i}" for i in range(120)], "y": np.arange(120) / 7})
    latex = finding_latex(Finding("x", "Long", long), "tab:x")
    assert latex.count("\\begin{table}") == 3 and latex.count("\\label{tab:x}") == 1 and "row 119" in latex
    assert "longtable" not in latex and latex.count("continued") == 2 and balanced(latex)
    rows = [[Cell("50.0", "45.0-55.0")] * 8] * 40
    wide = table_latex(
        Table("w", "Wide", "source", list("abcdefgh"), [(f"l{n}", row) for n, row in enumerate(rows)]), "t"
    )
    floats = wide.split("\\begin{table*}")[1:]
    assert len(floats) == 2 and "\\begin{table}" not in wide
    assert all(len(rows_of(one)) % 2 for one in floats)  # a head, and every number with its interval below


def test_tables_have_the_names_of_figures(tmp_path):
    grid = five(tmp_path, seeds=(0,), prompts=12)
    matrix = fold_grid(grid.write().store, grid.name)
    write_figures(matrix, [], tmp_path / "out", Asked.of(only="tables", names="english"))
    text = {file.stem: file.read_text() for file in (tmp_path / "out" / "tables").glob("*.tex")}
    assert rows_of(text["win_rate-ppo"])[0] == ["source ", " German ", " English ", " Turkish ", " mean ", " abroad"]
    assert r"English $\to$ German " in [row[0] for row in rows_of(text["win_rate_by_optimizer"])]
    heads = [row[0].strip() for row in rows_of(text["optimizers"])]
    assert "PPO" in heads and any(head.startswith("best-of-") for head in heads)


def test_tables_of_a_grid_say_its_numbers(grid, tmp_path):
    matrix = fold_grid(grid.store, grid.name)
    written = write_figures(matrix, [], tmp_path, Asked.of(only="tables"))
    text = (tmp_path / "tables" / "win_rate.tex").read_text()
    (panel,) = matrix.blocks[0].panels
    for entry in panel.entries:
        if entry.win is not None:
            assert f"{entry.win.value:.1f}" in text and f"{entry.win.low:.1f}--{entry.win.high:.1f}" in text
    assert "(1) blocked: reward[fr] failed" in text
    controls = (tmp_path / "tables" / "controls_and_references.tex").read_text()
    assert "likelihood sft" in controls and "shuffled labels" in controls
    for file in written.files:
        latex = (tmp_path / file).read_text()
        widths = {len(row) for row in rows_of(latex)}
        assert balanced(latex) and len(widths) <= 1, file


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX on this machine")
def test_everything_compiles(grid, tmp_path):
    main(["reduce", grid.name, "--root", str(grid.root)])
    words = ["--out", str(tmp_path), "--width", "column", "--only", "heatmap,tables"]
    assert main(["figures", grid.name, "--root", str(grid.root), *words]) == 0
    latin = EVIL.replace("τ", "")
    table = Table(latin, latin, latin, [latin], [(latin, [Cell(latin, latin)])], [latin])
    (tmp_path / "evil.tex").write_text(table_latex(table, "tab:evil", latin))
    whole = (tmp_path / "all.tex").read_text().replace("\\end{document}", "\\clearpage\\input{evil}\n\\end{document}")
    (tmp_path / "all.tex").write_text(whole)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX on this machine")
@pytest.mark.nightly
def test_an_article_of_two_columns_reads_them_from_another_folder(grid, tmp_path):
    """With the packages that docs/figures.md names and no other; figures are found beside the file that names them."""
    main(["reduce", grid.name, "--root", str(grid.root)])
    words = ["--out", str(tmp_path / "made" / "here"), "--only", "heatmap,forest,tables", "--names", "english"]
    assert main(["figures", grid.name, "--root", str(grid.root), *words]) == 0
    long = pd.DataFrame({"x": [f"row {i}" for i in range(90)], "y": np.arange(90) / 7})
    (tmp_path / "made" / "long.tex").write_text(finding_latex(Finding("x", "Long", long), "tab:long"))
    made = sorted((tmp_path / "made" / "here").glob("tables/*.tex"))
    inputs = [path.relative_to(tmp_path).with_suffix("") for path in made]
    inputs += ["made/long", "made/here/figures-column", "made/here/figures-text"]
    body = "".join(f"\\input{{../{name}}}\\clearpage\n" for name in map(str, inputs))
    (tmp_path / "paper").mkdir()
    head = "\\documentclass[twocolumn]{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{amssymb,booktabs,graphicx}\n"
    (tmp_path / "paper" / "main.tex").write_text(head + f"\\begin{{document}}\n{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(
        command, cwd=tmp_path / "paper", capture_output=True, text=True, timeout=300, errors="replace"
    )
    assert done.returncode == 0, done.stdout[-2000:]
    wide = [float(points) for points in re.findall(r"Overfull .hbox \(([\d.]+)pt too wide", done.stdout)]
    assert max(wide, default=0.0) < 10, done.stdout
