"""Typed, frozen settings: what a composed Hydra config becomes, once, before anything is planned.

Each config group is one Struct; groups with several kinds are tagged unions told apart by `name`.
`experiment_from` is the only way in: plain containers in (nothing of Hydra or OmegaConf), Structs out.
Structs rather than dataclasses because msgspec checks types and unknown keys while it converts, with the
path of the offending value, at a few microseconds a cell.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from xling.errors import ConfigError

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Meta(gt=0.0)]


class Language(Struct, frozen=True, forbid_unknown_fields=True):
    """Facts of one language, from conf/lang: everything a prompt or a report says of it."""

    code: str  # BCP 47
    name: str  # in English
    native_name: str
    script: str  # ISO 15924
    direction: Literal["ltr", "rtl"] = "ltr"


# --- task -------------------------------------------------------------------------------------------------


class MicroSummarization(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="micro_summarization"):
    """The embedded world: documents that state several facts, summaries of the main one, exact gold quality.

    Annotators are simulated. Sizes are per language.
    """

    languages: tuple[str, ...]
    seed: int = 0
    demonstrations: Positive = 3000  # SFT training examples
    ratings: Positive = 3000  # pointwise RM training examples
    pairs: Positive = 3000
    validation: Positive = 256  # examples of each kind
    test_prompts: Positive = 512
    demonstration_error: Fraction = 0.4  # share of demonstrations with at least one error
    rating_error: Fraction = 0.25  # the same among rated responses
    lead_bias: Fraction = 0.6  # share of both that tells the document's first fact, main or not
    label_noise: Fraction = 0.1  # share of simulated labels flipped
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


class Files(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="files"):
    """Your own JSONL(.gz): id, lang, document or prompt, response, system, rating. Split by document."""

    path: str
    languages: tuple[str, ...]
    seed: int = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


Task = MicroSummarization | Files

# --- policy and its fine-tuning ---------------------------------------------------------------------------


class LanguageModel(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="language_model"):
    """A causal LM: `checkpoint` is `packaged` (the micro base that ships with xling), `pretrain` or a folder."""

    checkpoint: str
    n: Positive = 16  # samples a prompt in the pool
    baseline_samples: Positive = 4  # fresh samples a prompt: the opponent
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: Positive = 32
    sampling_chunk: Positive = 32  # prompts decoded together; in the key, since it decides the bits


class Recorded(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="recorded"):
    """No model: a prompt's pool is what the recorded systems answered."""


Policy = LanguageModel | Recorded


class Training(Struct, frozen=True, forbid_unknown_fields=True):
    """A training budget. Batch sizes are global; evaluation and checkpoint choice every `eval_every` steps."""

    steps: NonNegative = 300
    batch_size: Positive = 32
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegative = 20
    weight_decay: Annotated[float, Meta(ge=0.0)] = 0.0
    eval_every: Positive = 50


# --- reward model -----------------------------------------------------------------------------------------


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


class BagOfWords(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="bag_of_words"):
    """Regularised linear model on counts of pieces; knows nothing of word order or of other languages."""

    permutation: NonNegative = 0


class SentenceEncoder(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="sentence_encoder"):
    """A frozen multilingual sentence encoder with a small head on (document, response) features."""

    encoder: str = "packaged"  # the package of the `encoder` extra, or a local folder
    permutation: NonNegative = 0


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


def objective_of(task: Task, rm: RewardModel) -> str:
    """pointwise or pairwise: what the reward model says, else the task's kind of feedback."""
    return (rm.objective if isinstance(rm, SameAsPolicy) else None) or task.feedback


# --- optimizer and judge ----------------------------------------------------------------------------------


class BestOfN(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="best_of_n"):
    """argmax of the reward over n samples; ties go to the lower sample index."""

    n: Positive | None = None  # None: the whole pool


Optimizer = BestOfN


class Judge(Struct, frozen=True, forbid_unknown_fields=True):
    """Which of two responses is better."""

    name: Literal["gold", "target_rm", "human"]


# --- the whole --------------------------------------------------------------------------------------------


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """One cell's settings: all that can change its numbers. `source_langs` has several for a pooled RM."""

    task: Task
    source_langs: tuple[Language, ...]
    target_lang: Language
    policy: Policy
    sft: Training
    rm_backbone: RewardModel
    optimizer: Optimizer
    judge: Judge
    seed: NonNegative = 0


def experiment_from(container: Mapping[str, Any]) -> Experiment:
    """Convert a resolved, plain container; `ConfigError` names the path and the value that does not fit."""
    try:
        return msgspec.convert(container, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The configuration does not fit: {error}") from error
