"""Every architecture that can be a policy is read and sampled as transformers itself reads it."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from families import FAMILIES, SHAPE, WINDOW, build, saved, tokenizer, without

from xling.config.policies import Lora
from xling.errors import DataError
from xling.models import sampling
from xling.models.architecture import trunk_of
from xling.models.load import Loading, load_policy, load_trunk, save_policy, write_loading
from xling.models.sampling import Sampling, greedy, sample_chunk
from xling.models.text import Ids, decode_response, prompt_ids, response_ids
from xling.models.training import core, merged, trainable

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
def test_weights_come_back_as_they_were_and_a_trunks_are_the_same(loaded: Loaded, family: str, tmp_path: Path) -> None:
    trunk, model = load_trunk(saved(tmp_path, family)), loaded[family][0]
    assert not model.training and model.dtype == torch.float32
    made = zip(model.parameters(), build(family).parameters(), strict=True)  # random weights are the same each time
    assert all(torch.equal(a, b) for a, b in made) and loaded[family][1].get_vocab() == tokenizer(family).get_vocab()
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


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    write_loading(tmp_path, Loading(str(tmp_path / "gone")))
    with pytest.raises(DataError, match=r"gone is no longer there"):
        load_policy(tmp_path)


@pytest.mark.parametrize("role", ["pad", "eos"])
def test_a_tokenizer_without_pad_or_eos_is_refused_until_a_piece_to_pad_with_is_named(
    tmp_path: Path, role: str
) -> None:
    folder = without(role, saved(tmp_path / "whole", "qwen3"), tmp_path / "bare")
    with pytest.raises(DataError, match=f"no {role} token" + (r".*policy\.pad_token" if role == "pad" else "")):
        load_policy(folder)
    if role == "pad":
        write_loading(folder, Loading(pad_token="</s>"))
        assert load_policy(folder)[1].pad_token_id == 1


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


# --- adapters -----------------------------------------------------------------------------------------------


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    asked = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        return model.eval()(input_ids=ids, **asked).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["mt5", "qwen3", "gemma3"])
def test_only_adapters_are_trained_and_merging_keeps_what_the_model_says(tmp_path: Path, family: str) -> None:
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
