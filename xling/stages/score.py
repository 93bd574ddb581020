"""score[s,t]: the reward model of s on everything of t: pool, baseline and held-out feedback. And gold[t].

A score of what people or the embedded world say is the quality itself: gold[t] has the same files and is what
judge=gold and judge=human decide by. Untrained references and controls are scored here as well, so that there is
one scoring path.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from xling.config import BagOfWords, FrozenLM, RewardModel, Task, Untrained
from xling.errors import StageError
from xling.grid.stage import Context
from xling.stages.files import ragged, read_samples, write_json
from xling.tasks import task_module
from xling.tasks.records import Pair, Prompt, Rating

Scorer = Callable[[Sequence[Prompt], Sequence[Sequence[str]]], list[list[float]]]


class ScoreSpec(Struct, frozen=True):
    """What determines scores besides the reward model and the samples; `seed` is the random control's."""

    task: Task
    digest: str
    lang: str
    rm: RewardModel
    objective: str
    recorded: bool = False  # the responses are what recorded systems said
    source_langs: tuple[str, ...] = ()  # of recorded responses alone
    encoder: str = ""
    seed: int = 0


def run(context: Context) -> None:
    """Writes pool.npy, baseline.npy (prompts, samples) and heldout.json."""
    spec = msgspec.convert(context.spec, ScoreSpec)
    if spec.recorded:
        return _recorded(context, spec)
    score = scorer(context, spec)
    prompts = {p.id: p for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
    write_scores(context, score, prompts)
    write_json(context.out / "heldout.json", held_out(spec, score))
    return None


def run_gold(context: Context) -> None:
    """Writes pool.npy and baseline.npy: exact quality, or what people rated."""
    spec = msgspec.convert(context.spec, ScoreSpec)
    module = task_module(spec.task)
    if isinstance(spec.rm, Untrained) and spec.rm.score == "human":
        from xling.models.recorded import rated_responses

        rated_responses(module.recorded(spec.task, spec.lang, spec.digest), context.out)
    else:
        prompts = {p.id: p for p in module.prompts(spec.task, spec.lang, "test")}
        write_scores(context, lambda p, r: module.quality(spec.task, p, r), prompts)


def write_scores(context: Context, score: Scorer, prompts: dict[str, Prompt]) -> None:
    """Score both sample folders, each prompt's responses in one go: the model reads a prompt once."""
    pool, baseline = (read_samples(context.parents[role]) for role in ("pool", "baseline"))
    both = [[*a.responses, *b.responses] for a, b in zip(pool, baseline, strict=True)]
    scores = score([prompts[s.prompt] for s in pool], both)
    if not all(map(math.isfinite, itertools.chain.from_iterable(scores))):
        raise StageError("Some scores are no finite numbers; the judge would take them for missing.")
    own = [len(s.responses) for s in pool]
    np.save(context.out / "pool.npy", ragged([row[:n] for row, n in zip(scores, own, strict=True)]))
    np.save(context.out / "baseline.npy", ragged([row[n:] for row, n in zip(scores, own, strict=True)]))
    context.progress(1, 2)


def scorer(context: Context, spec: ScoreSpec) -> Scorer:
    """The reward model named by the spec as a function of prompts and responses."""
    if isinstance(spec.rm, Untrained):
        return untrained(context, spec, spec.rm.score)
    if isinstance(spec.rm, BagOfWords):
        from xling.models.bag_of_words import load_bag_of_words

        linear = load_bag_of_words(context.parents["reward"])
        return lambda prompts, responses: linear.score([p.reward_text for p in prompts], responses)
    if isinstance(spec.rm, FrozenLM):
        return frozen(context)
    from xling.models.reward import load_reward

    model = load_reward(context.parents["reward"])
    return lambda prompts, responses: model.score([p.reward_text for p in prompts], responses)


def frozen(context: Context) -> Scorer:
    """A ridge on the rows of the parent `features`: first those of the samples, then those of the held-out feedback."""
    from xling.models import ridge
    from xling.stages.features import read_blocks

    head = ridge.load(context.parents["reward"] / "head.npz")
    files = iter(("samples.npz", "heldout.npz"))

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        rows = iter(head.predict(read_blocks(context.parents["features"] / next(files))).tolist())
        scores = [[next(rows) for _ in row] for row in responses]
        if next(rows, None) is not None:
            raise StageError("The features have more rows than there are responses.")
        return scores

    return score


def untrained(context: Context, spec: ScoreSpec, score: str) -> Scorer:
    """References and controls that learn nothing."""
    if score == "random":
        return lambda prompts, responses: [
            [hashed_score(spec.seed, f"{p.lang}/{p.id}", j) for j in range(len(row))]
            for p, row in zip(prompts, responses, strict=True)
        ]
    if score == "length":
        return lambda prompts, responses: [[float(len(text)) for text in row] for row in responses]
    if score == "gold":
        return lambda prompts, responses: task_module(spec.task).quality(spec.task, prompts, responses)
    return likelihood(context, without_document=score.startswith("likelihood_gain"))


def hashed_score(seed: int, prompt: str, index: int) -> float:
    """A number in [0, 1) that depends on nothing but its name."""
    digest = hashlib.sha256(f"{seed}\0{prompt}\0{index}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def likelihood(context: Context, without_document: bool) -> Scorer:
    """Mean token log-probability under the parent `lm`; with `without_document`, minus that given no document."""
    from xling.models.load import load_policy
    from xling.models.reward import log_likelihood
    from xling.models.text import prompt_ids, response_ids

    model, tokenizer = load_policy(context.parents["lm"])

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        encoded = [response_ids(tokenizer, row) for row in responses]
        pad = tokenizer.pad_token_id
        given = log_likelihood(model, prompt_ids(tokenizer, [p.text for p in prompts]), encoded, pad)
        if not without_document:
            return given
        alone = log_likelihood(model, prompt_ids(tokenizer, [_cue(p) for p in prompts]), encoded, pad)
        return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(given, alone, strict=True)]

    return score


def _cue(prompt: Prompt) -> str:
    """The prompt without its document: its last line."""
    return prompt.text.rsplit("\n", 1)[-1]


# --- accuracy on held-out feedback --------------------------------------------------------------------------


def held_out(spec: ScoreSpec, score: Scorer) -> dict[str, Any]:
    """Columns of the target's test feedback with the model's scores (xling.analysis.accuracy reads them)."""
    module = task_module(spec.task)
    if spec.objective == "pairwise":
        return _held_out_pairs(module.pairs(spec.task, spec.lang, "test"), score)
    ratings = module.ratings(spec.task, spec.lang, "test")
    scores = score([r.prompt for r in ratings], [[r.response] for r in ratings])
    return {
        "group": [r.prompt.group for r in ratings],
        "score": [row[0] for row in scores],
        "label": [int(r.label) for r in ratings],
        "length": [len(r.response) for r in ratings],
        "length_rule": _length_rule(spec.task, spec.lang),
    }


def _held_out_pairs(pairs: Sequence[Pair], score: Scorer) -> dict[str, Any]:
    scores = score([p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs])
    return {
        "group": [p.prompt.group for p in pairs],
        "chosen": [row[0] for row in scores],
        "rejected": [row[1] for row in scores],
        "chosen_length": [len(p.chosen) for p in pairs],
        "rejected_length": [len(p.rejected) for p in pairs],
    }


@lru_cache(maxsize=32)
def _length_rule(task: Task, lang: str) -> dict[str, Any]:
    """That of a target, for all the sources that one worker scores: its training ratings take a while to make."""
    return length_rule(task_module(task).ratings(task, lang, "train"))


def length_rule(ratings: Sequence[Rating]) -> dict[str, Any]:
    """Length threshold (characters) and direction with the best accuracy on training ratings (paper, section 6.1)."""
    lengths = np.array([len(r.response) for r in ratings])
    labels = np.array([r.label for r in ratings]) > 0.5
    thresholds = np.unique(lengths)
    longer_good = np.array([np.mean((lengths > t) == labels) for t in thresholds])
    up, down = int(longer_good.argmax()), int(longer_good.argmin())
    longer = bool(longer_good[up] >= 1 - longer_good[down])
    return {"threshold": float(thresholds[up if longer else down]), "longer_is_better": longer}


def _recorded(context: Context, spec: ScoreSpec) -> None:
    from xling.models.recorded import score_responses

    score_responses(
        task_module(spec.task).recorded(spec.task, spec.lang, spec.digest),
        spec.rm,  # type: ignore[arg-type]
        spec.source_langs,
        context.parents.get("reward"),
        context.parents.get("embed"),
        spec.seed,
        context.out,
    )


def run_embed(context: Context) -> None:
    """embed[l]: vectors of a language's recorded documents and responses, once for all that use them."""
    from xling.models.recorded import embed_texts

    spec = msgspec.convert(context.spec, ScoreSpec)
    encoder = spec.rm.encoder if hasattr(spec.rm, "encoder") else "packaged"
    embed_texts(task_module(spec.task).recorded(spec.task, spec.lang, spec.digest), encoder, context.out)
