"""Two finished grids for all tests of the sheets."""

from pathlib import Path

import pytest
from grids import recorded_grid, run
from small_grid import experiment

from xling.grid.store import Store
from xling.rewards.bag_of_words import Settings as BagOfWords


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Recorded responses in Arabic and English, 2x2 cells; read only."""
    return recorded_grid(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Store:
    """A tiny policy's samples: from English and Turkish into Turkish, two judges; read only."""
    asked = [
        experiment(tiny_folder, source, rm=BagOfWords(), judge=judge)
        for source in ("en", "tr")
        for judge in ("gold", "target_rm")
    ]
    return run(tmp_path_factory.mktemp("sampled"), asked)
