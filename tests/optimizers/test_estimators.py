"""Estimators against numbers worked out by hand, which stand beside each test."""

from math import exp, inf, log, sqrt

import pytest
import torch
from torch import Tensor

from xling.optimizers import ppo, rloo, training

MASK = torch.tensor([[True, True, True], [True, True, False]])


def near(found: Tensor, wanted: object) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_masked_mean_leaves_padding_out() -> None:
    near(training.masked_mean(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]]), MASK), 3.0)  # 15 / 5


# p = (1/2, 1/4), q = (1/4, 1/2); then p = (1/2), q = (1/8) and a token of padding
P = torch.tensor([[1 / 2, 1 / 4], [1 / 2, 1.0]]).log()
Q = torch.tensor([[1 / 4, 1 / 2], [1 / 8, 1 / 7]]).log()
TWO = torch.tensor([[True, True], [True, False]])


def test_k1_is_the_sum_of_log_ratios() -> None:
    near(training.kl_k1(P, Q, TWO), [0.0, 1.386294])  # log 2 - log 2; log 4


def test_k3_is_the_sum_of_ratios_less_one_less_their_logarithms() -> None:
    # r = 1/2: -1/2 + log 2 = 0.193147; r = 2: 1 - log 2 = 0.306853; r = 1/4: -3/4 + log 4 = 0.636294
    near(training.kl_k3(P, Q, TWO), [0.5, 0.636294])


