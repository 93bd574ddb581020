"""score[s,t]: the reward model of s on everything of t: pool, baseline and held-out feedback. And gold[t].

A score of what people or the embedded world say is the quality itself: gold[t] has the same files and is what
judge=gold and judge=human decide by. References, controls and published models are scored here as well, so that
there is one scoring path. Prompts go through in blocks, and a killed stage goes on at the next one.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.stats import spearmanr

from xling.config.common import CEILINGS
from xling.errors import StageError
from xling.grid import joined
from xling.grid.stage import Context
from xling.jsonfiles import read_json, write_json
from xling.models.encoder import knows
from xling.results.samples import Array, iterate_samples, ragged
from xling.results.specs import ScoreSpec
from xling.rewards import REWARDS, FeatureScorer, Request, RewardSettings, Scorer, encoder_of
from xling.rewards.heads import blocks_of as features_of
from xling.rewards.heads import level, score_rows
from xling.rewards.settings import RewardModel
from xling.stages.blocks import PROMPTS, blocks_of, both_samples, kept_arrays, read_arrays
from xling.stages.features import FEEDBACK, feature_blocks, reader_of
from xling.tasks.options import Task, task_module
from xling.tasks.records import GOOD, Pair, Prompt, Rating, Recorded

Asked = tuple[Prompt, list[str]]  # a prompt and its responses


def run(context: Context) -> None:
    """Writes pool.npy, baseline.npy (prompts, samples), heldout.json and score.json, which counts what was cut."""
    spec = msgspec.convert(context.spec, ScoreSpec)
    if spec.recorded:
        return _recorded(context, spec)
    scores = SpecScores(context, spec)
    prompts = {p.id: p for p in task_module(spec.task).prompts(spec.task, spec.lang, "test")}
    write_scores(context, scores, prompts)
    write_json(context.out / "heldout.json", held_out(spec, scores))
    write_json(context.out / "score.json", scores.cut)
    return None


def run_gold(context: Context) -> None:
    """Writes pool.npy and baseline.npy: exact quality, or what people rated."""
    spec = msgspec.convert(context.spec, ScoreSpec)
    module = task_module(spec.task)
    if context.parents["pool"] == context.parents["baseline"]:  # recorded responses are pool and opponent at once
        rated_responses(module.recorded(spec.task, spec.lang), context.out)
    else:
        prompts = {p.id: p for p in module.prompts(spec.task, spec.lang, "test")}
        write_scores(context, SpecScores(context, spec), prompts)


class SpecScores:
    """The reward model of a spec, asked for one part of the target's texts at a time."""

    def __init__(self, context: Context, spec: ScoreSpec, recorded: Recorded | None = None) -> None:
        self.context = context
        side = spec.truncation_side
        others = partial(_samples_of, context, recorded)
        self.scorer = loaded(
            context,
            spec.rm,
            Request(spec.task, spec.seed, side, side, spec.max_prompt_tokens, recorded=recorded, others=others),
        )
        self.cut: dict[str, dict[str, int]] = {}  # part -> how many texts were longer than the limits

    def of(self, part: str, asked: Iterable[Asked], total: int, size: int) -> list[list[float]]:
        """A number for each response of each prompt; `part` is samples or heldout, `size` the prompts in a block."""
        scorer = self.scorer
        if isinstance(scorer, FeatureScorer):
            self.cut[part] = _cut_of(self.context)[part]
            rows = feature_blocks(self.context.parents["features"] / part)
            flat_scores = (score for blocks in rows for score in scorer.predict(blocks).tolist())
            return _dealt_out(flat_scores, (len(row) for _, row in asked))
        paths = kept_arrays(self.context, part, blocks_of(asked, size), lambda block: _scored(scorer, block), total)
        out, cut = list[list[float]](), np.zeros(2, np.int64)
        for path in paths:
            flat, lengths, longer = read_arrays(path)
            out += _dealt_out(iter(flat.tolist()), lengths.astype(int).tolist())
            cut += longer.astype(np.int64)
        self.cut[part] = {"cut_prompts": int(cut[0]), "cut_responses": int(cut[1])}
        return out


def _samples_of(context: Context, recorded: Recorded | None) -> dict[str, list[str]]:
    """The pool's responses by prompt, or what all systems said."""
    if recorded is not None:
        return {prompt.id: said for prompt, said in zip(recorded.prompts, recorded.responses, strict=True)}
    return {samples.prompt: samples.responses for samples in iterate_samples(context.parents["pool"])}


def _scored(scorer: Scorer, block: list[Asked]) -> list[Any]:
    """Scores row after row, responses a prompt, and how many prompts and responses are cut."""
    prompts, responses = [prompt for prompt, _ in block], [row for _, row in block]
    flat = np.array([score for row in scorer.score(prompts, responses) for score in row], np.float64)
    if not np.isfinite(flat).all():
        raise StageError("Some scores are no finite numbers; the judge would take them for missing.")
    cut = scorer.cut(prompts, [text for row in responses for text in row]) if scorer.cut else {}
    return [flat, np.array([len(row) for row in responses]), np.array(list(cut.values()) or [0, 0])]


