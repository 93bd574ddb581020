"""Adapters: only they are trained, and merged into the weights they say what they said beside them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import saved

from xling.config.policies import Lora
from xling.models.adapters import core, merged, trainable
from xling.models.load import load_policy


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    asked = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        return model.eval()(input_ids=ids, **asked).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["mt5", "qwen3", "gemma3"])
def test_merging_keeps_what_the_model_says(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    adapted, _ = trainable(saved(tmp_path, family), "lora", Lora(r=4, alpha=8), dropout=None)
    before = logits(adapted)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    beside, plain = logits(adapted), merged(load_policy(tmp_path)[0], adapted)
    assert (beside - before).abs().max() > 0.1
    torch.testing.assert_close(logits(plain), beside, rtol=1e-3, atol=1e-3)
    assert type(plain) is type(core(adapted)) and not any("lora" in name for name, _ in plain.named_parameters())
