"""What stands in the store's JSON files: the sheet of a result (spec.json), its done marker, a failure.

Everything that may differ between two runs of the same stage (times, hosts, versions) stands in the marker,
so that the other files of a result have the same bytes whoever made them.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from xling.grid.files import content_of
from xling.grid.formats import RESULT
from xling.grid.host import Process
from xling.grid.stage import Json, Stage, identity_key
from xling.jsonfiles import unsealed


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
