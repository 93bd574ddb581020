"""`xling cancel`: the job of one stage, or all that was submitted for a grid. Nobody else's jobs, whatever their id."""

import time
from collections.abc import Mapping

from xling.errors import ConfigError
from xling.grid.status import Row, read_grid, stage_at
from xling.grid.store import Store
from xling.run.slurm import cluster, record
from xling.run.slurm.record import Filed
from xling.run.slurm.submit import lock
from xling.run.slurm.survey import Held, survey
from xling.run.slurm.watch import look

ENDING_SECONDS = 15.0  # that a cancelled job has to end


def all_jobs(store: Store, name: str) -> str:
    """Cancel everything that was submitted for a grid; a sentence about what was cancelled."""
    with lock(store):  # another shell may be adding arrays at this moment
        view = look(store, name)
        mine = record.submissions(store, name, "submitting", "released")
        queued = cluster.ours()
        for filed in mine:
            _cancel_arrays(filed, queued)
            record.note_state(filed.folder, "cancelled")
    jobs = {held.job for held in [*view.held.values(), *view.folding] if held.filed.submission.grid == name}
    if not mine:
        return f"{name}: nothing of it is queued or running on the cluster."
    others = _waiting_elsewhere(store, name, jobs)
    return f"{name}: cancelled {_count(len(jobs), 'job')}.{others} The same command as before submits what is missing."


def _cancel_arrays(filed: Filed, queued: Mapping[str, str]) -> None:
    """By id and name: an id may have been given to another job, and an answer of sbatch may have been lost."""
    for array in filed.submission.arrays:
        ref = filed.refs.get(array.number)
        ids = {ref.id} if ref else set()
        if array.name in queued:
            ids.add(queued[array.name])
        if ids:
            cluster.cancel(sorted(ids), name=array.name)


def _waiting_elsewhere(store: Store, name: str, jobs: set[str]) -> str:
    grids = sorted(
        {
            filed.submission.grid
            for filed in record.submissions(store, None, "submitting", "released")
            if filed.submission.grid != name
            for array in filed.submission.arrays
            for task in array.tasks
            if jobs & set(task.others)
        }
    )
    return f" Grid {', '.join(grids)} waited for some of them and will lack them." if grids else ""


def one(store: Store, name: str, handle: str) -> str:
    """Cancel the job of a stage; a sentence that says which other stages it had. ConfigError if it has none."""
    stage = stage_at(read_grid(store, name), handle)
    view = look(store, name)
    held = view.held.get(stage.key)
    if held is None:
        raise ConfigError(_no_job(next(row for row in view.status.rows if row.stage.key == stage.key), name))
    cluster.cancel([held.job], name=held.filed.submission.arrays[held.place[0]].name)
    deadline = time.monotonic() + ENDING_SECONDS
    while _lives(held) and time.monotonic() < deadline:
        time.sleep(0.5)
    survey(store)  # notes down that it was cancelled
    others = [job.sheet.label for job in held.filed.submission.jobs(held.filed.submission.task(held.place))
              if job.key != stage.key and job.key in view.held]  # fmt: skip
    more = f" It also had {', '.join(others[:5])}{' ...' if len(others) > 5 else ''}." if others else ""
    return f"{stage.label}: job {held.job} cancelled.{more} The same command as before submits it again."


def _no_job(row: Row, name: str) -> str:
    here = row.claim is not None and not row.claim.by.slurm
    hint = f" It runs on {row.claim.by.host} as pid {row.claim.by.pid}: end that." if here and row.claim else ""
    return (f"{row.stage.label} has no job on the cluster: it is {row.state}.{hint} "
            f"`xling status {name}` shows which have.")  # fmt: skip


def _lives(held: Held) -> bool:
    found = cluster.states([held.filed.refs[held.place[0]]], {held.job})
    return found is None or found[held.job].alive


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
