"""The synthetic grids of tests/analysis serve here too; and one browser for all tests of pages."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser

sys.path.insert(0, str(Path(__file__).parent.parent / "analysis"))


@pytest.fixture(scope="session")
def five_panels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a grid of five optimizers with a hole; read only."""
    from pages import several

    return several(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="session")
def with_controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2x2 grid with controls, accuracies and curves; read only."""
    from pages import controlled

    return controlled(tmp_path_factory.mktemp("controlled"))


@pytest.fixture(scope="session")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """As if just started: wide, light, on a screen, nothing said."""
    shared_browser.media()
    shared_browser.size(1300, 900)
    shared_browser.open(Path("/dev/null"))
    shared_browser.events.clear()
    return shared_browser
