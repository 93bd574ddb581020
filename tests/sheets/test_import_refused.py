"""Every way in which a file of answers can be wrong: refused with file, row, value and what to do."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from grids import Row, filled, sheet, table, take, with_sheets, written

from xling.errors import ConfigError, DataError
from xling.grid.store import Store
from xling.sheets.export import Asked
from xling.sheets.imports import import_answers

Edit = Callable[[list[Row]], Sequence[Row]]


def replaced(number: int, **cells: str) -> Edit:
    return lambda rows: [row | cells if at == number else row for at, row in enumerate(rows)]


LONG = "x" * 99
WRONG: dict[str, tuple[Edit, str]] = {
    "missing": (lambda rows: rows[:2] + rows[4:], "2 of 8 rows are missing"),
    "doubled": (lambda rows: [*rows, rows[1]], "row 10: id '{id1}' stands in row 3 already: delete one of the two"),
    "foreign": (replaced(0, id="zzzzzzzz"), "row 2: id 'zzzzzzzz' is not of this sheet: delete the row"),
    "no id": (replaced(3, id=""), "row 5: id '' is not of this sheet"),
    "preference": (replaced(2, preference="C"), "row 4: preference 'C' is not allowed: type A, B, tie, or nothing"),
    "control codes": (replaced(2, preference="\x1b[2J"), "row 4: preference '␛[2J' is not allowed"),
    "number": (replaced(2, preference="1"), "row 4: preference '1' is not allowed"),
    "prompt": (replaced(1, prompt="another"), "row 3: prompt is not the text that was exported (it reads 'another')"),
    "response": (
        replaced(1, response_b=LONG),
        f"row 3: response_b is not the text that was exported (it reads '{LONG[:40]}...')",
    ),
    "swapped": (
        lambda rows: [{**rows[0], "response_a": rows[0]["response_b"], "response_b": rows[0]["response_a"]}, *rows[1:]],
        "row 2: response_a is not the text",
    ),
    "nothing": (lambda rows: [row | {"preference": ""} for row in rows], "has no answer in it"),
    "two people": (
        lambda rows: [row | {"annotator": "ab"[at % 2]} for at, row in enumerate(rows)],
        "has several annotators: a, b. Import a file of its own for each",
    ),
    "name": (lambda rows: [row | {"annotator": "x" * 81} for row in rows], "is too long"),
    "long name": (lambda rows: [row | {"annotator": "ж" * 50} for row in rows], "is too long"),
    "all foreign": (
        lambda rows: [row | {"id": "zzzzzzzz"} for row in rows],
        "has no row of this folder's sheets (sheet.csv)",
    ),
    "no column": (
        lambda rows: [{k: v for k, v in row.items() if k != "preference"} for row in rows],
        "lacks the column preference in row 1; it has id, language",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_does_not_fit(recorded: Store, tmp_path: Path, name: str) -> None:
    edit, sentence = WRONG[name]
    store = with_sheets(recorded, tmp_path, Asked(n=8), "source=en,target=en")
    good = filled(sheet(store), tmp_path / "good.csv", lambda *_: "A")
    rows = table(good)
    assert len(rows) == 8
    bad = written(tmp_path / "bad.csv", edit(rows))
    with pytest.raises(DataError) as error:
        take(store, good, bad)
    said = str(error.value)
    assert str(bad) in said and sentence.format(id1=rows[1]["id"]) in said
    assert not (store.grid_folder("g") / "human").exists()  # the good one is not taken either


def test_all_problems_are_listed_up_to_five(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(n=8), "source=en,target=en")
    bad = filled(sheet(store), tmp_path / "bad.csv", lambda *_: "both")
    with pytest.raises(DataError) as error:
        take(store, bad)
    lines = str(error.value).splitlines()
    assert len(lines) == 7 and lines[5].startswith("  row 6:") and lines[6] == "  and 3 more"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "lacks the columns id, language, prompt, response_a, response_b, preference, comment in row 1"),
        ("id,şey".encode("cp1254"), "is not UTF-8 (byte 3). Save it as 'CSV UTF-8'"),
        ("id,x".encode("utf-16"), "is not UTF-8 (byte 0)"),
        (b'"id","a', "cannot be read as CSV"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table(recorded: Store, tmp_path: Path, content: bytes, sentence: str) -> None:
    store = with_sheets(recorded, tmp_path, Asked(n=3))
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(DataError) as error:
        take(store, tmp_path / "bad.csv")
    assert sentence in str(error.value)


def test_rows_of_two_sheets_in_one_file(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(n=3))
    rows = table(sheet(store, "sheet_ar")) + table(sheet(store, "sheet_en"))[:1]
    with pytest.raises(
        DataError, match=r"row 5: id '\w+' is of sheet_en: import each sheet's rows as a file of its own"
    ):
        take(store, written(tmp_path / "both.csv", rows))


def test_files_that_name_nobody_or_are_not_there(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(n=3), "target=en")
    untouched = filled(sheet(store), tmp_path / "sheet.csv", lambda *_: "A")
    with pytest.raises(DataError, match="does not say who answered"):
        take(store, untouched)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        take(store, tmp_path / "nobody.csv")


def test_a_root_without_the_grid(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(n=3), "target=en")
    answers = filled(sheet(store), tmp_path / "ada.csv", lambda *_: "A")
    with pytest.raises(ConfigError, match=r"is of grid 'g', which .* has not"):
        import_answers(Store(tmp_path / "elsewhere"), tmp_path / "sheets", [answers])
