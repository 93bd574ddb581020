"""`xling wandb [GRID]`: write the W&B runs that are missing, then save the grid's workspace and report there.

The ids of both stand in <root>/tracking/dashboards.json, so that the next time the same ones are updated. Offline (no
key, no network) their specs go to <root>/tracking/dashboard/<grid>/ instead, and a sentence says what would be saved.

The workspace is a saved view of the grid's runs. Both show what the grid's reduce run has logged, and the curves of the
stages that train; their run sets are the ids of just these runs, whichever grids wrote them. Needs the extra `wandb`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import Matrix, Panel, read_matrix
from xling.analysis.tidy.tables import panels
from xling.console import without_secrets
from xling.errors import ConfigError, XlingError, install
from xling.grid.files import json_bytes, write_atomically
from xling.grid.store import Damaged, Store
from xling.jsonfiles import decode
from xling.report.tables.table import span
from xling.results.plan import Plan, read_plan
from xling.tracking.base import Destination, TrackingResult, shown_file
from xling.tracking.track import read_ledger, reduce_id, track_grid
from xling.tracking.wandb import HEATMAP, HEATMAP_COLUMNS, destination_of, read, server

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces.interface as ws

_T = TypeVar("_T")
A_LINE = 300  # characters of what W&B says that are told
MOST_READ = 60  # curves of a kind that are looked at for the names of its metrics

FIRST = ("loss", "rouge", "accuracy", "reward", "kl", "length", "entropy")  # metrics by what their names begin with
LINES = "wandb/lineseries/v0", {"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"}
HEATS = HEATMAP, {column: column for column in HEATMAP_COLUMNS}
SECTIONS = (  # of what the reduce run logs: a title, and the keys, or what they begin with
    ("Matrix", ("heatmap/", "images/matrix", "matrix", "cells", "measures", "language_rates")),
    ("Reward model accuracy", ("rm_accuracy",)),
    ("KL frontier", ("frontier_chart/", "images/frontier", "images/learning", "frontier", "optimizers", "best_of_k")),
    ("Controls", ("controls", "null_bands")),
    ("Judges", ("judge_agreement",)),
    ("Samples", ("samples",)),
    ("Findings", ("finding/",)),
    ("Stages", ("stages",)),
)
MOST_LINES = 100  # runs in one plot


class Saved(Struct, frozen=True):
    """Where a grid's dashboard is at W&B."""

    view_id: str = ""
    view_name: str = ""
    report_id: str = ""
    urls: tuple[str, ...] = ()


class Grid(Struct, frozen=True):
    """Input of a dashboard."""

    matrix: Matrix
    entity: str  # empty: not known, as nobody is logged in
    project: str
    reduce_run: str
    shown: list[str]  # the keys that the reduce run has logged
    training: list[str]  # ids of the runs with curves
    curves: dict[str, list[str]]  # kind -> its metrics, as sft -> sft/loss


def run(store: Store, name: str, asked: Mapping[str, Any], new: bool = False) -> Iterator[str]:
    """Sentences as it goes. `asked`: mode, project, entity, artifacts, runs; None: as the grid was tracked before.

    StoreError: the grid has not been folded. ConfigError: wandb-workspaces is not there, nothing could be tracked, or
    W&B refuses what is saved.
    """
    plan, matrix = read_plan(store.grid_folder(name)), read_matrix(store.grid_folder(name))
    store.refuse_links(name)
    before = _last(store, name)
    settings = {
        "mode": asked.get("mode") or "auto",
        "project": asked.get("project") or before.project or "xling",
        "entity": asked.get("entity") or before.entity,
        "artifacts": asked.get("artifacts") or "references",
        "runs": asked.get("runs") or before.runs or "trained",
    }
    result = track_grid(store.root, name, settings, patience=None)
    yield result.sentence()
    if result.mode == "off":
        raise ConfigError("Without runs there is nothing to show. Type --mode offline, or look into the trouble above.")
    try:
        import wandb_workspaces.workspaces.interface  # noqa: F401
    except ModuleNotFoundError as error:
        missing = f"Dashboards are made with wandb-workspaces, which is not installed. Type {install('wandb')}."
        raise ConfigError(missing) from error
    online = result.mode == "online"
    to = destination_of(result.mode, read(settings), os.environ)
    entity = settings["entity"] or result.team or before.team or (_default_entity() if online else "")
    grid = grid_of(store, plan, matrix, to, str(entity or ""))
    view, page = workspace(grid), report(grid)
    yield from _save(store, name, view, page, new) if online else _describe(store, name, view, page)


def _last(store: Store, name: str) -> TrackingResult:
    """The stored result of the grid's last tracking."""
    return _read(store.root / "tracking" / f"{name}.json", TrackingResult, TrackingResult("off"))


def _default_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity or "")


