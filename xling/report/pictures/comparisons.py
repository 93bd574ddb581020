"""Sources compared: their ranks by target, their differences to home, and the same cells by several judges."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from xling.analysis.matrix.names import plain
from xling.analysis.matrix.types import CHANCE, Entry, Matrix, Panel
from xling.analysis.statistics import draws as statistics
from xling.analysis.statistics.decisions import Difference
from xling.report.pictures.look import (
    GREY,
    Drawing,
    Made,
    Names,
    Width,
    evenly,
    groups_over,
    legend_below,
    look_of,
    named_panels,
    reach,
    text_width,
)
from xling.report.tables.colours import LINES

MOST_LINES = 14  # sources of a chart of ranks
MOST_ROWS = 90  # of a forest plot: a page
MOST_SIDES = 12  # targets with axes of their own


# --- ranks ------------------------------------------------------------------------------------------------


def ranks(matrix: Matrix, names: Names) -> Made:
    """Which source is best where (paper, Figure 6): a line a source, 1 at the top."""
    made, too_many = [], 0
    for one in named_panels(matrix):
        panel = one.panel
        if len(panel.sources) < 2 or not any(entry.win for entry in panel.entries):
            continue
        if len(panel.sources) > MOST_LINES:
            too_many = max(too_many, len(panel.sources))
            continue
        caption = (
            f"Rank of each source language by target, {one.about()}; win rates equal to two decimals share the best of "
            "their ranks. Ringed: home. " + ("Open: tied with the best." if _any_tied(panel) else "")
        )
        made.append(Drawing(one.file("ranks"), caption.strip(), partial(_ranks, panel, names)))
    if too_many:
        return made or f"{too_many} source languages are too many lines for a chart of ranks (at most {MOST_LINES})"
    return made or "no panel has two source languages to rank"


def _any_tied(panel: Panel) -> bool:
    return any(entry.tied for entry in panel.entries)


def ranked(panel: Panel) -> dict[tuple[str, str], float]:
    """(source, target) -> rank among the sources that are there, ties as in `xling analyse`."""
    found: dict[tuple[str, str], float] = {}
    for target in panel.targets:
        there = [entry for entry in panel.entries if entry.target == target and entry.win is not None]
        values = statistics.ranks(np.array([entry.win.value for entry in there if entry.win]), statistics.DIGITS)
        found |= {(entry.source, target): float(rank) for entry, rank in zip(there, values, strict=True)}
    return found


def _ranks(panel: Panel, names: Names, width: Width) -> Figure:
    places, cells = ranked(panel), panel.at()
    lowest = math.ceil(max(places.values()))
    inches = min(width.inches, 1.1 + 0.55 * len(panel.targets))
    targets = names.all(panel.targets)
    longest = max(text_width(name, 7) for name in targets)
    steep = longest > inches * 72 * 0.8 / len(targets)
    # upright names take their length from the axes, which would have no room left
    figure = Figure(figsize=(inches, 0.6 + 0.24 * lowest + (longest / 72 if steep else 0)))
    axes = figure.subplots()
    for number, source in enumerate(panel.sources):
        look = look_of(number + 1)
        line = [places.get((source, target), math.nan) for target in panel.targets]
        axes.plot(range(len(line)), line, color=look["color"], linewidth=1.2, zorder=2)
        for x, (target, rank) in enumerate(zip(panel.targets, line, strict=True)):
            if not math.isnan(rank):
                entry = cells[source, target]
                face = "white" if entry.tied else look["color"]
                axes.plot(x, rank, **look, markersize=6, markerfacecolor=face, markeredgewidth=1.0, zorder=3)
                if entry.home:
                    axes.plot(x, rank, "o", markersize=10, fillstyle="none", color="black", markeredgewidth=0.7)
    _ends(axes, panel, names, places)
    axes.set_xticks(range(len(targets)), targets, rotation=90 if steep else 0)
    axes.set_yticks(range(1, lowest + 1))
    axes.set_ylim(lowest + 0.5, 0.5)
    axes.set_xlim(-0.35, len(panel.targets) - 0.65)
    axes.set_xlabel("target")
    axes.set_ylabel("rank of the source")
    return figure


def _ends(axes: Any, panel: Panel, names: Names, places: dict[tuple[str, str], float]) -> None:
    """Each line's source beside its last point; what shares a rank stands in one label."""
    ends: dict[tuple[int, float], list[int]] = {}
    for number, source in enumerate(panel.sources):
        there = [x for x, target in enumerate(panel.targets) if (source, target) in places]
        if there:
            ends.setdefault((there[-1], places[source, panel.targets[there[-1]]]), []).append(number)
    for (x, rank), sources in ends.items():
        for turn, number in enumerate(sources):
            style = {"color": look_of(number + 1)["color"], "fontsize": 7, "clip_on": False}
            off = (turn - (len(sources) - 1) / 2) * 0.62
            if x == len(panel.targets) - 1:
                axes.text(x + 0.22, rank + off, names(panel.sources[number]), va="center", **style)
            else:  # where other lines go on
                axes.text(x, rank - 0.3 + off, names(panel.sources[number]), ha="center", va="bottom", **style)


# --- differences to home ----------------------------------------------------------------------------------


