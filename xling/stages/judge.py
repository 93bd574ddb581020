"""judge[s,t]: what a cell answers, and how often a judge prefers it to the baseline.

An optimizer that trains nothing answers with its pick (best_of_n: by the reward), a trained policy with all it says.
No model runs here: rewards were computed by score stages, and what the judge decides by in stages that its module
names. That module's `fold` makes wins of it: by scores as in xling/judges, or pair by pair as in
xling/stages/llm_judge.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xling.digests import file_digest
from xling.errors import DataError
from xling.grid import joined
from xling.grid.stage import Context
from xling.jsonfiles import write_json
from xling.judges import JUDGES, Array, Places, mean_of, tied
from xling.measures.language import in_language
from xling.measures.words import repetition
from xling.optimizers import answers, picker
from xling.results.samples import Samples, read_samples
from xling.results.specs import JudgeSpec
from xling.tasks.options import task_module

Language = Callable[[Sequence[str]], float | None]


def run(context: Context) -> None:
    """Writes items.json and summary.json; of best-of-n curve.npy; of recorded systems pairs.json, spearman.json too."""
    spec = msgspec.convert(context.spec, JudgeSpec)
    samples, opponents = (read_samples(context.parents[role]) for role in ("pool", "baseline"))
    score = context.parents["score"]
    reward = np.load(joined.opened(score / "pool.npy"))[:, : spec.n]
    opposed = np.load(joined.opened(score / "baseline.npy"))
    picks = answers(reward, [s.prompt for s in samples], spec.trained, spec.optimizer)
    said: Places = tied(reward, picks) if spec.ties else picks
    language = partial(_language, spec.lang, _detector(spec))
    items = described(samples, said, language) | {
        "reward": mean_of(reward, picks),  # equal ones: not a bit apart
        "baseline_reward": np.nanmean(opposed, axis=1).tolist(),
    }
    items |= {f"baseline_{name}": value for name, value in measures(opponents, every(opponents), language).items()}
    if spec.trained:
        items["kl"] = [float(np.mean(s.kl)) for s in samples]
    else:
        items["index"] = picks[:, 0].tolist()
    folded = JUDGES[spec.judge].fold(context, reward, said, items)
    write_json(context.out / "items.json", folded.columns)
    bound = None  # of a trained policy the KL was measured
    if not spec.trained:
        optimizer, settings = picker(spec.optimizer)
        bound = optimizer.kl_bound(settings, reward.shape[1])
        judged = folded.wins.shape[1] > 0
        wins = level(reward, folded.wins) if spec.ties and judged else folded.wins
        np.save(context.out / "curve.npy", optimizer.curve(settings, reward, wins) if judged else wins)
    write_json(context.out / "summary.json", {"n_samples": reward.shape[1], "kl_bound": bound})
    if spec.task is not None:
        from xling.stages.score import write_agreement

        write_agreement(task_module(spec.task).recorded(spec.task, spec.lang), score, context.out)


def level(reward: Array, wins: Array) -> Array:
    """(prompts, n) wins, those of equal rewards their mean."""
    made = np.array(wins)
    for own, row in zip(made, reward, strict=True):
        for value in np.unique(row[~np.isnan(row)]):
            own[row == value] = own[row == value].mean()
    return made


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
    path: str = spec.where.get("lid", "")
    if spec.lid and not (path and Path(path).is_file() and file_digest(Path(path)) == spec.lid):
        raise DataError(f"lid.model={path} has changed since the grid was planned, or is gone. Run the command again.")
    return path if spec.lid else ""


def every(samples: list[Samples]) -> Any:
    """Places of all responses of each prompt; a prompt may have fewer than another."""
    return [range(len(s.responses)) for s in samples]
