"""An optimizer's input (a policy to train in place, its anchor, prompts, a reward of texts), and the watch over it.

Nothing of tasks, languages or reward models is known here: the reward is a function from token ids to numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from xling.errors import StageError
from xling.models.text import Ids, ends

if TYPE_CHECKING:
    from xling.models.sampling import Sampling

T = TypeVar("T")
Row = dict[str, float]  # what is recorded of a step
# numbers of prompts, and responses of each (token ids, eos last where it came) -> standardised rewards
Reward = Callable[[Sequence[int], Sequence[Sequence[Ids]]], list[list[float]]]


@dataclass(frozen=True)
class Pool:
    """Samples of SFT_t to training prompts, drawn before the training, with what the reward model says of them."""

    prompts: list[int]  # numbers of prompts
    responses: list[list[Ids]]  # of each; eos last where it came
    rewards: list[list[float]]  # of each response, as the reward model gives them


@dataclass
class Problem:
    """One policy, one reward. The policy ends as the optimizer's rule of checkpoints says.

    In several processes each has all of it but for the weights.
    """

    policy: Any  # weights in float32, eval mode, no dropout anywhere; trained in place
    reference: Any  # SFT_t, frozen; or the policy itself, which is SFT_t while its adapters are switched off
    tokenizer: Any
    names: Sequence[str]  # of the training prompts (lang/id): what their random streams are named by
    prompts: Sequence[Ids]
    reward: Reward  # mean 0 and standard deviation 1 over samples of SFT_t; a missing eos is already paid for
    max_new_tokens: int
    seed: int
    watch: Watch
    scratch: Path  # survives a kill
    stopping: Callable[[], bool]
    rooms: Mapping[str, Path]  # folders of models: `sft`, and `reward` where that is a network of the policy's kind
    standardised: tuple[float, float] = (0.0, 1.0)  # mean and deviation of that network's rewards under SFT_t
    pool: Pool | None = None  # of an optimizer that asks for Stages.training_pool
    precision: str = "float32"  # or bfloat16: what policy, reference and value model compute in
    gradient_checkpointing: bool = False  # of the value model; the policy has it already
    parallel: str = "ddp"  # fsdp, layers: how several processes share the weights (xling/models/parallel.py)
    spread: Any = None  # what the policy is reached through where they do, and its gradients; None: itself

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return ends(self.tokenizer)

    def through(self, model: Any, call: Callable[[Any], T]) -> T:
        """`call` of the policy or of the reference, which several processes may share: in all of them at once."""
        from xling.models.parallel import through

        return through(self.reached(model), lambda _: call(model))

    def reached(self, model: Any) -> Any:
        """What holds the policy, or the reference, together over the processes."""
        return self.spread if model is self.policy and self.spread is not None else model

    def computing(self) -> Any:
        """A context in which models compute in `precision`: of one reading, since autocast keeps what it cast."""
        from xling.models.training import computing_in

        return computing_in(self.precision, self.policy.device)

    @contextmanager
    def held_to(self) -> Iterator[Any]:
        """SFT_t, to be read for the moment, without gradients and in `precision`."""
        import torch

        from xling.models.lean import without_adapters

        with torch.no_grad(), self.computing(), without_adapters(self.reference, self.reference is self.policy):
            yield self.reference

    def sampling(self, purpose: str, n: int = 1) -> Sampling:
        """Pure sampling, at temperature 1 from the whole distribution; `purpose` names the random streams.

        Truncated sampling (top-p, top-k) would draw from another distribution than the one whose log-probabilities the
        KL penalty is made of, and its estimate could become negative.
        """
        from xling.models.sampling import Sampling

        return Sampling(n, self.seed, purpose, 1.0, 1.0, self.max_new_tokens)


def prompts_of_step(count: int, size: int, seed: int, step: int) -> list[int]:
    """Numbers of a step's training prompts: each pass over all of them has an order of its own (`seed`, pass)."""
    out: list[int] = []
    while len(out) < size:
        turn, start = divmod(step * size + len(out), count)
        order = np.random.default_rng([seed, turn]).permutation(count)
        out += order[start : start + size - len(out)].tolist()
    return out


# --- the watch ----------------------------------------------------------------------------------------------

LEAST_ENTROPY = 1e-3  # nats a token on validation: below it the policy says one thing whatever the prompt


@dataclass
class Watch:
    """Watches a policy while it is trained: its curve, the step that is kept, and when to give up.

    An optimizer calls `after_step` once a step. Every `every` steps the policy is measured on validation prompts, by
    the same code whatever the optimizer: `measure` gives its reward, kl, entropy and more (xling/stages/align.py).
    A killed stage goes on from `state`.
    """

    measure: Callable[[Any], Row]
    steps: int
    every: int
    beta: float
    keep: str  # last or best
    kl_budget: float | None
    progress: Callable[[int, int], None]
    curve: list[Row] = field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0

    def after_step(self, policy: Any, step: int, row: Mapping[str, float], done: int | None = None) -> None:
        """Record step `step` (from 1; 0 is SFT_t itself) of training; StageError if it has diverged.

        done: steps done of `steps` where that is not `step`, as with a value-only phase before them.
        """
        for name, value in row.items():
            if not math.isfinite(value):
                raise StageError(f"{name} became {value} at step {step}. Lower optimizer.learning_rate.")
        entry: Row = {"step": step, **row}
        if self.measures(step):
            from xling.models.resuming import say_measured

            measured = self.measure(policy)
            entry |= {f"validation_{name}": value for name, value in measured.items()}
            told = (name for name in entry if "loss" in name or name.startswith("validation_"))
            say_measured(step, self.steps, {name: entry[name] for name in told})
            self._judge(step, measured)
            objective = measured["reward"] - self.beta * measured["kl"]
            if objective > self.best:
                self.best, self.best_step = objective, step
        self.curve.append(entry)
        self.progress(step if done is None else done, self.steps)

    def _judge(self, step: int, row: Row) -> None:
        for name, value in row.items():
            if not math.isfinite(value):
                raise StageError(f"The validation {name} became {value} at step {step}. Lower optimizer.learning_rate.")
        if self.kl_budget is not None and row["kl"] > self.kl_budget:
            raise StageError(
                f"The policy diverged: KL {row['kl']:.1f} nats a response at step {step}, above optimizer.kl_budget="
                f"{self.kl_budget:g}. Raise optimizer.beta, lower optimizer.learning_rate, or raise the budget."
            )
        if row["entropy"] < LEAST_ENTROPY:
            raise StageError(
                f"The policy collapsed: {row['entropy']:.2g} nats of entropy a token at step {step}. "
                "Raise optimizer.beta or lower optimizer.learning_rate."
            )

    def measures(self, step: int) -> bool:
        """Whether `after_step` measures the policy after a step."""
        return step % self.every == 0 or step == self.steps

    @property
    def kept(self) -> int:
        """The step whose policy is kept, of those so far."""
        return self.best_step if self.keep == "best" else self.steps

    def state(self) -> dict[str, Any]:
        """State for `restore`, in plain numbers."""
        return {"curve": self.curve, "best": self.best if self.best_step else None, "best_step": self.best_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.curve, self.best_step = list(state["curve"]), state["best_step"]
        self.best = -math.inf if state["best"] is None else state["best"]