def grid_of(store: Store, plan: Plan, matrix: Matrix, to: Destination, entity: str) -> Grid:
    """Content of the views: the keys that were logged, and the metrics of stages that have runs with curves."""
    known = read_ledger(store.root / "tracking", to)
    path = shown_file(store.root, plan.name)
    shown = _read(path, list[str], [])
    training: list[str] = []
    curves: dict[str, set[str]] = {}
    looked: dict[str, int] = {}
    for stage in plan.stages:
        curve = store.folder(stage.kind, stage.key) / "curve.jsonl"
        if stage.key not in known or not curve.exists():
            continue
        training.append(stage.key)
        looked[stage.kind] = looked.get(stage.kind, 0) + 1
        if looked[stage.kind] <= MOST_READ:
            with suppress(Damaged):  # the store remembers it
                metrics = _metrics(store.content(stage.kind, stage.key, "curve.jsonl"))
                curves.setdefault(stage.kind, set()).update(f"{stage.kind}/{metric}" for metric in metrics)
    by_kind = {kind: sorted(names) for kind, names in curves.items()}
    return Grid(matrix, entity, to.project, reduce_id(plan), shown, training, by_kind)


def _metrics(curve: bytes) -> set[str]:
    rows = [decode(line, type=dict[str, Any]) for line in curve.splitlines()]
    return {name for row in rows for name, value in row.items() if value is not None} - {"step"}


# --- the workspace and the report, as objects of wandb-workspaces; nothing is saved ------------------------


def workspace(grid: Grid) -> "ws.Workspace":
    """A view of the grid's runs: what was measured, then the curves by kind of stage."""
    import wandb_workspaces.workspaces.interface as ws

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


def report(grid: Grid) -> "wr.Report":
    """Title, matrix, panels and provenance on one page."""
    import wandb_workspaces.reports.v2.interface as wr

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
    import wandb_workspaces.reports.v2.interface as wr

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
    import wandb_workspaces.reports.v2.interface as wr

    return [
        wr.LinePlot(title=name, x="Step", y=[name], max_runs_to_show=MOST_LINES) for name in sorted(names, key=_rank)
    ]


def _rank(name: str) -> tuple[int, str]:
    metric = name.partition("/")[2].removeprefix("validation_")
    return next((i for i, first in enumerate(FIRST) if metric.startswith(first)), len(FIRST)), name


def _among(runs: Sequence[str]) -> Any:
    """Just these runs."""
    from wandb_workspaces import expr

    return expr.Metric("ID").isin(list(runs))


def _runset(grid: Grid, name: str, runs: Sequence[str]) -> "wr.Runset":
    """Without an entity the project is left open, too: looking it up needs the network."""
    import wandb_workspaces.reports.v2.interface as wr

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


# --- saving ---------------------------------------------------------------------------------------------------


def _describe(store: Store, name: str, view: Any, page: Any) -> Iterator[str]:
    """Offline: what would be saved, as files."""
    folder = store.root / "tracking" / "dashboard" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, spec in (("workspace.json", view._to_model().spec), ("report.json", page._to_model().spec)):
        content = spec.model_dump_json(by_alias=True, exclude_none=True)
        write_atomically(folder / file, msgspec.json.format(content.encode(), indent=1))
    where = f"{view.entity}/{view.project}" if view.entity else f"project {view.project}"
    yield (
        f"Dashboard: nothing was saved to W&B, as it is offline. It would save the workspace '{view.name}' "
        f"({_size(view)}) and the report '{page.title}' to {where}; their specs are in {folder}."
    )


def _size(view: Any) -> str:
    return f"{len(view.sections)} sections, {sum(len(section.panels) for section in view.sections)} panels"


def _save(store: Store, name: str, view: Any, page: Any, new: bool) -> Iterator[str]:
    """Online: update what was saved before, or save it for the first time."""
    path = store.root / "tracking" / "dashboards.json"
    all_saved = _read(path, dict[str, Saved], {})
    place = f"{server(os.environ)} {view.entity}/{view.project} {name}"
    saved = Saved() if new else all_saved.get(place, Saved())
    view._internal_id, view._internal_name, page.id = saved.view_id, saved.view_name, saved.report_id
    try:
        view.save()
        saved = Saved(view._internal_id, view._internal_name, saved.report_id, (view.url,))
        write_atomically(path, json_bytes({**all_saved, place: saved}))  # the report may fail
        page.save()
    except XlingError:
        raise
    except Exception as error:
        again = "" if saved == Saved() else f" Should it have been deleted there: `xling wandb {name} --new`."
        why = shorten(without_secrets(f"{type(error).__name__}: {error}"), A_LINE)
        raise ConfigError(f"W&B did not take the dashboard ({why}).{again}") from error
    saved = Saved(view._internal_id, view._internal_name, page.id, (view.url, page.url))
    write_atomically(path, json_bytes({**all_saved, place: saved}))
    yield f"Workspace ({_size(view)}): {view.url}"
    yield f"Report: {page.url}"


def _read(path: Path, type_: type[_T], default: _T) -> _T:
    """The stored value, or the default where it is gone or damaged."""
    try:
        return decode(path.read_bytes(), type=type_)
    except (OSError, msgspec.DecodeError):
        return default