def loaded(context: Context, rm: RewardModel, request: Request) -> Scorer | FeatureScorer:
    """The scorer, from the stage's parents."""
    load = REWARDS.of(rm).load
    if load is None:
        raise StageError(f"rm_backbone={rm.name} scores what it has learnt from alone.")
    return load(context, rm, request)


def text_scores(context: Context, rm: RewardModel, reading: Mapping[str, Any], request: Request) -> Scorer:
    """A reward model that scores texts, also where it is linear in features, for those who train against it.

    reading: what the frozen model of such a head reads, as in the spec of its features.
    """
    scorer = loaded(context, rm, request)
    if isinstance(scorer, Scorer):
        return scorer
    read, predict = reader_of(context.parents.get("lm"), reading), scorer.predict

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        flat = iter(predict(read.blocks([p.reward_text for p in prompts], responses)).tolist())
        return [[next(flat) for _ in row] for row in responses]

    return Scorer(score)


def _cut_of(context: Context) -> dict[str, dict[str, int]]:
    """Counts of texts that were cut for a frozen model, by part."""
    folder = context.parents.get("features") or context.parents["embed"]
    found: dict[str, dict[str, int]] = read_json(folder / "cut.json")
    return found


def _dealt_out(flat: Iterable[float], lengths: Iterable[int]) -> list[list[float]]:
    rest = iter(flat)
    out = [list(itertools.islice(rest, length)) for length in lengths]
    if next(rest, None) is not None:
        raise StageError("There are more scores than responses: the features are of other texts.")
    return out


def write_scores(context: Context, scores: SpecScores, prompts: dict[str, Prompt]) -> None:
    """Score both sample folders, each prompt's responses in one go: the model reads a prompt once."""
    own = [len(pool.responses) for pool, _ in both_samples(context)]
    asked = ((prompts[a.prompt], [*a.responses, *b.responses]) for a, b in both_samples(context))
    found = scores.of("samples", asked, len(own), PROMPTS)
    np.save(context.out / "pool.npy", ragged([row[:n] for row, n in zip(found, own, strict=True)]))
    np.save(context.out / "baseline.npy", ragged([row[n:] for row, n in zip(found, own, strict=True)]))


# --- accuracy on held-out feedback --------------------------------------------------------------------------


def held_out(spec: ScoreSpec, scores: SpecScores) -> dict[str, Any]:
    """Columns of the target's test feedback with the model's scores (xling.analysis.matrix.accuracy reads them)."""
    module = task_module(spec.task)
    if spec.objective == "pairwise":
        return _held_out_pairs(module.pairs(spec.task, spec.lang, "test"), scores)
    ratings = module.ratings(spec.task, spec.lang, "test")
    found = scores.of("heldout", ((r.prompt, [r.response]) for r in ratings), len(ratings), FEEDBACK)
    return {
        "group": [r.prompt.group for r in ratings],
        "score": [row[0] for row in found],
        "label": [int(r.label >= GOOD) for r in ratings],
        "length": [len(r.response) for r in ratings],
        "length_rule": _length_rule(spec.task, spec.lang),
    }


def _held_out_pairs(pairs: Sequence[Pair], scores: SpecScores) -> dict[str, Any]:
    found = scores.of("heldout", ((p.prompt, [p.chosen, p.rejected]) for p in pairs), len(pairs), FEEDBACK)
    return {
        "group": [p.prompt.group for p in pairs],
        "chosen": [row[0] for row in found],
        "rejected": [row[1] for row in found],
        "chosen_length": [len(p.chosen) for p in pairs],
        "rejected_length": [len(p.rejected) for p in pairs],
    }


@lru_cache(maxsize=32)
def _length_rule(task: Task, lang: str) -> dict[str, Any] | None:
    """That of a target, for all the sources that one worker scores: its training ratings take a while to make."""
    return length_rule(task_module(task).ratings(task, lang, "train"))


