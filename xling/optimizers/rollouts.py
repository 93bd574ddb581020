"""What ppo and rloo have in common: a step's responses with their rewards, how a model reads them, KL estimates.

(B, R): B responses, padded on the right to R tokens; a `mask` is True on a response's own tokens, eos included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xling.errors import StageError
from xling.models.text import Ids
from xling.optimizers.problem import Problem, Row, prompts_of_step

if TYPE_CHECKING:
    from torch import Tensor

    from xling.models.states import Responses

ROWS_TOGETHER = 128  # responses that are decoded together


@dataclass(frozen=True)
class Rollout:
    """Responses of the policy as it is, those to one prompt side by side."""

    prompts: list[Ids]  # one a response
    responses: list[Ids]  # eos last where it came
    rewards: Tensor  # (B,) standardised

    def batch(self, model: Any, pad: int, rows: Sequence[int]) -> Responses:
        """Some of them, ready to be read."""
        from xling.models.states import responses_of

        return responses_of(model, [self.prompts[i] for i in rows], [self.responses[i] for i in rows], pad)

    def row(self, eos: int) -> Row:
        """Mean reward, mean length in tokens (eos counted), and the share that ended by itself."""
        count = len(self.responses)
        return {
            "reward": float(self.rewards.mean()),
            "length": sum(map(len, self.responses)) / count,
            "eos": sum(response[-1] == eos for response in self.responses) / count,
        }


def roll_out(problem: Problem, number: int, prompts: int, n: int = 1) -> Rollout:
    """n responses to each of the prompts of iteration `number`, by pure sampling from streams of their own."""
    import torch

    from xling.models.sampling import sample_chunk

    chosen = prompts_of_step(len(problem.prompts), prompts, problem.seed, number)
    names, how = _stream_names(problem, chosen), problem.sampling(f"rollout/{number}", n)
    groups: list[list[Ids]] = []
    together = max(1, ROWS_TOGETHER // n)
    for start in range(0, len(chosen), together):
        part = slice(start, start + together)
        rows = [problem.prompts[i] for i in chosen[part]]
        groups += sample_chunk(problem.policy, problem.tokenizer, names[part], rows, how)
    rewards = torch.tensor(problem.reward(chosen, groups), dtype=torch.float32, device=problem.policy.device).flatten()
    wrong = rewards[~rewards.isfinite()]
    if len(wrong):
        raise StageError(f"The reward of a response is {float(wrong[0])}. Train the reward model again (mode=force).")
    return Rollout(
        [problem.prompts[i] for i in chosen for _ in range(n)], [ids for group in groups for ids in group], rewards
    )


def _stream_names(problem: Problem, chosen: Sequence[int]) -> list[str]:
    """Names of random streams; a prompt that comes several times in one step has a stream each time."""
    seen: Counter[int] = Counter()
    names = []
    for i in chosen:
        names.append(f"{problem.names[i]}#{seen[i]}" if seen[i] else problem.names[i])
        seen[i] += 1
    return names


# --- how a model reads them ---------------------------------------------------------------------------------


def token_scores(model: Any, batch: Responses, states: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor]:
    """(B, R) log-probabilities in nats of the responses' tokens, 0 on padding; (B, R) entropies, or 0 if not asked for.

    states: (T, D), of the T tokens of the mask alone: nothing is computed for padding. Entropies have no gradient.
    """
    from xling.models.states import all_log_probabilities

    every = all_log_probabilities(model, states)  # (T, V)
    log_p = every.gather(-1, batch.ids[batch.mask][:, None])[:, 0]
    entropies = log_p.new_zeros(batch.mask.shape)
    if entropy:
        fixed = every.detach()
        entropies = spread(-(fixed.exp() * fixed).sum(-1), batch.mask)
    return spread(log_p, batch.mask), entropies


def log_probabilities_under(model: Any, batch: Responses) -> Tensor:
    """(B, R) log-probabilities in nats of the responses' tokens, without gradients; 0 on padding."""
    import torch

    from xling.models.states import predicting_states

    with torch.no_grad():
        return token_scores(model, batch, predicting_states(model, batch)[batch.mask])[0]


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """(T,) numbers of the tokens of `mask` (B, R) -> (B, R), 0 on padding."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


# --- estimates ----------------------------------------------------------------------------------------------


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
