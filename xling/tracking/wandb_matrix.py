"""The W&B run of a grid, its reduce run: the matrix as tables, heatmaps and pictures, samples, what it is made of.

Folded again (a hole was filled), the same run shows the new matrix: the id comes from the grid's name and cells. It
uses the artifacts of its cells, which lead to those of every stage above, and its config and the table `stages` name
the runs of all of them, whichever grid wrote those.
"""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.wandb_run import Run

from xling.analysis.matrix.files import read_matrix
from xling.analysis.matrix.types import Matrix
from xling.analysis.tidy.tables import Rows, counts, frontier_lines, panel_names, panels, tables
from xling.grid.files import json_bytes, write_atomically
from xling.grid.store import Store
from xling.report.page.findings import shown_findings
from xling.results.plan import Plan
from xling.tracking.track import Destination, read_ledger, reduce_id, shown_file
from xling.tracking.wandb_samples import sample_rows
from xling.tracking.wandb_stages import artifact_of, start, use

# The preset that W&B's own client used for heatmaps (wandb.plots.heatmap, until 0.12), with its columns.
HEATMAP, HEATMAP_COLUMNS = "wandb/heatmap/v1", ["x_axis", "y_axis", "values"]
MOST_HEATMAPS = 24  # panels; the table has all
PICTURES = ("matrix", "frontier", "learning")  # .png, as far as they are there
FILES = ("matrix.csv", "matrix.json", "matrix.md", "matrix.png", "frontier.csv", "frontier.png", "learning.png",
         "report.html", "plan.json")  # fmt: skip


def write_reduce(store: Store, plan: Plan, to: Destination) -> Run:
    """Write the run of a grid that has been folded."""
    folder = store.grid_folder(plan.name)
    matrix = read_matrix(folder)
    ident = reduce_id(plan)
    before = sum(key.startswith(ident) for key in read_ledger(store.root / "tracking", to))
    states = {stage.key: store.check(stage.kind, stage.key).state for stage in plan.stages}
    config = {
        "command": plan.command,
        "git": plan.git,
        "cells": len(plan.cells),
        "stages": _by_kind(plan, states),
        "provenance": matrix.provenance,
    }
    shown = logged(store, plan, matrix, folder)
    run = start(store, to, id=ident, name=plan.name, job_type="reduce", group=plan.name, config=config)
    try:
        run.log(shown, step=max(before, run.starting_step))  # one of its own, offline too
        run.summary.update(counts(matrix))
        if to.artifacts != "none":
            _lineage(run, store, plan, states, to)
    finally:
        run.finish()
    write_atomically(shown_file(store.root, plan.name), json_bytes(sorted(shown)))
    return run


def logged(store: Store, plan: Plan, matrix: Matrix, folder: Path) -> dict[str, Any]:
    """All that the run shows, by key."""
    found: dict[str, Any] = {name: _table(rows) for name, rows in tables(matrix).items()}
    found["stages"] = _table(stage_rows(store, plan))
    found |= _heatmaps(matrix) | _frontiers(matrix)
    found |= {
        f"images/{name}": wandb.Image(str(path)) for name in PICTURES if (path := folder / f"{name}.png").exists()
    }
    found |= _optional("samples", lambda: {"samples": _table(sample_rows(store, plan))})
    found |= _optional("findings", lambda: dict(findings(store, plan)))
    return {key: value for key, value in found.items() if value is not None}


def _optional(what: str, made: Any) -> dict[str, Any]:
    """What may fail alone, as data that have moved: the rest is shown without it, and the run says so."""
    try:
        found: dict[str, Any] = made()
    except Exception as error:
        traceback.print_exc()
        return {f"left_out/{what}": f"{type(error).__name__}: {error}"}
    return found


def _table(rows: Rows) -> wandb.Table | None:
    columns: list[str | int] = [*rows.columns]
    return wandb.Table(columns=columns, data=rows.rows, allow_mixed_types=True) if rows.rows else None


def _heatmaps(matrix: Matrix) -> dict[str, Any]:
    """A chart a panel: win rates, targets across, sources down; holes are no points."""
    shown = panels(matrix)[:MOST_HEATMAPS]
    found = {}
    for name, panel in zip(panel_names([panel.axes for panel in shown]), shown, strict=True):
        rows = [[e.target, e.source, round(e.win.value, 2)] for e in panel.entries if e.win is not None]
        if rows:
            fields = {column: column for column in HEATMAP_COLUMNS}
            title = {"title": f"win rate, % ({name})" if len(shown) > 1 else "win rate, %"}
            table = wandb.Table(columns=[*HEATMAP_COLUMNS], data=rows)
            found[f"heatmap/{name}"] = wandb.plot_table(HEATMAP, table, fields, title)
    return found


def _frontiers(matrix: Matrix) -> dict[str, Any]:
    """Win rate over KL, a line an optimizer."""
    found = {}
    names = panel_names([frontier.axes for frontier in matrix.frontiers])
    for name, frontier in zip(names, matrix.frontiers, strict=True):
        lines = frontier_lines(frontier)
        if lines:
            xs, ys = ([line[side] for line in lines.values()] for side in (0, 1))
            chart = wandb.plot.line_series(xs, ys, keys=list(lines), title="win rate, % over KL, nats", xname="kl")
            found[f"frontier_chart/{name}"] = chart
    return found


def findings(store: Store, plan: Plan) -> Iterator[tuple[str, Any]]:
    """What the analyses of the grid found, a table each; those that take long as `xling analyse` last wrote them."""
    for finding in shown_findings(store, plan.name, None):
        if len(finding.table):
            table = finding.table.astype(object).where(finding.table.notna(), None)
            yield f"finding/{finding.name}", wandb.Table(dataframe=table, allow_mixed_types=True)


# --- what it is made of -----------------------------------------------------------------------------------------


def _by_kind(plan: Plan, states: dict[str, str]) -> dict[str, list[str]]:
    """Kind -> the finished stages' keys, which are the ids of their runs."""
    found: dict[str, list[str]] = {}
    for stage in plan.stages:
        if states[stage.key] == "done":
            found.setdefault(stage.kind, []).append(stage.key)
    return found


def stage_rows(store: Store, plan: Plan) -> Rows:
    """Every stage of the grid with its run's id, and what it cost."""
    rows: list[list[Any]] = []
    for stage in plan.stages:
        status = store.check(stage.kind, stage.key)
        run = status.done.run if status.done is not None else None
        cost = [None] * 4 if run is None else [run.seconds, run.cpu_seconds, run.device, run.attempt]
        rows.append([stage.kind, stage.label, stage.key, status.state, *cost])
    return Rows(["kind", "label", "run", "state", "seconds", "cpu_seconds", "device", "attempt"], rows)


def _lineage(run: Run, store: Store, plan: Plan, states: dict[str, str], to: Destination) -> None:
    """Use what the cells are folded from, and give out the matrix."""
    refs = [ref for cell in plan.cells for ref in (cell.judge, cell.stages.get("score")) if ref is not None]
    for kind, key in dict.fromkeys((ref.kind, ref.key) for ref in refs):
        if states.get(key) == "done":
            use(run, artifact_of(store, kind, key, to))
    artifact = wandb.Artifact(f"matrix-{re.sub(r'[^A-Za-z0-9_.-]', '_', plan.name)}", "matrix")
    folder = store.grid_folder(plan.name)
    for path in (folder / name for name in FILES):
        if path.exists():
            artifact.add_file(str(path), path.name, skip_cache=True)
    run.log_artifact(artifact)
