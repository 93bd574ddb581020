"""Problems whose optimum is known: real models of either architecture over ten tokens, and a table of rewards."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models
from torch import Tensor

from xling.models.load import load_policy, save_policy
from xling.models.states import all_log_probabilities, predicting_states, responses_of
from xling.models.text import Ids
from xling.optimizers.problem import Problem, Watch

TOKENS = ["<pad>", "</s>", "a", "b", "c", "d", "e", "f", "g", "h"]
PAD, EOS = 0, 1
PROMPTS: list[Ids] = [[2, 3, 4, 1]]
KINDS = ("llama", "mt5")


def saved(folder: Path, kind: str) -> Path:
    """A model of random weights, of a scale at which its distribution is far from uniform."""
    sizes: dict[str, Any] = {"vocab_size": len(TOKENS), "pad_token_id": PAD, "eos_token_id": EOS}
    model: Any
    if kind == "llama":
        model = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=2,
                **sizes,
            )
        )
    else:
        model = hf.MT5ForConditionalGeneration(
            hf.MT5Config(
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=2,
                dropout_rate=0.1,
                decoder_start_token_id=0,
                **sizes,
            )
        )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<pad>"))
    save_policy(folder, model, hf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>"))
    return folder


def problem(
    folder: Path,
    scratch: Path,
    reward: Callable[[Ids], float],
    steps: int,
    max_new_tokens: int = 1,
    every: int = 5,
    **changed: Any,
) -> Problem:
    """The problem of a saved model: `reward` of each response's tokens."""
    policy, tokenizer = load_policy(folder, dropout=0.0)
    reference, _ = load_policy(folder, dropout=0.0)
    scratch.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "policy": policy,
        "reference": reference.requires_grad_(False),
        "tokenizer": tokenizer,
        "names": [f"en/{i}" for i in range(len(PROMPTS))],
        "prompts": PROMPTS,
        "reward": lambda numbers, said: [[reward(ids) for ids in row] for row in said],
        "max_new_tokens": max_new_tokens,
        "seed": 3,
        "watch": Watch(lambda _: {"reward": 0.0, "kl": 0.0, "entropy": 1.0}, steps, every, 0.1, "last", None, _ignore),
        "scratch": scratch,
        "stopping": lambda: False,
        "rooms": {"sft": folder},
    }
    return Problem(**settings | changed)


def _ignore(done: int, total: int) -> None:
    pass


def outcomes(length: int) -> list[Ids]:
    """Every response of up to `length` tokens: eos ends it."""
    if length == 0:
        return [[]]
    return [[EOS]] + [[token, *rest] for token in range(len(TOKENS)) if token != EOS for rest in outcomes(length - 1)]


@torch.no_grad()
def distribution(model: Any, said: list[Ids]) -> Tensor:
    """(len(said),) probabilities of responses to the one prompt."""
    batch = responses_of(model, PROMPTS * len(said), said, PAD)
    every = all_log_probabilities(model, predicting_states(model, batch))
    log_p = every.gather(-1, batch.ids[..., None])[..., 0]
    return (log_p * batch.mask).sum(1).exp()


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


def weights_of(problem: Problem) -> Mapping[str, Tensor]:
    return {name: value.clone() for name, value in problem.policy.state_dict().items()}
