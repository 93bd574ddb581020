"""What a step of PPO does: its ratios, its value models, its phases, its beta."""

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import KINDS, PAD, PROMPTS, bandit, same, saved, weights
from torch import Tensor

from xling.errors import StageError
from xling.models.load import load_policy
from xling.models.states import pool
from xling.optimizers import ppo
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.problem import Problem
from xling.optimizers.training import Rollout
from xling.rewards.networks import RewardNet, load_reward, save_reward

SMALL: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "value_learning_rate": 1e-2, "warmup_steps": 0}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / request.param, request.param)


def count_a(ids: list[int]) -> float:
    return float(ids.count(2))


def trained(folder: Path, scratch: Path, settings: PPO, **changed: Any) -> Problem:
    problem = bandit(folder, scratch, count_a, settings.steps, 4, **changed)
    ppo.train(problem, settings)
    return problem


# --- ratios -------------------------------------------------------------------------------------------------


def test_the_policy_that_sampled_has_a_ratio_of_exactly_one(folder: Path, tmp_path: Path) -> None:
    settings = PPO(steps=1, epochs=1, minibatches=1, value_only_steps=0, clip=1e-12, **SMALL)
    [row] = trained(folder, tmp_path, settings).watch.curve
    assert row["clip_fraction"] == 0.0
    assert row["policy_loss"] == pytest.approx(0.0, abs=1e-6)  # minus the mean of whitened advantages


def test_all_ratios_are_one_while_the_policy_does_not_move(folder: Path, tmp_path: Path) -> None:
    """Read again in other minibatches, padded to other widths: equal to the last digits of float32."""
    still = SMALL | {"learning_rate": 1e-30}
    settings = PPO(steps=1, epochs=3, minibatches=3, value_only_steps=0, clip=1e-5, **still)
    [row] = trained(folder, tmp_path, settings).watch.curve
    assert row["clip_fraction"] == 0.0


def test_with_dropout_the_ratio_would_not_be_one(tmp_path: Path) -> None:
    policy, _ = load_policy(saved(tmp_path / "mt5", "mt5"))
    settings = PPO(steps=1, epochs=2, minibatches=1, value_only_steps=0, clip=1e-5, **SMALL | {"learning_rate": 1e-30})
    problem = trained(tmp_path / "mt5", tmp_path / "scratch", settings, policy=policy.train())
    assert problem.watch.curve[0]["clip_fraction"] > 0


def test_minibatches_share_out_all_responses_in_an_order_of_their_own(tmp_path: Path) -> None:
    problem = bandit(saved(tmp_path / "model", "llama"), tmp_path, count_a, 1, 4)
    learner = ppo.Learner(problem, PPO(minibatches=3, **SMALL))
    orders = [learner._order(number, epoch) for number in (0, 1) for epoch in (0, 1)]
    assert all(sorted(i for part in order for i in part) == list(range(8)) for order in orders)
    assert [len(part) for part in orders[0]] == [3, 3, 2]
    assert len({str(order) for order in orders}) == 4 and learner._order(1, 1) == orders[3]


# --- phases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["own", "shared"])
def test_in_the_value_only_phase_the_policy_stays_and_the_value_model_learns(
    folder: Path, tmp_path: Path, value: Any
) -> None:
    settings = PPO(steps=6, value=value, value_only="inside", value_only_steps=6, **SMALL)
    problem = bandit(folder, tmp_path, count_a, 6, 4)
    before = weights(problem.policy)
    learner = ppo.Learner(problem, settings)
    fresh = {name: weight.clone() for name, weight in learner.value.state_dict().items()}
    rows = [learner.iterate(number) for number in range(6)]
    assert same(before, problem.policy.state_dict())
    assert all(weight.grad is None for weight in problem.policy.parameters()), "it would be in the first update"
    assert not same(fresh, learner.value.state_dict())
    assert rows[-1]["explained_variance"] > rows[0]["explained_variance"]
    assert all(row["kl_k1"] == 0 and "policy_loss" not in row for row in rows)


