"""Do reward models decide as length does, beyond what their accuracies make them (paper, section 6.1)?

The length rule calls long responses good, or short ones, above a threshold: whichever was right most often on training
ratings. Of pairs it prefers all longer responses or all shorter ones. Two deciders with accuracies a and b agree on
ab + (1 - a)(1 - b) of the items if their errors are independent; agreement beyond that is what both have in common.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from xling.analysis.items.scored import (
    SCORED_BY,
    Column,
    Finished,
    Scored,
    by_model,
    by_panel,
    columns_in,
    drawn,
    finished_cells,
    once,
    over_models,
    table_of,
)
from xling.analysis.matrix.accuracy import correct, length_hits
from xling.analysis.matrix.types import PERCENT
from xling.analysis.statistics.bootstrap import POINTS, SHARE, Clusters, Floats, Sample, resample
from xling.analysis.tidy.finding import Finding, Row, is_home, some
from xling.config.common import is_foreign
from xling.grid.store import Store
from xling.results.items import read_heldout

MEASURES = ("accuracy", "length_accuracy", "agreement", "expected", "excess")
ITEMS = ("group", "length_hit")
GROUPS = {"all": lambda *_: True, "home": is_home, "foreign": is_foreign}
_SPAN = np.stack([SHARE] * 4 + [POINTS], axis=1)  # (2, measures)
NOTE = (
    "Percent of held-out decisions; expected = a b + (1 - a)(1 - b) of accuracies a and b, excess = agreement - "
    "expected, in points. A tie between a pair counts half. Pairs have no rule from training data: the rule is the "
    "direction that is right more often on these very pairs. 95 % intervals by document, or over seeds (paper: 72.6 "
    "against 56.6 expected, dialog). Seeds with the same decisions count as one."
)


def length_rule(store: Store, name: str) -> list[Finding]:
    """Of a grid; what could not be read is in `left_out`."""
    finished = finished_cells(store, name)
    table, left_out = heldout_decisions(finished)
    return length_agreement(table, (*finished.holes, *left_out))


def heldout_decisions(finished: Finished) -> tuple[pd.DataFrame, list[str]]:
    """A row a decision: the axes that a score depends on, `seed`, `recorded`, `group`, `hit` and `length_hit`."""
    without_rule: list[str] = []

    def read(cell: Scored) -> dict[str, Any] | None:
        record = read_heldout(finished.results.folder(cell.stages["score"]))
        if record is None:
            return None
        rule = length_hits(record)
        if rule is None:
            without_rule.append(f"{cell.axes['source_lang']} -> {cell.axes['target_lang']}")
            return None
        recorded = np.array(["yes" if cell.stages["pool"].kind == "recorded" else ""] * len(rule), dtype=object)
        groups = np.array(record.group, dtype=object)
        return {"recorded": recorded, "group": groups, "hit": correct(record), "length_hit": rule}

    table, left_out = table_of(once(finished.cells, *SCORED_BY), read, *SCORED_BY)
    if without_rule:
        left_out.append(f"No length rule was fitted for ratings of {some(without_rule)}.")
    elif not len(table):
        left_out.append("No reward model has held-out decisions.")
    return table, left_out


def length_agreement(table: pd.DataFrame, left_out: Sequence[str] = ()) -> list[Finding]:
    """`length_rule`, a row a reward model and target; `length_rule_means` over home and foreign ones.

    table: a row a decision with `source_lang`, `target_lang`, any other axes, `seed`, `recorded`, `group`, and `hit`
    and `length_hit` in 0..1. Reward models of a target decide about the same items; one that does not is left out.
    """
    misfits = list(left_out)

    def rows_of(part: pd.DataFrame) -> tuple[list[Row], list[Row]]:
        crossed = bool((part["recorded"] == "yes").any())
        kept: list[Column] = []
        for column in columns_in(part, "hit", ITEMS, "held-out items", misfits):
            if not any(_same(column, other) for other in kept):
                kept.append(column)
        measured = [(column, _measured(column, clusters, crossed)) for column, clusters in drawn(kept)[0]]
        return by_model(measured, MEASURES), over_models(measured, MEASURES, GROUPS)

    inner = ("target_lang", "source_lang", "seed", "recorded", *ITEMS, "hit")
    rows, means = by_panel(table, inner, rows_of)
    means_note = f"{NOTE} home: trained on the target's own feedback; foreign: on none of it. A target counts once."
    title = "Reward models and the length rule"
    return [
        Finding("length_rule", title, rows, NOTE, tuple(misfits)),
        Finding(
            "length_rule_means", f"{title}, means over reward models and targets", means, means_note, tuple(misfits)
        ),
    ]


def _same(one: Column, other: Column) -> bool:
    """The same but for the seed: a reward model that is fitted in closed form depends on none."""
    same = (one.target, one.sources) == (other.target, other.sources) and one.items.equals(other.items)
    return same and np.array_equal(one.values, other.values)


def _measured(column: Column, clusters: Clusters, crossed: bool) -> Sample:
    """MEASURES of all sources, a measure after the other."""
    hits, sources = column.values, len(column.sources)
    rule = column.items["length_hit"].to_numpy(dtype=np.float64)[:, None]
    values = np.hstack([hits, np.repeat(rule, sources, axis=1), hits * rule + (1 - hits) * (1 - rule)])
    sample = resample(clusters, values, column.seed, crossed=crossed)
    return replace(
        sample,
        means=_with_expected(sample.means[None])[0],
        resamples=_with_expected(sample.resamples),
        present=None,
        span=np.repeat(_SPAN, sources, axis=1),
        sums=None,
        apart=None,
    )


def _with_expected(means: Floats) -> Floats:
    """(B, 3 S) accuracy, the rule's, agreement as shares -> (B, 5 S) in percent, as MEASURES."""
    own, rule, agreement = np.split(means, 3, axis=1)
    expected = own * rule + (1 - own) * (1 - rule)
    return PERCENT * np.hstack([own, rule, agreement, expected, agreement - expected])