def forest(matrix: Matrix, names: Names) -> Made:
    """Source minus home by target, paired by prompt, with intervals; filled where 0 is excluded."""
    made, reason = [], "no paired difference to home: no target has both its own reward model and another's"
    for one in named_panels(matrix):
        rows = [entry for entry in one.panel.entries if entry.versus_home is not None]
        if len(rows) > MOST_ROWS:
            reason = f"{len(rows)} differences to home are too many for a forest plot (at most {MOST_ROWS})"
        elif rows:
            caption = (
                f"Win rate of each source minus that of home, points, paired by prompt, with 95 % intervals, "
                f"{one.about()}. Filled: the interval excludes 0 (each by itself)."
            )
            made.append(Drawing(one.file("forest"), caption, partial(_forest, one.panel, names)))
    return made or reason


def _forest(panel: Panel, names: Names, width: Width) -> Figure:
    """Targets under one another, in as many columns as fit."""
    groups = [(target, _away(panel, target)) for target in panel.targets]
    groups = [(target, rows) for target, rows in groups if rows]
    widest = max(text_width(f"{names(e.source)} → {names(t)}", 6) for t, rows in groups for e, _ in rows) / 72
    sides = max(1, min(len(groups), 3, int(width.inches / (widest + 1.2))))
    each = math.ceil(len(groups) / sides)
    shares = [list(range(first, min(first + each, len(groups)))) for first in range(0, len(groups), each)]
    lines = max(sum(len(groups[g][1]) + 0.7 for g in share) for share in shares)
    figure = Figure(figsize=(width.inches, lines * 0.135 + 0.55))
    for side, share in zip(figure.subplots(1, len(shares), sharex=True, squeeze=False).flat, shares, strict=True):
        _forest_side(side, [groups[g] for g in share], names, lines)
    figure.supxlabel("source minus home, points", fontsize=7)
    return figure


def _away(panel: Panel, target: str) -> list[tuple[Entry, Difference]]:
    """The best source first."""
    own = [(e, e.versus_home) for e in panel.entries if e.target == target and e.versus_home is not None]
    return sorted(own, key=lambda row: -row[1].estimate.value)


def _forest_side(
    axes: Any, groups: Sequence[tuple[str, list[tuple[Entry, Difference]]]], names: Names, lines: float
) -> None:
    ticks, labels, y = [], [], 0.0
    for target, rows in groups:
        for entry, difference in rows:
            one, look = difference.estimate, {"color": LINES[1] if difference.estimate.value >= 0 else LINES[2]}
            face = look["color"] if difference.settled else "white"
            axes.errorbar(
                one.value, y, xerr=reach([one]), **look, marker="o" if one.value >= 0 else "s", markersize=3.2,
                markerfacecolor=face, markeredgewidth=0.8, elinewidth=0.8, capsize=0,
            )  # fmt: skip
            ticks.append(y)
            labels.append(f"{names(entry.source)} → {names(target)}")
            y += 1
        axes.axhline(y - 0.15, color="0.85", linewidth=0.4) if target != groups[-1][0] else None
        y += 0.7
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(ticks, labels, fontsize=6)
    axes.set_ylim(lines - 0.5, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


# --- judges -----------------------------------------------------------------------------------------------


def judges(matrix: Matrix, names: Names) -> Made:
    """The same cells by each judge, side by side, axes a target."""
    made: list[Drawing] = []
    for name, words, members in groups_over(named_panels(matrix), "judge"):
        if sum(any(entry.win for entry in panel.entries) for panel in members.values()) < 2:
            continue
        targets = sorted({target for panel in members.values() for target in panel.targets})
        if len(targets) > MOST_SIDES:
            return f"{len(targets)} target languages are too many to set judges side by side (at most {MOST_SIDES})"
        caption = f"Win rate by judge, %, {words}; rows: source language."
        made.append(Drawing(f"judges-{name}" if name else "judges", caption, partial(_judges, members, targets, names)))
    return made or "this grid has one judge"


def _judges(members: dict[str, Panel], targets: Sequence[str], names: Names, width: Width) -> Figure:
    sources = list(dict.fromkeys(source for panel in members.values() for source in panel.sources))
    across = evenly(len(targets), 3 if width.narrow else 6)
    down = math.ceil(len(targets) / across)
    row = 0.085 * (len(members) + 1)
    figure = Figure(figsize=(width.inches, down * (row * len(sources) + 0.25) + 0.55))
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    offsets = np.linspace(-0.26, 0.26, len(members))
    for number, side in enumerate(axes.flat):
        if number >= len(targets):
            side.set_axis_off()
            continue
        for place, ((judge, panel), offset) in enumerate(zip(members.items(), offsets, strict=True)):
            _judged(side, panel, targets[number], sources, float(offset), {**look_of(place + 1), "label": plain(judge)})
        side.axvline(CHANCE, color=GREY, linewidth=0.5, linestyle=":")
        side.set_title(names(targets[number]), pad=2)
        side.set_yticks(range(len(sources)), names.all(sources))
        side.set_ylim(len(sources) - 0.5, -0.5)
        side.tick_params(axis="y", length=0)
        side.set_xlabel("win rate, %" if number + across >= len(targets) else "", labelpad=1)
        for line in range(1, len(sources)):
            side.axhline(line - 0.5, color="0.92", linewidth=0.5, zorder=0)
    legend_below(figure, axes.flat[0])
    return figure


def _judged(axes: Any, panel: Panel, target: str, sources: Sequence[str], offset: float, look: dict[str, Any]) -> None:
    there = [e for e in panel.entries if e.target == target and e.win is not None]
    x, y = [e.win for e in there if e.win], [sources.index(e.source) + offset for e in there]
    axes.errorbar(
        [one.value for one in x], y, xerr=reach(x), **look, linestyle="none", markersize=3, elinewidth=0.7, capsize=0
    )
