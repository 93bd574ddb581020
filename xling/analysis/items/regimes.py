"""Where the training data came from: cells on translated data against the same cells on organic data, by prompt.

reward_data=translated is translate-train (paper, Table 17): the source's feedback, translated, trains a reward model of
the target. sft_data=translated or round_trip is a policy without the target's own demonstrations (Tables 21 to 24),
whose opponent is still the organic one. Cells that differ in that one axis share prompts and opponents, so that their
differences are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from msgspec import Struct

from xling.analysis.items.scored import Column, Finished, Scored, by_panel, drawn, finished_cells, readable, table_of
from xling.analysis.matrix.across import mean_of_columns, over_columns
from xling.analysis.matrix.types import PERCENT
from xling.analysis.statistics.bootstrap import POINTS, SHARE, Clusters, Sample, resample
from xling.analysis.statistics.decisions import judged
from xling.analysis.statistics.intervals import Estimate, fold
from xling.analysis.tidy.finding import Finding, Row, columns_of, some
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.results.items import read_items, read_json

ORGANIC = "organic"
EVERY = "all"
ITEMS = ("prompt", "group", "dataset")
PLACE = ("source_lang", "target_lang")
NOTE = (
    "Win rates in percent on the prompts that both cells share, and their difference in points, paired by prompt: "
    "{axis} as named minus organic. all: the mean over sources, then over targets. settled: the 95 % interval excludes "
    "0, not corrected for the number of rows. 95 % intervals by document, or over seeds."
)
ROUGE_NOTE = (
    "ROUGE-L (0 to 100) of the policies before alignment, on organic demonstrations of the target (paper, Table 21); "
    "mean over seeds."
)


def translate_train_cells(store: Store, name: str) -> list[Finding]:
    """Translate-train against transfer, of a grid with the axis reward_data."""
    found = _of_grid(store, name, "reward_data")
    return paired(*found, axis="reward_data", name="translate_train_cells", title="Translate-train against transfer")


def sft_data(store: Store, name: str) -> list[Finding]:
    """Policies without demonstrations of the target's own, of a grid with the axis sft_data; with their ROUGE-L."""
    finished, (table, left_out) = finished_cells(store, name), _of_grid(store, name, "sft_data")
    rouge, gone = _rouge(finished)
    title = "ROUGE-L of policies by where their demonstrations came from"
    return [
        *paired(
            table, left_out, axis="sft_data", name="sft_data", title="Policies without the target's demonstrations"
        ),
        Finding("sft_data_rouge", title, rouge, ROUGE_NOTE, tuple(gone)),
    ]


def _of_grid(store: Store, name: str, axis: str) -> tuple[pd.DataFrame, list[str]]:
    """A row a finished cell and judged prompt: all axes, `seed`, `prompt`, `group`, `dataset`, `win` in percent."""
    finished = finished_cells(store, name)
    if not any(cell.axes.get(axis) for cell in finished.cells):
        return pd.DataFrame(), [f"This grid has no axis {axis}: type {axis}={ORGANIC},translated and a translator."]

    def read(cell: Scored) -> dict[str, Any]:
        items = read_items(finished.results.folder(cell.judge))
        wins = PERCENT * np.array(items.win, dtype=np.float64)
        return {**{name: np.array(getattr(items, name), dtype=object) for name in ITEMS}, "win": wins}

    table, misfits = table_of(finished.cells, read)
    return table, [*finished.holes, *misfits]


class _Sft(Struct, frozen=True):
    """The report of an sft stage."""

    validation_rouge_l: float | None = None
    organic_rouge_l: float | None = None  # of regimes: the former is on what was translated


def _rouge(finished: Finished) -> tuple[pd.DataFrame, list[str]]:
    with_axis = [cell for cell in finished.cells if cell.axes.get("sft_data") and "sft" in cell.stages]
    once: dict[Ref, Scored] = {}
    for cell in with_axis:
        once.setdefault(cell.stages["sft"], cell)

    def read(cell: Scored) -> float | None:
        report = read_json(finished.results.folder(cell.stages["sft"]) / "sft.json", _Sft)
        value = report.validation_rouge_l if report.organic_rouge_l is None else report.organic_rouge_l
        return None if value is None else PERCENT * value

    found, misfits = readable(once.values(), read)
    rows = [
        {
            "sft_data": cell.axes["sft_data"],
            "source_lang": "" if cell.axes["sft_data"] == ORGANIC else cell.axes["source_lang"],
            "target_lang": cell.axes["target_lang"],
            "rouge_l": value,
        }
        for cell, value in found
    ]
    if not rows:
        return pd.DataFrame(), [*misfits, "No policy of this grid says which demonstrations it had."]
    keys = ["sft_data", *PLACE]
    return pd.DataFrame(rows).groupby(keys, sort=True)["rouge_l"].mean().reset_index(), misfits


