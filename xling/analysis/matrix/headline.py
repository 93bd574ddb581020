"""A matrix in one sentence: what people read first. Its numbers are those of the panels' counts and ties."""

from collections.abc import Sequence

from xling.analysis.matrix.types import CHANCE, Arm, Entry, Matrix, Panel
from xling.analysis.matrix.verdicts import many


def headline(matrix: Matrix) -> str:
    """One to three sentences; what is missing is said first."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    asked = [entry for panel in panels for entry in panel.entries]
    if not asked:
        return "No cell with a source language was asked for: only references."
    entries = [entry for entry in asked if not entry.own_judge]
    if not entries:
        return f"No evidence: {_own(len(asked), len(asked))}"
    finished = [entry for entry in entries if entry.win is not None]
    if not finished:
        return f"No cell is finished yet: {len(entries)} {_are(len(entries))} planned."
    missing = len(entries) - len(finished)
    said = [_wins(finished, len(panels))] if any(entry.win for entry in finished) else []
    said += [_agreement(finished)] if any(entry.pairwise for entry in finished) else []
    said += [_home(panels)]
    said += [_arms(matrix)]
    said += [f"Left out of all this: {_own(len(asked) - len(entries), len(asked))}"] if entries != asked else []
    said += [f"{missing} of {many(len(entries), 'cell')} {_are(missing)} not there."] if missing else []
    return " ".join(sentence for sentence in said if sentence)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _own(k: int, n: int) -> str:
    cells = f"{k} of {many(n, 'cell')} {_are(k)}"
    return f"{cells} judged by the very reward model whose reward was optimised (docs/judges.md)."


def _wins(finished: Sequence[Entry], panels: int) -> str:
    among, whose = _evidence(finished)
    above = sum(entry.win is not None and entry.win.above(CHANCE) for entry in among)
    over = f" of {panels} matrices" if panels > 1 else ""
    cells = f"{above} of {many(len(among), 'cell')}{over}"
    return f"Reward models {whose} beat the baseline in {cells} (whole interval above 50 %)."


def _evidence(finished: Sequence[Entry]) -> tuple[Sequence[Entry], str]:
    """The cells that a grid is judged by, those abroad if there are any; what their reward models were trained on."""
    abroad, home = ([e for e in finished if e.abroad], [e for e in finished if e.home])
    if abroad:
        return abroad, "trained in another language"
    if home:
        return home, "trained in the target's language"
    return finished, "trained in the target's language and others"


def _agreement(finished: Sequence[Entry]) -> str:
    told = [entry.pairwise for entry in finished if entry.pairwise is not None]
    above = sum(estimate.above(CHANCE) for estimate in told)
    cells = f"{above} of {many(len(told), 'cell')}"
    return f"Reward models agree with people on pairs within a prompt more often than chance in {cells}."


def _home(panels: Sequence[Panel]) -> str:
    """How often the target's own language is the best source, or cannot be told from it."""
    columns = [
        home
        for panel in panels
        for target in panel.targets
        if (home := panel.at().get((target, target))) is not None
        and home.win is not None
        and sum(entry.target == target and entry.win is not None for entry in panel.entries) > 1
    ]
    if not columns:
        return ""
    best = sum(entry.best or entry.tied for entry in columns)
    where = (
        many(len(columns), "target")
        if len(panels) == 1
        else f"{many(len(columns), 'column')} of {len(panels)} matrices"
    )
    return f"The target's own language is the best source, or tied with it, in {best} of {where}."


def _arms(matrix: Matrix) -> str:
    """Of grids with several optimizers: which wins most."""
    if len(matrix.optimizers) != 1:
        return ""
    table = matrix.optimizers[0]
    there = [arm for arm in table.arms if arm.mean is not None]
    if len(there) < 2:
        return ""
    first = max(there, key=_mean)
    versus = ""
    if first.versus is not None and first.name != table.reference:
        settled = "settled" if first.versus.settled else "not settled"
        versus = f", {first.versus.estimate.value:+.1f} points over {table.reference} ({settled})"
    return f"Of {len(there)} optimizers {first.name} wins most, {_mean(first):.1f} % on average{versus}."


def _mean(arm: Arm) -> float:
    return arm.mean.value if arm.mean is not None else 0.0
