"""optimizer=ppo: proximal policy optimisation with a KL penalty, for decoder-only and encoder-decoder policies.

An iteration: sample responses, score them as texts, take the KL penalty off token by token, estimate advantages with a
value model, and follow the clipped objective for some epochs of minibatches. Schulman et al. (2017) with the KL penalty
of Ziegler et al. (2019), as the paper has it (sections 2 and 3: beta fixed at 0.1, the value model first by itself).

From top to bottom: settings and what planning asks; the training; the value model; the formulas, each with its source.

The order of minibatches comes from (seed, iteration, epoch), responses from streams of their own: nothing depends on
what was run before. Neither policy nor value model has dropout, so that the first ratio of an iteration is exactly 1.

(B, R): B responses, padded on the right to R tokens; a `mask` is True on a response's own tokens, eos included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import msgspec
import numpy as np
from msgspec import Meta

from xling.config.common import NonNegative, Positive, PositiveFloat
from xling.config.policies import LanguageModel
from xling.errors import ConfigError
from xling.grid.stage import Work
from xling.models.checkpoints import TRAINING
from xling.optimizers import Costs, Held, OnPolicyTraining, learning_rate, trained_policy, training
from xling.optimizers.problem import Problem, Row
from xling.optimizers.training import (
    Part,
    Rollout,
    follow,
    kl_k1,
    kl_k3,
    masked_mean,
    micro_batches,
    reference_scores,
    roll_out,
    run,
    spread,
    together,
    token_scores,
)
from xling.rewards import REWARDS
from xling.rewards.settings import RewardModel

if TYPE_CHECKING:
    from torch import Tensor

    from xling.models.states import Responses
    from xling.models.training import Descent
    from xling.rewards.networks import HeadedNet

SMALL = 1e-8  # beside a standard deviation that may be 0


class Settings(OnPolicyTraining, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="ppo"):
    """Proximal policy optimisation (Schulman et al. 2017): a value model, and a KL penalty in each token's reward."""

    epochs: Positive = 1  # passes over a step's responses
    minibatches: Positive = 2  # updates a pass
    gamma: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    lam: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.95
    clip: PositiveFloat = 0.2  # of the policy's ratio
    value_clip: PositiveFloat | None = 0.2
    value_weight: PositiveFloat = 0.5  # of the value loss, where policy and value share a trunk
    whiten: bool = True  # advantages to mean 0 and standard deviation 1 within a step
    target_kl: PositiveFloat | None = None  # adaptive beta (Ziegler et al. 2019); None: fixed, as in the paper
    kl_horizon: Positive = 10_000  # responses, of the adaptive beta
    value: Literal["own", "shared"] = "own"  # trunk of the value model
    value_init: Literal["sft", "reward"] = "sft"
    value_learning_rate: PositiveFloat = 5e-4
    value_warmup_steps: NonNegative = 5
    value_only_steps: NonNegative = 5  # before the first update of the policy
    value_only: Literal["outside", "inside"] = "outside"  # of the count of steps

    def for_untrained_reward(self) -> Self:
        """No value model starts as a reward that is no network."""
        return msgspec.structs.replace(self, value_init="sft")

    def before(self) -> int:
        """Iterations ahead of step 1."""
        return self.value_only_steps if self.value_only == "outside" else 0


# --- what planning asks -------------------------------------------------------------------------------------


def check(settings: Settings, policy: LanguageModel, rm: RewardModel) -> None:
    """Minibatches must divide the batch, the policy needs steps of its own, the value model something to start from."""
    if settings.batch_size % settings.minibatches:
        raise ConfigError(
            f"optimizer.minibatches={settings.minibatches} does not divide optimizer.batch_size="
            f"{settings.batch_size}. Use a divisor."
        )
    if settings.value_only == "inside" and settings.value_only_steps >= settings.steps:
        raise ConfigError(
            f"optimizer.value_only_steps={settings.value_only_steps} leaves none of optimizer.steps={settings.steps} "
            "to the policy. Lower it, or type optimizer.value_only=outside."
        )
    if settings.value_init == "sft":
        return
    starts_value = REWARDS.of(rm).starts_value
    if starts_value is None or not starts_value(rm):
        raise ConfigError(
            "optimizer.value_init=reward starts the value model from the reward model, and "
            f"rm_backbone={rm.name} is no network like the policy. Type optimizer.value_init=sft, or "
            "rm_backbone=same_as_policy."
        )
    if settings.value == "shared":
        raise ConfigError(
            "optimizer.value_init=reward needs a trunk of its own. Type optimizer.value=own, or "
            "optimizer.value_init=sft."
        )


