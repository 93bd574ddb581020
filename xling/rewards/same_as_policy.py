"""The policy's own architecture with a scalar head, as in the paper; trained by xling/rewards/networks.py."""

from typing import Literal, Protocol

from xling.config.common import Limit, NonNegative, Objective, Side, Training
from xling.config.policies import LanguageModel, Lora, Policy, check_following
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models.checkpoints import check_checkpoint, check_lengths, check_policy, check_table
from xling.models.weights import Use
from xling.rewards import (
    AlignedSettings,
    Base,
    Budget,
    Choices,
    Feedback,
    Model,
    Request,
    Scorer,
    alignment_of,
    text_scorer,
)
from xling.tasks.options import offers
from xling.tasks.records import TaskSettings


class Settings(AlignedSettings, frozen=True, tag="same_as_policy"):
    """Starts from the source's SFT policy, from the base, or from a checkpoint of its own."""

    training: Training = Training()
    tuning: Literal["full", "lora", "qlora", "frozen"] = "full"
    lora: Lora = Lora()
    init: str = "sft"  # sft: the source's SFT policy; base; else a local folder or a hub id
    revision: str | None = None  # of a hub id in `init`
    objective: Objective | None = None  # None: the task's kind of feedback
    pooling: Literal["last", "mean"] = "last"
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    permutation: NonNegative = 0  # 0: true labels; k > 0: the k-th permutation of the labels (control)
    pad_token: str | None = None  # of a model named in `init`: a piece to pad with where its tokenizer names none


class Network(Protocol):
    """Settings of any reward model that is trained as a network."""

    @property
    def training(self) -> Training: ...
    @property
    def tuning(self) -> str: ...


class OfPolicy(Network, Protocol):
    """And of one that is begun as this one is: `implicit` too."""

    @property
    def name(self) -> str: ...
    @property
    def init(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def pad_token(self) -> str | None: ...
    @property
    def max_prompt_tokens(self) -> int: ...
    @property
    def max_response_tokens(self) -> int: ...


def check(rm: OfPolicy, choices: Choices, use: Use = "reward") -> None:
    """There must be a language model, and its checkpoint whole for its `use`."""
    policy, sides = choices.policy, (rm.max_prompt_tokens, rm.max_response_tokens)
    if not isinstance(policy, LanguageModel):
        raise ConfigError(
            f"rm_backbone={rm.name} needs a language model and policy=recorded has none. Use rm_backbone="
            "sentence_encoder, bag_of_words, system, length, random, cosine or human; or, with "
            "rm_backbone.checkpoint=FOLDER, frozen_lm or likelihood."
        )
    own = start(rm, policy)
    if isinstance(own, Base) and rm.init != "base":
        check_checkpoint(own.setting, own.model, use, ("pad", "eos"), lambda c: check_table(c, sides))
    check_training(rm, policy, ("policy.dtype", policy.dtype))
    check_policy(policy)
    if rm.init in ("sft", "base") and not choices.recorded:
        check_lengths(policy, sides, "rm_backbone")
    if choices.reward_task is not None and rm.init == "sft" and choices.sft.steps:
        _check_demonstrations(choices.reward_task)


def check_training(rm: Network, policy: Policy, dtype: tuple[str, str]) -> None:
    """ConfigError for micro-batches that cannot be made, a tuning or optimizer that cannot be, or nothing to align.

    dtype: the setting of the model's, with its value.
    """
    if (aligned := alignment_of(rm)) is not None and (rm.tuning == "frozen" or not rm.training.steps):
        wrong = "training.steps=0" if rm.tuning != "frozen" else "tuning=frozen"
        raise ConfigError(
            f"rm_backbone.alignment.weight={aligned.weight:g} pulls states together, and with "
            f"rm_backbone.{wrong} they stay as they are. Type rm_backbone.tuning=full with steps, or "
            "rm_backbone.alignment.weight=0."
        )
    micro, batch = rm.training.micro_batch_size, rm.training.batch_size
    if rm.training.steps and micro is not None and batch % micro:
        raise ConfigError(
            f"rm_backbone.training.micro_batch_size={micro} does not divide rm_backbone.training.batch_size={batch}."
        )
    if rm.training.steps:
        parallel = policy.parallel if isinstance(policy, LanguageModel) else "auto"
        check_following("rm_backbone.training.optimizer", rm.training.optimizer, dtype, rm.tuning, parallel)


def _check_demonstrations(learned: TaskSettings) -> None:
    """The SFT policy that it starts from is of the task that it learns from."""
    there = offers(learned)
    if {"ratings", "pairs"} & there and "demonstrations" not in there:  # without feedback planning says that instead
        raise ConfigError(
            f"reward_task={learned.__struct_config__.tag} has no demonstrations to fine-tune on. Type "
            "rm_backbone.init=base or sft.steps=0."
        )


def budget(rm: Network) -> Budget:
    """Three forward passes an example, or one where the trunk is frozen; and three of each parallel text."""
    return Budget(rm.training, 1 if rm.tuning == "frozen" else 3, parallel_texts=0 if alignment_of(rm) is None else 3)


def start(rm: OfPolicy, policy: LanguageModel) -> Model:
    if rm.init == "sft":
        return "sft"
    if rm.init == "base":
        return Base(policy)
    own = LanguageModel(
        rm.init,
        revision=rm.revision,
        dtype=policy.dtype,
        attention=policy.attention,
        template="plain" if policy.template == "plain" else None,
        pad_token=rm.pad_token,
    )
    return Base(own, "rm_backbone.init")


def starts_value(rm: Settings) -> bool:
    return rm.init in ("sft", "base")


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Writes the model, curve.jsonl and training.json."""
    from xling.rewards.networks import RewardNet, train

    train(context, rm, feedback, RewardNet)


def load(context: Context, rm: Settings, request: Request) -> Scorer:
    from xling.rewards.networks import load_reward

    return text_scorer(load_reward(context.parents["reward"]))


reader = scoring = heads = None
