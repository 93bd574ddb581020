"""How many parameters a token passes: against counted ones, and against what the models' names say."""

from pathlib import Path
from typing import Any

import pytest

from xling.models.checkpoints import KNOWN, Parameters, parameters_of


def test_a_model_that_can_be_counted(tiny: tuple[Any, Any], tiny_folder: Path) -> None:
    model, _ = tiny
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    found = parameters_of(str(tiny_folder), None)
    assert found is not None
    assert found.prompt == found.response == sum(n for name, n in matrices.items() if "lm_head" not in name)
    assert found.head == model.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(
    ("checkpoint", "billions"),
    [("google/mt5-xl", 3.74), ("google/mt5-small", 0.30), ("google/madlad400-3b-mt", 2.9), ("Qwen/Qwen3-8B-Base", 7.57),
     ("facebook/nllb-200-3.3B", 3.3), ("facebook/nllb-200-distilled-600M", 0.61),
     ("microsoft/Phi-4-mini-instruct", 3.8),
     ("HuggingFaceTB/SmolLM3-3B-Base", 3.1), ("utter-project/EuroLLM-1.7B", 1.4)],
)  # fmt: skip
def test_models_of_the_table_are_as_large_as_they_are_said_to_be(checkpoint: str, billions: float) -> None:
    """Embeddings once: mT5 and MADLAD have them and a head, the others a head that is the embeddings, or as large."""
    found = parameters_of(checkpoint, None)
    assert found is not None
    encoder = found.prompt if KNOWN[checkpoint].get("is_encoder_decoder") else 0
    own = found.head if "d_kv" in KNOWN[checkpoint] else 0
    assert (encoder + found.response + found.head + own) / 1e9 == pytest.approx(billions, rel=0.04)


def test_operations_of_a_pass() -> None:
    model = Parameters(prompt=100, response=200, head=50)
    assert model.forward(10, 3) == 2 * (100 * 10 + 250 * 3)
    assert model.forward(10, 3, head=False) == 2 * (100 * 10 + 200 * 3)


def test_what_nothing_is_known_of(tmp_path: Path) -> None:
    assert parameters_of(str(tmp_path), None) is None
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8}')
    assert parameters_of(str(tmp_path), None) is None
