"""docs/results.md: how reward models transfer at each n, over seeds of training and sampling.

    python benchmarks/transfer.py GRID [GRID ...] [--root FOLDER] [--minus NAME]     # grids that have run

One line a reward model and n: mean win rate at home and abroad over all cells, and how many cells abroad lie above and
below 50 with their whole interval. Intervals are 95 % over seeds and prompts, made as those of the matrix; each by
itself. "chosen": n by each source and seed, by its own cell at home on one half of the documents; that line is on the
other half.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xling.analysis.matrix.types import PERCENT
from xling.analysis.statistics.bootstrap import POINTS, SHARE, Bools, Floats, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.config.common import is_foreign
from xling.grid.stage import NO_SOURCE, OTHERS
from xling.grid.store import Store
from xling.models.ridge import half_of
from xling.results.items import read_record
from xling.results.plan import ENTRY_AXES, Results, planned_entries, read_plan

ROOT = Path(__file__).parents[1]
SHOWN = (1, 2, 4, 8, 16)
CHOSEN = "chosen"

Place = tuple[str, str]  # source and target
# The percentage won of each document, (D,); as a curve by a pick from 1 to n samples, (D, n).
Cells = dict[Place, Floats]
Seeds = dict[str, Cells]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of the grids' reward models. Exit code 1: their cells have different documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="+", metavar="GRID")
    parser.add_argument("--root", type=Path, default=ROOT / "outputs", help="of all results")
    parser.add_argument("--minus", help="a reward model of these grids, to subtract abroad: bag_of_words")
    given = parser.parse_args(arguments)
    documents: list[str] = []
    rows: dict[str, Seeds] = {}
    for grid in given.grids:
        found = curves(Store(given.root), grid, documents)
        rows |= {f"{name} of {grid}" if name in rows else name: row for name, row in found.items()}
    if any(len(curve) != len(documents) for row in rows.values() for own in row.values() for curve in own.values()):
        print("The cells of these grids have different documents.")
        return 1
    second = np.array([half_of(document) == "second" for document in documents])
    named = ["reward model", "n", "home", "abroad", "above, below 50"] + [f"minus {given.minus}"] * bool(given.minus)
    print(f"| {' | '.join(named)} |\n|{'---|' * len(named)}")
    for name, row in rows.items():
        for n in (*SHOWN, CHOSEN):
            kept = second if n == CHOSEN else np.ones_like(second)
            own = picked(row, n, ~second, kept)
            if own:
                rival = rows.get(given.minus, {}) if name != given.minus else {}
                print(line(name, n, own, picked(rival, n, ~second, kept) or picked(rival, SHOWN[-1], ~second, kept)))
    print(f"\n{len(documents)} documents; seeds: {', '.join(sorted({seed for row in rows.values() for seed in row}))}.")
    return 0


def curves(store: Store, grid: str, documents: list[str]) -> dict[str, Seeds]:
    """The finished cells of a grid by what tells reward models apart; `documents` become those of the first cell."""
    plan = read_plan(store.grid_folder(grid))
    results, found = Results(store, plan), defaultdict[str, Seeds](lambda: defaultdict(dict))
    for entry in planned_entries(plan, results):
        settings = [f"{axis}={value}" for axis, value in entry.axes.items() if axis not in ENTRY_AXES]
        name = " ".join([entry.axes["rm_backbone"], *settings, *[OTHERS] * (entry.axes["source_lang"] == OTHERS)])
        for cell in entry.cells:
            if cell.status == "done":
                record = read_record(results.folder(cell.judge))
                documents += [] if documents else record.items.group
                order = np.argsort([documents.index(group) for group in record.items.group])
                place = entry.axes["source_lang"], entry.axes["target_lang"]
                found[name][cell.seeds[1]][place] = PERCENT * record.curve[order]
    return dict(found)


def picked(row: Seeds, n: int | str, first: Bools, kept: Bools) -> Seeds:
    """Each cell at n, on the documents that are kept; of CHOSEN empty where a source has no cell at home."""
    found: Seeds = {}
    for seed, cells in row.items():
        if n == CHOSEN and any((source, source) not in cells for source, _ in cells):
            return {}
        found[seed] = {}
        for (source, target), curve in cells.items():
            at = int(cells[source, source][first].mean(axis=0).argmax()) + 1 if n == CHOSEN else int(n)
            found[seed][source, target] = curve[kept, min(at, curve.shape[1]) - 1]
    return found


def line(name: str, n: int | str, row: Seeds, rival: Seeds) -> str:
    """Of one reward model at one n."""
    places = list(next(iter(row.values())))
    abroad = [(source, target) for source, target in places if source == NO_SOURCE or is_foreign(source, target)]
    each = folded({seed: np.stack([cells[place] for place in abroad], axis=1) for seed, cells in row.items()}, SHARE)
    above, below = sum(one.above(50.0) for one in each), sum(one.below(50.0) for one in each)
    home = [place for place in places if place not in abroad]
    means = [shown({seed: mean(cells, those) for seed, cells in row.items()}, SHARE) for those in (home, abroad)]
    words = [name, str(n), *means, f"{above}, {below} of {len(each)}"]
    if rival:
        there = [place for place in next(iter(rival.values())) if place[0] == NO_SOURCE or is_foreign(*place)]
        shared = row.keys() & rival.keys()
        apart = {seed: mean(row[seed], abroad) - mean(rival[seed], there) for seed in sorted(shared)}
        words.append(shown(apart, POINTS, "+"))
    return f"| {' | '.join(words)} |"


def mean(cells: Cells, places: Sequence[Place]) -> Floats:
    """(D, 1) over cells; of none (D, 0)."""
    columns = [cells[place] for place in places]
    return np.mean(columns, axis=0)[:, None] if columns else np.empty((0, 0))


def folded(values: Mapping[str, Floats], span: Floats) -> list[Estimate]:
    """Over seeds and documents; values: (D, K) of each seed."""
    size = len(next(iter(values.values())))
    clusters = draw([([str(number) for number in range(size)], [""] * size)])[0]
    samples = [resample(clusters, one, seed, span=span, paired=span is POINTS) for seed, one in values.items()]
    return [one for one in fold(samples) if one is not None]


def shown(values: Mapping[str, Floats], span: Floats, sign: str = "") -> str:
    if not all(one.size for one in values.values()):
        return ""
    [one] = folded(values, span)
    return f"{one.value:{sign}.1f} [{one.low:{sign}.1f}, {one.high:{sign}.1f}]"


if __name__ == "__main__":
    sys.exit(main())
