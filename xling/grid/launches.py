"""Who runs which grid: claims in a grid's folder, so that no launch overwrites the plan of another that runs.

    with running(plan):  # ConfigError if another set of cells runs under the name
        plan.write()
        ...              # run, fold

Any number of launches of the same cells may run at once; the name of each one's claim says which cells:
<root>/grids/<name>/<cells>.<process>.claim. The grid's `plan.claim` lets one at a time look and begin.
"""

import contextlib
import hashlib
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xling.errors import ConfigError, StoreError
from xling.grid import files
from xling.grid.claim import TIMEOUT, Heart, drop, holder, read, release, take
from xling.grid.grids import planned
from xling.grid.host import this_process
from xling.grid.plan import Plan
from xling.grid.stage import Cell, canonical_json
from xling.grid.store import Store


def digest_of(cells: Sequence[Cell]) -> str:
    """Which cells, in one word, in whatever order they were asked for."""
    return _digest([[dict(cell.axes), cell.stage.key] for cell in cells])


def _digest(cells: list[Any]) -> str:
    return hashlib.sha256(canonical_json(sorted(cells, key=canonical_json))).hexdigest()[:12]


def stands_for(store: Store, name: str, digest: str) -> bool:
    """Whether a grid's plan.json is that of these cells."""
    return _digest(planned(store, name).asked()) == digest


def check_own(store: Store, name: str, digest: str) -> None:
    """StoreError if the name has become another grid's meanwhile: its matrix is not this launch's to write."""
    if not stands_for(store, name, digest):
        raise StoreError(
            f"'{store.grid_folder(name)}/plan.json' is another grid's by now, so its matrix is left as it is. All "
            f"results are kept: the same command with another name=NAME folds them."
        )


@contextlib.contextmanager
def running(plan: Plan, timeout: float = TIMEOUT) -> Iterator[str]:
    """Have the grid's name for these cells (yields their digest); ConfigError if others run under it."""
    store, who, digest = plan.store, this_process(), digest_of(plan.cells)
    folder = store.grid_folder(plan.name)
    mine, heart = str(folder / f"{digest}.{who.name}.claim"), Heart(who, timeout)
    try:
        with heart.alone(str(folder / "plan.claim"), f"is about to begin grid {plan.name}"):
            _refuse_others(folder, digest, plan.name, timeout)
            take(mine, who, timeout)
            try:
                plan.write()
            except BaseException:
                release(mine, who)  # other hosts would take this launch for one that runs
                raise
    except OSError as error:
        raise files.disk_error(error, store.root) from error
    heart.hold(mine)
    try:
        with _in_order():
            yield digest
    finally:
        heart.release(mine)


@contextlib.contextmanager
def _in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP leave through everybody's `finally`, with exit code 128 + signal. In the main thread only."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_others(folder: Path, digest: str, name: str, timeout: float) -> None:
    for path in files.matching(folder, "*.*.claim"):
        clock = files.clock(folder)
        other = holder(str(path), clock, timeout)
        if other is None:
            if (gone := read(str(path))) is not None:
                drop(str(path), gone)
        elif not path.name.startswith(f"{digest}."):
            since = time.strftime("%H:%M:%S", time.localtime(other.since))
            raise ConfigError(
                f"name={name} is taken: another set of cells runs under it, on {other.who}, since {since}. Type "
                f"another name=NAME, or wait until it has ended. If you know that it is gone, type: rm '{path}'"
            )
