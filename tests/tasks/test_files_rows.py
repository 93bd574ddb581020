"""Rows of recorded ratings: every kind of bad row is named with its line number."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xling.errors import ConfigError, DataError
from xling.tasks.rows import SHOWN, read_rows

GOOD: dict[str, Any] = {
    "id": "d1",
    "lang": "de",
    "document": "Ein Text.",
    "response": "Kurz.",
    "system": "a",
    "rating": 0.5,
}


def line(**changed: Any) -> bytes:
    """A good row with some fields changed, or left out where they are None."""
    return json.dumps({k: v for k, v in {**GOOD, **changed}.items() if v is not None}).encode()


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(system=None), "missing required field `system`"),
        (line(lang=None), "missing required field `lang`"),
        (line(response=None), "missing required field `response`"),
        (line(rating=None), "missing required field `rating`"),
        (line(document=None), "missing required field `document` (or `prompt`)"),
        (line(rating="good"), "Expected `float`, got `str` - at `$.rating`"),
        (line(rating=True), "Expected `float`, got `bool` - at `$.rating`"),
        (line().replace(b"0.5", b"null"), "Expected `float`, got `null` - at `$.rating`"),
        (line(rating=float("nan")), "NaN and Infinity are no ratings"),
        (line(rating=float("-inf")), "NaN and Infinity are no ratings"),
        (line().replace(b"0.5", b"1e999"), "out of range - at `$.rating`"),
        (line(system=7), "Expected `str`, got `int` - at `$.system`"),
        (line(id=True), "got `bool` - at `$.id`"),
        (line(lang=" "), "`lang` is empty"),
        (line(document=""), "`document` is empty"),
        (line().replace(b"Kurz", b"K\xffrz"), "not UTF-8"),
        (line()[:-4], "not JSON"),
        (b"[1, 2]", "Expected `object`, got `array`"),
        (line(), "duplicate of line 1: id 'd1', lang 'de', system 'a'"),
        (line(system="b", document="Another text."), "document of id 'd1' differs from the one in line 1"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad: bytes, reason: str) -> None:
    rows = read_rows(write(tmp_path / "rows.jsonl", line(), line(id="d2"), bad, line(id="d3")), "rating")
    [(number, found)] = rows.bad
    assert number == 3
    assert reason in found
    assert rows.n == 4
    assert sorted(rows.languages["de"]) == ["d1", "d2", "d3"]


def test_only_the_first_bad_rows_are_kept_but_all_are_counted(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.jsonl", *[b"{}"] * 25), "rating")
    assert rows.n_bad == 25
    assert [number for number, _ in rows.bad] == list(range(1, SHOWN + 1))


def test_gzip_is_told_by_its_bytes_and_reads_the_same(tmp_path: Path) -> None:
    lines = [line(), line(system="b", rating=2), line(id="d2", lang="tr")]
    plain = write(tmp_path / "plain.jsonl", *lines)
    zipped = tmp_path / "named_as_it_likes.txt"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_rows(zipped, "rating").languages == read_rows(plain, "rating").languages


def test_byte_order_mark_windows_line_ends_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line() + b"\r\n\r\n  \n" + line(system="b") + b"\r\n")
    rows = read_rows(path, "rating")
    assert not rows.bad
    assert rows.n == 2
    assert rows.languages["de"]["d1"].answers["b"].line == 4


def test_another_field_can_hold_the_rating_and_a_prompt_can_replace_the_document(tmp_path: Path) -> None:
    row = line(document=None, prompt="Say hello.", rating=None, focus=3)
    rows = read_rows(write(tmp_path / "rows.jsonl", row), "focus")
    prompt = rows.languages["de"]["d1"]
    assert prompt.text == "Say hello."
    assert prompt.answers["a"].rating == 3.0


def test_numeric_ids_and_empty_responses_are_fine(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.jsonl", line(id=17, response="")), "rating")
    assert rows.languages["de"]["17"].answers["a"].response == ""


def test_a_cut_off_archive_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(line(id=str(i)) for i in range(500)))[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        read_rows(path, "rating")


def test_a_file_that_cannot_be_read_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.path=PATH"):
        read_rows(tmp_path / "absent.jsonl", "rating")
