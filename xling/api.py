"""The door for Python: plan, run and read grids from a script or a notebook.

    import xling

    xling.plan("sweeps=demo").print()               # what would be run
    grid = xling.run("sweeps=demo", "seed=0,1")     # the overrides of the command line
    grid = xling.load("outputs", "demo")            # a grid that is there
    grid.cells                                      # a DataFrame; docs/python.md says what its columns are

Errors are those of xling/errors.py, whose messages are sentences; nothing has been run after a ConfigError.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.console import Console
from xling.errors import ConfigError, DataError, StoreError, expanded, shown
from xling.grid.plan import Plan
from xling.grid.plan_table import print_plan
from xling.grid.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from xling.analysis.matrix.types import Matrix
    from xling.analysis.tidy.entries import Entries
    from xling.analysis.tidy.finding import Finding
    from xling.grid.records import Ref
    from xling.results.plan import PlannedEntry, Results, SeedCell


class PrintedPlan(Plan):
    """A plan that shows itself."""

    def print(self, console: Console | None = None, workers: int = 1, said: str = "", every: bool = False) -> None:
        """The dry run's table, see `print_plan`."""
        print_plan(self, console, workers, said, every)


def plan(*overrides: str) -> PrintedPlan:
    """The plan of `xling run OVERRIDES dry_run=true`: stages, reasons and cost; nothing is run or written.

    `plan.print()` shows it; `plan.cells`, `plan.steps` and `plan.cost(workers)` are its parts. ConfigError or
    DataError for what cannot be.
    """
    from xling.compose.grid import composed_grid

    _check(overrides)
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    asked = overrides if "dry_run" in named else (*overrides, "dry_run=true")
    cells, launcher = composed_grid(asked)
    decided = launcher.plan(cells)
    return PrintedPlan(**{one.name: getattr(decided, one.name) for one in fields(Plan)})


def run(*overrides: str) -> "Grid":
    """Do what `xling run OVERRIDES` does, and give the grid.

    Cells that failed are in `grid.cells` with their reasons. With hydra/launcher=slurm the jobs are submitted, and the
    grid is there once they have ended. ConfigError or DataError: nothing was run. KeyboardInterrupt: stopped by hand;
    the same call goes on.
    """
    from xling.compose.grid import composed_grid, grid_name

    _check(overrides)
    cells, launcher = composed_grid(overrides)
    if cells.settings["dry_run"]:
        raise ConfigError("dry_run=true runs nothing. Type xling.plan(...) in place of xling.run(...).")
    try:
        launcher.launch_grid(cells)
    except SystemExit as end:  # 1: some cell failed
        if isinstance(end.code, int) and end.code > 128:
            raise KeyboardInterrupt from None
    return load(cells.settings["root"], grid_name(cells))


def load(root: str | Path = "outputs", name: str | None = None) -> "Grid":
    """A grid by its root and its name; without a name the one that was planned last. ConfigError: there is none."""
    from xling.grid.grids import chosen_grid

    store = Store(expanded(root).absolute())
    return Grid(store, chosen_grid(store, name))


def _check(overrides: Sequence[object]) -> None:
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(
                f"{shown(override)} is no text. Type overrides as texts, 'sweeps=demo', 'seed=0,1', a list as *LIST."
            )


