"""`xling logs`: what a stage prints while its job is queued, running and done; what a job said that died before it."""

import sys
from pathlib import Path

from xling.grid import files
from xling.grid.status import PlannedStage
from xling.grid.store import Store
from xling.grid.tail import follow as tail
from xling.run.slurm import record
from xling.run.slurm.watch import look


def follow(store: Store, name: str, stage: PlannedStage, path: Path) -> int:
    """Print a stage's log as it grows, until the stage is neither running nor queued. 0 if it is done, else 1."""
    state = ""

    def is_over() -> bool:
        nonlocal state
        line = next(line for line in look(store, name).lines() if line.label == stage.label)
        if line.state != state:
            state = line.state
            said = f" ({line.why})" if line.why else ""
            print(f"xling: {stage.label} is {state}{f' on {line.where}' if line.where else ''}{said}.", file=sys.stderr)
        return state not in ("running", "queued")

    try:
        tail(path, sys.stdout, is_over)
    except KeyboardInterrupt:
        return 130
    return 0 if state == "done" else 1


def of_jobs(store: Store, name: str, stage: PlannedStage) -> list[Path]:
    """What the job of a stage printed itself, newest submission first: all there is if it died before the stage."""
    for filed in reversed(record.submissions(store, name)):
        place = filed.places.get(stage.key)
        job = filed.job(place) if place else None
        found = files.matching(filed.folder / "logs", f"{job}_*_log.*") if job else []
        if found:
            return [path for path in found if path.stat().st_size]
    return []
