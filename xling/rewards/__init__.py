"""Reward models (`rm_backbone`), a module each; `REWARDS` is the table of them.

A module has settings and the hooks of `RewardModule`. No hook imports planning or stages: a module says which models it
needs (`Base`, SFT, a frozen reader), and planning makes the stages. All but `fit`, `load` and the functions of `heads`
are called while planning, and import no torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from xling.config.common import Objective, Training
from xling.config.policies import LanguageModel, Policy
from xling.grid.stage import Context
from xling.models.ridge import Array, Linear
from xling.models.text import count_cut
from xling.options import Options
from xling.tasks.records import Prompt, Recorded, Split, TaskSettings


class RewardSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name"):
    """Base of the settings of every reward model. Fields that mean the same wherever they are:

    permutation: 0 or the number of a permutation of the labels, a control; who has it gets those controls.
    objective: pointwise or pairwise; None, or no such field: as the task's feedback is.
    truncation_side: of too long a prompt, left or right; None, or no such field: the task's.
    """

    @property
    def name(self) -> str:
        """Its name in conf/rm_backbone."""
        return str(self.__struct_config__.tag)

    @property
    def plain(self) -> "RewardSettings":
        """The same with the true labels: itself, but for a control with permuted ones."""
        return msgspec.structs.replace(self, permutation=0) if hasattr(self, "permutation") else self

    @property
    def compares(self) -> bool:
        """Whether it scores a response beside the other samples of its prompt, and not by itself."""
        return False


class Alignment(Struct, frozen=True, forbid_unknown_fields=True):
    """Unlabelled parallel texts pulled together while a reward model is trained (xling/rewards/alignment.py)."""

    weight: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0  # of the term beside the loss; 0: none are read
    langs: tuple[str, ...] = ()  # whose texts, beside the source's; (): all languages of the task

    def __post_init__(self) -> None:
        """In whatever order they are named."""
        msgspec.structs.force_setattr(self, "langs", tuple(sorted(set(self.langs))))


class AlignedSettings(RewardSettings, frozen=True, kw_only=True):
    """Base of the settings of networks with a state that their head reads."""

    # UNSET stands in no spec, so that keys have it only where it changes something
    alignment: Alignment | UnsetType = UNSET

    @property
    def plain(self) -> RewardSettings:
        """And aligned to nothing: a judge learns in the language that it judges."""
        return msgspec.structs.replace(super().plain, alignment=UNSET)

    def __post_init__(self) -> None:
        if self.alignment is not UNSET and not self.alignment.weight:
            msgspec.structs.force_setattr(self, "alignment", UNSET)


# --- while planning -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """The other choices of a cell, which a reward model has to go with."""

    task: TaskSettings  # whose responses are scored
    policy: Policy
    sft: Training
    recorded: bool  # responses are recorded, not sampled
    reward_task: TaskSettings | None = None  # whose feedback is learnt from, if that is not the task's own


@dataclass(frozen=True)
class Base:
    """A model as it is, before any training here: where it lies, how it is loaded, and what for."""

    model: LanguageModel
    setting: str = "policy.checkpoint"  # what people typed, for errors
    use: str = "policy"  # policy, encoder or classifier


# sft: the SFT policy of the source where a model is trained, of the target where one scores
Model = Base | Literal["sft"]


class TextsRead(Struct, frozen=True):
    """Limits in tokens of the texts that a frozen language model reads, and the features that are kept."""

    features: str
    max_prompt_tokens: int
    max_response_tokens: int
    truncation_side: str


@dataclass(frozen=True)
class LanguageReader:
    """A frozen language model whose features of every text are computed once, for all sources."""

    base: Base
    read: TextsRead


@dataclass(frozen=True)
class EncoderReader:
    """A frozen sentence encoder, likewise: packaged, a folder, or a hub id."""

    encoder: str


Reader = LanguageReader | EncoderReader


class Scoring(NamedTuple):
    """Models (by the role of their stage) and settings that scoring needs besides the trained result."""

    models: Mapping[str, Model] = {}
    spec: Mapping[str, Any] = {}


class Budget(NamedTuple):
    """Cost of training: examples as `training` says, each so many forward passes (3 where all is trained)."""

    training: Training
    passes: int
    generative: bool = False  # reads log-probabilities of tokens, beside those under a reference that learns nothing
    parallel_texts: int = 0  # that an example brings besides, of a prompt's length


# --- in stages ----------------------------------------------------------------------------------------------

Text = tuple[str, str]  # a prompt and a response
Parallel = tuple[Text, Text, Text]  # in a source language, its translation, and another text of that language


@dataclass(frozen=True)
class Feedback:
    """A reward model's training data, as the reward stage has it.

    items(split, permutation): Pairs or Ratings of all sources; with a permutation their labels are dealt out anew.
    features(): blocks (rows, columns) of what the frozen reader saw of the training items' responses, in their order;
    a pair has two rows, the chosen one first.
    parallel(): unlabelled parallel texts, where the settings ask for alignment.
    """

    seed: int
    objective: str  # pairwise: items are Pairs; pointwise: Ratings
    truncation_side: str  # of too long a prompt
    items: Callable[[Split, int], list[Any]]
    features: Callable[[], list[Array]]
    parallel: Callable[[], list[Parallel]] = list


Scores = Callable[[Sequence[Prompt], Sequence[Sequence[str]]], list[list[float]]]


@dataclass(frozen=True)
class Scorer:
    """Scores texts. `cut` counts prompts and responses that are longer than the model's limits; None: it has none.

    net: a network that scores, if it is one that several processes can share out.
    """

    score: Scores
    cut: Callable[[Iterable[Prompt], Iterable[str]], dict[str, int]] | None = None
    net: Any = None


@dataclass(frozen=True)
class FeatureScorer:
    """Scores rows of what the frozen reader saw of texts: feature blocks -> (rows,)."""

    predict: Callable[[Sequence[Array]], Array]


@dataclass(frozen=True)
class Request:
    """Parameters of a stage that scores, besides the settings."""

    task: TaskSettings
    seed: int = 0  # of the random control
    side: str = "right"  # where the model cuts too long a prompt
    policy_side: str = "right"  # and where the policy does, as which likelihoods are read
    max_prompt_tokens: int = 1024  # the policy's
    numbered: bool = True  # responses are the samples of a pool, each known by its number; else by their text alone
    recorded: Recorded | None = None  # the responses, if systems' recorded ones are scored
    others: Callable[[], Mapping[str, Sequence[str]]] = dict  # samples that responses are compared with, by prompt


@dataclass(frozen=True)
class Fold:
    """Training data of one cross-fitted head: recorded responses of all documents but a fold's."""

    rows: list[Array]  # feature blocks of the responses
    labels: Array  # (rows,) standardised ratings
    # feature blocks as `fit` takes them, and the fit: least squares on labels, or on differences for pairs
    fitting: Callable[[], tuple[list[Array], Callable[[list[Array]], Linear]]]


