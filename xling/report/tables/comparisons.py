"""Tables across panels: the optimizers of a grid side by side, and whether its judges agree."""

from collections.abc import Callable, Sequence

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import (
    CHANCE,
    MEASURES,
    OF_CHANCE,
    OF_POINTS,
    Arm,
    ArmCell,
    JudgeAgreement,
    Matrix,
    OptimizerTable,
    Scale,
)
from xling.report.tables.table import Cell, Kind, Table, difference_cell, number_cell

MOST_ROWS = 12


def comparison_tables(matrix: Matrix) -> list[Table]:
    """Judges first, optimizers last; empty for a grid with one of each."""
    tables = agreement_tables(matrix.agreement)
    for found in matrix.optimizers:
        where = f" ({heading_of(found.axes)})" if len(matrix.optimizers) > 1 else ""
        tables += [*_cell_tables(found, where), _summary(found, where)]
    return tables


# --- judges -----------------------------------------------------------------------------------------------


def agreement_tables(found: Sequence[JudgeAgreement]) -> list[Table]:
    """Instance by instance for each target, and the ranking of sources."""
    if not found:
        return []
    targets = sorted({target for one in found for target in one.by_target})
    rows = []
    for one in found:
        cells = [number_cell(one.by_target.get(target)) for target in targets]
        ranking = number_cell(one.ranking)
        rows.append((_name(one, found), [*cells, number_cell(one.instances), ranking]))
    pairs = ", ".join(dict.fromkeys(str(one.source_pairs) for one in found))
    notes = [
        "instances: both prefer the same side; a tie of one judge counts half",
        f"sources: pairs of sources within a target in the same order (pairs: {pairs}); a tie of one judge counts half",
    ]
    columns = [*targets, "mean", "sources"]
    title = "Agreement between judges, %"
    return [Table("agreement_between_judges", title, "", columns, rows, notes, section="across", scale=OF_CHANCE)]


def _name(one: JudgeAgreement, among: Sequence[JudgeAgreement]) -> str:
    """The two judges, and what tells this row from the others."""
    apart = [value for axis, value in one.axes.items() if any(other.axes.get(axis) != value for other in among)]
    return ", ".join([" ~ ".join(one.judges), *apart])


# --- optimizers -------------------------------------------------------------------------------------------


def _summary(found: OptimizerTable, where: str) -> Table:
    """A row an optimizer: its mean, its difference to best-of-n, how many cells it wins, how far it went."""
    versus = [f"minus {found.reference}"] if found.reference else []
    rows = []
    for arm in found.arms:
        judged = sum(cell.win is not None for cell in arm.cells)
        cells = [number_cell(arm.mean, level=CHANCE), *([difference_cell(arm.versus)] if versus else [])]
        cells += [Cell(f"{arm.above_50}/{judged}"), _far(arm)]
        rows.append((arm.name, cells))
    notes = ["above 50: cells whose whole interval is; KL: nats a response from SFT_t, mean and range over cells"]
    if found.reference:
        notes.append(f"minus {found.reference}: same prompts, same baseline samples, paired by prompt")
    heads = ["win rate, %", *versus, "above 50", "KL"]
    return Table("optimizers", f"Optimizers{where}", "", heads, rows, notes, section="across")


def _far(arm: Arm) -> Cell:
    measured = [cell.kl.value for cell in arm.cells if cell.kl is not None]
    if measured:
        return Cell(f"{sum(measured) / len(measured):.2f}", f"{min(measured):.2f}-{max(measured):.2f}")
    bounds = [cell.kl_bound for cell in arm.cells if cell.kl_bound is not None]
    return Cell(f"≤{max(bounds):.2f}") if bounds else Cell()


def _cell_tables(found: OptimizerTable, where: str) -> list[Table]:
    """Win rates, differences and divergences: a row a cell, a column an optimizer."""
    places = sorted({(cell.target, cell.source) for arm in found.arms for cell in arm.cells})
    by_arm = [{(cell.target, cell.source): cell for cell in arm.cells} for arm in found.arms]
    names, many = [arm.name for arm in found.arms], len(places) > MOST_ROWS

    def table(name: str, title: str, cell: Callable[[ArmCell | None], Cell], scale: Scale, detail: bool) -> Table:
        rows = [
            (f"{source} -> {target}", [cell(cells.get((target, source))) for cells in by_arm])
            for target, source in places
        ]
        kind: Kind = "detail" if detail else ""
        return Table(name, f"{title}{where}", "", names, rows, section="across", scale=scale, kind=kind)

    tables = [table("win_rate_by_optimizer", "Win rate by optimizer, %", _win, MEASURES["win"].scale, many)]
    if found.reference:
        title = f"Win rate minus {found.reference}, points, paired by prompt"
        tables.append(
            table(
                f"win_rate_minus_{found.reference}",
                title,
                lambda cell: difference_cell(cell.versus if cell else None),
                OF_POINTS,
                True,
            )
        )
    return [*tables, table("kl_from_sft_t", MEASURES["kl"].title, _kl, MEASURES["kl"].scale, True)]


def _win(cell: ArmCell | None) -> Cell:
    if cell is None:
        return Cell()
    home = cell.source == cell.target
    return (
        Cell(cell.status, look="hole", home=home)
        if cell.win is None
        else number_cell(cell.win, level=CHANCE, home=home)
    )


def _kl(cell: ArmCell | None) -> Cell:
    if cell is not None and cell.kl is None and cell.kl_bound is not None:
        return Cell(f"≤{cell.kl_bound:.2f}")
    return number_cell(cell.kl if cell else None, 2)
