"""Answers back in: real sheets filled in by rules with known results; what is kept, and what a spreadsheet does."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from grids import Row, filled, prefers_policy, sheet, table, take, with_sheets, written

from xling.cli import main
from xling.errors import ConfigError, DataError
from xling.grid.store import Store
from xling.sheets.export import Asked
from xling.sheets.imports import import_answers
from xling.sheets.judgements import Answer, Answers, CellResult, Judgements, judge, markdown
from xling.sheets.key import CellKey, Key, Pair, SheetKey, read_key
from xling.sheets.key import Row as KeyRow


@pytest.fixture
def store(sampled: Store, tmp_path: Path) -> Store:
    """A copy of the sampled grid, with sheets of all its cells in `sheets`."""
    return with_sheets(sampled, tmp_path, Asked())


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def cells_of(found: Judgements, **axes: str) -> list[CellResult]:
    return [cell for cell in found.cells if axes.items() <= cell.axes.items()]


# --- what comes out -----------------------------------------------------------------------------------------


def test_always_the_policys_response_is_a_hundred_percent_but_for_ties(store: Store, tmp_path: Path) -> None:
    answers = filled(sheet(store), tmp_path / "ada.csv", prefers_policy(tmp_path / "sheets"))
    result = take(store, answers)
    for cell in result.judgements.cells:
        own = cell.axes["judge"] == "target_rm" and cell.axes["source_lang"] == "tr"
        assert cell.people is not None and (cell.judge is None) == own
        n = cell.judged + cell.identical
        assert cell.judge is None or cell.judge.n == n
        assert cell.people.n == n == 12 and cell.unanswered == 0 and cell.annotators == 1
        assert cell.people.value == pytest.approx(100 * (cell.judged + cell.identical / 2) / n)
    assert result.judgements.agreement == []
    [ada] = result.judgements.annotators
    assert (ada.name, ada.answered, ada.a + ada.b, ada.tie) == ("ada", ada.rows, ada.rows, 0)


def test_an_annotator_who_is_the_judge_agrees_with_it(store: Store, tmp_path: Path) -> None:
    """Answers made of the key's own points for judge=target_rm: the win rates are the same, the kappa 1.

    But not at home, where the judge is the reward model that picked: what it says there is no judgement.
    """
    key = read_key(tmp_path / "sheets")
    mine = [cell for cell in key.cells if cell.axes["judge"] == "target_rm"]
    points = {p: v for cell in mine for p, v in zip(cell.pairs, cell.points, strict=True)}
    rows = {row.id: row for row in key.sheets[0].rows}

    def answer(_: int, row: Row) -> str:
        found = rows[row["id"]]
        other = {"A": "B", "B": "A"}[found.policy]
        return {1.0: found.policy, 0.0: other, 0.5: "Tie"}[points[found.pair]]

    found = take(store, filled(sheet(store), tmp_path / "rm.csv", answer)).judgements
    assert {1.0, 0.0} <= {points[row.pair] for row in rows.values()}  # else nothing would be shown
    [home], [abroad] = (cells_of(found, judge="target_rm", source_lang=source) for source in ("tr", "en"))
    assert abroad.people == abroad.judge and home.people is not None and home.judge is None
    assert "the very reward model that picked" in markdown(found)
    by_name = {one.judge: one for one in found.with_judge}
    judged = {row.pair for row in rows.values()} & {p for cell in mine for p in cell.pairs if not cell.own_judge}
    assert set(by_name) == {"gold", "target_rm"} and by_name["target_rm"].pairs == len(judged) < len(rows)
    raw, decided, kappa = by_name["target_rm"].raw, by_name["target_rm"].decided, by_name["target_rm"].kappa
    assert raw and raw.value == 100.0 and decided and decided.value == 100.0 and kappa and kappa.value == 1.0
    gold = by_name["gold"]  # a policy this small says nothing true: all are ties
    assert gold.raw is not None and gold.raw.value < 50.0 and gold.decided is None


def test_two_annotators_by_hand(store: Store, tmp_path: Path) -> None:
    """The second differs in the first of the rows and says tie in the second: the rest agrees."""
    best = prefers_policy(tmp_path / "sheets")
    swap = {"A": "B", "B": "A"}

    def second(number: int, row: Row) -> str:
        return swap[best(0, row)] if number == 0 else "tie" if number == 1 else best(0, row)

    one = filled(sheet(store), tmp_path / "one.csv", best)
    two = filled(sheet(store), tmp_path / "two.csv", second)
    alone, both = take(store, one), take(store, two)
    n = len(table(one))
    [agreement] = both.judgements.agreement
    assert (agreement.lang, agreement.annotators, agreement.prompts) == ("tr", 2, n)
    assert agreement.raw is not None and agreement.raw.value == pytest.approx(100 * (n - 2) / n)
    # one always says 1, so chance alone agrees as often as two says 1, which is as often as they do agree
    assert agreement.kappa is not None and agreement.kappa.value == pytest.approx(0.0, abs=1e-9)
    # coincidences: 2 (n - 2) of (1, 1), two each of (1, 0) and (1, .5)
    n_1, total = 2 * (n - 2) + 2, 2 * n
    expected = 1 - (total - 1) * 4 / (total**2 - n_1**2 - 1 - 1)
    assert agreement.alpha is not None and agreement.alpha.value == pytest.approx(expected)
    before, after = alone.judgements.cells, both.judgements.cells
    assert [cell.annotators for cell in after] == [2] * 4
    assert (
        sum(a.people.value < b.people.value for a, b in zip(after, before, strict=True) if a.people and b.people) >= 2
    )


def test_unanswered_rows_are_counted_and_ties_count_in_proportion(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(), "source=en,target=en")
    best = prefers_policy(tmp_path / "sheets")
    some = filled(sheet(store), tmp_path / "half.csv", lambda number, row: best(0, row) if number % 2 else "")
    [half] = take(store, some).judgements.cells
    [cell] = read_key(tmp_path / "sheets").cells
    rows, identical = len(table(some)), 20 - len(table(some))
    assert half.judged == rows // 2 and half.judged + half.unanswered == rows and len(cell.pairs) == 20
    assert half.identical == round(identical * half.judged / rows) > 0
    assert half.people is not None
    expected = 100 * (half.judged + half.identical / 2) / (half.judged + half.identical)
    assert half.people.value == pytest.approx(expected)


def test_the_same_file_again_changes_nothing_and_another_adds(store: Store, tmp_path: Path) -> None:
    best = prefers_policy(tmp_path / "sheets")
    one = filled(sheet(store), tmp_path / "one.csv", best)
    first = take(store, one)
    before = files(first.folder)
    again = take(store, one, one)
    assert files(first.folder) == before and [found.state for found in again.files] == ["known", "known"]
    two = filled(sheet(store), tmp_path / "Zoë von A. ż.csv", lambda _, row: "tie")
    second = take(store, two)
    kept = first.folder / "answers" / "sheet"
    assert sorted(path.read_bytes() for path in kept.iterdir()) == sorted([one.read_bytes(), two.read_bytes()])
    assert [one.name for one in second.judgements.annotators] == ["Zoë von A. ż", "one"]
    assert take(store, one).judgements == second.judgements


def test_other_answers_of_the_same_annotator_need_a_word(store: Store, tmp_path: Path) -> None:
    best = prefers_policy(tmp_path / "sheets")
    first = take(store, filled(sheet(store), tmp_path / "ada.csv", best))
    before = files(first.folder)
    other = filled(sheet(store), tmp_path / "ada.csv", lambda _, row: "tie")
    with pytest.raises(ConfigError, match=r"ada has given other answers to sheet before.*--replace"):
        take(store, other)
    assert files(first.folder) == before
    result = take(store, other, replace=True)
    assert [found.state for found in result.files] == ["replaced"]
    assert all(cell.people and cell.people.value == 50.0 for cell in result.judgements.cells)
    (tmp_path / "b").mkdir()
    beside = filled(sheet(store), tmp_path / "b" / "ada.csv", best)
    with pytest.raises(DataError, match="are both answers of ada to sheet"):
        take(store, other, beside, replace=True)


def test_sheets_of_several_annotators_and_languages(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(annotators=2))
    best, folder = prefers_policy(tmp_path / "sheets"), tmp_path / "answers"
    folder.mkdir()
    paths = [
        filled(sheet(store, f"sheet_{lang}_{k}"), folder / f"{lang}{k}.csv", best, annotator=f"reader {k}")
        for lang in ("ar", "en")
        for k in (1, 2)
    ]
    found = take(store, *paths).judgements
    assert [(one.lang, one.annotators) for one in found.agreement] == [("ar", 2), ("en", 2), ("all", 2)]
    assert all(one.raw and one.raw.value == 100.0 and one.alpha is None for one in found.agreement)
    assert {(one.name, one.sheet) for one in found.annotators} == {
        (f"reader {k}", f"sheet_{lang}_{k}") for lang in ("ar", "en") for k in (1, 2)
    }
    assert [one.lang for one in found.with_judge] == ["ar", "en", "all"]
    twice = filled(sheet(store, "sheet_en_2"), folder / "twice.csv", best, annotator="reader 1")
    with pytest.raises(DataError, match="reader 1 has answered two sheets with the same pairs"):
        take(store, twice)


def test_the_command_and_the_files_it_writes(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    best = prefers_policy(tmp_path / "sheets")
    comment = '=cmd|"/c calc", said she'
    paths = [
        filled(sheet(store), tmp_path / "ada.csv", lambda n, row: best(0, row) if n else "tie", comment=comment),
        filled(sheet(store), tmp_path / "bob.csv", lambda n, row: best(0, row) if n > 2 else ""),
    ]
    command = ["sheet", "import", "--root", str(store.root), str(tmp_path / "sheets"), *map(str, paths)]
    assert main(command) == 0
    out = capsys.readouterr().out
    rows = len(table(paths[0]))
    assert f"bob.csv: bob, sheet, {rows - 3} of {rows} answered (added)" in out
    assert max(map(len, out.splitlines()[2:-1])) <= 100
    [folder] = (store.grid_folder("g") / "human").iterdir()
    found = json.loads((folder / "judgements.json").read_text(encoding="utf-8"))
    page = (folder / "judgements.md").read_text(encoding="utf-8")
    for cell in found["cells"]:
        value = f"{cell['people']['value']:.1f}"
        assert value in out and value in page
    lines = list(csv.DictReader((folder / "judgements.csv").read_text(encoding="utf-8").splitlines()))
    mine = [line for line in lines if line["annotator"] == "ada" and line["judge"] == "gold"]
    assert {line["comment"] for line in mine} == {f"'{comment}"}
    assert {line["better"] for line in mine} == {"policy", "tie"}
    for source in ("en", "tr"):
        gold = [float(line["win"]) for line in mine if line["source_lang"] == source]
        [cell] = [c for c in found["cells"] if c["axes"]["source_lang"] == source and c["axes"]["judge"] == "gold"]
        assert len(gold) == cell["judged"]
    assert main(command) == 0 and "(known)" in capsys.readouterr().out


def test_a_cell_whose_responses_are_all_identical_is_all_ties() -> None:
    """Another cell has a pair to judge, so that there is a sheet."""
    same = [Pair("de", f"p{n}", f"g{n}", "", "text", "one", "one") for n in range(3)]
    other = Pair("de", "p0", "g0", "", "text", "two", "one")
    axes = {"judge": "gold", "source_lang": "de", "target_lang": "de"}
    cells = [CellKey(axes, "j", "v", [0, 1, 2], [0.5] * 3), CellKey(axes, "j", "v", [3], [1.0])]
    key = Key("", "g", 0, 3, "?", [*same, other], cells, [SheetKey("sheet", "de", [KeyRow("x", 3, "A")])])
    ties, won = judge(key, [Answers("ada", "sheet", (Answer("x", 3, "A", 1.0, ""),), 1)]).cells
    assert ties.people and (ties.people.value, ties.people.n, ties.identical, ties.annotators) == (50.0, 3, 3, 0)
    assert won.people and (won.people.value, won.people.low, won.annotators) == (100.0, None, 1)


def test_a_cell_without_answers_is_a_hole(recorded: Store, tmp_path: Path, capsys: Any) -> None:
    store = with_sheets(recorded, tmp_path, Asked(n=3))
    answers = filled(sheet(store, "sheet_ar"), tmp_path / "ada.csv", lambda *_: "A")
    found = take(store, answers).judgements
    assert [cell.people is None for cell in found.cells] == [False, False, True, True]
    page = (store.grid_folder("g") / "human" / found.key / "judgements.md").read_text(encoding="utf-8")
    assert page.count("no answer") == 2


# --- what a spreadsheet does --------------------------------------------------------------------------------


def resaved(text: str, separator: str, mark: bool) -> bytes:
    rows = list(csv.reader(text.splitlines(keepends=True)))
    out = "\r\n".join(
        separator.join(c if c.isalnum() else '"' + c.replace('"', '""') + '"' for c in row) for row in [*rows, [""] * 7]
    )
    return (("\ufeff" if mark else "") + out).encode()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [True, False])
def test_saved_again_by_a_spreadsheet(recorded: Store, tmp_path: Path, separator: str, mark: bool) -> None:
    store = with_sheets(recorded, tmp_path, Asked(), "target=en")
    answers = filled(sheet(store), tmp_path / "ada.csv", lambda number, _: ["a", "B", " TIE ", ""][number % 4])
    expected = take(store, answers).judgements
    answers.write_bytes(resaved(answers.read_text(encoding="utf-8-sig"), separator, mark))
    again = take(store, answers)
    assert again.judgements == expected and again.files[0].state == "known"


def test_rows_in_another_order_and_without_apostrophes(recorded: Store, tmp_path: Path) -> None:
    store = with_sheets(recorded, tmp_path, Asked(), "target=en")
    answers = filled(sheet(store), tmp_path / "ada.csv", lambda number, _: "AB"[number % 2])
    expected = take(store, answers).judgements
    rows = table(answers)
    bare = [{name: cell.removeprefix("'") for name, cell in row.items()} for row in rows]
    assert bare != rows
    again = take(store, written(answers, sorted(bare, key=lambda row: row["response_a"])))
    assert again.judgements == expected and again.files[0].state == "known"


# --- every way in which a file of answers can be wrong: refused with file, row, value and what to do ---------

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
