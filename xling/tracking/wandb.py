"""Weights & Biases (tracking.name=wandb): one run a stage, and one for the grid's matrix. docs/wandb.md.

A stage's run has its key as id and its kind as job_type. Its artifact `<kind>-<key>` is built alike every time;
whoever uses it means the same one, and W&B draws the lineage: sft -> pool -> score -> judge (a cell) -> matrix.
"""

import netrc
import os
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from xling.errors import XlingError
from xling.grid.files import json_bytes, write_atomically
from xling.tracking.base import Destination, one_of, read_mode, shown_file

if TYPE_CHECKING:
    import wandb
    from wandb.sdk.wandb_run import Run

    from xling.analysis.matrix.types import Matrix
    from xling.analysis.tidy.tables import Rows
    from xling.grid.store import Store
    from xling.tracking.runs import GridRun, Result, StageRun

TITLE = "W&B"
ARTIFACTS = ("references", "files", "none")
WANDB = "https://api.wandb.ai"
INIT_TIMEOUT = 30.0  # seconds; then the runs are written offline
OURS = (XlingError, msgspec.MsgspecError)  # trouble with what stands on the disk: the network has no part in it
_WANDB_MODES = {"disabled": "off", "dryrun": "offline", "offline": "offline", "online": "online"}
_REACH = 3.0  # seconds for the network to answer
# The preset that W&B's own client used for heatmaps (wandb.plots.heatmap, until 0.12), with its columns.
HEATMAP, HEATMAP_COLUMNS = "wandb/heatmap/v1", ["x_axis", "y_axis", "values"]
MOST_HEATMAPS = 24  # panels; the table has all
PICTURES = ("matrix", "frontier", "learning")  # .png, as far as they are there
FILES = ("matrix.csv", "matrix.json", "matrix.md", "matrix.png", "measures.csv", "measures.parquet", "frontier.csv",
         "frontier.png", "learning.png", "report.html", "plan.json")  # fmt: skip


class Settings(Struct, frozen=True, tag_field="name", tag="wandb"):
    """`tracking` of conf/config.yaml."""

    mode: str  # one of MODES
    project: str
    entity: str | None = None
    artifacts: str = "references"  # one of ARTIFACTS


def read(values: Mapping[str, Any]) -> Settings:
    """Settings with a known mode and kind of artifacts; a null stands for none."""
    mode, artifacts = read_mode(values), one_of("artifacts", values.get("artifacts", "references") or "none", ARTIFACTS)
    return Settings(mode, str(values.get("project")), values.get("entity"), artifacts)


# --- where to -----------------------------------------------------------------------------------------------


def destination(settings: Settings, environment: Mapping[str, str]) -> tuple[Destination | None, str]:
    """Where runs go by the settings of a grid, and why not online."""
    mode, why = choose_mode(settings.mode, environment)
    return (None if mode == "off" else destination_of(mode, settings, environment)), why


def destination_of(mode: str, settings: Settings, environment: Mapping[str, str]) -> Destination:
    """Where runs of a mode go."""
    host = server(environment).partition("://")[2] if mode == "online" else ""
    own = "" if host == urlsplit(WANDB).netloc else host
    return Destination(mode, settings.project, settings.entity, settings.artifacts, own)


