"""The sentence at the top says what the matrix has, and what it has not."""

from pathlib import Path

from synthetic import SyntheticGrid, five, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import Matrix
from xling.analysis.matrix.verdicts import headline


def folded(grid: SyntheticGrid) -> Matrix:
    return fold_grid(grid.write().store, grid.name)


def test_cells_abroad_and_home_are_counted(tmp_path: Path) -> None:
    matrix = folded(realistic(tmp_path, ("de", "en", "tr"), prompts=60, controls=False))
    panel = matrix.blocks[0].panels[0]
    above = sum(e.win is not None and e.win.above(50) for e in panel.entries if e.abroad)
    home = sum(e.best or e.tied for e in panel.entries if e.home)
    assert headline(matrix) == (
        f"Reward models trained in another language beat the baseline in {above} of 6 cells "
        "(whole interval above 50 %). "
        f"The target's own language is the best source, or tied with it, in {home} of 3 targets."
    )


def test_the_best_optimizer_is_named(tmp_path: Path) -> None:
    matrix = folded(five(tmp_path, seeds=(0,), prompts=30))
    text = headline(matrix)
    best = max(matrix.optimizers[0].arms, key=lambda arm: arm.mean.value if arm.mean else 0)
    assert best.mean is not None and best.versus is not None
    assert f"Of 5 optimizers {best.name} wins most, {best.mean.value:.1f} % on average, " in text
    assert f"{best.versus.estimate.value:+.1f} points over best_of_n" in text and "of 30 cells of 5 matrices" in text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", fails="reward")
    assert headline(folded(grid)) == "No cell is finished yet: 1 is planned."
    grid.cell("en", "en", [1.0, 1.0, 1.0, 0.5] * 5)
    assert headline(folded(grid)) == (
        "Reward models trained in the target's language beat the baseline in 1 of 1 cell (whole interval above 50 %). "
        "1 of 2 cells is not there."
    )


def test_references_alone_are_no_matrix(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    grid.untrained("en", "de", [1.0, 0.5], rm_backbone="random")
    assert headline(folded(grid)) == "No cell with a source language was asked for: only references."


def test_people_s_pairs_are_counted(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    right = {"group": [f"g{n}" for n in range(40)], "correct": [1.0] * 30 + [0.0] * 10}
    grid.cell("en", "de", [1.0, 0.5] * 20, pairs=right, rho=0.4)
    assert (
        "Reward models agree with people on pairs within a prompt more often than chance in 1 of 1 cell."
        in headline(folded(grid))
    )
