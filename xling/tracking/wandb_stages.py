"""The W&B run of a stage: its curve, its numbers, its artifact, and the artifacts of the stages that it needed.

The run's id is the stage's key and its job_type the kind, so that a stage is one run whichever grids use it. The
artifact `<kind>-<key>` is built alike every time; whoever uses it means the same one, and W&B draws the lineage:
sft -> pool -> score -> judge (a cell) -> matrix.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.wandb_run import Run

from xling.errors import StoreError
from xling.grid.files import json_bytes
from xling.grid.records import Done, Sheet
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.judges import judges_its_own
from xling.results.items import Items
from xling.tracking.track import Destination

INIT_TIMEOUT = 30.0  # seconds; then the runs are written offline


def start(store: Store, to: Destination, **about: Any) -> Run:
    """A run that gathers nothing by itself: no console, code, git, packages or machine statistics."""
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


def write_stage(store: Store, kind: str, key: str, to: Destination) -> Run:
    """Write the run of a finished stage. StoreError: what is read of it are not the bytes that were published."""
    done, sheet = read_result(store, kind, key)
    folder = store.folder(kind, key)
    config = {
        "label": sheet.label,
        "version": sheet.version,
        "spec": sheet.spec,
        "parents": {role: parent.key for role, parent in sheet.parents.items()},
    }
    curve, numbers = list(read_curve(folder, done)), summary(folder, done, sheet)
    run = start(store, to, id=key, name=sheet.label, job_type=kind, config=config)
    try:
        for step, values in curve:
            run.log(values, step=step)
        run.summary.update(numbers)
        if to.artifacts != "none":
            for up in sheet.parents.values():
                if store.state(up.kind, up.key) == "done":  # `xling gc` may have deleted it
                    use(run, artifact_of(store, up.kind, up.key, to))
            run.log_artifact(artifact_of(store, kind, key, to))
    finally:
        run.finish()
    return run


def read_result(store: Store, kind: str, key: str) -> tuple[Done, Sheet]:
    """Marker and sheet of a finished stage; StoreError where it is none."""
    status, sheet = store.check(kind, key), store.sheet(kind, key)
    if status.state != "done" or status.done is None or sheet is None:
        raise StoreError(f"{kind}/{key[:12]} is {status.state}: {status.why}")
    return status.done, sheet


def _read(folder: Path, done: Done, name: str) -> bytes:
    """A file's content, its hash checked; the others, weights above all, are not read."""
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != done.files[name].sha256:
        raise StoreError(f"{name} of {done.label} has other bytes than were published. Type `xling gc --verify`.")
    return content


def read_curve(folder: Path, done: Done) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, values) of a training stage's curve.jsonl, named as `sft/loss`; nothing where there is none."""
    for line in _read(folder, done, "curve.jsonl").splitlines() if "curve.jsonl" in done.files else []:
        values = decode(line, type=dict[str, float | None])
        step = int(values.pop("step") or 0)
        yield step, {f"{done.kind}/{name}": value for name, value in values.items() if value is not None}


def summary(folder: Path, done: Done, sheet: Sheet) -> dict[str, Any]:
    """How the stage came about, and its one number if it is a judge's."""
    run = done.run
    found = {
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "attempt": run.attempt,
        "threads": run.threads,
        "device": run.device,
        "git": run.git,
        "versions": dict(run.versions),
        "bytes": sum(fact.size for fact in done.files.values()),
    }
    if "items.json" in done.files:
        items = decode(_read(folder, done, "items.json"), type=Items)
        wins = [win for win in items.win if win is not None]
        # a name of its own: not to be averaged with the others
        name = "win_rate_own_judge" if judges_its_own(sheet.parents) else "win_rate"
        found |= {name: 100 * sum(wins) / len(wins)} if wins else {}
    return found


# --- artifacts ------------------------------------------------------------------------------------------------


def artifact_of(store: Store, kind: str, key: str, to: Destination) -> wandb.Artifact:
    """The artifact of a stage: spec.json, a manifest with the hash of each file, and the files themselves.

    `references` names the files where they stand (file://), so that nothing but spec and manifest is uploaded, and
    their hashes in the manifest decide whether it is a new version. `files` takes them all along, weights too.
    """
    done, sheet = read_result(store, kind, key)
    folder = store.folder(kind, key)
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
    return artifact


def use(run: Run, artifact: wandb.Artifact) -> None:
    """Say that the run used an artifact, without waiting for it.

    `run.use_artifact` refuses offline, and online waits for each; this is what it does below that.
    """
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
