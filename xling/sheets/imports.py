"""`xling sheet import`: filled-in sheets into <root>/grids/<name>/human/<key>/, and what they say all together.

    key.json                        the key of the sheets
    answers/<sheet>/<name>.csv      each annotator's file as it was given
    judgements.json, .md            win rates and agreement
    judgements.csv                  a line an answer and cell, unblinded

All of it follows from the key and the answers: a file that is imported again changes nothing, one more adds to it.

A file has every row of one sheet once, with A, B, tie or nothing as its preference. A row without a preference is
unanswered: allowed, and counted. All else that does not fit is refused, with the file, the row as a spreadsheet counts
them (the header is row 1), the value, and what to do about it.
"""

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from xling.analysis.matrix.names import told_apart
from xling.console import shown
from xling.errors import ConfigError, DataError
from xling.grid.files import disk_error, json_bytes, write_atomically
from xling.grid.store import Store
from xling.report.files import csv_table
from xling.sheets.export import COLUMNS
from xling.sheets.judgements import Answer, Answers, Judgements, judge, markdown
from xling.sheets.key import NAME, Key, Row, SheetKey, harmless, key_bytes, read_key, same_text, unguarded

PREFERENCES = {"a": "A", "b": "B", "tie": "tie"}
ANNOTATOR = "annotator"  # a column that the page writes; a file without it is named after its annotator
LONGEST_NAME, LONGEST_FILE = 80, 240  # characters of a name, and of its file's
SHOWN = 5  # problems of a file that an error lists


@dataclass(frozen=True, slots=True)
class Imported:
    """One file that was imported."""

    path: Path
    answers: Answers
    state: str  # added, replaced, or known: nothing has changed


@dataclass(frozen=True, slots=True)
class Result:
    folder: Path
    files: list[Imported]
    judgements: Judgements


def import_answers(store: Store, folder: Path, paths: Sequence[Path], replace: bool = False) -> Result:
    """Check the files, all before any is taken, then fold them with those that were imported before.

    ConfigError: no such key or grid, or other answers of the same annotator without `replace`. DataError: a file
    that does not fit.
    """
    key = read_key(folder)
    grid = store.grid_folder(key.grid)
    if not (grid / "plan.json").exists():
        raise ConfigError(
            f"The sheet is of grid '{key.grid}', which '{store.root}' has not. Give its root: --root PATH."
        )
    store.refuse_links(key.grid)
    out = grid / "human" / key.id
    known = _kept(out, key)
    taken: list[Imported] = []
    for path in paths:
        taken.append(_compared(Imported(path, read_answers(path, key), "added"), out, known, taken, replace))
    new = {_place(out, one.answers): one for one in taken}
    everybody = list((known | {place: one.answers for place, one in new.items()}).values())
    result = judge(key, everybody)
    changed = {place: one.path.read_bytes() for place, one in new.items() if one.state != "known"}
    _write(out, {out / NAME: key_bytes(key), **changed, **_tables(out, key, result, everybody)})
    return Result(out, taken, result)


def _place(out: Path, answers: Answers) -> Path:
    return out / "answers" / answers.sheet / kept_as(answers.annotator)


def _kept(out: Path, key: Key) -> dict[Path, Answers]:
    paths = sorted((out / "answers").glob("*/*.csv"))
    return {path: read_answers(path, key, unquote(path.stem)) for path in paths}


def _compared(
    one: Imported, out: Path, known: Mapping[Path, Answers], taken: Sequence[Imported], replace: bool
) -> Imported:
    """Result of importing a file whose annotator may have answered the sheet before."""
    place, name, sheet = _place(out, one.answers), one.answers.annotator, one.answers.sheet
    for other in taken:
        if _place(out, other.answers) == place:
            if other.answers == one.answers:
                return dataclasses.replace(one, state=other.state)
            raise DataError(f"{other.path} and {one.path} are both answers of {name} to {sheet}. Import one of them.")
    if place not in known:
        return one
    if known[place] == one.answers:
        return dataclasses.replace(one, state="known")
    if not replace:
        raise ConfigError(
            f"{one.path}: {name} has given other answers to {sheet} before. If these are to stand in their "
            "place, add --replace; if it is somebody else, name the file (or the column 'annotator') after them."
        )
    return dataclasses.replace(one, state="replaced")


