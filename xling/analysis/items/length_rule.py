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
    Finished,
    Scored,
    finished_cells,
    long_table,
    matrix_of,
    once,
    points,
    readable,
    without,
)
from xling.analysis.matrix.accuracy import correct, length_hits
from xling.analysis.matrix.across import over_columns
from xling.analysis.matrix.types import PERCENT
from xling.analysis.statistics.bootstrap import POINTS, SHARE, Clusters, Floats, Sample, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.analysis.tidy.finding import Finding, columns_of, is_home, some
from xling.config.common import is_foreign
from xling.grid.store import Store
from xling.results.items import read_heldout

MEASURES = ("accuracy", "length_accuracy", "agreement", "expected", "excess")
ITEMS = ("group", "length_hit")
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
    parts, without_rule = [], []
    found, left_out = readable(
        once(finished.cells, *SCORED_BY),
        lambda cell: read_heldout(finished.results.folder(cell.stages["score"])),
    )
    for cell, record in found:
        rule = length_hits(record)
        if rule is None:
            without_rule.append(f"{cell.axes['source_lang']} -> {cell.axes['target_lang']}")
            continue
        columns = {"group": np.array(record.group, dtype=object), "hit": correct(record), "length_hit": rule}
        parts.append((_axes(cell), columns))
    if without_rule:
        left_out.append(f"No length rule was fitted for ratings of {some(without_rule)}.")
    if not found:
        left_out.append("No reward model has held-out decisions.")
    return long_table(parts), left_out


def _axes(cell: Scored) -> dict[str, str]:
    recorded = "yes" if cell.stages["pool"].kind == "recorded" else ""
    return {**without(cell.axes, *SCORED_BY), "seed": cell.label, "recorded": recorded}


def length_agreement(table: pd.DataFrame, left_out: Sequence[str] = ()) -> list[Finding]:
    """`length_rule`, a row a reward model and target; `length_rule_means` over home and foreign ones.

    table: a row a decision with `source_lang`, `target_lang`, any other axes, `seed`, `recorded`, `group`, and `hit`
    and `length_hit` in 0..1. Reward models of a target decide about the same items; one that does not is left out.
    """
    rows, means, misfits = [], [], list(left_out)
    if len(table):
        panel = [name for name in table.columns if name not in ("target_lang", "source_lang", "seed", *ITEMS, "hit")]
        for shared, part in table.groupby(panel, observed=True, sort=True):
            same = dict(zip(panel, shared, strict=True))
            crossed = same.pop("recorded") == "yes"
            columns = _columns(part, misfits)
            rows += [same | row for row in _by_model(columns, crossed)]
            means += [same | row for row in _over_models(columns, crossed)]
    return [
        Finding("length_rule", "Reward models and the length rule", pd.DataFrame(rows), NOTE, tuple(misfits)),
        Finding(
            "length_rule_means",
            "Reward models and the length rule, means over reward models and targets",
            pd.DataFrame(means),
            f"{NOTE} home: trained on the target's own feedback; foreign: on none of it. A target counts once.",
            tuple(misfits),
        ),
    ]


_Column = tuple[str, str, list[str], Floats, Clusters]  # target, seed, sources, (items, sources + 1) hits, clusters


def _columns(part: pd.DataFrame, misfits: list[str]) -> list[_Column]:
    """The last hits of a column are the length rule's. Seeds under which all decisions are the same count once."""
    made: list[tuple[str, str, list[str], Floats, pd.Series]] = []
    for (target, seed), rows in part.groupby(["target_lang", "seed"], observed=True, sort=True):
        items, sources, hits, others = matrix_of(rows, "hit", ITEMS)
        misfits += [f"{source} -> {target}: its held-out items are not those of the others." for source in others]
        column = (str(target), str(seed), sources, np.column_stack([hits, items["length_hit"]]), items["group"])
        if not any(_same(column, other) for other in made):
            made.append(column)
    drawn = draw([(groups.tolist(), [""] * len(groups)) for *_, groups in made])
    labels, _ = points([seed for _, seed, *_ in made])
    return [
        (target, label, sources, hits, clusters)
        for (target, _, sources, hits, _), label, clusters in zip(made, labels, drawn, strict=True)
    ]


def _same(column: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """The same but for the seed: a reward model that is fitted in closed form depends on none."""
    same = column[0] == other[0] and column[2] == other[2] and column[3].shape == other[3].shape
    return bool(same and (column[3] == other[3]).all() and column[4].equals(other[4]))


def _by_model(columns: Sequence[_Column], crossed: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for target in dict.fromkeys(column[0] for column in columns):
        own = [column for column in columns if column[0] == target]
        sources = sorted({source for column in own for source in column[2]})
        estimates = fold([_measured(column, sources, crossed) for column in own])
        for number, source in enumerate(sources):
            row = _row(estimates[number :: len(sources)])
            rows.append({"source_lang": source, "target_lang": target, "home": is_home(source, target), **row})
    return rows


def _row(estimates: Sequence[Estimate | None]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, estimate in zip(MEASURES, estimates, strict=True):
        found |= columns_of(name, estimate)
    first = estimates[0]
    return found | {"n": first.n if first else 0}


def _measured(column: _Column, sources: Sequence[str], crossed: bool) -> Sample:
    """MEASURES of all sources, a measure after the other; NaN for a source that this seed lacks."""
    _, seed, there, hits, clusters = column
    full = np.full((len(hits), len(sources)), np.nan)
    full[:, [sources.index(source) for source in there]] = hits[:, :-1]
    rule = hits[:, -1:]
    values = np.hstack([full, np.repeat(rule, len(sources), axis=1), full * rule + (1 - full) * (1 - rule)])
    sample = resample(clusters, values, seed, crossed=crossed)
    return replace(
        sample,
        means=_with_expected(sample.means[None])[0],
        resamples=_with_expected(sample.resamples),
        present=None,
        span=np.repeat(_SPAN, len(sources), axis=1),
        sums=None,
        apart=None,
    )


def _with_expected(means: Floats) -> Floats:
    """(B, 3 S) accuracy, the rule's, agreement as shares -> (B, 5 S) in percent, as MEASURES."""
    own, rule, agreement = np.split(means, 3, axis=1)
    expected = own * rule + (1 - own) * (1 - rule)
    return PERCENT * np.hstack([own, rule, agreement, expected, agreement - expected])


def _over_models(columns: Sequence[_Column], crossed: bool) -> list[dict[str, object]]:
    """Means over a target's reward models, then over targets, for all of them, those at home, those from abroad."""
    rows: list[dict[str, object]] = []
    for models, belongs in (("all", None), ("home", is_home), ("foreign", is_foreign)):
        samples, count, targets = [], 0, set()
        for column in columns:
            target, _, sources, _, _ = column
            members = [number for number, s in enumerate(sources) if belongs is None or belongs(s, target)]
            if not members:
                continue
            sample = _measured(column, sources, crossed)
            means, resamples = (
                values.reshape(len(values), len(MEASURES), -1)[:, :, members].mean(axis=2)
                for values in (sample.means[None], sample.resamples)
            )
            samples.append(replace(sample, means=means[0], resamples=resamples, span=_SPAN))
            targets.add(target)
            count = max(count, len(members))
        if samples:
            fitted = {(c[0], s) for c in columns for s in c[2] if belongs is None or belongs(s, c[0])}
            rows.append(
                {"models": models, "reward_models": len(fitted), "targets": len(targets), **_row(over_columns(samples))}
            )
    return rows
