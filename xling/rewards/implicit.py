"""The implicit reward of a language model that DPO has trained on the source's feedback (Rafailov et al. 2023).

r(x, y) = beta (log p(y | x) - log p_reference(y | x)): Bradley-Terry on pairs with this score is DPO's loss. So it is
trained by the one loop of xling/rewards/networks.py, and stored with what it was trained from.
"""

from typing import Literal

from xling.config.common import Limit, NonNegative, Objective, PositiveFloat, Side, Training
from xling.config.policies import Lora
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.rewards import Budget, Choices, Feedback, RewardSettings, same_as_policy


class Settings(RewardSettings, frozen=True, tag="implicit"):
    """Starts from the source's SFT policy, from the base, or from a checkpoint of its own, and is held to that."""

    training: Training = Training(steps=40, learning_rate=4e-4, warmup_steps=10, eval_every=20)
    tuning: Literal["full", "lora", "qlora"] = "full"
    lora: Lora = Lora()
    init: str = "sft"  # sft: the source's SFT policy; base; else a local folder or a hub id
    revision: str | None = None  # of a hub id in `init`
    beta: PositiveFloat = 0.1
    objective: Objective | None = None  # None: the task's kind of feedback
    ratings: Literal["labels", "pairs"] = "labels"  # how ratings are learnt from: each, or good ones against bad ones
    pooling: Literal["sum", "mean"] = "sum"  # of the tokens' log-ratios
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    permutation: NonNegative = 0  # 0: true labels; k > 0: the k-th permutation of the labels (control)
    pad_token: str | None = None  # of a model named in `init`: a piece to pad with where its tokenizer names none


def check(rm: Settings, choices: Choices) -> None:
    """As same_as_policy, of a model that has its LM head; and it must be trained, for it says nothing before."""
    same_as_policy.check(rm, choices, use="policy")
    if not rm.training.steps:
        raise ConfigError(
            "rm_backbone.training.steps=0 leaves the model what it is compared with, so that every response has the "
            "same reward. Give it steps, or use rm_backbone=likelihood_sft, which learns nothing."
        )


def budget(rm: Settings) -> Budget:
    """Three forward passes an example, and one of the reference's over all that there are, up to the vocabulary."""
    return Budget(rm.training, 3, generative=True)


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Writes the model, the one that it is held to, curve.jsonl and training.json."""
    from xling.rewards.networks import ImplicitNet, train

    train(context, rm, feedback, ImplicitNet)


start, load = same_as_policy.start, same_as_policy.load
reader = scoring = heads = starts_value = None
