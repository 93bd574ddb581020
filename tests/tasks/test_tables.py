"""One reader of tables: what all tasks share. Formats and bad rows are tested with the rows of one's own."""

import json
from pathlib import Path

import pytest

from xling.errors import DataError
from xling.tasks.tables import digest, open_table


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


def test_a_pointer_in_place_of_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match=r"a\.parquet is a damaged Parquet file"):
        open_table(tmp_path / "a.parquet")


def test_a_table_of_unreadable_rows_says_so_before_its_columns_are_missed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("nothing\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: not JSON"):
        open_table(tmp_path / "a.jsonl").require(["x"])


def test_a_digest_is_of_content_and_of_the_names_of_several(tmp_path: Path) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_bytes(b"a")
    other.write_bytes(b"a")
    assert digest([one]) == digest([other]) != digest([one, other]) != digest([other, one])
