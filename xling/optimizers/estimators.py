"""What policy gradients are made of, each as a function of tensors: no model, no state, nothing random.

(B, R): B responses, padded on the right to R tokens; `mask` is True on a response's own tokens, eos included.
"""

import torch
from torch import Tensor

SMALL = 1e-8  # beside a standard deviation that may be 0


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of `mask`: a scalar."""
    return (values * mask).sum() / mask.sum()


def kl_k1(log_p: Tensor, log_q: Tensor, mask: Tensor) -> Tensor:
    """(B,) nats a response: sum over tokens of log p - log q, for tokens drawn from p.

    The estimator k1 of KL(p || q) of Schulman (2020), "Approximating KL divergence": unbiased, negative at times.
    """
    return ((log_p - log_q) * mask).sum(1)


def kl_k3(log_p: Tensor, log_q: Tensor, mask: Tensor) -> Tensor:
    """(B,) nats a response: sum over tokens of (r - 1) - log r with r = q / p, for tokens drawn from p.

    The estimator k3 of Schulman (2020): unbiased too (the mean of r - 1 is 0), never negative.
    """
    log_r = log_q - log_p
    return ((log_r.exp() - 1 - log_r) * mask).sum(1)


def token_rewards(rewards: Tensor, log_p: Tensor, log_reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """(B, R): -beta (log p - log p_SFT) of each token, and the response's reward (B,) on its last one.

    Ziegler et al. (2019), "Fine-tuning language models from human preferences", section 2.
    """
    penalised = -beta * (log_p - log_reference) * mask
    last = mask.sum(1, keepdim=True) - 1
    return penalised.scatter_add(1, last, rewards[:, None].to(penalised.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """(B, R) advantages: A_t = d_t + gamma lam A_(t+1) with d_t = r_t + gamma V_(t+1) - V_t; 0 outside the mask.

    V is 0 after the last token: a response that was cut has ended too, since its reward stands there.
    Schulman et al. (2016), "High-dimensional continuous control using generalized advantage estimation", equation 16.
    """
    advantages = torch.zeros_like(values)
    ahead = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        ahead = (delta + gamma * lam * ahead) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = ahead
    return advantages


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """(B, R) with mean 0 and standard deviation 1 over the tokens of `mask`, 0 outside; all 0 where all are equal.

    Huang et al. (2022), "The 37 implementation details of proximal policy optimization", detail 7.
    """
    centred = (values - masked_mean(values, mask)) * mask
    return centred / (masked_mean(centred.square(), mask).sqrt() + SMALL)


def clipped_policy_loss(log_p: Tensor, log_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Scalar: minus the mean over tokens of min(rho A, clamp(rho, 1 - clip, 1 + clip) A), rho = p / p_old.

    Schulman et al. (2017), "Proximal policy optimization algorithms", equation 7.
    """
    ratio = (log_p - log_old).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(objective, mask)


def clip_fraction(log_p: Tensor, log_old: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Scalar: the share of tokens with |rho - 1| > clip (Huang et al. 2022, detail 12)."""
    return masked_mean((((log_p - log_old).exp() - 1).abs() > clip).to(log_p.dtype), mask)


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Scalar: half the mean over tokens of max((V - G)^2, (V_old + clamp(V - V_old, -clip, clip) - G)^2).

    clip None: half the mean squared error. Huang et al. (2022), detail 9.
    """
    errors = (values - returns).square()
    if clip is not None:
        errors = torch.maximum(errors, (old + (values - old).clamp(-clip, clip) - returns).square())
    return masked_mean(errors, mask) / 2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Scalar, at most 1: 1 - Var(G - V) / Var(G) over tokens; 0 where all returns are equal."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    total = variance(returns)
    return torch.where(total > 0, 1 - variance(returns - values) / total.clamp_min(SMALL**2), torch.zeros_like(total))


def adapted_beta(beta: float, kl: float, target: float, responses: int, horizon: int) -> float:
    """beta (1 + clamp(kl / target - 1, -0.2, 0.2) responses / horizon): the next step's beta.

    Ziegler et al. (2019), section 2.2, with the step size of their code: a share of `horizon` responses.
    """
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * responses / horizon)


def leave_one_out(rewards: Tensor) -> Tensor:
    """(P, k) rewards of k responses a prompt -> (P, k) advantages: r_i - the mean of the prompt's other k - 1.

    Ahmadian et al. (2024), "Back to basics: Revisiting REINFORCE-style optimization", equation 8 (Kool et al. 2019).
    """
    k = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (k - 1)


def reinforce_loss(log_p: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Scalar: minus the mean over responses of A (B,) times the sum of log p (B, R) over the response's tokens.

    Williams (1992); a response is one action (Ahmadian et al. 2024, section 3.1).
    """
    return -(advantages * (log_p * mask).sum(1)).mean()
