"""Formats of the store's JSON files: the sheet of a result (spec.json), its done marker, a failure, a grid's plan.

Everything that may differ between two runs of the same stage (times, hosts, versions) stands in the marker,
so that the other files of a result have the same bytes whoever made them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from xling.errors import ConfigError, StoreError
from xling.grid import files
from xling.grid.files import Unreadable, are_plain
from xling.grid.host import Process
from xling.grid.stage import Json, Stage, identity_key
from xling.jsonfiles import decode, unsealed

# --- Formats of the files that results folders are made of, and what is said of one that another xling wrote ---
# A number goes up when old readers would misread the file; a field that may be missing or unknown needs none.

PLAN = 1  # plan.json
PLAN_AGAIN = "run the grid's command again: it writes the plan anew, and finished results are found by their keys"
RESULT, JOINED = 1, 2  # done.json of a stage's result: with files, with files.zip
MATRIX = 1  # matrix.json


def check_format(what: str, found: int, known: int, redo: str) -> None:
    """StoreError unless the format is the known one. redo: what brings the file up to date, a clause."""
    if found > known:
        raise StoreError(
            f"{what} has format {found} and was written by a newer xling; this one reads format {known}. "
            f"Use that version, or {redo}."
        )
    if found < known:
        raise StoreError(
            f"{what} has format {found} and was written by an older xling; this one reads format {known}. "
            f"{redo[:1].upper()}{redo[1:]}."
        )


def format_of(content: bytes, default: int = 0) -> int | None:
    """The format that a JSON file of cells or blocks names, `default` where it names none; None: no such file."""
    try:
        fields = decode(content, type=dict[str, msgspec.Raw])
        if "format" in fields:
            return decode(fields["format"], type=int)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return default if {"cells", "blocks"} & set(fields) else None


class Parent(msgspec.Struct, frozen=True):
    kind: str
    key: str
    label: str


class Sheet(msgspec.Struct, frozen=True):
    """spec.json, or a part of done.json: all that the key of a result is computed from, and the label people read."""

    kind: str
    version: int
    label: str
    spec: dict[str, Json]
    parents: dict[str, Parent]  # role -> parent

    @staticmethod
    def of(stage: Stage) -> "Sheet":
        parents = {role: Parent(up.kind, up.key, up.label) for role, up in stage.parents.items()}
        return Sheet(stage.kind, stage.version, stage.label, dict(stage.spec), parents)

    def key(self) -> str:
        parents = {role: parent.key for role, parent in self.parents.items()}
        return identity_key(self.kind, self.version, self.spec, parents)


class FileFact(msgspec.Struct, frozen=True):
    sha256: str
    size: int
    mtime_ns: int


class Run(msgspec.Struct, frozen=True):
    """How a result came about; no part of its identity."""

    seconds: float
    cpu_seconds: float
    when: str  # ISO 8601, UTC, when it ended
    attempt: int
    by: Process
    threads: int
    device: str
    git: str | None
    versions: Mapping[str, str]
    processes: int = 1  # that computed it together
    code: str = ""  # digest of the package's files, host.code_digest; "" in results of before it was recorded


class Done(msgspec.Struct, frozen=True):
    """done.json, written last: a folder with it is a whole result."""

    kind: str
    key: str
    label: str
    files: dict[str, FileFact]
    run: Run
    format: int = RESULT
    dropped: dict[str, FileFact] = {}  # weights that are gone on purpose (xling/grid/weights.py)
    inside: dict[str, str] = {}  # SHA-256 of each file in files.zip (joined.py)

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of the result, wherever it stands."""
        return self.inside or {name: fact.sha256 for name, fact in self.files.items()}


class JoinedDone(Done, frozen=True, kw_only=True):
    """done.json of a result with files.zip."""

    sheet: Sheet


class _Sheet(msgspec.Struct, frozen=True):
    """What is read of it for the sheet alone."""

    sheet: Sheet | None = None


class Failure(msgspec.Struct, frozen=True):
    """<key>.failed.json: gone as soon as the stage succeeds."""

    label: str
    attempts: int
    last: str  # last line of the traceback, or how the process died
    traceback: str
    log: str  # relative to the root
    when: str
    host: str


T = TypeVar("T", bound=msgspec.Struct)


def read(of: type[T], path: str) -> T:
    """Read one of the above; OSError if it is not there, msgspec.DecodeError if it is not what was written."""
    return unsealed(files.content_of(path), of)


