"""Running a plan as jobs of a SLURM cluster: hooks of hydra/launcher=slurm (xling/runners/__init__.py); docs/slurm.md.

settings.py: what can be asked for; limits.py: what a cluster allows; dispatch.py: stages to jobs; submit.py, script.py,
task.py, step.py: from the shell to the processes of a job; pilot.py: a job that takes stages as they become ready;
dryrun.py: what a dry run shows of jobs; record.py: what has been submitted and what became of it; cluster.py: SLURM's
commands; watch.py: `xling status`, `logs` and `cancel`.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xling.errors import while_running
from xling.grid.estimate import Speed, of_processor, speed_of
from xling.grid.stage import Gpus
from xling.runners import HERE, Ended, Jobs, Work
from xling.runners.slurm.settings import Slurm as Settings
from xling.runners.slurm.settings import asks_for_gpus, gpus_as_asked, read

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xling.grid.plan import Plan
    from xling.grid.store import Store
    from xling.runners.slurm.limits import Limits

__all__ = ["Settings", "check", "doubts", "gpus", "jobs", "others", "preview", "read", "run", "speed", "workers"]


def workers(plan: "Plan", settings: Settings) -> tuple[int, str]:
    """A dry run has it from `preview`: it is jobs that run at once, and stages may share one."""
    return 0, ""


def doubts(plan: "Plan", settings: Settings) -> list[str]:
    """A sentence for each kind of stage whose jobs ask for what they do not use, or for less time than they take."""
    from xling.runners.slurm.dryrun import doubts as found

    return found(plan, settings) if _has_work(plan) else []


def preview(plan: "Plan", settings: Settings, work: Work) -> "Iterator[RenderableType]":
    """What a dry run shows of the jobs. ConfigError, at its end, for what submitting would refuse."""
    from xling.runners.slurm.dryrun import preview as shown

    return shown(plan, settings, work) if _has_work(plan) else iter(())


def gpus(settings: Settings, kind: str) -> Gpus:
    """One a process."""
    asked = settings.of(kind)
    where = f"{HERE}.stages.{kind}" if kind in settings.stages else HERE
    stated = "" if asked.gpu_mem_gb is None else f"{where}.gpu_mem_gb={asked.gpu_mem_gb:g}"
    typed = tuple(word for word in ("tasks_per_node={}", gpus_as_asked(asked)) if word)
    return Gpus(asked.processes, asked.gpu_mem_gb, stated, settings=typed)


def speed(settings: Settings) -> Speed | None:
    """Of the GPU that is asked for, where its type is named; without a GPU of the threads of a task."""
    asked = settings.common
    if not asks_for_gpus(asked):
        return of_processor(asked.cpus_per_task or 1)
    words = [asked.gres, asked.constraint, *asked.additional_parameters.values(), asked.partition]
    return next((found for word in words if word and (found := speed_of(str(word)))), None)


def elsewhere(settings: Settings) -> bool:
    """Whether a job's Python is another than the one that submits: that of a container, say."""
    return settings.python is not None


def check(plan: "Plan", settings: Settings) -> "Limits | None":
    """ConfigError if there is no cluster, or it can never grant what is asked; its limits, if there is work for it."""
    from xling.runners.slurm.submit import check as check_requests

    return check_requests(plan, settings) if _has_work(plan) else None


def _has_work(plan: "Plan") -> bool:
    return bool(plan.to_run) and plan.mode != "read-only"


def run(plan: "Plan", settings: Settings, work: Work, checked: "Limits | None") -> Ended:
    """Submit what nobody runs yet. The last job folds the matrix; where all is done already, the launch does."""
    if not _has_work(plan):
        plan.write()
        return Ended(int(any(step.state != "cached" for step in plan.steps.values())), whole=True)
    from xling.runners.slurm.submit import submit
    from xling.runners.slurm.watch import watch

    with while_running():
        made = submit(plan, settings, work, checked)
    if made.done:
        return Ended(0, whole=True)
    print(f"xling: {made.sentence(plan.name)}", file=sys.stderr)
    wait = (lambda: watch(plan.store, plan.name, settings.poll_seconds, folds=True)) if settings.wait else None
    return Ended(0, whole=False, wait=wait)


def others(store: "Store", grid: str, cells: str) -> bool:
    """Whether jobs of another set of cells are queued or running; of old submissions it is not known whose they are."""
    if not (store.grid_folder(grid) / "slurm").is_dir():
        return False
    from xling.runners.slurm.holdings import survey
    from xling.runners.slurm.record import submissions

    own, begun = ("", cells), submissions(store, grid, "submitting", "released")
    if all(filed.head.cells in own for filed in begun):
        return False
    return any(filed.head.cells not in own for filed in survey(store, grid).open)


def jobs() -> Jobs:
    """What looks after jobs of a cluster."""
    from xling.runners.slurm import watch

    return watch