def test_both_are_unbiased() -> None:
    """Over all tokens, weighted by p: KL((0.5, 0.3, 0.2) || (0.2, 0.5, 0.3)) = 0.223805."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    one = torch.ones(3, 1, dtype=torch.bool)
    for estimator in (training.kl_k1, training.kl_k3):
        near((p * estimator(p.log()[:, None], q.log()[:, None], one)).sum(), 0.223805)


def test_the_penalty_is_paid_token_by_token_and_the_reward_comes_last() -> None:
    # beta = 1/2: -log(2) / 2 = -0.346574 and + 0.346574; the reward on the last token of each response
    found = ppo.token_rewards(torch.tensor([1.0, -2.0]), P, Q, TWO, 0.5)
    near(found, [[-0.346574, 1.346574], [-2.693147, 0.0]])  # -log(4) / 2 - 2


REWARDS = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
VALUES = torch.tensor([[0.5, 0.25, 0.5], [1.0, 1.0, 7.0]])


def test_gae() -> None:
    """gamma = 1/2, lam = 1/2, backwards.

    First response: d = 1 - 0.5 = 0.5; d = 0.5 x 0.5 - 0.25 = 0; d = 0.5 x 0.25 - 0.5 = -0.375;
    A = 0.5; 0 + 0.5 / 4 = 0.125; -0.375 + 0.125 / 4 = -0.34375. Second: A = 1; 1 + 0.5 - 1 + 1 / 4 = 0.75.
    """
    near(ppo.gae(REWARDS, VALUES, MASK, 0.5, 0.5), [[-0.34375, 0.125, 0.5], [0.75, 1.0, 0.0]])


def test_gae_with_lam_1_is_what_comes_less_the_value() -> None:
    # to come: 1, 1, 1; 3, 2
    near(ppo.gae(REWARDS, VALUES, MASK, 1.0, 1.0), [[0.5, 0.75, 0.5], [2.0, 1.0, 0.0]])


def test_gae_with_lam_0_is_the_error_of_one_step() -> None:
    # 0.25 - 0.5; 0.5 - 0.25; 1 - 0.5; 1 + 1 - 1; 2 - 1
    near(ppo.gae(REWARDS, VALUES, MASK, 1.0, 0.0), [[-0.25, 0.25, 0.5], [1.0, 1.0, 0.0]])


def test_whitening() -> None:
    # mean 3, variance (4 + 1 + 0 + 1 + 4) / 5 = 2
    found = ppo.whiten(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]]), MASK)
    near(found, [[-sqrt(2), -sqrt(1 / 2), 0.0], [sqrt(1 / 2), sqrt(2), 0.0]])


def test_whitening_what_does_not_vary_gives_zeros() -> None:
    near(ppo.whiten(torch.full((2, 3), 4.0), MASK), [[0.0] * 3] * 2)


RATIOS = torch.tensor([[2.0, 2.0, 0.5], [0.5, 1.1, 9.0]])
ADVANTAGES = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 2.0, 9.0]])


def test_clipped_policy_loss() -> None:
    # min(2, 1.2) = 1.2; min(-2, -1.2) = -2; min(0.5, 0.8) = 0.5; min(-0.5, -0.8) = -0.8; 2.2: in all 1.1, over 5
    near(ppo.clipped_policy_loss(RATIOS.log(), torch.zeros(2, 3), ADVANTAGES, MASK, 0.2), -0.22)


def test_no_gradient_where_the_ratio_has_gone_far_enough() -> None:
    ratio = RATIOS.log().requires_grad_()
    ppo.clipped_policy_loss(ratio, torch.zeros(2, 3), ADVANTAGES, MASK, 0.2).backward()
    assert ratio.grad is not None  # -A rho / 5 where the unclipped term is the smaller one
    near(ratio.grad, [[0.0, 0.4, -0.1], [0.0, -0.44, 0.0]])


def test_clip_fraction() -> None:
    near(ppo.clip_fraction(RATIOS.log(), torch.zeros(2, 3), MASK, 0.2), 0.8)  # all but 1.1
    near(ppo.clip_fraction(torch.zeros(2, 3), torch.zeros(2, 3), MASK, 0.2), 0.0)


def test_clipped_value_loss() -> None:
    """Old 0; V = 1, -1, 0.1, 0.1, 1; G = 1, 0, 1, -1, 2; clipped to 0.2, -0.2, 0.1, 0.1, 0.2.

    max(0, 0.64) + max(1, 0.04) + 0.81 + 1.21 + max(1, 3.24) = 6.9, over 5 and 2: 0.69. Unclipped 4.02: 0.402.
    """
    values = torch.tensor([[1.0, -1.0, 0.1], [0.1, 1.0, 50.0]])
    returns = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 2.0, 0.0]])
    near(ppo.clipped_value_loss(values, torch.zeros(2, 3), returns, MASK, 0.2), 0.69)
    near(ppo.clipped_value_loss(values, torch.zeros(2, 3), returns, MASK, None), 0.402)


def test_explained_variance() -> None:
    """G = 1 ... 5 with variance 2; V wrong by 1, 0, 0, 0, -1 with variance 2/5: 1 - 0.2."""
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    values = torch.tensor([[0.0, 2.0, 3.0], [4.0, 6.0, 8.0]])
    near(ppo.explained_variance(values, returns, MASK), 0.8)
    near(ppo.explained_variance(torch.zeros(2, 3), returns, MASK), 0.0)
    near(ppo.explained_variance(values, torch.ones(2, 3), MASK), 0.0)


@pytest.mark.parametrize(
    ("kl", "wanted"),
    [(6.0, 0.1), (6.6, 0.10064), (12.0, 0.10128), (0.0, 0.09872)],  # 0.1 (1 + e 64 / 1000), e = 0, 0.1, 0.2, -0.2
)
def test_beta_follows_the_kl_to_its_target(kl: float, wanted: float) -> None:
    assert ppo.adapted_beta(0.1, kl, 6.0, 64, 1000) == pytest.approx(wanted)


def test_leave_one_out() -> None:
    # 1 - (2 + 6) / 2; 2 - (1 + 6) / 2; 6 - (1 + 2) / 2
    near(rloo.leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])), [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]])


def test_reinforce_loss_weighs_whole_responses() -> None:
    log_p = torch.tensor([[log(1 / 2), log(1 / 2), -inf], [log(1 / 4), -3.0, -1.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    log_p = log_p.masked_fill(~mask, 0.0).requires_grad_()
    loss = rloo.reinforce_loss(log_p, torch.tensor([2.0, -1.0]), mask)
    near(loss.detach(), log(4) - log(4) / 2)  # -(2 x -log 4 + log 4) / 2
    loss.backward()
    assert log_p.grad is not None
    near(log_p.grad, [[-1.0, -1.0, 0.0], [0.5, 0.0, 0.0]])


def test_k3_never_falls_below_zero_where_k1_does() -> None:
    log_p, log_q = torch.tensor([[-2.0]]), torch.tensor([[-1.0]])
    one = torch.ones(1, 1, dtype=torch.bool)
    near(training.kl_k1(log_p, log_q, one), [-1.0])
    near(training.kl_k3(log_p, log_q, one), [exp(1) - 2])
