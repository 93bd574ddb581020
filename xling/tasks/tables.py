"""Files as rows: JSON lines, JSON, CSV, TSV (each plain or gzipped), Parquet and Arrow, read row by row, numbered.

    table = open_table(path)
    table.columns                       # what is there, for errors that name it
    for number, row in table.rows():    # row: a dict, or a sentence on why it cannot be read
        ...
    for number, row in table.good_rows():    # DataError at the first that cannot be read
        ...

Nulls and the empty cells of CSV and TSV are None. Text is UTF-8, or UTF-16 and UTF-32 with their byte order mark; cells
are separated by what the first row is. What a JSON parser would settle in silence is a row that cannot be read: a key
that stands twice, half of a surrogate pair. A million articles are read a few at a time and, of Parquet, only
the columns that are asked for. Knows no config and no torch.
"""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from xling.errors import ConfigError, DataError, listed, shown
from xling.tasks.paths import plain_name

T = TypeVar("T")
Row = dict[str, Any]
Numbered = tuple[int, Row | str]

GZIP_MAGIC, PARQUET_MAGIC, ZIP_MAGIC = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
POINTER = b"version https://git-lfs"  # what stands for a file that was not fetched
SEPARATORS = ",;\t|"
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?')  # the line by which Excel is told, above the first row
BYTE_ORDER_MARK = codecs.BOM_UTF8
WIDE = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip  # the longer ones first: one begins as a shorter one does
LINE, ARRAY = msgspec.json.Decoder(Row), msgspec.json.Decoder(list[Row])
PEEKED = 1000  # rows whose fields are a JSON file's columns
BATCH = 512  # rows of Parquet in memory at a time: they may be long articles
DEEPEST = 400  # levels of JSON
EXACT = 2.0**53  # above, not every whole number is a float
KEY = re.compile(rb'"\s*:')  # where a key of JSON ends; in a text it ends none, but there it is rare
# What an export of Appraise's scores holds, whose first row is one of them: with marked errors and without.
_SCORED = ("annotator", "system", "segment", "type", "src_lang", "tgt_lang", "score", "doc_id", "is_document")
APPRAISE = ((*_SCORED, "spans", "start", "end"), (*_SCORED, "start", "end"))
APPRAISED = ("TGT", "BAD", "CHK", "REF")  # its fourth cell
UNQUOTED = frozenset(("rater", "category", "severity"))  # columns of MQM's TSV, in which a quote is a quote
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Table:
    """One file; its rows can be gone through as often as one likes."""

    path: Path
    unit: str  # what a row's number counts: line or row, from 1
    columns: tuple[str, ...]
    read: Callable[[Collection[str] | None], Iterator[Numbered]]  # the columns that are read, where it saves time
    decimal_comma: bool = False  # cells are separated by what leaves the comma to numbers

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
                raise DataError(f"{self.path} has no column '{name}'; it has {listed(self.columns)}.")


SHOWN = 10  # bad rows that an error lists


def bad_rows(what: str, first: Sequence[str], n: int) -> str:
    """The sentence on bad rows: the first of them, each with its place and reason, and how many more there are."""
    more = [f"and {n - len(first)} more"] if n > len(first) else []
    return "\n  ".join([f"{what}:", *first, *more])


def text_of(value: Any) -> str:
    """A field as text: nothing for null and for the NaN that pandas writes; bytes, as TFDS exports have, decoded.

    Whole numbers that pandas made floats of are whole again. DataError for bytes that are not UTF-8.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return str(int(value))
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except ValueError as error:  # of bytes; or of an integer of more digits than Python prints
        raise DataError(f"{shown(value)} cannot be read as text: {shown(error)}.") from error


def open_table(path: Path, strict: bool = True, encoding: str = "") -> Table:
    """Told by its first bytes and its name; what is neither CSV, TSV, JSON nor Parquet is read as JSON lines.

    strict: quotes of CSV and TSV that do not stand as RFC 4180 has them make a bad row, else they are dropped.
    encoding: of text without a byte order mark, as Python calls it; empty: UTF-8.
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
    name = plain_name(path)
    if magic == PARQUET_MAGIC or name.endswith(".parquet"):
        return _parquet(path)
    if magic == ZIP_MAGIC:
        raise DataError(f"{path} is a zip archive or a workbook of Excel. Unpack it, or save the sheet as CSV.")
    if name.endswith(".arrow"):
        return _arrow(path)
    if name.endswith((".csv", ".tsv")):
        return _separated(path, "\t" if name.endswith(".tsv") else ",", strict, encoding)
    if name.endswith((".json", ".jsonl", ".ndjson")) and (array := _json_array(path, encoding)) is not None:
        return array
    peeked = (row for _, row in itertools.islice(_json_lines(path, encoding), PEEKED) if isinstance(row, dict))
    return Table(path, "line", _fields(peeked), lambda _: _json_lines(path, encoding))


