"""The policies that optimizers are tested on: tiny random models of both architectures."""

from pathlib import Path

import pytest
from families import saved


@pytest.fixture(scope="session")
def mt5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder-decoder in Hugging Face format."""
    return saved(tmp_path_factory.mktemp("mt5"), "mt5")


@pytest.fixture(params=["decoder_only", "encoder_decoder"])
def sft(request: pytest.FixtureRequest, tiny_folder: Path, mt5_folder: Path) -> Path:
    """Each architecture in turn."""
    return tiny_folder if request.param == "decoder_only" else mt5_folder
