"""Scores: what a plain forward pass says, whoever shares the batch, and the same after a reload."""

import random
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from xling.models import states
from xling.models.architecture import trunk_of
from xling.models.load import load_policy, load_tokenizer, load_trunk
from xling.models.states import log_likelihood, padded_batch, response_states
from xling.models.text import Limits, count_cut, prompt_ids, response_ids
from xling.rewards.networks import RewardNet, load_reward, save_reward

DRAW = random.Random(0)
WORDS = ["flood", "Chile", "März", "130", "Häuser", "наводнение", "lễ", "hội", "ở", "Cuba", "sel", "ngôi", "nhà", "🙂"]


def text(words: int) -> str:
    return " ".join(DRAW.choices(WORDS, k=words))


PROMPTS = [text(words) for words in (3, 5, 8, 20, 21, 30, 9, 7)] + ["x"]
RESPONSES = [[text(DRAW.choice((1, 2, 4, 9))) for _ in range(DRAW.randint(1, 4))] for _ in PROMPTS]
RESPONSES[2] = ["", "a", text(50), ""]
RESPONSES[4] = []


CASES = [("micro", "last"), ("micro", "mean"), ("mt5", "last"), ("mt5", "mean"), ("qwen3", "last")]
CASES += [("mistral", "mean"), ("gemma3", "last")]  # with sliding windows


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Architecture and pooling."""
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture(scope="module")
def folder(case: tuple[str, str], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder if case[0] == "micro" else families.saved(tmp_path_factory.mktemp(case[0]), case[0])


@pytest.fixture(scope="module")
def model(folder: Path, case: tuple[str, str]) -> RewardNet:
    torch.manual_seed(2)
    net = RewardNet(load_trunk(folder), load_tokenizer(folder), case[1]).eval()
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.head.bias)
    return net


@pytest.fixture(scope="module")
def together(model: RewardNet) -> list[list[float]]:
    return model.score(PROMPTS, RESPONSES)


def test_a_score_is_what_a_plain_forward_pass_says(model: RewardNet, together: list[list[float]]) -> None:
    largest = max(abs(score) for row in together for score in row)  # a random T5 is not scaled: its states are large
    for prompt, responses, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(responses, scores, strict=True):
            rows = model.rows([prompt], [response])
            with torch.inference_mode():
                plain = model(**model.collate(rows)).item()
            assert score == pytest.approx(plain, abs=1e-4 * max(1.0, largest))


def test_scores_have_the_shape_of_the_responses_and_differ(together: list[list[float]]) -> None:
    assert list(map(len, together)) == list(map(len, RESPONSES))
    distinct = {score for row in together for score in row}
    assert len(distinct) > 0.8 * sum(map(len, RESPONSES))
    assert together[2][0] == together[2][3]  # the same (empty) response twice


def test_a_score_does_not_depend_on_its_batch_mates(model: RewardNet, together: list[list[float]]) -> None:
    for prompt, responses, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(responses, scores, strict=True):
            assert model.score([prompt], [[response]]) == [[score]]


def test_a_score_does_not_depend_on_the_order(model: RewardNet, together: list[list[float]]) -> None:
    order = random.Random(1).sample(range(len(PROMPTS)), len(PROMPTS))
    turned = model.score([PROMPTS[i] for i in order], [RESPONSES[i][::-1] for i in order])
    assert turned == [together[i][::-1] for i in order]


def test_a_score_does_not_depend_on_the_number_of_prompts(model: RewardNet, together: list[list[float]]) -> None:
    many = model.score(PROMPTS * 4, RESPONSES * 4)
    assert many == together * 4


def test_a_score_does_not_depend_on_the_number_of_responses(model: RewardNet, together: list[list[float]]) -> None:
    more = model.score(PROMPTS, [row * 5 for row in RESPONSES])
    assert more == [row * 5 for row in together]


def test_a_reloaded_model_gives_the_same_bits(model: RewardNet, together: list[list[float]], tmp_path: Path) -> None:
    save_reward(tmp_path, model)
    stored = load_reward(tmp_path)
    assert stored.pooling == model.pooling and not stored.training
    assert stored.score(PROMPTS, RESPONSES) == together


def test_padding_with_eos_never_matters(model: RewardNet, together: list[list[float]], folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    padded = RewardNet(model.trunk, tokenizer, model.pooling).eval()
    padded.head = model.head
    assert padded.score(PROMPTS, RESPONSES) == together


def test_padding_in_training_changes_no_reward(model: RewardNet) -> None:
    rows = model.rows(["x", text(9), "x"], ["a", text(3), text(12)])
    with torch.inference_mode():
        alone = [model(**model.collate([row])).item() for row in rows]
        for pad in (0, 2, 77):
            assert model(**padded_batch(model.trunk.config, rows, pad)).tolist() == pytest.approx(alone, abs=1e-4)


def test_limits_cut_the_beginning_of_prompts_and_the_end_of_responses(model: RewardNet) -> None:
    net = RewardNet(model.trunk, model.tokenizer, model.pooling, Limits(12, 6, "left")).eval()
    net.head = model.head
    short, long = net, text(60)
    rows = net.rows([long], [long])
    assert len(rows[0][0]) == 12 and len(rows[0][1]) == 6 and rows[0][1][-1] == model.tokenizer.eos_token_id
    assert short.score([long], [[long, long + " more"]]) == short.score(["more " + long], [[long + " x", long]])
    assert count_cut(model.tokenizer, [long, "x", long], [long, "a"], short.rooms()) == {
        "cut_prompts": 1,
        "cut_responses": 1,
    }


def test_nothing_to_score(model: RewardNet) -> None:
    assert model.score([], []) == []
    assert model.score(["x"], [[]]) == [[]]


@pytest.mark.parametrize("kept", [1, 400])
def test_a_score_does_not_depend_on_how_many_prompts_are_read_at_once(
    model: RewardNet, together: list[list[float]], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "TOKENS_KEPT", kept)
    assert model.score(PROMPTS * 4, RESPONSES * 4) == together * 4


def test_what_a_prompt_has_several_times_is_read_once(model: RewardNet) -> None:
    passes: list[int] = []
    hook = trunk_layers(model.trunk).register_forward_hook(lambda *_: passes.append(1))
    model.score(["x"], [["a", "b c"]])
    once = len(passes)
    scores = model.score(["x"], [["a", "b c"] * 500])
    hook.remove()
    assert len(passes) == 2 * once
    assert scores == [scores[0][:2] * 500] and scores[0][0] != scores[0][1]


def trunk_layers(trunk: Any) -> Any:
    return trunk.get_decoder() if trunk.config.is_encoder_decoder else trunk


def test_an_encoder_reads_a_prompt_once_for_all_its_responses(tmp_path: Path) -> None:
    folder = families.saved(tmp_path, "mt5")
    trunk = load_trunk(folder)
    model, passes = RewardNet(trunk, load_tokenizer(folder), "last").eval(), list[int]()
    trunk.get_encoder().register_forward_hook(lambda *_: passes.append(1))
    model.score(["x"], [[f"a {i}" for i in range(100)]])
    assert len(passes) == 1


def test_half_precision_is_close(folder: Path, model: RewardNet, together: list[list[float]]) -> None:
    net = RewardNet(load_trunk(folder, "bfloat16"), model.tokenizer, model.pooling).eval()
    net.head.load_state_dict(model.head.state_dict())
    half = net.score(PROMPTS, RESPONSES)
    flat, close = (torch.tensor([one for row in scores for one in row]) for scores in (together, half))
    assert (flat - close).abs().mean() < 0.1 * (flat.max() - flat.min())


# --- likelihood ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm(folder: Path) -> tuple[Any, Any]:
    return load_policy(folder)


def encoded(model: Any, tokenizer: Any) -> tuple[list[list[int]], list[list[list[int]]]]:
    prompts = prompt_ids(tokenizer, PROMPTS, encoder=model.config.is_encoder_decoder)
    return prompts, [response_ids(tokenizer, row) for row in RESPONSES]


def test_likelihood_is_that_of_a_plain_forward_pass(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    prompts, responses = encoded(model, tokenizer)
    found = log_likelihood(model, prompts, responses, tokenizer.pad_token_id)
    totals = log_likelihood(model, prompts, responses, tokenizer.pad_token_id, total=True)
    for prompt, row, values, sums in zip(prompts, responses, found, totals, strict=True):
        for ids, value, total in zip(row, values, sums, strict=True):
            with torch.inference_mode():
                if model.config.is_encoder_decoder:
                    logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([ids])).logits[0]
                else:
                    logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            each = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])
            assert value == pytest.approx(each.mean().item(), abs=1e-4)
            assert total == pytest.approx(each.sum().item(), rel=1e-4)


def test_likelihood_does_not_depend_on_batch_mates(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    prompts, responses = encoded(model, tokenizer)
    together = log_likelihood(model, prompts, responses, tokenizer.pad_token_id)
    for prompt, row, values in zip(prompts, responses, together, strict=True):
        for ids, value in zip(row, values, strict=True):
            assert log_likelihood(model, [prompt], [[ids]], tokenizer.eos_token_id) == [[value]]


def test_a_large_vocabulary_is_looked_at_in_parts(lm: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = lm
    prompts, responses = encoded(model, tokenizer)
    whole = log_likelihood(model, prompts, responses, tokenizer.pad_token_id)
    monkeypatch.setattr(states, "VOCABULARY_AT_ONCE", 20_000)
    for ours, theirs in zip(log_likelihood(model, prompts, responses, 0), whole, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_states_come_once_for_every_response(lm: tuple[Any, Any]) -> None:
    model, tokenizer = lm
    prompts, responses = encoded(model, tokenizer)
    owners = [o for state in response_states(trunk_of(model), prompts, responses, 0) for o in state.owners]
    assert sorted(owners) == [(i, j) for i, row in enumerate(responses) for j in range(len(row))]
