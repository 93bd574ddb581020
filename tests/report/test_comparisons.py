"""Grids of several optimizers and judges: what stands beside win rates, panels compared, the frontier's figure."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from synthetic import OPTIMIZERS, SyntheticGrid, five

from xling.analysis.matrix.fold_grid import fold_grid
from xling.report.files import reduce_grid
from xling.report.pictures.write import grid_png
from xling.report.tables.markdown import markdown
from xling.report.tables.terminal import print_matrix


def shown(matrix, width, full=False):
    console = Console(width=width, file=io.StringIO())
    print_matrix(matrix, console, full)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    root = tmp_path_factory.mktemp("five")
    grid = five(root, seeds=(0, 1), prompts=20).write()
    return root / "grids/toy", reduce_grid(root, grid.name)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_five_optimizers_fit_the_terminal(reduced, width):
    for full in (False, True):
        lines = shown(reduced[1], width, full).splitlines()
        assert max(map(len, lines)) <= width
        assert not any("…" in line for line in lines)


def test_a_panel_an_optimizer_and_the_comparison_last(reduced):
    matrix = reduced[1]
    lines = shown(matrix, 100).splitlines()
    for optimizer in OPTIMIZERS:
        assert sum(line.startswith(f"same_as_policy, {optimizer}, judge gold") for line in lines) == 1
    summary = lines[lines.index("Optimizers") :]
    (table,) = matrix.optimizers
    for arm in table.arms:
        (line,) = [line for line in summary if line.startswith(arm.name)]
        assert f"{arm.mean.value:.1f} [{arm.mean.low:.1f}" in line and f" {arm.above_50}/9 " in line
        if arm.versus is not None:
            assert f"{arm.versus.estimate.value:+.1f}" in line
    assert sum("equal length: wins if" in line for line in lines) == 1  # explained once


def test_what_stands_beside_a_win_rate_is_its_baselines_too(tmp_path):
    grid = SyntheticGrid(tmp_path)
    columns = {"length": [9.0] * 4, "in_language": [1.0, 1.0, 1.0, 0.0], "eos": [0.5] * 4, "repetition": [0.25] * 4}
    own = {"reward": [2.0] * 4, "quality": [0.75] * 4, "kl": [1.0, 2.0, 3.0, 4.0], "baseline_length": [6.0] * 4}
    grid.cell("en", "de", [1.0, 1.0, 1.0, 0.0], columns=columns | own, optimizer="ppo")
    matrix = fold_grid(grid.write().store, grid.name)
    entry, (opponent,) = matrix.blocks[0].panels[0].entries[0], matrix.blocks[0].panels[0].opponents
    assert (entry.length.value, opponent.length.value) == (9, 6)
    assert entry.kl.value == 2.5 and entry.kl.low < 2.5 < entry.kl.high and entry.kl_bound is None
    lines = shown(matrix, 110).splitlines()
    head = next(number for number, line in enumerate(lines) if line == "Beside the win rates")
    baseline, cell = lines[head + 3].split(), lines[head + 4].split()
    assert baseline == ["baseline", "de", "100.0", "6.0", "100.0", "0.0"]
    assert cell == ["en", "->", "de", "75.0", "75.0", "75.0", "9.0", "50.0", "25.0", "+2.00", "+0.25", "2.50"]
    assert "### Beside the win rates, with intervals" in markdown(matrix)
    assert "Best-of-k" not in "\n".join(lines) and "worst pick" not in "\n".join(lines)


def test_a_larger_matrix_shows_means_over_targets(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for source in ("de", "en"):
        for number in range(7):
            prompts = [f"{number}-{i}" for i in range(3)]
            grid.cell(source, f"l{number}", [1.0, 0.5, 0.0], prompts=prompts, columns={"length": [number] * 3})
    lines = shown(fold_grid(grid.write().store, grid.name), 100).splitlines()
    head = lines.index("Beside the win rates, means over targets")
    assert lines[head + 3].split() == ["baseline", "100.0", "7.0", "100.0", "0.0"]
    assert lines[head + 5].split()[:5] == ["de", "50.0", "50.0", "100.0", "3.0"]
    assert lines[head + 5].split()[-1] == "≤0.64"


def test_markdown_of_five_optimizers_is_well_formed(reduced):
    text = markdown(reduced[1])
    for title in ("Optimizers", "Win rate minus best_of_n", "KL from SFT_t", "Win rate at equal length"):
        assert f"### {title}" in text
    assert text.index("## Panels compared") < text.index("## same_as_policy, best_of_n")
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert blocks and all(len({line.count("|") for line in block}) == 1 for block in blocks)


def test_judges_and_what_people_say_of_them(tmp_path):
    grid = SyntheticGrid(tmp_path)
    accuracy = {"group": list("abcd"), "correct": [1.0, 1.0, 1.0, 0.0], "inconsistent": [0.0, 0.0, 1.0, 0.0]}
    heldout = {"group": list("abcd"), "chosen": [1.0] * 4, "rejected": [0.0, 0.0, 0.0, 2.0]}
    heldout |= {"chosen_length": [1.0] * 4, "rejected_length": [2.0] * 4}
    for source, win in (("de", 0.75), ("en", 1.0)):
        own = source == "de"
        grid.cell(source, "de", [win, 0.0, win], heldout=heldout, judge="target_rm", own_judge=own)
        grid.cell(source, "de", [win, 1.0, None], heldout=heldout, judge="llm", accuracy=accuracy)
    text = shown(fold_grid(grid.write().store, grid.name), 100)
    assert "The judge on held-out human preferences, %" in text
    assert "Agreement between judges, %" in text and "llm ~ target_rm " in text
    assert "the judge is the target's own reward model: its accuracy is that of the cell at home" in " ".join(
        text.split()
    )
    (row,) = [line.split() for line in text.splitlines() if line.startswith("order decides")]
    assert row[2] == "25.0"


@pytest.mark.parametrize("own", [True, False])
def test_only_a_judge_that_is_the_cell_at_home_s_has_its_accuracy(tmp_path, own):
    """Under judge.half=true, judge.seed or judge/rm_backbone the judge is another reward model than the one at home."""
    grid = SyntheticGrid(tmp_path)
    heldout = {"group": list("abcd"), "chosen": [1.0] * 4, "rejected": [0.0, 0.0, 0.0, 2.0]}
    heldout |= {"chosen_length": [1.0] * 4, "rejected_length": [2.0] * 4}
    judge = "target_rm" if own else "target_rm(half)"
    for source, win in (("de", 0.75), ("en", 1.0)):
        at_home = own and source == "de"
        grid.cell(source, "de", [win, 0.0, win], heldout=heldout, judge=judge, own_judge=at_home)
    text = " ".join(shown(fold_grid(grid.write().store, grid.name), 100).split())
    assert "Reward model accuracy" in text
    assert ("its accuracy is that of the cell at home" in text) == own


# --- the figure -------------------------------------------------------------------------------------------


def test_the_figures_are_written_for_several_optimizers_alone(reduced, tmp_path):
    folder, matrix = reduced
    assert {"frontier.png", "frontier.csv", "learning.png"} <= {path.name for path in folder.iterdir()}
    rows = list(csv.DictReader(io.StringIO((folder / "frontier.csv").read_text())))
    points = matrix.frontiers[0].points
    assert [(row["optimizer"], row["k"]) for row in rows] == [(p.arm, str(p.k or "")) for p in points]
    for row, point in zip(rows, points, strict=True):
        assert float(row["kl"]) == pytest.approx(point.kl.value, abs=1e-4)
        assert float(row["quality_low"]) == pytest.approx(point.quality.low, abs=1e-4)
        assert (row["judge"], row["cells"], row["seeds"]) == ("gold", "9", "2")
    alone = SyntheticGrid(tmp_path)
    alone.cell("de", "de", [1.0, 0.5])
    reduce_grid(tmp_path, alone.write().name)
    assert not list((tmp_path / "grids/toy").glob("frontier*"))


def test_the_same_matrix_gives_the_same_figures(reduced):
    matrix = reduced[1]
    for name in ("frontier.png", "learning.png"):
        first = grid_png(name, matrix, "digest")
        assert grid_png(name, matrix, "digest") == first
        picture = Image.open(io.BytesIO(first))
        assert picture.info["Comment"] == "digest" and picture.width == 1500
    colours = {colour for _, colour in Image.open(io.BytesIO(first)).convert("RGB").getcolors(maxcolors=1 << 24)}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)} <= colours  # one an optimizer that trains


def test_settings_of_one_optimizer_are_drawn_without_quality_too(tmp_path):
    """A judge that scores nothing but wins: the left side shows win rates."""
    grid = SyntheticGrid(tmp_path)
    random = np.random.default_rng(0)
    for beta in (0.05, 0.2):
        columns = {"kl": random.gamma(2, 1 / beta, 10), "quality": [None] * 10}
        grid.cell("de", "de", random.random(10), optimizer="rloo", columns=columns, **{"optimizer.beta": beta})
    matrix = fold_grid(grid.write().store, grid.name)
    assert [point.quality for point in matrix.frontiers[0].points] == [None, None]
    assert grid_png("frontier.png", matrix, "0").startswith(b"\x89PNG")
