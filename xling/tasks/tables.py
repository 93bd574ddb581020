"""Rows of published datasets, a few at a time: Parquet, JSON lines, CSV and TSV, plain or gzipped.

A million articles are read column by column and one batch at a time; nothing is copied into a cache of its own.
"""

import csv
import functools
import gzip
import hashlib
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from xling.errors import DataError

Row = dict[str, Any]

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
BATCH = 512  # rows of Parquet in memory at a time
WHOLE = 1 << 26  # larger files are told apart by size, first and last MiB: gigabytes take long to hash at every plan
END = 1 << 20
FIELD = 1 << 24  # characters of the longest field of a CSV


def is_table(path: Path) -> bool:
    """Whether the file's name ends as one of the formats."""
    return path.name.lower().endswith(SUFFIXES)


def fields(path: Path) -> list[str]:
    """Names of a table's columns; of JSON lines, those of the first row. DataError if it cannot be read."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return list(_parquet(path).schema_arrow.names)
    if ".json" in name:
        return list(next(_json_rows(path), (0, {}))[1])
    return next(csv.reader(_lines(path), delimiter=_delimiter(path)), [])


def require(path: Path, needed: Iterable[str]) -> None:
    """DataError that names the first column that is missing, with those found."""
    found = fields(path)
    for name in needed:
        if name not in found:
            raise DataError(f"{path} has no column '{name}'; it has {', '.join(found) or 'none'}.")


def rows(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[int, Row]]:
    """(row number from 0, row) of a table; of Parquet only the columns named are read, where they exist.

    A value is what the format says: text in CSV and TSV (quoted as CSV is), None for null, a dict for a struct.
    Bytes, as exports from TensorFlow Datasets have them, become text. DataError for a damaged file or a line that is
    not UTF-8 or not JSON, with its number.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet_rows(path, columns)
    elif ".json" in name:
        yield from _json_rows(path)
    else:
        yield from _csv_rows(path)


def text_of(value: Any) -> str:
    """A field as text: nothing for null and for the NaN that pandas writes, bytes decoded."""
    if value is None or value != value:
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)


def digest(paths: Sequence[Path]) -> str:
    """sha256 over names, sizes and contents; of files above 64 MiB only the first and last MiB are read.

    Computed once for a size and modification time.
    """
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(f"{path.parent.name}/{path.name}\0".encode() + _content(*identity(path)))
    return found.hexdigest()


def identity(path: Path) -> tuple[str, int, int]:
    """(path, size, modification time): what caches go by."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


# --- inside -------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _content(path: str, size: int, modified: int) -> bytes:
    with open(path, "rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").digest()
        ends = hashlib.sha256(str(size).encode() + file.read(END))
        file.seek(-END, 2)
        ends.update(file.read(END))
        return ends.digest()


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {error}. Copy it again.") from error


def _parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    file, number = _parquet(path), 0
    names = file.schema_arrow.names
    kept = None if columns is None else [name for name in names if name in columns]
    for batch in file.iter_batches(batch_size=BATCH, columns=kept):
        for row in batch.to_pylist():
            yield number, row
            number += 1


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[str]:
    """Decoded lines, their ends kept, without a byte order mark."""
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    shown = f"byte {error.start}: 0x{line[error.start]:02x}"
                    raise DataError(f"{path}, line {number} is not UTF-8 ({shown}). Copy the file again.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}. Copy it again.") from error


def _json_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    for line_number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {line_number} is not JSON: {error}. One object a line is read.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {line_number} is no JSON object. One object a line is read.")
        yield number, row
        number += 1


def _delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower() else ","


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows by the header's names; DataError for one of another length, as an unbalanced quote leaves behind."""
    csv.field_size_limit(FIELD)
    reader = csv.reader(_lines(path), delimiter=_delimiter(path))
    try:
        header = next(reader, [])
        for number, cells in enumerate(row for row in reader if row):
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num} has {len(cells)} fields, the header has {len(header)}: "
                    "a tab, line end or quote in a field has to be quoted."
                )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} cannot be read: {error}.") from error
