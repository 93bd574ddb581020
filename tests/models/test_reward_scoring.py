"""Scores: what a plain forward pass says, whoever shares the batch, and the same after a reload."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from xling.models import reward
from xling.models.reward import RewardModel, RewardNet, load_reward, log_likelihood, response_states, save_reward
from xling.models.text import prompt_ids, response_ids

DRAW = random.Random(0)
WORDS = ["flood", "Chile", "März", "130", "Häuser", "наводнение", "lễ", "hội", "ở", "Cuba", "sel", "ngôi", "nhà", "🙂"]


def text(words: int) -> str:
    return " ".join(DRAW.choices(WORDS, k=words))


PROMPTS = [text(words) for words in (3, 5, 8, 20, 21, 22, 40, 60, 9, 7)] + ["x"]
RESPONSES = [[text(DRAW.choice((1, 2, 4, 9, 30))) for _ in range(DRAW.randint(1, 5))] for _ in PROMPTS]
RESPONSES[2] = ["", "a", text(120), ""]
RESPONSES[4] = []


@pytest.fixture(scope="module", params=["last", "mean"])
def model(tiny_folder: Path, request: pytest.FixtureRequest) -> RewardModel:
    torch.manual_seed(2)
    net = RewardNet(AutoModel.from_pretrained(tiny_folder, dtype=torch.float32), request.param).eval()
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.head.bias)
    return RewardModel(net, AutoTokenizer.from_pretrained(tiny_folder))


@pytest.fixture(scope="module")
def together(model: RewardModel) -> list[list[float]]:
    return model.score(PROMPTS, RESPONSES)


def test_a_score_is_what_a_plain_forward_pass_says(model: RewardModel, together: list[list[float]]) -> None:
    for prompt, responses, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        before = prompt_ids(model.tokenizer, [prompt])[0]
        for ids, score in zip(response_ids(model.tokenizer, responses), scores, strict=True):
            whole = torch.tensor([before + ids])
            here = (torch.arange(whole.shape[1]) >= len(before))[None]
            with torch.inference_mode():
                plain = model.net(whole, torch.ones_like(whole), here).item()
            assert score == pytest.approx(plain, abs=1e-5)


def test_scores_have_the_shape_of_the_responses_and_differ(together: list[list[float]]) -> None:
    assert list(map(len, together)) == list(map(len, RESPONSES))
    distinct = {score for row in together for score in row}
    assert len(distinct) > 0.8 * sum(map(len, RESPONSES))
    assert together[2][0] == together[2][3]  # the same (empty) response twice


def test_a_score_does_not_depend_on_its_batch_mates(model: RewardModel, together: list[list[float]]) -> None:
    for prompt, responses, scores in zip(PROMPTS, RESPONSES, together, strict=True):
        for response, score in zip(responses, scores, strict=True):
            assert model.score([prompt], [[response]]) == [[score]]


def test_a_score_does_not_depend_on_the_order(model: RewardModel, together: list[list[float]]) -> None:
    order = random.Random(1).sample(range(len(PROMPTS)), len(PROMPTS))
    turned = model.score([PROMPTS[i] for i in order], [RESPONSES[i][::-1] for i in order])
    assert turned == [together[i][::-1] for i in order]


def test_a_score_does_not_depend_on_the_number_of_prompts(model: RewardModel, together: list[list[float]]) -> None:
    many = model.score(PROMPTS * 4, RESPONSES * 4)
    assert many == together * 4


def test_a_score_does_not_depend_on_the_number_of_responses(model: RewardModel, together: list[list[float]]) -> None:
    more = model.score(PROMPTS, [row * 5 for row in RESPONSES])
    assert more == [row * 5 for row in together]


def test_a_reloaded_model_gives_the_same_bits(model: RewardModel, together: list[list[float]], tmp_path: Path) -> None:
    save_reward(tmp_path, model.net, model.tokenizer)
    stored = load_reward(tmp_path)
    assert stored.net.pooling == model.net.pooling and not stored.net.training
    assert stored.score(PROMPTS, RESPONSES) == together


def test_padding_with_eos_never_matters(model: RewardModel, together: list[list[float]], tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert RewardModel(model.net, tokenizer).score(PROMPTS, RESPONSES) == together


def test_padding_in_training_changes_no_reward(model: RewardModel) -> None:
    rows = [[1, 40, 41, 42, 2], [1, 50, 2], [1, 60, 61, 62, 63, 64, 65, 2]]
    alone = [
        model.net(torch.tensor([r]), torch.ones(1, len(r)), (torch.arange(len(r)) >= 2)[None]).item() for r in rows
    ]
    for pad in (0, 2, 77):
        ids = torch.tensor([r + [pad] * (8 - len(r)) for r in rows])
        mask = torch.arange(8) < torch.tensor([len(r) for r in rows])[:, None]
        rewards = model.net(ids, mask.long(), mask & (torch.arange(8) >= 2))
        assert rewards.tolist() == pytest.approx(alone, abs=1e-5)


def test_nothing_to_score(model: RewardModel) -> None:
    assert model.score([], []) == []
    assert model.score(["x"], [[]]) == [[]]


@pytest.mark.parametrize("kept", [1, 400])
def test_a_score_does_not_depend_on_how_many_prompts_are_read_at_once(
    model: RewardModel, together: list[list[float]], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "TOKENS_KEPT", kept)
    assert model.score(PROMPTS * 4, RESPONSES * 4) == together * 4


def test_what_a_prompt_has_several_times_is_read_once(model: RewardModel) -> None:
    passes: list[int] = []
    hook = model.net.trunk.register_forward_hook(lambda *_: passes.append(1))
    model.score(["x"], [["a", "b c"]])
    once = len(passes)
    scores = model.score(["x"], [["a", "b c"] * 500])
    hook.remove()
    assert len(passes) == 2 * once
    assert scores == [scores[0][:2] * 500] and scores[0][0] != scores[0][1]


# --- likelihood ---------------------------------------------------------------------------------------------


def encoded(tokenizer: Any) -> tuple[list[list[int]], list[list[list[int]]]]:
    return prompt_ids(tokenizer, PROMPTS), [response_ids(tokenizer, row) for row in RESPONSES]


def test_likelihood_is_that_of_a_plain_forward_pass(tiny: tuple[Any, Any]) -> None:
    causal, tokenizer = tiny
    prompts, responses = encoded(tokenizer)
    found = log_likelihood(causal, prompts, responses, tokenizer.pad_token_id)
    for prompt, row, values in zip(prompts, responses, found, strict=True):
        for ids, value in zip(row, values, strict=True):
            with torch.inference_mode():
                logits = causal(input_ids=torch.tensor([prompt + ids])).logits[0]
            each = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(ids)[:, None])
            assert value == pytest.approx(each.mean().item(), abs=1e-5)


def test_likelihood_does_not_depend_on_batch_mates(tiny: tuple[Any, Any]) -> None:
    causal, tokenizer = tiny
    prompts, responses = encoded(tokenizer)
    together = log_likelihood(causal, prompts, responses, tokenizer.pad_token_id)
    for prompt, row, values in zip(prompts, responses, together, strict=True):
        for ids, value in zip(row, values, strict=True):
            assert log_likelihood(causal, [prompt], [[ids]], tokenizer.eos_token_id) == [[value]]


def test_states_come_once_for_every_response(tiny: tuple[Any, Any]) -> None:
    causal, tokenizer = tiny
    prompts, responses = encoded(tokenizer)
    owners = [o for state in response_states(causal.model, prompts, responses, 0) for o in state.owners]
    assert sorted(owners) == [(i, j) for i, row in enumerate(responses) for j in range(len(row))]