def _tables(out: Path, key: Key, result: Judgements, answers: Sequence[Answers]) -> dict[Path, bytes]:
    return {
        out / "judgements.json": json_bytes(_rounded(msgspec.to_builtins(result)), indent=1),
        out / "judgements.csv": answers_csv(key, answers),
        out / "judgements.md": markdown(result).encode(),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def answers_csv(key: Key, answers: Sequence[Answers]) -> bytes:
    """A line an answer and cell: whose, of what, which response was better, and what the cell's judge says."""
    places: dict[int, list[tuple[dict[str, str], float]]] = {}
    axes = told_apart([cell.axes for cell in key.cells])
    for named, cell in zip(axes, key.cells, strict=True):
        for pair, point in zip(cell.pairs, cell.points, strict=True):
            places.setdefault(pair, []).append((named, point))
    names, better = list(axes[0]), {1.0: "policy", 0.5: "tie", 0.0: "baseline"}
    rows = []
    for one in sorted(answers, key=lambda one: (one.annotator, one.sheet)):
        for answer in one.given:
            for named, point in places[answer.pair]:
                whose = [harmless(one.annotator), one.sheet, answer.id, *(harmless(named[name]) for name in names)]
                said = [harmless(key.pairs[answer.pair].prompt), answer.preference, better[answer.point]]
                rows.append([*whose, *said, f"{answer.point:g}", f"{point:g}", harmless(answer.comment)])
    judged = ("prompt", "preference", "better", "win", "judge_win", "comment")
    return csv_table(["annotator", "sheet", "id", *names, *judged], rows)


def _write(out: Path, files: dict[Path, bytes]) -> None:
    """Each all or nothing, and only what has changed; answers before what is made of them."""
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                write_atomically(path, content)
    except OSError as error:
        raise disk_error(error, out) from error


# --- a filled-in sheet, read and checked --------------------------------------------------------------------


def kept_as(annotator: str) -> str:
    """The file name of an annotator's answers: names of people may hold anything, names of files may not."""
    return f"{quote(annotator, safe=' ')}.csv"


def read_answers(path: Path, key: Key, annotator: str | None = None) -> Answers:
    """Read one file; DataError lists what is wrong with it. `annotator`: known already, of answers that are kept."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Name the files with the answers.") from error
    table = _table(path, content)
    sheet = _sheet_of(path, table, key)
    problems = list(_problems(table, sheet, key))
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listing = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        raise DataError(f"{path} does not fit {sheet.name} of key {key.id}:{listing}{more}")
    name = annotator or _annotator(path, table, key)
    by_id = {cells["id"].strip(): cells for _, cells in table}
    given = [_answer(row, by_id[row.id]) for row in sheet.rows if by_id[row.id]["preference"].strip()]
    if not given:
        raise DataError(f"{path} has no answer in it: type A, B or tie in the column 'preference', then import it.")
    return Answers(name, sheet.name, tuple(given), len(sheet.rows))


def _answer(row: Row, cells: Mapping[str, str]) -> Answer:
    preference = PREFERENCES[cells["preference"].strip().lower()]
    point = 0.5 if preference == "tie" else float(preference == row.policy)
    return Answer(row.id, row.pair, preference, point, unguarded(cells["comment"].strip()))


# --- the file as a table ----------------------------------------------------------------------------------

Table = list[tuple[int, dict[str, str]]]  # (row as a spreadsheet counts, cells by column)


def _table(path: Path, content: bytes) -> Table:
    """Its rows without empty ones; commas, semicolons or tabs between cells, as spreadsheets here and there write."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}). Save it as 'CSV UTF-8', or in LibreOffice with the character "
            "set Unicode (UTF-8)."
        ) from error
    csv.field_size_limit(2**31 - 1)
    separator = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as CSV: {error}. Save it as CSV once more, all cells quoted."
        ) from error
    header = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DataError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} in row 1; it has "
            f"{', '.join(filter(None, header)) or 'none'}. Fill in the sheet that was exported, and leave its header."
        )
    table = []
    for number, cells in enumerate(rows[1:], 2):
        if any(cell.strip() for cell in cells):
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise DataError(
                    f"{path}, row {number}: {len(cells)} cells instead of {len(header)}. Copy the row once more from "
                    "the sheet that was exported."
                )
            table.append((number, dict(zip(header, cells, strict=False))))
    return table


