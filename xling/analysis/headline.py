"""A matrix in one sentence: what people read first. Its numbers are those of the panels' counts and ties."""

from collections.abc import Sequence

from xling.analysis.matrix import CHANCE, Arm, Entry, Matrix, Panel


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
        return f"No cell is finished yet: {len(entries)} are planned."
    missing = len(entries) - len(finished)
    said = [_wins(finished, len(panels))] if any(entry.win for entry in finished) else []
    said += [_agreement(finished)] if any(entry.pairwise for entry in finished) else []
    said += [_home(panels)]
    said += [_arms(matrix)]
    said += [f"Left out of all this: {_own(len(asked) - len(entries), len(asked))}"] if entries != asked else []
    said += [f"{missing} of {len(entries)} cells are not there."] if missing else []
    return " ".join(sentence for sentence in said if sentence)


def _own(k: int, n: int) -> str:
    are = "cell is" if k == 1 else "cells are"
    return f"{k} of {n} {are} judged by the very reward model whose reward was optimised (docs/judges.md)."


def _wins(finished: Sequence[Entry], panels: int) -> str:
    abroad = [entry for entry in finished if entry.abroad]
    among, whose = (abroad, "trained in another language") if abroad else (finished, "trained in the target's language")
    above = sum(entry.win is not None and entry.win.above(CHANCE) for entry in among)
    over = f" of {panels} matrices" if panels > 1 else ""
    return (
        f"Reward models {whose} beat the baseline in {above} of {len(among)} cells{over} (whole interval above 50 %)."
    )


def _agreement(finished: Sequence[Entry]) -> str:
    told = [entry.pairwise for entry in finished if entry.pairwise is not None]
    above = sum(estimate.above(CHANCE) for estimate in told)
    return f"They agree with people on pairs within a prompt more often than chance in {above} of {len(told)} cells."


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
    where = "targets" if len(panels) == 1 else "columns"
    return f"The target's own language is the best source, or tied with it, in {best} of {len(columns)} {where}."


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
