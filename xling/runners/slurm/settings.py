"""Settings of `hydra/launcher=slurm`: resources by the submitit launcher plugin's names, and how jobs behave.

hydra.launcher.partition=gpu hydra.launcher.timeout_min=240        # for all stages
hydra.launcher.stages.align.timeout_min=600                        # for one kind of stage
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from xling.config.common import NonNegative, Positive, PositiveFloat, check_names, converted
from xling.errors import ConfigError, did_you_mean
from xling.grid.stage import RESERVED, Kind, Memory, fits
from xling.runners import HERE

REDUCE = "reduce"  # the job that folds what is complete: resources as for a kind of stage

T = TypeVar("T", bound=Struct)


class Resources(Struct, frozen=True, omit_defaults=True):
    """Resources that one job requests; None leaves one to the cluster."""

    partition: str | None = None
    timeout_min: Positive = 60
    mem_gb: PositiveFloat | None = None  # a node
    gpus_per_node: NonNegative | None = None
    gpu_mem_gb: PositiveFloat | None = None  # of one of those GPUs; asked of nobody: what takes more is refused
    cpus_per_task: Positive | None = 1
    nodes: Positive = 1
    tasks_per_node: Positive = 1
    array_parallelism: Positive = 256  # jobs of one array that run at once
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    cpus_per_gpu: Positive | None = None
    gpus_per_task: Positive | None = None
    comment: str | None = None
    signal_delay_s: Positive = 90  # warning before the time limit: so long has a stage to leave a checkpoint
    max_num_timeout: NonNegative = 5  # time limits after which a stage goes on; the next one is a failure
    additional_parameters: dict[str, Any] = {}  # any other option of sbatch: {"mail-type": "FAIL"}
    setup: tuple[str, ...] = ()  # shell lines before Python starts

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node


class Slurm(Struct, frozen=True, tag_field="name", tag="slurm"):
    """Resources for all stages, those of kinds that differ, and how jobs are made and waited for."""

    common: Resources = Resources()
    stages: dict[str, Resources] = {}  # by kind, whole: what is not overridden is as in `common`
    cpu: Resources | None = None  # of what computes on no GPU, the reducer too: without any. None: as all others
    light: dict[str, Resources] = {}  # of those, by kind
    pack_minutes: Annotated[float, Meta(ge=0.0)] = (
        0.1  # predicted stages shorter than this share a job; 0: each has its own
    )
    pilots: Positive | None = None  # jobs that take stages as they become ready; None: a job for each
    pilot_stages: Positive | None = None  # at once in each; None: one a GPU, else as cores and memory allow
    max_submit: Annotated[int, Meta(ge=2)] | None = None  # jobs in the queue; None: what QOS, account and cluster allow
    max_running: Positive | None = None  # jobs of the grid that run at once, whatever array they are in
    late_seconds: Annotated[float, Meta(ge=0.0)] = 60.0  # so long may a shared folder take to show a finished file
    poll_seconds: PositiveFloat = 5.0  # between two looks at the cluster, in `xling status --watch` and wait=true
    claim_timeout_s: Annotated[float, Meta(ge=1.0, le=1e6)] = (
        180.0  # without a heartbeat, after which a runner counts as dead
    )
    python: str | None = None  # shell words that start Python in a job, as in a container; None: the one that submits
    snapshot: bool = True  # jobs run a copy of the code as it was when they were submitted
    wait: bool = False
    threads: Positive = 1  # torch threads a process

    def of(self, kind: str, gpu: bool = True) -> Resources:
        """gpu: whether it is for stages of the kind that compute on one (Kind.gpu)."""
        own = self.stages.get(kind, self.common)
        return own if self.cpu is None or (gpu and kind != REDUCE) else self.light.get(kind, self.cpu)

    def where(self, kind: str, gpu: bool = True) -> str:
        """The path of the settings of `of`, where they are typed."""
        if kind in self.stages:
            return f"{HERE}.stages.{kind}"
        return HERE if gpu or self.cpu in (None, self.common) else f"{HERE}.cpu"

    def side_by_side(self, asked: Resources) -> int:
        """Stages that a pilot with these resources runs at once, as far as the settings say."""
        return self.pilot_stages or gpus_of(asked) or max(1, (asked.cpus_per_task or 1) // self.threads)


RESOURCES = Resources.__struct_fields__
OWN = tuple(name for name in Slurm.__struct_fields__ if name not in ("common", "light"))


def read(values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Slurm:
    """Check plain values as they stand in conf/hydra/launcher/slurm.yaml; ConfigError names the first bad one.

    kinds: the catalogue's, so that an override for another stage is refused. Stages that cannot run in several
    processes have one, unless just that is asked for, which is refused.
    """
    settings = _read(values, [*kinds, REDUCE])
    _check_pilots(settings)
    single: dict[str, Resources] = {}
    light: dict[str, Resources] = {}
    for kind in [*kinds, REDUCE]:
        able = kind in kinds and kinds[kind].parallel
        for gpu, found in ((True, single), (False, light)):
            wanted = settings.of(kind, gpu)
            if wanted.processes == 1 or able:
                continue
            if kind in settings.stages and wanted.processes != settings.common.processes:
                names = ", ".join(name for name, one in kinds.items() if one.parallel)
                raise ConfigError(
                    f"{HERE}.stages.{kind}: {wanted.nodes} nodes with {wanted.tasks_per_node} processes each, "
                    f"but '{kind}' runs in one process. Several processes can be given to: {names}."
                )
            found[kind] = msgspec.structs.replace(wanted, nodes=1, tasks_per_node=1)
    given = msgspec.structs.replace(settings, stages={**settings.stages, **single}, light={**settings.light, **light})
    several = [kind for kind in kinds if given.of(kind).processes > 1]
    if several and settings.python is not None and words_of(settings.python)[0] == "srun":
        raise ConfigError(
            f"{HERE}.python={settings.python}: srun starts Python as a step that has all of the job's memory, so that "
            f"SLURM has none for the steps of {', '.join(several)}, which are to have several processes "
            f"(tasks_per_node, nodes). Give them one, or leave out python or start it by another program than srun."
        )
    return given


def _read(values: Mapping[str, Any], kinds: Sequence[str]) -> Slurm:
    check_names(values, (*RESOURCES, *OWN), HERE)
    shared = {name: value for name, value in values.items() if name in RESOURCES}
    own = {name: value for name, value in values.items() if name in OWN and name not in ("stages", "cpu")}
    common = _asked(_read_values(Resources, shared, HERE), HERE)
    by_gpu = memory_of(common) / 1024 if common.mem_per_gpu and not common.mem_gb else 0.0  # 0: of no GPU
    memory = {"mem_gb": by_gpu} if by_gpu else {}
    bare = msgspec.convert({**_without_gpus(msgspec.to_builtins(common)), **memory}, Resources)
    cpu = _special(bare, values.get("cpu"), f"{HERE}.cpu")
    stages = _mapping(values.get("stages"), f"{HERE}.stages")
    for kind in stages:
        if kind not in kinds:
            allowed = ", ".join(kinds)
            raise ConfigError(
                f"{HERE}.stages.{kind}: there is no stage '{kind}'. Stages: {allowed}.{did_you_mean(kind, kinds)}"
            )
    special = {kind: _special(common, given, f"{HERE}.stages.{kind}") for kind, given in stages.items()}
    light = {
        kind: _special(cpu, _without_gpus(_mapping(given, "")), f"{HERE}.stages.{kind}")
        for kind, given in stages.items()
    }
    rest = _read_values(Slurm, own, HERE)
    if rest.python is not None:
        words_of(rest.python)
    return msgspec.structs.replace(rest, common=common, stages=special, cpu=cpu, light=light)


def _check_pilots(settings: Slurm) -> None:
    """ConfigError for settings of pilots that contradict each other, or that those of kinds of stages contradict."""
    asked, pilots = settings.common, f"{HERE}.pilots={settings.pilots}"
    if settings.pilots is None:
        if settings.pilot_stages is not None:
            raise ConfigError(f"{HERE}.pilot_stages={settings.pilot_stages}: of which pilots? Type {HERE}.pilots=N.")
        return
    if asked.processes > 1:
        raise ConfigError(
            f"{pilots}: a pilot has one node, and runs each stage in one process, but nodes={asked.nodes} and "
            f"tasks_per_node={asked.tasks_per_node} are asked for. Leave them out, or {HERE}.pilots."
        )
    if settings.max_running is not None and settings.max_running < settings.pilots:
        raise ConfigError(
            f"{pilots}: {HERE}.max_running={settings.max_running} allows no more jobs at once. "
            f"Type {HERE}.pilots={settings.max_running}."
        )
    for kind, special in settings.stages.items():
        other = [name for name in RESOURCES if getattr(special, name) != getattr(asked, name)]
        if other and kind != REDUCE:
            raise ConfigError(
                f"{HERE}.stages.{kind}.{other[0]}={getattr(special, other[0])}: with {pilots} all stages run in the "
                f"same jobs, and none but '{REDUCE}' has resources of its own. Type {HERE}.{other[0]}=... for all, or "
                f"leave out {HERE}.pilots."
            )
    gpus = gpus_of(asked)
    if settings.pilot_stages is not None and settings.pilot_stages < gpus:
        raise ConfigError(
            f"{HERE}.pilot_stages={settings.pilot_stages}: a pilot has {gpus} GPUs and runs one stage on each, so that "
            f"some would stand idle. Type {HERE}.pilot_stages={gpus}, or ask for fewer GPUs."
        )


def check_shared_gpus(settings: Slurm, needs: Mapping[str, tuple[str, Memory]]) -> None:
    """ConfigError if stages that run side by side on a GPU of known size do not fit; needs: plan.needs_of."""
    gpus, size = gpus_of(settings.common), settings.common.gpu_mem_gb
    if not gpus or size is None or settings.pilot_stages is None:
        return
    label, memory = max(needs.values(), key=lambda one: one[1].gib, default=("", None))
    side = -(-settings.pilot_stages // gpus)
    if memory is not None and side > 1 and not _fit(side, memory.gib, size):
        most = next((number for number in range(side, 1, -1) if _fit(number, memory.gib, size)), 1)
        raise ConfigError(
            f"{HERE}.pilot_stages={settings.pilot_stages}: that is {side} stages on a GPU of {size:g} GB, and {label} "
            f"takes up to {memory.gib:,.0f}. Type {HERE}.pilot_stages={most * gpus}, or give stages less "
            "(policy.sampling_memory=GB)."
        )


def _fit(stages: int, gib: float, gpu: float) -> bool:
    return fits(stages * gib + (stages - 1) * RESERVED, gpu)


def _without_gpus(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for by name, but for GPUs and what goes by their number."""
    left = {name: value for name, value in values.items() if name not in GPUS}
    if left.get("gres"):
        words = str(left["gres"]).split(",")
        left["gres"] = ",".join(word for word in words if not re.match(r"(gres[/:])?gpu\b", word)) or None
    if isinstance(more := left.get("additional_parameters"), Mapping):
        left["additional_parameters"] = {name: value for name, value in more.items() if not _is_of_gpus(name, value)}
    return left


