"""A small problem for every optimizer: a tiny policy of either architecture, a few prompts, a reward of toy texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xling.models.load import load_policy
from xling.models.sampling import sample_chunk
from xling.models.states import all_log_probabilities, predicting_states, responses_of
from xling.models.text import Ids, prompt_ids
from xling.optimizers.problem import Problem, Row, Watch

TEXTS = [f"Who saw the {thing}?" for thing in ("sea", "hill", "boat", "old house", "red bird", "two dogs")]
TOKENS = 6  # of a response at most


@dataclass(frozen=True)
class LikesLowIds:
    """Rewards the share of a response's tokens, eos left out, whose number is below half the vocabulary's: 1 or 0 each.

    Standardised roughly: around 0, spread about 1.
    """

    half: int
    eos: int

    def __call__(self, numbers: Sequence[int], responses: Sequence[Sequence[Ids]]) -> list[list[float]]:
        assert len(numbers) == len(responses)
        return [[self._one(ids) for ids in group] for group in responses]

    def _one(self, ids: Ids) -> float:
        said = [token for token in ids if token != self.eos]
        return 4.0 * (sum(token < self.half for token in said) / len(said) - 0.5) if said else 0.0


def measure_with(problem: Problem, samples: int = 4) -> Callable[[Any], Row]:
    """Mean reward, KL divergence from the reference (nats a response) and entropy (nats a token) of fresh samples."""

    @torch.inference_mode()
    def measure(policy: Any) -> Row:
        how = problem.sampling("validation", samples)
        groups = sample_chunk(policy, problem.tokenizer, problem.names, problem.prompts, how)
        rewards = problem.reward(range(len(groups)), groups)
        prompts = [prompt for prompt in problem.prompts for _ in range(samples)]
        batch = responses_of(policy, prompts, [ids for group in groups for ids in group], problem.pad)
        ours, theirs = (
            all_log_probabilities(model, predicting_states(model, batch)) for model in (policy, problem.reference)
        )
        kl, entropy = (ours.exp() * (ours - theirs)).sum(-1), -(ours.exp() * ours).sum(-1)
        return {
            "reward": float(torch.tensor(rewards).mean()),
            "kl": float((kl * batch.mask).sum() / len(batch)),
            "entropy": float(entropy[batch.mask].mean()),
        }

    return measure


def problem_of(
    sft: Path,
    scratch: Path,
    steps: int,
    every: int = 5,
    beta: float = 0.1,
    keep: str = "last",
    kl_budget: float | None = 50.0,
    seed: int = 3,
    texts: Sequence[str] = TEXTS,
    stopping: Callable[[], bool] = lambda: False,
) -> Problem:
    """The policy in `sft` (decoder-only or encoder-decoder), without dropout, against `LikesLowIds`."""
    scratch.mkdir(exist_ok=True)
    (policy, tokenizer), (reference, _) = load_policy(sft, dropout=0.0), load_policy(sft, dropout=0.0)
    problem = Problem(
        policy,
        reference.requires_grad_(False),
        tokenizer,
        [f"en/{number}" for number in range(len(texts))],
        prompt_ids(tokenizer, texts, encoder=policy.config.is_encoder_decoder),
        LikesLowIds(policy.config.vocab_size // 2, int(tokenizer.eos_token_id)),
        TOKENS,
        seed,
        Watch(lambda _: {}, steps, every, beta, keep, kl_budget, lambda done, total: None),
        scratch,
        stopping,
        {"sft": sft},
    )
    problem.watch.measure = measure_with(problem)
    return problem


def disturb(model: Any, scale: float = 0.02) -> None:
    """Move the model's weights a little, always in the same way."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(scale * noise.to(parameter.device))


def weights(policy: Any) -> dict[str, torch.Tensor]:
    """A copy of the policy's weights."""
    return {name: value.detach().clone() for name, value in policy.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all weights are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
