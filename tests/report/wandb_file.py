"""Reads back what W&B wrote offline: a header, then protobuf records in LevelDB's log format, checksums verified.

The checksum of a piece is CRC-32 (zlib's, not LevelDB's CRC-32C) over its type and its data.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK, HEADER = 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[pb.Record]:
    """All records of a .wandb file, in order."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = HEADER, []
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        assert kind in (FULL, FIRST, MIDDLE, LAST), kind
        parts.append(content[at + HEADER : at + HEADER + length])
        assert zlib.crc32(parts[-1], zlib.crc32(bytes([kind]))) == checksum, f"{path} at {at}"
        at += HEADER + length
        if kind in (FULL, LAST):
            record = pb.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


class OfflineRun:
    """What one offline run says of itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (path,) = folder.glob("run-*.wandb")
        self.id = self.job_type = self.name = self.group = self.project = ""
        self.tags: list[str] = []
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: dict[str, pb.ArtifactRecord] = {}
        self.finished = False
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
                self.id, self.job_type, self.name = run.run_id, run.job_type, run.display_name
                self.group, self.project, self.tags = run.run_group, run.project, list(run.tags)
                self.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
            elif kind == "config":
                self.config |= {_key(item): json.loads(item.value_json) for item in record.config.update}
            elif kind == "history":
                self.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            elif kind == "summary":
                self.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            elif kind == "artifact":
                self.artifacts[record.artifact.name] = record.artifact
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                artifact = record.request.log_artifact.artifact
                self.artifacts[artifact.name] = artifact
            elif kind == "exit":
                self.finished = True

    def table(self, name: str) -> dict[str, Any]:
        """A logged table: {"columns": [...], "data": [...]}."""
        (path,) = self.folder.glob(f"files/media/table/{name}_*.table.json")
        return json.loads(path.read_bytes())


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def offline_runs(root: Path) -> list[OfflineRun]:
    """All offline runs below a results folder, oldest first."""
    return [OfflineRun(folder) for folder in sorted((root / "tracking" / "wandb").glob("offline-run-*"))]
