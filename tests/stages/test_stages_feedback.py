"""Shuffled labels, batches and losses of reward models."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from small_grid import TASK
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import LlamaConfig, MT5Config

from xling.models.states import padded_batch
from xling.planning.dag import SHUFFLES
from xling.rewards.networks import reward_batch, reward_loss
from xling.rewards.untrained import hashed_score
from xling.stages.reward import shuffled_pairs, shuffled_ratings
from xling.stages.score import length_rule
from xling.stages.sft import labelled_batch
from xling.tasks import micro_summarization as world
from xling.tasks.records import Prompt, Rating

DECODER, ENCODER_DECODER = LlamaConfig(), MT5Config(decoder_start_token_id=3)
RATINGS = world.ratings(TASK, "de", "train")
PAIRS = world.pairs(TASK, "de", "train")


@pytest.mark.parametrize("permutation", range(1, SHUFFLES + 1))
def test_a_permutation_keeps_texts_and_balance_and_moves_labels(permutation: int) -> None:
    shuffled = shuffled_ratings(RATINGS, 0, permutation)
    assert [(r.prompt, r.response) for r in shuffled] == [(r.prompt, r.response) for r in RATINGS]
    assert Counter(r.label for r in shuffled) == Counter(r.label for r in RATINGS)
    assert 5 < sum(a.label != b.label for a, b in zip(shuffled, RATINGS, strict=True)) < 35


def test_permutations_and_seeds_differ_and_zero_changes_nothing() -> None:
    found = {tuple(r.label for r in shuffled_ratings(RATINGS, s, k)) for s in (0, 1) for k in range(1, 6)}
    assert len(found) == 10
    assert shuffled_ratings(RATINGS, 0, 0) == RATINGS and shuffled_pairs(PAIRS, 0, 0) == PAIRS


@pytest.mark.parametrize("permutation", range(1, SHUFFLES + 1))
def test_a_coin_turns_pairs_round(permutation: int) -> None:
    shuffled = shuffled_pairs(PAIRS, 0, permutation)
    turned = [a.chosen == b.rejected for a, b in zip(shuffled, PAIRS, strict=True)]
    assert 10 < sum(turned) < 30
    for a, b in zip(shuffled, PAIRS, strict=True):
        assert a.prompt == b.prompt and {a.chosen, a.rejected} == {b.chosen, b.rejected}


def test_a_reward_batch_of_an_encoder_decoder_begins_with_the_start_token() -> None:
    rows = [(([5, 6, 1], [7, 1]), None, 1.0), (([5, 1], [8, 9, 1]), None, 0.0)]
    batch = reward_batch(rows, partial(padded_batch, ENCODER_DECODER, pad=0))
    assert batch["input_ids"].tolist() == [[5, 6, 1], [5, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["decoder_input_ids"].tolist() == [[3, 7, 1, 0], [3, 8, 9, 1]]
    assert batch["response_mask"].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 1]]


def test_a_reward_batch_marks_prompt_response_and_padding() -> None:
    rows = [(([1, 5, 6], [7, 2]), None, 1.0), (([1, 5], [8, 9, 9, 2]), None, 0.0)]
    batch = reward_batch(rows, partial(padded_batch, DECODER, pad=2))
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 2, 2], [1, 5, 8, 9, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    assert batch["response_mask"].int().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [1.0, 0.0]
    assert not any(name.startswith("rejected") for name in batch)


def test_the_losses_are_those_of_the_paper() -> None:
    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
        return (input_ids * response_mask).sum(1).float()

    padded = partial(padded_batch, DECODER, pad=0)
    point = reward_batch([(([1], [3]), None, 1.0), (([1], [2]), None, 0.0)], padded)
    expected = binary_cross_entropy_with_logits(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert reward_loss(model, point) == pytest.approx(expected.item())
    pair = reward_batch([(([1], [3]), ([1], [1]), 1.0), (([1], [2]), ([1], [4, 1]), 1.0)], padded)
    expected_pair = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(3.0))])
    assert float(reward_loss(model, pair)) == pytest.approx(expected_pair)


def test_a_causal_batch_has_its_loss_on_the_responses() -> None:
    batch = labelled_batch(DECODER, [([1, 5, 6], [7, 2]), ([1, 5], [8, 9, 9, 2])], pad=2)
    assert batch["labels"].tolist() == [[-100, -100, -100, 7, 2, -100], [-100, -100, 8, 9, 9, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]


def rated(lengths: list[int], labels: list[float]) -> list[Rating]:
    return [
        Rating(Prompt(str(i), "de", str(i), ""), "x" * length, label)
        for i, (length, label) in enumerate(zip(lengths, labels, strict=True))
    ]


@pytest.mark.parametrize(
    ("lengths", "labels", "rule"),
    [
        ([1, 2, 8, 9], [0, 0, 1, 1], {"threshold": 2.0, "longer_is_better": True}),
        ([1, 2, 8, 9], [1, 1, 0, 0], {"threshold": 2.0, "longer_is_better": False}),
        ([1, 2, 3, 9], [0, 1, 1, 1], {"threshold": 1.0, "longer_is_better": True}),
    ],
)
def test_the_length_rule_is_the_best_threshold(
    lengths: list[int], labels: list[float], rule: dict[str, object]
) -> None:
    assert length_rule(rated(lengths, labels)) == rule


def test_the_random_control_is_uniform_and_named_by_seed_prompt_and_index() -> None:
    drawn = np.array([[hashed_score(0, str(p), j) for j in range(10)] for p in range(300)])
    assert abs(drawn.mean() - 0.5) < 0.02 and abs((drawn < 0.1).mean() - 0.1) < 0.02
    assert len(np.unique(drawn)) == drawn.size
    assert hashed_score(1, "12", 3) != hashed_score(1, "1", 23) != hashed_score(11, "2", 3)
