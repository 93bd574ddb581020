"""Settings of the reward models: what is trained, what is frozen, and the references that learn nothing."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from xling.config.common import TEMPLATE_DATE, Date, NonNegative, PositiveFloat, Training
from xling.config.policies import Lora
from xling.config.tasks import TaskSettings

Dtype = Literal["float32", "bfloat16", "float16"]
Side = Literal["left", "right"]
Objective = Literal["pointwise", "pairwise"]
Limit = Annotated[int, Meta(ge=2)]  # tokens, those that the model adds included


class SameAsPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="same_as_policy"):
    """The policy's own architecture with a scalar head."""

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


class Encoder(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="encoder"):
    """A bidirectional encoder that reads (prompt, response) as a pair, with a scalar head."""

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


class FrozenLM(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="frozen_lm"):
    """A ridge on what the policy's frozen base sees of the response: one forward pass serves every source."""

    features: Literal["likelihood", "states", "both"] = "likelihood"
    permutation: NonNegative = 0
    checkpoint: str | None = None  # another frozen model's folder; None: the policy's base
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    pad_token: str | None = None  # of `checkpoint`: a piece to pad with where its tokenizer names none


class BagOfWords(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="bag_of_words"):
    """Regularised linear model on counts of pieces; knows nothing of word order or of other languages."""

    permutation: NonNegative = 0


class SentenceEncoder(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="sentence_encoder"):
    """A frozen multilingual sentence encoder with a small head on (document, response) features."""

    encoder: str = "packaged"  # the package of the `encoder` extra, a local folder, or a hub id
    permutation: NonNegative = 0
    head: Literal["chosen", "interaction", "response", "both"] = "chosen"  # by cross-validation on the source


class Classifier(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="classifier"):
    """A published sequence classifier as it is: no training, no source."""

    checkpoint: str  # a local folder or a hub id
    revision: str | None = None
    dtype: Dtype = "float32"
    remote_code: str | None = None  # the repository whose code may run
    label: Annotated[int, Meta(ge=0, le=1)] | None = None  # the good class of two
    render: Literal["auto", "chat", "pair", "plain"] = "auto"
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    pad_token: str | None = None  # a piece to pad with where the tokenizer names none; what is padded is never read
    template_date: Date = TEMPLATE_DATE  # what chat templates that ask for it are told is today


class LogRatio(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="log_ratio"):
    """beta (log p_policy - log p_reference) of the response: the implicit reward of DPO. No training, no source."""

    policy: str  # local folders or hub ids
    reference: str
    policy_revision: str | None = None
    reference_revision: str | None = None
    dtype: Dtype = "float32"
    beta: PositiveFloat = 0.1
    render: Literal["auto", "chat", "plain"] = "auto"
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    pad_token: str | None = None  # a piece to pad with where the tokenizers name none; what is padded is never read
    template_date: Date = TEMPLATE_DATE  # what chat templates that ask for it are told is today


Control = Literal[
    "random",
    "length",
    "gold",
    "likelihood_base",
    "likelihood_sft",
    "likelihood_gain_base",
    "likelihood_gain_sft",
]


class Untrained(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="untrained"):
    """References and controls that learn nothing (docs/controls.md says what each is for)."""

    score: Literal[Control, "cosine", "human"]
    encoder: str = "packaged"  # of score=cosine, as in sentence_encoder


class SystemIdentity(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="system"):
    """Which system wrote it: mean source-language rating per system. Recorded responses only."""


RewardModel = (
    SameAsPolicy
    | Encoder
    | FrozenLM
    | BagOfWords
    | SentenceEncoder
    | Classifier
    | LogRatio
    | Untrained
    | SystemIdentity
)
Published = Classifier | LogRatio  # models as they are
Tuned = SameAsPolicy | Encoder  # networks that are trained


def encoder_of(rm: RewardModel) -> str:
    """The sentence encoder that a reward model reads texts with; empty if it reads with none."""
    if isinstance(rm, SentenceEncoder) or (isinstance(rm, Untrained) and rm.score == "cosine"):
        return rm.encoder
    return ""


def objective_of(task: TaskSettings, rm: RewardModel) -> Objective:
    """pointwise or pairwise: what the reward model says, else the task's kind of feedback."""
    return (rm.objective if isinstance(rm, Tuned) else None) or task.feedback


def has_source(rm: RewardModel) -> bool:
    """Whether it is trained on a source language's feedback."""
    return not isinstance(rm, Untrained | Published)


def name_of(rm: RewardModel) -> str:
    """What people call it: the reference's name, else the kind of backbone."""
    return rm.score if isinstance(rm, Untrained) else str(rm.__struct_config__.tag)


def checkpoints_of(rm: RewardModel) -> dict[str, tuple[str, str | None]]:
    """Setting -> checkpoint and revision, of those models that the reward model names itself."""
    if isinstance(rm, SameAsPolicy):
        return {} if rm.init in ("sft", "base") else {"init": (rm.init, rm.revision)}
    if isinstance(rm, Encoder | Classifier):
        return {"checkpoint": (rm.checkpoint, rm.revision)}
    if isinstance(rm, FrozenLM) and rm.checkpoint not in (None, "packaged"):
        return {"checkpoint": (str(rm.checkpoint), None)}
    if isinstance(rm, LogRatio):
        return {"policy": (rm.policy, rm.policy_revision), "reference": (rm.reference, rm.reference_revision)}
    return {}
