"""Every architecture that can be a policy is read and sampled as transformers itself reads it."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from families import FAMILIES, SHAPE, WINDOW, build, saved, tokenizer

from xling.errors import DataError
from xling.models import sampling
from xling.models.architecture import trunk_of
from xling.models.load import Loading, load_policy, load_trunk, save_policy, write_loading
from xling.models.sampling import Sampling, greedy, sample_chunk
from xling.models.text import Ids, decode_response, prompt_ids, response_ids

TEXTS = [
    "Ein Festival in Chile.",
    "In Peru gab es im Mai ein Erdbeben, 130 Häuser sind betroffen. Kurz gesagt:",
    "Sel.",
    "Lũ lụt ở Cuba vào tháng 6, 40 ngôi nhà bị hư hại, và còn nhiều điều khác nữa.",
]
STEPS = 12
Loaded = dict[str, tuple[Any, Any]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return {family: load_policy(saved(tmp_path_factory.mktemp(family), family)) for family in FAMILIES}


def encoded(model: Any, pieces: Any) -> list[Ids]:
    return prompt_ids(pieces, TEXTS, encoder=model.config.is_encoder_decoder)


def by_generate(model: Any, ids: Ids) -> Ids:
    given = {"attention_mask": torch.ones(1, len(ids)), "eos_token_id": 1, "pad_token_id": 0}
    whole = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=STEPS, **given)[0].tolist()
    reply: Ids = whole[1:] if model.config.is_encoder_decoder else whole[len(ids) :]
    return reply


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_generate_says(loaded: Loaded, family: str) -> None:
    model, pieces = loaded[family]
    ours = greedy(model, pieces, TEXTS, STEPS, chunk=3)
    assert ours == [by_generate(model, ids) for ids in encoded(model, pieces)]
    assert len({tuple(reply) for reply in ours}) == len(TEXTS), "the replies must depend on the prompts"


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_windows_are_shorter_than_the_prompts_and_matter(
    loaded: Loaded, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pieces = loaded[family]
    assert max(map(len, encoded(model, pieces))) > 3 * WINDOW
    right = greedy(model, pieces, TEXTS, STEPS)
    monkeypatch.setattr(sampling, "layer_windows", lambda config: {"full_attention": None})
    assert greedy(model, pieces, TEXTS, STEPS) != right


@pytest.mark.parametrize("family", ["mt5", "gemma3", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_samples_depend_on_the_prompt_and_its_stream_alone(tmp_path: Path, family: str, dtype: str) -> None:
    """Also with finished sequences taken out: eos is a token that is often said."""
    model, pieces = load_policy(saved(tmp_path, family), dtype)
    rows, names = encoded(model, pieces), ["a", "b", "c", "d"]
    how = Sampling(6, 3, "pool", 1.0, 0.95, STEPS)
    said = Counter(token for row in sample_chunk(model, pieces, names, rows, how) for ids in row for token in ids)
    ends = SimpleNamespace(eos_token_id=said.most_common(1)[0][0], pad_token_id=0)
    together = sample_chunk(model, ends, names, rows, how)
    assert together == sample_chunk(model, ends, names, rows, how)
    assert len({len(ids) for row in together for ids in row}) > 1
    if dtype == "float32":  # in bfloat16 the width of a batch decides roundings
        assert [sample_chunk(model, ends, [n], [r], how)[0] for n, r in zip(names, rows, strict=True)] == together


def test_an_encoder_decoder_reads_the_prompt_once_for_all_samples(loaded: Loaded, monkeypatch: Any) -> None:
    model, pieces = loaded["mt5"]
    seen: list[int] = []
    hook = model.get_encoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    cross = [block.layer[1].EncDecAttention.k for block in model.decoder.block]
    keys = [layer.register_forward_hook(lambda *_: seen.append(-1)) for layer in cross]
    sample_chunk(model, pieces, ["a", "b"], encoded(model, pieces)[:2], Sampling(5, 0, "pool", max_new_tokens=STEPS))
    for handle in (hook, *keys):
        handle.remove()
    assert seen == [2] + [-1] * len(cross)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_come_back_from_every_kind_of_tokenizer(loaded: Loaded, family: str) -> None:
    _, pieces = loaded[family]
    for text in ("Kurz: 12 Dörfer.", "one"):
        assert decode_response(pieces, response_ids(pieces, [text])[0]) == text


def test_a_prompt_for_an_encoder_ends_with_eos_and_has_a_limit(loaded: Loaded) -> None:
    _, pieces = loaded["mt5"]
    (whole,), (cut,) = prompt_ids(pieces, TEXTS[1:2], encoder=True), prompt_ids(pieces, TEXTS[1:2], 9, encoder=True)
    assert whole[-1] == pieces.eos_token_id and cut == whole[-9:]
    assert prompt_ids(loaded["qwen3"][1], [""]) == [[1]], "no bos: eos stands for an empty prompt"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trunk_is_the_same_without_the_head(loaded: Loaded, family: str, tmp_path: Path) -> None:
    trunk, model = load_trunk(saved(tmp_path, family)), loaded[family][0]
    theirs = dict(trunk.named_parameters())
    ours = dict(model.named_parameters() if family == "mt5" else trunk_of(model).named_parameters())
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_dtype_attention_and_dropout_are_as_asked_for(tmp_path: Path) -> None:
    write_loading(saved(tmp_path, "mt5"), Loading(dtype="bfloat16", attention="eager"))
    model, _ = load_policy(tmp_path, dropout=0.3)
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert attention.dropout == 0.3 and model.encoder.dropout.p == 0.3 and not model.training
    assert load_policy(tmp_path, dtype="float32")[0].dtype == torch.float32


# --- what is refused ------------------------------------------------------------------------------------------


def test_pickles_are_refused_with_a_way_out(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3")
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"pickle format \(pytorch_model\.bin\).*Use safetensors"):
        load_policy(tmp_path)


def test_adapters_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="adapters alone"):
        load_policy(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    write_loading(tmp_path, Loading(str(tmp_path / "gone")))
    with pytest.raises(DataError, match=r"gone is no longer there"):
        load_policy(tmp_path)


def test_a_pad_token_can_be_named_where_there_is_none(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3")
    bare = tokenizer("qwen3")
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"no pad token.*policy\.pad_token"):
        load_policy(tmp_path)
    write_loading(tmp_path, Loading(pad_token="</s>"))
    assert load_policy(tmp_path)[1].pad_token_id == 1


def test_code_of_another_repository_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3")
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModel": "else/where--m.Model"},', 1))
    write_loading(tmp_path, Loading(remote_code="some/model"))
    with pytest.raises(DataError, match=r"runs code of else/where, and policy\.remote_code=some/model"):
        load_policy(tmp_path)


def test_a_model_that_our_decoding_would_read_wrongly_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    """Gemma 2 caps its logits: forgetting that is what the check at loading is for."""
    monkeypatch.setattr(sampling, "logits_of", lambda model, hidden: model.get_output_embeddings()(hidden))
    model = hf.Gemma2ForCausalLM(hf.Gemma2Config(final_logit_softcapping=0.01, **SHAPE))
    save_policy(tmp_path, model, tokenizer("gemma2"))
    with pytest.raises(DataError, match="gives other logits"):
        load_policy(tmp_path)


def test_a_recurrent_model_is_refused(tmp_path: Path) -> None:
    config = hf.MambaConfig(vocab_size=SHAPE["vocab_size"], hidden_size=32, num_hidden_layers=1, state_size=4)
    save_policy(tmp_path, hf.MambaForCausalLM(config), tokenizer("qwen3"))
    with pytest.raises(DataError, match="MambaForCausalLM"):
        load_policy(tmp_path)


def test_random_weights_are_the_same_each_time() -> None:
    one, two = build("llama"), build("llama")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
