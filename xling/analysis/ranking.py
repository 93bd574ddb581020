"""Which source is best: ranks of sources within a target, how sure they are, and whether judges agree on them.

Paper, section 6 (Figure 6) and section 5.1. Rank 1 is the highest win rate; win rates that are equal to two decimals
share the best of their ranks (1, 2, 2, 4).
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from xling.analysis.drawing import Floats
from xling.analysis.entries import Entries, words
from xling.analysis.findings import Finding
from xling.analysis.statistics import (
    DIGITS,
    best_shares,
    percentile,
    ranks,
)

Row = dict[str, str | float]
EVERY = "all"  # stands for the target where a row is over all of them


def source_ranking(entries: Entries) -> Finding:
    """Rank of every source within each target, with the share of draws in which it is the best one."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        left_out += panel.holes(words(axes))
        square = panel.square()
        for target in square.targets:
            sources, value, draws = square.column(target)
            if len(sources) < 2:
                left_out.append(f"{words(axes)}: target {target} has {len(sources)} source, nothing to rank.")
                continue
            rows += _ranked(dict(axes), target, sources, value, draws)
    columns = [*entries.axes, "target_lang", "source_lang", "win_rate", "win_rate_low", "win_rate_high"]
    columns += ["rank", "rank_low", "rank_high", "p_best"]
    return Finding(
        "source_ranking",
        "Sources ranked within each target",
        pd.DataFrame(rows, columns=columns),
        "rank: 1 is the highest win rate; win rates equal to two decimals share a rank. rank_low, rank_high: the "
        "central 95 % of its ranks over draws. p_best: share of draws in which it is the best source (ties share). "
        f"Draws: {entries.how}. Paper, Figure 6.",
        tuple(left_out),
    )


def _ranked(axes: Row, target: str, sources: Sequence[str], value: Floats, draws: Floats) -> list[Row]:
    placed, drawn = ranks(value, DIGITS), ranks(draws)
    unsure = np.isnan(draws).any()
    shares = np.full(len(sources), math.nan) if unsure else best_shares(draws)
    rows = []
    for s in np.lexsort((np.array(sources), placed)):
        low, high = percentile(draws[:, s])
        first, last = percentile(np.full(1, math.nan) if unsure else drawn[:, s])
        row: Row = {"target_lang": target, "source_lang": sources[s], "win_rate": value[s], "rank": placed[s]}
        row |= {"win_rate_low": low, "win_rate_high": high, "rank_low": first, "rank_high": last}
        rows.append(axes | row | {"p_best": shares[s]})
    return rows
