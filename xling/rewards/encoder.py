"""A bidirectional encoder that reads (prompt, response) as a pair, with a scalar head; trained as same_as_policy is."""

from collections.abc import Mapping
from typing import Any, Literal

from xling.config.common import Dtype, Limit, NonNegative, Objective, Side, Training
from xling.config.policies import LanguageModel, Lora, Policy
from xling.grid.stage import Context
from xling.models.checkpoints import SEPARATORS, check_checkpoint, check_encoder_config
from xling.rewards import AlignedSettings, Base, Choices, Feedback, same_as_policy


class Settings(AlignedSettings, frozen=True, tag="encoder"):
    """Starts from a checkpoint of its own."""

    checkpoint: str  # a local folder or a hub id
    revision: str | None = None
    dtype: Dtype = "float32"
    training: Training = Training()
    tuning: Literal["full", "lora", "frozen"] = "full"
    lora: Lora = Lora()
    objective: Objective | None = None
    pooling: Literal["first", "mean"] = "first"
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    permutation: NonNegative = 0
    pad_token: str | None = None  # a piece to pad with where the tokenizer names none; what is padded is never read


def check(rm: Settings, choices: Choices) -> None:
    """The checkpoint must be an encoder with room for a pair."""

    def check_config(config: Mapping[str, Any]) -> None:
        if config:
            check_encoder_config(config, (rm.max_prompt_tokens, rm.max_response_tokens), SEPARATORS)

    own = start(rm, choices.policy)
    check_checkpoint(own.setting, own.model, "encoder", ("pad",), check_config)
    same_as_policy.check_training(rm, choices.policy, ("rm_backbone.dtype", rm.dtype))


def start(rm: Settings, policy: Policy) -> Base:
    own = LanguageModel(rm.checkpoint, revision=rm.revision, dtype=rm.dtype, pad_token=rm.pad_token)
    return Base(own, "rm_backbone.checkpoint", "encoder")


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Writes the model, curve.jsonl and training.json."""
    from xling.rewards.networks import PairNet, train

    train(context, rm, feedback, PairNet)


budget, load = same_as_policy.budget, same_as_policy.load
reader = scoring = heads = starts_value = None
