"""What PPO and RLOO have in common: a step's responses with their rewards, and how a model sees them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xling.errors import StageError
from xling.models.responses import Responses, all_log_probabilities, predicting_states, responses_of
from xling.models.sampling import sample_chunk
from xling.models.text import Ids
from xling.optimizers.problem import Problem, prompts_of_step
from xling.optimizers.watch import Row

ROWS_TOGETHER = 128  # responses that are decoded together


@dataclass(frozen=True)
class Rollout:
    """Responses of the policy as it is, those to one prompt side by side."""

    prompts: list[Ids]  # one a response
    responses: list[Ids]  # eos last where it came
    rewards: Tensor  # (B,) standardised

    def batch(self, model: Any, pad: int, rows: Sequence[int]) -> Responses:
        """Some of them, ready to be read."""
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
    chosen = prompts_of_step(len(problem.prompts), prompts, problem.seed, number)
    names, how = _stream_names(problem, chosen), problem.sampling(f"rollout/{number}", n)
    said: list[list[Ids]] = []
    together = max(1, ROWS_TOGETHER // n)
    for start in range(0, len(chosen), together):
        part = slice(start, start + together)
        rows = [problem.prompts[i] for i in chosen[part]]
        said += sample_chunk(problem.policy, problem.tokenizer, names[part], rows, how)
    rewards = torch.tensor(problem.reward(chosen, said), dtype=torch.float32, device=problem.policy.device).flatten()
    wrong = rewards[~rewards.isfinite()]
    if len(wrong):
        raise StageError(f"The reward of a response is {float(wrong[0])}. Train the reward model again (mode=force).")
    return Rollout(
        [problem.prompts[i] for i in chosen for _ in range(n)], [ids for row in said for ids in row], rewards
    )


def _stream_names(problem: Problem, chosen: Sequence[int]) -> list[str]:
    """Names of random streams; a prompt that comes several times in one step has a stream each time."""
    seen: Counter[int] = Counter()
    names = []
    for i in chosen:
        names.append(f"{problem.names[i]}#{seen[i]}" if seen[i] else problem.names[i])
        seen[i] += 1
    return names


def token_scores(model: Any, batch: Responses, states: Tensor, entropy: bool = False) -> tuple[Tensor, Tensor]:
    """(B, R) log-probabilities in nats of the responses' tokens, 0 on padding; (B, R) entropies, or 0 if not asked for.

    states: (T, D), of the T tokens of the mask alone: nothing is computed for padding.
    """
    every = all_log_probabilities(model, states)
    said = every.gather(-1, batch.ids[batch.mask][:, None])[:, 0]
    spread_out = torch.zeros(batch.mask.shape, dtype=said.dtype, device=said.device)
    if entropy:
        with torch.no_grad():
            spread_out = spread(-(every.exp() * every).sum(-1), batch.mask)
    return spread(said, batch.mask), spread_out


@torch.no_grad()
def log_probabilities_under(model: Any, batch: Responses) -> Tensor:
    """(B, R) log-probabilities in nats of the responses' tokens, without gradients; 0 on padding."""
    return token_scores(model, batch, predicting_states(model, batch)[batch.mask])[0]


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """(T,) numbers of the tokens of `mask` (B, R) -> (B, R), 0 on padding."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
