"""How much work a stage is, as far as its spec tells: what people count (samples, scorings, calls), and a FLOP model.

A pass over a token costs 2 operations a parameter, training 6 (Kaplan et al. 2020, section 2.1); attention is left out,
and so are adapters' savings, padding and whatever a task's own code does. Tokens are `cost.prompt_tokens` and
`cost.response_tokens`, else those of a sample of the data, and where it is not here the limits of the spec, an upper
bound. docs/paper.md has the formulas as a table.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any, cast

import msgspec

from xling.grid.stage import Stage, Tokens, Work
from xling.models.checkpoints import TRAINING, Parameters, parameters_of
from xling.models.sizes import Sizes, sizes_of
from xling.optimizers import OPTIMIZERS, Costs
from xling.results.specs import located
from xling.rewards import REWARDS, Budget, RewardSettings, budget_of
from xling.tasks.options import Task, size, tokens_of
from xling.tasks.records import Offer, Split
from xling.translators import TRANSLATORS

EVALUATED = 64  # validation demonstrations a language that fine-tuning is watched on (xling/stages/sft.py)
PROMPT, RESPONSE = 1024, 512  # limits where a spec has none
LEARNT: tuple[Split, ...] = ("train", "validation")  # what models learn from
NOTHING = Work({}, {})
WORD = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a weight
LETTERS, NUMBER = 4, 8  # bytes on disk of a token of a response, and of a score


def priced(work: Callable[[Stage, Tokens], Work]) -> Callable[[Stage, Tokens], Work]:
    """`work` with the lengths of a sample of the stage's data where none are named, and what it is computed in."""

    @wraps(work)
    def of(stage: Stage, tokens: Tokens) -> Work:
        return replace(work(stage, measured(stage, tokens)), single=_in_single(stage))

    return of


def measured(stage: Stage, tokens: Tokens) -> Tokens:
    """`tokens`, with those of a sample of the stage's data where they say none."""
    langs = stage.spec.get("langs") or [stage.spec.get("lang")]
    if None not in (tokens.prompt, tokens.response) or not located(stage.spec).get("task") or None in langs:
        return tokens
    prompt, response = tokens_of(_task(stage), langs[0]) or (None, None)
    return Tokens(tokens.prompt or prompt, tokens.response or response)


def _in_single(stage: Stage) -> bool:
    """Whether it is computed in float32: as its model is stored; a policy that is trained whole as its spec says."""
    base = base_of(stage)
    if base is None:
        return False
    half = WORD[base.spec["dtype"]] == 2
    if stage.kind == "align" and stage.spec["tuning"] == "full":
        half = stage.spec.get("precision") == "bfloat16"
    return not half


def base_of(stage: Stage) -> Stage | None:
    """The stage of the language model that a stage trains, samples or reads with."""
    if stage.kind == "base":
        return stage
    above = [stage.parents[role] for role in ("base", "sft", "init", "lm", "reward") if role in stage.parents]
    return base_of(above[0]) if above else None


def model_of(stage: Stage) -> Parameters | None:
    """The parameters of that model."""
    base = base_of(stage)
    return None if base is None else parameters_of(located(base.spec)["checkpoint"], base.spec.get("commit") or None)


@priced
def sft(stage: Stage, tokens: Tokens) -> Work:
    """Training passes, and greedy responses to validation prompts at each evaluation."""
    spec, model = stage.spec, model_of(stage)
    training = spec["training"]
    prompt, response = lengths(spec, tokens)
    rows = training["steps"] * training["batch_size"]
    watched = training["steps"] // training["eval_every"] * EVALUATED * len(spec["langs"])
    flops = {} if model is None else {
        "training": TRAINING * rows * model.forward(prompt, response),
        "reading": watched * model.forward(prompt, 0),
        "sampling": watched * model.forward(0, response),
    }  # fmt: skip
    return Work(flops, {"demonstrations read": rows}, _stored(stage))


