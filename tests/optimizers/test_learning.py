"""Rewards of texts rise on a tiny model with a real tokenizer; what is sampled differs from step to step."""

from pathlib import Path
from types import ModuleType
from typing import Any

import bandit
import families
import pytest

from xling.models.text import Ids, decode_response, prompt_ids
from xling.optimizers import learning_rate, ppo, rloo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import Problem
from xling.optimizers.rloo import Settings as RLOO
from xling.optimizers.rollouts import roll_out

TEXTS = ["The harbour opens in May.", "A library closes.", "Nobody swims in winter.", "Twelve trains run a day."]
COMMON: dict[str, Any] = {"steps": 30, "batch_size": 32, "learning_rate": 1e-2, "beta": 0.05, "eval_every": 1000}


def problem(folder: Path, scratch: Path) -> Problem:
    """The reward of a text is the share of its letters that are vowels, in deviations from the mean."""
    made = bandit.problem(folder, scratch, lambda ids: 0.0, COMMON["steps"], 8, 1000)
    encoder = made.policy.config.is_encoder_decoder
    made.prompts, made.names = prompt_ids(made.tokenizer, TEXTS, encoder=encoder), TEXTS

    def vowels(ids: Ids) -> float:
        text = decode_response(made.tokenizer, ids).lower()
        return (sum(text.count(letter) for letter in "aeiou") / max(1, len(text)) - 0.22) / 0.1

    made.reward = lambda numbers, said: [[vowels(ids) for ids in row] for row in said]
    return made


@pytest.fixture(scope="module", params=["decoder-only", "encoder-decoder"])
def folder(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "decoder-only":
        return tiny_folder
    return families.saved(tmp_path_factory.mktemp("mt5"), "mt5")


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (ppo, PPO(value_learning_rate=1e-2, value_only_steps=2, **COMMON | {"steps": 40})),
        (rloo, RLOO(trainer="own", k=4, **COMMON)),
    ],
    ids=["ppo", "rloo"],
)
def test_rewards_rise(folder: Path, tmp_path: Path, module: ModuleType, settings: Any) -> None:
    """Which texts are sampled depends on the machine's rounding, so that a rise has to be well above what it does.

    Over five seeds PPO raised the mT5 of random weights by 0.35 to 4.1 in 20 steps, and by 2.2 to 7.5 in 40.
    """
    made = problem(folder, tmp_path)
    module.train(made, settings)
    rewards = [row["reward"] for row in made.watch.curve]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5
    last = made.watch.curve[-1]
    assert last["kl_k3"] > 0 and last["entropy"] > 0 and 1 <= last["length"] <= 8 and 0 <= last["eos"] <= 1


def test_each_response_of_each_step_has_a_stream_of_its_own(folder: Path, tmp_path: Path) -> None:
    """Of four prompts that come twice in a step of eight, and again in the next."""
    made = problem(folder, tmp_path)
    said = [tuple(ids) for number in (0, 1) for ids in roll_out(made, number, 8).responses]
    assert len(set(said)) == len(said)
    assert [tuple(ids) for ids in roll_out(made, 0, 8).responses] == said[:8]


def test_responses_to_a_prompt_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    rollout = roll_out(problem(folder, tmp_path), 0, 2, 3)
    assert rollout.prompts[0] == rollout.prompts[2] != rollout.prompts[3] == rollout.prompts[5]
    assert rollout.rewards.shape == (6,)


def test_learning_rate() -> None:
    rates = [learning_rate(1.0, step, 6, 2, "linear") for step in range(6)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 3 / 4, 2 / 4, 1 / 4])
    assert [learning_rate(2.0, step, 3, 0, "constant") for step in range(3)] == [2.0, 2.0, 2.0]
