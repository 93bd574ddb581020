"""Settings of the optimizers: how the reward is optimised."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from xling.config.common import NonNegative, Positive, PositiveFloat

NonNegativeFloat = Annotated[float, Meta(ge=0.0)]
AtLeastTwo = Annotated[int, Meta(ge=2)]


class BestOfN(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="best_of_n"):
    """argmax of the reward over n samples; ties go to the lower sample index."""

    n: Positive | None = None  # None: the whole pool


class Training(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all optimizers that train the policy have. Batch sizes count responses and are global."""

    steps: Positive = 40
    batch_size: Positive = 32  # responses (of dpo: pairs) a step
    learning_rate: PositiveFloat = 5e-4
    warmup_steps: NonNegative = 5
    schedule: Literal["linear", "constant"] = "constant"
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    beta: NonNegativeFloat = 0.1  # weight of the KL divergence from SFT_t; the reward has a standard deviation of 1
    eval_every: Positive = 20
    eval_prompts: Positive = 64
    keep: Literal["last", "best"] = "last"  # best: by validation reward - beta KL
    kl_budget: PositiveFloat | None = 50.0  # nats a response on validation; above it the stage stops
    samples: Positive | None = None  # of each test prompt; None: as many as the opponent has
    reward_samples: Positive = 256  # of SFT_t, one a training prompt: the mean and the scale of the reward


class Online(Training, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What those that sample while they train have."""

    missing_eos_penalty: NonNegativeFloat = 1.0  # taken off the reward of a response cut at max_new_tokens


class PPO(Online, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="ppo"):
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


class RLOO(Online, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="rloo"):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024): trl's trainer, or ours for encoder-decoders."""

    k: AtLeastTwo = 4  # responses a prompt
    trainer: Literal["auto", "trl", "own"] = "auto"  # auto: trl's for decoder-only policies, else our own

    def by_trl(self, encoder: bool) -> bool:
        """Whether it is trl's trainer that trains a policy; `encoder`: it is an encoder-decoder."""
        return self.trainer == "trl" or (self.trainer == "auto" and not encoder)


class GRPO(Online, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="grpo"):
    """Group-relative policy optimisation (Shao et al. 2024): trl's trainer. Decoder-only policies."""

    k: AtLeastTwo = 4


class DPO(Training, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name", tag="dpo"):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the reward model ranks.

    The pairs are of a pool of the training prompts, sampled once a target.
    """

    learning_rate: PositiveFloat = 1e-4
    beta: PositiveFloat = 0.5  # also bounds how far the policy may go
    n: AtLeastTwo = 4  # samples a training prompt
    prompts: Positive | None = 1000  # training prompts in the pool; None: all
    pairs: Literal["extremes", "all"] = "extremes"  # a prompt's best and worst sample, or all with different rewards


Trained = PPO | RLOO | GRPO | DPO
Optimizer = BestOfN | PPO | RLOO | GRPO | DPO


def optimizer_name(optimizer: Optimizer) -> str:
    """Its name in conf/optimizer."""
    return str(optimizer.__struct_config__.tag)