def read_sheet(folder: str) -> Sheet:
    """The spec of a result, or of a part of one; errors as above."""
    try:
        return read(Sheet, f"{folder}/spec.json")
    except FileNotFoundError:
        sheet = read(_Sheet, f"{folder}/done.json").sheet
        if sheet is None:
            raise
        return sheet


# --- plan.json: what a grid asked for. Written before anything runs; whoever looks at the grid afterwards reads it. ---
#     plan = read_plan(store.grid_folder("embedded"))
#     plan.cells[0].axes, plan.cells[0].judge

AxisValue = str | int | float | bool | None


class Ref(msgspec.Struct, frozen=True):
    """A stage's folder in the store."""

    kind: str
    key: str


class PlannedCell(msgspec.Struct, frozen=True):
    """A point of the grid, the stage with its verdicts, and the stages whose results are shown beside them, by role.

    Roles: score, verdict, pool, baseline, reward, align, sft (the policy before its alignment).
    """

    axes: dict[str, AxisValue]
    judge: Ref
    stages: dict[str, Ref] = {}


class LeftOut(msgspec.Struct, frozen=True):
    """Cells that are left out: a glob's matches that cannot be used, or those that `pairs` excludes."""

    axes: dict[str, AxisValue]
    reason: str


class PlannedStage(msgspec.Struct, frozen=True):
    """One stage of the grid; `parents` are places in the plan's list, parents before children."""

    kind: str
    key: str
    label: str
    parents: list[int]


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """plan.json. `language_rates` is for results/plan.py, which gives it a type: how often the detector errs."""

    name: str
    format: int = 0
    command: list[str] = []
    git: str | None = None
    cells: list[PlannedCell]
    left_out: list[LeftOut] = []
    stages: list[PlannedStage]
    language_rates: list[Any] = []
    drops: list[str] = []  # kinds of stages whose weights go when all have read them (keep_weights)
    starts: list[Ref] = []  # results of the root that are checkpoints here (policy.checkpoint=outputs/stages/align/KEY)
    measures: list[str] = []  # FILE:FUNCTION of the user's own (xling/measures/own.py)

    def asked(self) -> list[Any]:
        """Identity of a grid: the axes of each cell, and the key of its verdicts."""
        return [[cell.axes, cell.judge.key] for cell in self.cells]


P = TypeVar("P", bound=PlanFile)


def read_plan(folder: Path, of: type[P]) -> P:
    """Load <grid>/plan.json. ConfigError: there is none; StoreError: it is no plan, or one that this xling cannot read.

    Its words name files of the store, so that none may lead elsewhere, and parents stand before their children.
    """
    path = folder / "plan.json"
    try:
        content = path.read_bytes()
        written = format_of(content)
        if written is not None:
            check_format(f"'{path}'", written, PLAN, PLAN_AGAIN)
        plan = unsealed(content, type=of)
    except FileNotFoundError:
        known = [child.parent.name for child in files.matching(folder.parent, "*/plan.json")]
        listing = f"Grids here: {', '.join(known)}." if known else "No grid has been planned here yet."
        raise ConfigError(f"There is no grid '{folder.name}' in {folder.parent}. {listing}") from None
    except PermissionError as error:
        raise Unreadable(error, str(path)) from error
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"'{path}' is no plan ({error}). Run the grid's command again: it writes it anew.") from error
    refs: list[PlannedStage | Ref] = list(plan.stages)
    refs += [ref for cell in plan.cells for ref in (cell.judge, *cell.stages.values())]
    _check_words(path, {plan.name}.union((ref.kind for ref in refs), (ref.key for ref in refs)))
    _check_order(path, [stage.parents for stage in plan.stages])
    return plan


def _check_words(path: Path, words: set[str]) -> None:
    """StoreError if a plan's name, kinds or keys lead to what is outside of the results folder."""
    if are_plain(words):
        return
    for word in sorted(words):
        if not are_plain({word}):
            raise StoreError(f"'{path}' names a file '{word}', which would be elsewhere. {PLAN_AGAIN.capitalize()}.")


def _check_order(path: Path, parents: Sequence[Sequence[int]]) -> None:
    """StoreError unless each stage's parents are places before its own."""
    if any(not 0 <= parent < place for place, above in enumerate(parents) for parent in above):
        raise StoreError(f"'{path}' names parents of a stage that do not stand before it. {PLAN_AGAIN.capitalize()}.")
