"""The paper's published matrices as a Matrix, so that `xling figures paper` draws what it draws of a grid.

Numbers and intervals are those of analysis/paper/published.py: no prompts were published, so the intervals are of a
stated model, and there is no paired difference, no curve and no control.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from xling.analysis.matrix.types import Accuracy, Block, Entry, Matrix, Panel
from xling.analysis.paper.published import HOW, NAME, N, paper_entries, sizes
from xling.analysis.statistics.intervals import Estimate

AXES = ("task", "policy", "rm_backbone", "optimizer", "judge")


def paper_matrix() -> Matrix:
    """A panel a published table; best and tied within a column by the printed value."""
    table = paper_entries().table
    blocks = []
    for key, rows in table.groupby(list(AXES), sort=True):
        axes = dict(zip(AXES, map(str, key), strict=True))
        blocks.append(Block(axes, [_panel(axes, rows)], [], []))
    return Matrix(NAME, blocks, [], [], {}, f"95 % intervals of {HOW}")


def _panel(axes: dict[str, str], rows: pd.DataFrame) -> Panel:
    best = rows.groupby("target_lang")["win_rate"].transform("max")
    entries = [
        _entry(axes, row, row["win_rate"] == top) for row, top in zip(rows.to_dict("records"), best, strict=True)
    ]
    sources, targets = sorted(set(rows["source_lang"])), sorted(set(rows["target_lang"]))
    accuracy = [
        Accuracy(str(row["source_lang"]), str(row["target_lang"]), found, None, None, None)
        for row in rows.to_dict("records")
        if (found := _estimate(row, "accuracy", sum(sizes(axes["task"], "rm")[str(row["target_lang"])])))
    ]
    return Panel(axes, sources, targets, entries, {}, {}, {}, {}, [], accuracy, [], [], {})


def _entry(axes: dict[str, str], row: Mapping[Any, Any], best: bool) -> Entry:
    bound = float(row["kl_bound"])
    return Entry(
        axes={**axes, "source_lang": str(row["source_lang"]), "target_lang": str(row["target_lang"])},
        status="done",
        win=_estimate(row, "win_rate", int(row["n"])),
        kl=_estimate(row, "kl", int(row["n"])),
        kl_bound=None if pd.isna(bound) else bound,
        n_samples=None if pd.isna(bound) else N,
        best=best,
    )


def _estimate(row: Mapping[Any, Any], name: str, n: int) -> Estimate | None:
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None or pd.isna(value):
        return None
    low, high = (None if end is None or pd.isna(end) else float(end) for end in (low, high))
    return Estimate(float(value), low, high, se=None, n=n, clusters=n, seeds=1)
