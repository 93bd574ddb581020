"""What is seen of a policy while it is trained: its curve, the checkpoint that is kept, and when to give up.

An optimizer calls `after_step` once a step; every `every` steps the policy is measured on validation prompts, by the
same code whatever the optimizer. All that this holds goes through `state` and `restore`: a killed stage goes on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xling.errors import StageError

Row = dict[str, float]
LEAST_ENTROPY = 1e-3  # nats a token on validation: below it the policy says one thing whatever the prompt


@dataclass
class Watch:
    """`measure` gives the validation row of a policy: reward, kl, entropy and others (xling/stages/align.py)."""

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
    best_weights: dict[str, Any] | None = None

    def after_step(self, policy: Any, step: int, row: Mapping[str, float], done: int | None = None) -> None:
        """Record step `step` (from 1; 0 is SFT_t itself) of training; StageError if it has diverged.

        done: steps done of `steps` where that is not `step`, as with a value-only phase before them.
        """
        for name, value in row.items():
            if not math.isfinite(value):
                raise StageError(f"{name} became {value} at step {step}. Lower optimizer.learning_rate.")
        entry: Row = {"step": step, **row}
        if step % self.every == 0 or step == self.steps:
            measured = self.measure(policy)
            entry |= {f"validation_{name}": value for name, value in measured.items()}
            self._judge(step, measured)
            self._keep(policy, step, measured)
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

    def _keep(self, policy: Any, step: int, row: Row) -> None:
        objective = row["reward"] - self.beta * row["kl"]
        if objective > self.best:
            self.best, self.best_step = objective, step
            if self.keep == "best":
                self.best_weights = {k: v.detach().cpu().clone() for k, v in policy.state_dict().items()}

    def finish(self, policy: Any) -> int:
        """Leave the policy at the checkpoint that is kept; returns its step."""
        if self.keep == "best" and self.best_weights is not None:
            policy.load_state_dict(self.best_weights)
            return self.best_step
        return self.steps

    def state(self) -> dict[str, Any]:
        """What `restore` takes; plain numbers and tensors."""
        return {
            "curve": self.curve,
            "best": self.best,
            "best_step": self.best_step,
            "best_weights": self.best_weights,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.curve, self.best = list(state["curve"]), state["best"]
        self.best_step, self.best_weights = state["best_step"], state["best_weights"]
