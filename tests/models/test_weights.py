"""Checkpoints that are not whole are refused by name: while planning, in the base stage, and at every door."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import processors

from xling.config.policies import LanguageModel
from xling.errors import ConfigError, DataError
from xling.grid.stage import Context
from xling.models import encoder as sentence_encoder
from xling.models import load
from xling.models.checkpoints import check_lengths, check_policy
from xling.models.load import Loading, save_policy, write_loading
from xling.planning import KINDS
from xling.planning.specs import base
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.encoder import Settings as Encoder
from xling.rewards.same_as_policy import Settings as SameAsPolicy

Names = dict[str, torch.Tensor]
SIDES = {"max_prompt_tokens": 64, "max_response_tokens": 32}
MADE: dict[str, Callable[[Path], Path]] = {
    "llama": lambda folder: families.saved(folder, "llama"),
    "qwen2": lambda folder: families.saved(folder, "qwen2"),
    "mt5": lambda folder: families.saved(folder, "mt5"),
    "rm": lambda folder: families.saved_classifier(folder, "llama"),
    "xlm_rm": lambda folder: families.saved_classifier(folder, "xlm_roberta"),
    "deberta_rm": lambda folder: families.saved_classifier(folder, "deberta_v2"),
    "xlm": lambda folder: families.saved_encoder(folder, "xlm_roberta"),
    "bert": lambda folder: families.saved_encoder(folder, "bert"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = MADE[name](tmp_path_factory.mktemp(name) / "model")
        return made[name]

    return of


@pytest.fixture
def copy(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A model that a test may spoil."""
    return lambda name: Path(shutil.copytree(whole(name), tmp_path / name))


