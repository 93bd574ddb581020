"""What people see: no line wider than the terminal, nothing cut off, holes with their reasons, the same picture."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from synthetic import LANGUAGES, SyntheticGrid, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.report.pictures.write import grid_png
from xling.report.tables.markdown import markdown
from xling.report.tables.terminal import print_matrix


def shown(matrix, width, full=False, colours=False):
    console = Console(width=width, file=io.StringIO(), force_terminal=colours, color_system="256" if colours else None)
    print_matrix(matrix, console, full)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """Six languages, controls, a failed reward model, a pooled source."""
    root = tmp_path_factory.mktemp("grid")
    grid = realistic(root, LANGUAGES, prompts=60)
    grid.cell("fr", "de", fails="reward")
    grid.cell("de+en", "tr", np.full(60, 0.5), groups=[f"fact{i}" for i in range(60)],
              prompts=[f"tr-{i}" for i in range(60)])  # fmt: skip
    return fold_grid(grid.write().store, grid.name)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("full", [False, True])
def test_nothing_overflows_and_nothing_is_cut_off(matrix, width, full):
    lines = shown(matrix, width, full).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_every_number_of_the_matrix_is_there(matrix):
    narrow, wide = shown(matrix, 80), shown(matrix, 200)
    panel = matrix.blocks[0].panels[0]
    for entry in panel.entries:
        if entry.win is not None:
            assert f"{entry.win.value:.1f}" in narrow
            assert f"{entry.win.low:.1f}-{entry.win.high:.1f}" in wide
    for control in ("random", "length", "gold", "likelihood_sft", "shuffled labels", "majority"):
        assert control in narrow


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


def test_no_escape_codes_unless_it_is_a_terminal(matrix):
    assert "\x1b" not in shown(matrix, 80)
    assert "\x1b[" in shown(matrix, 80, colours=True)


def test_a_large_matrix_is_no_flood(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for number in range(30):
        grid.cell("l00", f"l{number:02d}", [1.0, 0.5, 0.0], prompts=[f"{number}-{i}" for i in range(3)])
    matrix = fold_grid(grid.write().store, grid.name)
    text = shown(matrix, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 100
    assert grid_png("matrix.png", matrix, "0").startswith(b"\x89PNG")


def test_recorded_responses_show_agreement_first_and_the_floor(tmp_path):
    grid = SyntheticGrid(tmp_path)
    right = np.arange(40) % 4 > 0
    pairs = {"group": [f"g{i}" for i in range(40)], "correct": right.astype(float).tolist()}
    quality = np.random.default_rng(0).random((40, 2))
    notes = {"unknown_language": True, "unknown_languages": ["is"]}
    for source in ("en", "is"):
        grid.cell(source, "is", 0.25 + 0.5 * right, pairs=pairs, rho=0.4, pool=quality, baseline=quality, notes=notes)
    text = shown(fold_grid(grid.write().store, grid.name), 80)
    assert text.index("Agreement with people") < text.index("Spearman") < text.index("Win rate")
    assert "worst pick" in text and "25.0" in text and "75.0" in text
    assert text.count("worst pick") == 2  # the table and its note
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
