"""The common input of all analyses: matrix entries as a tidy table, with draws of their errors.

A grid's entries (`grid_entries`) and the paper's published ones (analysis/paper/published.py) come in this one form: a
row an entry, holes included; axes as text, then numbers. References without a source stand apart (`untrained`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling.analysis.matrix.fold_column import FoldedColumn
from xling.analysis.matrix.names import values_of
from xling.analysis.matrix.types import MEASURES, Entry, Matrix
from xling.analysis.matrix.verdicts import favoured
from xling.analysis.statistics.bootstrap import RESAMPLES, SHARE, Floats, Sample
from xling.analysis.statistics.draws import Small, covariances, errors_of, with_tails
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.finding import Finding, Place, Row, columns_of, place_of, spread
from xling.analysis.tidy.unlabelled import NOTHING, Unlabelled
from xling.config.common import CEILINGS
from xling.results.plan import ENTRY_AXES

PLACE = ("source_lang", "target_lang")
EVERY = "all"  # stands for the target in a row that is over all of them
DRAWN = {"win": "win_rate", "kl": "kl", "accuracy": "accuracy"}  # measures with draws of their errors, and their column
SPANS = {"win": SHARE, "kl": np.array([0.0, np.inf]), "accuracy": SHARE}  # the ends of each measure's scale
_MOST_NAMED = 4
_FEWEST_DRAWS, _MOST_NUMBERS = 400, 4_000_000  # of more than 2,000 entries fewer draws are kept


@dataclass(slots=True)
class Draws:
    """Errors of all panels' entries and of references, collected column by column while a grid is folded.

    How they are made: statistics/draws.py. Shuffled labels have none.
    """

    errors: dict[str, dict[Place, Small]] = field(default_factory=dict)  # win, kl, accuracy -> (RESAMPLES,)
    freedom: dict[str, dict[Place, float]] = field(default_factory=dict)
    # covariance over the prompts of one seed, and how many those are (with several data seeds: the mean)
    prompts: list[tuple[list[Place], Floats, float]] = field(default_factory=list)
    # of the same columns with several seeds: covariance of the mean over seeds, over prompts and between seeds; seeds
    seeds: list[tuple[Floats, Floats, int] | None] = field(default_factory=list)

    def add(self, column: FoldedColumn) -> None:
        """Take over what a column's analyses need."""
        members = [number for panel in column.groups.panels.values() for number in panel]
        everyone = [*members, *column.groups.references]
        places = [place_of(column.entries[number].axes) for number in everyone]
        of_accuracy = range(len(everyone))
        for measure, samples, numbers in (
            ("win", column.wins, everyone),
            ("kl", column.kl, everyone),
            ("accuracy", column.hits, of_accuracy),
        ):
            if samples:
                self._take(measure, places, numbers, samples)
        places = places[: len(members)]
        if column.wins and members and column.wins[0].clusters > 1:
            each = [np.cov(sample.resamples[:, members], rowvar=False) for sample in column.wins]
            count = float(np.mean([sample.prompts for sample in column.wins]))
            self.prompts.append((places, np.mean(each, axis=0).reshape(len(members), len(members)), count))
            self.seeds.append(covariances(column.wins, members))

    def _take(self, measure: str, places: Sequence[Place], members: Sequence[int], samples: Sequence[Sample]) -> None:
        errors, freedom = errors_of(samples)
        for place, number in zip(places, members, strict=True):
            if not np.isnan(errors[0, number]):
                self.errors.setdefault(measure, {})[place] = errors[:, number].astype(np.float32)
                self.freedom.setdefault(measure, {})[place] = float(freedom[number])


