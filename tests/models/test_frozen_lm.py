"""Features of a frozen language model: what a plain forward pass says, whoever shares the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xling.models.load import load_policy
from xling.models.text import Limits, prompt_ids, response_ids
from xling.rewards.frozen_lm import BLOCKS, GAPS, read

PROMPTS = ["a flood in Chile", "März: 130 Häuser, viele davon neu", "x"]
RESPONSES = [["a flood", "наводнение в Чили, всего 130 домов", "a flood"], [""], ["lễ hội", "a"]]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> tuple[Any, Any]:
    return load_policy(tiny_folder)


def plain(model: Any, tokenizer: Any, prompt: str, response: str) -> tuple[list[float], torch.Tensor]:
    """Likelihood features written out, and hidden states (L, D) of the response."""
    before, said = prompt_ids(tokenizer, [prompt])[0], response_ids(tokenizer, [response])[0]
    with torch.inference_mode():
        hidden = model.model(torch.tensor([before + said]))[0][0]
        scores = model.lm_head(hidden).log_softmax(-1)[len(before) - 1 : -1]
    own = np.array([row[token].item() for row, token in zip(scores, said, strict=True)])
    expected = np.array([(row.exp() * row).sum().item() for row in scores])
    gap = scores.max(-1).values.numpy() - own
    worst = [*sorted(np.minimum(own, 0))[:3], 0.0, 0.0][:3]
    excess = own - expected
    values = [own.mean(), own.sum(), *worst, excess.mean(), min(excess.min(), 0.0), gap.mean(), gap.max()]
    return [*values, *((gap > limit).sum() for limit in GAPS)], hidden[len(before) :]


def test_features_are_those_of_a_plain_forward_pass(model: tuple[Any, Any]) -> None:
    likelihood, last, mean = read(*model, PROMPTS, RESPONSES, "both")
    asked = [(p, r) for p, row in zip(PROMPTS, RESPONSES, strict=True) for r in row]
    assert len(likelihood) == len(last) == len(mean) == len(asked) == 6
    for (prompt, response), *rows in zip(asked, likelihood, last, mean, strict=True):
        values, hidden = plain(*model, prompt, response)
        np.testing.assert_allclose(rows[0], values, atol=2e-5)
        np.testing.assert_allclose(rows[1], hidden[-1], atol=2e-5)
        np.testing.assert_allclose(rows[2], hidden.mean(0), atol=2e-5)


def test_a_row_depends_on_its_prompt_and_response_alone(model: tuple[Any, Any]) -> None:
    (together,) = read(*model, PROMPTS, RESPONSES, "likelihood")
    assert np.array_equal(together[0], together[2])  # the same response twice
    (alone,) = read(*model, PROMPTS[1:2], RESPONSES[1:2], "likelihood")
    assert np.array_equal(alone[0], together[3])


def test_long_texts_are_cut_at_the_limits_and_on_the_side_that_is_asked_for(model: tuple[Any, Any]) -> None:
    long = " ".join(f"the {word} in Chile" for word in ("flood", "fest", "storm", "house", "game") * 6)
    for side, prompt in (("right", f"{long} at last"), ("left", f"at first {long}")):
        limits = Limits(24, 8, side)
        (cut,) = read(*model, [prompt], [[long]], "likelihood", limits)
        (same,) = read(*model, [long], [[f"{long} at last"]], "likelihood", limits)
        assert np.array_equal(cut, same)
        (other,) = read(*model, [prompt], [[long]], "likelihood", Limits(24, 8, "left" if side == "right" else "right"))
        assert not np.array_equal(cut, other)


@pytest.mark.parametrize("features", BLOCKS)
def test_blocks_are_those_that_were_asked_for(model: tuple[Any, Any], features: str) -> None:
    assert len(read(*model, PROMPTS, RESPONSES, features)) == len(BLOCKS[features])
