"""`xling wandb [GRID]`: write the W&B runs that are missing, then save the grid's workspace and report there.

The ids of both stand in <root>/tracking/dashboards.json, so that the next time the same ones are updated. Offline (no
key, no network) their specs go to <root>/tracking/dashboard/<grid>/ instead, and a sentence says what would be saved.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from xling.analysis.matrix.types import Matrix, read_matrix
from xling.console import without_secrets
from xling.errors import ConfigError, XlingError, install
from xling.grid.files import json_bytes, write_atomically
from xling.grid.store import Damaged, Store
from xling.jsonfiles import decode
from xling.results.plan import Plan, read_plan
from xling.tracking.base import Destination, TrackingResult, shown_file
from xling.tracking.track import read_ledger, reduce_id, track_grid
from xling.tracking.wandb import destination_of, read, server

_T = TypeVar("_T")
A_LINE = 300  # characters of what W&B says that are told
MOST_READ = 60  # curves of a kind that are looked at for the names of its metrics


class Saved(Struct, frozen=True):
    """Where a grid's dashboard is at W&B."""

    view_id: str = ""
    view_name: str = ""
    report_id: str = ""
    urls: tuple[str, ...] = ()


def run(store: Store, name: str, asked: Mapping[str, Any], new: bool = False) -> Iterator[str]:
    """Sentences as it goes. `asked`: mode, project, entity, artifacts; None: as the grid was tracked before.

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
    }
    result = track_grid(store.root, name, settings, patience=None)
    yield result.sentence()
    if result.mode == "off":
        raise ConfigError("Without runs there is nothing to show. Type --mode offline, or look into the trouble above.")
    try:
        from xling.tracking import dashboard_views
    except ModuleNotFoundError as error:
        missing = f"Dashboards are made with wandb-workspaces, which is not installed. Type {install('wandb')}."
        raise ConfigError(missing) from error
    online = result.mode == "online"
    to = destination_of(result.mode, read(settings), os.environ)
    entity = settings["entity"] or result.team or before.team or (_default_entity() if online else "")
    grid = grid_of(store, plan, matrix, to, str(entity or ""))
    view, page = dashboard_views.workspace(grid), dashboard_views.report(grid)
    yield from _save(store, name, view, page, new) if online else _describe(store, name, view, page)


def _last(store: Store, name: str) -> TrackingResult:
    """The stored result of the grid's last tracking."""
    return _read(store.root / "tracking" / f"{name}.json", TrackingResult, TrackingResult("off"))


def _default_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity or "")


def grid_of(store: Store, plan: Plan, matrix: Matrix, to: Destination, entity: str) -> Any:
    """Content of the views: the keys that were logged, and the metrics of stages that have runs with curves."""
    from xling.tracking.dashboard_views import Grid

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