# --- the analysis -------------------------------------------------------------------------------------------


def paired(table: pd.DataFrame, left_out: Sequence[str], *, axis: str, name: str, title: str) -> list[Finding]:
    """One finding `name`: a row a (source, target) and regime, then the means by target and over all.

    table: a row a cell and prompt with `source_lang`, `target_lang`, `axis`, any other axes, `seed`, `prompt`, `group`,
    `dataset` and `win` in percent (NaN: not judged). Cells without an organic counterpart are left out.
    """
    said = list(left_out)

    def rows_of(part: pd.DataFrame) -> list[list[Row]]:
        if not (part[axis] == ORGANIC).any():
            said.append(f"Nothing with {axis}={ORGANIC} to compare with.")
            return []
        regimes = sorted(set(part[axis].astype(str)) - {ORGANIC})
        return [[{axis: regime, **row} for regime in regimes for row in _rows(_columns(part, axis, regime, said))]]

    rows = by_panel(table, (*PLACE, axis, "seed", *ITEMS, "win"), rows_of)[0]
    if len(table) and rows.empty:
        said.append(f"No cell of another {axis} has a counterpart with {axis}={ORGANIC}.")
    return [Finding(name, title, rows, NOTE.format(axis=axis), tuple(dict.fromkeys(said)))]


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One target under one seed: win, organic win, difference of each of its sources."""

    column: Column  # values: (prompts, 3 x sources)
    clusters: Clusters
    fresh: bool

    @property
    def target(self) -> str:
        return self.column.target

    @property
    def sources(self) -> list[str]:
        return self.column.sources

    def of(self, sources: Sequence[str]) -> Sample:
        """The mean over some of its sources: (3,)."""
        places = [self.sources.index(source) for source in sources]
        wins = self.column.values.reshape(-1, 3, len(self.sources))
        values = mean_of_columns([wins[:, :, place] for place in places])
        span = np.stack([SHARE, SHARE, POINTS], axis=1)
        return resample(self.clusters, values, self.column.seed, fresh=self.fresh, span=span)


def _columns(part: pd.DataFrame, axis: str, regime: str, said: list[str]) -> list[_Sampled]:
    """Cells of a regime beside their organic ones, a column a target and seed."""
    organic, other = part[part[axis] == ORGANIC], part[part[axis] == regime]
    on = [*PLACE, "seed", *ITEMS]
    both = other[[*on, "win"]].merge(organic[[*on, "win"]], on=on, suffixes=("", "_organic"), how="left")
    alone = both.groupby([*PLACE, "seed"], observed=True)["win_organic"].transform("count") == 0
    lacking = [f"{r.source_lang} -> {r.target_lang}" for r in both[alone][list(PLACE)].drop_duplicates().itertuples()]
    if lacking:
        said.append(f"Without a finished cell of {axis}={ORGANIC} on the same prompts: {some(lacking)}.")
    both = both[~alone].dropna(subset=["win", "win_organic"])
    made = []
    for (target, seed), rows in both.groupby(["target_lang", "seed"], observed=True, sort=True):
        wide = rows.pivot(index=list(ITEMS), columns="source_lang", values=["win", "win_organic"]).dropna(
            axis=1, how="all"
        )
        sources = [str(source) for source in wide["win"].columns]
        own, reference = wide["win"].to_numpy(), wide["win_organic"].to_numpy()
        values = np.hstack([own, reference, own - reference])
        made.append(Column(str(target), str(seed), sources, values, wide.index.to_frame()))
    columns, fresh = drawn(made)
    return [_Sampled(one, clusters, fresh) for one, clusters in columns]


def _rows(columns: Sequence[_Sampled]) -> list[Row]:
    rows: list[Row] = []
    targets = list(dict.fromkeys(column.target for column in columns))
    for target in targets:
        own = [column for column in columns if column.target == target]
        sources = sorted({source for column in own for source in column.sources})
        for source in sources:
            there = [column.of([source]) for column in own if source in column.sources]
            rows.append({"source_lang": source, "target_lang": target, **_row(fold(there))})
        if len(sources) > 1:
            means = [column.of(column.sources) for column in own]
            rows.append({"source_lang": EVERY, "target_lang": target, **_row(fold(means))})
    if len(targets) > 1:
        means = [column.of(column.sources) for column in columns]
        rows.append({"source_lang": EVERY, "target_lang": EVERY, **_row(over_columns(means))})
    return rows


def _row(estimates: Sequence[Estimate | None]) -> Row:
    row: Row = {}
    for name, estimate in zip(("win_rate", "organic", "difference"), estimates, strict=True):
        row |= columns_of(name, estimate)
    difference = estimates[2]
    return row | {
        "settled": difference is not None and judged(difference).settled,
        "n": difference.n if difference else 0,
    }
