"""GGUF files: refused while planning with the command that converts them, and converted to what they were made from."""

import json
import re
from pathlib import Path

import families
import pytest
import torch

from xling.cli import main
from xling.config.policies import LanguageModel
from xling.errors import ConfigError, DataError
from xling.models.checkpoints import check_policy
from xling.models.encoder import check_encoder
from xling.models.gguf import convert
from xling.models.load import load_policy
from xling.models.weights import check_files
from xling.planning.specs import base

gguf = pytest.importorskip("gguf")
BITS = gguf.GGMLQuantizationType.Q8_0


def written(file: Path, folder: Path, leave_out: str = "") -> Path:
    """The model and tokenizer of a folder (Qwen 2) as llama.cpp's converter writes them, matrices in 8 bits."""
    model, tokenizer = load_policy(folder)
    config, writer = model.config, gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    spare = [f"[PAD{i}]" for i in range(len(vocabulary), config.vocab_size)]
    writer.add_token_list([*sorted(vocabulary, key=vocabulary.__getitem__), *spare])
    writer.add_token_merges([" ".join(pair) for pair in merges_of(tokenizer)])
    writer.add_token_types(
        [3] * 4 + [1] * (len(vocabulary) - 4) + [5] * len(spare)
    )  # control tokens, words, spare ones
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        short = names.get_name(name, (".weight", ".bias"))
        if short in (leave_out, "output.weight"):  # tied to the embeddings
            continue
        if weight.ndim == 1:
            writer.add_tensor(short, weight.numpy())
            continue
        writer.add_tensor(short, gguf.quants.quantize(weight.numpy(), BITS), raw_dtype=BITS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def merges_of(tokenizer: families.Any) -> list[list[str]]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [one.split(" ") if isinstance(one, str) else one for one in merges]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.saved(tmp_path_factory.mktemp("gguf") / "original", "qwen2")


@pytest.fixture(scope="module")
def file(original: Path) -> Path:
    return written(original.parent / "tiny-q8_0.gguf", original)


def test_a_converted_file_is_the_model_it_was_made_from(
    original: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "converted"
    assert main(["convert", str(file), str(folder)]) == 0
    assert f"policy.checkpoint={folder}" in capsys.readouterr().out
    check_policy(LanguageModel(str(folder)))
    (theirs, tokens), (ours, read) = load_policy(original), load_policy(folder)
    assert not hasattr(ours.config, "quantization_config")
    assert (folder / "model.safetensors").stat().st_mode & 0o044 or not (folder.stat().st_mode & 0o044)
    ids = tokens("der Hund schläft im Garten", return_tensors="pt").input_ids
    assert read("der Hund schläft im Garten", return_tensors="pt").input_ids.equal(ids)
    with torch.no_grad():
        for weight in (weight for weight in theirs.parameters() if weight.ndim > 1):
            weight.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), BITS), BITS)))
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_it_is_refused_while_planning_with_what_to_type(file: Path, tmp_path: Path) -> None:
    folder = file.parent / "only"
    folder.mkdir()
    there = folder / file.name
    there.hardlink_to(file)
    command = re.escape(f"Type `xling convert {there} FOLDER`")
    for checkpoint in (there, folder):
        with pytest.raises(ConfigError, match=command):
            base(LanguageModel(str(checkpoint)))
        with pytest.raises(ConfigError, match=command):
            check_encoder(str(checkpoint))
    (folder / "config.json").write_text("{}")
    with pytest.raises(DataError, match=command):
        check_files(folder)


def test_what_cannot_be_converted_is_named(original: Path, file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:5000])
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\3\4")
    lacking = written(tmp_path / "lacking.gguf", original, "blk.1.ffn_up.weight")
    for made_of, words in {
        cut: "cannot be converted",
        other: "is no GGUF file",
        lacking: "lacks weights of Qwen2ForCausalLM: model.layers.1.mlp.up_proj.weight",
        tmp_path / "none.gguf": "is no file",
    }.items():
        with pytest.raises(DataError, match=words):
            convert(made_of, tmp_path / "made")
        assert not (tmp_path / "made").exists()
    with pytest.raises(DataError, match="is there already"):
        convert(file, original)
    with pytest.raises(DataError, match="--dtype float8 is none of"):
        convert(file, tmp_path / "made", "float8")
