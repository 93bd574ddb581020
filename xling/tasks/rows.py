"""Reading JSONL(.gz) of rated responses: every row checked, bad ones named with their line number.

A row is an object with `id` (of the document or prompt: the same for all systems that answered it), `lang`,
`document` or `prompt`, `response`, `system` and the rating, a finite number; other fields are ignored.
Knows no config and no torch; xling/tasks/files.py makes a task of it.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, DataError

SHOWN = 10  # bad rows that an error lists
GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Answer(NamedTuple):
    """What one system answered to a prompt, and how it was rated."""

    line: int
    response: str
    rating: float


@dataclass(slots=True)
class Rated:
    """One prompt of one language with its answers by system."""

    text: str
    line: int  # where it was seen first
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(slots=True)
class Rows:
    """A whole file: lang -> prompt id -> prompt. `bad` has the first bad rows, `n_bad` counts all of them."""

    languages: dict[str, dict[str, Rated]] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)
    n_bad: int = 0
    n: int = 0  # rows, good and bad, without empty lines

    def reject(self, line: int, reason: str) -> None:
        """Note a bad row."""
        self.n_bad += 1
        if len(self.bad) < SHOWN:
            self.bad.append((line, reason))


class _Fields(Struct):
    """The fields of a row other than its rating, whose name is a setting."""

    id: str | int
    lang: str
    response: str
    system: str
    document: str | None = None
    prompt: str | None = None


RESERVED = tuple(f.name for f in msgspec.structs.fields(_Fields))


def read_rows(path: Path, rating_field: str) -> Rows:
    """Read all rows of a plain or gzipped file (told by its first bytes).

    ConfigError if the file cannot be read; DataError if it is a damaged archive. Bad rows are collected, not
    raised, so that a caller can name unknown languages beside them.
    """
    row_type = msgspec.defstruct(
        "Row", [("rating", float)], bases=(_Fields,), rename={"rating": rating_field}, kw_only=True
    )
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row_type)
    rows = Rows()
    for number, line in _lines(path):
        rows.n += 1
        try:
            row = decoder.decode(line.decode())
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            rows.reject(number, _reason(line, error))
            continue
        reason = _add(rows, number, row)
        if reason:
            rows.reject(number, reason)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) that are not empty, without a byte order mark."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if zipped else raw, start=1):
                content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if not content.isspace():
                    yield number, content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}. Copy it again.") from error
    except OSError as error:
        raise ConfigError(
            f"The ratings cannot be read from {str(path)!r}: {error.strerror or error}. "
            "Name a JSONL or JSONL.gz file with task.path=PATH."
        ) from error


def _reason(line: bytes, error: Exception) -> str:
    """What is wrong with a line that could not be decoded, in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start}: 0x{line[error.start]:02x})"
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    try:
        json.loads(line)  # unlike the standard, takes NaN and Infinity
    except ValueError:
        return f"not JSON: {error}"
    return "NaN and Infinity are no ratings and no JSON"


def _add(rows: Rows, number: int, row: Any) -> str | None:
    """Add a decoded row; the reason if it cannot be."""
    text = row.document if row.document is not None else row.prompt
    if text is None:
        return "Object missing required field `document` (or `prompt`)"
    prompt_id = str(row.id)
    for name, value in (("id", prompt_id), ("lang", row.lang), ("system", row.system), ("document", text)):
        if not value.strip():
            return f"`{name}` is empty"
    if not math.isfinite(row.rating):
        return f"rating {row.rating} is not finite"
    prompts = rows.languages.setdefault(row.lang, {})
    prompt = prompts.get(prompt_id)
    if prompt is None:
        prompt = prompts[prompt_id] = Rated(text, number)
    elif prompt.text != text:
        return f"the document of id {prompt_id!r} differs from the one in line {prompt.line}"
    elif row.system in prompt.answers:
        first = prompt.answers[row.system].line
        return f"duplicate of line {first}: id {prompt_id!r}, lang {row.lang!r}, system {row.system!r}"
    prompt.answers[row.system] = Answer(number, row.response, row.rating)
    return None