@priced
def reward(stage: Stage, tokens: Tokens) -> Work:
    """Training passes of a network, its evaluations and what its reference reads; linear heads cost next to nothing."""
    rm, model, own = stage.spec["rm"], model_of(stage), budget(stage)
    if own is None:
        return NOTHING
    training = own.training
    prompt, response = limits(rm, tokens)
    sides, what = _feedback(stage.spec)
    rows = training.steps * training.batch_size
    watched = training.steps // training.eval_every * _rows(stage, what, "validation", stage.spec["langs"])
    if model is None:
        return Work({}, {f"{what} read": rows})
    texts = 2 if "pairs" in (what, rm.get("ratings")) else 1  # that an example has
    once = texts * model.forward(prompt, response, head=own.generative)
    brought = own.parallel_texts * model.forward(prompt, 0)
    flops = {"training": rows * own.passes * (once + brought), "reading": watched * once}
    if own.generative:
        there = sum(_rows(stage, what, split, stage.spec["langs"]) for split in LEARNT)
        flops["reading"] += there * (model.forward(prompt, 0) + sides * model.forward(0, response))
    models = 2 if own.generative else 1
    units = {f"{what} read": rows} | ({"parallel texts read": own.parallel_texts * rows} if brought else {})
    return Work(flops, units, models * _stored(stage, head=own.generative))


@priced
def samples(stage: Stage, tokens: Tokens) -> Work:
    """A prompt read once, n responses written; of an aligned policy the KL divergence too, read under both models."""
    spec, model = stage.spec, model_of(stage)
    prompts = _prompts(stage)
    drawn = prompts * spec["n"]
    prompt, response = lengths(spec, tokens)
    if model is None:
        return Work({}, {"samples": drawn})
    reading = prompts * model.forward(prompt, 0)
    reading += 2 * drawn * model.forward(prompt, response) if "reference" in stage.parents else 0
    flops = {"reading": reading, "sampling": drawn * model.forward(0, response)}
    return Work(flops, {"samples": drawn}, LETTERS * float(drawn * response))


@priced
def align(stage: Stage, tokens: Tokens) -> Work:
    """A policy trained against a reward, as its optimizer counts it."""
    model, settings = model_of(stage), OPTIMIZERS.read(stage.spec["optimizer"])
    prompt, response = lengths(stage.spec, tokens)
    if model is None:
        costs = Costs(0.0, 0.0, 0.0)
    else:
        costs = Costs(model.forward(prompt, 0), model.forward(0, response), _reward_once(stage, tokens))
    work = OPTIMIZERS.of(settings).work(settings, costs)
    return Work(work.flops, work.units, _stored(stage)) if model is not None else Work({}, work.units)


@priced
def score(stage: Stage, tokens: Tokens) -> Work:
    """Samples, opponents and held-out feedback under the reward model; a prompt is read once for its responses."""
    spec = stage.spec
    if spec.get("recorded"):
        return NOTHING
    prompts, pool, baseline = _sampled(stage)
    sides, what = _feedback(spec)
    held_out = sides * _rows(stage, what, "test", [spec["lang"]]) if spec["objective"] else 0
    units = {"scorings of answers": pool, "of opponents": baseline, "of held-out feedback": held_out}
    model = _scoring_model(stage)
    if model is None:
        return Work({}, units)
    prompt, response = limits(spec["rm"], tokens)
    generative = _generative(stage)
    once = model.forward(0, response, head=generative)
    reading = model.forward(prompt, 0) * (prompts + held_out) + once * (pool + baseline + held_out)
    reading *= 2 if generative else 1
    return Work({"reading": reading}, units, NUMBER * float(pool + baseline + held_out))


def translate(stage: Stage, tokens: Tokens) -> Work:
    """Documents and responses of both splits that models learn from; what a token costs is the translator's."""
    first, what = stage.parents.get("data", stage), stage.spec["what"]
    records = sum(_rows(stage, what, split, [first.spec["source"]["code"]]) for split in LEARNT)
    responses = 2 if what == "pairs" else 1
    length = records * ((tokens.prompt or PROMPT) + responses * (tokens.response or RESPONSE))
    flops = TRANSLATORS[stage.spec["translator"]["name"]].work(stage, length)
    return Work(flops, {"texts at most": records * (1 + responses)})


