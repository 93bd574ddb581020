"""What scores: each kind of reward model as one function from prompts and responses to numbers."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xling.config.rewards import (
    BagOfWords,
    Classifier,
    FrozenLM,
    Published,
    RewardModel,
    SentenceEncoder,
    Untrained,
    encoder_of,
)
from xling.grid.stage import Context
from xling.tasks.options import Task, task_module
from xling.tasks.records import Prompt
from xling.tasks.render import cue_of

Score = Callable[[Sequence[Prompt], Sequence[Sequence[str]]], list[list[float]]]


@dataclass(frozen=True)
class Scorer:
    """`cut` counts prompts and responses that are longer than the model's limits; None: there are none."""

    score: Score
    cut: Callable[[Iterable[Prompt], Iterable[str]], dict[str, int]] | None = None


@dataclass(frozen=True)
class Asking:
    """What of a score's spec some kinds of reward models read."""

    task: Task
    seed: int = 0  # of the random control
    side: str = "right"  # where published models and likelihoods cut too long a prompt
    max_prompt_tokens: int = 1024  # of likelihoods


def reads_features(rm: RewardModel) -> bool:
    """Whether its scores are linear in what the parent `features` holds."""
    return isinstance(rm, FrozenLM | SentenceEncoder) or bool(encoder_of(rm))


def feature_scores(context: Context, rm: RewardModel, name: str) -> Iterator[float]:
    """Scores of the rows of the parent `features`, a file at a time; `name` is samples or heldout."""
    from xling.models import ridge
    from xling.stages.features import feature_blocks

    head = None if isinstance(rm, Untrained) else ridge.load(context.parents["reward"] / "head.npz")
    for blocks in feature_blocks(context.parents["features"] / name):
        yield from (blocks[1][:, 0] if head is None else head.predict(blocks)).tolist()  # the cosine


def scorer(context: Context, rm: RewardModel, asking: Asking) -> Scorer:
    """Every other reward model."""
    if isinstance(rm, Untrained):
        return _untrained(context, rm.score, asking)
    if isinstance(rm, BagOfWords):
        from xling.models.bag_of_words import load_bag_of_words

        linear = load_bag_of_words(context.parents["reward"])
        return Scorer(lambda prompts, responses: linear.score([p.reward_text for p in prompts], responses))
    return _reading(_network(context, rm, asking.side))


def text_scorer(context: Context, rm: RewardModel, reading: Mapping[str, Any], asking: Asking) -> Score:
    """Any reward model that scores texts, also one with a linear head, for those who ask while they train.

    reading: what the frozen model of such a head reads, as in the spec of its features.
    """
    if isinstance(rm, Untrained) and rm.score == "random":
        return lambda prompts, responses: [
            [text_score(asking.seed, f"{p.lang}/{p.id}", text) for text in row]
            for p, row in zip(prompts, responses, strict=True)
        ]
    if not reads_features(rm):
        return scorer(context, rm, asking).score
    from xling.models import ridge
    from xling.stages.features import reader_of

    read = reader_of(context.parents.get("lm"), reading)
    head = None if isinstance(rm, Untrained) else ridge.load(context.parents["reward"] / "head.npz")

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        blocks = read.blocks([p.reward_text for p in prompts], responses)
        flat = iter((blocks[1][:, 0] if head is None else head.predict(blocks)).tolist())
        return [[next(flat) for _ in row] for row in responses]

    return score


def _network(context: Context, rm: RewardModel, side: str) -> Any:
    """A model with `score`, `tokenizer` and `rooms`."""
    if isinstance(rm, Published):
        from xling.models.published import load_log_ratio, load_published_classifier
        from xling.models.text import Limits

        limits = Limits(rm.max_prompt_tokens, rm.max_response_tokens, side)
        if isinstance(rm, Classifier):
            return load_published_classifier(
                context.parents["checkpoint"], rm.render, rm.label, limits, rm.template_date
            )
        parents = context.parents["policy"], context.parents["reference"]
        return load_log_ratio(*parents, rm.render, rm.beta, limits, rm.template_date)
    from xling.models.stored import load_reward

    return load_reward(context.parents["reward"])


def _reading(model: Any) -> Scorer:
    from xling.models.text import count_cut

    return Scorer(
        lambda prompts, responses: model.score([p.reward_text for p in prompts], responses),
        lambda prompts, said: count_cut(model.tokenizer, (p.reward_text for p in prompts), said, model.rooms()),
    )


# --- references that learn nothing --------------------------------------------------------------------------


def _untrained(context: Context, score: str, asking: Asking) -> Scorer:
    if score == "random":
        return Scorer(
            lambda prompts, responses: [
                [hashed_score(asking.seed, f"{p.lang}/{p.id}", j) for j in range(len(row))]
                for p, row in zip(prompts, responses, strict=True)
            ]
        )
    if score == "length":
        return Scorer(lambda prompts, responses: [[float(len(text)) for text in row] for row in responses])
    if score == "gold":
        return Scorer(lambda prompts, responses: task_module(asking.task).quality(asking.task, prompts, responses))
    return likelihood(context, asking, without_document=score.startswith("likelihood_gain"))


def hashed_score(seed: int, prompt: str, index: int) -> float:
    """A number in [0, 1) that depends on nothing but its name."""
    return _hashed(f"{seed}\0{prompt}\0{index}")


def text_score(seed: int, prompt: str, text: str) -> float:
    """The same for a text that stands in no pool: a random reward, but the same each time that it is said."""
    return _hashed(f"{seed}\0{prompt}\0text\0{text}")


def _hashed(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / 2**56


def likelihood(context: Context, asking: Asking, without_document: bool) -> Scorer:
    """Mean token log-probability under the parent `lm`; with `without_document`, minus that given no document."""
    from xling.models.load import load_policy
    from xling.models.states import log_likelihood
    from xling.models.text import Limits, count_cut, language_model_rooms, policy_ids, prompt_ids, response_ids

    model, tokenizer = load_policy(context.parents["lm"])
    encoder, pad = model.config.is_encoder_decoder, tokenizer.pad_token_id
    limits = Limits(asking.max_prompt_tokens, 512, asking.side)

    def read(prompts: Iterable[Prompt]) -> tuple[list[list[int]], int]:
        return policy_ids(tokenizer, list(prompts), limits.prompt, limits.side, encoder)

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        said = [response_ids(tokenizer, row, limits.response) for row in responses]
        given = log_likelihood(model, read(prompts)[0], said, pad)
        if not without_document:
            return given
        cues = prompt_ids(tokenizer, [cue_of(asking.task, p) for p in prompts], limits.prompt, encoder)
        alone = log_likelihood(model, cues, said, pad)
        return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(given, alone, strict=True)]

    def cut(prompts: Iterable[Prompt], said: Iterable[str]) -> dict[str, int]:
        longer = count_cut(tokenizer, (), said, language_model_rooms(tokenizer, limits, encoder))
        return longer | {"cut_prompts": read(prompts)[1]}

    return Scorer(score, cut)
