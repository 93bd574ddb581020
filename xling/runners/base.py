"""A launcher: a way to run a plan, chosen by hydra/launcher=NAME. `LAUNCHERS` is the table, one module each.

conf/hydra/launcher/NAME.yaml holds its settings, with `_target_: hydra_plugins.xling_launcher.GridLauncher` and
`name: NAME`. An installed package adds one by an entry point of the group `xling.launcher` (xling/options.py) and the
YAML in a folder on Hydra's search path.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, did_you_mean
from xling.grid.plan import Plan
from xling.grid.stage import Kind
from xling.grid.store import Store
from xling.options import Options

HERE = "hydra.launcher"
T = TypeVar("T", bound=Struct)


@dataclass(frozen=True)
class Work:
    """Instructions to workers and jobs beside the plan, as text, since they are other processes."""

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


class Launcher(Protocol):
    """The hooks of a launcher's module. Stages run through runners/execute.py, whoever starts the processes."""

    Settings: type[Struct]  # tagged with the launcher's name; has claim_timeout_s, seconds

    def read(self, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Any:
        """Settings from those of its YAML; ConfigError names the first that does not fit."""

    def workers(self, settings: Any) -> int:
        """How many stages run at once at most: a dry run says how long the grid takes."""

    def check(self, plan: Plan, settings: Any) -> Any:
        """ConfigError for what cannot be granted, before the plan of a grid of that name is replaced.

        What has been learned on the way is handed to `run`.
        """

    def run(self, plan: Plan, settings: Any, work: Work, checked: Any) -> Ended:
        """Run the plan's stages or see to it that they are. Holes that failed stages leave are no error."""

    def others(self, store: Store, grid: str, cells: str) -> bool:
        """Whether jobs are queued or running under a grid's name for another set of cells (claim.digest_of).

        False for a launcher whose work ends with its process: the claims of its workers are seen by everybody.
        """


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


# --- reading settings -------------------------------------------------------------------------------------


def check_names(values: Iterable[str], known: Iterable[str], path: str) -> None:
    """ConfigError for a setting that there is not."""
    known = list(known)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"Unknown key '{path}.{name}'.{did_you_mean(name, known)} Known below {path}: {', '.join(known)}."
            )


def converted(type_: type[T], values: Mapping[str, Any], path: str, examples: Mapping[str, str]) -> T:
    """Settings of a type, one value after the other, so that the message can name the one that does not fit.

    examples: what to type for a setting, where that is not 1.
    """
    fields = {field.name: field for field in msgspec.structs.fields(type_)}
    found = {}
    for name, value in values.items():
        try:
            found[name] = msgspec.convert(value, fields[name].type, str_keys=True)
        except msgspec.ValidationError as error:
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            what = str(error).partition(" - at ")[0].replace("`", "").replace("Expected ", "expected ", 1)
            example = f"Type {path}.{name}={examples.get(name, '1')}."
            raise ConfigError(f"{path}.{name}={shown} does not fit: {what}. {example}") from error
    return type_(**found)
