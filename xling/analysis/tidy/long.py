"""measures.parquet and measures.csv: all that is measured, a row a measure and cell, with its interval.

table = long_table(matrix)       # a pyarrow table; docs/tables.md says what its columns are

`row` says what a row is of: a cell, a target's baseline, a control, shuffled labels, or a mean of cells, whose empty
language is the one that it is over. Numbers are those of matrix.json, to six decimals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import write_csv

from xling.analysis.matrix.types import MEASURES, Accuracy, Entry, Matrix, Mean, Opponent, Panel, measures_of
from xling.analysis.statistics.decisions import Difference
from xling.analysis.statistics.intervals import Estimate
from xling.console import formula_free
from xling.results.plan import ENTRY_AXES

_NAMES = {name: "win_rate" if name == "win" else name for name in MEASURES}
_NUMBERS = ("value", "low", "high", "se", "p")
COLUMNS = ("row", "measure", "value", "low", "high", "se", "unit", "n", "seeds", "p", "cells", "status", "reason")
# Measures beside MEASURES. With them and the columns these are the names that no measure of the user's own may have.
OTHERS = ("win_rate", "win_rate_minus_home", "win_rate_minus_best", "accuracy", "auc", "auc_within",
          "accuracy_minus_majority", "accuracy_minus_length", "spearman", "kl_bound", "reward_scale")  # fmt: skip
TAKEN = frozenset((*MEASURES, *OTHERS, *ENTRY_AXES, *COLUMNS))
_DECIMALS = 6  # of matrix.json
_POINTS = "points"


def long_table(matrix: Matrix) -> pa.Table:
    """Axes as text, then COLUMNS. A hole has its row of win_rate without numbers; NULL is what there is none of."""
    rows = _Rows([*ENTRY_AXES, *matrix.other_axes])
    for block in matrix.blocks:
        for panel in block.panels:
            rows.of_panel(panel)
        for control in block.controls:
            rows.of_entries("control", control.entries, control.accuracy)
        rows.of_entries("shuffled", block.shuffled)
    return rows.table()


def long_files(matrix: Matrix) -> dict[str, bytes]:
    """measures.parquet and measures.csv."""
    table, parquet, csv = long_table(matrix), pa.BufferOutputStream(), pa.BufferOutputStream()
    pq.write_table(table, parquet)
    write_csv(_without_formulas(table), csv)
    return {"measures.parquet": parquet.getvalue().to_pybytes(), "measures.csv": csv.getvalue().to_pybytes()}


def _without_formulas(table: pa.Table) -> pa.Table:
    """No text that a spreadsheet would compute."""
    for place, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            coded = column.combine_chunks().dictionary_encode()
            safe = pa.array([formula_free(text) for text in coded.dictionary.to_pylist()], pa.string())
            table = table.set_column(place, table.field(place), safe.take(coded.indices))
    return table


@dataclass(slots=True)
class _Rows:
    """Columns as they grow. What many rows have in common, such as axes, stands once in `subjects`."""

    axes: list[str]
    subjects: list[tuple[str, ...]] = field(default_factory=list)  # the axes, row, status, reason
    cells: list[int] = field(default_factory=list)  # of each subject
    at: list[int] = field(default_factory=list)  # the subject of each row
    measure: list[str] = field(default_factory=list)
    unit: list[str] = field(default_factory=list)
    numbers: list[tuple[float | None, ...]] = field(default_factory=list)
    counts: list[tuple[int | None, int | None]] = field(default_factory=list)

    def about(self, row: str, axes: Mapping[str, str], cells: int = 1, status: str = "", reason: str = "") -> None:
        """What the next rows are of."""
        self.subjects.append((*(axes.get(axis, "") for axis in self.axes), row, status, reason))
        self.cells.append(cells)

    def add(self, measure: str, unit: str, one: Estimate | float | None, p: float | None = None) -> None:
        if one is None:
            return
        self.at.append(len(self.subjects) - 1)
        self.measure.append(measure)
        self.unit.append(unit)
        if isinstance(one, Estimate):
            self.numbers.append((one.value, one.low, one.high, one.se, p))
            self.counts.append((one.n, one.seeds))
        else:
            self.numbers.append((one, None, None, None, p))
            self.counts.append((None, None))

    def versus(self, measure: str, one: Difference | None) -> None:
        if one is not None:
            self.add(measure, _POINTS, one.estimate, one.p)

    def of_panel(self, panel: Panel) -> None:
        for opponent in panel.opponents:
            self.about("baseline", panel.axes | {"source_lang": "", "target_lang": opponent.target})
            self._measured(opponent, panel.recorded)
        self.of_entries("cell", panel.entries, panel.accuracy)
        for row, over_targets, over_sources in (
            ("mean", panel.row_means, panel.column_means),
            ("mean abroad", panel.row_means_abroad, panel.column_means_abroad),
        ):
            self._means(row, panel, "source_lang", over_targets)
            self._means(row, panel, "target_lang", over_sources)

    def _means(self, row: str, panel: Panel, axis: str, means: Mapping[str, Mean]) -> None:
        for lang, mean in means.items():
            self.about(row, panel.axes | {"source_lang": "", "target_lang": ""} | {axis: lang}, mean.entries)
            self.add("win_rate", "%", mean.estimate)

    def of_entries(self, row: str, entries: Iterable[Entry], accuracy: Iterable[Accuracy] = ()) -> None:
        known = {(one.source, one.target): one for one in accuracy}
        for entry in entries:
            self.about(row, entry.axes, status=entry.status, reason=entry.reason)
            self._measured(entry, entry.pairwise is not None)
            if entry.win is None:
                self.add("win_rate", "%", np.nan)
            self.add("kl_bound", "nats", entry.kl_bound)
            self.add("reward_scale", "", entry.reward_scale)
            self.add("spearman", "", entry.spearman)
            self.versus("win_rate_minus_home", entry.versus_home)
            self.versus("win_rate_minus_best", entry.versus_best)
            if (right := known.get((entry.source, entry.target))) is not None:
                self.add("accuracy", "%", right.accuracy)
                self.add("auc", "%", right.auc)
                self.add("auc_within", "%", right.auc_within)
                self.versus("accuracy_minus_majority", right.versus_majority)
                self.versus("accuracy_minus_length", right.versus_length)

    def _measured(self, of: Entry | Opponent, recorded: bool) -> None:
        for name, measure in measures_of(recorded).items():
            self.add(_NAMES[name], measure.unit, getattr(of, name, None))
        for name, own in of.own.items():
            self.add(name, "", own)

    def table(self) -> pa.Table:
        at = pa.array(self.at, pa.int64())
        names = [*self.axes, "row", "status", "reason"]
        texts = [pa.array([subject[place] for subject in self.subjects], pa.string()) for place in range(len(names))]
        found = {name: text.take(at) for name, text in zip(names, texts, strict=True)}
        found["cells"] = pa.array(self.cells, pa.int64()).take(at)
        numbers = np.round(np.array(self.numbers, dtype=np.float64).reshape(-1, len(_NUMBERS)), _DECIMALS) + 0.0
        for name, values in zip(_NUMBERS, numbers.T, strict=True):
            found[name] = pa.array(np.ascontiguousarray(values), from_pandas=True)  # NaN is NULL
        for place, name in enumerate(("n", "seeds")):
            found[name] = pa.array([counts[place] for counts in self.counts], pa.int64())
        found |= {"measure": pa.array(self.measure, pa.string()), "unit": pa.array(self.unit, pa.string())}
        return pa.table({name: found[name] for name in (*self.axes, *COLUMNS)})
