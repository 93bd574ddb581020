"""Which model folders are taken, and that a saved model comes back as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from xling.errors import DataError
from xling.models.load import load_policy, load_tokenizer, save_policy
from xling.models.sampling import greedy
from xling.models.text import prompt_ids

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_policy(folder, model, tokenizer)
    return folder


def test_weights_come_back_in_float32_and_ready_to_evaluate(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    save_policy(tmp_path, model, tokenizer)
    again, same = load_policy(tmp_path)
    assert not again.training and again.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert same.get_vocab() == tokenizer.get_vocab()


def test_tied_embeddings_and_shared_heads_are_read_as_generate_reads_them(
    tiny: tuple[Any, Any], tmp_path: Path
) -> None:
    config = Qwen2Config(vocab_size=600, num_key_value_heads=2, tie_word_embeddings=True, **SMALL)
    model, tokenizer = load_policy(saved(tmp_path, Qwen2ForCausalLM(config), tiny[1]))
    texts = ["In Peru gab es im Mai ein Erdbeben, 130 Häuser.", "Sel."]
    for ids, reply in zip(prompt_ids(tokenizer, texts), greedy(model, tokenizer, texts, 8), strict=True):
        whole = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=2,
            pad_token_id=0,
        )
        assert whole[0, len(ids) :].tolist() == reply


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_policy(tmp_path)


@pytest.mark.parametrize("role", ["pad", "eos"])
def test_a_tokenizer_without_pad_or_eos_is_refused(tiny: tuple[Any, Any], tmp_path: Path, role: str) -> None:
    from transformers import PreTrainedTokenizerFast

    kept = {name: f"<{name}>" for name in ("pad", "bos", "eos") if name != role}
    bare = PreTrainedTokenizerFast(
        tokenizer_object=tiny[1].backend_tokenizer, **{f"{name}_token": token for name, token in kept.items()}
    )
    bare.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=f"no {role} token"):
        load_tokenizer(tmp_path)
