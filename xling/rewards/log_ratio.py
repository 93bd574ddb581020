"""beta (log p_policy - log p_reference) of the response: the implicit reward of DPO. No training, no source."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from xling.config.common import TEMPLATE_DATE, Date, Dtype, Limit, PositiveFloat, Side
from xling.config.policies import LanguageModel, Policy
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models.checkpoints import check_checkpoint, check_date, check_table, folder_of, template_of
from xling.models.text import Limits
from xling.rewards import Base, Choices, Request, RewardSettings, Scorer, Scoring, text_scorer


class Settings(RewardSettings, frozen=True, tag="log_ratio"):
    """Two language models that read the same tokens: local folders or hub ids."""

    policy: str
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


def check(rm: Settings, choices: Choices) -> None:
    """Two different models with one tokenizer."""
    sides = (rm.max_prompt_tokens, rm.max_response_tokens)
    for own in _models(rm).values():
        check_checkpoint(own.setting, own.model, "policy", ("pad", "eos"), lambda c: check_table(c, sides))
    check_date("rm_backbone", rm.template_date)
    if (rm.policy, rm.policy_revision) == (rm.reference, rm.reference_revision):
        raise ConfigError(
            f"rm_backbone.policy={rm.policy} and rm_backbone.reference are the same model: every response's log-ratio "
            "is 0. Name the model that the policy was trained from: rm_backbone.reference=FOLDER or a hub id."
        )
    folders = [folder_of(own.model.checkpoint, own.model.revision) for own in _models(rm).values()]
    vocabularies = [_vocabulary(folder) for folder in folders if folder and (folder / "tokenizer.json").is_file()]
    if len(vocabularies) == 2 and vocabularies[0] != vocabularies[1]:
        raise ConfigError(
            f"rm_backbone.policy={rm.policy} and rm_backbone.reference={rm.reference} have different tokenizers: the "
            "probabilities of their tokens cannot be compared. Name the model that the policy was trained from."
        )


@lru_cache(maxsize=4)
def _vocabulary(folder: Path) -> str:
    """The pieces of a tokenizer as canonical JSON."""
    return json.dumps(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"], sort_keys=True)


def scoring(rm: Settings, policy: Policy, reading: Mapping[str, Any], side: str, seed: int) -> Scoring:
    return Scoring(_models(rm), {"truncation_side": side})


def _models(rm: Settings) -> dict[str, Base]:
    def own(role: str, checkpoint: str, revision: str | None) -> Base:
        how = template_of(rm.render)
        model = LanguageModel(checkpoint, revision=revision, dtype=rm.dtype, pad_token=rm.pad_token, template=how)
        return Base(model, f"rm_backbone.{role}")

    return {
        "policy": own("policy", rm.policy, rm.policy_revision),
        "reference": own("reference", rm.reference, rm.reference_revision),
    }


def load(context: Context, rm: Settings, request: Request) -> Scorer:
    from xling.models.published import load_log_ratio

    limits = Limits(rm.max_prompt_tokens, rm.max_response_tokens, request.side)
    parents = context.parents["policy"], context.parents["reference"]
    return text_scorer(load_log_ratio(*parents, rm.render, rm.beta, limits, rm.template_date))


budget = start = reader = fit = heads = starts_value = None
