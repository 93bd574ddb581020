"""Files as rows: JSONL, JSON, CSV, TSV (each plain or gzipped) and Parquet, read row by row with their numbers.

    for path in paths_of("data/*.csv"):
        table = open_table(path)
        table.columns                     # what is there, for errors that name it
        for number, row in table.rows:    # row: a dict, or a sentence on why it cannot be read
            ...

A row that cannot be read (bad UTF-8, no JSON, too many cells) does not stop the others. Empty cells and nulls are
left out of a row. Knows no config and no torch.
"""

import csv
import functools
import glob
import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from xling.errors import ConfigError, DataError, did_you_mean

Row = dict[str, Any]
Numbered = tuple[int, Row | str]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PEEKED = 1000  # rows whose fields are a JSON file's columns
BATCH = 2000  # rows of Parquet in memory at a time


@dataclass(frozen=True, slots=True)
class Table:
    """One file. `rows` can be gone through once."""

    path: Path
    unit: str  # what a row's number counts: line or row
    columns: tuple[str, ...]
    rows: Iterator[Numbered]


def paths_of(path: str, setting: str = "task.path") -> list[Path]:
    """The files that a path names: itself, all tables below a folder, or what a glob matches; sorted.

    ConfigError if there is none, with what to type.
    """
    if path in ("", "???"):
        raise ConfigError(f"This task needs data. Name a file, a folder or a glob with {setting}=PATH.")
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    named = sorted(file for file in found if file.is_file() and is_table(file))
    if not named:
        reason = "has no table in it" if place.is_dir() else "is not a file, nor a folder or glob with tables"
        near = did_you_mean(place.name, (p.name for p in place.parent.glob("*"))) if place.parent.is_dir() else ""
        raise ConfigError(
            f"{setting}={path} {reason} ({', '.join(SUFFIXES)}, also .gz).{near} "
            f"Name a file, a folder or a glob with {setting}=PATH."
        )
    return named


def is_table(path: Path) -> bool:
    """By its name, with or without .gz."""
    return path.name.removesuffix(".gz").endswith(SUFFIXES) and not path.name.startswith(".")


def identity(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """(path, size, modification time) of each: what caches of their content go by."""
    return tuple((str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in paths)


@functools.lru_cache(maxsize=64)
def file_digest(path: str, size: int, modified: int) -> str:
    """sha256 of a file's bytes, computed once for a size and modification time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_table(path: Path) -> Table:
    """Told by its first bytes and its name; what is neither CSV, TSV, JSON nor Parquet is read as JSONL.

    ConfigError if the file cannot be read; DataError for a damaged archive or table.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ConfigError(
            f"The data cannot be read from {str(path)!r}: {error.strerror or error}. "
            "Name a file, a folder or a glob with task.path=PATH."
        ) from error
    name = path.name.removesuffix(".gz")
    if magic == PARQUET_MAGIC:
        return _parquet(path)
    if name.endswith((".csv", ".tsv")):
        return _separated(path, "\t" if name.endswith(".tsv") else ",")
    if name.endswith(".json") and (array := _json_array(path)) is not None:
        return array
    peeked, rows = _peeked(_json_lines(path))
    return Table(path, "line", _fields(peeked), rows)


# --- formats ------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1), without a byte order mark; gzip is told by its bytes."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if zipped else raw, start=1):
                yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}. Copy it again.") from error


def _json_lines(path: Path) -> Iterator[Numbered]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in _lines(path):
        if line.isspace():
            continue
        try:
            yield number, decoder.decode(line.decode())
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            yield number, _reason(line, error)


def _json_array(path: Path) -> Table | None:
    """A .json file that holds one array of objects; None if it holds something else, such as lines."""
    content = b"".join(line for _, line in _lines(path))
    if not content.lstrip().startswith(b"["):
        return None
    try:
        found = msgspec.json.decode(content.decode(), type=list[dict[str, Any]])
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is no array of objects: {_reason(content, error)}.") from error
    return Table(path, "row", _fields(found[:PEEKED]), iter(enumerate(found, start=1)))


def _reason(line: bytes, error: Exception) -> str:
    """What is wrong with a line that could not be decoded, in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start}: 0x{line[error.start]:02x})"
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    try:
        json.loads(line)  # unlike the standard, takes NaN and Infinity
    except (ValueError, RecursionError):
        return f"not JSON: {error}"
    return "NaN and Infinity are no ratings and no JSON"


def _peeked(rows: Iterator[Numbered]) -> tuple[list[Row], Iterator[Numbered]]:
    """The first readable rows, and all of them."""
    first = list(itertools.islice(rows, PEEKED))
    return [row for _, row in first if isinstance(row, dict)], itertools.chain(first, rows)


def _fields(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for row in rows for field in row))


def _separated(path: Path, separator: str) -> Table:
    """CSV by RFC 4180: quoted cells may hold separators, doubled quotes and line ends; the first row names them."""
    csv.field_size_limit(2**31 - 1)
    damaged: dict[int, str] = {}
    reader = csv.reader(_decoded(path, damaged), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"{path} has a first row that cannot be read: {error}.") from error
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path} has several columns of the same name: {', '.join(twice)}. Rename all but one.")
    return Table(path, "line", tuple(header), _cells(reader, header, damaged))


def _decoded(path: Path, damaged: dict[int, str]) -> Iterator[str]:
    for number, line in _lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            damaged[number] = _reason(line, error)
            yield line.decode(errors="replace")


def _cells(reader: Any, header: Sequence[str], damaged: dict[int, str]) -> Iterator[Numbered]:
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield start, f"not {'TSV' if reader.dialect.delimiter != ',' else 'CSV'}: {error}"
            continue
        if cells is None:
            return
        wrong = next((damaged[line] for line in range(start, reader.line_num + 1) if line in damaged), None)
        if wrong:
            yield start, wrong
        elif cells and len(cells) != len(header):
            yield start, f"{len(cells)} cells, and the first row names {len(header)}"
        elif cells:
            yield start, {name: cell for name, cell in zip(header, cells, strict=True) if cell}


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file: {error}. Copy it again.") from error
    return Table(path, "row", tuple(file.schema_arrow.names), _parquet_rows(path, file))


def _parquet_rows(path: Path, file: Any) -> Iterator[Numbered]:
    import pyarrow

    number = 0
    batches = file.iter_batches(batch_size=BATCH)
    while True:
        try:
            batch = next(batches, None)
            found = [] if batch is None else batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is a damaged Parquet file: {error}. Copy it again.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} has text that is not UTF-8 after row {number}: {error}.") from error
        if batch is None:
            return
        for row in found:
            number += 1
            yield number, {name: value for name, value in row.items() if value is not None}
