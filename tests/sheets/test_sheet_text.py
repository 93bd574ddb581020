"""Texts through a spreadsheet and back: nothing is run, nothing is lost, nothing that was edited passes."""

import csv
import io

import pytest
from grids import HOSTILE

from xling.console import direction, shown
from xling.sheets.key import csv_bytes, digest, guarded, same_text, unguarded


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_no_formula_and_comes_back(text: str) -> None:
    cell = guarded(shown(text))
    assert cell[:1] not in tuple("=+-@\t\r\n")
    [[read]] = csv.reader(io.StringIO(csv_bytes([[cell]]).decode("utf-8-sig"), newline=""))
    assert read == cell and unguarded(read) == shown(text)
    assert same_text(read, digest(text))
    assert same_text(shown(text), digest(text))  # a program that takes the apostrophe away
    assert same_text(read.replace("\n", "\r\n") + " ", digest(text))
    assert not same_text(read + "x", digest(text))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\x00b\x1b[1m\x07", "a␀b␛[1m␇"),
        ("\u202eabc\x9b", "<U+202E>abc<U+009B>"),
        (" a\r\nb\rc\u2028d \n", "a\nb\nc\nd"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # joiners are spelling
    ],
)
def test_what_is_shown(text: str, seen: str) -> None:
    assert shown(text) == shown(seen) == seen


@pytest.mark.parametrize("text", ["3/4", "1e5", "٣", "12:30", "Jan 5", "=1", "'=1", "'a", "＝1"])
def test_what_a_spreadsheet_would_change_is_guarded(text: str) -> None:
    assert guarded(text) == f"'{text}" and unguarded(f"'{text}") == text


@pytest.mark.parametrize("text", ["", "a = b", "It sold 30 ships in May, they say.", "“quoted”"])
def test_what_it_would_not_is_left_alone(text: str) -> None:
    assert guarded(text) == text == unguarded(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NASA: مرحبا بكم", "rtl"),
        ("שלום", "rtl"),
        ("Hello from مصر", "ltr"),
        ("123 !", "auto"),
        ("", "auto"),
    ],
)
def test_direction_by_most_letters(text: str, expected: str) -> None:
    assert direction(text) == expected
