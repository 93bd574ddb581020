"""The comparison with a model's own forward pass: when it is made, what it refuses, and what it says."""

import json
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers as hf
from architectures import checkpoint
from families import FAMILIES, SHAPE, build, check_reward, saved, tokenizer

from xling.config.policies import LanguageModel
from xling.errors import ConfigError, DataError
from xling.models import own_forward
from xling.models.checkpoints import alike_up_to, check_lengths, check_policy, check_table, positions
from xling.models.load import (
    Loading,
    check_base,
    check_twin,
    in_dtype,
    load_policy,
    load_trunk,
    save_policy,
    write_loading,
)
from xling.models.own_forward import distance, own_logits, probe_of, smaller
from xling.models.published import load_published_classifier
from xling.models.sampling import greedy_ids
from xling.models.states import kl_along, log_likelihood, predicting_states, responses_of
from xling.models.text import Limits, prompt_ids
from xling.optimizers.ppo import values_of
from xling.rewards.frozen_lm import read
from xling.rewards.networks import HeadedNet, RewardNet, load_reward, save_reward, scalar_head
from xling.rewards.same_as_policy import Settings as SameAsPolicy

# The end of a text is the eos that pads, as Llama reward models trained with trl have it.
CHAT = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
PROMPTS = ["Wie heißt die Stadt ?", "Was ist das ?"]
RESPONSES = [["Die Stadt heißt Bonn .", "Keine Ahnung", "", "Der Fluss"], ["Ein Haus", "Ein Baum steht da ."]]


