"""Entries from arrays, with errors from a stated model: for tests that know the truth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xling.analysis.statistics.bootstrap import RESAMPLES
from xling.analysis.tidy.entries import Entries
from xling.analysis.tidy.finding import place_of

AXES = ("task", "optimizer", "judge")
LANGS = ("de", "en", "es", "ru", "tr", "vi")


def entries_of(
    value: np.ndarray,
    se: float = 0.0,
    *,
    sources: Sequence[str] = LANGS,
    targets: Sequence[str] = LANGS,
    seed: int = 0,
    n: int = 400,
    draws: int = RESAMPLES,
    **more: np.ndarray | str,
) -> Entries:
    """A panel of (S, T) win rates, NaN for holes, with independent normal errors; more: kl, accuracy, judge ..."""
    shape = value.shape
    axes = {"task": "toy", "optimizer": "ppo", "judge": "gold"} | {k: v for k, v in more.items() if isinstance(v, str)}
    normal = (se * np.random.default_rng(seed).standard_normal((draws, value.size))).astype(np.float32)
    normal[:, np.isnan(value.ravel())] = np.nan
    rows = []
    for s, source in enumerate(sources[: shape[0]]):
        for t, target in enumerate(targets[: shape[1]]):
            hole = np.isnan(value[s, t])
            row = {"source_lang": source, "target_lang": target, "win_rate": value[s, t], "n": n, "seeds": 1}
            row |= {"status": "failed" if hole else "done", "reason": "", "kl_bound": np.nan}
            rows.append(axes | row | {k: _at(more.get(k), s, t) for k in ("kl", "accuracy")})
    table = pd.DataFrame(rows)
    zero = np.where(np.isnan(normal), np.nan, 0.0).astype(np.float32)
    places = [place_of({a: str(row[a]) for a in (*AXES, "source_lang", "target_lang")}) for row in rows]
    prompts = tuple(([place], np.array([[se**2]]), float(n)) for place in places)
    return Entries(table, AXES, {"win": normal, "kl": zero, "accuracy": zero}, normal, prompts, "made up")


def _at(values: object, s: int, t: int) -> float:
    return float(values[s, t]) if isinstance(values, np.ndarray) else float("nan")


def both(left: Entries, right: Entries) -> Entries:
    """Two panels in one table."""
    table = pd.concat([left.table, right.table], ignore_index=True)
    errors = {name: np.hstack([left.errors[name], right.errors[name]]) for name in left.errors}
    normal = np.hstack([left.normal, right.normal])
    return Entries(table, AXES, errors, normal, (*left.prompts, *right.prompts), "made up")


def row(finding, **where: str) -> pd.Series:
    """The one row of a finding's table with these values."""
    table = finding.table
    for name, value in where.items():
        table = table[table[name] == value]
    (found,) = [one for _, one in table.iterrows()]
    return found