@dataclass(frozen=True)
class Heads:
    """How linear heads are cross-fitted on people's ratings of recorded systems.

    blocks(recorded, systems): feature blocks of `recorded.flat()`; None: what the frozen reader saw.
    fit(settings, fold): the head, and the name of the features that it chose to read.
    """

    fit: Callable[[Any, Fold], tuple[Linear, str]]
    blocks: Callable[[Recorded, Sequence[str]], list[Array]] | None = None


class RewardModule(Protocol):
    """The module of a reward model. A hook that does not apply is None, which is said and not left out."""

    Settings: type[RewardSettings]
    # (settings, choices): ConfigError for settings that cannot be, or do not go with the other choices
    check: Callable[[Any, Choices], None] | None
    # (settings): what it costs to train by gradient descent, which a seed decides; None: it is solved for, in no time
    budget: Callable[[Any], Budget] | None
    # (settings, policy): the model that its training starts from, the parent `init` of its stage
    start: Callable[[Any, Policy], Model] | None
    # (settings, policy, side where long prompts are cut): the frozen model whose features it is linear in.
    # None: it reads texts. An empty policy or side: asked only what kind of reader it is
    reader: Callable[[Any, Policy | None, str], Reader | None] | None
    # (settings, policy, how the policy reads prompts, side, seed): what scoring needs besides what was trained
    scoring: Callable[[Any, Policy, Mapping[str, Any], str, int], Scoring] | None
    # (settings): whether PPO's value model can start from it, a network of the policy's own architecture
    starts_value: Callable[[Any], bool] | None
    # trains it and writes it to context.out; None: it learns nothing and has no source language
    fit: Callable[[Context, Any, Feedback], None] | None
    # what scores; None: it scores recorded responses alone, by cross-fitted heads
    load: Callable[[Context, Any, Request], Scorer | FeatureScorer] | None
    heads: Heads | None  # how it learns from recorded responses, which have no splits; None: it cannot


