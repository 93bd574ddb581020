"""The terminal, Markdown and matrix.png: no line longer than the terminal, every number whole, nothing obeyed.

Holes are shown with their reasons, and the same matrix gives the same picture.
"""

import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from synthetic import LANGUAGES, SyntheticGrid, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.cli import main
from xling.console import Console, harmless
from xling.report.files import write_matrix
from xling.report.pictures.write import grid_png
from xling.report.tables.markdown import markdown
from xling.report.tables.table import Cell, Table
from xling.report.tables.terminal import print_matrix, print_table, print_tables
from xling.results.plan import read_plan

WIDTHS = [80, 200]


def drawn(what, width, *arguments, **console):
    out = Console(width=width, file=io.StringIO(), **console)
    what(*arguments[:1], out, *arguments[1:])
    return out.file.getvalue()


def shown(matrix, width, full=False):
    return drawn(print_matrix, width, matrix, full)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Six languages, controls, a failed reward model, a pooled source."""
    grid = realistic(tmp_path_factory.mktemp("grid"), LANGUAGES, prompts=60)
    grid.cell("fr", "de", fails="reward")
    grid.cell("de+en", "tr", np.full(60, 0.5), groups=[f"fact{i}" for i in range(60)],
              prompts=[f"tr-{i}" for i in range(60)])  # fmt: skip
    return grid.write()


@pytest.fixture(scope="module")
def matrix(grid):
    return fold_grid(grid.store, grid.name)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("full", [False, True])
def test_nothing_overflows_and_nothing_is_cut_off(matrix, width, full):
    lines = shown(matrix, width, full).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not any("…" in line for line in lines)


def tables(text):
    """Words of a text that stand between two or more spaces: cells, whole."""
    return {word for line in text.splitlines() for word in re.split(r"\s{2,}", line.strip())}


def numbers(matrix):
    """Every number of the first view, as it is written."""
    (panel,) = matrix.blocks[0].panels
    for entry in panel.entries:
        if entry.win is not None:
            yield f"{entry.win.value:.1f}", f"{entry.win.low:.1f}-{entry.win.high:.1f}"
        if entry.versus_home is not None and not entry.home:
            difference = entry.versus_home.estimate
            yield f"{difference.value:+.1f}", f"{difference.low:+.1f}..{difference.high:+.1f}"
    for accuracy in panel.accuracy:
        yield f"{accuracy.accuracy.value:.1f}", f"{accuracy.accuracy.low:.1f}-{accuracy.accuracy.high:.1f}"
    for control in matrix.blocks[0].controls:
        for entry in control.entries:
            yield f"{entry.win.value:.1f}", f"{entry.win.low:.1f}-{entry.win.high:.1f}"


@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_is_there_and_whole(matrix, width):
    text = shown(matrix, width)
    cells = {word.strip("◆▲△*[]") for cell in tables(text) for word in cell.split(" ")}
    assert not [pair for pair in numbers(matrix) if not set(pair) <= cells]
    for control in ("random", "length", "gold", "likelihood_sft", "shuffled labels", "majority"):
        assert control in text


def test_at_200_columns_differences_stand_beside_the_win_rates(matrix):
    lines = drawn(print_matrix, 200, matrix).splitlines()
    assert [line for line in lines if "Win rate, %" in line and "Source minus home" in line]
    lines = drawn(print_matrix, 80, matrix).splitlines()
    assert not [line for line in lines if "Win rate, %" in line and "Source minus home" in line]


def test_holes_home_best_and_what_is_settled_are_said(matrix):
    text = shown(matrix, 200)
    assert "(1) blocked: reward[fr] failed: ValueError: loss is nan" in text
    panel = matrix.blocks[0].panels[0]
    home = panel.at()["de", "de"]
    assert f"◆{home.win.value:.1f}" in text
    assert text.count("◆") >= 2 * 6  # win rates and differences
    for verdict in panel.verdicts:
        assert verdict[:60] in text
    assert "cells abroad whose interval lies above 50" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_wide_matrix_is_shown_in_pages_with_its_sources_again(tmp_path, width):
    grid = SyntheticGrid(tmp_path)
    targets = [f"l{number:02d}" for number in range(30)]
    for number, target in enumerate(targets):
        for source in ("l00", "l01+l02"):
            grid.cell(source, target, [1.0, 0.5, 0.0], prompts=[f"{number}-{i}" for i in range(3)])
    matrix = fold_grid(grid.write().store, grid.name)
    text = shown(matrix, width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width and len(lines) < 150  # no flood: the other tables wait for --full
    assert grid_png("matrix.png", matrix, "0").startswith(b"\x89PNG")
    pages = [line for line in lines if line.startswith("columns ")]
    assert pages[0].startswith("columns 1 to ") and pages[-1].endswith(" of 32")
    heads = [line.split() for line in lines if line.startswith("source ")][: len(pages)]
    assert [head for line in heads for head in line[1:]] == [*targets, "mean", "abroad"]
    assert sum(line.startswith("l01+l02 ") for line in lines) >= len(pages)
    assert "xling report --full" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_long_names_are_folded_and_numbers_are_not(width):
    name = "frozen_lm, tuning=full, learning_rate=0.0001, epochs=3, a_very_long_value=" + "x" * 60
    row = [Cell("-12.3", "-100.0..-10.0", marks="*"), Cell("45.6", "40.0-50.0")] * 6
    table = Table(
        "one", "A table", "corner", [f"{name} {number}" for number in range(12)], [(name, row)] * 2, [name * 3]
    )
    text = drawn(print_table, width, table)
    assert max(map(cell_len, text.splitlines())) <= width
    assert text.count("-12.3*") == 12 and text.count("-100.0..-10.0") == 12
    assert name.replace(" ", "") in re.sub(r"\s", "", text) or "x" * 20 in text


def test_wide_characters_keep_columns_in_line():
    rows = [(name, [Cell("50.0"), Cell("60.0")]) for name in ("中文", "日本語", "de", "한국어")]
    for width in (*WIDTHS, 24):
        lines = drawn(print_table, width, Table("one", "語言", "源", ["目標一", "b"], rows)).splitlines()
        ends = {cell_len(line.rstrip()) for line in lines if line.rstrip().endswith("60.0")}
        assert len(ends) == 1 and max(map(cell_len, lines)) <= width


def test_control_codes_in_labels_are_shown(matrix):
    evil = "\x1b[2J\x1b]0;owned\x07x\x9b31m\u202egnp\ny"
    table = Table(evil, evil, evil, [evil], [(evil, [Cell(evil, evil)])], [evil])
    for colours in (False, True):
        text = drawn(lambda t, c: print_tables([t, t], c), 80, table, force_terminal=colours, color_system="256")
        own = re.sub(r"\x1b\[[\d;]*m", "", text)  # rich's own colours
        assert not set(own) & {"\x1b", "\x07", "\x9b", "\u202e"}
        assert "\u241b[2J" in own and "<U+009B>" in own
        assert max(map(cell_len, own.splitlines())) <= 80


def test_no_color_and_no_tty(matrix, monkeypatch):
    assert "\x1b" not in shown(matrix, 80)
    assert "\x1b[" in drawn(print_matrix, 80, matrix, force_terminal=True, color_system="256")
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(print_matrix, 80, matrix, force_terminal=True)
    assert not re.findall(r"\x1b\[(?:[\d;]*;)?[34]\d", text)  # bold and dim may stay


def test_report_reads_what_was_folded(grid, matrix, capsys, monkeypatch):
    write_matrix(grid.store.grid_folder(grid.name), matrix)
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["report", grid.name, "--root", str(grid.root)]) == 0
        short = capsys.readouterr().out
        assert main(["report", "--full", grid.name, "--root", str(grid.root)]) == 0
        full = capsys.readouterr().out
        assert max(map(cell_len, (short + full).splitlines())) <= width
        assert "Trained minus likelihood_sft" in full and "Trained minus likelihood_sft" not in short


def test_logs_show_control_codes(grid, capsys):
    stage = read_plan(grid.store.grid_folder(grid.name)).stages[0]
    path = grid.store.log(stage.kind, stage.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("step 1\rstep 2\n\x1b[31mred\x07 Привет\tende\n".encode())
    assert main(["logs", "0", grid.name, "--root", str(grid.root)]) == 0
    text = capsys.readouterr().out
    assert text == "step 1\nstep 2\n\u241b[31mred\u2407 Привет\tende\n"


def test_harmless_text_stays_the_same():
    text = "Türkçe, русский, العربية, 中文 ◆ 70.2\tx\n"
    assert harmless(text) == text and harmless(harmless("\x1b[m")) == harmless("\x1b[m") == "\u241b[m"


def test_recorded_responses_show_agreement_first_and_the_floor(tmp_path):
    grid = SyntheticGrid(tmp_path)
    right = np.arange(40) % 4 > 0
    pairs = {"group": [f"g{i}" for i in range(40)], "correct": right.astype(float).tolist()}
    quality = np.random.default_rng(0).random((40, 2))
    notes = {"unknown_language": True, "unknown_languages": ["is"]}
    more = {"columns": {"length": [25.0] * 40}, "notes": notes}
    for source in ("en", "is"):
        grid.cell(source, "is", 0.25 + 0.5 * right, pairs=pairs, rho=0.4, pool=quality, baseline=quality, **more)
    text = shown(fold_grid(grid.write().store, grid.name), 80)
    assert text.index("Agreement with people") < text.index("Spearman") < text.index("Win rate")
    assert "worst pick" in text and "25.0" in text and "75.0" in text
    assert text.count("worst pick") == 2  # the table and its note
    assert "length: characters" in text and "tokens" not in text  # which nobody has counted
    assert "is†" in text and "† the encoder was not made for this language" in text


def test_markdown_has_the_same_tables_and_the_needs(matrix):
    text = markdown(matrix)
    assert "### Win rate, %" in text and "### Trained minus likelihood_sft" in text
    assert "### More prompts (or seeds) that would settle source against home" in text
    assert "(1) blocked: reward[fr] failed" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert blocks and all(len({line.count("|") for line in block}) == 1 for block in blocks)
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_the_same_matrix_gives_the_same_picture(matrix):
    first = grid_png("matrix.png", matrix, "digest")
    assert grid_png("matrix.png", matrix, "digest") == first
    picture = Image.open(io.BytesIO(first))
    assert picture.info["Comment"] == "digest"
    assert min(picture.size) > 300
    colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 50


def test_a_mix_of_devices_is_said(tmp_path):
    grid = SyntheticGrid(tmp_path)
    stages = grid.cell("de", "de", [1.0, 0.0])
    assert "made with different" not in shown(fold_grid(grid.write().store, grid.name), 80)
    grid.publish(stages["sft"], {"weights.bin": b"0"}, device="NVIDIA H200")
    matrix = fold_grid(grid.store, grid.name)
    assert "made with different devices: NVIDIA H200, cpu." in shown(matrix, 200)
    assert "made with different devices" in markdown(matrix)


def test_changes_to_a_commit_are_other_code(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.0])
    matrix = fold_grid(grid.write().store, grid.name)
    matrix.provenance["code"] = ["0123456789abcdef", "0123456789abcdef+"]
    assert "made with different code: 012345678, 012345678+." in shown(matrix, 200)


def test_references_alone_are_no_matrix_but_no_error(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("-", "de", [1.0, 0.0], rm_backbone="random")
    matrix = fold_grid(grid.write().store, grid.name)
    assert "No cell with a source language" in shown(matrix, 80)
    assert grid_png("matrix.png", matrix, "0").startswith(b"\x89PNG")
    assert markdown(matrix)
