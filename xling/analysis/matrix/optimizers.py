"""Optimizers on equal terms: the same prompts, the same baseline samples, win rates paired by prompt.

Blocks are made by optimizer and judge; here the cells that differ in the optimizer alone are put side by side, each
with its divergence and its difference to best-of-n.
"""

from collections.abc import Mapping, Sequence

from xling.analysis.matrix.across import Kept, Key, key_without, mean_of_columns, over_columns, shared_seeds
from xling.analysis.matrix.names import named
from xling.analysis.matrix.types import CHANCE, Arm, ArmCell, Block, Entry, OptimizerTable
from xling.analysis.statistics.bootstrap import POINTS, SHARE, Sample
from xling.analysis.statistics.intervals import Difference, fold, judged

REFERENCE = "best_of_n"
Cells = Mapping[tuple[str, str], Kept]


def optimizer_tables(kept: Sequence[Kept], blocks: Sequence[Block]) -> list[OptimizerTable]:
    """A table for every judge and reward model that several optimizers (or settings of one) were asked for with."""
    groups: dict[Key, dict[str, list[Entry]]] = {}
    for entry in (entry for block in blocks for panel in block.panels for entry in panel.entries):
        shared = key_without(entry.axes, "optimizer", "source_lang", "target_lang")
        groups.setdefault(shared, {}).setdefault(named(entry.axes, "optimizer"), []).append(entry)
    finished = {key_without(one.axes): one for one in kept}
    tables = []
    for key, planned in sorted(groups.items()):
        arms = {
            name: {one.place: one for entry in entries if (one := finished.get(key_without(entry.axes)))}
            for name, entries in planned.items()
        }
        if len(arms) > 1:
            reference = reference_of(arms)
            made = [_arm(name, cells, arms.get(reference, {}), planned[name]) for name, cells in in_order(arms)]
            tables.append(OptimizerTable(dict(key), reference, made))
    return tables


def reference_of(arms: Mapping[str, Cells]) -> str:
    """Best-of-n with the largest n; empty where there is none."""
    n = {name: _samples(cells) for name, cells in arms.items() if cells and name.split()[0] == REFERENCE}
    return max(sorted(n), key=lambda name: n[name], default="")


def _samples(cells: Cells) -> int:
    return max((kept.n for kept in cells.values()), default=0)


def in_order(arms: Mapping[str, Cells]) -> list[tuple[str, Cells]]:
    """Best-of-n first, by n; the others by name."""
    return sorted(arms.items(), key=lambda arm: (arm[0].split()[0] != REFERENCE, *_order(arm)))


def _order(arm: tuple[str, Cells]) -> tuple[int, str]:
    name, cells = arm
    return (_samples(cells) if name.split()[0] == REFERENCE else 0, name)


def _arm(name: str, cells: Cells, reference: Cells, planned: Sequence[Entry]) -> Arm:
    paired = {p: one for p, one in cells.items() if p in reference and reference[p] is not one}
    made = []
    for entry in planned:
        place = (entry.source, entry.target)
        made.append(_cell(entry, _differences(paired[place], reference[place]) if place in paired else []))
    above = sum(cell.win is not None and cell.win.above(CHANCE) for cell in made)
    wins, differences = _wins(list(cells.values())), _wins(list(paired.values()), reference)
    return Arm(name, made, above, over_columns(wins)[0] if wins else None, _judged(differences))


def _cell(entry: Entry, samples: Sequence[Sample]) -> ArmCell:
    found = fold(samples)[0] if samples else None
    versus = None if found is None else judged(found)
    return ArmCell(entry.source, entry.target, entry.status, entry.win, entry.kl, entry.kl_bound, versus)


def _differences(kept: Kept, other: Kept) -> list[Sample]:
    """Win rate minus the other's, one sample a seed."""
    return [kept.sample(s, (kept.wins[s] - other.wins[s])[:, None], POINTS, True) for s in shared_seeds(kept, other)]


def _wins(kept: Sequence[Kept], minus: Cells | None = None) -> list[Sample]:
    """Means over a target's sources, one sample a target and seed; with `minus` of the paired differences to it."""
    columns: dict[tuple[str, tuple[str, str]], list[Kept]] = {}
    for one in kept:
        for seeds in one.wins if minus is None else shared_seeds(one, minus[one.place]):
            columns.setdefault((one.place[1], seeds), []).append(one)
    samples = []
    for (_, seeds), members in sorted(columns.items(), key=lambda item: item[0]):
        wins = [one.wins[seeds] - (minus[one.place].wins[seeds] if minus else 0.0) for one in members]
        mean = mean_of_columns([column[:, None] for column in wins])
        samples.append(members[0].sample(seeds, mean, POINTS if minus else SHARE, bool(minus)))
    return samples


def _judged(samples: Sequence[Sample]) -> Difference | None:
    found = over_columns(samples)[0] if samples else None
    return None if found is None else judged(found)
