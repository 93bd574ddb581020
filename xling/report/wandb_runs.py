"""The child process that writes W&B runs: `python -m xling.report.wandb_runs ROOT GRID DESTINATION`.

DESTINATION is a Destination as JSON. One process and one wandb-core write all runs that are missing, one after the
other; the ledger has a line for each. The answer is <root>/tracking/<grid>.json, a TrackingResult.
"""

import fcntl
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import wandb
from wandb.sdk.wandb_run import Run

from xling.analysis.plan import read_plan
from xling.errors import XlingError
from xling.grid.files import append_line, json_bytes, write_atomically
from xling.grid.store import Store
from xling.report.tracking import Destination, Noted, TrackingResult, missing, read_ledger
from xling.report.wandb_matrix import write_reduce
from xling.report.wandb_stages import write_stage

OURS = (XlingError, msgspec.MsgspecError)  # trouble with what stands on the disk: the network has no part in it
MOST_PROBLEMS = 3  # then something is wrong with all of them


def main(arguments: list[str]) -> int:
    root, name, to = arguments
    folder = Path(root) / "tracking"
    with _lock(folder):
        result = write_runs(Store(root), name, msgspec.json.decode(to, type=Destination))
    write_atomically(folder / f"{name}.json", json_bytes(result))
    return 0


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two grids of one root that end together do not write the same run twice."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_runs(store: Store, name: str, to: Destination) -> TrackingResult:
    """Write what is missing. Trouble online ends in offline runs; a run that fails offline is told and passed over."""
    folder = store.root / "tracking"
    plan = read_plan(store.grid_folder(name))
    known = len(read_ledger(folder, to))
    stages, reduce_key = missing(store, plan, to)
    jobs: list[tuple[str, Callable[[], Run]]] = []
    jobs += [(stage.key, partial(write_stage, store, stage.kind, stage.key, to)) for stage in stages]
    jobs += [] if reduce_key is None else [(reduce_key, partial(write_reduce, store, plan, to))]
    problems: list[str] = []
    team = to.entity
    for key, job in jobs:
        try:
            team = job().entity or team
            append_line(folder / to.ledger, Noted(key))
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
            traceback.print_exc()
            if to.mode == "online" and not isinstance(error, OURS):
                return _offline_instead(store, name, to, problems[0])
            if len(problems) == MOST_PROBLEMS:
                break
    told = f"{len(problems)} could not be written: {problems[0]}" if problems else ""
    written = len(read_ledger(folder, to)) - known
    return TrackingResult(to.mode, written, known, str(folder), told, to.project, to.entity, team)


def _offline_instead(store: Store, name: str, to: Destination, problem: str) -> TrackingResult:
    wandb.teardown()  # else the run's id stays taken
    offline = write_runs(store, name, msgspec.structs.replace(to, mode="offline"))
    return msgspec.structs.replace(offline, problem=f"Not online ({problem}). {offline.problem}".strip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
