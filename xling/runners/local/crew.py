"""Who runs a plan on this machine: how many workers, which GPU each has, and what each of them takes.

One worker a visible GPU runs the stages that compute on one (`Kind.gpu`), others beside them the rest: judges, heads,
baselines without a model. Without a GPU there is a worker a core, as far as memory is enough for the largest of the
stages that compute (`Kind.memory`). Nothing here imports torch.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xling.errors import ConfigError
from xling.grid.plan import Plan
from xling.grid.stage import Kind, Stage

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS = 10  # for nvidia-smi to answer
SPARE = 0.9  # of the memory that is free: the rest is for this process and what else goes on


@dataclass(frozen=True)
class Seat:
    """A worker that is to be: what it takes, and which GPU it has."""

    heavy: bool = True  # it takes the stages that compute; of several kinds of workers the others take all the rest
    gpu: str | None = None  # what CUDA_VISIBLE_DEVICES says: empty for none. None: as it is

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.gpu is None else {VISIBLE: self.gpu}


def crew(plan: Plan, workers: int | None, threads: int, gpus: int | None) -> tuple[list[Seat], str]:
    """The workers of a plan, and how many they are and why, in words. ConfigError: there are not so many GPUs."""
    count = workers or max(1, cores() // threads)
    if names := chosen(gpus, list(visible())):
        return _with_gpus(names, workers, count)
    off = "" if gpus == 0 else None
    largest, bytes_ = max(_sizes(plan), key=lambda one: one[1], default=(None, 0.0))
    room = min(free_memory(Path("/proc"), Path("/sys/fs/cgroup")), _granted_memory()) * SPARE
    if largest is None or not bytes_ or count * bytes_ <= room:
        return [Seat(gpu=off)] * count, _counted(count)
    fit = max(1, int(room // bytes_))
    there, each = (f"{number / 2**30:,.0f} GiB" if number > 10 * 2**30 else f"{number / 2**30:.2g} GiB"
                   for number in (room, bytes_))  # fmt: skip
    size = f"about {each} each ({largest.label})"
    if workers is not None:
        why = f", as asked for; the {there} of memory that can be had are enough for {int(room // bytes_)}: {size}"
        return [Seat(gpu=off)] * count, _counted(count) + why
    light = [Seat(False, off)] * (count - fit)
    if bytes_ > room:
        why = f" for what computes, one stage at a time: {largest.label} takes about {each}, and {there} are free"
    else:
        why = f" for what computes: {there} of memory allow {fit} at a time of {size}"
    return [Seat(gpu=off)] * fit + light, _counted(fit) + why + _beside(len(light))


def _with_gpus(names: Sequence[str], asked: int | None, count: int) -> tuple[list[Seat], str]:
    """One worker a GPU, and others beside them unless fewer were asked for."""
    heavy = [Seat(True, name) for name in names[: asked or len(names)]]
    light = [Seat(False, "")] * (max(0, count - len(heavy)) if asked else max(1, count - len(heavy)))
    each = f"on GPU {heavy[0].gpu}" if len(heavy) == 1 else f"one a GPU ({', '.join(names[: len(heavy)])})"
    return heavy + light, f"{_counted(len(heavy))}, {each}{_beside(len(light))}"


def _counted(count: int) -> str:
    return f"{count} worker{'s' * (count != 1)}"


def _beside(count: int) -> str:
    return f"; {count} more for the rest" if count else ""


def is_heavy(kinds: Mapping[str, Kind], stage: Stage) -> bool:
    """Whether a stage computes with a network, as its kind says."""
    kind = kinds.get(stage.kind)
    return kind is not None and kind.gpu(stage)


def _sizes(plan: Plan) -> Iterator[tuple[Stage, float]]:
    """What the stages that are to run need of main memory, in bytes."""
    for stage in plan.to_run:
        kind = plan.kinds.get(stage.kind)
        if kind is not None and kind.memory is not None:
            yield stage, kind.memory(stage)


def cores() -> int:
    """Cores this process may use: no more than the SLURM job has that it is in, whether or not others are shut out."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(seen, _granted("SLURM_CPUS_ON_NODE") or seen)


