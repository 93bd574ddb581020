"""Small problems for optimizers: a tiny policy of either architecture, a few prompts, a reward of token ids.

`bandit` has ten tokens and an optimum that is known; `problem_of` has prompts of words, and is measured by samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models
from torch import Tensor

from xling.models.load import load_policy, save_policy
from xling.models.sampling import sample_chunk
from xling.models.states import all_log_probabilities, predicting_states, responses_of
from xling.models.text import Ids, prompt_ids
from xling.optimizers.problem import Pool, Problem, Reward, Row, Watch

KINDS = ("llama", "mt5")
BANDIT_TOKENS = ["<pad>", "</s>", "a", "b", "c", "d", "e", "f", "g", "h"]
PAD, EOS = 0, 1
PROMPTS: list[Ids] = [[2, 3, 4, 1]]
TEXTS = [f"Who saw the {thing}?" for thing in ("sea", "hill", "boat", "old house", "red bird", "two dogs")]
TOKENS = 6  # of a response of `problem_of` at most


def _problem(
    sft: Path, scratch: Path, reward: Reward, tokens: int, watch: Watch, seed: int = 3, **changed: Any
) -> Problem:
    """The policy in `sft` (decoder-only or encoder-decoder), without dropout, on the one prompt of the bandit."""
    scratch.mkdir(parents=True, exist_ok=True)
    (policy, tokenizer), (reference, _) = load_policy(sft, dropout=0.0), load_policy(sft, dropout=0.0)
    settings: dict[str, Any] = {
        "policy": policy,
        "reference": reference.requires_grad_(False),
        "tokenizer": tokenizer,
        "names": ["en/0"],
        "prompts": PROMPTS,
        "reward": reward,
        "max_new_tokens": tokens,
        "seed": seed,
        "watch": watch,
        "scratch": scratch,
        "stopping": lambda: False,
        "rooms": {"sft": sft},
    }
    return Problem(**settings | changed)


# --- ten tokens, and an optimum that is known ---------------------------------------------------------------


def saved(folder: Path, kind: str, width: int = 16, seed: int = 5) -> Path:
    """A model of random weights, of a scale at which its distribution is far from uniform."""
    sizes: dict[str, Any] = {"vocab_size": len(BANDIT_TOKENS), "pad_token_id": PAD, "eos_token_id": EOS}
    model: Any
    if kind == "llama":
        model = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=2,
                **sizes,
            )
        )
    else:
        model = hf.MT5ForConditionalGeneration(
            hf.MT5Config(
                d_model=width,
                d_kv=width // 2,
                d_ff=2 * width,
                num_layers=2,
                num_heads=2,
                dropout_rate=0.1,
                decoder_start_token_id=0,
                **sizes,
            )
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(BANDIT_TOKENS)}, unk_token="<pad>"))
    save_policy(folder, model, hf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>"))
    return folder


def bandit(
    folder: Path,
    scratch: Path,
    reward: Callable[[Ids], float],
    steps: int,
    max_new_tokens: int = 1,
    every: int = 5,
    **changed: Any,
) -> Problem:
    """The problem of a saved model: `reward` of each response's tokens."""
    watch = Watch(
        lambda _: {"reward": 0.0, "kl": 0.0, "entropy": 1.0}, steps, every, 0.1, "last", None, lambda done, total: None
    )
    rewards: Reward = lambda numbers, said: [[reward(ids) for ids in row] for row in said]  # noqa: E731
    return _problem(folder, scratch, rewards, max_new_tokens, watch, **changed)


def outcomes(length: int) -> list[Ids]:
    """Every response of up to `length` tokens: eos ends it."""
    if length == 0:
        return [[]]
    return [[EOS]] + [
        [token, *rest] for token in range(len(BANDIT_TOKENS)) if token != EOS for rest in outcomes(length - 1)
    ]


def log_distribution(model: Any, said: list[Ids]) -> Tensor:
    """(len(said),) log-probabilities of responses to the one prompt."""
    batch = responses_of(model, PROMPTS * len(said), said, PAD)
    every = all_log_probabilities(model, predicting_states(model, batch))
    log_p = every.gather(-1, batch.ids[..., None])[..., 0]
    return (log_p * batch.mask).sum(1)


@torch.no_grad()
def distribution(model: Any, said: list[Ids]) -> Tensor:
    """(len(said),) probabilities of responses to the one prompt."""
    return log_distribution(model, said).exp()


def with_pool(problem: Problem, said: list[Ids], p: Tensor, rewards: Sequence[float], prompts: int, n: int) -> None:
    """The one prompt becomes `prompts` of the same tokens, each with n of `said`, drawn with probabilities `p`."""
    generator = torch.Generator().manual_seed(problem.seed)
    rows = torch.multinomial(p, prompts * n, True, generator=generator).view(prompts, n).tolist()
    problem.names, problem.prompts = [f"en/{i}" for i in range(prompts)], PROMPTS * prompts
    responses, values = ([[column[i] for i in row] for row in rows] for column in (said, rewards))
    problem.pool = Pool(list(range(prompts)), responses, values)  # type: ignore[arg-type]


def optimum(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """pi* = pi_SFT exp(r / beta) / Z, which maximises E[r] - beta KL(pi || pi_SFT)."""
    weights = reference * (rewards / beta).exp()
    return weights / weights.sum()


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of |p - q|: 0 to 1."""
    return float((p - q).abs().sum() / 2)


def table(count: int, seed: int = 0) -> list[float]:
    """Rewards of mean 0 and standard deviation 1."""
    drawn = np.random.default_rng(seed).standard_normal(count)
    return [float(value) for value in (drawn - drawn.mean()) / drawn.std()]


# --- prompts of words, measured by samples ------------------------------------------------------------------


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
    """The policy in `sft` against `LikesLowIds`, measured by fresh samples."""
    watch = Watch(lambda _: {}, steps, every, beta, keep, kl_budget, lambda done, total: None)
    problem = _problem(sft, scratch, lambda numbers, said: [], TOKENS, watch, seed, stopping=stopping)
    config, tokenizer = problem.policy.config, problem.tokenizer
    problem.names = [f"en/{number}" for number in range(len(texts))]
    problem.prompts = prompt_ids(tokenizer, texts, encoder=config.is_encoder_decoder)
    problem.reward = LikesLowIds(config.vocab_size // 2, int(tokenizer.eos_token_id))
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
