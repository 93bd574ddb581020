"""Settings of the reward models: what is trained, what is frozen, and the references that learn nothing."""

from typing import Literal

from msgspec import Struct

from xling.config.common import NonNegative, Training
from xling.config.tasks import Task


class SameAsPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="same_as_policy"):
    """The policy's own architecture with a scalar head."""

    training: Training = Training()
    tuning: Literal["full", "lora", "frozen"] = "full"
    init: Literal["sft", "base"] = "sft"
    objective: Literal["pointwise", "pairwise"] | None = None  # None: the task's kind of feedback
    pooling: Literal["last", "mean"] = "last"
    permutation: NonNegative = 0  # 0: true labels; k > 0: the k-th permutation of the labels (control)


class FrozenLM(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="frozen_lm"):
    """A ridge on what the policy's frozen base sees of the response: one forward pass serves every source."""

    features: Literal["likelihood", "states", "both"] = "likelihood"
    permutation: NonNegative = 0
    checkpoint: str | None = None  # another frozen model's folder; None: the policy's base


class BagOfWords(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="bag_of_words"):
    """Regularised linear model on counts of pieces; knows nothing of word order or of other languages."""

    permutation: NonNegative = 0


class SentenceEncoder(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="sentence_encoder"):
    """A frozen multilingual sentence encoder with a small head on (document, response) features."""

    encoder: str = "packaged"  # the package of the `encoder` extra, or a local folder
    permutation: NonNegative = 0
    head: Literal["chosen", "interaction", "response", "both"] = "chosen"  # by cross-validation on the source


class Untrained(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="untrained"):
    """References and controls that learn nothing (docs/controls.md says what each is for)."""

    score: Literal[
        "random",
        "length",
        "gold",
        "likelihood_base",
        "likelihood_sft",
        "likelihood_gain_base",
        "likelihood_gain_sft",
        "cosine",
        "human",
    ]
    encoder: str = "packaged"  # of score=cosine, as in sentence_encoder


class SystemIdentity(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="system"):
    """Which system wrote it: mean source-language rating per system. Recorded responses only."""


RewardModel = SameAsPolicy | FrozenLM | BagOfWords | SentenceEncoder | Untrained | SystemIdentity


def encoder_of(rm: RewardModel) -> str:
    """The sentence encoder that a reward model reads texts with; empty if it reads with none."""
    if isinstance(rm, SentenceEncoder) or (isinstance(rm, Untrained) and rm.score == "cosine"):
        return rm.encoder
    return ""


def objective_of(task: Task, rm: RewardModel) -> Literal["pointwise", "pairwise"]:
    """pointwise or pairwise: what the reward model says, else the task's kind of feedback."""
    return (rm.objective if isinstance(rm, SameAsPolicy) else None) or task.feedback
