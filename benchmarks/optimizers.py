"""docs/optimizers.md: run its grids, and fill in what came of them between the page's markers.

    make optimizers        # or: python benchmarks/optimizers.py [--root FOLDER] [--workers N]

Finished stages are not run again, so that the same command goes on where it was stopped. The words are written by hand.
All tables of the grid stand in its folder, `<root>/grids/optimizers/matrix.md`.
"""

import argparse
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from human_judgements import filled

from xling.analysis.matrix.types import Matrix
from xling.grid.store import Store
from xling.report.files import reduce_grid
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.markdown import table_lines
from xling.results.plan import Plan, Results, read_plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "optimizers.md"
GRID = "optimizers"
PICTURES = ("frontier.png", "learning.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grid, then write the page. Exit code 1 if a cell is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT / "outputs", help="of all results")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    where = [f"root='{given.root.absolute()}'", "tracking.mode=off", f"hydra.launcher.workers={given.workers}"]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", f"sweeps={GRID}", *where]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    matrix, store = reduce_grid(given.root, GRID), Store(given.root)
    found = {"grid": grid_lines(matrix), "work": work_lines(store, read_plan(store.grid_folder(GRID)))}
    PAGE.write_text(filled(PAGE.read_text("utf-8"), found), "utf-8")
    for name in PICTURES:
        shutil.copyfile(store.grid_folder(GRID) / name, PAGE.with_name(f"optimizers_{name}"))
    return code


def grid_lines(matrix: Matrix) -> list[str]:
    """The optimizers compared, over all cells."""
    *_, summary = comparison_tables(matrix)
    return [f"{matrix.interval_note}.", "", *table_lines(summary)]


def work_lines(store: Store, plan: Plan) -> list[str]:
    """Seconds of work by stage, of trained policies by optimizer, as the stages' own records have them."""
    results, seconds = Results(store, plan), defaultdict[str, list[float]](list)
    for stage in plan.stages:
        done = store.check(stage.kind, stage.key).done
        if done is not None:
            name = f"align {stage.label.rpartition(' ')[2]}" if stage.kind == "align" else stage.kind
            seconds[name].append(done.run.seconds)
    devices = {run.device for run in results.runs()}
    lines = [
        f"Device: {', '.join(sorted(devices))}.",
        "",
        "| stage | ran | seconds each (median) | seconds |",
        "|---|---:|---:|---:|",
    ]
    for name, took in seconds.items():
        middle = sorted(took)[len(took) // 2]
        lines.append(f"| {name} | {len(took)} | {middle:.1f} | {sum(took):.0f} |")
    every = [one for took in seconds.values() for one in took]
    return [*lines, f"| all | {len(every)} | | {sum(every):.0f} |"]


if __name__ == "__main__":
    sys.exit(main())