def rewritten(folder: Path, change: Callable[[Names], Names], **config: Any) -> Path:
    """The folder with other weights, and with some settings of config.json set."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    return folder


def prefixed(prefix: str) -> Callable[[Names], Names]:
    return lambda names: {prefix + name: value for name, value in names.items()}


def without(*parts: str) -> Callable[[Names], Names]:
    return lambda names: {name: value for name, value in names.items() if not any(part in name for part in parts)}


def renamed(old: str, new: str) -> Callable[[Names], Names]:
    return lambda names: {name.replace(old, new): value for name, value in names.items()}


def planned(folder: Path, use: str) -> None:
    """What planning looks at; ConfigError."""
    if use == "policy":
        check_policy(LanguageModel(str(folder)))
    elif use == "reward":
        families.check_reward(SameAsPolicy(init=str(folder), **SIDES))
    elif use == "classifier":
        families.check_reward(Classifier(str(folder), **SIDES))
    elif use == "encoder":
        families.check_reward(Encoder(str(folder), **SIDES))
    elif use == "sentence_encoder":
        sentence_encoder.check_encoder(str(folder))
    else:
        families.check_translator(folder)


def based(folder: Path, use: str, out: Path) -> None:
    """The base stage of a checkpoint; DataError."""
    base.cache_clear()
    read_as = use if use in ("encoder", "classifier", "translator") else "policy"
    spec = base(LanguageModel(str(folder)), "rm_backbone.checkpoint", read_as).spec
    out.mkdir()
    KINDS["base"].run(Context(json.loads(json.dumps(spec)), {}, out, out))


# --- what is refused ----------------------------------------------------------------------------------------

LACKING: dict[str, tuple[str, str, Callable[[Names], Names], dict[str, Any], str]] = {
    "a plain language model as classifier": ("llama", "classifier", dict, {"num_labels": 1}, r"score\.weight"),
    "a head of another name": (
        "rm",
        "classifier",
        renamed("score.weight", "value_head.weight"),
        {},
        r"score\.weight.*value_head\.weight",
    ),
    "a trained encoder without its head": ("xlm", "classifier", dict, {"num_labels": 1}, "score|classifier"),
    "module. of DeepSpeed": ("rm", "classifier", prefixed("module."), {}, r"'module\.'"),
    "torch.compile's": ("llama", "policy", prefixed("_orig_mod."), {}, r"'_orig_mod\.'"),
    "peft's": ("llama", "policy", prefixed("base_model.model."), {}, r"'base_model\.model\.'"),
    "FSDP's": ("llama", "reward", prefixed("_fsdp_wrapped_module."), {}, r"'_fsdp_wrapped_module\.'"),
    "an encoder's under a prefix": ("xlm", "encoder", prefixed("module."), {}, r"'module\.'"),
    "a sentence encoder's under a prefix": ("bert", "sentence_encoder", prefixed("module."), {}, r"'module\.'"),
    "a trunk as policy": ("llama", "policy", without("lm_head"), {}, r"lm_head\.weight"),
    "a reward model as policy": ("rm", "policy", dict, {}, r"lm_head\.weight.*score\.weight"),
    "an encoder half as policy": ("mt5", "policy", without("decoder."), {}, r"decoder\.\*"),
    "an encoder half as translator": ("mt5", "translator", without("decoder."), {}, r"decoder\.\*"),
    "a layer of the policy": ("llama", "policy", without("layers.2."), {}, r"layers\.2\.\*"),
    "one weight of a layer": (
        "llama",
        "policy",
        without("layers.2.mlp.up_proj"),
        {},
        r"layers\.2\.mlp\.up_proj\.weight",
    ),
    "weights of a layer of a reward model": (
        "llama",
        "reward",
        without("layers.1.self_attn"),
        {},
        r"layers\.1\.self_attn",
    ),
    "layers of an encoder": ("xlm", "encoder", without("layer.1."), {}, r"layers\.1\.\*"),
    "an encoder as policy": ("xlm", "policy", dict, {}, "reads texts in both directions: it is an encoder"),
    "an encoder of a kind that is not known here": (
        "llama",
        "policy",
        dict,
        {"architectures": ["LlamaForMaskedLM"]},
        "LlamaForMaskedLM reads texts in both directions",
    ),
    "adapters inside": (
        "llama",
        "policy",
        lambda names: names | {"model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(4, 32)},
        {},
        "lora_A",
    ),
    "a head for other labels": (
        "rm",
        "classifier",
        dict,
        {"num_labels": 2, "id2label": {"0": "a", "1": "b"}},
        "gives 1",
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_weights_that_are_missing_are_named_while_planning(copy: Callable[[str], Path], case: str) -> None:
    name, use, change, config, sentence = LACKING[case]
    with pytest.raises(ConfigError, match=sentence):
        planned(rewritten(copy(name), change, **config), use)


UNFIT: dict[str, tuple[str, str, Callable[[Names], Names], dict[str, Any], str]] = {
    "one weight of the first layer": (
        "llama",
        "policy",
        without("layers.0.input_layernorm"),
        {},
        r"layers\.0\.input_layernorm",
    ),
    "half of a head": ("xlm_rm", "classifier", without("classifier.dense"), {}, r"classifier\.dense\.weight"),
    "a classifier's pooler": ("deberta_rm", "classifier", without("pooler"), {}, r"pooler\.dense\.weight"),
    "one weight of an encoder": (
        "xlm",
        "encoder",
        without("layer.1.output.dense.weight"),
        {},
        r"output\.dense\.weight",
    ),
    "one weight of a translator": (
        "mt5",
        "translator",
        without("block.1.layer.0.SelfAttention.q"),
        {},
        r"SelfAttention\.q",
    ),
    "other sizes": (
        "llama",
        "policy",
        dict,
        {"intermediate_size": 48},
        r"other shapes.*\(64, 32\) instead of \(48, 32\)",
    ),
    "more layers than its config says": ("llama", "policy", dict, {"num_hidden_layers": 3}, r"leave out.*layers\.3\."),
    "biases that its config does not say": (
        "qwen2",
        "policy",
        lambda names: {k: v.clone() for k, v in names.items()} | {"lm_head.weight": torch.zeros(700, 32)},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False},
        r"leave out.*k_proj\.bias",
    ),
    "a bias of the head": (
        "rm",
        "classifier",
        lambda names: names | {"score.bias": torch.zeros(1)},
        {},
        r"leave out.*score\.bias",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_only_the_models_code_can_tell_is_refused_in_the_base_stage_and_on_loading(
    copy: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    name, use, change, config, sentence = UNFIT[case]
    folder = rewritten(copy(name), change, **config)
    with pytest.raises(DataError, match=sentence):
        based(folder, use, tmp_path / "base")
    with pytest.raises(DataError, match=sentence):
        opened(folder, use)


def opened(folder: Path, use: str) -> Any:
    """By the door that a stage would take."""
    doors: dict[str, Callable[[Path], Any]] = {
        "policy": load.load_policy,
        "reward": load.load_trunk,
        "encoder": load.load_trunk,
        "classifier": load.load_classifier,
        "translator": load.load_translator,
        "sentence_encoder": load.load_encoder,
    }
    return doors[use](folder)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("llama", "policy"),
        ("llama", "reward"),
        ("rm", "classifier"),
        ("xlm", "encoder"),
        ("mt5", "translator"),
        ("bert", "sentence_encoder"),
    ],
)
def test_no_door_gives_random_weights(copy: Callable[[str], Path], name: str, use: str) -> None:
    """Whatever planning saw: each door compares what it read with what the model needs."""
    lost = {"mt5": "encoder.block.0.layer.1", "xlm": "encoder.layer.0.output", "bert": "layer.0.output"}
    folder = rewritten(copy(name), without(lost.get(name, "layers.0.mlp")))
    with pytest.raises(DataError, match="lacks weights that would be read"):
        opened(folder, use)


def test_four_bits_are_refused_as_whole_weights_are(copy: Callable[[str], Path]) -> None:
    """By names alone, before bitsandbytes is asked for anything."""
    with pytest.raises(DataError, match=r"layers\.0\.mlp"):
        load.load_policy(rewritten(copy("llama"), without("layers.0.mlp.up_proj")), quantized=True)


# --- what is taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.FAMILIES)
def test_whole_policies_are_taken(tmp_path: Path, family: str) -> None:
    """Tied heads and an encoder-decoder's shared embeddings stand in no file of their own."""
    folder = families.saved(tmp_path / "model", family)
    planned(folder, "policy")
    based(folder, "policy", tmp_path / "base")
    assert load.load_policy(folder)[0] is not None