def _is_of_gpus(option: str, value: Any) -> bool:
    word = option.replace("_", "-").strip("-")
    return word.startswith("gpu") or (word.startswith("tres-per") and "gpu" in str(value))


def _special(common: Resources, given: Any, path: str) -> Resources:
    given = _mapping(given, path)
    check_names(given, RESOURCES, path)
    more = {**common.additional_parameters, **_mapping(given.get("additional_parameters"), path)}
    values = {**msgspec.to_builtins(common), **given, "additional_parameters": more}
    return _asked(_read_values(Resources, values, path), path)


def words_of(command: str) -> list[str]:
    """A command that starts Python, as words; ConfigError unless it is one."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{HERE}.python={command} cannot be read: {error}. {EXAMPLE}") from error
    if not words:
        raise ConfigError(f"{HERE}.python= names no program. {EXAMPLE}")
    return words


EXAMPLE = f"Type \"{HERE}.python='apptainer exec --nv IMAGE.sif python'\", or leave it out."


def _asked(asked: Resources, path: str) -> Resources:
    """ConfigError for what could not work on any cluster."""
    for option in asked.additional_parameters:
        word = option.replace("_", "-").strip("-")
        if word in TYPED:
            raise ConfigError(f"{path}.additional_parameters.{option}: that is a setting of its own. "
                              f"Type {path}.{TYPED[word]}=...")  # fmt: skip
        if word in DECIDED:
            raise ConfigError(f"{path}.additional_parameters.{option}: jobs are told apart, put into order and "
                              f"read by what xling gives sbatch as --{word}. Leave it out.")  # fmt: skip
    for name, (form, what) in FORMS.items():
        value = getattr(asked, name)
        if value is not None and not re.fullmatch(form, value):
            example = EXAMPLES[name]
            raise ConfigError(f"{path}.{name}={value}: that is {what}. Type {path}.{name}={example}, say.")
    if asked.signal_delay_s >= asked.timeout_min * 60:
        shorter = max(1, min(90, asked.timeout_min * 30))
        raise ConfigError(
            f"{path}.signal_delay_s={asked.signal_delay_s}: that is no less than timeout_min={asked.timeout_min}, so "
            f"that a job would be told to stop as soon as it starts. Type {path}.signal_delay_s={shorter}, or "
            f"{path}.timeout_min={asked.signal_delay_s // 60 + 1} or more."
        )
    return asked


def _read_values(type_: type[T], values: Mapping[str, Any], path: str) -> T:
    said = {name: value for name, value in values.items() if value is not None or name not in NULL_IS_NONE}
    return converted(type_, said, path, EXAMPLES)


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if value is None or isinstance(value, Mapping):
        return {str(key): entry for key, entry in (value or {}).items()}
    raise ConfigError(f"{path}={value} does not fit: expected settings by name, as in {path}.timeout_min=120.")


TYPED = {"time": "timeout_min", "mem": "mem_gb", "ntasks-per-node": "tasks_per_node", "signal": "signal_delay_s",
         **{name.replace("_", "-"): name for name in (
             "partition", "gpus_per_node", "cpus_per_task", "nodes", "qos", "account", "constraint", "exclude", "gres",
             "mem_per_gpu", "mem_per_cpu", "cpus_per_gpu", "gpus_per_task", "comment")}}  # fmt: skip
GPUS = ("gpus_per_node", "gpu_mem_gb", "mem_per_gpu", "cpus_per_gpu", "gpus_per_task")
DECIDED = ("array", "chdir", "clusters", "dependency", "error", "help", "hold", "input", "job-name",
           "kill-on-invalid-dep", "no-requeue", "ntasks", "open-mode", "output", "parsable", "quiet", "requeue",
           "test-only", "usage", "version", "wait", "wrap")  # fmt: skip
_AMOUNT = (r"(?i)[1-9]\d*[KMGT]?B?", "no amount of memory, a whole number of K, M, G or T")
_NODE = r"[\w./-]+(\[\d+(-\d+)?(,\d+(-\d+)?)*\][\w.-]*)*"
FORMS = {
    "mem_per_gpu": _AMOUNT,
    "mem_per_cpu": _AMOUNT,
    "gres": (
        r"((gres[/:])?[A-Za-z]\w*(:[A-Za-z0-9][\w.+-]*)?([:=]\d+[KMGT]?)?(,(?=.)|$))+",
        "no list of name:type:number",
    ),
    "exclude": (rf"{_NODE}(,{_NODE})*", "no list of nodes"),
}  # of words that sbatch reads: what fits none of them works on no cluster
NULL_IS_NONE = ("setup", "additional_parameters")
EXAMPLES = {"partition": "gpu", "setup": "'[module load cuda]'", "exclude": "n1,n2", "qos": "normal", "wait": "true",
            "additional_parameters": "'{mail-type: FAIL}'", "pack_minutes": "5", "timeout_min": "240",
            "max_submit": "200", "python": "python3", "account": "lab", "constraint": "a100", "gres": "gpu:1",
            "mem_per_gpu": "40G", "mem_per_cpu": "4G", "mem_gb": "16", "gpu_mem_gb": "80", "signal_delay_s": "90",
            "comment": "transfer", "snapshot": "true"}  # fmt: skip


# --- GPUs, cores and memory, in whatever words they are asked for ------------------------------------------


def gpus_in(gres: str) -> int:
    """GPUs in a gres word: `gpu:a100:4(S:0-1),gpu:v100:2` has 6, `gpu:1g.10gb` one."""
    return sum(count for _, count in _gpu_words(gres))


def gpu_types(gres: str) -> frozenset[str]:
    """Their names in a gres word: `gpu:a100:4(S:0-1),gpu:v100:2` has a100 and v100."""
    return frozenset(name for name, _ in _gpu_words(gres) if name)


def _gpu_words(gres: str) -> Iterator[tuple[str, int]]:
    """The name (a100, a100-80, 1g.10gb, or none) and number of each word that speaks of GPUs; no number is one."""
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        if found := re.fullmatch(r"\s*(?:gres[/:])?gpu(?::(?!\d+$)([^:=]+))?(?:[:=](\d+))?\s*", word):
            yield found[1] or "", int(found[2] or 1)


def gpus_as_asked(asked: Resources) -> str:
    """The setting by which a node's GPUs are asked for, `{}` for their number; empty if they follow the processes."""
    if asked.gpus_per_task:
        return ""
    if asked.gpus_per_node or not gpus_in(asked.gres or ""):
        return "gpus_per_node={}"
    words = (
        re.sub(r"^((?:gres[/:])?gpu(?::(?!\d+$)[^:=(]+)?).*", r"\1:{}", word) for word in str(asked.gres).split(",")
    )
    return f"gres={','.join(words)}"