def server(environment: Mapping[str, str]) -> str:
    """Scheme, host and port of W&B's server; a name and a password in its URL are written down nowhere."""
    url = urlsplit(environment.get("WANDB_BASE_URL") or WANDB)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def choose_mode(mode: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """(online, offline or off; why not online). WANDB_MODE decides for `auto`; online needs a key and a network."""
    if mode == "auto":
        mode = _WANDB_MODES.get(environment.get("WANDB_MODE", ""), "auto")
    if mode in ("off", "offline"):
        return mode, ""
    url = urlsplit(environment.get("WANDB_BASE_URL", WANDB))
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    if not _has_key(host, environment):
        return "offline", f"There is no key for {host} (WANDB_API_KEY or `wandb login`)."
    if not _answers(host, port, environment):
        return "offline", f"{host} does not answer."
    return "online", ""


def _has_key(host: str, environment: Mapping[str, str]) -> bool:
    if environment.get("WANDB_API_KEY"):
        return True
    path = environment.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(host: str, port: int, environment: Mapping[str, str]) -> bool:
    if environment.get("HTTPS_PROXY") or environment.get("https_proxy"):
        return True  # only the proxy knows
    try:
        with socket.create_connection((host, port), timeout=_REACH):
            return True
    except OSError:
        return False


def instead(to: Destination, error: Exception) -> Destination | None:
    """Offline, where the network or what answers there is the trouble."""
    if to.mode != "online" or isinstance(error, OURS):
        return None
    import wandb

    wandb.teardown()  # else the run's id stays taken
    return msgspec.structs.replace(to, mode="offline")


# --- runs ---------------------------------------------------------------------------------------------------


def start(store: "Store", to: Destination, **about: Any) -> "Run":
    """A run that gathers nothing by itself: no console, code, git, packages or machine statistics."""
    import wandb

    settings = wandb.Settings(
        mode=to.mode,  # type: ignore[arg-type]
        root_dir=str(store.root / "tracking"),
        console="off",
        silent=True,
        reinit="create_new",  # several may be open
        disable_git=True,
        disable_code=True,
        init_timeout=INIT_TIMEOUT,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    return wandb.init(project=to.project, entity=to.entity, resume="allow", settings=settings, **about)


def write_stage(run: "StageRun", to: Destination) -> str | None:
    """Write the run of a finished stage: its curve, its numbers, its artifact, and those of the stages it needed."""
    sheet = run.result.sheet
    tags = [*dict.fromkeys(value[:64] for value in (sheet.kind, *run.axes.values()) if value)]
    made = start(
        run.store, to, id=run.id, name=run.name, job_type=sheet.kind, group=run.grid, tags=tags, config=run.config
    )
    try:
        for step, values in run.curve:
            made.log(values, step=step)
        made.summary.update(run.summary)
        if to.artifacts != "none":
            for parent in run.parents():
                use(made, artifact_of(parent, to))
            made.log_artifact(artifact_of(run.result, to))
    finally:
        made.finish()
    return made.entity


def write_grid(run: "GridRun", to: Destination) -> str | None:
    """Write the run of a grid: the matrix as tables, heatmaps and pictures, samples, what it is made of.

    It uses the artifacts of its cells, which lead to those of every stage above, and its config and the table `stages`
    name the runs of all of them, whichever grid wrote those.
    """
    name, shown = run.plan.name, logged(run)
    made = start(run.store, to, id=run.id, name=name, job_type="reduce", group=name, config=run.config)
    try:
        made.log(shown, step=max(run.times, made.starting_step))  # one of its own, offline too
        made.summary.update(run.summary)
        if to.artifacts != "none":
            _lineage(made, run, to)
    finally:
        made.finish()
    write_atomically(shown_file(run.store.root, name), json_bytes(sorted(shown)))
    return made.entity


def logged(run: "GridRun") -> dict[str, Any]:
    """All that the run of a grid shows, by key."""
    import wandb

    shown: dict[str, Any] = {name: _table(rows) for name, rows in run.tables.items()}
    shown |= _heatmaps(run.matrix) | _frontiers(run.matrix)
    shown |= {
        f"images/{name}": wandb.Image(str(path)) for name in PICTURES if (path := run.folder / f"{name}.png").exists()
    }
    shown |= {f"left_out/{what}": why for what, why in run.left_out.items()}
    return {key: value for key, value in shown.items() if value is not None}


def _table(rows: "Rows") -> "wandb.Table | None":
    import wandb

    columns: list[str | int] = [*rows.columns]
    return wandb.Table(columns=columns, data=rows.rows, allow_mixed_types=True) if rows.rows else None


def _heatmaps(matrix: "Matrix") -> dict[str, Any]:
    """A chart a panel: win rates, targets across, sources down; holes are no points."""
    import wandb

    from xling.analysis.matrix.names import panel_names
    from xling.analysis.tidy.tables import panels

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


def _frontiers(matrix: "Matrix") -> dict[str, Any]:
    """Win rate over KL, a line an optimizer."""
    import wandb

    from xling.analysis.matrix.names import panel_names
    from xling.analysis.tidy.tables import frontier_lines

    found = {}
    names = panel_names([frontier.axes for frontier in matrix.frontiers])
    for name, frontier in zip(names, matrix.frontiers, strict=True):
        lines = frontier_lines(frontier)
        if lines:
            xs, ys = ([line[side] for line in lines.values()] for side in (0, 1))
            chart = wandb.plot.line_series(xs, ys, keys=list(lines), title="win rate, % over KL, nats", xname="kl")
            found[f"frontier_chart/{name}"] = chart
    return found


# --- artifacts ------------------------------------------------------------------------------------------------


def artifact_of(result: "Result", to: Destination) -> "wandb.Artifact":
    """The artifact of a stage: spec.json, a manifest with the hash of each file, and the files themselves.

    `references` names the files where they stand (file://), so that nothing but spec and manifest is uploaded, and
    their hashes in the manifest decide whether it is a new version. `files` takes them all along, weights too.
    """
    import wandb

    done, sheet, folder = result.done, result.sheet, result.folder
    kind, key = done.kind, done.key
    files = {name: {"sha256": fact.sha256, "size": fact.size} for name, fact in sorted(done.files.items())}
    about = {"kind": kind, "key": key, "label": sheet.label, "version": sheet.version, "files": files}
    artifact = wandb.Artifact(f"{kind}-{key}", kind, metadata={"label": sheet.label, "version": sheet.version})
    with artifact.new_file("manifest.json", mode="wb") as file:
        file.write(json_bytes(about))
    for name in files:
        path = folder / name
        if to.artifacts == "files" or name == "spec.json":
            artifact.add_file(str(path), name, skip_cache=True, policy="immutable")
        else:
            artifact.add_reference(path.absolute().as_uri(), name, checksum=False)
    if "spec.json" not in files:  # it stands in done.json
        with artifact.new_file("spec.json", mode="wb") as file:
            file.write(json_bytes(sheet))
    return artifact


def use(run: "Run", artifact: "wandb.Artifact") -> None:
    """Say that the run used an artifact, without waiting for it.

    `run.use_artifact` refuses offline, and online waits for each; this is what it does below that.
    """
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _lineage(made: "Run", run: "GridRun", to: Destination) -> None:
    """Use what the cells are folded from, and give out the matrix."""
    import wandb

    for result in run.parts():
        use(made, artifact_of(result, to))
    artifact = wandb.Artifact(f"matrix-{re.sub(r'[^A-Za-z0-9_.-]', '_', run.plan.name)}", "matrix")
    for path in (run.folder / name for name in FILES):
        if path.exists():
            artifact.add_file(str(path), path.name, skip_cache=True)
    made.log_artifact(artifact)
