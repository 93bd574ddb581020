"""Every text architecture of transformers is read as its own forward pass reads it, or refused on loading.

A dozen families that people use in every run; all that transformers offers by night.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from architectures import OF_KIND, REFUSED, UNBUILT, checkpoint

from xling.errors import DataError
from xling.models.architecture import text_config
from xling.models.gathering import parts_of
from xling.models.load import load_policy, load_tokenizer, load_trunk
from xling.models.own_forward import VOCABULARY
from xling.models.parallel import blocks
from xling.models.published import load_published_classifier
from xling.models.sampling import greedy_ids
from xling.models.states import log_likelihood
from xling.models.text import Ids, Limits
from xling.rewards.networks import PairNet, RewardNet

CLOSE, REL = 1e-4, 1e-5  # of scores and nats; of sums of hundreds of nats
STEPS = 8
DRAW = random.Random(1)
WORDS = ["flood", "Chile", "März", "130", "Häuser", "наводнение", "Cuba", "sel", "nhà"]


def ids(length: int) -> Ids:
    return [DRAW.randrange(6, VOCABULARY) for _ in range(length)]


PROMPTS = [ids(length) for length in (3, 9, 14, 21, 1)]
RESPONSES = [[[*ids(length - 1), 1] for length in (4, 9, 13)] for _ in PROMPTS]
LIMITS = Limits(160, 80, "left")

DECODERS = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "mistral",
    "ministral3",
    "cohere",
    "cohere2",
    "granite",
    "bloom",
    "xglm",
    "gpt2",
    "opt",
    "phi3",
    "olmo2",
    "olmo3",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "falcon",
    "gpt_oss",
    "smollm3",
]
ENCODER_DECODERS = [
    "t5",
    "mt5",
    "umt5",
    "mbart",
    "bart",
    "m2m_100",
    "pegasus",
    "t5gemma",
]
CLASSIFIERS = [
    "llama",
    "qwen2",
    "gemma2",
    "gemma3",
    "mistral",
    "gpt2",
    "bloom",
    "opt",
    "phi3",
    "xlm-roberta",
    "deberta-v2",
    "bert",
    "modernbert",
    "t5",
    "bart",
]
ENCODERS = [
    "xlm-roberta",
    "deberta-v2",
    "bert",
    "modernbert",
    "eurobert",
]


def cases(kind: str, quick: list[str]) -> list[Any]:
    """The architectures of a kind, those outside `quick` by night."""
    night = pytest.mark.nightly
    assert set(quick) <= set(OF_KIND[kind])
    return [pytest.param(name, marks=[] if name in quick else night) for name in OF_KIND[kind]]


def refused(kind: str, name: str, load: Any) -> bool:
    """Whether it is refused, which must be for the reason that is known."""
    reason = REFUSED[kind].get(name)
    if reason is None:
        return False
    with pytest.raises((DataError, ValueError), match=reason):  # transformers' own, which the base stage words
        load()
    return True


def built(kind: str, name: str, folder: Path) -> Path:
    if name in UNBUILT[kind]:
        pytest.skip(UNBUILT[kind][name])
    return checkpoint(kind, name, folder)


def own_logits(model: Any, prompt: Ids, said: Ids) -> Any:
    """(tokens, vocabulary) before each token of `said`."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            start = [model.config.decoder_start_token_id, *said[:-1]]
            given = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([start])}
            return model(**given, use_cache=False).logits[0]
        return model(input_ids=torch.tensor([[*prompt, *said]]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def check_policy(kind: str, name: str, folder: Path) -> None:
    folder = built(kind, name, folder)
    if refused(kind, name, lambda: (load_policy(folder), load_trunk(folder))):
        return
    model, tokenizer = load_policy(folder)
    likelihoods = log_likelihood(model, PROMPTS, RESPONSES, tokenizer.pad_token_id, total=True)
    for prompt, row, found in zip(PROMPTS, RESPONSES, likelihoods, strict=True):
        for said, value in zip(row, found, strict=True):
            scores = own_logits(model, prompt, said).float().log_softmax(-1)
            assert value == pytest.approx(scores[range(len(said)), said].sum().item(), rel=REL, abs=CLOSE)
    for prompt, reply in zip(PROMPTS, greedy_ids(model, tokenizer, PROMPTS, STEPS), strict=True):
        assert reply == own_logits(model, prompt, reply).argmax(-1).tolist()
        assert len(reply) == STEPS or reply[-1] == tokenizer.eos_token_id
    check_sharing(model)
    check_trunk(folder, tokenizer, model)


@torch.no_grad()
def check_sharing(model: Any) -> None:
    """What processes that share the weights call together can be called, and no block lies in another."""
    for _, call in parts_of(model):
        call()
    found = blocks(model)
    assert not any(inner is not block and inner in found for block in found for inner in block.modules())


def check_trunk(folder: Path, tokenizer: Any, model: Any) -> None:
    """A reward model on the same checkpoint scores as its network reads each text alone."""
    net = RewardNet(load_trunk(folder), tokenizer, "last").eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(net.head.weight)
    prompts, responses = [" ".join(WORDS[:5]), WORDS[0]], [[" ".join(WORDS[:k]) for k in (1, 4, 9)]] * 2
    found = net.score(prompts, responses)
    for prompt, row, scores in zip(prompts, responses, found, strict=True):
        alone = [net(**net.collate(net.rows([prompt], [text]))).item() for text in row]
        assert scores == pytest.approx(alone, rel=REL, abs=CLOSE)
        assert len({round(score, 3) for score in scores}) == len(scores)


@pytest.mark.parametrize("name", cases("decoder", DECODERS))
def test_a_decoder_is_read_as_by_its_own_forward_pass(name: str, tmp_path: Path) -> None:
    check_policy("decoder", name, tmp_path)


@pytest.mark.parametrize("name", cases("encoder-decoder", ENCODER_DECODERS))
def test_an_encoder_decoder_is_read_as_by_its_own_forward_pass(name: str, tmp_path: Path) -> None:
    check_policy("encoder-decoder", name, tmp_path)


def test_an_encoder_that_is_wider_than_the_decoder() -> None:
    """As T5Gemma's of 9 billion weights beside 2."""
    same = {"vocab_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip
    decoder = {"hidden_size": 16, "cross_attention_hidden_size": 32, **same}
    config = hf.T5GemmaConfig(encoder={"hidden_size": 32, **same}, decoder=decoder)
    check_sharing(hf.T5GemmaForConditionalGeneration(config).eval())


@pytest.mark.parametrize("name", cases("encoder", ENCODERS))
def test_an_encoder_is_read_as_by_its_own_forward_pass(name: str, tmp_path: Path) -> None:
    folder = built("encoder", name, tmp_path)
    if refused("encoder", name, lambda: load_trunk(folder, encoder=True)):
        return
    net = PairNet(load_trunk(folder, encoder=True), load_tokenizer(folder), "mean", LIMITS).eval()
    rows = [(row, []) for row in PROMPTS if len(row) > 1]
    torch.nn.init.normal_(net.head.weight)
    with torch.inference_mode():
        together = net(**net.collate(rows, 32)).tolist()
        assert together == pytest.approx([net(**net.collate([row])).item() for row in rows], rel=REL, abs=CLOSE)
    assert len({round(score, 3) for score in together}) == len(rows)


@pytest.mark.parametrize("name", cases("classifier", CLASSIFIERS))
@pytest.mark.parametrize("padding", ["own", "eos"])
def test_a_published_classifier_scores_as_its_own_forward_pass(name: str, padding: str, tmp_path: Path) -> None:
    """Also where the end of a text is the token that it pads with, and where a batch has several ends of texts."""
    folder = built("classifier", name, tmp_path)
    config = hf.AutoConfig.from_pretrained(folder)
    if padding == "eos" and not config.is_encoder_decoder:
        text_config(config).pad_token_id = 1
        config.save_pretrained(folder)
    if refused("classifier", name, lambda: load_published_classifier(folder, "plain", None, LIMITS)):
        return
    model = load_published_classifier(folder, "plain", None, LIMITS)
    model.tokenizer.pad_token_id = 1 if padding == "eos" else 0
    rows = [[*prompt, *said] for prompt, row in zip(PROMPTS, RESPONSES, strict=True) for said in row]
    rows += [[*row[:-1], 1, 1] for row in rows[:2]] + [[*rows[0], *rows[1]]]
    found = model._read([(row, []) for row in rows], [3] * len(rows))
    for row, score in zip(rows, found, strict=True):
        with torch.inference_mode():
            own = model.model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.long))
        assert score == pytest.approx(own.logits[0, 0].item(), rel=REL, abs=CLOSE)
    assert len({round(score, 3) for score in found}) > len(rows) // 2
