"""One quantity against another, a point a cell: divergence or accuracy against win rate, and the KL frontier."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from xling.analysis.matrix.names import in_full, optimizer_word, plain, slug_of, varying
from xling.analysis.matrix.types import CHANCE, Entry, Frontier, FrontierPoint, Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.report.pictures.look import GREY, Drawing, Made, Width, legend_below, look_of
from xling.report.pictures.names import Names
from xling.report.pictures.panels import named_panels, reach

MOST_TARGETS = 7  # with a colour each; beyond, all points look alike
MOST_BARS = 16  # points with intervals; beyond, they hide one another
Point = tuple[Entry, Estimate, Estimate]  # a cell, where it stands across, where up
THIN = {"elinewidth": 0.5, "capsize": 0, "linestyle": "none"}


def accuracy_and_win(matrix: Matrix, names: Names) -> Made:
    """Does an accurate reward model align better? (paper, section 6.1)"""
    made = []
    for one in named_panels(matrix):
        points = _accuracy_points(one.panel)
        if points:
            caption = (
                "Accuracy of the reward model on the target's held-out preferences against the win rate, "
                f"{one.about()}; a point a cell, black edges at home."
            )
            made.append(Drawing(one.file("accuracy_win"), caption, partial(_accuracies, one.panel, points, names)))
    return made or "no cell has both an accuracy of its reward model and a win rate"


def _accuracy_points(panel: Panel) -> list[Point]:
    found = {(one.source, one.target): one.accuracy for one in panel.accuracy}
    return [(e, found[e.source, e.target], e.win) for e in panel.entries if e.win and (e.source, e.target) in found]


def _accuracies(panel: Panel, points: Sequence[Point], names: Names, width: Width) -> Figure:
    figure = Figure(figsize=(min(width.inches, 4.2), 2.5))
    axes = figure.subplots()
    targets = [target for target in panel.targets if any(entry.target == target for entry, _, _ in points)]
    for number, target in enumerate(targets):
        own = [point for point in points if point[0].target == target]
        look = look_of(number + 1) if len(targets) <= MOST_TARGETS else {"color": "0.25", "marker": "o"}
        label = names(target) if len(targets) <= MOST_TARGETS else None
        _points(axes, own, look, label, len(points) <= MOST_BARS)
    axes.set_xlabel("accuracy of the reward model, %")
    axes.set_ylabel("win rate, %")
    legend_below(figure, axes)
    return figure


def _points(axes: Any, points: Sequence[Point], look: Any, label: str | None, bars: bool) -> None:
    """Points, with thin intervals where they can be told apart; black edges at home."""
    x, y = [point[1] for point in points], [point[2] for point in points]
    at = [one.value for one in x], [one.value for one in y]
    style: dict[str, Any] = {**THIN, **look, "markersize": 3.5, "alpha": 0.85}
    if bars:
        axes.errorbar(*at, xerr=reach(x), yerr=reach(y), label=label, **style)
    else:
        axes.plot(*at, label=label, linestyle="none", markersize=3.2, alpha=0.85, **look)
    home = [(one.value, other.value) for entry, one, other in points if entry.home]
    if home:
        edge = {"markersize": 3.6, "fillstyle": "none", "markeredgecolor": "black", "markeredgewidth": 0.9}
        axes.plot(*zip(*home, strict=True), linestyle="none", marker=look["marker"], **edge)


def kl_and_win(matrix: Matrix, names: Names) -> Made:
    """How far from SFT_t, and the win rate (paper, Figure 8); best-of-n at the bound of its divergence."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, list[Point]]] = {}
    measured = False
    for one in named_panels(matrix):
        rest = tuple(
            sorted((axis, value) for axis, value in one.panel.axes.items() if not axis.startswith("optimizer"))
        )
        arm = _arm(one.panel)
        for entry in one.panel.entries:
            far = _divergence(entry)
            if far is not None and entry.win is not None:
                measured |= entry.kl is not None
                groups.setdefault(rest, {}).setdefault(arm, []).append((entry, far, entry.win))
    if not measured:
        return "no divergence was measured: only policies that are trained have one"
    several = {rest: arms for rest, arms in groups.items() if any(e.kl for arm in arms.values() for e, _, _ in arm)}
    apart = varying([dict(rest) for rest in several])
    made = []
    for rest, arms in several.items():
        name = "-".join(["kl_win", *slug_of(dict(rest), apart)])
        words = in_full(dict(rest))
        caption = (
            f"Divergence from the SFT policy against the win rate, {words}; a point a cell, black edges at home. "
            "Best-of-n stands at the upper bound log n - (n - 1)/n."
        )
        made.append(Drawing(name, caption, partial(_divergences, arms)))
    return made


