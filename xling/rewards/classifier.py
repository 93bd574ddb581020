"""A published sequence classifier as it is: no training, no source."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from xling.config.common import TEMPLATE_DATE, Date, Dtype, Limit, Side
from xling.config.policies import LanguageModel, Policy
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models.checkpoints import SEPARATORS, check_checkpoint, check_date, check_labels, check_table, template_of
from xling.models.text import Limits
from xling.models.weights import label_count
from xling.rewards import Base, Choices, Request, RewardSettings, Scorer, Scoring, text_scorer


class Settings(RewardSettings, frozen=True, tag="classifier"):
    """How prompts and responses become the classifier's text: xling/models/published.py."""

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


def check(rm: Settings, choices: Choices) -> None:
    """It must have one label, or two and the good one named, and enough positions."""

    def check_config(config: Mapping[str, Any]) -> None:
        if config:
            check_labels(label_count(config), rm.label)
        check_table(config, (rm.max_prompt_tokens, rm.max_response_tokens), SEPARATORS)

    own = _checkpoint(rm)
    check_checkpoint(own.setting, own.model, "classifier", ("pad",), check_config)
    check_date("rm_backbone", rm.template_date)
    if rm.remote_code not in (None, rm.checkpoint):
        raise ConfigError(
            f"rm_backbone.remote_code={rm.remote_code} must name the repository of rm_backbone.checkpoint="
            f"{rm.checkpoint}: its code runs with your rights. Type rm_backbone.remote_code=null to run none."
        )


def scoring(rm: Settings, policy: Policy, reading: Mapping[str, Any], side: str, seed: int) -> Scoring:
    return Scoring({"checkpoint": _checkpoint(rm)}, {"truncation_side": side})


def _checkpoint(rm: Settings) -> Base:
    model = LanguageModel(
        rm.checkpoint,
        revision=rm.revision,
        dtype=rm.dtype,
        pad_token=rm.pad_token,
        remote_code=rm.remote_code,
        template=template_of(rm.render),
    )
    return Base(model, "rm_backbone.checkpoint", "classifier")


def load(context: Context, rm: Settings, request: Request) -> Scorer:
    from xling.models.published import load_published_classifier

    limits = Limits(rm.max_prompt_tokens, rm.max_response_tokens, request.side)
    folder = context.parents["checkpoint"]
    return text_scorer(load_published_classifier(folder, rm.render, rm.label, limits, rm.template_date))


budget = start = reader = fit = heads = starts_value = None
