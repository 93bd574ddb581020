"""optimizer=ppo: proximal policy optimisation with a KL penalty, for decoder-only and encoder-decoder policies.

An iteration: sample responses, score them as texts, take the KL penalty off token by token, estimate advantages with a
value model, and follow the clipped objective for some epochs of minibatches. Schulman et al. (2017) with the KL penalty
of Ziegler et al. (2019), as the paper has it (sections 2 and 3: beta fixed at 0.1, the value model first by itself).

The order of minibatches comes from (seed, iteration, epoch), responses from streams of their own: nothing depends on
what was run before. Neither policy nor value model has dropout, so that the first ratio of an iteration is exactly 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xling.config.optimizers import PPO
from xling.models.responses import Responses, predicting_states
from xling.optimizers import estimators, loop
from xling.optimizers.descent import Descent, learning_rate
from xling.optimizers.problem import Problem
from xling.optimizers.rollouts import Rollout, log_probabilities_under, roll_out, spread, token_scores
from xling.optimizers.value import value_model
from xling.optimizers.watch import Row


def train(problem: Problem, settings: PPO) -> None:
    """Train the policy in place; it ends at the checkpoint that is kept.

    Raises Interrupted, with a checkpoint in the scratch folder, soon after `problem.stopping` has become true, and
    StageError if it diverges. `settings` are as planning lets them pass: no more minibatches than responses, and of
    value_only=inside fewer value_only_steps than steps.
    """
    outside = settings.value_only == "outside"
    loop.run(problem, settings, Learner(problem, settings), settings.value_only_steps if outside else 0)


@dataclass(frozen=True)
class Seen:
    """What policy and value model say of some responses, token by token, (B, R) each; 0 on padding."""

    batch: Responses
    log_p: Tensor
    entropy: Tensor
    values: Tensor


@dataclass(frozen=True)
class Targets:
    """What the updates of an iteration go by, (B, R) each; fixed while they last."""

    log_p: Tensor  # of the policy that sampled
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def part(self, rows: Sequence[int], width: int) -> "Targets":
        chosen = torch.tensor(rows, device=self.log_p.device)
        columns = (self.log_p, self.values, self.advantages, self.returns)
        return Targets(*(column[chosen, :width] for column in columns))


class Learner:
    """Policy and value model with their gradient optimizers, and beta: all that goes from one iteration to the next."""

    def __init__(self, problem: Problem, settings: PPO) -> None:
        self.problem, self.settings, self.beta = problem, settings, settings.beta
        self.policy, self.value = problem.policy, value_model(problem, settings.value, settings.value_init)
        name = settings.optimizer
        self.policy_descent = Descent("policy", self.policy.parameters(), name, "learning_rate")
        self.value_descent = Descent("value model", self.value.parameters(), name, "value_learning_rate")

    def iterate(self, number: int) -> Row:
        """Sample, score, and update the value model and, after the value-only phase, the policy."""
        settings, value_only = self.settings, number < self.settings.value_only_steps
        rollout = roll_out(self.problem, number, settings.batch_size)
        order = [self._order(number, epoch) for epoch in range(settings.epochs)]
        # The policy has not moved before the first update: what that reads, with gradients, is also what is old.
        first = self._see(rollout, order[0][0], value_only, entropy=True)
        with torch.no_grad():
            others = [self._see(rollout, rows, value_only, entropy=True) for rows in order[0][1:]]
        targets, row = self._targets(rollout, order[0], [first, *others])
        losses: list[Row] = []
        for epoch, minibatches in enumerate(order):
            for i, rows in enumerate(minibatches):
                seen = first if epoch == i == 0 else self._see(rollout, rows, value_only)
                losses.append(self._update(seen, targets.part(rows, seen.log_p.shape[1]), number, value_only))
        if settings.target_kl is not None and not value_only:
            self.beta = estimators.adapted_beta(
                self.beta, row["kl_k1"], settings.target_kl, settings.batch_size, settings.kl_horizon
            )
        return row | {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}

    def _order(self, number: int, epoch: int) -> list[list[int]]:
        """An epoch's minibatches: numbers of responses."""
        shuffled = np.random.default_rng([self.problem.seed, number, epoch]).permutation(self.settings.batch_size)
        return [part.tolist() for part in np.array_split(shuffled, self.settings.minibatches)]

    def _see(self, rollout: Rollout, rows: Sequence[int], value_only: bool, entropy: bool = False) -> Seen:
        """Read some responses; while the value model learns by itself, no gradient reaches the policy."""
        batch = rollout.batch(self.policy, self.problem.pad, rows)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not value_only):
            states = predicting_states(self.policy, batch)[batch.mask]
            log_p, entropies = token_scores(self.policy, batch, states, entropy)
        return Seen(batch, log_p, entropies, spread(self.value(batch, states), batch.mask))

    @torch.no_grad()
    def _targets(self, rollout: Rollout, order: Sequence[Sequence[int]], seen: Sequence[Seen]) -> tuple[Targets, Row]:
        """Advantages and returns of a rollout that was read in `order`, and what is to be recorded of it."""
        settings = self.settings
        log_p = _together([one.log_p for one in seen], order)
        values = _together([one.values for one in seen], order)
        entropy = _together([one.entropy for one in seen], order)
        mask = _together([one.batch.mask for one in seen], order)
        reference = _together([log_probabilities_under(self.problem.reference, one.batch) for one in seen], order)
        rewards = estimators.token_rewards(rollout.rewards, log_p, reference, mask, self.beta)
        advantages = estimators.gae(rewards, values, mask, settings.gamma, settings.lam)
        returns = advantages + values
        row = rollout.row(self.problem.eos) | {
            "kl_k1": float(estimators.kl_k1(log_p, reference, mask).mean()),
            "kl_k3": float(estimators.kl_k3(log_p, reference, mask).mean()),
            "entropy": float(estimators.masked_mean(entropy, mask)),
            "explained_variance": float(estimators.explained_variance(values, returns, mask)),
            "beta": self.beta,
        }
        if settings.whiten:
            advantages = estimators.whiten(advantages, mask)
        return Targets(log_p, values, advantages, returns), row

    def _update(self, seen: Seen, targets: Targets, number: int, value_only: bool) -> Row:
        """One step down the gradient of a minibatch."""
        settings, mask = self.settings, seen.batch.mask
        loss = value_loss = estimators.clipped_value_loss(
            seen.values, targets.values, targets.returns, mask, settings.value_clip
        )
        row = {"value_loss": float(value_loss.detach())}
        if not value_only:
            policy_loss = estimators.clipped_policy_loss(
                seen.log_p, targets.log_p, targets.advantages, mask, settings.clip
            )
            weight = settings.value_weight if settings.value == "shared" else 1.0
            loss = policy_loss + weight * value_loss
            fraction = estimators.clip_fraction(seen.log_p.detach(), targets.log_p, mask, settings.clip)
            row |= {"policy_loss": float(policy_loss.detach()), "clip_fraction": float(fraction)}
        loss.backward()
        if not value_only:
            self.policy_descent.step(self._policy_rate(number))
        self.value_descent.step(self._value_rate(number))
        return row

    def _policy_rate(self, number: int) -> float:
        """Its warm-up begins after the value-only phase."""
        settings = self.settings
        inside = settings.value_only_steps if settings.value_only == "inside" else 0
        step, steps = number - settings.value_only_steps, settings.steps - inside
        return learning_rate(settings.learning_rate, step, steps, settings.warmup_steps, settings.schedule)

    def _value_rate(self, number: int) -> float:
        settings = self.settings
        steps = settings.steps + (settings.value_only_steps if settings.value_only == "outside" else 0)
        warmup = settings.value_warmup_steps
        return learning_rate(settings.value_learning_rate, number, steps, warmup, settings.schedule)

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "policy_descent": self.policy_descent.state(),
            "value_descent": self.value_descent.state(),
            "beta": self.beta,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        self.policy_descent.restore(state["policy_descent"])
        self.value_descent.restore(state["value_descent"])
        self.beta = state["beta"]


def _together(parts: Sequence[Tensor], order: Sequence[Sequence[int]]) -> Tensor:
    """Minibatches' (b, r) as one (B, R), in the order of the rollout; padding is 0."""
    width = max(part.shape[1] for part in parts)
    padded = torch.cat([torch.nn.functional.pad(part.detach(), (0, width - part.shape[1])) for part in parts])
    places = torch.tensor([i for rows in order for i in rows], device=padded.device)
    return torch.empty_like(padded).index_copy_(0, places, padded)