@dataclass(frozen=True)
class Entries:
    """A tidy table and the errors of its measures, column by column as the table's rows."""

    # axes; win_rate, win_rate_low, win_rate_high, n, seeds, status, reason, akin, home_p; kl, accuracy; MEASURES
    table: pd.DataFrame
    axes: tuple[str, ...]  # those that tell panels apart: all but source_lang and target_lang
    errors: dict[str, Small]  # win, kl, accuracy -> (draws, rows) with t tails; NaN: none
    normal: Small  # (draws, rows) of win without them: its covariance is the sampling covariance
    prompts: tuple[tuple[list[Place], Floats, float], ...]  # as in Draws, a column each
    how: str  # how the draws were made
    left_out: tuple[str, ...] = ()
    seeds: tuple[tuple[Floats, Floats, int] | None, ...] = ()  # as in Draws, a column each; empty: one seed
    untrained: "Entries | None" = None  # what learns nothing, without the ceilings; its source is `-`
    unlabelled: Unlabelled = NOTHING  # what is known of targets without their labels

    def where(self, rows: npt.NDArray[np.bool_]) -> "Entries":
        """Some of the rows."""
        errors = {measure: drawn[:, rows] for measure, drawn in self.errors.items()}
        table = self.table[rows].reset_index(drop=True)
        return replace(self, table=table, errors=errors, normal=self.normal[:, rows])

    def panels(self, *ignoring: str) -> Iterator[tuple[dict[str, str], "Entries"]]:
        """One source x target matrix after the other, with the axes that tell it apart.

        ignoring: `optimizer` with its settings, or `optimizer.`, these alone; then a panel holds several matrices.
        """
        axes = [axis for axis in self.axes if not _ignored(axis, ignoring)]
        for values, rows in self.table.groupby(axes, sort=True).indices.items():
            chosen = np.zeros(len(self.table), dtype=np.bool_)
            chosen[rows] = True
            yield dict(zip(axes, values, strict=True)), self.where(chosen)

    def square(self, measure: str = "win") -> "Square":
        """The entries as a matrix; for a single panel. ValueError: several entries in one place."""
        table = self.table
        if table.duplicated(list(PLACE)).any():
            raise ValueError("a source and a target occur twice: this is no single panel")
        sources, targets = list(dict.fromkeys(table["source_lang"])), sorted(set(table["target_lang"]))
        value = np.full((len(sources), len(targets)), np.nan)
        drawn = self.errors[measure]
        errors = np.full((len(drawn), *value.shape), np.nan, dtype=np.float32)
        normal = np.full_like(errors, np.nan)
        at = table["source_lang"].map(sources.index).to_numpy(), table["target_lang"].map(targets.index).to_numpy()
        value[at] = table[DRAWN[measure]].to_numpy()
        errors[:, *at], normal[:, *at] = drawn, self.normal
        return Square(sources, targets, value, errors, normal)

    def akin(self) -> str:
        """Which rows a judge favours that has learnt from the same language; nothing where there are none."""
        if "akin" not in self.table:
            return ""
        there = self.table[self.table["win_rate"].notna()]
        return favoured(zip(there["source_lang"], there["target_lang"], there["akin"], strict=True))

    def finding(
        self,
        name: str,
        title: str,
        columns: Sequence[str],
        rows_of: Callable[["Entries"], Iterable[Row | str]],
        note: str,
        *,
        compact: tuple[str, str, str] | None = None,
        over: tuple[str, ...] = (),
    ) -> Finding:
        """A finding of the rows of every panel, behind its axes; `columns` are the others.

        rows_of: gives a panel's rows, and sentences on what it leaves out. over: axes that a panel's rows are over.
        """
        rows, left_out = list[Row](), list[str]()
        for axes, panel in self.panels(*over):
            for one in rows_of(panel):
                if isinstance(one, str):
                    left_out.append(f"{values_of(axes)}: {one}")
                else:
                    rows.append(axes | one)
        axes_shown = [axis for axis in self.axes if not _ignored(axis, over)]
        table = pd.DataFrame(rows, columns=[*axes_shown, *columns])
        note = f"{note} {self.akin()}".rstrip() if "source_lang" in columns else note
        return Finding(name, title, table, note, tuple(left_out), compact)

    def holes(self, title: str = "") -> list[str]:
        """A sentence on the entries without a win rate, or nothing."""
        gone = self.table[self.table["win_rate"].isna()]
        if gone.empty:
            return []
        named = [f"{row.source_lang} -> {row.target_lang} ({row.status})" for row in gone.itertuples()]
        more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
        where = f"{title}: " if title else ""
        entries = f"{len(self.table)} entries" if len(self.table) != 1 else "1 entry"
        holes = "is a hole" if len(gone) == 1 else "are holes"
        return [f"{where}{len(gone)} of {entries} {holes}: {', '.join(named[:_MOST_NAMED])}{more}."]


def _ignored(axis: str, groups: Sequence[str]) -> bool:
    return any(axis.split(".")[0] == one or (one.endswith(".") and axis.startswith(one)) for one in groups)


