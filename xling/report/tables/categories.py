"""accuracy_by_category.csv and .md, and english_agreement.csv: a benchmark's categories beside the matrix.

Written only for grids that have any (M-RewardBench); sorted rows and fixed decimals, as matrix.csv.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from xling.analysis.matrix.categories import ENGLISH, MEAN, Categories
from xling.analysis.statistics.intervals import Estimate
from xling.grid.files import disk_error, write_atomically
from xling.results.plan import ENTRY_AXES

NUMBERS = ("ci_low", "ci_high", "n", "seeds")
NOTE = (
    "Accuracy in percent with 95 % intervals: a category is the mean of its subsets with RewardBench's weights, "
    "`mean` the plain mean of the categories; a tie counts 0.5. kappa: Cohen's, of the preferences in a language "
    "against those in English on the same ids; none where all preferences are the same on both sides."
)


def write_categories(folder: Path, found: Categories, other_axes: Sequence[str]) -> None:
    """Write the tables, each all or nothing; nothing for a grid without categories."""
    if not found.accuracy:
        return
    axes = [*ENTRY_AXES, *other_axes]
    accuracy = [[*_place(row.axes, axes), row.category, *_numbers(row.accuracy, 2)] for row in found.accuracy]
    agreement = [[*_place(row.axes, axes), *_numbers(row.kappa, 4)] for row in found.agreement]
    try:
        write_atomically(folder / "accuracy_by_category.csv", _csv([*axes, "category", "accuracy", *NUMBERS], accuracy))
        write_atomically(folder / "accuracy_by_category.md", markdown(found).encode())
        if agreement:
            write_atomically(folder / "english_agreement.csv", _csv([*axes, "kappa", *NUMBERS], agreement))
    except OSError as error:
        raise disk_error(error, folder) from error


def markdown(found: Categories) -> str:
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
        lines += [
            "",
            f"## {title}",
            "",
            f"| language | {' | '.join(columns)} | kappa |",
            "|---" * (len(columns) + 2) + "|",
        ]
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
    if estimate is None:
        return ""
    value = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _place(axes: Mapping[str, str], order: Sequence[str]) -> list[str]:
    return [axes.get(axis, "") for axis in order]


def _numbers(estimate: Estimate, digits: int) -> list[str]:
    numbers = [estimate.value, estimate.low, estimate.high]
    shown = ["" if number is None else f"{number:.{digits}f}" for number in numbers]
    return [*shown, str(estimate.n), str(estimate.seeds)]


def _csv(header: Sequence[str], rows: Sequence[list[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(sorted(rows))
    return text.getvalue().encode()