# --- formats ------------------------------------------------------------------------------------------------


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) in UTF-8, without a byte order mark; gzip is told by its bytes."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            file: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            with closing(_in_utf8(file, encoding)) as lines:
                for number, line in enumerate(lines, start=1):
                    yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}. Copy it again.") from error
    except UnicodeError as error:
        begins = f"is not in task.encoding={encoding}" if encoding else "begins as UTF-16 or UTF-32, and is not"
        raise DataError(f"{path} {begins}: {error}. Save it as UTF-8.") from error


def _in_utf8(file: Any, encoding: str) -> Generator[bytes, None, None]:
    start = file.peek(4)[:4]
    other = encoding if encoding and not start.startswith(BYTE_ORDER_MARK) else None
    wide = next((name for mark, name in WIDE.items() if start.startswith(mark)), other)
    if wide is None:
        yield from file
    else:
        text = io.TextIOWrapper(file, encoding=wide, newline="\n")
        try:
            yield from (line.encode() for line in text)
        finally:
            text.detach()  # whoever opened the file closes it


def _json_lines(path: Path, encoding: str) -> Iterator[Numbered]:
    for number, line in _lines(path, encoding):
        if line.isspace():
            continue
        try:
            row = from_json(line, LINE)
        except (ValueError, msgspec.DecodeError) as error:
            yield number, _reason(line, error)
        else:
            yield number, row


def _json_array(path: Path, encoding: str) -> Table | None:
    """A file that holds one array of objects, whatever its name; None if it holds something else, such as lines."""
    if not next((line for _, line in _lines(path, encoding) if not line.isspace()), b"").lstrip().startswith(b"["):
        return None
    content = b"".join(line for _, line in _lines(path, encoding))
    try:
        found = from_json(content, ARRAY)
    except (ValueError, msgspec.DecodeError) as error:
        if not plain_name(path).endswith(".json"):
            return None  # lines, of which the first is no good
        raise DataError(f"{path} is no array of objects: {_reason(content, error)}.") from error
    return Table(path, "row", _fields(found[:PEEKED]), lambda _: iter(enumerate(found, start=1)))