@pytest.mark.parametrize("family", families.ENCODERS)
def test_an_encoder_may_lack_its_pooler_alone(tmp_path: Path, family: str) -> None:
    folder = rewritten(families.saved_encoder(tmp_path / "model", family), without("pooler"))
    for use in ("encoder", "sentence_encoder"):
        planned(folder, use)
        opened(folder, use)
    based(folder, "encoder", tmp_path / "base")


@pytest.mark.parametrize("family", families.CLASSIFIERS)
def test_whole_classifiers_are_taken(tmp_path: Path, family: str) -> None:
    folder = families.saved_classifier(tmp_path / "model", family)
    planned(folder, "classifier")
    based(folder, "classifier", tmp_path / "base")
    opened(folder, "classifier")


def test_what_no_one_reads_may_be_missing_or_be_there(copy: Callable[[str], Path], tmp_path: Path) -> None:
    trunk = rewritten(copy("llama"), lambda names: without("lm_head")(names) | buffers())
    planned(trunk, "reward")
    based(trunk, "policy", tmp_path / "base")
    opened(trunk, "reward")
    published = copy("rm")  # a reward model to start another from
    planned(published, "reward")
    opened(published, "reward")
    half = rewritten(copy("mt5"), without("decoder.", "lm_head"))
    planned(half, "sentence_encoder")
    assert sentence_encoder.load_encoder(str(half))(["ein Haus"]).shape == (1, 32)


