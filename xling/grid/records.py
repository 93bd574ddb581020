"""What stands in the store's JSON files: the sheet of a result (spec.json), its done marker, a failure.

Everything that may differ between two runs of the same stage (times, hosts, versions) stands in the marker,
so that the other files of a result have the same bytes whoever made them.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from xling.errors import StoreError
from xling.grid.files import content_of
from xling.grid.host import Process
from xling.grid.stage import Json, Stage, identity_key
from xling.jsonfiles import decode, unsealed

# --- Formats of the files that results folders are made of, and what is said of one that another xling wrote ---
# A number goes up when old readers would misread the file; a field that may be missing or unknown needs none.

PLAN = 1  # plan.json
PLAN_AGAIN = "run the grid's command again: it writes the plan anew, and finished results are found by their keys"
RESULT = 1  # done.json of a stage's result
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
    """spec.json: all that the key of a result is computed from, and the label people read."""

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
    return unsealed(content_of(path), of)
