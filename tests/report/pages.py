"""report.html in tests: grids that are shown, and what a browser sees of them.

READY waits until the page is drawn; CELLS gives every cell of the shown heat map.
"""

from pathlib import Path
from typing import Any

import numpy as np
from browser import Browser
from synthetic import SyntheticGrid, five, realistic

from xling.grid.records import Failure
from xling.report.files import reduce_grid

READY = """new Promise((done) => { const look = () => document.documentElement.dataset.ready
    && document.querySelector('#matrix .explorer td, #costs td') ? done(true) : setTimeout(look, 20); look(); })"""
CELLS = """[...document.querySelectorAll('#matrix .explorer td[data-source]')].map((td) => ({...td.dataset,
    text: td.querySelector('.number')?.textContent ?? td.textContent,
    span: td.querySelector('.span')?.textContent ?? ''}))"""
HOSTILE_REASON = "ValueError: <img src=x onerror=\"document.title = 'pwned'\"></script> \x1b[31mred\x00 \u202egnorw"


def several(root: Path) -> Path:
    """Five optimizers in 3x3 cells; Vietnamese as a source is a hole with a hostile reason. The grid's folder."""
    grid = five(root, seeds=(0,), prompts=30)
    stages = grid.cell("vi", "de", fails="reward", optimizer="ppo")
    spoil(grid, stages["reward"])
    reduce_grid(root, grid.write().name)
    return root / "grids" / grid.name


def spoil(grid: SyntheticGrid, stage: Any) -> None:
    failure = Failure(stage.label, 1, HOSTILE_REASON, "", "", "2026-01-01T00:00:00+00:00", "here")
    grid.store.record_failure(stage.kind, stage.key, failure)


def controlled(root: Path) -> Path:
    """2x2 cells with all controls, accuracies and curves."""
    grid = realistic(root, ("de", "en"), prompts=30)
    reduce_grid(root, grid.write().name)
    return root / "grids" / grid.name


def narrow(root: Path, *places: tuple[str, str]) -> Path:
    """A grid of these few cells."""
    grid = SyntheticGrid(root)
    for source, target in places:
        wins = np.random.default_rng(len(source + target)).random(20).round(1)
        grid.cell(source, target, wins, prompts=[f"{target}{n}" for n in range(20)])
    reduce_grid(root, grid.write().name)
    return root / "grids" / grid.name


def opened(browser: Browser, folder: Path) -> Browser:
    browser.open(folder / "report.html")
    browser.run(READY)
    return browser
