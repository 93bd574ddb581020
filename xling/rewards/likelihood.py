"""Mean log-probability a token of the response under a language model as it is: no training, no source."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from xling.config.common import Dtype, Limit, Side
from xling.config.policies import LanguageModel, Policy
from xling.grid.stage import Context
from xling.models.checkpoints import check_checkpoint, check_table
from xling.models.text import Limits, count_cut, language_model_rooms, policy_ids, prompt_ids, response_ids
from xling.rewards import Base, Choices, Request, RewardSettings, Scorer, Scoring
from xling.tasks.records import Prompt


class Settings(RewardSettings, frozen=True, tag="likelihood"):
    """A model of one's own, whatever the policy is (that one's: likelihood_base, xling/rewards/untrained.py)."""

    checkpoint: str  # a local folder, a hub id, or packaged
    revision: str | None = None
    dtype: Dtype = "float32"
    template: Literal["tokenizer", "plain"] | None = None  # of chats; None: the tokenizer's where it has one
    max_prompt_tokens: Limit = 1024
    max_response_tokens: Limit = 512
    truncation_side: Side | None = None  # of too long a prompt; None: the task's
    pad_token: str | None = None  # a piece to pad with where the tokenizer names none; what is padded is never read


def check(rm: Settings, choices: Choices) -> None:
    """It must be whole, with enough positions."""
    own, sides = _model(rm), (rm.max_prompt_tokens, rm.max_response_tokens)
    if rm.checkpoint != "packaged":
        check_checkpoint(own.setting, own.model, "policy", ("pad", "eos"), lambda c: check_table(c, sides))


def _model(rm: Settings) -> Base:
    how = {"revision": rm.revision, "dtype": rm.dtype, "pad_token": rm.pad_token, "template": rm.template}
    return Base(LanguageModel(rm.checkpoint, **how), "rm_backbone.checkpoint")  # type: ignore[arg-type]


def scoring(rm: Settings, policy: Policy, reading: Mapping[str, Any], side: str, seed: int) -> Scoring:
    return Scoring({"lm": _model(rm)}, {"truncation_side": side})


def load(context: Context, rm: Settings, request: Request) -> Scorer:
    return scorer(context.parents["lm"], Limits(rm.max_prompt_tokens, rm.max_response_tokens, request.side))


def scorer(folder: Path, limits: Limits, without: Callable[[Prompt], str] | None = None) -> Scorer:
    """Under the model in a folder, in nats; with `without`, minus that given what this makes of the prompt."""
    from xling.models.load import load_policy
    from xling.models.states import log_likelihood

    model, tokenizer = load_policy(folder)
    encoder, pad = model.config.is_encoder_decoder, tokenizer.pad_token_id

    def read(prompts: Iterable[Prompt]) -> tuple[list[list[int]], int]:
        return policy_ids(tokenizer, list(prompts), limits.prompt, limits.side, encoder)

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        said = [response_ids(tokenizer, row, limits.response) for row in responses]
        given = log_likelihood(model, read(prompts)[0], said, pad)
        if without is None:
            return given
        bare = prompt_ids(tokenizer, [without(p) for p in prompts], limits.prompt, encoder)
        alone = log_likelihood(model, bare, said, pad)
        return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(given, alone, strict=True)]

    def cut(prompts: Iterable[Prompt], said: Iterable[str]) -> dict[str, int]:
        longer = count_cut(tokenizer, (), said, language_model_rooms(tokenizer, limits, encoder))
        return longer | {"cut_prompts": read(prompts)[1]}

    return Scorer(score, cut)


budget = start = reader = fit = heads = starts_value = None