def _arm(panel: Panel) -> str:
    """The optimizer with its swept settings, as words."""
    more = [f"{axis.rpartition('.')[2]}={v}" for axis, v in sorted(panel.axes.items()) if axis.startswith("optimizer.")]
    return optimizer_word(" ".join([panel.axes.get("optimizer", ""), *more]), panel.entries)


def _divergence(entry: Entry) -> Estimate | None:
    if entry.kl is not None or entry.kl_bound is None:
        return entry.kl
    return Estimate(entry.kl_bound, None, None, None, 0, 0, 1)


def _divergences(arms: dict[str, list[Point]], width: Width) -> Figure:
    figure = Figure(figsize=(min(width.inches, 4.2), 2.4))
    axes = figure.subplots()
    few = sum(map(len, arms.values())) <= MOST_BARS
    for number, (arm, points) in enumerate(sorted(arms.items(), key=lambda item: not item[0].startswith("best"))):
        _points(axes, points, look_of(number + 1), arm, few)
    axes.axhline(CHANCE, color=GREY, linewidth=0.5, linestyle=":", zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("KL from the SFT policy, nats a response")
    axes.set_ylabel("win rate, %")
    legend_below(figure, axes)
    return figure


# --- the frontier -----------------------------------------------------------------------------------------

SIDES = {
    "win": "win rate, %",
    "quality": "quality",
    "reward": "reward, SD",
}


def frontier(matrix: Matrix, names: Names) -> Made:
    """Gain of each optimizer against its divergence: means over the cells that all of them have."""
    there = [found for found in matrix.frontiers if found.points]
    if not there:
        return "no KL frontier: this grid has one optimizer with one setting"
    apart = varying([found.axes for found in there])
    made = []
    for found in there:
        words = in_full(found.axes)
        name = "-".join(["frontier", *slug_of(found.axes, apart)])
        caption = (
            f"Divergence from the SFT policy against what it brings, means over {found.cells} cells with "
            f"intervals over prompts{' and seeds' if found.points[0].kl.seeds > 1 else ''}, {words}. "
            "Best-of-k stands at the upper bound log k - (k - 1)/k. Quality and reward: increase over the baseline by "
            "the judge's score and by the reward model (in its standard deviations)."
        )
        made.append(Drawing(name, caption, partial(_frontier, found)))
    return made


def _frontier(found: Frontier, width: Width) -> Figure:
    sides = [name for name in SIDES if any(getattr(point, name) is not None for point in found.points)]
    down, across = (len(sides), 1) if width.narrow else (1, len(sides))
    figure = Figure(figsize=(width.inches, down * 1.55 + 0.4))
    axes = figure.subplots(down, across, sharex=True, squeeze=False)
    optimizers = list(dict.fromkeys(point.arm.split()[0] for point in found.points))
    for number, (side, name) in enumerate(zip(axes.flat, sides, strict=True)):
        for place, optimizer in enumerate(optimizers):
            points = [p for p in found.points if p.arm.split()[0] == optimizer and getattr(p, name) is not None]
            _settings(side, sorted(points, key=lambda point: point.kl.value), name, look_of(place + 1))
        side.axhline(CHANCE if name == "win" else 0.0, color=GREY, linewidth=0.5, linestyle=":")
        side.set_ylabel(SIDES[name])
        last = not width.narrow or number == len(sides) - 1
        side.set_xlabel("KL from the SFT policy, nats a response" if last else "")
    if not width.narrow:
        for side in axes.flat:
            side.set_xlabel("KL, nats a response")
    legend_below(figure, axes.flat[0])
    return figure


def _settings(axes: Any, points: Sequence[FrontierPoint], name: str, look: dict[str, Any]) -> None:
    """Settings of one optimizer by KL, joined, each with both intervals; best-of-k with its ends named."""
    if not points:
        return
    x, y = [point.kl for point in points], [getattr(point, name) for point in points]
    best = points[-1].k is not None
    label = f"best-of-k, k ≤ {points[-1].k}" if best else optimizer_word(points[0].arm.split()[0])
    axes.errorbar(
        [one.value for one in x], [one.value for one in y], xerr=reach(x), yerr=reach(y),
        label=label, **look, markersize=3, linewidth=0.9, elinewidth=0.5, capsize=1.2, capthick=0.5,
    )  # fmt: skip
    for point, one in zip(points, y, strict=True):
        words = plain(point.arm.partition(" ")[2]) if not best else f"k={point.k}" if point is points[-1] else ""
        if words and math.isfinite(one.value):
            axes.annotate(words, (point.kl.value, one.value), (3, -7), textcoords="offset points", fontsize=5)