def megabytes(amount: str) -> float:
    """SLURM's memory words: `16G`, `500M`, `2000` (MB)."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)B?", amount.strip(), re.IGNORECASE)
    if not match:
        return 0.0
    return float(match[1]) * {"K": 1 / 1024, "M": 1, "": 1, "G": 1024, "T": 1024**2}[match[2].upper()]


def asks_for_gpus(asked: Resources) -> bool:
    """Whether a job gets any, in whatever words."""
    own = any("gpu" in f"{name} {value}".lower() for name, value in asked.additional_parameters.items())
    return gpus_of(asked) > 0 or asked.gpu_mem_gb is not None or own


def job_gpus(asked: Resources) -> int:
    """GPUs that a job holds, as far as its settings say."""
    total = re.search(r"\d+$", str(asked.additional_parameters.get("gpus", "")))
    return max(asked.nodes * gpus_of(asked), int(total[0]) if total else 0)


def gpus_of(asked: Resources) -> int:
    """GPUs of a node, in whatever words."""
    per_task = (asked.gpus_per_task or 0) * asked.tasks_per_node
    return max(asked.gpus_per_node or 0, per_task, gpus_in(asked.gres or ""))


def cpus_of(asked: Resources) -> int:
    return max((asked.cpus_per_task or 1) * asked.tasks_per_node, (asked.cpus_per_gpu or 0) * gpus_of(asked))


def memory_of(asked: Resources) -> float:
    per_gpu = megabytes(asked.mem_per_gpu or "0") * gpus_of(asked)
    per_cpu = megabytes(asked.mem_per_cpu or "0") * cpus_of(asked)
    return max((asked.mem_gb or 0) * 1024, per_gpu, per_cpu)