def _granted(name: str) -> int:
    """A number that SLURM tells its jobs; 0: this is none, or it was not limited."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else 0


def _granted_memory() -> float:
    """Bytes that the SLURM job has that this process is in."""
    megabytes = _granted("SLURM_MEM_PER_NODE") or _granted("SLURM_MEM_PER_CPU") * _granted("SLURM_CPUS_ON_NODE")
    return megabytes * 2.0**20 or float("inf")


# --- GPUs ---------------------------------------------------------------------------------------------------


def chosen(asked: int | None, found: Sequence[str]) -> list[str]:
    """The GPUs to use of those that were found. Where none was found, what was asked for is believed."""
    if asked is None:
        return list(found)
    if found and asked > len(found):
        raise ConfigError(
            f"hydra.launcher.gpus={asked}: only {len(found)} can be seen here ({', '.join(found)}). "
            f"Type hydra.launcher.gpus={len(found)}, or set {VISIBLE}."
        )
    return list(found)[:asked] if found else [str(number) for number in range(asked)]


def visible() -> Iterable[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that a process started from here could use."""
    if (said := os.environ.get(VISIBLE)) is not None:
        return _named(said)
    with suppress(PackageNotFoundError):
        if version("torch").endswith("+cpu"):  # it could use none
            return []
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SECONDS, check=True)
        return listed_gpus(listed.stdout)
    with suppress(OSError):
        return [str(number) for number in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    return []


def _named(said: str) -> list[str]:
    """Of CUDA_VISIBLE_DEVICES: what stands behind a -1 or nothing is not seen, as CUDA has it."""
    names = list[str]()
    for name in map(str.strip, said.split(",")):
        if not name or name.startswith("-"):
            break
        names.append(name)
    return names


@cache
def gib_of(names: tuple[str, ...]) -> float | None:
    """GiB of the smallest of some GPUs, as NVIDIA's driver says; None: there is none, or nobody tells."""
    with suppress(ValueError):
        return min((float(line) / 1024 for line in _told("memory.total", names)), default=None)
    return None


@cache
def name_of(names: tuple[str, ...]) -> str:
    """What the driver calls the first of some GPUs; empty: there is none, or nobody tells."""
    return next(iter(_told("name", names)), "")


def _told(what: str, names: tuple[str, ...]) -> list[str]:
    """A line a GPU, of NVIDIA's driver."""
    asked = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", f"--id={','.join(names)}"]
    with suppress(OSError, subprocess.SubprocessError):
        if names:
            told = subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True)
            return told.stdout.splitlines()
    return []


def listed_gpus(text: str) -> list[str]:
    """Of `nvidia-smi -L`: numbers of GPUs; where one is divided (MIG), the names of its parts, of which CUDA sees one.

    GPU 0: NVIDIA H100 (UUID: GPU-1f...)
      MIG 3g.40gb Device 0: (UUID: MIG-2e...)
    """
    names = list[str]()
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "GPU":
            names.append(rest.partition(":")[0])
        elif word == "MIG":
            names = names[:-1] if names and names[-1].isdigit() else names
            names.append(rest.rpartition("UUID: ")[2].rstrip(")"))
    return names


# --- main memory --------------------------------------------------------------------------------------------


def free_memory(proc: Path, groups: Path) -> float:
    """Bytes that can be had: of the machine, or of the control groups (v1 or v2) that this process is in."""
    rooms = [_number(proc / "meminfo", "MemAvailable:", 1024)]
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = groups / "memory" if controllers else groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        own = top / path.lstrip("/")
        rooms += [_left(folder, names if controllers else ("memory.max", "memory.current", "inactive_file"))
                  for folder in (own, *own.parents) if folder.is_relative_to(top)]  # fmt: skip
    return min((room for room in rooms if room is not None), default=float("inf"))


def _left(folder: Path, names: tuple[str, str, str]) -> float | None:
    """What a control group's limit leaves; files that the kernel keeps in memory can go."""
    limit, used = _number(folder / names[0]), _number(folder / names[1])
    if limit is None or used is None:
        return None
    return max(0.0, limit - used + (_number(folder / "memory.stat", names[2]) or 0.0))


def _number(path: Path, name: str = "", unit: int = 1) -> float | None:
    """The number in a file, or in its line that begins with `name`; None: there is none, or it says `max`."""
    for line in _lines(path):
        words = line.split()
        if words and (not name or words[0] == name):
            value = words[1] if name else words[0]
            return float(value) * unit if value.isdigit() else None
    return None


def _lines(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii").splitlines()
    return []
