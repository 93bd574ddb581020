"""Fixtures for all tests: the composed configuration, and a language model: a real one, tiny, with random weights."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before anything imports torch: two threads on busy cores were 5 to 200 times slower than one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture
def hangups() -> Iterator[None]:
    """What the test starts minds a SIGHUP, also where the tests run under nohup or without a terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    """Hydra's loader of conf/."""
    from xling.compose.composer import hydra_loader

    with hydra_loader() as loader:
        yield loader


@pytest.fixture(scope="module")
def composer(loader: Any) -> Any:
    """What composes single cells."""
    from xling.compose.composer import Composer

    return Composer(loader, "config")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LM of two layers and a tokenizer of some 600 pieces, in Hugging Face format.

    A fresh micro base has matrices that start at zero: they are drawn at random.
    """
    import torch

    from xling.models.hub import Recipe
    from xling.models.load import save_policy
    from xling.models.pretrain import build_model, train_tokenizer
    from xling.tasks.micro.writing import pretraining_texts

    recipe = Recipe(vocab_size=600, hidden_size=32, intermediate_size=64, layers=2, heads=2)
    tokenizer = train_tokenizer(pretraining_texts(0, 300), recipe.vocab_size)
    model = build_model(recipe, len(tokenizer))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("tiny")
    save_policy(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of `tiny_folder`; not to be trained."""
    from xling.models.load import load_policy

    return load_policy(tiny_folder)
