"""matrix.csv, matrix.json, matrix.md and matrix.png beside a grid's plan.json.

Of grids with several optimizers (or settings of one) frontier.csv and frontier.png too, and learning.png of those that
train.

matrix.csv is compared byte by byte: sorted rows, fixed decimals, no times, hosts or paths.
"""

import csv
import hashlib
import io
import re
from pathlib import Path

from xling.analysis.matrix.types import Entry, Matrix, matrix_json
from xling.analysis.statistics.intervals import Estimate
from xling.console import FORMULA
from xling.grid.files import disk_error, write_atomically
from xling.report.tables.markdown import markdown
from xling.results.plan import ENTRY_AXES

_NUMBER = re.compile(r"-|[-+]?[\d.]+(?:[eE][-+]?\d+)?")
FRONTIER = ("kl", "reward", "quality", "win")  # what each point has
RESULT_COLUMNS = ("win_rate", "ci_low", "ci_high", "n", "seeds", "status", "reason")


def write_matrix(folder: Path, matrix: Matrix) -> None:
    """Write all files, each all or nothing; the plot is drawn again only if the matrix has changed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "matrix.csv", csv_bytes(matrix))
        content = matrix_json(matrix)
        write_atomically(folder / "matrix.json", content)
        write_atomically(folder / "matrix.md", markdown(matrix).encode())
        _write_pictures(folder, matrix, hashlib.sha256(content).hexdigest())
    except OSError as error:
        raise disk_error(error, folder) from error


def csv_bytes(matrix: Matrix) -> bytes:
    """One row an entry, percent with two decimals; a hole has no numbers but a status and a reason."""
    axes = [*ENTRY_AXES, *matrix.other_axes]
    rows = sorted(
        ([formula_free(entry.axes.get(axis, "")) for axis in axes] + _result(entry) for entry in matrix.entries()),
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, *RESULT_COLUMNS])
    writer.writerows(rows)
    return text.getvalue().encode()


def _result(entry: Entry) -> list[str]:
    win, own = entry.win, entry.win_own
    if win is None and own is not None:  # not in the column of win rates, whose mean somebody will take
        told = f"{entry.reason} ({_percent(own.value)} % by it)"
        return ["", "", "", str(own.n), str(own.seeds), entry.status, formula_free(told)]
    if win is None:
        return ["", "", "", "0", "0", entry.status, formula_free(entry.reason)]
    numbers = [_percent(win.value), _percent(win.low), _percent(win.high)]
    return [*numbers, str(win.n), str(win.seeds), entry.status, formula_free(entry.reason)]


def formula_free(text: str) -> str:
    """A text that a spreadsheet would take for a formula (names and errors may hold anything), led by an apostrophe."""
    return f"'{text}" if text[:1] in FORMULA and text and not _NUMBER.fullmatch(text) else text


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _write_pictures(folder: Path, matrix: Matrix, digest: str) -> None:
    """Draw, unless the picture that is there shows this very matrix: its metadata has the digest."""
    pictures = ["matrix.png"]
    if matrix.frontiers:
        write_atomically(folder / "frontier.csv", frontier_csv(matrix))
        pictures += ["frontier.png"]
    if any(frontier.learning for frontier in matrix.frontiers):
        pictures += ["learning.png"]
    for name in pictures:
        path = folder / name
        if not (path.exists() and digest.encode() in path.read_bytes()[:4096]):
            from xling.report.pictures.write import grid_png  # matplotlib

            write_atomically(path, grid_png(name, matrix, digest))


def frontier_csv(matrix: Matrix) -> bytes:
    """A row a point of the frontiers, with its intervals."""
    axes = [axis for axis in (*ENTRY_AXES, *matrix.other_axes) if any(axis in f.axes for f in matrix.frontiers)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = [f"{name}{end}" for name in FRONTIER for end in ("", "_low", "_high")]
    writer.writerow([*axes, "optimizer", "k", *numbers, "cells", "n", "seeds"])
    for frontier in matrix.frontiers:
        for point in frontier.points:
            place = [formula_free(frontier.axes.get(axis, "")) for axis in axes]
            values = [number for name in FRONTIER for number in _three(getattr(point, name))]
            about = [str(frontier.cells), str(point.kl.n), str(point.kl.seeds)]
            writer.writerow([*place, point.arm, "" if point.k is None else str(point.k), *values, *about])
    return text.getvalue().encode()


def _three(estimate: Estimate | None) -> list[str]:
    numbers = [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]
    return ["" if number is None else f"{number:.4f}" for number in numbers]
