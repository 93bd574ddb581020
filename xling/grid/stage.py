"""A stage: a pure function of a frozen spec and its parents' results, named by a key.

    sft = Stage.make("sft", 1, "sft[de]", {"lang": "de", ...}, {"base": base})
    sft.key  # sha256 of everything that determines the result

A `Kind` says how stages of one name are run. Workers find the kinds by the import path of a
`dict[str, Kind]` (the catalogue), so that a payload is a key and JSON, never a pickle.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xling.errors import ConfigError

WHERE = "where"  # in a spec: where things lie; no part of the key, and nothing that it holds may change a result
MODELS = "models"  # in `where`: where models lie, {content: folder}
DATA = "data"  # in `where`: what a stage reads, {part: [rows, digest]}, so that the plan can say what has changed
NO_SOURCE = "-"  # a cell's source: that of references, which have none
OTHERS = "others"  # a cell's source: all languages of the task but the target, pooled
Json = Any  # what json.dumps takes: dict, list, str, int, float, bool, None


def canonical_json(value: Json) -> bytes:
    """The one serialisation that keys are computed from: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def identity_key(kind: str, version: int, spec: Mapping[str, Json], parents: Mapping[str, str]) -> str:
    """The key of a stage: sha256 over kind, version, spec (but for where things lie) and the parents' keys by role."""
    what = {name: value for name, value in spec.items() if name != WHERE}
    identity = {"kind": kind, "version": version, "spec": what, "parents": dict(parents)}
    return hashlib.sha256(canonical_json(identity)).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One node of the plan. Two stages with the same key are the same stage."""

    kind: str
    version: int  # raised by hand when the code's meaning changes
    label: str  # what people read, e.g. "score[de, tr]"; not in the key
    spec: Mapping[str, Json]
    parents: Mapping[str, "Stage"]  # role -> stage
    key: str

    @staticmethod
    def make(kind: str, version: int, label: str, spec: Mapping[str, Json], parents: Mapping[str, "Stage"]) -> "Stage":
        """Build a stage and its key: kind, version, spec and the parents' keys, and nothing else."""
        key = identity_key(kind, version, spec, {role: parent.key for role, parent in parents.items()})
        return Stage(kind, version, label, spec, parents, key)


class Interrupted(BaseException):
    """The runner has to stop: no failure of the stage, which goes on from its scratch next time."""


class PartDone(BaseException):
    """This process of several has done its part of a stage; process 0 goes on and writes the result."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that a running stage sees."""

    spec: Mapping[str, Json]
    parents: Mapping[str, Path]  # role -> the parent's finished folder
    out: Path  # an empty folder; becomes the result when the function returns
    scratch: Path  # survives a kill of this stage; gone once the result is published
    progress: Callable[[int, int], None] = lambda done, total: None
    # True once the runner has to stop: a stage that asks leaves a checkpoint and raises Interrupted in good time
    stopping: Callable[[], bool] = lambda: False
    # One folder for all stages of a root, beside their results: content-addressed, and it never decides a result, so
    # that it can be deleted at any time. None: there is none; a stage then keeps what it would share in its scratch
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one stage, computed from its spec; for estimates alone, in no key."""

    flops: Mapping[str, float]  # sort of work -> floating-point operations; sorts are those of cost.utilisation
    units: Mapping[str, int]  # what -> how many, as people count it: {"samples": 808384}
    stored: float = 0.0  # bytes that its result takes on disk
    single: bool = False  # computed in float32


@dataclass(frozen=True, slots=True)
class Tokens:
    """Mean lengths that work is estimated with; None: the limits of the spec."""

    prompt: int | None = None
    response: int | None = None


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that a stage runs on."""

    count: int = 1
    gib: float | None = None  # of one; None: not known
    stated: str = ""  # the setting that says so; what takes more is refused then
    more: bool = False  # whether more of them could run it together,
    most: int = 64  # how many,
    settings: tuple[str, ...] = ("tasks_per_node={}", "gpus_per_node={}")  # and what is typed of its kind then


RESERVED, FRAGMENTS = 1.0, 0.05  # GiB of CUDA itself, and the share of a GPU that its allocator cannot use


def fits(gib: float, gpu: float) -> bool:
    """Whether so many GiB fit into a GPU of so many."""
    return gib <= gpu * (1 - FRAGMENTS) - RESERVED


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of each GPU that a stage takes, computed from its spec."""

    parts: Mapping[str, float]  # bytes at the worst moment, by what they are for
    gpus: Gpus
    scratch: float = 0.0  # bytes on disk of its checkpoints while it runs
    setting: str = ""  # where it does not fit: what to type so that it does, the cheapest; empty: nothing would do
    then: tuple[float, int] | None = None  # GiB of each GPU with it, and how many GPUs

    @property
    def gib(self) -> float:
        return sum(self.parts.values()) / 2**30

    @property
    def fits(self) -> bool:
        """Whether it does as it is set; True where nobody knows."""
        return self.gpus.gib is None or fits(self.gib, self.gpus.gib)


def _unsaid(_: Stage) -> bool:
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Kind:
    """How stages of one name run. `run` imports what it needs itself: a catalogue loads without torch.

    ConfigError unless it says which of its stages compute on a GPU: the others are given none.
    """

    name: str
    version: int
    run: Callable[[Context], None]
    seconds: float = 1.0  # cost estimate until a run of this kind has been recorded
    work: Callable[[Stage, Tokens], Work] | None = None  # a model of its cost; None: it takes next to nothing
    # why a stored result holds no longer although its files are whole: what it points to is gone; "": it does
    lost: Callable[[Path], str] | None = None
    parallel: bool = False  # may run in several processes at once (torch.distributed), all with the same arguments
    shared: Callable[[Stage, int], None] | None = None  # ConfigError unless that many can share a stage's work
    gpu: Callable[[Stage], bool] = _unsaid  # whether a stage computes on a GPU where there is one
    needs: Callable[[Stage, Gpus], Memory | None] | None = (
        None  # of a GPU, by formulas; None: no network worth the name
    )
    weights: tuple[str, ...] = ()  # names (*: any) of the files of a result that keep_weights may drop
    joined: bool = False  # a grid has many of them, with small files: these become one (joined.py), and no log is empty
    memory: Callable[[Stage], float] | None = None  # bytes that a stage holds in main memory at its peak, roughly

    def __post_init__(self) -> None:
        if self.gpu is _unsaid:
            raise ConfigError(
                f"the kind of stage '{self.name}' does not say whether it computes on a GPU; what does not is given "
                f"none. Add gpu=lambda stage: False, or True, to Kind('{self.name}', ...)."
            )


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid: its coordinates, and the stage that holds its verdicts."""

    axes: Mapping[str, str | int | float | bool | None]  # task, policy, rm_backbone, source_lang, ..., seed
    stage: Stage