stages = trained_policy


def work(settings: Settings, costs: Costs) -> Work:
    """Responses are written, read by policy, value model, reference and reward model, and both models learn."""
    iterations = settings.steps + settings.before()
    updates = iterations - settings.value_only_steps  # of the policy
    rows = settings.batch_size * iterations
    flops = {
        "training": TRAINING * settings.epochs * costs.whole * settings.batch_size * (updates + iterations),
        "reading": rows * (costs.prompt + 3 * costs.whole + costs.reward),
        "sampling": rows * costs.response,
    }
    return Work(flops, {"responses learnt from": rows})


def held(settings: Settings) -> Held:
    """A minibatch at once, and a value model."""
    its = settings
    return Held(its.batch_size, its.batch_size // its.minibatches, values=int(its.value == "own"))


# --- training -----------------------------------------------------------------------------------------------


def train(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Train the policy in place; it ends at the checkpoint that is kept.

    Raises Interrupted, with a checkpoint in the scratch folder, soon after `problem.stopping` has become true, and
    StageError if it diverges.
    """
    from xling.models.training import checkpointed

    learner = Learner(problem, settings)
    with checkpointed(learner.value, problem.gradient_checkpointing):
        run(learner, settings.before())
    return {}


@dataclass(frozen=True)
class Read:
    """Some responses as policy and value model read them, token by token, (B, R) each; 0 on padding."""

    rows: Sequence[int]  # their numbers in the rollout
    batch: Responses
    log_p: Tensor
    entropy: Tensor
    values: Tensor


@dataclass(frozen=True)
class Targets:
    """Fixed targets of an iteration's updates, (B, R) each."""

    log_p: Tensor  # of the policy that sampled
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def part(self, rows: Sequence[int], width: int) -> Targets:
        columns = (self.log_p, self.values, self.advantages, self.returns)
        return Targets(*(column[list(rows), :width] for column in columns))


class Learner(training.Learner[Settings]):
    """Policy and value model with their gradient optimizers, and beta."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        super().__init__(problem, settings)
        from xling.models import parallel

        self.beta, self.value = settings.beta, value_model(problem, settings)
        self.spread = parallel.spread(self.value, problem.parallel)
        self.value_descent = self.descending("value model", self.spread, "value_learning_rate")

    def iterate(self, number: int) -> Row:
        """Sample, score, and update the value model and, after the value-only phase, the policy."""
        import torch

        settings, value_only = self.settings, number < self.settings.value_only_steps
        rollout = roll_out(self.problem, number, settings.batch_size)
        order = [self._order(number, epoch) for epoch in range(settings.epochs)]
        parts = [part for rows in order[0] for part in micro_batches(rows, settings.micro_batch_size)]
        # The policy has not moved before the first update, so what it says then is also what the ratios are taken to:
        # the first minibatch is read once, with gradients, for both, if it is read at once.
        once = len(parts) == len(order[0])
        with torch.set_grad_enabled(once):
            first = self._read(rollout, parts[0], value_only, entropy=True)
        with torch.no_grad():
            others = [self._read(rollout, rows, value_only, entropy=True) for rows in parts[1:]]
        targets, row = self._targets(rollout, [first, *others])
        losses: list[Row] = []
        for epoch, minibatches in enumerate(order):
            for i, rows in enumerate(minibatches):
                read = [partial(_itself, first)] if once and epoch == i == 0 else self._parts(rollout, rows, value_only)
                tokens = sum(len(rollout.responses[row]) for row in rows)
                losses.append(self._update(read, targets, tokens, number, value_only))
        if settings.target_kl is not None and not value_only:
            self.beta = adapted_beta(
                self.beta, row["kl_k1"], settings.target_kl, settings.batch_size, settings.kl_horizon
            )
        return row | {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}

    def _order(self, number: int, epoch: int) -> list[list[int]]:
        """An epoch's minibatches: numbers of responses."""
        shuffled = np.random.default_rng([self.problem.seed, number, epoch]).permutation(self.settings.batch_size)
        return [part.tolist() for part in np.array_split(shuffled, self.settings.minibatches)]

    def _read(self, rollout: Rollout, rows: Sequence[int], value_only: bool, entropy: bool = False) -> Read:
        """Read some responses; while the value model learns by itself, no gradient reaches the policy."""
        import torch

        from xling.models import parallel
        from xling.models.states import predicting_states

        batch = rollout.batch(self.policy, self.problem.pad, rows)

        def read(policy: Any) -> tuple[Tensor, Tensor, Tensor]:
            states = predicting_states(policy, batch)[batch.mask]
            return (*token_scores(policy, batch, states, entropy), states)

        with torch.set_grad_enabled(torch.is_grad_enabled() and not value_only), self.problem.computing():
            log_p, entropies, states = self.problem.through(self.policy, read)
        with self.problem.computing():
            values = parallel.through(self.spread, lambda _: values_of(self.value, batch, states))
        return Read(rows, batch, log_p, entropies, spread(values, batch.mask))

    def _parts(self, rollout: Rollout, rows: Sequence[int], value_only: bool) -> list[Callable[[], Read]]:
        """A minibatch, to be read one micro-batch after the other."""
        parts = micro_batches(rows, self.settings.micro_batch_size)
        return [partial(self._read, rollout, part, value_only) for part in parts]

    def _targets(self, rollout: Rollout, read: Sequence[Read]) -> tuple[Targets, Row]:
        """Advantages and returns of a rollout that was read in parts, and what is to be recorded of it."""
        settings, order = self.settings, [part.rows for part in read]
        log_p = together([part.log_p for part in read], order, rollout)
        values = together([part.values for part in read], order, rollout)
        entropy = together([part.entropy for part in read], order, rollout)
        reference, mask = reference_scores(self.problem, rollout, order), rollout.mask()
        rewards = token_rewards(rollout.rewards, log_p, reference, mask, self.beta)
        advantages = gae(rewards, values, mask, settings.gamma, settings.lam)
        returns = advantages + values
        row = rollout.row(self.problem.ends) | {
            "kl_k1": float(kl_k1(log_p, reference, mask).mean()),
            "kl_k3": float(kl_k3(log_p, reference, mask).mean()),
            "entropy": float(masked_mean(entropy, mask)),
            "explained_variance": float(explained_variance(values, returns, mask)),
            "beta": self.beta,
        }
        if settings.whiten:
            advantages = whiten(advantages, mask)
        return Targets(log_p, values, advantages, returns), row

    def _update(
        self, read: Sequence[Callable[[], Read]], whole: Targets, tokens: int, number: int, value_only: bool
    ) -> Row:
        """One step down the gradient of a minibatch of `tokens` tokens, whose parts are `read`."""
        policy = {} if value_only else {self.descent: self.rate(number)}
        parts = [partial(self._loss, part, whole, tokens, value_only) for part in read]
        return follow(parts, policy | {self.value_descent: self._value_rate(number)})[0]

    def _loss(self, part: Callable[[], Read], whole: Targets, tokens: int, value_only: bool) -> Part:
        """A part's share of the loss of a minibatch, which is a mean over its `tokens` tokens."""
        read = part()
        settings, mask, targets = self.settings, read.batch.mask, whole.part(read.rows, read.log_p.shape[1])
        loss = value_loss = clipped_value_loss(read.values, targets.values, targets.returns, mask, settings.value_clip)
        row = {"value_loss": float(value_loss.detach())}
        if not value_only:
            policy_loss = clipped_policy_loss(read.log_p, targets.log_p, targets.advantages, mask, settings.clip)
            weight = settings.value_weight if settings.value == "shared" else 1.0
            loss = policy_loss + weight * value_loss
            fraction = clip_fraction(read.log_p.detach(), targets.log_p, mask, settings.clip)
            row |= {"policy_loss": float(policy_loss.detach()), "clip_fraction": float(fraction)}
        share = int(mask.sum()) / tokens
        return loss * share, {name: value * share for name, value in row.items()}

    def rate(self, number: int) -> float:
        """Its warm-up begins after the value-only phase."""
        settings = self.settings
        inside = settings.value_only_steps if settings.value_only == "inside" else 0
        step, steps = number - settings.value_only_steps, settings.steps - inside
        return learning_rate(settings.learning_rate, step, steps, settings.warmup_steps, settings.schedule)

    def _value_rate(self, number: int) -> float:
        settings = self.settings
        steps, warmup = settings.steps + settings.before(), settings.value_warmup_steps
        return learning_rate(settings.value_learning_rate, number, steps, warmup, settings.schedule)

    def descents(self) -> dict[str, Descent]:
        return {"policy": self.descent, "value": self.value_descent}

    def numbers(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def restore(self, numbers: Mapping[str, Any]) -> None:
        self.beta = numbers["beta"]


def _itself(read: Read) -> Read:
    return read


# --- the value model ----------------------------------------------------------------------------------------


def value_model(problem: Problem, settings: Settings) -> HeadedNet:
    """Predicts the reward, less the KL penalty, that is still to come at each token: a linear `head` on a `trunk`.

    value=shared has no trunk: its head, which starts at zero, reads the policy's own states. With value_init=reward
    trunk and head are the reward model's, in units of the standardised reward: (reward - mean) / deviation.
    """
    import torch

    from xling.models.load import load_trunk
    from xling.models.training import whole_in
    from xling.rewards.networks import HeadedNet, load_reward, scalar_head

    net = HeadedNet()
    if settings.value == "shared":
        net.head = scalar_head(problem.policy)
    elif settings.value_init == "sft":
        net.trunk = load_trunk(problem.rooms["sft"], dtype=whole_in(settings.optimizer), dropout=0.0)
        net.head = scalar_head(net.trunk)
    else:
        stored: Any = load_reward(problem.rooms["reward"])
        mean, deviation = problem.standardised
        net.trunk = stored.trunk.to(getattr(torch, whole_in(settings.optimizer))).eval()
        net.head = scalar_head(net.trunk)
        with torch.no_grad():
            net.head.weight.copy_(stored.head.weight / deviation)
            net.head.bias.copy_((stored.head.bias - mean) / deviation)
    return net


def values_of(net: Any, batch: Responses, states: Tensor) -> Tensor:
    """(T,) values at the T tokens of the mask; states: (T, D), the policy's, for a model without a trunk."""
    import torch

    from xling.models.states import predicting_states

    if hasattr(net, "trunk"):
        states = predicting_states(net.trunk, batch)[batch.mask]
    with torch.autocast(states.device.type, enabled=False):
        return net.head(states.float())[:, 0]  # type: ignore[no-any-return]


# --- formulas: functions of tensors, nothing random ---------------------------------------------------------


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
    advantages = values.new_zeros(values.shape)
    ahead = next_value = values.new_zeros(len(values))
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
    objective = (ratio * advantages).minimum(ratio.clamp(1 - clip, 1 + clip) * advantages)
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
        errors = errors.maximum((old + (values - old).clamp(-clip, clip) - returns).square())
    return masked_mean(errors, mask) / 2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Scalar, at most 1: 1 - Var(G - V) / Var(G) over tokens; 0 where all returns are equal."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    total = variance(returns)
    return (1 - variance(returns - values) / total.clamp_min(SMALL**2)).where(total > 0, 0.0)


def adapted_beta(beta: float, kl: float, target: float, responses: int, horizon: int) -> float:
    """beta (1 + clamp(kl / target - 1, -0.2, 0.2) responses / horizon): the next step's beta.

    Ziegler et al. (2019), section 2.2, with the step size of their code: a share of `horizon` responses.
    """
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * responses / horizon)