@dataclass(frozen=True)
class Square:
    """One panel's values (S, T) and their errors (draws, S, T); NaN for holes."""

    sources: list[str]
    targets: list[str]
    value: Floats
    errors: Small
    normal: Small

    @property
    def draws(self) -> Floats:
        """(draws, S, T): values with their errors."""
        return np.asarray(self.value + self.errors, dtype=np.float64)

    def column(self, target: str) -> tuple[list[str], Floats, Floats]:
        """(sources that are there, their values, (draws, sources))."""
        t = self.targets.index(target)
        there = np.flatnonzero(~np.isnan(self.value[:, t]))
        errors = self.errors[:, there, t].astype(np.float64)
        return [self.sources[s] for s in there], self.value[there, t], self.value[there, t] + errors


# --- of a grid --------------------------------------------------------------------------------------------


def grid_entries(matrix: Matrix, draws: Draws, unlabelled: Unlabelled = NOTHING) -> Entries:
    """The entries of all panels of a folded grid, in the order of its panels; with them what learns nothing."""
    found: list[_Measured] = []
    for panel in (panel for block in matrix.blocks for panel in block.panels):
        accuracy = {(one.source, one.target): one.accuracy for one in panel.accuracy}
        found += [(entry, accuracy.get((entry.source, entry.target))) for entry in panel.entries]
    controls = [control for block in matrix.blocks for control in block.controls if control.name not in CEILINGS]
    untrained = _entries_of([(entry, None) for control in controls for entry in control.entries], matrix, draws)
    entries = _entries_of(found, matrix, draws)
    return replace(entries, untrained=untrained if controls else None, unlabelled=unlabelled)


_Measured = tuple[Entry, Estimate | None]  # with its reward model's accuracy


def _entries_of(found: Sequence[_Measured], matrix: Matrix, draws: Draws) -> Entries:
    axes = [*ENTRY_AXES, *matrix.other_axes]
    rows = [{**{axis: entry.axes.get(axis, "") for axis in axes}, **_numbers(entry, right)} for entry, right in found]
    places = [place_of(entry.axes) for entry, _ in found]
    measured = [name for name in _OTHERS if any(getattr(entry, name) is not None for entry, _ in found)]
    for row, (entry, _) in zip(rows, found, strict=True):
        for name in measured:
            row |= columns_of(name, getattr(entry, name))
    table = pd.DataFrame(rows, columns=[*axes, *_NUMBERS, *spread(*measured)])
    errors = {measure: _errors(draws, measure, places, table[name].to_numpy()) for measure, name in DRAWN.items()}
    return Entries(
        table,
        tuple(axis for axis in axes if axis not in PLACE),
        errors,
        _errors(draws, "win", places),
        tuple(draws.prompts),
        matrix.interval_note,
        tuple(matrix.left_out),
        tuple(draws.seeds),
    )


_NUMBERS = [
    *spread("win_rate"),
    *("n", "seeds", "status", "reason", "akin", "home_p"),
    *spread("kl"),
    "kl_bound",
    *spread("accuracy"),
]
_OTHERS = [name for name in MEASURES if name not in ("win", "win_own", "kl")]


def _numbers(entry: Entry, accuracy: Estimate | None) -> dict[str, object]:
    return {
        **columns_of("win_rate", entry.win),
        "n": entry.win.n if entry.win else 0,
        "seeds": entry.win.seeds if entry.win else 0,
        "status": entry.status,
        "reason": entry.reason,
        "akin": entry.akin,
        "home_p": np.nan if entry.versus_home is None or entry.versus_home.p is None else entry.versus_home.p,
        **columns_of("kl", entry.kl),
        "kl_bound": np.nan if entry.kl_bound is None else entry.kl_bound,
        **columns_of("accuracy", accuracy),
    }


def _errors(draws: Draws, measure: str, places: Sequence[Place], values: Floats | None = None) -> Small:
    """(draws, rows); with values: with the tails of t, on the scale of the measure."""
    known, freedom = draws.errors.get(measure, {}), draws.freedom.get(measure, {})
    size = min(RESAMPLES, max(_FEWEST_DRAWS, _MOST_NUMBERS // max(len(places), 1)))
    found = np.full((size, len(places)), np.nan, dtype=np.float32)
    for row, place in enumerate(places):
        if place in known:
            errors = known[place][:size]
            found[:, row] = (
                errors if values is None else with_tails(values[row], errors, freedom[place], SPANS[measure])
            )
    return found
