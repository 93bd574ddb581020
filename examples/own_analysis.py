"""An analysis of your own: a function of the matrix, shown and written down like xling's (docs/analysis.md).

    xling analyse demo --only examples/own_analysis.py:abroad

It gets Entries (xling/analysis/tidy/entries.py): `table` has a row a cell, `errors["win"]` a column a cell with draws
of its error, so that any statistic of win rates gets its interval from `draws = table.win_rate + errors`.
"""

import numpy as np
import pandas as pd

from xling.analysis.tidy.entries import Entries


def abroad(entries: Entries) -> pd.DataFrame:
    """Mean win rate of foreign reward models, %, by target"""
    table, rows = entries.table, []
    draws = table.win_rate.to_numpy() + entries.errors["win"]  # (draws, cells)
    for target in sorted(set(table.target_lang)):
        foreign = ((table.target_lang == target) & (table.source_lang != target)).to_numpy()
        low, high = np.nanpercentile(draws[:, foreign].mean(axis=1), [2.5, 97.5])
        value = table.win_rate[foreign].mean()
        rows.append({"target_lang": target, "win": value, "win_low": low, "win_high": high, "n": int(foreign.sum())})
    return pd.DataFrame(rows)
