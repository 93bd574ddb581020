"""Launchers: ways to run a plan, chosen by hydra/launcher=NAME. `LAUNCHERS` is the table, one module each.

How any of them runs one stage is in execute.py.

conf/hydra/launcher/NAME.yaml holds its settings, with `_target_: hydra_plugins.xling_launcher.GridLauncher` and
`name: NAME`. An installed package adds one by an entry point of the group `xling.launcher` (xling/options.py) and the
YAML in a folder on Hydra's search path.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from xling.options import Options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xling.grid.cleanup import Garbage
    from xling.grid.plan import Plan
    from xling.grid.records import PlannedStage, Run
    from xling.grid.stage import Kind
    from xling.grid.store import Store

HERE = "hydra.launcher"


@dataclass(frozen=True)
class Work:
    """Names of the code that workers and jobs load, as text, since they are other processes."""

    kinds: str  # module:name of the dict of kinds of stages
    fold: str  # module:name of the function (store, grid's name, tracking) that shows a matrix
    tracking: Mapping[str, Any]  # the settings of conf/config.yaml, for `fold`


@dataclass(frozen=True)
class Ended:
    """How far it is when `run` returns. If `whole`, nothing of it runs any more: the launch folds the matrix.

    wait: else, what shows how it goes on until it is whole, and gives the exit code; the matrix is shown afterwards.
    """

    exit_code: int
    whole: bool
    failures: bool = False  # some stage has failed: what is damaged is then made again without trying that again
    wait: Callable[[], int] | None = None


@dataclass(frozen=True)
class GpuTime:
    """GPU seconds of jobs, or of workers; what is held and not used is idle."""

    jobs: int = 0
    asked: float = 0.0  # by their time limits
    held: float = 0.0
    used: float = 0.0

    def __add__(self, other: "GpuTime") -> "GpuTime":
        return GpuTime(self.jobs + other.jobs, self.asked + other.asked, self.held + other.held, self.used + other.used)


class Launcher(Protocol):
    """The hooks of a launcher's module. Stages run through runners/execute.py, whoever starts the processes."""

    Settings: type[Struct]  # tagged with the launcher's name; has claim_timeout_s, seconds

    def read(self, values: Mapping[str, Any], kinds: Mapping[str, "Kind"]) -> Any:
        """Settings from those of its YAML; ConfigError names the first that does not fit."""

    def workers(self, plan: "Plan", settings: Any) -> tuple[int, str]:
        """How many stages run at once at most, for the time that a dry run states, and how that is said.

        An empty text: the number alone, in dry runs alone. 0: `preview` says how long it takes.
        """

    # A module may also have `gpus(settings, kind) -> Gpus`: the GPUs of a kind of stage, for the memory plan;
    # `speed(settings) -> Speed | None`: that of the device of a stage, for the hours of a dry run;
    # `elsewhere(settings) -> bool`: whether stages run by another Python than the one that plans;
    # `doubts(plan, settings) -> list[str]`: warnings for the plan; `preview(plan, settings, work) -> Iterator` of what
    # a dry run shows besides the plan; and `jobs() -> Jobs`, if its work goes on after `run` has returned.

    def check(self, plan: "Plan", settings: Any) -> Any:
        """ConfigError for what cannot be granted, before the plan of a grid of that name is replaced.

        What has been learned on the way is handed to `run`.
        """

    def run(self, plan: "Plan", settings: Any, work: Work, checked: Any) -> Ended:
        """Run the plan's stages or see to it that they are. Holes that failed stages leave are no error."""

    def others(self, store: "Store", grid: str, cells: str) -> bool:
        """Whether jobs are queued or running under a grid's name for another set of cells (launches.digest_of).

        False for a launcher whose work ends with its process: the claims of its workers are seen by everybody.
        """


class Jobs(Protocol):
    """What `xling status`, `logs`, `cancel` and `gc` ask of a launcher whose work outlives its process."""

    def submitted(self, store: "Store", grid: str | None = None) -> bool:
        """Whether jobs of a grid (of any) are out, as far as its records say."""

    def busy(self, store: "Store") -> Set[str]:
        """Keys of the stages that jobs are at, or are going to run."""

    def garbage(self, store: "Store") -> "Iterable[Garbage]":
        """What jobs have left in the root that none needs any more, for `xling gc`."""

    def status(self, store: "Store", grid: str, every: bool) -> "RenderableType":
        """How a grid stands, whoever runs it; `every`: with a line for each stage."""

    def watch(self, store: "Store", grid: str, seconds: float = 5.0, every: bool = False) -> int:
        """The same until nothing of it runs or is queued. 0: all cells are done and folded."""

    def cost(self, store: "Store", grid: str) -> Mapping[str, GpuTime]:
        """What a grid's jobs have had of GPUs, by kind of stage; kinds that had none are left out."""

    def logs(self, store: "Store", grid: str, stage: "PlannedStage") -> list[Path]:
        """Of a stage's job itself, for one that died before the stage began."""

    def follow(self, store: "Store", grid: str, stage: "PlannedStage", path: Path) -> int:
        """Print a stage's log as it grows until the stage has ended. 0 if it is done."""

    def cancel(self, store: "Store", grid: str, what: str) -> str:
        """Cancel the job of a stage, by its handle, or `all` of a grid; a sentence. XlingError if that is refused."""


def all_jobs() -> list[Jobs]:
    """Of every launcher whose work outlives its process."""
    return [module.jobs() for module in LAUNCHERS.usable().values() if hasattr(module, "jobs")]


def jobs(store: "Store", grid: str | None = None) -> Jobs:
    """Those of the launcher that has submitted a grid (any); else the house's, which see what runs here as well."""
    offered = all_jobs()
    found: Jobs = next((one for one in offered if one.submitted(store, grid)), offered[-1])
    return found


def gpu_time(store: "Store", grid: str, runs: "Iterable[tuple[str, Run]]") -> dict[str, GpuTime]:
    """What a grid has had of GPUs, by kind: of a cluster's, and of those of machines where stages computed without one.

    runs: of its finished stages, with their kinds.
    """
    spent = dict(jobs(store, grid).cost(store, grid))
    for kind, run in runs:
        if not run.by.slurm and run.device != "cpu":
            seconds = run.seconds * run.processes
            spent[kind] = spent.get(kind, GpuTime()) + GpuTime(0, 0.0, seconds, seconds)
    return spent


LAUNCHERS: Options[Launcher] = Options(
    "launcher",
    {"local": "xling.runners.local", "slurm": "xling.runners.slurm"},
    hooks={
        "read": "settings from those of its YAML",
        "workers": "how many stages run at once",
        "check": "what it refuses of a plan",
        "run": "running a plan",
        "others": "whether jobs of other cells are out under a grid's name",
    },
    setting="hydra.launcher.name",
)
