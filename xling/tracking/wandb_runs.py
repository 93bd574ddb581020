"""The child process that writes W&B runs: `python -m xling.tracking.wandb_runs ROOT GRID DESTINATION`.

DESTINATION is a Destination as JSON. One process and one wandb-core write all runs that are missing; the ledger has a
line for each. The answer is <root>/tracking/<grid>.json, a TrackingResult.
"""

import fcntl
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import shorten

import msgspec
import wandb
from wandb.sdk.wandb_run import Run

from xling.console import lasting_output, without_secrets
from xling.errors import XlingError
from xling.grid.files import append_line, json_bytes, no_link, write_atomically
from xling.grid.planfile import PlannedStage
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.results.plan import Plan, read_plan
from xling.tracking.track import Destination, Noted, TrackingResult, missing, read_ledger
from xling.tracking.wandb_matrix import write_reduce
from xling.tracking.wandb_stages import write_stage

OURS = (XlingError, msgspec.MsgspecError)  # trouble with what stands on the disk: the network has no part in it
A_LINE = 300  # characters of a problem that are told
AT_A_TIME = 8  # runs that are written online
MOST_PROBLEMS = 3  # then something is wrong with all of them


def main(arguments: list[str]) -> int:
    lasting_output()  # the log's disk may be full
    root, name, to = arguments
    folder = Path(root) / "tracking"
    with _lock(folder):
        result = write_runs(Store(root), name, decode(to, type=Destination))
    write_atomically(folder / f"{name}.json", json_bytes(result))
    return 0


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two grids of one root that end together do not write the same run twice."""
    with open(folder / "lock", "a", opener=no_link) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_runs(store: Store, name: str, to: Destination) -> TrackingResult:
    """Write what is missing. Trouble online ends in offline runs; a run that fails offline is told and passed over."""
    folder = store.root / "tracking"
    plan = read_plan(store.grid_folder(name))
    known = len(read_ledger(folder, to))
    stages, reduce_key = missing(store, plan, to)
    writing = _Writing(folder, to)
    for wave in waves(plan, {stage.key for stage in stages}):
        writing.all((stage.key, partial(write_stage, store, stage.kind, stage.key, to)) for stage in wave)
    if reduce_key is not None:
        writing.all([(reduce_key, partial(write_reduce, store, plan, to))])
    problems = writing.problems
    if writing.network:
        return _offline_instead(store, name, to, problems[-1])
    told = f"{len(problems)} could not be written: {problems[0]}" if problems else ""
    written = len(read_ledger(folder, to)) - known
    return TrackingResult(to.mode, written, known, str(folder), told, to.project, to.entity, writing.team)


def waves(plan: Plan, keys: set[str]) -> list[list[PlannedStage]]:
    """The stages with these keys, those of a wave needing only what stands in the waves before it.

    So an artifact is given out by its own run before another uses it.
    """
    depth: list[int] = []
    found: dict[int, list[PlannedStage]] = {}
    for stage in plan.stages:
        depth.append(1 + max((depth[parent] for parent in stage.parents), default=-1))
        if stage.key in keys:
            found.setdefault(depth[-1], []).append(stage)
    return [found[level] for level in sorted(found)]


class _Writing:
    """Writes runs, online several at a time since most of the time is the network's, until something is wrong."""

    def __init__(self, folder: Path, to: Destination) -> None:
        self._folder, self._to = folder, to
        self.team = to.entity
        self.problems: list[str] = []
        self.network = False  # trouble with it, or with what answers there

    def all(self, jobs: Iterable[tuple[str, Callable[[], Run]]]) -> None:
        with ThreadPoolExecutor(AT_A_TIME if self._to.mode == "online" else 1) as pool:
            list(pool.map(self._write, jobs))

    def _write(self, job: tuple[str, Callable[[], Run]]) -> None:
        if self.network or len(self.problems) >= MOST_PROBLEMS:
            return
        key, write = job
        try:
            self.team = write().entity or self.team
            append_line(self._folder / self._to.ledger, Noted(key))
        except Exception as error:
            self.problems.append(shorten(without_secrets(f"{type(error).__name__}: {error}"), A_LINE))
            print(without_secrets(traceback.format_exc()), file=sys.stderr)
            self.network = self.network or (self._to.mode == "online" and not isinstance(error, OURS))


def _offline_instead(store: Store, name: str, to: Destination, problem: str) -> TrackingResult:
    wandb.teardown()  # else the run's id stays taken
    offline = write_runs(store, name, msgspec.structs.replace(to, mode="offline"))
    return msgspec.structs.replace(offline, problem=f"Not online ({problem}). {offline.problem}".strip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
