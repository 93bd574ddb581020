"""Pair encoders: the tokenizer's own separators, scores that depend on their text alone, and what is cut."""

from pathlib import Path

import encoders
import pytest
import torch
from architectures import checkpoint
from test_published import PROMPTS, RESPONSES, text

from xling.errors import DataError
from xling.models.load import check_base, load_tokenizer, load_trunk
from xling.models.text import Limits, pair_rows, separators
from xling.rewards.networks import PairNet, load_reward, save_reward

LIMITS = Limits(40, 20, "left")


@pytest.fixture(scope="module", params=["xlm_roberta", "deberta_v2", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.saved_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module", params=["first", "mean"])
def model(folder: Path, request: pytest.FixtureRequest) -> PairNet:
    net = PairNet(load_trunk(folder), load_tokenizer(folder, ("pad",)), request.param, LIMITS).eval()
    torch.manual_seed(2)
    torch.nn.init.normal_(net.head.weight)
    return net


@pytest.fixture(scope="module")
def together(model: PairNet) -> list[list[float]]:
    return model.score(PROMPTS, RESPONSES)


def test_pairs_are_joined_as_the_tokenizer_joins_them(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, ("pad",))
    for first, second in (("flood in Chile", "März 130"), ("a", "Cuba sel nhà")):
        joined = tokenizer(first, second, return_token_type_ids=True)
        assert pair_rows(tokenizer, [first], [second], LIMITS) == [(joined["input_ids"], joined["token_type_ids"])]
    assert len(separators(tokenizer)) == (4 if "XLM" in type(tokenizer).__name__ else 3)


def test_what_joins_without_separators_is_refused() -> None:
    with pytest.raises(DataError, match="puts no separator between two texts"):
        separators(encoders.tokenizer("qwen3"))


def test_prompts_lose_their_beginning_and_responses_their_end(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, ("pad",))
    long, longer = text(100), "one more " + text(3)
    (row, _), (same, _), (other, _) = pair_rows(tokenizer, [long, longer + " " + long, long], [long, long, "a"], LIMITS)
    assert len(row) == 60 + len(separators(tokenizer)) and row == same != other


def test_a_score_is_that_of_the_net_alone(model: PairNet, together: list[list[float]]) -> None:
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(row, scores, strict=True):
            rows = model.rows([prompt], [response])
            with torch.inference_mode():
                assert score == pytest.approx(model(**model.collate(rows)).item(), abs=1e-5)


def test_a_score_depends_on_its_text_alone(model: PairNet, together: list[list[float]], tmp_path: Path) -> None:
    assert len({score for row in together for score in row}) > 0.8 * sum(map(len, RESPONSES))
    for prompt, row, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        assert [model.score([prompt], [[response]])[0][0] for response in row] == scores
    assert model.score(PROMPTS[::-1] * 3, RESPONSES[::-1] * 3) == together[::-1] * 3
    save_reward(tmp_path, model)
    stored = load_reward(tmp_path)
    assert isinstance(stored, PairNet) and stored.limits == LIMITS
    assert stored.score(PROMPTS, RESPONSES) == together


def test_half_precision_is_close(folder: Path, model: PairNet, together: list[list[float]]) -> None:
    net = PairNet(load_trunk(folder, "bfloat16"), model.tokenizer, model.pooling, LIMITS).eval()
    net.head.load_state_dict(model.head.state_dict())
    half = net.score(PROMPTS, RESPONSES)
    flat, close = (torch.tensor([one for row in scores for one in row]) for scores in (together, half))
    assert (flat - close).abs().max() < 0.1 * (flat.max() - flat.min())


def test_a_tokenizer_without_separators_is_refused_in_the_base_stage(tmp_path: Path) -> None:
    """Before policies and others are trained for a reward model that could not be."""
    checkpoint("encoder", "xlm-roberta", tmp_path)
    with pytest.raises(DataError, match="puts no separator between two texts"):
        check_base(tmp_path, "encoder")