def from_json(content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """As the standard has JSON, and with the NaN and Infinity that Python writes.

    ValueError for a key that stands twice in one object, of which a parser takes the last, for half of a surrogate
    pair, which is no character, and for what is nested without end.
    """
    try:
        found: T = decoder.decode(content)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        text = content.decode()
        odd = "NaN" in text or "Infinity" in text or SURROGATE.search(text)
        if isinstance(error, msgspec.ValidationError) or not odd:
            raise
        found = msgspec.convert(_by_pairs(text), decoder.type)
        if SURROGATE.search(text):
            _whole(json.dumps(found, ensure_ascii=False))
    keys = _keys(found)
    if content.count(b":") != keys and len(KEY.findall(content)) != keys:
        _by_pairs(content.decode())
    return found


def _by_pairs(text: str) -> Any:
    """By Python's own parser, which shows every key; ValueError for one that stands twice in an object."""

    def once(pairs: list[tuple[str, Any]]) -> Row:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
            raise ValueError(f"the key {shown(twice)} stands twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None


def _whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise ValueError(f"{half} is half of a surrogate pair, and no character") from None


def _keys(value: Any, level: int = 0) -> int:
    """The number of keys in all objects."""
    if level > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    found, inner = (len(value), value.values()) if isinstance(value, dict) else (0, value)
    for one in inner:
        if isinstance(one, (dict, list)):  # a union takes longer, and every cell is asked
            found += _keys(one, level + 1)
    return found


def _reason(line: bytes, error: Exception) -> str:
    """The fault of a line that could not be decoded, in words."""
    if isinstance(error, UnicodeDecodeError):
        return (
            f"not UTF-8 (byte {error.start}: 0x{line[error.start]:02x}). If it is in Windows-1252 or Latin-1, save it "
            "as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE, or of task=files type task.encoding=windows-1252"
        )
    if line.startswith(POINTER):
        return "a pointer of git-lfs in place of the file: git lfs pull fetches it"
    if b"\0" in line[:PEEKED]:
        return "not JSON: it has NUL bytes, as UTF-16 has. Save the file as UTF-8"
    if isinstance(error, msgspec.ValidationError) or not isinstance(error, msgspec.DecodeError | json.JSONDecodeError):
        return str(error)
    return f"not JSON: {error}"


def _fields(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(field for row in rows for field in row))


def _separated(path: Path, usual: str, strict: bool, encoding: str) -> Table:
    """CSV by RFC 4180: quoted cells may hold separators, doubled quotes and line ends; the first row names them.

    What separates them is what the first row has most of, outside quotes, or what a line `sep=;` above it says.
    """
    csv.field_size_limit(2**31 - 1)
    damaged: dict[int, str] = {}
    above, first = 0, ""
    for _, line in _ended(_lines(path, encoding)):
        first = line.decode(errors="replace").rstrip("\r\n")
        if first.strip():
            break
        above += 1
    if "\0" in first:
        raise DataError(f"{path} has NUL bytes in its first row, as UTF-16 has. Save the file as UTF-8.")
    told = EXCEL_SEPARATOR.fullmatch(first)
    above += told is not None
    unquoted = re.sub('"[^"]*"', "", first)
    separator = told[1] if told else max(SEPARATORS, key=lambda one: (unquoted.count(one), one == usual))

    def reader() -> Any:
        lines = itertools.islice(_decoded(path, encoding, damaged), above, None)
        return csv.reader(lines, delimiter=separator, strict=strict, quoting=quoting)

    mqm = separator == "\t" and set(first.split("\t")) >= UNQUOTED and "misc" not in first.split("\t")
    quoting: Literal[0, 3] = csv.QUOTE_NONE if mqm else csv.QUOTE_MINIMAL
    opened = reader()
    try:
        header = [name.strip() for name in next(opened, [])]
    except csv.Error as error:
        raise DataError(f"{path} has a first row that cannot be read: {error}.") from error
    if wrong := next((damaged[n] for n in range(above + 1, above + opened.line_num + 1) if n in damaged), None):
        raise DataError(f"{path} has a first row that cannot be read: {wrong}.")
    export = next((names for names in APPRAISE if len(names) == len(header) and header[3] in APPRAISED), None)
    columns = export or _once_each(path, header, but="")
    return Table(path, "line", columns, lambda _: _cells(reader(), damaged, above, export), separator in ";\t")


def _ended(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Lines, also of a file whose lines end with carriage returns alone, as old spreadsheets write them."""
    for number, line in lines:
        if number == 1 and b"\r" in line.rstrip(b"\r\n") and not line.endswith(b"\n"):
            yield from ((place, part + b"\n") for place, part in enumerate(line.split(b"\r"), start=1))
        else:
            yield number, line


def _decoded(path: Path, encoding: str, damaged: dict[int, str]) -> Iterator[str]:
    for number, line in _ended(_lines(path, encoding)):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            damaged[number] = _reason(line, error)
            yield line.decode(errors="replace")


def _cells(reader: Any, damaged: dict[int, str], above: int, names: Sequence[str] | None = None) -> Iterator[Numbered]:
    """Rows by the names of the first; columns without a name, which a spreadsheet may leave at the end, are empty."""
    header = list(names) if names else [name.strip() for name in next(reader, [])]
    unnamed, form = header.count("") > 1, "TSV" if reader.dialect.delimiter == "\t" else "CSV"
    while True:
        start = above + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield start, f"not {form}: {error}"
            continue
        if cells is None:
            return
        lines = range(start, above + reader.line_num + 1)
        wrong = next((damaged[line] for line in lines if line in damaged), None)
        if wrong:
            yield start, wrong
        elif cells and len(cells) != len(header):
            yield start, f"{len(cells)} cells, and the first row names {len(header)}"
        elif unnamed and any(cell and not name for name, cell in zip(header, cells, strict=bool(cells))):
            yield start, "a cell in a column without a name"
        elif cells:
            yield start, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _parquet(path: Path) -> Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    def batches(columns: Collection[str] | None) -> Iterator[Any]:
        file = ParquetFile(path)
        kept = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
        yield from file.iter_batches(batch_size=BATCH, columns=kept)

    try:
        names = ParquetFile(path).schema_arrow.names
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file: {shown(error, 300)}. Copy it again.") from error
    return _columnar(path, names, "Parquet", batches)


def _arrow(path: Path) -> Table:
    """Table of an Arrow file, or of the stream that `datasets` writes with save_to_disk."""
    import pyarrow

    def opened() -> Any:
        source = pyarrow.memory_map(str(path))
        try:
            return pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            return pyarrow.ipc.open_file(source)

    def batches(columns: Collection[str] | None) -> Iterator[Any]:
        reader = opened()
        stream = not hasattr(reader, "num_record_batches")
        for batch in reader if stream else map(reader.get_batch, range(reader.num_record_batches)):
            kept = [name for name in batch.schema.names if columns is None or name in columns]
            wanted = batch.select(kept)
            yield from (wanted.slice(start, BATCH) for start in range(0, wanted.num_rows, BATCH))

    try:
        names = opened().schema.names
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is a damaged Arrow file: {shown(error, 300)}. Copy it again.") from error
    return _columnar(path, names, "Arrow", batches)


def _columnar(
    path: Path, names: list[str], form: str, batches: Callable[[Collection[str] | None], Iterator[Any]]
) -> Table:
    from pyarrow import ArrowException

    def rows(columns: Collection[str] | None) -> Iterator[Numbered]:
        number = 0
        try:
            for batch in batches(columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except UnicodeDecodeError as error:
            raise DataError(f"{path} has text that is not UTF-8 after row {number}: {shown(error, 300)}.") from error
        except (ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is a damaged {form} file: {shown(error, 300)}. Copy it again.") from error

    return Table(path, "row", _once_each(path, names), rows)


def _once_each(path: Path, names: list[str], but: str | None = None) -> tuple[str, ...]:
    """Names of columns; DataError if several have the same name (`but` for that one)."""
    if twice := sorted({name for name in names if name != but and names.count(name) > 1}):
        raise DataError(f"{path} has several columns of the same name: {listed(twice)}. Rename all but one.")
    return tuple(dict.fromkeys(names))
