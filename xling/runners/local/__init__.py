"""Running a plan on this machine, in worker processes: the hooks of hydra/launcher=local (xling/runners/__init__.py).

crew.py: how many workers, and which GPU each has; runner.py: the loop, and what people see of it; schedule.py: which
stage next, and how each ended; worker.py: both ends of a worker process.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from xling.config.common import Positive, check_names, converted
from xling.errors import ConfigError
from xling.grid.estimate import Speed, of_processor, speed_of
from xling.grid.stage import Gpus
from xling.runners import HERE, Ended, Work

if TYPE_CHECKING:
    from xling.grid.plan import Plan
    from xling.grid.stage import Kind
    from xling.grid.store import Store
    from xling.runners.local.crew import Seat

MOST = 4096  # workers of a machine, and GPUs: a slip of the keyboard must not take all its memory


class Share(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one kind of stage."""

    tasks_per_node: Annotated[int, Meta(ge=1, le=MOST)] = 1  # processes, one a GPU


class Settings(Struct, frozen=True, tag_field="name", tag="local"):
    """Those of conf/hydra/launcher/local.yaml."""

    workers: Annotated[int, Meta(ge=1, le=MOST)] | None = None  # None: as many as GPUs, cores, memory allow
    gpus: Annotated[int, Meta(ge=0, le=MOST)] | None = None  # that they have, one each; None: all that are visible
    threads: Positive = 1  # of the numeric libraries in each
    claim_timeout_s: Annotated[float, Meta(ge=1.0, le=1e6)] = 180.0
    stages: dict[str, Share] = {}  # by kind

    @property
    def processes(self) -> dict[str, int]:
        """By kind, where it is not one."""
        return {kind: own.tasks_per_node for kind, own in self.stages.items() if own.tasks_per_node > 1}


def read(values: Mapping[str, Any], kinds: Mapping[str, "Kind"]) -> Settings:
    """Settings from those of the YAML; ConfigError names the first that does not fit."""
    check_names(values, Settings.__struct_fields__, HERE)
    stages = values.get("stages") or {}
    if not isinstance(stages, Mapping):
        raise ConfigError(f"{HERE}.stages={stages} does not fit. Type {HERE}.stages.align.tasks_per_node=2.")
    check_names(stages, list(kinds), f"{HERE}.stages")
    shares = dict[str, Share]()
    for kind, own in stages.items():
        here = f"{HERE}.stages.{kind}"
        if not isinstance(own, Mapping):
            raise ConfigError(f"{here}={own} does not fit. Type {here}.tasks_per_node=2.")
        check_names(own, Share.__struct_fields__, here)
        if not kinds[kind].parallel:
            able = ", ".join(name for name, one in kinds.items() if one.parallel)
            raise ConfigError(f"{here}: stages '{kind}' run in one process. Several can be given to: {able}.")
        shares[kind] = converted(Share, own, here, {"tasks_per_node": "2"})
    values = {**values, "stages": shares}
    return converted(Settings, values, HERE, {"workers": "2", "gpus": "2", "claim_timeout_s": "180"})


def workers(plan: "Plan", settings: Settings) -> tuple[int, str]:
    """How many stages that compute run at once, and why so many."""
    from xling.runners.local.crew import crew

    seats, said = crew(plan, settings.workers, settings.threads, settings.gpus)
    return sum(seat.heavy for seat in seats), said


def check(plan: "Plan", settings: Settings) -> "list[Seat]":
    """The workers; ConfigError for GPUs that are not there."""
    from xling.runners.local.crew import crew

    seats = crew(plan, settings.workers, settings.threads, settings.gpus)[0]
    with_gpus = [seat.gpu for seat in seats if seat.heavy and seat.gpu]
    asked = {stage.kind for stage in plan.to_run} & settings.processes.keys()
    for kind in sorted(asked):
        if with_gpus and settings.processes[kind] > len(with_gpus):
            raise ConfigError(
                f"{HERE}.stages.{kind}.tasks_per_node={settings.processes[kind]}: a process has a GPU of its own, and "
                f"{len(with_gpus)} are used here ({', '.join(with_gpus)}). Type {HERE}.stages.{kind}.tasks_per_node="
                f"{len(with_gpus)} or less."
            )
    return seats


def gpus(settings: Settings, kind: str) -> Gpus:
    """One a process, the smallest of those that its workers have; if there is none, no memory is known."""
    from xling.runners.local.crew import chosen, gib_of, visible

    found = tuple(chosen(settings.gpus, list(visible())))
    count, own = settings.processes.get(kind, 1), ("tasks_per_node={}",)
    return Gpus(count, gib_of(found), most=max(1, len(found)), settings=own)


def speed(settings: Settings) -> Speed | None:
    """A worker's: of its GPU, as far as the table knows it, else of its threads."""
    from xling.runners.local.crew import chosen, name_of, visible

    found = chosen(settings.gpus, list(visible()))
    return speed_of(name_of(tuple(found))) if found else of_processor(settings.threads)


def run(plan: "Plan", settings: Settings, work: Work, checked: "list[Seat]") -> Ended:
    """Run everything, and say what became of it."""
    from xling.runners.local.runner import run_local

    its = settings.claim_timeout_s, settings.processes
    outcome = run_local(plan, work.kinds, checked, settings.threads, True, *its)
    if outcome.interrupted:
        print(f"xling: stopped. The same command goes on; `xling reduce {plan.name}` folds what is there.")
    return Ended(outcome.exit_code, whole=not outcome.interrupted, failures=bool(outcome.failures))


def others(store: "Store", grid: str, cells: str) -> bool:
    """No job is out there when this process has ended."""
    return False
