"""One reader of tables: what all tasks share. Formats and bad rows are tested with the rows of one's own."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xling.errors import ConfigError, DataError
from xling.tasks.paths import paths_of
from xling.tasks.tables import open_table


def test_rows_can_be_gone_through_again_and_nulls_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,\n\n2,b\n")
    (tmp_path / "a.jsonl").write_text('{"x": "1", "y": null}\n\n{"x": "2", "y": "b"}\n')
    for name, first in (("a.csv", 2), ("a.jsonl", 1)):
        table = open_table(tmp_path / name)
        assert table.columns == ("x", "y")
        for _ in range(2):
            assert list(table.good_rows()) == [(first, {"x": "1", "y": None}), (first + 2, {"x": "2", "y": "b"})]


def test_nan_in_json_is_read_as_a_number(tmp_path: Path) -> None:
    rows = [{"x": float("nan"), "y": float("-inf")}]
    for name, content in (("a.jsonl", json.dumps(rows[0])), ("a.json", json.dumps(rows))):
        (tmp_path / name).write_text(content)
        [(number, row)] = open_table(tmp_path / name).good_rows()
        assert number == 1 and row["x"] != row["x"] and row["y"] == float("-inf")


def test_loose_quotes_are_a_bad_row_or_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('x\ty\n"So" he said\t1\n')
    [(number, reason)] = open_table(path).rows()
    assert number == 2 and isinstance(reason, str) and reason.startswith("not TSV")
    assert [row for _, row in open_table(path, strict=False).good_rows()] == [{"x": "So he said", "y": "1"}]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid x\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"nothing\n", "line 1: not JSON"),  # which is said before columns are missed
        ("a.jsonl", b"[1]\n", "line 1: Expected `object`, got `array`"),
        ("a.jsonl", b'{"x": "\xff"}\n', r"line 1: not UTF-8 \(byte 7: 0xff\)"),
        ("a.jsonl", b"", "no column 'x'; it has none"),
        ("a.jsonl", POINTER, "git lfs pull"),
        ("a.jsonl", codecs.BOM_UTF16_LE + b"x", "begins as UTF-16"),
        ("a.jsonl.gz", gzip.compress(b'{"x": 1}\n' * 5000)[:-20], "damaged gzip"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00damaged", "damaged gzip"),
        ("a.parquet", b"PAR1 not", "a.parquet is a damaged Parquet file"),
        ("a.parquet", POINTER, "damaged Parquet file"),
        ("a.csv", b"lang,x,x\nde,a,b\n", "several columns of the same name: x"),
        ("a.csv", b"PK\x03\x04 of Excel", "workbook of Excel.*as CSV"),
        ("a.csv", "id,text\n1,2\n".encode("utf-16-le"), "NUL bytes.*UTF-16.*Save the file as UTF-8"),
        ("a.csv", "id,Größe\n1,2\n".encode("latin-1"), "not UTF-8.*iconv -f WINDOWS-1252 -t UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_refused_by_name_and_line(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        open_table(tmp_path / name).require(["x"])
        list(open_table(tmp_path / name).good_rows())
    with pytest.raises(ConfigError, match=r"cannot be read from .*task\.path=PATH"):
        open_table(tmp_path / "absent.jsonl")


# --- what a parser would settle in silence ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"x": 1, "y": 2, "x": 3}', "the key 'x' stands twice in one object"),
        (b'{"x": 1, "\\u0078": 3}', "the key 'x' stands twice in one object"),
        (b'{"x" : 1, "y": "a \\": b", "x"\t: 3}', "the key 'x' stands twice in one object"),
        (b'{"x": [{"role": "user", "role": "system"}]}', "the key 'role' stands twice in one object"),
        (b'{"x": NaN, "x": 1}', "the key 'x' stands twice in one object"),
        (b'{"x": "\\ud800", "y": NaN}', "\\ud800 is half of a surrogate pair, and no character"),
        (b'{"x": "\\udc00 a"}', "\\udc00 is half of a surrogate pair, and no character"),
        (b'{"\\uDBFF": 1, "y": NaN}', "\\udbff is half of a surrogate pair, and no character"),
        (b'{"x":' * 500 + b"1" + b"}" * 500, "nested deeper than 400 levels"),
        (b'{"x":' * 50_000 + b"1" + b"}" * 50_000, "nested deeper than 400 levels"),
        (b'{"x": NaN, "y":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested deeper than 400 levels"),
        ('{"x": 1}'.encode("utf-16-le"), "NUL bytes, as UTF-16 has"),
        (b'{"x": ' + b"9" * 5000 + b"}", "Integer value out of range"),
    ],
)
def test_what_a_parser_would_settle_in_silence_is_a_row_that_cannot_be_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": "\\ud83d\\ude00", "y": "\\": {"}\n' + line + b"\n")
    first, second = open_table(path).rows()
    assert first == (1, {"x": "\U0001f600", "y": '": {'})
    assert isinstance(second[1], str) and reason in second[1] and len(second[1]) < 300
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + line + b"]")
    with pytest.raises(DataError):
        list(open_table(path).good_rows())


# --- what spreadsheets and other programs write -------------------------------------------------------------

ROWS = [
    {"id": "0", "text": "Größe, «a»; b|c"},
    {"id": "1", "text": 'two "quoted"\nlines'},
    {"id": "2", "text": "中文\tx"},
]


def cells(separator: str, end: str = "\r\n") -> str:
    lines = [["id", "text"], *([row["id"], '"' + row["text"].replace('"', '""') + '"'] for row in ROWS)]
    return "".join(separator.join(line) + end for line in lines)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_cells_are_separated_by_what_the_first_row_is_in_every_encoding_with_a_mark(
    tmp_path: Path, separator: str, name: str, encoding: str
) -> None:
    content = cells(separator).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    table = open_table(tmp_path / name)
    assert table.columns == ("id", "text") and [row for _, row in table.good_rows()] == ROWS
    assert table.decimal_comma == (separator in ";\t")


def test_the_line_that_tells_excel_the_separator_and_columns_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=;\nid; text, of it ;;\n1;a;;\n2;b;x;\n")
    table = open_table(tmp_path / "a.csv")
    assert table.columns == ("id", "text, of it", "")
    (first, row), second = table.rows()
    assert (first, row) == (3, {"id": "1", "text, of it": "a", "": None})
    assert second == (4, "a cell in a column without a name")


def test_big_endian_utf_16_json(tmp_path: Path) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF16_BE + text.encode("utf-16-be"))
    assert [row for _, row in open_table(tmp_path / "a.jsonl").good_rows()] == ROWS


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_of_save_to_disk_without_its_caches(tmp_path: Path, split: bool) -> None:
    from datasets import Dataset, DatasetDict

    made: Any = Dataset.from_list(ROWS)
    (DatasetDict({"train": made}) if split else made).save_to_disk(tmp_path / "saved")
    below = tmp_path / "saved" / "train" if split else tmp_path / "saved"
    [data] = below.glob("*.arrow")
    (below / "cache-0123456789abcdef.arrow").write_bytes(data.read_bytes())
    [path] = paths_of(str(tmp_path / "saved"))
    assert [row for _, row in open_table(path).good_rows()] == ROWS
    assert [row for _, row in open_table(path).good_rows(["id"])] == [{"id": row["id"]} for row in ROWS]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged Arrow file"):
        list(open_table(path).good_rows())


def test_files_that_are_not_what_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "array.jsonl").write_text(json.dumps(ROWS, indent=1))
    assert [row for _, row in open_table(tmp_path / "array.jsonl").good_rows()] == ROWS
    (tmp_path / "lines.jsonl").write_text('[1, 2]\n{"id": 1}\n')
    assert [number for number, row in open_table(tmp_path / "lines.jsonl").rows() if isinstance(row, dict)] == [2]
    (tmp_path / "old.csv").write_bytes(b"id,text\r0,a\r1,b\r")
    assert [list(row.values()) for _, row in open_table(tmp_path / "old.csv").good_rows()] == [["0", "a"], ["1", "b"]]