class Grid:
    """A grid as it stands in its root: its matrix, and tidy tables of everything below it.

    Tables are DataFrames, a row an observation and a column a variable: axes as text, then numbers; an estimate x has
    its 95 % interval in x_low and x_high. Each is read when it is first asked for; `reduce` reads all anew.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def __repr__(self) -> str:
        return f"<Grid {self.name} in '{self.store.root}'>"

    @property
    def folder(self) -> Path:
        """Where matrix.csv, report.html and the others stand."""
        return self.store.grid_folder(self.name)

    def reduce(self) -> "Grid":
        """Fold the finished cells anew, as `xling reduce` does: writes the matrix's files. Gives the grid read anew."""
        from xling.report.files import reduce_grid

        reduce_grid(self.store, self.name)
        return Grid(Store(self.store.root), self.name)

    @cached_property
    def matrix(self) -> "Matrix":
        """The matrix that was folded last, typed (xling/analysis/matrix/types.py). StoreError: it never was."""
        from xling.analysis.matrix.types import read_matrix

        return read_matrix(self.folder)

    @cached_property
    def entries(self) -> "Entries":
        """The cells with joint draws of their errors, folded from the store: what analyses are functions of."""
        from xling.analysis.catalogue import known_entries

        return known_entries(self.store, self.name)

    def analyse(self, *names: str) -> "list[Finding]":
        """Findings of `xling analyse --only NAMES` (without names: of all analyses): `finding.table`, title, notes."""
        from xling.analysis.catalogue import grid_findings

        return grid_findings(self.store, self.name, names)

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """A row a cell, folded over its seeds: win rate, prompts, seeds, status, and the reason of a hole."""
        from xling.analysis.tidy.tables import matrix_rows

        return _frame(matrix_rows(self.matrix)).rename(columns={f"ci_{end}": f"win_rate_{end}" for end in _ENDS})

    @cached_property
    def measures(self) -> "pd.DataFrame":
        """A row a finished cell, and one a target's baseline: all that is measured beside the win rate."""
        from xling.analysis.tidy.tables import measure_rows

        return _frame(measure_rows(self.matrix))

    @cached_property
    def long(self) -> "pd.DataFrame":
        """A row a measure of a cell, baseline, reference or mean: measures.parquet (docs/tables.md)."""
        from xling.analysis.tidy.long import long_table

        frame: pd.DataFrame = long_table(self.matrix).to_pandas()
        return frame

    @cached_property
    def accuracy(self) -> "pd.DataFrame":
        """A row a reward model and target: how often it is right on held-out feedback."""
        from xling.analysis.tidy.tables import accuracy_rows

        return _frame(accuracy_rows(self.matrix))

    @cached_property
    def items(self) -> "pd.DataFrame":
        """A row a prompt of each finished cell and seed: what the judge's items.json says."""
        from msgspec.structs import asdict

        from xling.results.items import read_items

        return self._of_cells(lambda results, cell: asdict(read_items(results.folder(cell.judge))))

    @cached_property
    def samples(self) -> "pd.DataFrame":
        """A row a judged response of each finished cell and seed, with its prompt and its scores.

        Of best-of-n that is its pick, of a trained policy every sample.
        """
        import numpy as np

        from xling.grid import joined
        from xling.results.items import read_array
        from xling.results.reading import SampleReader

        reader = SampleReader(self.store)
        texts = lru_cache(maxsize=4)(self._texts)

        def scores(results: "Results", ref: "Ref | None", at: tuple[list[int], list[int]]) -> Any:
            path = None if ref is None else results.folder(ref) / "pool.npy"
            return read_array(path)[at] if path is not None and joined.exists(path) else np.full(len(at[0]), np.nan)

        def of(results: "Results", cell: "SeedCell") -> dict[str, Any]:
            judged, known = reader.cell(cell.judge, cell.stages).all(), texts(cell.stages["baseline"])
            flat = [(n, place) for n, places in enumerate(judged.places) for place in places]
            at = [judged.rows[n] for n, _ in flat], [place for _, place in flat]
            return {
                "prompt": [judged.prompts[n] for n, _ in flat],
                "dataset": [judged.pool[n].dataset for n, _ in flat],
                "text": [known.get(judged.prompts[n]) for n, _ in flat],
                "sample": at[1],
                "response": [judged.pool[n].responses[place] for n, place in flat],
                "length": [judged.pool[n].lengths[place] for n, place in flat],
                "ended": [judged.pool[n].eos[place] for n, place in flat],
                "reward": scores(results, cell.stages.get("score"), at),
                "quality": scores(results, cell.stages.get("verdict"), at),
            }

        return self._of_cells(of)

    @cached_property
    def baselines(self) -> "pd.DataFrame":
        """A row a response of each target's baseline: the opponents of all its cells."""
        from xling.results.samples import read_samples

        seen = set[str]()

        def of(results: "Results", cell: "SeedCell") -> dict[str, Any] | None:
            ref = cell.stages.get("baseline")
            if ref is None or ref.key in seen:
                return None
            seen.add(ref.key)
            flat = [(row, n) for row in read_samples(results.folder(ref)) for n in range(len(row.responses))]
            return {
                "prompt": [row.prompt for row, _ in flat],
                "sample": [n for _, n in flat],
                "response": [row.responses[n] for row, n in flat],
            }

        return self._of_cells(of, without=("rm_backbone", "source_lang", "optimizer", "judge"))

    def _of_cells(
        self, columns: "Callable[[Results, SeedCell], Mapping[str, Any] | None]", without: Sequence[str] = ()
    ) -> "pd.DataFrame":
        """The columns of every finished cell and seed, below each other, after its axes. None: the cell has no rows."""
        import pandas as pd

        from xling.results.plan import ENTRY_AXES, SEED_AXES, Results, other_axes, planned_entries, read_plan

        grid_plan = read_plan(self.folder)
        results = Results(self.store, grid_plan)
        entries: list[PlannedEntry] = planned_entries(grid_plan, results)
        axes = [axis for axis in (*ENTRY_AXES, *other_axes(entries)) if axis.split(".")[0] not in without]
        frames, damaged = [], list[str]()
        for entry in entries:
            for cell in entry.cells:
                if cell.status == "damaged":
                    damaged.append(f"{', '.join(filter(None, entry.axes.values()))} ({cell.reason})")
                if cell.status == "done" and (found := columns(results, cell)) is not None:
                    place = {axis: entry.axes.get(axis, "") for axis in axes}
                    place |= dict(zip(SEED_AXES, cell.seeds, strict=True))
                    filled = {name: values for name, values in found.items() if len(values)}
                    frames.append(pd.DataFrame({**place, **filled}))
        if damaged:
            told = f"{damaged[0]}{f' and {len(damaged) - 1} more' if len(damaged) > 1 else ''}"
            warnings.warn(f"Cells whose results are damaged are left out: {told}.", stacklevel=3)
        if not frames:
            return pd.DataFrame(columns=[*axes, *SEED_AXES])
        return pd.concat(frames, ignore_index=True)

    def _texts(self, baseline: "Ref") -> Mapping[str, str]:
        """Texts of prompts by id; empty, with a warning, where the task's data are gone."""
        from xling.results.reading import prompt_texts

        try:
            return prompt_texts(self.store, baseline)
        except (ConfigError, DataError, StoreError) as error:
            warnings.warn(f"Prompts have no text: {error}", stacklevel=2)
            return {}


_ENDS = ("low", "high")


def _frame(rows: Any) -> "pd.DataFrame":
    """One of the tidy tables (xling/analysis/tidy/tables.py); what is missing of a number is NaN."""
    import pandas as pd

    frame = pd.DataFrame(rows.rows, columns=rows.columns)
    return frame.apply(lambda column: pd.to_numeric(column) if column.isna().any() else column)
