"""Optimizers: how the reward is optimised. One module an option; `OPTIMIZERS` is the table of them.

An optimizer picks among samples of SFT_t (best_of_n), or its Settings extend `PolicyTraining` and it trains the policy.
Planning asks a module for what it refuses (`check`), for the stages that it needs (`stages`) and for what they cost
(`work`); the stages call what runs: `pick` in xling/stages/judge.py, `train` in xling/stages/align.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, Self, TypeGuard

import msgspec
import numpy as np
from msgspec import Meta, Struct

from xling.config.common import Following, NonNegative, Positive, PositiveFloat
from xling.config.policies import LanguageModel
from xling.errors import ConfigError
from xling.grid.stage import Stage, Work
from xling.models.checkpoints import TRAINING
from xling.models.hub import settings_of
from xling.options import Options, name_of
from xling.rewards.settings import RewardModel

if TYPE_CHECKING:
    from xling.optimizers.problem import Problem

NonNegativeFloat = Annotated[float, Meta(ge=0.0)]
AtLeastTwo = Annotated[int, Meta(ge=2)]
Array = Any  # of numpy


# --- settings that optimizers share -------------------------------------------------------------------------


class PolicyTraining(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of every optimizer that trains the policy. Batch sizes count responses and are global."""

    steps: Positive = 40
    batch_size: Positive = 32  # responses (of dpo: pairs) a step
    learning_rate: PositiveFloat = 5e-4
    warmup_steps: NonNegative = 5
    schedule: Literal["linear", "constant"] = "constant"
    optimizer: Following = "adamw"
    beta: NonNegativeFloat = 0.1  # weight of the KL divergence from SFT_t; the reward has a standard deviation of 1
    eval_every: Positive = 20
    eval_prompts: Positive = 64
    keep: Literal["last", "best"] = "last"  # best: by validation reward - beta KL
    kl_budget: PositiveFloat | None = 50.0  # nats a response on validation; above it the stage stops
    samples: Positive | None = None  # of each test prompt; None: as many as the opponent has
    reward_samples: Positive = 256  # of SFT_t, one a training prompt: the mean and the scale of the reward
    micro_batch_size: Positive | None = None  # read at once, gradients add up to the update's; None: all; in no key

    def eos_penalty(self) -> float:
        """Taken off the standardised reward of a response that was cut at max_new_tokens."""
        return 0.0

    def in_key(self) -> dict[str, Any]:
        """As a stage's spec has them, and so its key."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]

    def for_untrained_reward(self) -> Self:
        """The settings of a control cell, whose reward is no trained model."""
        return self


class OnPolicyTraining(PolicyTraining, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of those that learn from samples of the policy as it is at each step."""

    missing_eos_penalty: NonNegativeFloat = 1.0  # taken off the reward of a response cut at max_new_tokens

    def eos_penalty(self) -> float:
        return self.missing_eos_penalty


