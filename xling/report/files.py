"""`xling reduce GRID`: fold the finished cells of a grid, and write everything that shows its matrix.

matrix = reduce_grid(Path("outputs"), "embedded")

Beside plan.json there are then matrix.csv, .json, .md and .png, measures.parquet and .csv, and report.html. Of grids
with several optimizers (or settings of one) frontier.csv and frontier.png too, and learning.png of those that train. Of
a benchmark with categories (M-RewardBench) accuracy_by_category.csv and .md, and english_agreement.csv.

CSV files are compared byte by byte: sorted rows, fixed decimals, no times, hosts or paths.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xling.analysis.matrix.categories import ENGLISH, MEAN, Categories
from xling.analysis.matrix.fold_grid import fold_grid, grid_categories
from xling.analysis.matrix.frontier import QUANTITIES
from xling.analysis.matrix.types import Entry, Matrix, matrix_json
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.entries import Draws
from xling.analysis.tidy.long import long_files
from xling.console import formula_free
from xling.grid.files import disk_error, write_atomically
from xling.grid.store import Store
from xling.report.page.write import update
from xling.report.tables.markdown import markdown
from xling.results.plan import ENTRY_AXES

RESULT_COLUMNS = ("win_rate", "ci_low", "ci_high", "n", "seeds", "status", "reason")


def reduce_grid(root: Path | Store, name: str) -> Matrix:
    """Fold a grid, write its matrix files. ConfigError: no such grid; StoreError: its plan cannot be read.

    What has been found damaged on the way stands in the store's `damaged`.
    """
    store, draws = root if isinstance(root, Store) else Store(root), Draws()
    store.refuse_links(name)
    matrix = fold_grid(store, name, draws.add)
    write_matrix(store.grid_folder(name), matrix)
    write_categories(store.grid_folder(name), grid_categories(store, name), matrix.other_axes)
    update(store, name, (matrix, draws))
    return matrix


def write_matrix(folder: Path, matrix: Matrix) -> None:
    """Write the matrix' files, each all or nothing; a picture is drawn again only if it does not show this matrix."""
    content = matrix_json(matrix)
    files = {"matrix.csv": csv_bytes(matrix), "matrix.json": content, "matrix.md": markdown(matrix).encode()}
    files |= long_files(matrix)
    pictures = ["matrix.png"]
    if matrix.frontiers:
        files["frontier.csv"] = frontier_csv(matrix)
        pictures.append("frontier.png")
    if any(frontier.learning for frontier in matrix.frontiers):
        pictures.append("learning.png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, written in files.items():
            write_atomically(folder / name, written)
        digest = hashlib.sha256(content).hexdigest()  # in the metadata of the pictures
        for path in (folder / name for name in pictures):
            if not (path.exists() and digest.encode() in path.read_bytes()[:4096]):
                from xling.report.pictures.write import grid_png  # matplotlib

                write_atomically(path, grid_png(path.name, matrix, digest))
    except OSError as error:
        raise disk_error(error, folder) from error


# --- CSV --------------------------------------------------------------------------------------------------


def csv_bytes(matrix: Matrix) -> bytes:
    """matrix.csv: one row an entry, percent with two decimals; a hole has no numbers but a status and a reason."""
    axes = [*ENTRY_AXES, *matrix.other_axes]
    rows = [[*_values(entry.axes, axes), *_result(entry)] for entry in matrix.entries()]
    return csv_table([*axes, *RESULT_COLUMNS], sorted(rows))


def _result(entry: Entry) -> list[str]:
    win, own = entry.win, entry.win_own
    if win is None and own is not None:  # not in the column of win rates, whose mean somebody will take
        told = f"{entry.reason} ({own.value:.2f} % by it)"
        return ["", "", "", str(own.n), str(own.seeds), entry.status, formula_free(told)]
    numbers = [*_bounds(win, 2), *(["0", "0"] if win is None else [str(win.n), str(win.seeds)])]
    return [*numbers, entry.status, formula_free(entry.reason)]


def frontier_csv(matrix: Matrix) -> bytes:
    """A row a point of the frontiers, with its intervals."""
    axes = [axis for axis in (*ENTRY_AXES, *matrix.other_axes) if any(axis in f.axes for f in matrix.frontiers)]
    numbers = [f"{name}{end}" for name in QUANTITIES for end in ("", "_low", "_high")]
    rows = []
    for frontier in matrix.frontiers:
        for point in frontier.points:
            values = [number for name in QUANTITIES for number in _bounds(getattr(point, name), 4)]
            about = [str(frontier.cells), str(point.kl.n), str(point.kl.seeds)]
            k = "" if point.k is None else str(point.k)
            rows.append([*_values(frontier.axes, axes), point.arm, k, *values, *about])
    return csv_table([*axes, "optimizer", "k", *numbers, "cells", "n", "seeds"], rows)


def csv_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A table for programs: UTF-8, commas, quotes where they are needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _values(axes: Mapping[str, str], order: Sequence[str]) -> list[str]:
    return [formula_free(axes.get(axis, "")) for axis in order]


def _bounds(estimate: Estimate | None, digits: int) -> list[str]:
    """Value, low, high; empty where there is none."""
    numbers = [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]
    return ["" if number is None else f"{number:.{digits}f}" for number in numbers]


# --- categories of a benchmark ----------------------------------------------------------------------------

NOTE = (
    "Accuracy in percent with 95 % intervals: a category is the mean of its subsets with RewardBench's weights, "
    "`mean` the plain mean of the categories; a tie counts 0.5. kappa: Cohen's, of the preferences in a language "
    "against those in English on the same ids; none where all preferences are the same on both sides."
)


def write_categories(folder: Path, found: Categories, other_axes: Sequence[str]) -> None:
    """Write the tables, each all or nothing; nothing for a grid without categories."""
    if not found.accuracy:
        return
    axes, numbers = [*ENTRY_AXES, *other_axes], ("ci_low", "ci_high", "n", "seeds")
    accuracy = [[*_values(row.axes, axes), row.category, *_counted(row.accuracy, 2)] for row in found.accuracy]
    agreement = [[*_values(row.axes, axes), *_counted(row.kappa, 4)] for row in found.agreement]
    files = {
        "accuracy_by_category.csv": csv_table([*axes, "category", "accuracy", *numbers], sorted(accuracy)),
        "accuracy_by_category.md": categories_markdown(found).encode(),
    }
    if agreement:
        files["english_agreement.csv"] = csv_table([*axes, "kappa", *numbers], sorted(agreement))
    try:
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise disk_error(error, folder) from error


def _counted(estimate: Estimate, digits: int) -> list[str]:
    return [*_bounds(estimate, digits), str(estimate.n), str(estimate.seeds)]


def categories_markdown(found: Categories) -> str:
    """A table a reward model: languages down, categories across."""
    tables: dict[str, dict[str, dict[str, Estimate]]] = {}
    for row in found.accuracy:
        if row.axes["rm_backbone"].startswith("shuffled_"):
            continue  # the null band: in the CSV
        tables.setdefault(_title(row.axes), {}).setdefault(row.axes["target_lang"], {})[row.category] = row.accuracy
    kappas = {(_title(row.axes), row.axes["target_lang"]): row.kappa for row in found.agreement}
    lines = ["# Accuracy by category", "", NOTE]
    for title, by_lang in tables.items():
        names = sorted({name for cells in by_lang.values() for name in cells} - {MEAN})
        columns = [*names, *([MEAN] if any(MEAN in cells for cells in by_lang.values()) else [])]
        lines += ["", f"## {title}", "", f"| language | {' | '.join(columns)} | kappa |"]
        lines.append("|---" * (len(columns) + 2) + "|")
        for lang in sorted(by_lang):
            cells = [_shown(by_lang[lang].get(name), 1) for name in columns]
            lines.append(f"| {lang} | {' | '.join(cells)} | {_shown(kappas.get((title, lang)), 2)} |")
        means = [_mean(by_lang, name) for name in columns]
        lines.append(f"| all but {ENGLISH} | {' | '.join(means)} | |")
    return "\n".join(lines) + "\n"


def _title(axes: Mapping[str, str]) -> str:
    """The reward model of a table: all axes but the target."""
    known = ("rm_backbone", "source_lang")
    more = [f"{k}={v}" for k, v in axes.items() if v and k not in (*ENTRY_AXES, *known)]
    return " ".join([f"{axes['rm_backbone']} from {axes['source_lang']}", *more])


def _mean(by_lang: Mapping[str, Mapping[str, Estimate]], name: str) -> str:
    values = [cells[name].value for lang, cells in by_lang.items() if lang != ENGLISH and name in cells]
    return f"{sum(values) / len(values):.1f}" if values else ""


def _shown(estimate: Estimate | None, digits: int) -> str:
    value, low, high = _bounds(estimate, digits)
    return f"{value} ({low} to {high})" if low and high else value
