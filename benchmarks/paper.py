"""The paper's presets: docs/paper.md gets their counts and cost, docs/paper_tiny.md what came of them at tiny scale.

    make paper-tiny        # or: python benchmarks/paper.py [--root FOLDER] [--workers N] [--only PRESET ...]
    python benchmarks/paper.py --counts    # docs/paper.md and docs/scale.md alone; nothing is run, no data, models or
                                           # network are needed

All presets run in one root, so that they share stages as their originals do, and finished stages are not run again: the
same command goes on where it was stopped. Numbers at tiny scale mean nothing; that they are there does.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from human_judgements import filled

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import Matrix
from xling.compose.grid import composed_grid
from xling.grid.plan import Plan, needs_of
from xling.grid.stage import Gpus
from xling.grid.store import Store
from xling.launching import plan_of
from xling.report.files import reduce_grid
from xling.report.tables.panel import accuracy_table, win_table
from xling.report.tables.table import Table
from xling.results.plan import read_plan

ROOT = Path(__file__).parents[1]
PAGE, TINY, SCALE = (ROOT / "docs" / f"{name}.md" for name in ("paper", "paper_tiny", "scale"))
GPU = Gpus(1, 80.0, "hydra.launcher.gpu_mem_gb=80")
LARGE = ("sft", "reward", "pool", "align", "aligned", "score", "llm")  # kinds of stages with a model
PRESETS = sorted(path.stem for path in (ROOT / "sweeps").glob("paper_*.yaml"))
WALLS = "paper_tiny.json"  # of a root: preset -> wall seconds
COUNTED = ("translate", "sft", "reward", "pool", "align", "score", "llm")  # kinds of stages
UNITS = {
    "texts at most": "texts to translate",
    "samples": "samples",
    "scorings of answers": "scorings",
    "judge calls": "judge calls",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill in the pages. Exit code 1 if a cell of a preset is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT / "outputs", help="of all results")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=PRESETS, default=PRESETS, metavar="PRESET")
    parser.add_argument("--counts", action="store_true", help="fill in docs/paper.md and docs/scale.md, run nothing")
    given = parser.parse_args(arguments)
    if given.counts:
        plans = {name: planned(name, "dry_run=true", f"root={given.root.absolute()}/none") for name in PRESETS}
        PAGE.write_text(filled(PAGE.read_text("utf-8"), {"counts": count_lines(plans)}), "utf-8")
        SCALE.write_text(filled(SCALE.read_text("utf-8"), {"memory": memory_lines(plans)}), "utf-8")
        return 0
    codes = [run_tiny(name, given.root, given.workers) for name in given.only]
    runs, matrices = tiny_lines(given.root)
    TINY.write_text(filled(TINY.read_text("utf-8"), {"runs": runs}), "utf-8")
    (given.root / TINY.name).write_text(
        "\n".join(["# The paper's presets at tiny scale", "", *runs, "", *matrices]), "utf-8"
    )
    return int(any(codes))


def planned(preset: str, *arguments: str) -> Plan:
    """The plan of a preset with more overrides; nothing is run or written."""
    cells, _ = composed_grid([f"sweeps={preset}", *arguments])
    return plan_of(cells, "xling.planning")


# --- counts -------------------------------------------------------------------------------------------------


def count_lines(plans: Mapping[str, Plan]) -> list[str]:
    """A row a preset: stages by kind, what they are in units, and GPU hours."""
    names = [*COUNTED, *UNITS.values(), "EFLOP", "GPU hours"]
    lines = [f"| preset | cells | {' | '.join(names)} |", f"|---|{'---:|' * (len(names) + 1)}"]
    for preset, plan in plans.items():
        numbers = [len(plan.cells), *counts(plan).values()]
        lines.append(f"| `{preset}` | {' | '.join(f'{n:,.0f}' if n else '' for n in numbers)} |")
    return lines


def counts(plan: Plan) -> dict[str, float]:
    """By the columns of docs/paper.md."""
    stages = {kind: states.total() for kind, states in plan.count().items()}
    units = {
        name: sum(estimate.units.get(unit, 0) for estimate in plan.estimates.values()) for unit, name in UNITS.items()
    }
    modelled = [(kind, estimate) for kind, estimate in plan.estimates.items() if estimate.modelled]
    hours = sum(estimate.seconds * stages[kind] for kind, estimate in modelled) / 3600
    flops = sum(estimate.flops for _, estimate in modelled) / 1e18
    return {**{kind: stages.get(kind, 0) for kind in COUNTED}, **units, "EFLOP": flops, "GPU hours": hours}


def on_80_gb(plan: Plan) -> Plan:
    """The plan with the memory that its stages take of a GPU of 80 GB."""
    return replace(plan, needs=needs_of(plan, lambda kind: replace(GPU, more=plan.kinds[kind].parallel)))


def memory_lines(plans: Mapping[str, Plan]) -> list[str]:
    """GB of a GPU by kind of stage, `!` where that is too much of 80, and what to type there."""
    lines = [f"| preset | {' | '.join(LARGE)} | disk, GB |", f"|---|{'---:|' * (len(LARGE) + 1)}"]
    typed: dict[str, list[str]] = {}
    for preset, plan in ((preset, on_80_gb(plan)) for preset, plan in plans.items()):
        found = {kind: plan.needs[kind][1] for kind in LARGE if kind in plan.needs}
        cells = [f"{found[kind].gib:,.0f}{'' if found[kind].fits else ' !'}" if kind in found else "" for kind in LARGE]
        disk = sum(estimate.stored for estimate in plan.estimates.values()) / 1e9
        lines.append(f"| `{preset}` | {' | '.join(cells)} | {disk:,.0f} |")
        for kind, memory in found.items():
            if not memory.fits:
                setting = f"`{memory.setting}`" if memory.setting else "no setting is enough"
                typed.setdefault(f"{kind}: {setting}", []).append(f"`{preset}`")
    return [*lines, "", "What makes them fit on 80 GB:", "",
            *(f"- {said} ({', '.join(names)})" for said, names in typed.items())]  # fmt: skip


# --- tiny scale ---------------------------------------------------------------------------------------------


def run_tiny(preset: str, root: Path, workers: int) -> int:
    """Exit code of the preset at tiny scale; its wall seconds are noted in the root, the longest of its runs."""
    where = [f"root='{root.absolute()}'", f"name={preset}", "tracking.mode=off", f"hydra.launcher.workers={workers}"]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", f"sweeps={preset}", "scale=tiny", *where]
    start = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    walls = _walls(root)
    walls[preset] = max(walls.get(preset, 0.0), time.monotonic() - start)
    (root / WALLS).write_text(json.dumps(walls, indent=1, sort_keys=True) + "\n", "utf-8")
    return code


def _walls(root: Path) -> dict[str, float]:
    path = root / WALLS
    found: dict[str, float] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def tiny_lines(root: Path) -> tuple[list[str], list[str]]:
    """What each preset that has run took, for the page; and the matrices of all, for `<root>/paper_tiny.md`."""
    lines = ["| preset | cells | done | stages | work, s | wall, s |", "|---|---:|---:|---:|---:|---:|"]
    matrices: list[str] = []
    for preset, wall in sorted(_walls(root).items()):
        matrix, store = reduce_grid(root, preset), Store(root)
        plan = read_plan(store.grid_folder(preset))
        done = [store.check(stage.kind, stage.key).done for stage in plan.stages]
        work = sum(one.run.seconds for one in done if one is not None)
        full = sum(store.check(cell.judge.kind, cell.judge.key).done is not None for cell in plan.cells)
        lines.append(f"| `{preset}` | {len(plan.cells)} | {full} | {len(plan.stages)} | {work:.0f} | {wall:.0f} |")
        matrices += matrix_lines(preset, matrix)
    return lines, matrices


def matrix_lines(preset: str, matrix: Matrix) -> list[str]:
    """The win rates of each panel; of presets for accuracy that."""
    lines = [f"## {preset}", ""]
    for panel in (panel for block in matrix.blocks for panel in block.panels):
        table = accuracy_table(panel) if "accuracy" in preset else win_table(panel)
        lines += [f"{heading_of(panel.axes)}: {'accuracy' if 'accuracy' in preset else 'win rates'}, %", ""]
        lines += plain_lines(table) if table is not None else []
    return lines


def plain_lines(table: Table) -> list[str]:
    """A table's numbers without intervals and notes."""
    lines = [f"| {table.corner} | {' | '.join(table.columns)} |", f"|---|{'---:|' * len(table.columns)}"]
    lines += [f"| {label} | {' | '.join(cell.text for cell in row)} |" for label, row in table.rows]
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