HOOKS = {
    "check": "what planning refuses",
    "budget": "what its training costs",
    "start": "the model that its training starts from",
    "reader": "the frozen model whose features it is linear in",
    "scoring": "the models that scoring needs besides",
    "starts_value": "whether PPO's value model can start from it",
    "fit": "trains it; None: it learns nothing",
    "load": "what scores; None: cross-fitted heads alone do",
    "heads": "how it learns from recorded responses; None: it cannot",
}


# --- the table ----------------------------------------------------------------------------------------------

REWARDS: Options[RewardModule] = Options(
    "rm_backbone",
    {
        name: f"xling.rewards.{name}"
        for name in (
            "same_as_policy",
            "implicit",
            "encoder",
            "frozen_lm",
            "bag_of_words",
            "sentence_encoder",
            "classifier",
            "log_ratio",
            "likelihood",
            "untrained",
            "system",
        )
    },
    HOOKS,
    RewardSettings,
)


def has_source(rm: RewardSettings) -> bool:
    """Whether it is trained on a source language's feedback."""
    return REWARDS.of(rm).fit is not None


def objective_of(task: TaskSettings, rm: RewardSettings) -> Objective:
    """pointwise or pairwise: what the reward model says, else the task's kind of feedback."""
    own: Objective | None = getattr(rm, "objective", None)
    return own or task.feedback


def reader_of(rm: RewardSettings, policy: Policy | None = None, side: str = "") -> Reader | None:
    """The frozen model whose features a reward model is linear in; None: it reads texts itself."""
    module = REWARDS.of(rm)
    return module.reader(rm, policy, side) if module.reader else None


def encoder_of(rm: RewardSettings) -> str:
    """The sentence encoder that a reward model reads texts with; empty if it reads with none."""
    reader = reader_of(rm)
    return reader.encoder if isinstance(reader, EncoderReader) else ""


def alignment_of(rm: object) -> Alignment | None:
    """How parallel texts are pulled together while it is trained; None: they are not."""
    return getattr(rm, "alignment", None) or None


def budget_of(rm: RewardSettings) -> Budget | None:
    """Cost of training it by gradient descent; None: a closed form, or nothing to train."""
    module = REWARDS.of(rm)
    return module.budget(rm) if module.budget else None


def text_scorer(model: Any) -> Scorer:
    """A model with `score` from texts to numbers, its `tokenizer`, and `rooms` in tokens."""
    return Scorer(
        lambda prompts, responses: model.score([p.reward_text for p in prompts], responses),
        lambda prompts, responses: count_cut(
            model.tokenizer, (p.reward_text for p in prompts), responses, model.rooms()
        ),
        model if getattr(model, "kind", "") == "language_model" else None,
    )
