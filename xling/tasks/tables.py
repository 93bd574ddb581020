"""Files as rows: JSON lines, JSON, CSV, TSV (each plain or gzipped) and Parquet, read row by row with their numbers.

    for path in paths_of("data/*.csv"):
        table = open_table(path)
        table.columns                       # what is there, for errors that name it
        for number, row in table.rows():    # row: a dict, or a sentence on why it cannot be read
            ...
        for number, row in table.good_rows():    # DataError at the first that cannot be read
            ...

Nulls and the empty cells of CSV and TSV are None. A million articles are read a few at a time and, of Parquet, only
the columns that are asked for. Knows no config and no torch.
"""

import csv
import glob
import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from xling.digests import file_digest
from xling.errors import ConfigError, DataError, did_you_mean

T = TypeVar("T")
Row = dict[str, Any]
Numbered = tuple[int, Row | str]
Identity = tuple[tuple[str, int, int], ...]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LINE, ARRAY = msgspec.json.Decoder(Row), msgspec.json.Decoder(list[Row])
PEEKED = 1000  # rows whose fields are a JSON file's columns
BATCH = 512  # rows of Parquet in memory at a time: they may be long articles


@dataclass(frozen=True, slots=True)
class Table:
    """One file; its rows can be gone through as often as one likes."""

    path: Path
    unit: str  # what a row's number counts: line or row, from 1
    columns: tuple[str, ...]
    read: Callable[[Collection[str] | None], Iterator[Numbered]]  # the columns that are read, where it saves time

    def rows(self) -> Iterator[Numbered]:
        """Each row with its number; one that cannot be read (bad UTF-8, no JSON, too many cells) stops no others."""
        return self.read(None)

    def good_rows(self, columns: Collection[str] | None = None) -> Iterator[tuple[int, Row]]:
        """The same, with these columns at least; DataError at the first row that cannot be read."""
        for number, row in self.read(columns):
            if isinstance(row, str):
                raise DataError(f"{self.where(number)}: {row}.")
            yield number, row

    def where(self, number: int) -> str:
        """`PATH, line 3`."""
        return f"{self.path}, {self.unit} {number}"

    def require(self, needed: Iterable[str]) -> None:
        """DataError that names the first column that is missing, with those found."""
        if not self.columns:
            next(self.good_rows(), None)  # which says why there are none
        for name in needed:
            if name not in self.columns:
                raise DataError(f"{self.path} has no column '{name}'; it has {', '.join(self.columns) or 'none'}.")


def paths_of(path: str, setting: str = "task.path") -> list[Path]:
    """The files that a setting names: itself, all tables below a folder, or what a glob matches; sorted.

    ConfigError if there is none, with what to type.
    """
    if path in ("", "???"):
        raise ConfigError(
            f"This {setting.partition('.')[0]} needs data. Name a file, a folder or a glob with {setting}=PATH."
        )
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
    return _plain_name(path).endswith(SUFFIXES) and not path.name.startswith(".")


def text_of(value: Any) -> str:
    """A field as text: nothing for null and for the NaN that pandas writes; bytes, as TFDS exports have, decoded."""
    if value is None or value != value:
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)


def identity(paths: Iterable[Path]) -> Identity:
    """(path, size, modification time) of each: what caches of their content go by."""
    return tuple((str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in paths)


def digest(paths: Sequence[Path]) -> str:
    """sha256 of a file's bytes, or over the folders, names and contents of several, in this order."""
    if len(paths) == 1:
        return file_digest(paths[0])
    named = (f"{path.parent.name}/{path.name} {file_digest(path)}\n" for path in paths)
    return hashlib.sha256("".join(named).encode()).hexdigest()


def open_table(path: Path, strict: bool = True) -> Table:
    """Told by its first bytes and its name; what is neither CSV, TSV, JSON nor Parquet is read as JSON lines.

    strict: quotes of CSV and TSV that do not stand as RFC 4180 has them make a bad row, else they are dropped.
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
    name = _plain_name(path)
    if magic == PARQUET_MAGIC or name.endswith(".parquet"):
        return _parquet(path)
    if name.endswith((".csv", ".tsv")):
        return _separated(path, "\t" if name.endswith(".tsv") else ",", strict)
    if name.endswith(".json") and (array := _json_array(path)) is not None:
        return array
    peeked = (row for _, row in itertools.islice(_json_lines(path), PEEKED) if isinstance(row, dict))
    return Table(path, "line", _fields(peeked), lambda _: _json_lines(path))


# --- formats ------------------------------------------------------------------------------------------------


def _plain_name(path: Path) -> str:
    return path.name.lower().removesuffix(".gz")


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
    for number, line in _lines(path):
        if line.isspace():
            continue
        try:
            yield number, _from_json(line, LINE)
        except (ValueError, msgspec.DecodeError) as error:
            yield number, _reason(line, error)


def _json_array(path: Path) -> Table | None:
    """A .json file that holds one array of objects; None if it holds something else, such as lines."""
    if not next((line for _, line in _lines(path) if not line.isspace()), b"").lstrip().startswith(b"["):
        return None
    content = b"".join(line for _, line in _lines(path))
    try:
        found = _from_json(content, ARRAY)
    except (ValueError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is no array of objects: {_reason(content, error)}.") from error
    return Table(path, "row", _fields(found[:PEEKED]), lambda _: iter(enumerate(found, start=1)))


def _from_json(content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """As the standard has JSON, and with the NaN and Infinity that Python writes."""
    text = content.decode()
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as error:
        if isinstance(error, msgspec.ValidationError) or not ("NaN" in text or "Infinity" in text):
            raise
        found: T = msgspec.convert(json.loads(text), decoder.type)
        return found


def _reason(line: bytes, error: Exception) -> str:
    """What is wrong with a line that could not be decoded, in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start}: 0x{line[error.start]:02x})"
    return str(error) if isinstance(error, msgspec.ValidationError) else f"not JSON: {error}"


def _fields(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for row in rows for field in row))


def _separated(path: Path, separator: str, strict: bool) -> Table:
    """CSV by RFC 4180: quoted cells may hold separators, doubled quotes and line ends; the first row names them."""
    csv.field_size_limit(2**31 - 1)
    damaged: dict[int, str] = {}

    def reader() -> Any:
        return csv.reader(_decoded(path, damaged), delimiter=separator, strict=strict)

    try:
        header: list[str] = next(reader(), [])
    except csv.Error as error:
        raise DataError(f"{path} has a first row that cannot be read: {error}.") from error
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path} has several columns of the same name: {', '.join(twice)}. Rename all but one.")
    return Table(path, "line", tuple(header), lambda _: _cells(reader(), damaged))


def _decoded(path: Path, damaged: dict[int, str]) -> Iterator[str]:
    for number, line in _lines(path):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            damaged[number] = _reason(line, error)
            yield line.decode(errors="replace")


def _cells(reader: Any, damaged: dict[int, str]) -> Iterator[Numbered]:
    header: list[str] = next(reader, [])
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
            yield start, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet(path: Path) -> Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        names = ParquetFile(path).schema_arrow.names
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file: {error}. Copy it again.") from error
    return Table(path, "row", tuple(names), lambda columns: _parquet_rows(path, columns))


def _parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[Numbered]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        file = ParquetFile(path)
        kept = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(batch_size=BATCH, columns=kept):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file: {error}. Copy it again.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} has text that is not UTF-8 after row {number}: {error}.") from error
