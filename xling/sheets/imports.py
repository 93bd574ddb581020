"""`xling sheet import`: filled-in sheets into <root>/grids/<name>/human/<key>/, and what they say all together.

    key.json                        the key of the sheets
    answers/<sheet>/<name>.csv      each annotator's file as it was given
    judgements.json, .md            win rates and agreement
    judgements.csv                  a line an answer and cell, unblinded

All of it follows from the key and the answers: a file that is imported again changes nothing, one more adds to it.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from xling.analysis.matrix.names import told_apart
from xling.errors import ConfigError, DataError
from xling.grid.files import disk_error, json_bytes, write_atomically
from xling.grid.store import Store
from xling.sheets.answers import Answers, kept_as, read_answers
from xling.sheets.judgements import Judgements, judge
from xling.sheets.key import NAME, Key, key_bytes, read_key
from xling.sheets.report import markdown
from xling.sheets.text import harmless


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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(axes[0])
    writer.writerow(
        ["annotator", "sheet", "id", *names, "prompt", "preference", "better", "win", "judge_win", "comment"]
    )
    better = {1.0: "policy", 0.5: "tie", 0.0: "baseline"}
    for one in sorted(answers, key=lambda one: (one.annotator, one.sheet)):
        for answer in one.given:
            for named, point in places[answer.pair]:
                cells = [harmless(named[name]) for name in names] + [
                    harmless(key.pairs[answer.pair].prompt),
                    answer.preference,
                ]
                numbers = [better[answer.point], f"{answer.point:g}", f"{point:g}"]
                writer.writerow(
                    [harmless(one.annotator), one.sheet, answer.id, *cells, *numbers, harmless(answer.comment)]
                )
    return text.getvalue().encode()


def _write(out: Path, files: dict[Path, bytes]) -> None:
    """Each all or nothing, and only what has changed; answers before what is made of them."""
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                write_atomically(path, content)
    except OSError as error:
        raise disk_error(error, out) from error
