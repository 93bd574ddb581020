"""`xling reduce GRID`: fold the finished cells of a grid into its matrix. Reads plan.json and the store.

matrix = reduce_grid(Path("outputs"), "embedded")  # writes matrix.csv, .json, .md, .png and report.html
"""

from msgspec.structs import replace

from xling.analysis.matrix.across import agreements, optimizer_tables
from xling.analysis.matrix.categories import Categories, fold_categories
from xling.analysis.matrix.draws import Draws
from xling.analysis.matrix.frontier import frontiers
from xling.analysis.matrix.own_measures import OwnMeasures, own_measures
from xling.analysis.matrix.panels import fold_blocks
from xling.analysis.matrix.types import Block, Matrix, OwnTitle, Panel
from xling.console import without_secrets
from xling.grid.store import Store
from xling.results.plan import (
    Plan,
    PlannedEntry,
    Results,
    left_out_notes,
    other_axes,
    planned_entries,
    rates_of_entries,
    read_plan,
)

FEW_SEEN = "where few win or lose, Wilson's"
ONE_SEED = f"95 % bootstrap intervals over prompts only ({FEW_SEEN}); RM training not included"


def grid_categories(store: Store, name: str) -> Categories:
    """Accuracy by category, where the grid is on a benchmark that has categories."""
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    return fold_categories(planned_entries(plan, results), results)


def fold_grid(store: Store, name: str, draws: Draws | None = None) -> Matrix:
    """A pure function of what stands in the store; `draws` collects what analyses need.

    ConfigError: no such grid; StoreError: its plan cannot be read.
    """
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    entries = planned_entries(plan, results)
    own = own_measures(store, results, name, plan.measures)
    blocks, kept = fold_blocks(entries, results, draws, own)
    notes = own.sentences() if own else []
    return Matrix(
        name=plan.name,
        blocks=_completed(blocks, plan, own),
        other_axes=other_axes(entries),
        left_out=[*left_out_notes(plan), *notes],
        provenance=_provenance(plan, results, entries),
        interval_note=_interval_note(blocks, entries),
        agreement=agreements(kept),
        optimizers=optimizer_tables(kept, blocks),
        frontiers=frontiers(kept, results),
    )


def _completed(blocks: list[Block], plan: Plan, own: OwnMeasures | None) -> list[Block]:
    """Panels with how often the detector errs in their targets, and with the titles of the user's own measures."""
    known = rates_of_entries(plan)
    titles = [OwnTitle(measure.name, measure.title) for measure in own.measures] if own else []

    def told(panel: Panel) -> Panel:
        found = {e.target: known[place] for e in panel.entries if (place := tuple(e.axes.items())) in known}
        return replace(
            panel, own_measures=titles, language_rates=[found[target] for target in panel.targets if target in found]
        )

    return [replace(block, panels=[told(panel) for panel in block.panels]) for block in blocks]


def _interval_note(blocks: list[Block], planned: list[PlannedEntry]) -> str:
    """What the intervals are over, as the table has to say."""
    wins = [entry.win for block in blocks for p in block.panels for entry in p.entries if entry.win]
    seeds = {win.seeds for win in wins}
    several = sorted(seeds - {1})
    if not several:
        return ONE_SEED
    if all(win.crossed for win in wins if win.seeds > 1):
        if all(entry.axes["policy"] != "recorded" for entry in planned):
            return f"{ONE_SEED}; {several[-1]} seeds gave the very same"
        return (
            f"95 % bootstrap intervals over prompts and {several[-1]} seeds (the same ratings, split anew; {FEW_SEEN})"
        )
    span = " to ".join(str(count) for count in dict.fromkeys((several[0], several[-1])))
    fresh = len({cell.seeds[0] for entry in planned for cell in entry.cells}) > 1
    kind = "data seeds (each with its own prompts)" if fresh else "seeds (training and sampling; the same prompts)"
    note = f"95 % intervals over prompts and seeds, from {span} {kind}, Wilson's on the scale"
    return f"{note}; where one seed is finished, over prompts only" if 1 in seeds else note


def _provenance(plan: Plan, results: Results, entries: list[PlannedEntry]) -> dict[str, str | list[str] | int | None]:
    """What was asked for, and with which code, devices and threads the results were made: a mix has to be said."""
    runs = list(results.runs())
    return {
        "command": [without_secrets(line) for line in plan.command],
        "git": plan.git,
        "cells": len(plan.cells),
        "cells_done": sum(cell.status == "done" for entry in entries for cell in entry.cells),
        "code": sorted({run.git or "unknown" for run in runs}),
        "devices": sorted({run.device for run in runs}),
        "threads": sorted({str(run.threads) for run in runs}),
    }