def buffers() -> Names:
    """What older checkpoints have of rotary positions."""
    return {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(4)}


# --- files --------------------------------------------------------------------------------------------------


def pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n")


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def shard_lost(folder: Path) -> None:
    model = hf.LlamaForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def twice(folder: Path) -> None:
    """Shards saved over a folder that had one file."""
    hf.LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder / "new", max_shard_size="60KB")
    for path in (folder / "new").glob("model*"):
        path.rename(folder / path.name)


def renamed_file(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def index_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "git-lfs pointer": (lambda f: pointer(f / "model.safetensors"), "git-lfs's pointer.*git lfs pull"),
    "git-lfs pointer of a tokenizer": (lambda f: pointer(f / "tokenizer.json"), "git-lfs's pointer.*git lfs pull"),
    "truncated": (truncated, "is damaged: it has .* bytes instead of"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged: it is no file of safetensors"),
    "noise": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99),
        "is damaged: it is no file of safetensors",
    ),
    "a shard lost": (shard_lost, "not whole: model-00002-of-.* is not there"),
    "two sets of weights": (twice, "has weights twice: in model.safetensors, which would be read"),
    "an index that leads outside": (index_outside, "names weights outside of its folder"),
    "an index that is none": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors.index.json").write_text("[]")),
        "is no index of safetensors",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no .safetensors file"),
    "another format": (renamed_file("consolidated.safetensors"), "consolidated.safetensors is neither"),
    "a distributed checkpoint": (renamed_file("shard-00001-model-00001-of-00001.safetensors"), "is neither"),
    "adapters beside": (
        lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "some/other"}'),
        "adapters .* beside a model .* take adapter_config.json away",
    ),
    "a config that is none": (lambda f: (f / "config.json").write_text('{"a":'), "config.json is no JSON"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_files_that_are_not_whole_are_refused_while_planning_and_on_loading(
    copy: Callable[[str], Path], case: str
) -> None:
    spoil, sentence = SPOILT[case]
    folder = copy("llama")
    spoil(folder)
    with pytest.raises(ConfigError, match=sentence):
        planned(folder, "policy")
    with pytest.raises(ConfigError, match=sentence):
        planned(folder, "sentence_encoder")
    with pytest.raises(DataError, match=sentence):
        load.load_policy(folder)


@pytest.mark.parametrize(
    ("name", "use"), [("llama", "policy"), ("mt5", "reward"), ("xlm", "encoder"), ("xlm", "sentence_encoder")]
)
def test_a_model_without_a_tokenizer_is_refused_while_planning_and_on_loading(
    copy: Callable[[str], Path], name: str, use: str
) -> None:
    folder = copy(name)
    for path in [*folder.glob("*token*"), *folder.glob("*.model")]:
        path.unlink()
    with pytest.raises(ConfigError, match=rf"={folder}: .* has no tokenizer, .*save_pretrained\("):
        planned(folder, use)
    with pytest.raises(DataError, match="has no tokenizer"):  # all words would be unknown to an empty one
        load.load_tokenizer(folder, ("pad",))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("README.md", r"config\.json is missing"),
        ("adapter_config.json", "adapters alone"),
        ("pytorch_model.bin", r"pickle format \(pytorch_model\.bin\).*Use safetensors"),
    ],
)
def test_a_folder_without_weights_that_are_read_says_what_it_has(
    copy: Callable[[str], Path], tmp_path: Path, name: str, sentence: str
) -> None:
    folder = copy("qwen2") if name.endswith("bin") else tmp_path
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(DataError, match=sentence):
        load.load_policy(folder)


# --- tokens and positions -----------------------------------------------------------------------------------


