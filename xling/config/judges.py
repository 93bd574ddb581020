"""Settings of the judges: which of two responses is better, and by what."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from xling.config.common import TEMPLATE_DATE, Date, Fraction, Language, NonNegative, Positive, PositiveFloat, Seed
from xling.config.rewards import Dtype, RewardModel


class _Named(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name"):
    """What all judges have; `rm_backbone` is of target_rm alone, and refused elsewhere while planning."""

    rm_backbone: RewardModel | None = None

    @property
    def name(self) -> str:
        """The judge's name in conf/judge."""
        return str(self.__struct_config__.tag)


class Gold(_Named, frozen=True, tag="gold"):
    """The exact quality; embedded world only."""


class TargetRM(_Named, frozen=True, tag="target_rm"):
    """The target's own reward model; `rm_backbone` judges all rows, None: each row's own kind judges it.

    lang: the language whose reward model judges; None: the target's own. Typed as a code, and its facts stand here.
    seed: the judge is trained with this seed; None: with the cell's own.
    half: reward models learn from one half of the feedback's documents, and the judge from the other.
    """

    lang: Language | None = None
    seed: Seed | None = None
    half: bool = False


class Human(_Named, frozen=True, tag="human"):
    """The recorded human ratings."""


class LlmJudge(_Named, frozen=True, tag="llm", kw_only=True):
    """A language model that is shown both responses: a local one (`checkpoint`), or an endpoint (`base_url`)."""

    checkpoint: str | None = None  # packaged, a local folder or a hub id
    revision: str | None = None
    dtype: Dtype = "float32"
    pad_token: str | None = None  # a piece to pad with where the tokenizer names none
    base_url: str | None = None  # of an OpenAI-compatible server, up to /v1
    model: str | None = None  # as that server calls it
    api_key_env: str | None = None  # the environment variable that holds the key; None: none is sent
    prompt: Literal["auto", "summarization", "dialog"] = "auto"
    orders: Literal["both", "random"] = "both"
    opponents: Positive = 1  # of the baseline's samples, the first ones
    win: Literal["soft", "hard"] = "soft"
    max_instances: Positive | None = None  # prompts a dataset; None: all
    max_characters: Positive | None = None  # of the document or chat; None: whole
    seed: Seed = 0  # chooses the prompts of max_instances and the order of orders=random
    min_mass: Fraction = 0.1  # of probability on "1" and "2" together; below it a request is unanswered
    max_unanswered: Fraction = 0.5  # of the pairs that are asked about; above it the cell is a hole
    template_date: Date = TEMPLATE_DATE  # of a local model: what a chat template that asks is told is today
    # What an endpoint's answer may depend on; None: nothing is sent
    max_tokens: Positive | None = 4
    temperature: Annotated[float, Meta(ge=0.0)] | None = 0.0
    extra_body: dict[str, Any] | None = None  # more of each request
    # How an endpoint is asked: nothing below decides a verdict, and nothing of it is in a key.
    requests_per_minute: PositiveFloat | None = None  # of all processes of a root together
    concurrency: Positive = 4  # requests at once, each process
    timeout: PositiveFloat = 60.0  # seconds
    retries: NonNegative = 6
    backoff: Annotated[float, Meta(ge=0.0)] = 1.0  # seconds before the first retry; doubled each time
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def __hash__(self) -> int:  # a mapping has none
        return hash(msgspec.json.encode(self, order="sorted"))


Judge = Gold | TargetRM | Human | LlmJudge


def judge_named(name: str, rm_backbone: RewardModel | None = None) -> Judge:
    """A judge of default settings. KeyError for a name that is none."""
    kinds: dict[str, type[Judge]] = {"gold": Gold, "target_rm": TargetRM, "human": Human, "llm": LlmJudge}
    return kinds[name](rm_backbone=rm_backbone)


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


def judges_its_own(stages: Mapping[str, _Keyed]) -> bool:
    """Whether a cell's judge is the very reward model whose reward was optimised: its verdict is no evidence.

    stages: those that the verdict is made from, by role, as stages, as their sheets or as a plan has them.
    """
    return "score" in stages and "verdict" in stages and stages["score"].key == stages["verdict"].key