@priced
def features(stage: Stage, tokens: Tokens) -> Work:
    """A frozen language model over feedback, or over samples and held-out feedback."""
    spec = stage.spec
    model = model_of(stage) if "lm" in stage.parents and not spec.get("recorded") else None
    if model is None:
        return NOTHING
    prompts, pool, baseline = _sampled(stage) if "pool" in stage.parents else (0, 0, 0)
    sides, what = _feedback(spec)
    rows = _rows(stage, what, "test" if "pool" in stage.parents else "train", [spec["lang"]])
    prompt, response = limits(spec, tokens)
    texts = pool + baseline + sides * rows
    reading = model.forward(prompt, 0) * (prompts + rows) + model.forward(0, response) * texts
    return Work({"reading": reading}, {"texts read": texts})


def sized(stage: Stage) -> tuple[Sizes, int] | None:
    """Sizes of the language model of a stage, and the bytes of a weight as it is stored; None where nothing tells."""
    base = base_of(stage)
    sizes = None if base is None else sizes_of(located(base.spec)["checkpoint"], base.spec.get("commit") or None)
    return None if sizes is None or base is None else (sizes, WORD[base.spec["dtype"]])


def _stored(stage: Stage, head: bool = True) -> float:
    """Bytes of a trained model, which is stored in the dtype of its base."""
    sizes, word = sized(stage) or (None, 0)
    return 0.0 if sizes is None else float(word * (sizes.weights if head else sizes.trunk))


# --- inside -------------------------------------------------------------------------------------------------


def budget(stage: Stage) -> Budget | None:
    """Cost of training the stage's reward model; None: next to nothing."""
    return budget_of(cast(RewardSettings, REWARDS.read(stage.spec["rm"])))


def lengths(spec: Mapping[str, Any], tokens: Tokens) -> tuple[int, int]:
    """Tokens of a prompt and a response of a policy."""
    return _least(tokens.prompt, spec["max_prompt_tokens"]), _least(tokens.response, spec["max_new_tokens"])


def limits(rm: Mapping[str, Any], tokens: Tokens) -> tuple[int, int]:
    """The same as a reward model reads them."""
    longest = rm.get("max_prompt_tokens", PROMPT), rm.get("max_response_tokens", RESPONSE)
    return _least(tokens.prompt, longest[0]), _least(tokens.response, longest[1])


def _least(mean: int | None, limit: int) -> int:
    return limit if mean is None else min(mean, limit)


def _task(stage: Stage) -> Task:
    return msgspec.convert(located(stage.spec)["task"], Task)


def _feedback(spec: Mapping[str, Any]) -> tuple[int, Offer]:
    """Responses of an item of feedback, and what a task calls it."""
    return (2, "pairs") if spec["objective"] == "pairwise" else (1, "ratings")


def _rows(stage: Stage, what: Offer, split: Split, langs: Iterable[str]) -> int:
    """Rows of a stage's task; 0 where no size is known."""
    return sum(size(_task(stage), lang, what, split) or 0 for lang in langs)


@lru_cache(maxsize=4096)
def _prompts(stage: Stage) -> int:
    """Prompts that a stage samples: those of the test split, or the first training demonstrations."""
    if stage.spec.get("split") != "train":
        return _rows(stage, "prompts", "test", [stage.spec["lang"]])
    found, most = _rows(stage, "demonstrations", "train", [stage.spec["lang"]]), stage.spec["prompts"]
    return found if most is None else min(found, most)


def _sampled(stage: Stage) -> tuple[int, int, int]:
    """(prompts, responses in the pool, of the opponent) that a stage reads."""
    pool, baseline = stage.parents["pool"], stage.parents["baseline"]
    prompts = _prompts(pool)
    return prompts, prompts * pool.spec["n"], prompts * baseline.spec["n"]


def _scoring_model(stage: Stage) -> Parameters | None:
    """The network that scores, if it is one that reads: what is read off features has been paid for there."""
    if budget(stage) is not None:
        return model_of(stage.parents["reward"])
    return model_of(stage.parents["lm"]) if "lm" in stage.parents else None


def _reward_once(stage: Stage, tokens: Tokens) -> float:
    """One scoring of a response while a policy is trained."""
    network = stage.parents.get("reward")
    model = model_of(network) if network is not None and budget(stage) is not None else None
    if model is None:
        return 0.0
    generative = _generative(stage)
    return (2 if generative else 1) * model.forward(*limits(stage.spec["rm"], tokens), head=generative)


def _generative(stage: Stage) -> bool:
    """Whether the stage's reward model reads log-probabilities under two models."""
    own = budget(stage)
    return own is not None and own.generative