def longer(special: dict[str, str], *words: str) -> Any:
    """Llama's tokenizer, filled up to the model's embeddings, with more tokens past them."""
    tokenizer = families.tokenizer("llama")
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(families.VOCABULARY - len(tokenizer))])
    tokenizer.add_special_tokens(special)
    if bos := special.get("bos_token"):  # one that the tokenizer puts; a bos that it names alone is never read
        first = {"special_tokens": [(bos, tokenizer.bos_token_id)], "single": f"{bos} $A", "pair": f"{bos} $A $B"}
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(**first)
    tokenizer.add_tokens(list(words))
    return tokenizer


@pytest.mark.parametrize(
    ("special", "words", "sentence"),
    [
        ({"pad_token": "[PAD]"}, (), r"pad token '\[PAD\]'.*has the id 700.*700 embeddings"),
        ({"bos_token": "<begin>"}, (), r"bos token '<begin>'.*has the id 700"),
        ({}, (" der", " die"), r"2 tokens past the model's 700 embeddings: ' der' \(700\), ' die' \(701\)"),
    ],
)
def test_tokens_past_the_embeddings_are_refused(
    tmp_path: Path, special: dict[str, str], words: tuple[str, ...], sentence: str
) -> None:
    tokenizer = longer(special, *words)
    policy, rm = tmp_path / "policy", tmp_path / "rm"
    save_policy(policy, families.build("llama"), tokenizer)
    save_policy(rm, families.CLASSIFIERS["llama"](1), tokenizer)
    for folder, use in ((policy, "policy"), (rm, "classifier")):
        with pytest.raises(ConfigError, match=sentence):
            planned(folder, use)
    with pytest.raises(DataError, match=sentence):
        load.load_policy(policy)
    with pytest.raises(DataError, match=sentence):
        based(rm, "classifier", tmp_path / "base")


def test_a_pad_token_that_the_tokenizer_would_add_is_past_the_embeddings(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    save_policy(folder, families.build("llama"), longer({}))
    named = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"pad_token": "[PAD]"}))
    with pytest.raises(ConfigError, match=r"pad token '\[PAD\]'.*has the id 700"):
        planned(folder, "policy")


def test_special_tokens_that_no_text_uses_may_lie_past_the_embeddings(tmp_path: Path) -> None:
    """As Gemma 3's for images."""
    save_policy(tmp_path, families.build("llama"), longer({"additional_special_tokens": ["<image_soft_token>"]}))
    planned(tmp_path, "policy")
    assert load.load_policy(tmp_path)[0] is not None


@pytest.mark.parametrize("where", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_templates_tokens_past_the_embeddings_are_refused(tmp_path: Path, where: str) -> None:
    """As where ChatML's were added to a base model whose embeddings nobody resized."""
    tokenizer = longer({"additional_special_tokens": ["<|im_start|>"]})
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
    save_policy(tmp_path, families.build("llama"), tokenizer)
    if where.endswith("jinja"):
        (tmp_path / where).write_text(template)
    else:
        settings = json.loads((tmp_path / where).read_text())
        (tmp_path / where).write_text(json.dumps(settings | {"chat_template": template}))
    sentence = r"'<\|im_start\|>' \(700\)"
    with pytest.raises(ConfigError, match=sentence):
        planned(tmp_path, "policy")
    with pytest.raises(DataError, match=sentence):
        load.load_policy(tmp_path)


def test_a_config_with_more_tokens_than_embeddings_is_refused(copy: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="says vocab_size 800, and its weights have 700 embeddings"):
        planned(rewritten(copy("llama"), dict, vocab_size=800), "policy")


def gpt2(folder: Path, **config: Any) -> Path:
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": families.VOCABULARY}
    save_policy(
        folder, hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=128, **shape, **config)), families.tokenizer("qwen3")
    )
    return folder