@pytest.mark.parametrize("padding", ["eos", "pad", "none"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_score_is_read_off_the_token_that_the_model_itself_takes(family: str, padding: str, tmp_path: Path) -> None:
    families.saved_classifier(tmp_path, family)
    pieces = families.tokenizer(family)
    pieces.chat_template = CHAT
    pieces.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["pad_token_id"] = {"eos": pieces.eos_token_id, "pad": pieces.pad_token_id, "none": None}[padding]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    model = load_published_classifier(tmp_path, "chat", None, Limits())
    assert model.way == "once a prompt"
    own = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for prompt, row, scores in zip(PROMPTS, RESPONSES, model.score(PROMPTS, RESPONSES), strict=True):
        for response, score in zip(row, scores, strict=True):
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            inputs = pieces.apply_chat_template(turns, return_tensors="pt", return_dict=True)
            assert inputs["input_ids"][0, -1] == pieces.eos_token_id
            with torch.inference_mode():
                assert score == pytest.approx(own(**inputs).logits[0, 0].item(), abs=2e-5)


def test_texts_of_pad_tokens_alone_are_scored_as_by_the_model(tmp_path: Path) -> None:
    model = load_published_classifier(families.saved_classifier(tmp_path, "llama"), "plain", None, Limits())
    rows = [([model.pad] * 3, []), ([5], []), ([5, model.pad, model.pad], [])]
    assert model._read(rows, [2, 1, 1]) == pytest.approx(model._alone(rows, []), abs=2e-5)


def test_a_model_is_compared_once_for_all_weights_and_looked_at_each_time(tmp_path: Path, monkeypatch: Any) -> None:
    """What it says must be numbers, whatever was compared before."""
    monkeypatch.setattr(own_forward, "_right", set())
    folder, asked = saved(tmp_path, "llama"), list[int]()
    compare = own_forward._scored
    monkeypatch.setattr(own_forward, "_scored", lambda *given: asked.append(1) or compare(*given))
    model, pieces = load_policy(folder)
    load_policy(folder)
    assert len(asked) == 1
    load_policy(folder, dtype="bfloat16")
    assert len(asked) == 2
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    save_policy(tmp_path / "nan", model, pieces)
    for load in (load_policy, load_trunk):
        with pytest.raises(DataError, match="are no numbers"):
            load(tmp_path / "nan")


@pytest.mark.parametrize("way", ["_sampled", "_scored", "_trained"])
def test_each_way_of_reading_is_compared(way: str, tmp_path: Path, monkeypatch: Any) -> None:
    folder = saved(tmp_path, "qwen3")
    monkeypatch.setattr(own_forward, "_right", set())
    right = getattr(own_forward, way)

    def scaled(*given: Any) -> Any:
        return {pair: 1.01 * value for pair, value in right(*given).items()}

    monkeypatch.setattr(own_forward, way, scaled)
    with pytest.raises(DataError, match=r"gives other logits \(by 1(\.\d)? % of their spread\) when"):
        load_policy(folder)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("family", "way"), [("llama", "_scored"), ("mt5", "_trained"), ("llama", "_continued_states")])
def test_a_wrong_reading_is_refused_in_half_precision_too(
    dtype: str, family: str, way: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Here: after the prompt of another text."""
    folder, load = saved(tmp_path, family), load_trunk if "states" in way else load_policy
    monkeypatch.setattr(own_forward, "_right", set())
    load(folder, dtype=dtype)
    monkeypatch.setattr(own_forward, "_right", set())
    right = getattr(own_forward, way)
    monkeypatch.setattr(own_forward, way, lambda model, probe, pad: right(model, (probe[0][::-1], probe[1]), pad))
    with pytest.raises(DataError, match=r"gives other (logits|hidden states) "):
        load(folder, dtype=dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_no_other_reading(family: str) -> None:
    """And what is read wrongly stands out from its rounding."""
    model = in_dtype(build(family), torch.bfloat16)
    probe = probe_of(model.config, 1)
    with torch.inference_mode():
        own = own_logits(model, probe)
        for way in (own_forward._sampled, own_forward._scored, own_forward._trained):
            ours = way(model, probe, 0)
            assert max(distance(ours[pair], own[pair]) for pair in own) < own_forward.TOLERANCE[torch.bfloat16] / 2
        others = {(i, j): own[1 - i, j] for i, j in own}
        assert min(distance(others[pair], own[pair]) for pair in own) > own_forward.TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mt5"])
def test_a_model_in_half_precision_is_the_one_that_is_loaded(family: str, dtype: str, tmp_path: Path) -> None:
    """Also what is computed from its config: `model.to` would round the frequencies of rotary positions.

    And what transformers leaves in float32: layers of T5 in float16.
    """
    trained = in_dtype(build(family), getattr(torch, dtype))
    save_policy(tmp_path, trained, tokenizer(family))
    stored, _ = load_policy(tmp_path, dtype=dtype)
    probe = probe_of(trained.config, 1)
    with torch.inference_mode():
        ours, theirs = own_logits(trained, probe), own_logits(stored, probe)
    assert all(torch.equal(ours[pair], theirs[pair]) for pair in ours)


ROPES: dict[str, Any] = {
    "dynamic": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            **SHAPE,
            max_position_embeddings=32,
        )
    ),
    "longrope": lambda: hf.Phi3ForCausalLM(
        hf.Phi3Config(
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
            },
            **{name: value for name, value in SHAPE.items() if name != "head_dim"},
            max_position_embeddings=128,
            original_max_position_embeddings=32,
        )
    ),
}


@pytest.mark.filterwarnings("ignore")  # of transformers, about how the scaling is written
@pytest.mark.parametrize("kind", ROPES)
def test_positions_that_change_with_the_length_are_refused_where_they_do(kind: str, tmp_path: Path) -> None:
    save_policy(tmp_path, ROPES[kind](), tokenizer("qwen3"))
    model, pieces = load_policy(tmp_path)
    prompt, said = list(range(10, 20)), list(range(30, 38))
    own = own_logits(model, ([prompt], [[said]]))[0, 0].float().log_softmax(-1)
    [[value]] = log_likelihood(model, [prompt], [[said]], 0, total=True)
    assert value == pytest.approx(own[range(len(said)), said].sum().item(), abs=1e-4)
    for asked in (
        lambda: log_likelihood(model, [prompt * 2], [[said * 2]], 0),
        lambda: greedy_ids(model, pieces, [prompt * 2], 20),
    ):
        with pytest.raises(DataError, match=rf"longer than the 32 up to which .* of the kind {kind} reads all texts"):
            asked()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ROPES)
def test_they_are_refused_while_planning_where_the_limits_allow_such_texts(kind: str, tmp_path: Path) -> None:
    """And what fits by the limits is read: with a token more than planning allows, reading refuses it too."""
    save_policy(tmp_path, ROPES[kind](), tokenizer("qwen3"))
    model, pieces = load_policy(tmp_path)

    def policy(prompt: int, new: int) -> None:
        check_lengths(LanguageModel(str(tmp_path)), (prompt, new), "policy")

    def reward(prompt: int, response: int) -> None:
        check_reward(SameAsPolicy(init=str(tmp_path), max_prompt_tokens=prompt, max_response_tokens=response))

    policy(20, 12)
    assert len(greedy_ids(model, pieces, [list(range(10, 30))], 12)[0]) <= 12
    with pytest.raises(ConfigError, match=rf"of the kind {kind}.* at 32 tokens.* Set policy\.max_prompt_tokens=20\."):
        policy(21, 12)
    reward(24, 8)
    assert log_likelihood(model, [list(range(10, 34))], [[list(range(30, 38))]], 0)
    with pytest.raises(ConfigError, match=rf"of the kind {kind}.* Set rm_backbone\.max_prompt_tokens=24\."):
        reward(25, 8)
    with pytest.raises(DataError, match="reads all texts alike"):
        log_likelihood(model, [list(range(10, 35))], [[list(range(30, 38))]], 0)
    with pytest.raises(ConfigError, match=r"Lower policy\.max_new_tokens=40"):
        policy(20, 40)


def test_rotary_scaling_is_known_by_its_older_names() -> None:
    phi3 = {"model_type": "phi3", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    for kind in ("su", "yarn", "longrope"):
        assert alike_up_to(phi3 | {"rope_scaling": {"type": kind}}) == (4096, "longrope")
    layers = {"full_attention": {"rope_type": "dynamic"}, "sliding_attention": {"rope_type": "default"}}
    assert alike_up_to({"max_position_embeddings": 2048, "rope_parameters": layers}) == (2048, "dynamic")
    for other in (None, {}, {"rope_type": "llama3", "original_max_position_embeddings": 8192}, {"type": "yarn"}):
        assert alike_up_to({"max_position_embeddings": 2048, "rope_scaling": other}) is None


def test_a_model_of_texts_and_images_is_read_by_its_text_part(tmp_path: Path) -> None:
    """Gemma 3 from 4B on, whose config is nested: reward models, features, divergences and values."""
    folder = checkpoint("decoder", "gemma3", tmp_path / "base")
    model, pieces = load_policy(folder)
    net = RewardNet(load_trunk(folder), pieces, "last").eval()
    torch.nn.init.normal_(net.head.weight)
    save_reward(tmp_path / "reward", net)
    stored = load_reward(tmp_path / "reward")
    assert stored.trunk.config.model_type == "gemma3_text"
    assert stored.score(["ab"], [["c", "dd"]]) == net.score(["ab"], [["c", "dd"]])
    likelihood, last, mean = read(model, pieces, ["ab"], [["c", "dd"]], "both")
    assert likelihood.shape[0] == 2 and last.shape == mean.shape == (2, 32)
    batch = responses_of(model, [[5, 6]], [[7, 1]], 0)
    value = HeadedNet()
    value.head = scalar_head(model)
    assert values_of(value, batch, predicting_states(model, batch)[batch.mask]).shape == (2,)
    value.trunk = load_trunk(folder)
    assert values_of(value, batch, torch.empty(0)).shape == (2,)
    assert kl_along(model, model, [[5, 6]], [[7, 1]], 0) == [0.0]


@pytest.mark.parametrize("name", families.SEEING)
def test_what_reads_images_too_writes_and_scores_texts_as_its_own_forward_pass(name: str, tmp_path: Path) -> None:
    """Llava's and Qwen-VL's kind, which are no causal LMs by transformers' table; their text settings are nested."""
    folder = tmp_path / "base"
    save_policy(folder, families.shaken(families.SEEING[name](), 0.03), families.tokenizer("llama"))
    check_policy(LanguageModel(str(folder)))
    check_base(folder, "policy")
    check_twin(folder, "policy")
    model, pieces = load_policy(folder)
    (prompt,) = prompt_ids(pieces, ["in the morning"])
    (said,) = greedy_ids(model, pieces, [prompt], 6)
    whole = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert said == whole[0, len(prompt) :].tolist()
    net = RewardNet(load_trunk(folder), pieces, "last").eval()
    save_reward(tmp_path / "reward", net)
    stored = load_reward(tmp_path / "reward")
    assert stored.score(["ab"], [["c", "dd"]]) == net.score(["ab"], [["c", "dd"]])


def test_limits_are_those_of_the_nested_settings_of_texts() -> None:
    text = {"model_type": "opt", "max_position_embeddings": 64}
    assert positions({"model_type": "blip-2", "text_config": text}) == 64
    with pytest.raises(DataError, match="64 positions cannot read 60 tokens of a prompt and 8 of a response"):
        check_table({"model_type": "blip-2", "text_config": text}, (60, 8))


# --- before anything is trained -----------------------------------------------------------------------------


def test_a_twin_is_built_like_its_checkpoint() -> None:
    large = hf.Gemma2Config(final_logit_softcapping=7.0, tie_word_embeddings=False, num_hidden_layers=26)
    twin = smaller(large)
    assert (twin.final_logit_softcapping, twin.tie_word_embeddings, twin.sliding_window) == (7.0, False, 6)
    assert (twin.num_attention_heads, twin.num_key_value_heads, twin.hidden_size) == (4, 2, 32)
    assert set(twin.layer_types) == {"sliding_attention", "full_attention"} and len(twin.layer_types) == 4
    assert large.hidden_size == 2304


def test_a_model_that_would_be_read_wrongly_is_refused_by_its_config_alone(tmp_path: Path, monkeypatch: Any) -> None:
    """Its real windows are longer than the texts of the comparison on loading: only the twin's are not."""
    save_policy(tmp_path, build("gemma2"), tokenizer("gemma2"))
    settings = json.loads((tmp_path / "config.json").read_text()) | {"sliding_window": 4096}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    check_twin(tmp_path, "policy")
    from xling.models import sampling

    monkeypatch.setattr(own_forward, "_right", set())
    monkeypatch.setattr(sampling, "layer_windows", lambda config: {"full_attention": None, "sliding_attention": None})
    load_policy(tmp_path)
    with pytest.raises(DataError, match=r"gives other logits .* read once for all samples"):
        check_twin(tmp_path, "policy")


def test_an_encoder_is_no_policy_and_says_so(tmp_path: Path) -> None:
    named, stage = tmp_path / "named", tmp_path / "stage"
    checkpoint("decoder", "xlm-roberta", named)
    stage.mkdir()
    write_loading(stage, Loading(str(named)))
    for look in (lambda: check_twin(stage, "policy"), lambda: load_policy(stage)):
        with pytest.raises(DataError, match=rf" in {named} .*it reads texts in both directions"):
            look()


def test_a_twin_follows_sizes_that_hang_on_one_another() -> None:
    """Gemma 3n's and 4's lists of layers, beside a size `per layer`; Mistral 4's width of a head, the sum of two."""
    for large in (hf.Gemma3nTextConfig(), hf.Gemma4Config().text_config):
        twin = smaller(large)
        assert twin.layer_types == ["sliding_attention", "full_attention"] * 2
    assert smaller(hf.Gemma3nTextConfig()).activation_sparsity_pattern == [0.95, 0.0] * 2
    twin = smaller(hf.Mistral4Config())
    assert twin.head_dim == twin.qk_nope_head_dim + twin.qk_rope_head_dim


def test_a_model_whose_attention_does_nothing_is_refused(tmp_path: Path) -> None:
    """MRA's is a kernel of a GPU: in its absence transformers gives zeros, and scores of what the text does not say."""
    classifier, encoder = checkpoint("classifier", "mra", tmp_path / "a"), checkpoint("encoder", "mra", tmp_path / "b")
    for load in (
        lambda: load_published_classifier(classifier, "plain", None, Limits()),
        lambda: load_trunk(encoder, encoder=True),
        lambda: check_twin(encoder, "encoder"),
    ):
        with pytest.raises(DataError, match="its attention does nothing here"):
            load()


def test_a_model_that_wants_a_language_is_refused_until_its_config_names_one(tmp_path: Path) -> None:
    """X-MOD's default_language, which the hub's checkpoints leave open."""
    folder = checkpoint("encoder", "xmod", tmp_path)
    load_trunk(folder, encoder=True)
    settings = json.loads((folder / "config.json").read_text()) | {"default_language": None}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="Input language unknown"):
        load_trunk(folder, encoder=True)


def test_t5gemmas_window_is_known_while_planning() -> None:
    """Reward models read it within its window alone; as a policy it samples beyond."""
    inside = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}
    config = json.loads(hf.T5GemmaConfig(encoder=dict(inside), decoder=dict(inside)).to_json_string())
    check_table(config, (56, 8), 0, "rm_backbone")
    check_table(config, (500, 64), 0, "policy")
    with pytest.raises(DataError, match=r"t5gemma with an attention window of 64 .* rm_backbone\.max_prompt_tokens=56"):
        check_table(config, (57, 8), 0, "rm_backbone")
