"""Tables of what the reward model itself is worth: its accuracy on held-out preferences, its agreement with people."""

from collections.abc import Sequence

from xling.analysis.matrix.types import CHANCE, Accuracy, Control, Panel
from xling.report.tables.table import HOME, SETTLED, Cell, Table, against, by_entry, quiet_cell
from xling.report.tables.wording import span


def accuracy_table(panel: Panel) -> Table | None:
    """Accuracy on held-out preferences, majority and length below."""
    if not panel.accuracy:
        return None
    found = {(a.source, a.target): a for a in panel.accuracy}
    rows = [
        (source, [_accuracy_cell(found.get((source, target))) for target in panel.targets]) for source in panel.sources
    ]
    breaks = frozenset({len(rows)})
    baselines = {baseline.target: baseline for baseline in panel.accuracy_baselines}
    for label in ("majority", "length"):
        estimates = [getattr(baselines[t], label) if t in baselines else None for t in panel.targets]
        if any(estimates):
            rows.append((label, [quiet_cell(estimate) for estimate in estimates]))
    notes = [f"{SETTLED} above every baseline by paired difference"] if baselines else []
    home = [entry for entry in panel.entries if entry.home]
    if any(entry.own_judge for entry in home) and not any(entry.win for entry in home):
        notes.append("the judge is the target's own reward model: its accuracy is that of the cell at home")
    title = "Reward model accuracy on held-out preferences, %"
    return Table(title, "source", list(panel.targets), rows, notes, breaks, shared=True)


def _accuracy_cell(found: Accuracy | None) -> Cell:
    if found is None:
        return Cell()
    star = SETTLED if found.beats_baselines else ""
    home = found.source == found.target
    text = f"{HOME if home else ''}{found.accuracy.value:.1f}{star}"
    return Cell(text, span(found.accuracy), "above" if star else "", home, found.accuracy)


def auc_table(panel: Panel, controls: Sequence[Control]) -> Table | None:
    """Area under the ROC curve, which needs no threshold: references can be compared."""
    if not any(a.auc for a in panel.accuracy):
        return None
    rows = []
    for source in panel.sources:
        rows.append(_auc_row(source, [a for a in panel.accuracy if a.source == source], panel))
    breaks = frozenset({len(rows)})
    rows += [_auc_row(c.name, c.accuracy, panel) for c in controls if any(a.auc for a in c.accuracy)]
    title = "Reward model AUC x 100 on held-out preferences"
    return Table(title, "source", list(panel.targets), rows, [], breaks, detail=True)


def _auc_row(label: str, found: Sequence[Accuracy], panel: Panel) -> tuple[str, list[Cell]]:
    values = {a.target: a.auc for a in found}
    estimates = [values.get(target) for target in panel.targets]
    return label, [Cell(f"{e.value:.1f}", span(e), against(e, CHANCE), exact=e) if e else Cell() for e in estimates]


# --- recorded responses -----------------------------------------------------------------------------------


def pairwise_table(panel: Panel, controls: Sequence[Control]) -> Table:
    """Share of pairs within a prompt on which the reward model and the people agree."""
    return by_entry(
        "Agreement with people on pairs within a prompt, %",
        panel,
        controls,
        lambda e: (
            Cell(f"{e.pairwise.value:.1f}", span(e.pairwise), against(e.pairwise, CHANCE), e.home, e.pairwise)
            if e.pairwise
            else Cell()
        ),
    )


def spearman_table(panel: Panel, controls: Sequence[Control]) -> Table:
    """Rank correlation with the people's ratings over all responses of a target."""
    return by_entry(
        "Spearman correlation with people's ratings",
        panel,
        controls,
        lambda e: Cell() if e.spearman is None else Cell(f"{e.spearman:.2f}", home=e.home),
    )
