"""What `hydra/launcher=slurm` can be told: resources by the submitit launcher plugin's names, and how jobs behave.

hydra.launcher.partition=gpu hydra.launcher.timeout_min=240        # for all stages
hydra.launcher.stages.reward.gpus_per_node=8                       # for one kind of stage
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from xling.errors import ConfigError, did_you_mean
from xling.grid.stage import Kind

HERE = "hydra.launcher"
REDUCE = "reduce"  # the job that folds what is complete: resources as for a kind of stage

Count = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]


T = TypeVar("T", bound=Struct)


class Resources(Struct, frozen=True):
    """What one job asks of SLURM; None leaves it to the cluster."""

    partition: str | None = None
    timeout_min: Count = 60
    mem_gb: Amount | None = None  # a node
    gpus_per_node: Whole | None = None
    cpus_per_task: Count | None = 1
    nodes: Count = 1
    tasks_per_node: Count = 1
    array_parallelism: Count = 256  # jobs of one array that run at once
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    cpus_per_gpu: Count | None = None
    gpus_per_task: Count | None = None
    comment: str | None = None
    signal_delay_s: Count = 90  # warning before the time limit: so long has a stage to leave a checkpoint
    max_num_timeout: Whole = 5  # time limits after which a stage goes on; the next one is a failure
    additional_parameters: dict[str, Any] = {}  # any other option of sbatch: {"mail-type": "FAIL"}
    setup: tuple[str, ...] = ()  # shell lines before Python starts

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node


class Slurm(Struct, frozen=True):
    """Resources for all stages, those of kinds that differ, and how jobs are made and waited for."""

    common: Resources = Resources()
    stages: dict[str, Resources] = {}  # by kind, whole: what is not overridden is as in `common`
    pack_minutes: NotNegative = 0.1  # predicted stages shorter than this share a job; 0: each has its own
    late_seconds: NotNegative = 60.0  # so long may a shared folder take to show a finished file
    poll_seconds: Amount = 5.0  # between two looks at the cluster, in `xling status --watch` and wait=true
    claim_timeout_s: Annotated[float, Meta(ge=1.0, le=1e6)] = (
        180.0  # without a heartbeat, after which a runner counts as dead
    )
    wait: bool = False
    threads: Count = 1  # torch threads a process

    def of(self, kind: str) -> Resources:
        return self.stages.get(kind, self.common)


RESOURCES = Resources.__struct_fields__
OWN = tuple(name for name in Slurm.__struct_fields__ if name != "common")


def settings_from(values: Mapping[str, Any], stages: Mapping[str, Kind]) -> Slurm:
    """Check plain values as they stand in conf/hydra/launcher/slurm.yaml; ConfigError names the first bad one.

    `stages`: the catalogue, so that an override for another stage is refused. Stages that cannot run in several
    processes have one, unless just that is asked for, which is refused.
    """
    settings = _read(values, [*stages, REDUCE])
    single = {}
    for kind in [*stages, REDUCE]:
        wanted = settings.of(kind)
        if wanted.processes > 1 and not (kind in stages and stages[kind].parallel):
            if kind in settings.stages and wanted.processes != settings.common.processes:
                able = ", ".join(name for name, one in stages.items() if one.parallel)
                raise ConfigError(
                    f"{HERE}.stages.{kind}: {wanted.nodes} nodes with {wanted.tasks_per_node} processes each, "
                    f"but '{kind}' runs in one process. Several processes can be given to: {able}."
                )
            single[kind] = msgspec.structs.replace(wanted, nodes=1, tasks_per_node=1)
    return msgspec.structs.replace(settings, stages={**settings.stages, **single})


def _read(values: Mapping[str, Any], kinds: Sequence[str]) -> Slurm:
    _known(values, (*RESOURCES, *OWN), HERE)
    shared = {name: value for name, value in values.items() if name in RESOURCES}
    own = {name: value for name, value in values.items() if name in OWN and name != "stages"}
    common = _converted(Resources, shared, HERE)
    stages = _mapping(values.get("stages"), f"{HERE}.stages")
    for kind in stages:
        if kind not in kinds:
            allowed = ", ".join(kinds)
            raise ConfigError(
                f"{HERE}.stages.{kind}: there is no stage '{kind}'. Stages: {allowed}.{did_you_mean(kind, kinds)}"
            )
    special = {kind: _special(common, kind, given) for kind, given in stages.items()}
    rest = _converted(Slurm, own, HERE)
    return msgspec.structs.replace(rest, common=common, stages=special)


def _special(common: Resources, kind: str, given: Any) -> Resources:
    path = f"{HERE}.stages.{kind}"
    given = _mapping(given, path)
    _known(given, RESOURCES, path)
    more = {**common.additional_parameters, **_mapping(given.get("additional_parameters"), path)}
    values = {**msgspec.to_builtins(common), **given, "additional_parameters": more}
    return _converted(Resources, values, path)


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if value is None or isinstance(value, Mapping):
        return {str(key): entry for key, entry in (value or {}).items()}
    raise ConfigError(f"{path}={value} does not fit: expected settings by name, as in {path}.timeout_min=120.")


def _known(values: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    known = list(known)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"Unknown key '{path}.{name}'.{did_you_mean(name, known)} Known below {path}: {', '.join(known)}."
            )


def _converted(type_: type[T], values: Mapping[str, Any], path: str) -> T:
    """One value after the other, so that the message can name it."""
    fields = {field.name: field for field in msgspec.structs.fields(type_)}
    found = {}
    for name, value in values.items():
        if name in ("setup", "additional_parameters") and value is None:
            continue
        try:
            found[name] = msgspec.convert(value, fields[name].type, str_keys=True)
        except msgspec.ValidationError as error:
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            what = str(error).partition(" - at ")[0].replace("`", "").replace("Expected ", "expected ", 1)
            raise ConfigError(f"{path}.{name}={shown} does not fit: {what}. {_example(path, name)}") from error
    return type_(**found)


EXAMPLES = {"partition": "gpu", "setup": "'[module load cuda]'", "exclude": "node17", "qos": "normal", "wait": "true",
            "additional_parameters": "'{mail-type: FAIL}'", "pack_minutes": "5", "timeout_min": "240"}  # fmt: skip


def _example(path: str, name: str) -> str:
    return f"Type {path}.{name}={EXAMPLES.get(name, '1')}."
