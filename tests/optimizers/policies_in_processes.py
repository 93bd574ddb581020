"""Trainings of policies, written down: in one process or, by torchrun, in several.

python tests/optimizers/policies_in_processes.py FOLDER RUN...      torchrun --nproc-per-node 2 ... the same
A run: NAME, or NAME=SCRATCH=STOP. FOLDER/models has what `models` makes.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from families import tokenizer
from in_processes import main
from problems import TEXTS, measure_with, problem_of

from xling.config.policies import Lora
from xling.grid.stage import Interrupted
from xling.models import parallel, states
from xling.models.load import load_policy, save_policy
from xling.models.text import Ids
from xling.models.training import core, trainable
from xling.optimizers import OPTIMIZERS, by_trl, dpo, grpo, ppo, rloo
from xling.optimizers.problem import Pool, Problem
from xling.rewards.networks import RewardNet
from xling.stages.align import Models

STEPS = 6


class Case(NamedTuple):
    """A training of a model (llama or mt5)."""

    model: str
    trainer: str  # ppo, ppo shared, rloo, dpo or dpo in rounds; trl's: grpo, trl rloo
    how: str  # ddp, fsdp or layers
    optimizer: str = "adamw"
    micro: int | None = None
    lora: bool = False

    @property
    def name(self) -> str:
        words = (*self[:4], f"micro {self.micro}" if self.micro else "", "lora" if self.lora else "")
        return "-".join(word.replace(" ", "-") for word in words if word)


CASES = [
    Case("llama", "ppo", "fsdp"),
    Case("llama", "ppo shared", "ddp", micro=1),
    Case("llama", "rloo", "ddp", "adafactor"),
    Case("llama", "dpo", "layers", "adafactor", micro=1),
    Case("mt5", "ppo shared", "fsdp", "adafactor"),
    Case("mt5", "rloo", "layers", micro=1),
    Case("mt5", "dpo 2", "ddp"),
    Case("llama", "ppo", "layers", lora=True),
    Case("llama", "dpo", "fsdp", lora=True),
    Case("llama", "grpo", "ddp"),
    Case("llama", "trl rloo", "ddp", "adafactor", micro=2, lora=True),
]


def models(folder: Path) -> None:
    """As they are begun with: far from certain, so that a few steps do not make a rounding error large."""
    sizes: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1}
    for name in ("llama", "mt5"):
        torch.manual_seed(0)
        pieces = tokenizer(name)
        sizes["vocab_size"] = len(pieces)
        model: Any
        if name == "llama":
            model = hf.LlamaForCausalLM(
                hf.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                               num_key_value_heads=2, bos_token_id=2, **sizes)
            )  # fmt: skip
        else:
            model = hf.MT5ForConditionalGeneration(
                hf.MT5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, **sizes)
            )
        save_policy(folder / name, model, pieces)


def settings_of(case: Case) -> Any:
    peak = 1e-3 if case.model == "llama" else 1e-4  # an mT5 begins far from even
    same: dict[str, Any] = {"steps": STEPS, "batch_size": 8, "learning_rate": peak, "warmup_steps": 2, "eval_every": 3}
    same |= {"optimizer": case.optimizer, "micro_batch_size": case.micro, "keep": "best"}
    if case.trainer.startswith("dpo"):
        return dpo.Settings(rounds=int(case.trainer[4:] or 1), n=3, **same)
    if case.trainer == "grpo":
        return grpo.Settings(k=4, **same)
    if case.trainer == "trl rloo":
        return rloo.Settings(k=4, **same)
    if case.trainer == "rloo":
        return rloo.Settings(trainer="own", k=4, **same)
    value: Any = case.trainer.partition(" ")[2] or "own"
    return ppo.Settings(value=value, value_only_steps=2, value_learning_rate=peak, target_kl=1.0, **same)


def train(case: Case, where: Path, scratch: Path, stop: int | None) -> dict[str, Any] | None:
    """The curve, all responses that were sampled, and a sum of the weights that are kept; None: stopped."""
    settings, asked = settings_of(case), list[int]()
    states.VOCABULARY_AT_ONCE = 4 * len(tokenizer(case.model))  # processes make logits of different numbers of chunks
    scratch.mkdir(parents=True, exist_ok=True)
    problem = problem_of(where / case.model, scratch, STEPS, keep="best", texts=TEXTS * 2)
    problem.names = [f"en/{number}" for number in range(len(problem.prompts))]
    problem.watch.progress = lambda done, total: asked.append(done)
    problem.stopping = lambda: len(asked) == stop
    policy = whole = problem.policy
    if case.lora:
        torch.manual_seed(0)
        whole, _ = trainable(where / case.model, "lora", Lora(r=2, alpha=4), 0.0, case.optimizer)
        problem.policy = problem.reference = policy = core(whole).eval()
    problem.parallel = case.how
    problem.watch.measure = measure_with(replace(problem))  # with the reward as it is
    said = _sampled(problem)
    problem.pool = _pool(problem)
    parallel.join(torch.device("cpu"))
    problem.spread = whole if by_trl(settings, False) else parallel.spread(whole, case.how)
    if not case.lora:
        problem.reference = parallel.spread(problem.reference, case.how)
    held = Models(policy, problem.spread, problem.reference)  # each process measures it all
    measure = problem.watch.measure
    problem.watch.measure = lambda model: parallel.agreed(held.apart(lambda: measure(model)))
    try:
        OPTIMIZERS.of(settings).train(problem, settings)
    except Interrupted:
        return None
    out = parallel.whole(problem.spread)
    return {
        "curve": problem.watch.curve,
        "said": sorted(parallel.joined(said)),
        "kept": problem.watch.kept,
        "iterations": len(asked),
        "weights": float(
            sum(one.detach().double().abs().sum() for one in out.parameters() if one.device.type != "meta")
        ),
    }


def scores(folder: Path) -> list[float]:
    """What a reward model that is shared out says, read in turns: one process has nothing to ask."""
    torch.manual_seed(1)
    net = RewardNet(*load_policy(folder / "llama"), "mean").eval().requires_grad_(False)
    net.trunk = net.trunk.model
    torch.nn.init.normal_(net.head.weight)
    parallel.join(torch.device("cpu"))
    spread = parallel.spread(net, "layers")
    own = TEXTS if parallel.rank() == 0 else []
    return parallel.joined(
        parallel.apart([spread], lambda: [row[0] for row in net.score(own, [[text] for text in own])])
    )


def _sampled(problem: Problem) -> list[str]:
    """Grows by each response that training's reward is asked about; validation samples are left out."""
    said, reward = list[str](), problem.reward

    def noted(numbers: Any, groups: Any) -> list[list[float]]:
        said.extend(f"{number}: {ids}" for number, group in zip(numbers, groups, strict=True) for ids in group)
        return reward(numbers, groups)

    problem.reward = noted
    return said


def _pool(problem: Problem) -> Pool:
    """Responses of one to three tokens: of words that a model does not say by itself."""
    draw, numbers = torch.Generator().manual_seed(2), list(range(len(problem.prompts)))
    responses: list[list[Ids]] = [
        [torch.randint(3, 60, (1 + (i + j) % 3,), generator=draw).tolist() for j in range(2)] for i in numbers
    ]
    return Pool(numbers, responses, [[float(i % 3), 0.5] for i in numbers])


if __name__ == "__main__":
    out = Path(sys.argv[1])
    main(sys.argv[2:], out, lambda scratch, stop: {
        case.name: train(case, out / "models", out / scratch / case.name, stop) for case in CASES
    } | {"scores": scores(out / "models")})  # fmt: skip
