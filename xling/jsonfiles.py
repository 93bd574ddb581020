"""JSON files of results: one way to write and one to read them, for models and stages alike."""

import json
from pathlib import Path
from typing import Any

import msgspec


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, UTF-8, a newline at the end."""
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return msgspec.json.decode(path.read_bytes())
