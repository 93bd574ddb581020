"""Measures of the user's own (xling/measures/own.py) in a column of the matrix: a mean and an interval for every cell.

What a function says of a cell's responses is remembered in the grid's folder, by the file that it stands in and by the
stage that says which responses were judged: folding again calls it for what is new alone.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from xling.analysis.matrix.column import Column
from xling.analysis.matrix.types import Seeds
from xling.analysis.statistics.bootstrap import Clusters, Floats, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import ConfigError, XlingError
from xling.grid.files import write_atomically
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.measures.own import OwnMeasure, own_measure
from xling.results.plan import SeedCell
from xling.results.reading import Judged, SampleReader, reference_texts

OPPONENT = "baseline "  # before a judge stage's key: the responses that its cell is compared with
MOST_NOTES = 6


class _Known(Struct, frozen=True):
    """measures/NAME.json of a grid's folder."""

    digest: str
    values: dict[str, list[float | None]]  # key of a judge stage -> a number a prompt


@dataclass
class OwnMeasures:
    """The measures of one grid while it is folded."""

    store: Store
    grid: str
    measures: list[OwnMeasure]
    notes: dict[str, None] = field(default_factory=dict)  # what could not be measured and why, each once
    _known: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    _new: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._samples = SampleReader(self.store)
        self._references = lru_cache(maxsize=2)(partial(reference_texts, self.store))
        for measure in self.measures:
            self._known[measure.name] = {}
            with suppress(OSError, msgspec.DecodeError):
                known = decode((self._folder / f"{measure.name}.json").read_bytes(), type=_Known)
                self._known[measure.name] = known.values if known.digest == measure.digest else {}

    @property
    def _folder(self) -> Any:
        return self.store.grid_folder(self.grid) / "measures"

    def of(
        self, column: Column, clusters: Mapping[Seeds, Clusters]
    ) -> tuple[list[dict[str, Estimate]], dict[str, Estimate]]:
        """(measures by name of each entry of the column, those of the opponent)."""
        many, entries = len(self.measures), len(column.entries)
        span = np.array([measure.span for measure in self.measures]).T  # (2, measures)
        samples = []
        for seeds in sorted(column.layouts):
            values = np.full((len(column.layouts[seeds].prompts), entries + 1, many), np.nan)  # the opponent's last
            for number, entry in enumerate(column.entries):
                record = column.records[number].get(seeds)
                cell = next((one for one in entry.cells if one.seeds == seeds and record is not None), None)
                if cell is None or record is None:
                    continue
                judged = np.array([win is not None for win in record.items.win])
                for place, measure in enumerate(self.measures):
                    values[judged, number, place] = self._values(measure, cell, column.target, len(values))[judged]
                    if np.isnan(values[:, entries, place]).all():
                        values[:, entries, place] = self._values(measure, cell, column.target, len(values), OPPONENT)
            flat = values.reshape(len(values), -1)
            ends = np.tile(span, entries + 1)
            label = column.label(seeds)
            samples.append(resample(clusters[seeds], flat, label, column.fresh, column.recorded, span=ends))
        estimates = fold(samples) if samples else [None] * ((entries + 1) * many)
        found = [
            {
                measure.name: estimate
                for measure, estimate in zip(self.measures, estimates[number * many : (number + 1) * many], strict=True)
                if estimate is not None
            }
            for number in range(entries + 1)
        ]
        return found[:-1], found[-1]

    def _values(self, measure: OwnMeasure, cell: SeedCell, target: str, many: int, of: str = "") -> Floats:
        """(many,) prompts of a cell's judged responses, or of its opponents; NaN where it could not be measured."""
        known, key = self._known[measure.name], of + cell.judge.key
        if key not in known:
            try:
                judged = self._samples.cell(cell.judge, cell.stages).all()
                known[key] = self._measured(measure, cell, judged, target, of)
                self._new.add(measure.name)
            except XlingError as error:
                self.notes[f"{error}"] = None
                return np.full(many, np.nan)
        return np.array(known[key], dtype=np.float64)

    def _measured(
        self, measure: OwnMeasure, cell: SeedCell, judged: Judged, target: str, of: str
    ) -> list[float | None]:
        responses = [row.responses for row in judged.baseline] if of else judged.responses
        row_of = [row for row, said in enumerate(responses) for _ in said]
        arguments: dict[str, Any] = {"responses": [one for said in responses for one in said], "language": target}
        if "prompts" in measure.wants:
            texts = self._samples.texts(cell.stages["baseline"])
            arguments["prompts"] = [texts[judged.prompts[row]] for row in row_of]
        if "references" in measure.wants:
            references = self._references(cell.stages["baseline"])
            arguments["references"] = [references.get(judged.prompts[row], []) for row in row_of]
        sums = np.zeros((2, len(responses)))
        for row, value in zip(row_of, measure(arguments), strict=True):
            if not math.isnan(value):
                sums[:, row] += value, 1
        return [float(total / count) if count else None for total, count in sums.T]

    def sentences(self) -> list[str]:
        """Measures that failed, with reasons. Values are stored in the grid's folder, if it can be written."""
        for measure in self.measures:
            if measure.name in self._new:
                with suppress(OSError):
                    self._folder.mkdir(parents=True, exist_ok=True)
                    content = msgspec.json.encode(_Known(measure.digest, self._known[measure.name]), order="sorted")
                    write_atomically(self._folder / f"{measure.name}.json", content)
        more = [f"and {len(self.notes) - MOST_NOTES} more"] if len(self.notes) > MOST_NOTES else []
        return [*list(self.notes)[:MOST_NOTES], *more]


def own_measures(store: Store, grid: str, named: Sequence[str]) -> OwnMeasures | None:
    """The measures that a plan names; of those that cannot be read a note. None: it names none."""
    if not named:
        return None
    measures, notes = list[OwnMeasure](), dict[str, None]()
    for one in named:
        try:
            measures.append(own_measure(one))
        except ConfigError as error:
            notes[str(error)] = None
    return OwnMeasures(store, grid, measures, notes)