def _sheet_of(path: Path, table: Table, key: Key) -> SheetKey:
    """The sheet that most of a file's rows are from."""
    sheets = {row.id: sheet for sheet in key.sheets for row in sheet.rows}
    found = [sheets[cells["id"].strip()] for _, cells in table if cells["id"].strip() in sheets]
    if not found:
        names = ", ".join(f"{sheet.name}.csv" for sheet in key.sheets)
        raise DataError(
            f"{path} has no row of this folder's sheets ({names}): its ids are unknown to key {key.id}. Name the "
            "folder that it was exported to."
        )
    return max(key.sheets, key=found.count)


def _problems(table: Table, sheet: SheetKey, key: Key) -> Iterator[str]:
    """Sentences on what does not fit, row by row, then what is missing."""
    rows = {row.id: row for row in sheet.rows}
    elsewhere = {row.id: other.name for other in key.sheets for row in other.rows}
    first: dict[str, int] = {}
    for number, cells in table:
        name, given = cells["id"].strip(), cells["preference"].strip()
        if name in elsewhere and name not in rows:
            yield f"row {number}: id '{name}' is of {elsewhere[name]}: import each sheet's rows as a file of its own"
        elif name not in rows:
            yield f"row {number}: id '{_short(name)}' is not of this sheet: delete the row"
        elif name in first:
            yield f"row {number}: id '{name}' stands in row {first[name]} already: delete one of the two"
        else:
            first[name] = number
            if given and given.lower() not in PREFERENCES:
                yield f"row {number}: preference '{_short(given)}' is not allowed: type A, B, tie, or nothing"
            yield from _changed(number, cells, rows[name], key)
    lost = [row.id for row in sheet.rows if row.id not in first]
    if lost:
        first_ones = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        yield (
            f"{len(lost)} of {len(rows)} rows are missing ({first_ones}): copy them back from {sheet.name}.csv; a row "
            "that nobody answered stays, with an empty preference"
        )


def _changed(number: int, cells: Mapping[str, str], row: Row, key: Key) -> Iterator[str]:
    """Texts that are not those that were exported: the annotator may have judged something else."""
    pair = key.pairs[row.pair]
    a, b = (pair.policy, pair.baseline) if row.policy == "A" else (pair.baseline, pair.policy)
    for column, expected in (("prompt", pair.text), ("response_a", a), ("response_b", b)):
        if not same_text(cells[column], expected):
            yield (
                f"row {number}: {column} is not the text that was exported (it reads '{_short(cells[column])}'): copy "
                "the cell back from the exported sheet, or fill in the page instead, which no spreadsheet can change"
            )


def _short(cell: str) -> str:
    """A cell's text, shortened and without control codes."""
    text = " ".join(shown(cell).split())
    return text if len(text) <= 40 else text[:40] + "..."


def _annotator(path: Path, table: Table, key: Key) -> str:
    """The name in the column `annotator`, else the file's."""
    names = {unguarded(cells.get(ANNOTATOR, "").strip()) for _, cells in table} - {""}
    if len(names) > 1:
        raise DataError(
            f"{path} has several annotators: {', '.join(sorted(names))}. Import a file of its own for each."
        )
    [name] = names or {path.stem}
    if not names and name in {sheet.name for sheet in key.sheets}:
        raise DataError(f"{path} does not say who answered. Name the file after its annotator, as in ada.csv.")
    if len(name) > LONGEST_NAME or len(kept_as(name)) > LONGEST_FILE or not name.isprintable():
        raise DataError(f"{path}: the annotator's name '{_short(name)}' is too long, or has control codes in it.")
    return name