def test_a_value_only_phase_outside_is_not_counted_and_one_inside_is(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for where, name in (("outside", "a"), ("inside", "b")):
        settings = PPO(steps=4, value_only=where, value_only_steps=2, **SMALL)  # type: ignore[arg-type]
        problem = bandit(folder, tmp_path / name, count_a, 4, 4)
        problem.watch.progress = lambda done, total: seen.append((done, total))
        ppo.train(problem, settings)
        curve = problem.watch.curve
        assert [row["step"] for row in curve] == [1, 2, 3, 4]
        assert ["policy_loss" in row for row in curve] == [where == "outside"] * 2 + [True, True]
    assert [done for done, _ in seen] == [0, 1, 2, 2, 3, 4, 1, 2, 3, 4]
    assert {total for _, total in seen} == {4}


def test_learning_rates_rise_after_the_value_only_phase(folder: Path, tmp_path: Path) -> None:
    """Of 4 steps, 2 with the value model alone, a warm-up of 1: 1/2 and 1 of the policy's; outside, linear to zero."""
    shape: dict[str, Any] = {**SMALL, "warmup_steps": 1, "value_warmup_steps": 1, "learning_rate": 1.0, "steps": 4}
    problem = bandit(folder, tmp_path, count_a, 4, 4)
    inside = ppo.Learner(problem, PPO(value_only="inside", value_only_steps=2, **shape))
    assert [inside.rate(number) for number in (2, 3)] == [0.5, 1.0]
    outside = ppo.Learner(problem, PPO(value_only_steps=2, schedule="linear", **shape))
    assert [outside.rate(number) for number in (2, 3, 4, 5)] == [0.5, 1.0, 2 / 3, 1 / 3]
    assert [round(outside._value_rate(number) * 100, 6) for number in range(6)] == [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]


# --- value models -------------------------------------------------------------------------------------------


def test_a_value_model_may_begin_as_the_reward_model(folder: Path, tmp_path: Path) -> None:
    """In the standardised reward's units: of a mean of 3 and a deviation of 2, (reward - 3) / 2."""
    model, tokenizer = load_policy(folder)
    trunk = model if model.config.is_encoder_decoder else model.get_decoder()
    net = RewardNet(trunk, tokenizer, "last")
    torch.nn.init.normal_(net.head.weight, generator=torch.Generator().manual_seed(0))
    save_reward(tmp_path / "reward", net)
    problem = bandit(folder, tmp_path, count_a, 1, 4, rooms={"reward": tmp_path / "reward"}, standardised=(3.0, 2.0))
    rollout = Rollout(PROMPTS * 2, [[3, 4, 1], [5, 1]], torch.zeros(2))
    batch = rollout.batch(problem.policy, PAD, [0, 1])
    model = ppo.value_model(problem, PPO(value_init="reward"))
    values = ppo.values_of(model, batch, torch.empty(0)).detach()
    rewards = load_reward(tmp_path / "reward").trunk  # the same states, read by the reward model's own trunk
    assert torch.allclose(values[3:], (_rewards(net, rewards, problem) - 3) / 2, atol=1e-5)


def _rewards(net: RewardNet, trunk: Any, problem: Problem) -> Tensor:
    """Rewards of the beginnings of [5, 1]: nothing, and [5]."""
    found = []
    for said in ([], [5]):
        if trunk.config.is_encoder_decoder:
            ids, start = torch.tensor(PROMPTS), torch.tensor([[trunk.config.decoder_start_token_id, *said]])
            hidden = trunk(input_ids=ids, decoder_input_ids=start)[0]
        else:
            hidden = trunk(input_ids=torch.tensor([PROMPTS[0] + said]))[0]
        found.append(net.value(pool(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool), "last")))
    return torch.cat(found).detach()


# --- beta, and giving up ------------------------------------------------------------------------------------


def test_an_adaptive_beta_falls_below_its_target_and_rises_above(folder: Path, tmp_path: Path) -> None:
    start = {"steps": 6, "value_only_steps": 2, "kl_horizon": 100, "beta": 0.1}
    far = trained(folder, tmp_path / "a", PPO(target_kl=100.0, **start, **SMALL)).watch.curve
    assert [row["beta"] for row in far] == pytest.approx([0.1 * (1 - 0.2 * 8 / 100) ** i for i in range(6)])
    near = trained(folder, tmp_path / "b", PPO(target_kl=1e-6, **start, **SMALL)).watch.curve
    assert near[-1]["kl_k3"] > 1e-6 and near[-1]["beta"] > min(row["beta"] for row in near)
    fixed = trained(folder, tmp_path / "c", PPO(**start, **SMALL)).watch.curve
    assert {row["beta"] for row in fixed} == {0.1}


def test_a_reward_that_is_no_number_ends_training(folder: Path, tmp_path: Path) -> None:
    problem = bandit(folder, tmp_path, lambda ids: float("nan"), 3, 4)
    with pytest.raises(StageError, match="The reward of a response is nan"):
        ppo.train(problem, PPO(steps=3, **SMALL))