def test_more_tokens_than_positions_are_refused_with_the_limits_that_fit(tmp_path: Path) -> None:
    policy = LanguageModel(str(gpt2(tmp_path)), max_prompt_tokens=120, max_new_tokens=16)
    rm = SameAsPolicy(max_prompt_tokens=64, max_response_tokens=32)
    planned(tmp_path, "policy")
    with pytest.raises(ConfigError, match=r"gpt2 with 128 positions.*Set policy\.max_prompt_tokens=112\."):
        check_lengths(policy, (120, 16), "policy")
    fitting = LanguageModel(str(tmp_path), max_prompt_tokens=112, max_new_tokens=16)
    check_lengths(fitting, (112, 16), "policy")
    families.check_reward(rm, fitting)
    with pytest.raises(ConfigError, match=r"Set rm_backbone\.max_prompt_tokens=96\."):
        families.check_reward(SameAsPolicy(max_prompt_tokens=100, max_response_tokens=32), fitting)
    with pytest.raises(
        ConfigError, match=r"Set rm_backbone\.max_prompt_tokens=96 rm_backbone\.max_response_tokens=32\."
    ):
        families.check_reward(SameAsPolicy(), fitting)  # the paper's limits


def test_an_encoder_decoder_has_its_positions_for_each_side(tmp_path: Path) -> None:
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config = hf.BartConfig(
        vocab_size=700, max_position_embeddings=64, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        **shape,
    )  # fmt: skip
    save_policy(tmp_path, hf.BartForConditionalGeneration(config), families.tokenizer("mt5"))
    check_lengths(LanguageModel(str(tmp_path)), (64, 64), "policy")
    with pytest.raises(ConfigError, match=r"bart with 64 positions.*Set policy\.max_prompt_tokens=64\."):
        check_lengths(LanguageModel(str(tmp_path)), (65, 64), "policy")


def test_a_classifier_has_room_for_its_separators(whole: Callable[[str], Path]) -> None:
    folder = str(whole("xlm_rm"))
    with pytest.raises(ConfigError, match=r"xlm-roberta with 512 positions.*Set rm_backbone\.max_prompt_tokens=380\."):
        families.check_reward(Classifier(folder, max_prompt_tokens=400, max_response_tokens=128))
    families.check_reward(Classifier(folder, max_prompt_tokens=380, max_response_tokens=128))


def test_a_sentence_encoder_with_few_positions_cuts_texts_to_them(tmp_path: Path) -> None:
    config = hf.BertConfig(**(families.ENCODER | {"max_position_embeddings": 40}))
    families.shaken(hf.BertModel(config)).save_pretrained(tmp_path)
    families.tokenizer("bert").save_pretrained(tmp_path)
    long, short = "ein Haus " * 60, "ein Haus"
    rows = sentence_encoder.load_encoder(str(tmp_path))([long, short])
    assert rows.shape == (2, 32) and abs(rows[0] - rows[1]).max() > 1e-3
    assert sentence_encoder.cut_counter(str(tmp_path))([long], [short]) == {"cut_prompts": 1, "cut_responses": 0}


def test_a_sentence_encoder_whose_weights_are_no_numbers_is_refused(copy: Callable[[str], Path]) -> None:
    def broken(names: Names) -> Names:
        return {
            name: torch.full_like(value, torch.nan) if "layer.1" in name else value for name, value in names.items()
        }

    encode = sentence_encoder.load_encoder(str(rewritten(copy("bert"), broken)))
    with pytest.raises(DataError, match="gives vectors that are no numbers"):
        encode(["ein Haus"])


def test_planning_reads_headers_without_torch(whole: Callable[[str], Path]) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from xling.rewards import classifier; classifier.check(classifier.Settings(sys.argv[1], "
        "max_prompt_tokens=64, max_response_tokens=32), None); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(whole("rm"))], check=True)


def test_loading_is_written_without_the_commit_that_is_found_when_it_is_read(tmp_path: Path) -> None:
    write_loading(tmp_path, Loading(commit="0" * 40))
    assert "commit" not in json.loads((tmp_path / "load.json").read_text())