def length_rule(ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Length threshold (characters) and direction with the best accuracy on training ratings (paper, section 6.1).

    None without training ratings, from which alone it is learnt.
    """
    if not ratings:
        return None
    lengths = np.array([len(r.response) for r in ratings])
    labels = np.array([r.label for r in ratings]) >= GOOD
    thresholds = np.unique(lengths)
    longer_good = np.array([np.mean((lengths > t) == labels) for t in thresholds])
    up, down = int(longer_good.argmax()), int(longer_good.argmin())
    longer = bool(longer_good[up] >= 1 - longer_good[down])
    return {"threshold": float(thresholds[up if longer else down]), "longer_is_better": longer}


# --- recorded responses -------------------------------------------------------------------------------------


def _recorded(context: Context, spec: ScoreSpec) -> None:
    """By cross-fitted heads, by what learns nothing, or by a reward model of another task.

    Where texts may be cut, score.json counts them; where the reward model was made for recorded responses, notes.json
    marks languages that its encoder does not know.
    """
    recorded = task_module(spec.task).recorded(spec.task, spec.lang)
    reward, folder = context.parents.get("reward"), context.parents.get("embed") or context.parents.get("features")
    if folder is not None:
        write_json(context.out / "score.json", _cut_of(context))
    cross_fitted = reward is not None and (reward / "heads.npz").exists()
    if reward is not None and cross_fitted:
        scores = score_rows(recorded, spec.rm, reward, folder)
    else:
        scores = _unseen(context, spec, recorded, folder)
    write_recorded(recorded, scores, context.out)
    if cross_fitted or reward is None:
        write_notes(spec.rm, {recorded.lang, *(spec.source_langs or ())}, context.out)


def _unseen(context: Context, spec: ScoreSpec, recorded: Recorded, features: Path | None) -> Array:
    """(rows,) scores of recorded responses by a reward model that was trained elsewhere, or was not trained at all."""
    scores = SpecScores(context, spec, recorded)
    if isinstance(scores.scorer, FeatureScorer):
        return level(recorded, scores.scorer.predict(features_of(recorded, spec.rm, features)))
    answers = zip(recorded.prompts, map(list, recorded.responses), strict=True)
    rows = scores.of("recorded", answers, len(recorded.prompts), PROMPTS)
    if scores.scorer.cut is not None:
        write_json(context.out / "score.json", scores.cut)
    flat = np.array([score for row in rows for score in row])
    # people may rate what two systems say alike differently
    return flat if spec.rm.name in CEILINGS else level(recorded, flat)


def write_recorded(recorded: Recorded, scores: Array, out: Path) -> None:
    """Write (rows,) scores as pool.npy, baseline.npy (prompts, systems; NaN-padded) and heldout.json.

    The baseline is the pool: the opponent is a uniformly random recorded response, itself included. heldout.json has
    all pairs whose ratings differ.
    """
    table = _table(recorded, scores)
    _save_tables(out, table)
    write_json(out / "heldout.json", _rated_pairs(recorded, table))


def rated_responses(recorded: Recorded, out: Path) -> None:
    """The verdicts of judge=human in the format of a score: people's ratings as pool.npy and baseline.npy."""
    _save_tables(out, _table(recorded, np.array([rating for _, _, _, rating in recorded.flat()])))


def write_notes(rm: RewardSettings, langs: Collection[str], out: Path) -> None:
    """Write notes.json: which of the languages the encoder that the reward model reads with does not know."""
    name = encoder_of(rm)
    unknown = [lang for lang in sorted(langs) if name and knows(name, lang) is False]
    write_json(out / "notes.json", {"unknown_language": bool(unknown), "unknown_languages": unknown})


def write_agreement(recorded: Recorded, score: Path, out: Path) -> None:
    """Write pairs.json and spearman.json from a score folder's pool.npy.

    pairs.json: for each two responses to a prompt whose ratings differ, 1 if the reward orders them as people
    did, 0.5 if it ties them, 0 if not. With two systems a prompt and no ties the win rate is 25 + 50 x their
    mean: its floor is 25, its ceiling 75.
    spearman.json: rank correlation of reward and rating over all n responses; null for a constant reward.
    """
    table = np.load(joined.opened(score / "pool.npy"))
    pairs = _rated_pairs(recorded, table)
    margin = np.array(pairs["chosen"]) - np.array(pairs["rejected"])
    correct = ((np.sign(margin) + 1) / 2).tolist()
    write_json(out / "pairs.json", {"group": pairs["group"], "correct": correct})
    rewards = table[~np.isnan(table)]
    ratings = np.array([rating for _, _, _, rating in recorded.flat()])
    varies = np.ptp(rewards) > 0 and np.ptp(ratings) > 0
    rho = float(spearmanr(rewards, ratings).statistic) if varies else None
    write_json(out / "spearman.json", {"rho": rho, "n": len(ratings)})


def _rated_pairs(recorded: Recorded, table: Array) -> dict[str, list[Any]]:
    """Columns of all pairs of responses to a prompt whose ratings differ, the better rated one as chosen."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("group", "chosen", "rejected", "chosen_length", "rejected_length")
    }
    for row, prompt in enumerate(recorded.prompts):
        ratings, responses = recorded.ratings[row], recorded.responses[row]
        for better in range(len(ratings)):
            for worse in range(len(ratings)):
                if ratings[better] > ratings[worse]:
                    columns["group"].append(prompt.group)
                    columns["chosen"].append(float(table[row, better]))
                    columns["rejected"].append(float(table[row, worse]))
                    columns["chosen_length"].append(len(responses[better]))
                    columns["rejected_length"].append(len(responses[worse]))
    return columns


def _table(recorded: Recorded, scores: Array) -> Array:
    """(rows,) -> (prompts, most systems), NaN where a prompt has fewer."""
    per_prompt = np.array([len(responses) for responses in recorded.responses])
    table = np.full((len(per_prompt), per_prompt.max()), np.nan)
    table[np.arange(table.shape[1]) < per_prompt[:, None]] = scores
    return table


def _save_tables(out: Path, table: Array) -> None:
    np.save(out / "pool.npy", table)
    np.save(out / "baseline.npy", table)