class GroupTraining(OnPolicyTraining, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of those that compare k responses to one prompt with each other."""

    k: AtLeastTwo = 4  # responses a prompt


def learning_rate(peak: float, step: int, steps: int, warmup: int, schedule: str) -> float:
    """That of step `step` (from 0) of `steps`: up linearly for `warmup` steps, then constant, or linearly to zero."""
    rising = min(1.0, (step + 1) / (warmup + 1))
    falling = min(1.0, (steps - step) / max(1, steps - warmup)) if schedule == "linear" else 1.0
    return peak * min(rising, falling)


def is_encoder_decoder(policy: LanguageModel) -> bool:
    """By its config.json; False where that cannot be had while planning."""
    return bool(settings_of(policy.checkpoint, policy.revision).get("is_encoder_decoder"))


def check_groups(settings: GroupTraining) -> None:
    """ConfigError unless a batch is a whole number of groups of k responses to one prompt."""
    if settings.batch_size % settings.k:
        raise ConfigError(
            f"optimizer.k={settings.k} responses a prompt do not divide optimizer.batch_size={settings.batch_size}. "
            f"Use a divisor, or type optimizer.batch_size={settings.k * max(1, settings.batch_size // settings.k)}."
        )


def check_trl(name: str, settings: GroupTraining, policy: LanguageModel, instead: str) -> None:
    """ConfigError for what trl's trainers do not take; `instead`: what to type for encoder-decoders."""
    micro = settings.micro_batch_size
    if micro is not None and settings.batch_size % micro:
        raise ConfigError(
            f"{name} is trl's trainer, whose micro-batches are equal: optimizer.micro_batch_size={micro} does not "
            f"divide optimizer.batch_size={settings.batch_size}. Use a divisor."
        )
    if settings.optimizer not in ("adamw", "adafactor"):
        raise ConfigError(
            f"{name} is trl's trainer, which follows gradients by adamw or adafactor: optimizer.optimizer="
            f"{settings.optimizer} is for ppo, dpo, and rloo with optimizer.trainer=own. Type one of these, or "
            "optimizer.optimizer=adamw."
        )
    if is_encoder_decoder(policy):
        raise ConfigError(f"{name} takes decoder-only policies, and this one is an encoder-decoder. {instead}")
    if policy.tuning == "qlora":
        raise ConfigError(
            f"{name} is trl's trainer, which does not take our 4-bit policies (policy.tuning=qlora). Type "
            "policy.tuning=lora, optimizer=ppo or dpo, or optimizer=rloo optimizer.trainer=own."
        )


def by_trl(settings: PolicyTraining, encoder_decoder: bool) -> bool:
    """Whether trl's trainer trains the policy; several processes then share out no weights (trl_trainers.py)."""
    return bool(getattr(OPTIMIZERS.of(settings), "by_trl", lambda *_: False)(settings, encoder_decoder))


def check_processes(settings: PolicyTraining, processes: int, encoder_decoder: bool, how: str = "auto") -> None:
    """ConfigError unless so many processes can train a policy together, each with a part of every update.

    how: policy.parallel.
    """
    if processes == 1:
        return
    if instead := getattr(OPTIMIZERS.of(settings), "alone", lambda *_: "")(settings, encoder_decoder):
        raise ConfigError(
            f"optimizer={name_of(settings)} trains in one process, and {processes} are asked for. {instead}, or give "
            "align one process."
        )
    rows, trl = held_by(settings).at_once, by_trl(settings, encoder_decoder)
    k = settings.k if isinstance(settings, GroupTraining) else 1
    prompts = settings.batch_size // k
    each = f" (optimizer.batch_size={settings.batch_size} / optimizer.k={k})" if k > 1 else ""
    if trl and how == "fsdp":
        own = " or optimizer.trainer=own" if name_of(settings) == "rloo" else ""
        raise ConfigError(
            f"policy.parallel=fsdp: optimizer={name_of(settings)} is trl's trainer here, each of whose processes has "
            f"all weights (docs/optimizers.md). Type policy.parallel=ddp, optimizer=ppo{own}."
        )
    if processes > prompts or (trl and prompts % processes):
        most = max(count for count in range(1, min(processes, prompts) + 1) if not trl or prompts % count == 0)
        raise ConfigError(
            f"{processes} processes cannot share a step's {prompts} prompts{each}"
            f"{' equally, as trl needs it' * trl}. Use {'' if trl else 'at most '}{most}."
        )
    micro = settings.micro_batch_size
    if trl and micro is not None and (share := settings.batch_size // processes) % min(micro, share):
        raise ConfigError(
            f"optimizer.micro_batch_size={micro} does not divide the {share} responses that each of {processes} "
            f"processes has of optimizer.batch_size={settings.batch_size}, as trl needs it. Use a divisor."
        )
    if rows % processes:
        means = f"optimizer.batch_size={settings.batch_size}"
        if rows < settings.batch_size:
            every = settings.batch_size // rows
            means += f" in optimizer.minibatches={every}" if hasattr(settings, "minibatches") else f" / {every}"
        fitting = max(count for count in range(1, processes) if rows % count == 0)
        raise ConfigError(
            f"{processes} processes cannot share the {rows} responses of an update equally ({means}). Use {fitting} "
            f"process{'es' * (fitting > 1)}, or another batch size."
        )


# --- cost ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """Floating-point operations of forward passes, of which `work` sums what a training takes."""

    prompt: float  # the policy over one prompt
    response: float  # the policy over one response, be it read or written
    reward: float  # the reward model over one prompt and response

    @property
    def whole(self) -> float:
        """The policy over a prompt and a response."""
        return self.prompt + self.response


def group_work(settings: OnPolicyTraining, costs: Costs) -> Work:
    """The hook `work` of one update a step.

    Responses are written, read by policy, reference and reward model, and learnt from.
    """
    rows = settings.batch_size * settings.steps
    flops = {
        "training": TRAINING * rows * costs.whole,
        "reading": rows * (costs.prompt + 2 * costs.whole + costs.reward),
        "sampling": rows * costs.response,
    }
    return Work(flops, {"responses learnt from": rows})


class Held(NamedTuple):
    """What memory holds while a policy is trained (xling/planning/memory.py): the hook `held`, or none."""

    batch: int  # items a step: responses, or pairs
    at_once: int  # of them read with gradients at once, without micro-batches
    rows: int = 1  # texts an item
    values: int = 0  # value models with weights of their own
    samples: bool = True  # whether the policy writes while it is trained
    tiled: bool = False  # whether trl computes the logits of decoder-only policies
    tables: bool = False  # whether so few are read at once that their logits are not too many


def held_by(settings: PolicyTraining) -> Held:
    """By the hook `held` of its module; of one that has none: the whole batch, and the policy alone."""
    own: Held | None = getattr(OPTIMIZERS.of(settings), "held", lambda _: None)(settings)
    return own or Held(settings.batch_size, settings.batch_size)


# --- hooks and the table ------------------------------------------------------------------------------------


class Stages(Protocol):
    """The stages that an optimizer may ask for, of the cell's target (xling/planning/target.py)."""

    def pool(self) -> Stage:
        """policy.n samples of SFT_t to each test prompt, the same for all sources."""

    def training_prompts(self) -> int | None:
        """How many the task has of the cell's target; None where nobody knows yet."""

    def training_pool(self, n: int, prompts: int | None) -> Stage:
        """n samples of SFT_t to each of the first `prompts` training prompts (None: all), the same for all sources."""

    def aligned(self, settings: PolicyTraining, **parents: Stage) -> Stage:
        """The policy trained with `settings`, and its samples of the test prompts.

        parents: what the training reads besides SFT_t and the reward model; a `pool` becomes `Problem.pool`.
        """


def trained_policy(settings: PolicyTraining, plan: Stages) -> Stage:
    """The hook `stages` of an optimizer that reads nothing besides SFT_t and the reward model."""
    return plan.aligned(settings)


class Optimizer(Protocol):
    """The hooks of an optimizer's module; `settings` are its own.

    Modules that train may have `held`; `by_trl`: whether trl's trainer trains a policy; and `alone`: what to type for
    several processes where they have but one.
    One that trains has no `picked_from`, `pick`, `curve` and `kl_bound`, one that picks no `work` and `train`; it may
    have a `VERSION`, to be raised from 1 when it comes to pick otherwise, so that results of before are not used.
    """

    Settings: Any

    def check(self, settings: Any, policy: LanguageModel, rm: RewardModel) -> None:
        """ConfigError for settings that do not go together, or not with the policy or the reward model."""

    def stages(self, settings: Any, plan: Stages) -> Stage:
        """The stage with the samples that a cell answers with."""

    def work(self, settings: Any, costs: Costs) -> Work:
        """Cost of the training."""

    def train(self, problem: "Problem", settings: Any) -> dict[str, Any]:
        """Train `problem.policy` in place; returns what align.json is to say besides the curve."""

    def picked_from(self, settings: Any, pool: int | None) -> int | None:
        """How many of the first samples of a prompt it picks from.

        pool: how many there are; None where that differs by prompt, as with recorded responses. None: from all.
        """

    def pick(self, settings: Any, rewards: Array, prompts: Sequence[str]) -> Array:
        """(prompts, n) rewards, NaN where a prompt has fewer samples -> (prompts,) index of the sample it answers.

        prompts: their ids, by which to draw what is left to chance.
        """

    def curve(self, settings: Any, rewards: Array, values: Array) -> Array:
        """(prompts, n) rewards and values -> (prompts, n): the expected value of a pick from 1..n random samples.

        (prompts, 0) if that is not known.
        """

    def kl_bound(self, settings: Any, n: int) -> float:
        """An upper bound in nats of KL(picked from n || SFT_t): log n, if nothing better is known of the pick."""


HOOKS = {
    "check": "what planning refuses",
    "stages": "the stages that it needs",
}
HOOKS_OF_TRAINING = HOOKS | {
    "work": "what the training costs",
    "train": "the training",
}
HOOKS_OF_PICKING = HOOKS | {
    "picked_from": "how many samples it picks from",
    "pick": "which sample it picks",
    "curve": "what it would pick from fewer samples",
    "kl_bound": "how far from SFT_t its picks can be",
}


def _hooks(module: Any) -> Mapping[str, str]:
    return HOOKS_OF_TRAINING if issubclass(module.Settings, PolicyTraining) else HOOKS_OF_PICKING


OPTIMIZERS: Options[Optimizer] = Options(
    "optimizer",
    {
        "best_of_n": "xling.optimizers.best_of_n",
        "soft_best_of_n": "xling.optimizers.soft_best_of_n",
        "ppo": "xling.optimizers.ppo",
        "rloo": "xling.optimizers.rloo",
        "grpo": "xling.optimizers.grpo",
        "grpo_shao": "xling.optimizers.grpo_shao",
        "dpo": "xling.optimizers.dpo",
    },
    _hooks,
)


def trains(settings: Struct) -> TypeGuard[PolicyTraining]:
    """Whether the optimizer trains the policy; otherwise it picks among samples of SFT_t."""
    return isinstance(settings, PolicyTraining)


UNNAMED = "best_of_n"  # who picked where a spec names nobody: keys of best-of-n are older than other pickers


def picker_in_spec(settings: Struct) -> dict[str, Any]:
    """The optimizer that picks, as specs have it."""
    if name_of(settings) == UNNAMED:
        return {}
    version = getattr(OPTIMIZERS.of(settings), "VERSION", 1)
    return {"optimizer": msgspec.to_builtins(settings) | ({"version": version} if version > 1 else {})}


def picker(container: Mapping[str, Any] | None) -> tuple[Optimizer, Struct]:
    """Module and settings of the optimizer that picks, by `optimizer` of a spec."""
    named = {name: value for name, value in (container or {"name": UNNAMED}).items() if name != "version"}
    settings = OPTIMIZERS.read(named)
    return OPTIMIZERS.of(settings), settings


def answers(rewards: Array, prompts: Sequence[str], trained: bool, container: Mapping[str, Any] | None) -> Array:
    """(prompts, n) rewards -> (prompts, j) places of the samples that a cell answers with.

    All of a trained policy's, else the pick of the optimizer that the spec has as `optimizer`: `container`.
    """
    if trained:
        return np.broadcast_to(np.arange(rewards.shape[1]), rewards.shape)
    optimizer, settings = picker(container)
    return optimizer.pick(settings, rewards, prompts)[:, None]
