"""A grid's W&B workspace (a saved view of its runs) and its report, as objects of wandb-workspaces; nothing is saved.

Both show what the grid's reduce run has logged, and the curves of the stages that train; their run sets are the ids of
just these runs, whichever grids wrote them. Needs the extra `wandb`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import wandb_workspaces.reports.v2.interface as wr
import wandb_workspaces.workspaces.interface as ws
from msgspec import Struct
from wandb_workspaces import expr

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import Matrix, Panel
from xling.analysis.tidy.tables import panels
from xling.report.tables.table import span
from xling.tracking.wandb import HEATMAP, HEATMAP_COLUMNS

FIRST = ("loss", "rouge", "accuracy", "reward", "kl", "length", "entropy")  # metrics by what their names begin with
LINES = "wandb/lineseries/v0", {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}
HEATS = HEATMAP, {column: column for column in HEATMAP_COLUMNS}
SECTIONS = (  # of what the reduce run logs: a title, and the keys, or what they begin with
    ("Matrix", ("heatmap/", "images/matrix", "matrix", "measures", "language_rates")),
    ("Reward model accuracy", ("rm_accuracy",)),
    ("KL frontier", ("frontier_chart/", "images/frontier", "images/learning", "frontier", "optimizers", "best_of_k")),
    ("Controls", ("controls", "null_bands")),
    ("Judges", ("judge_agreement",)),
    ("Samples", ("samples",)),
    ("Findings", ("finding/",)),
    ("Stages", ("stages",)),
)
MOST_LINES = 100  # runs in one plot


class Grid(Struct, frozen=True):
    """Input of a dashboard."""

    matrix: Matrix
    entity: str  # empty: not known, as nobody is logged in
    project: str
    reduce_run: str
    shown: list[str]  # the keys that the reduce run has logged
    training: list[str]  # ids of the runs with curves
    curves: dict[str, list[str]]  # kind -> its metrics, as sft -> sft/loss


def workspace(grid: Grid) -> ws.Workspace:
    """A view of the grid's runs: what was measured, then the curves by kind of stage."""
    sections = [
        ws.Section(name=title, panels=made, is_open=title == "Matrix", pinned=title == "Matrix")
        for title, keys in SECTIONS
        if (made := list(_panels(grid.shown, keys)))
    ]
    sections += [ws.Section(name=f"Curves: {kind}", panels=_lines(names)) for kind, names in grid.curves.items()]
    return ws.Workspace(
        entity=grid.entity,
        project=grid.project,
        name=f"xling {grid.matrix.name}",
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=max(1, min(MOST_LINES, len(grid.training)))),
        runset_settings=ws.RunsetSettings(
            filters=[_among([grid.reduce_run, *grid.training])], pinned_columns=["run:displayName", "run:jobType"]
        ),
    )


def report(grid: Grid) -> wr.Report:
    """Title, matrix, panels and provenance on one page."""
    blocks: list[Any] = [wr.MarkdownBlock(_matrix_text(panel)) for panel in panels(grid.matrix)]
    blocks.append(wr.P(grid.matrix.interval_note))
    for title, keys in SECTIONS:
        if made := list(_panels(grid.shown, keys)):
            blocks += [wr.H2(title), wr.PanelGrid(runsets=[_runset(grid, "matrix", [grid.reduce_run])], panels=made)]
    for kind, names in grid.curves.items():
        runsets = [_runset(grid, kind, grid.training)]
        blocks += [wr.H2(f"Curves: {kind}"), wr.PanelGrid(runsets=runsets, panels=_lines(names))]
    blocks += [wr.H2("Provenance"), wr.MarkdownBlock(_provenance(grid.matrix))]
    return wr.Report(
        project=grid.project,
        entity=grid.entity,
        title=f"xling {grid.matrix.name}"[:128],
        description="Which language's reward model aligns which language's policy: win rates in percent.",
        blocks=blocks,
        width="fluid",
    )


# --- panels ---------------------------------------------------------------------------------------------------


def _panels(shown: Sequence[str], keys: Sequence[str]) -> Iterator[Any]:
    """A panel for each key that was logged, in the order of `keys`."""
    for key in keys:
        for name in (name for name in shown if name == key or (key.endswith("/") and name.startswith(key))):
            yield _panel(name)


def _panel(name: str) -> Any:
    if name.startswith("images/"):
        return wr.MediaBrowser(title=name.removeprefix("images/"), media_keys=[name], layout=wr.Layout(w=12, h=12))
    if name.startswith(("heatmap/", "frontier_chart/")):
        preset, fields = HEATS if name.startswith("heatmap/") else LINES
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": f"{name}_table"}},
            chart_name=preset,
            chart_fields=fields,
            chart_strings={"title": name.partition("/")[2]},
            layout=wr.Layout(w=8, h=8),
        )
    return wr.WeavePanelSummaryTable(table_name=name, layout=wr.Layout(w=24, h=10))


def _lines(names: Sequence[str]) -> list[Any]:
    return [
        wr.LinePlot(title=name, x="Step", y=[name], max_runs_to_show=MOST_LINES) for name in sorted(names, key=_rank)
    ]


def _rank(name: str) -> tuple[int, str]:
    metric = name.partition("/")[2].removeprefix("validation_")
    return next((i for i, first in enumerate(FIRST) if metric.startswith(first)), len(FIRST)), name


def _among(runs: Sequence[str]) -> Any:
    """Just these runs."""
    return expr.Metric("ID").isin(list(runs))


def _runset(grid: Grid, name: str, runs: Sequence[str]) -> wr.Runset:
    """Without an entity the project is left open, too: looking it up needs the network."""
    project = grid.project if grid.entity else ""
    return wr.Runset(entity=grid.entity, project=project, name=name, filters=[_among(runs)])


# --- text -----------------------------------------------------------------------------------------------------


def _matrix_text(panel: Panel) -> str:
    """The panel as a Markdown table, intervals below the values; a hole has its status."""
    cells = panel.at()
    lines = [f"**{heading_of(panel.axes)}** (win rate, %)", "", f"| source | {' | '.join(panel.targets)} |"]
    lines.append(f"|---|{'---|' * len(panel.targets)}")
    for source in panel.sources:
        row = []
        for target in panel.targets:
            entry = cells.get((source, target))
            if entry is None or entry.win is None:
                row.append("" if entry is None else f"({entry.status})")
            else:
                row.append(f"{entry.win.value:.1f} ({span(entry.win)})")
        lines.append(f"| {source} | {' | '.join(row)} |")
    return "\n".join(lines)


def _provenance(matrix: Matrix) -> str:
    lines = [f"- {name}: `{_plain(value)}`" for name, value in matrix.provenance.items() if value not in (None, [])]
    return "\n".join([*lines, *(f"- left out: {note}" for note in matrix.left_out)])


def _plain(value: Any) -> str:
    return (" ".join(map(str, value)) if isinstance(value, list) else str(value)).replace("`", "'")
