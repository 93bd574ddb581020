"""References and controls that learn nothing; docs/controls.md says what each is for."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from xling.config.policies import LanguageModel, Policy
from xling.digests import chance
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models.checkpoints import check_policy
from xling.models.encoder import check_encoder, encoder_identity, located
from xling.models.text import Limits
from xling.rewards import (
    Base,
    Choices,
    EncoderReader,
    FeatureScorer,
    Model,
    Request,
    RewardSettings,
    Scorer,
    Scores,
    Scoring,
    likelihood,
)
from xling.rewards.consensus import chrf, cosine, scores
from xling.tasks.options import offers, task_module
from xling.tasks.records import Prompt
from xling.tasks.render import cue_of, has_cue

Control = Literal[
    "random",
    "length",
    "gold",
    "likelihood_base",
    "likelihood_sft",
    "likelihood_gain_base",
    "likelihood_gain_sft",
]


class Settings(RewardSettings, frozen=True, tag="untrained"):
    """Known by its score, which is its name in conf/rm_backbone."""

    score: Literal[Control, "shorter", "cosine", "human", "consensus", "consensus_cosine"]
    encoder: str = "packaged"  # of score=cosine and consensus_cosine, as in sentence_encoder

    @property
    def name(self) -> str:
        """random, length, gold, ..."""
        return self.score

    @property
    def compares(self) -> bool:
        return self.score.startswith("consensus")


def check(rm: Settings, choices: Choices) -> None:
    """Each score has its own needs of the task, the policy and the responses."""
    if rm.score.endswith("cosine"):
        check_encoder(rm.encoder)
    if rm.score.startswith("likelihood"):
        _check_likelihood(rm.score, choices)
    if rm.score == "human" and not choices.recorded:
        raise ConfigError(
            "rm_backbone=human reads recorded responses (policy=recorded). With a language model use rm_backbone="
            "same_as_policy, xlm_roberta, sentence_encoder, bag_of_words, length, random or a likelihood."
        )
    if rm.score == "gold" and not choices.recorded and "quality" not in offers(choices.task):
        raise ConfigError(
            f"rm_backbone=gold needs exact quality, which task={choices.task.__struct_config__.tag} has not: only the "
            "embedded world's tasks have it. Use rm_backbone=same_as_policy, bag_of_words, length or random."
        )


def _check_likelihood(score: str, choices: Choices) -> None:
    if not isinstance(choices.policy, LanguageModel):
        raise ConfigError(
            f"rm_backbone={score} reads the policy, and policy=recorded has none. Name a model of yours with "
            "rm_backbone=likelihood rm_backbone.checkpoint=FOLDER, or use rm_backbone=sentence_encoder, bag_of_words, "
            "system, length, random, cosine or human."
        )
    if choices.recorded and score != "likelihood_base":
        raise ConfigError(f"rm_backbone={score} does not go with recorded responses. Use likelihood_base.")
    check_policy(choices.policy)
    if score.startswith("likelihood_gain") and not has_cue(choices.task):
        raise ConfigError(
            f"rm_backbone={score} compares with the prompt without its document, and task.template.policy is "
            "nothing but the document. Put an instruction around it, as in task.template.policy='Summarize:\\n{text}', "
            f"or use rm_backbone={score.replace('_gain', '')}."
        )


def reader(rm: Settings, policy: Policy | None, side: str) -> EncoderReader | None:
    return EncoderReader(rm.encoder) if rm.score == "cosine" else None


def scoring(rm: Settings, policy: Policy, reading: Mapping[str, Any], side: str, seed: int) -> Scoring:
    spec: dict[str, Any] = {"seed": seed if rm.score == "random" else 0}
    if rm.score == "consensus_cosine":
        spec["encoder"] = encoder_identity(rm.encoder)
    if not rm.score.startswith("likelihood") or not isinstance(policy, LanguageModel):
        return Scoring({}, spec)
    model: Model = Base(policy) if rm.score.endswith("base") else "sft"
    return Scoring({"lm": model}, {**reading, **spec})


def load(context: Context, rm: Settings, request: Request) -> Scorer | FeatureScorer:
    if rm.score == "cosine":
        return FeatureScorer(lambda blocks: blocks[1][:, 0])
    if rm.score.startswith("likelihood"):
        cue = (lambda prompt: cue_of(request.task, prompt)) if rm.score.startswith("likelihood_gain") else None
        return likelihood.scorer(
            context.parents["lm"], Limits(request.max_prompt_tokens, 512, request.policy_side), cue
        )
    if rm.score in ("length", "shorter"):
        sign = 1.0 if rm.score == "length" else -1.0
        return Scorer(lambda prompts, responses: [[sign * len(text) for text in row] for row in responses])
    if rm.score == "random":
        return Scorer(_random(request))
    if rm.score == "consensus":
        return Scorer(scores(request.others(), chrf))
    if rm.score == "consensus_cosine":
        return Scorer(scores(request.others(), cosine(located(rm.encoder, context.spec["encoder"]))))
    recorded = request.recorded
    if recorded is None:
        return Scorer(lambda prompts, responses: task_module(request.task).quality(request.task, prompts, responses))
    rated = {p.id: ratings for p, ratings in zip(recorded.prompts, recorded.ratings, strict=True)}
    return Scorer(lambda prompts, responses: [rated[p.id] for p in prompts])  # human and gold


# --- random -------------------------------------------------------------------------------------------------


def _random(request: Request) -> Scores:
    """A number for every response that depends on nothing but its name, the same each time that it is scored.

    Of recorded systems on its text: what they are called decides nothing.
    """

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        names = [f"{p.lang}/{p.id}" for p in prompts]
        if request.numbered and request.recorded is None:
            sizes = zip(names, map(len, responses), strict=True)
            return [[hashed_score(request.seed, name, number) for number in range(size)] for name, size in sizes]
        texts = zip(names, responses, strict=True)
        return [[text_score(request.seed, name, text) for text in row] for name, row in texts]

    return score


def hashed_score(seed: int, prompt: str, index: int) -> float:
    """A number in [0, 1) for a sample by its number in the pool."""
    return chance(f"{seed}\0{prompt}\0{index}")


def text_score(seed: int, prompt: str, text: str) -> float:
    """The same for a text that stands in no pool."""
    return chance(f"{seed}\0{prompt}\0text\0{text}")


fit = heads = budget = start = starts_value = None
