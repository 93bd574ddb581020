"""Lines and points: best-of-k by k, learning by step, what divergence buys, and accuracy against win rate."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from xling.analysis.matrix.names import in_full, optimizer_word, plain, slug_of, varying
from xling.analysis.matrix.types import CHANCE, Entry, Frontier, FrontierPoint, LearningPoint, Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.report.pictures.look import (
    GREY,
    Drawing,
    Made,
    Names,
    Width,
    evenly,
    legend_below,
    look_of,
    named_panels,
    reach,
)
from xling.report.tables.colours import LINES

MOST_LINES = 7  # sources with a colour each; beyond, those abroad are grey
MOST_SIDES = 12  # targets with axes of their own; beyond, one picture of means
MOST_TARGETS = 7  # of points, with a colour each; beyond, all points look alike
MOST_BARS = 16  # points with intervals; beyond, they hide one another
STYLES = ("-", "--", ":", "-.")
KL = "KL from the SFT policy, nats a response"
THIN = {"elinewidth": 0.5, "capsize": 0, "linestyle": "none"}
Point = tuple[Entry, Estimate, Estimate]  # a cell, where it stands across, where up


def best_of_k(matrix: Matrix, names: Names) -> Made:
    """Win rate of best-of-k for k = 1 .. n, unbiased over the pool's subsets of k."""
    panels = [one for one in named_panels(matrix) if any(_curve(entry) for entry in one.panel.entries)]
    if not panels:
        return "no best-of-k curve: no pool of samples was judged as a whole"
    return [
        Drawing(
            one.file("best_of_k"),
            f"Win rate of best-of-k, %, over all subsets of k of the samples, {one.about()}. "
            + ("Black: home, with its 95 % interval." if _split(one.panel) else "Means over cells."),
            partial(_curves, one.panel, names),
        )
        for one in panels
    ]


def _curve(entry: Entry) -> list[float]:
    """Two points and more, else nothing."""
    return entry.curve.value if entry.curve is not None and len(entry.curve.value) > 1 else []


def _split(panel: Panel) -> bool:
    return len(panel.targets) <= MOST_SIDES


def _curves(panel: Panel, names: Names, width: Width) -> Figure:
    if not _split(panel):
        return _mean_curves(panel, width)
    across = evenly(len(panel.targets), 3 if width.narrow else 6)
    down = math.ceil(len(panel.targets) / across)
    figure = Figure(figsize=(width.inches, down * 1.25 + 0.55))
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    looks = {source: look_of(number + 1) for number, source in enumerate(panel.sources)}
    for number, side in enumerate(axes.flat):
        if number >= len(panel.targets):
            side.set_axis_off()
            continue
        target = panel.targets[number]
        entries = [entry for entry in panel.entries if entry.target == target and _curve(entry)]
        for entry in sorted(entries, key=lambda entry: entry.home):
            _line(side, entry, names, looks[entry.source], len(panel.sources) > MOST_LINES)
        _doublings(side, max((len(_curve(entry)) for entry in entries), default=2))
        side.set_title(names(target), pad=2)
        side.tick_params(labelbottom=number + across >= len(panel.targets))
        side.set_xlabel("k" if number + across >= len(panel.targets) else "", labelpad=1)
        side.set_ylabel("win rate, %" if number % across == 0 else "")
    _sources_legend(figure, panel, names, looks)
    return figure


def _line(axes: Any, entry: Entry, names: Names, look: dict[str, Any], grey: bool) -> None:
    values, ks = _curve(entry), range(1, len(_curve(entry)) + 1)
    if entry.home and entry.curve is not None:
        low = [math.nan if bound is None else bound for bound in entry.curve.low]
        high = [math.nan if bound is None else bound for bound in entry.curve.high]
        axes.fill_between(ks, low, high, color="0.85", linewidth=0)
        axes.plot(ks, values, color="black", linewidth=1.5)
    elif grey:
        axes.plot(ks, values, color=GREY, linewidth=0.5)
    else:
        marks = [k - 1 for k in ks if k & (k - 1) == 0]
        axes.plot(ks, values, **look, markevery=marks, markersize=2.5, linewidth=0.8)


def _doublings(axes: Any, n: int) -> None:
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(n.bit_length()) if 2**power <= n]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in ticks])
    axes.axhline(CHANCE, color=GREY, linewidth=0.5, linestyle=":")


def _sources_legend(figure: Figure, panel: Panel, names: Names, looks: dict[str, dict[str, Any]]) -> None:
    if len(panel.sources) > MOST_LINES:
        handles = [Line2D([], [], color="black", linewidth=1.5), Line2D([], [], color=GREY, linewidth=0.5)]
        labels = ["home", "abroad"]
    else:
        handles = [Line2D([], [], **look, markersize=2.5, linewidth=0.8) for look in looks.values()]
        handles.append(Line2D([], [], color="black", linewidth=1.5))
        labels = [*names.all(list(looks)), "home"]
    legend_below(figure, handles=handles, labels=labels)


def _mean_curves(panel: Panel, width: Width) -> Figure:
    """Home and abroad, each with the middle half of its cells."""
    figure = Figure(figsize=(width.inches, 2.1))
    axes = figure.subplots()
    for label, colour, cells in (
        ("home", "black", [e for e in panel.entries if e.home]),
        ("abroad", LINES[1], [e for e in panel.entries if e.abroad]),
    ):
        curves = [_curve(entry) for entry in cells if _curve(entry)]
        if not curves:
            continue
        n = min(map(len, curves))
        columns = [sorted(curve[k] for curve in curves) for k in range(n)]
        quarter = [(column[len(column) // 4], column[(3 * len(column)) // 4]) for column in columns]
        lower, upper = zip(*quarter, strict=True)
        axes.fill_between(range(1, n + 1), lower, upper, color=colour, alpha=0.15, linewidth=0)
        means = [sum(column) / len(column) for column in columns]
        axes.plot(range(1, n + 1), means, color=colour, label=f"{label}, mean of {len(curves)} (shaded: middle half)")
        _doublings(axes, n)
    axes.set_xlabel("k")
    axes.set_ylabel("win rate, %")
    axes.legend(loc="lower right")
    return figure


# --- optimizers compared: what they learn, and the KL frontier --------------------------------------------


def learning(matrix: Matrix, names: Names) -> Made:
    """Reward, quality and divergence on validation prompts over the steps of training, means over cells."""

    def caption(frontier: Frontier, words: str) -> str:
        return (
            f"On validation prompts while training, means over {frontier.cells} cells, {words}. Reward in standard "
            "deviations of the reward model; quality: the judge's score; KL from the SFT policy, nats a response."
        )

    made = _of_frontiers("learning", [one for one in matrix.frontiers if one.learning], caption, _learning)
    return made or "no learning curve: this grid does not compare optimizers that train a policy"


def frontier(matrix: Matrix, names: Names) -> Made:
    """Gain of each optimizer against its divergence: means over the cells that all of them have."""

    def caption(found: Frontier, words: str) -> str:
        return (
            f"Divergence from the SFT policy against what it brings, means over {found.cells} cells with "
            f"intervals over prompts{' and seeds' if found.points[0].kl.seeds > 1 else ''}, {words}. "
            "Best-of-k stands at the upper bound log k - (k - 1)/k. Quality and reward: increase over the baseline by "
            "the judge's score and by the reward model (in its standard deviations)."
        )

    made = _of_frontiers("frontier", [one for one in matrix.frontiers if one.points], caption, _frontier)
    return made or "no KL frontier: this grid has one optimizer with one setting"


def _of_frontiers(
    name: str,
    frontiers: Sequence[Frontier],
    caption: Callable[[Frontier, str], str],
    draw: Callable[[Frontier, Width], Figure],
) -> list[Drawing]:
    apart = varying([one.axes for one in frontiers])
    return [
        Drawing("-".join([name, *slug_of(one.axes, apart)]), caption(one, in_full(one.axes)), partial(draw, one))
        for one in frontiers
    ]


def _sides(
    quantities: Mapping[str, str], points: Sequence[Any], width: Width, tall: float, room: float
) -> tuple[Figure, list[tuple[str, Any, bool]]]:
    """Axes for each quantity that any point has, and whether they are the lowest: under one another in a column of a
    paper, else beside one another.
    """
    measured = [name for name in quantities if any(getattr(point, name) is not None for point in points)]
    down, across = (len(measured), 1) if width.narrow else (1, len(measured))
    figure = Figure(figsize=(width.inches, down * tall + room))
    axes = list(figure.subplots(down, across, sharex=True, squeeze=False).flat)
    for side, name in zip(axes, measured, strict=True):
        side.set_ylabel(quantities[name])
    lowest = axes[-1:] if width.narrow else axes
    return figure, [(name, side, side in lowest) for name, side in zip(measured, axes, strict=True)]


def _learning(frontier: Frontier, width: Width) -> Figure:
    quantities = {"reward": "reward, SD", "quality": "quality", "kl": "KL, nats"}
    figure, sides = _sides(quantities, frontier.learning, width, 1.35, 0.35)
    arms: dict[str, list[LearningPoint]] = {}
    for point in frontier.learning:
        arms.setdefault(point.arm, []).append(point)
    for name, side, lowest in sides:
        for arm, look in zip(arms, _arm_looks(list(arms)), strict=True):
            rows = [(point.step, value) for point in arms[arm] if (value := getattr(point, name)) is not None]
            if rows:
                side.plot(*zip(*rows, strict=True), label=optimizer_word(arm), **look)
        side.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        side.set_xlabel("step" if lowest else "")
    legend_below(figure, sides[0][1])
    return figure


def _arm_looks(arms: Sequence[str]) -> list[dict[str, Any]]:
    """A colour and marker an optimizer, a kind of line a setting of it."""
    optimizers = list(dict.fromkeys(arm.split()[0] for arm in arms))
    settings: dict[str, int] = {}
    looks = []
    for arm in arms:
        optimizer = arm.split()[0]
        style = STYLES[settings.setdefault(optimizer, 0) % len(STYLES)]
        settings[optimizer] += 1
        looks.append({**look_of(optimizers.index(optimizer) + 1), "linestyle": style})
    return looks


def _frontier(found: Frontier, width: Width) -> Figure:
    quantities = {"win": "win rate, %", "quality": "quality", "reward": "reward, SD"}
    figure, sides = _sides(quantities, found.points, width, 1.55, 0.4)
    optimizers = list(dict.fromkeys(point.arm.split()[0] for point in found.points))
    for name, side, lowest in sides:
        for place, optimizer in enumerate(optimizers):
            points = [p for p in found.points if p.arm.split()[0] == optimizer and getattr(p, name) is not None]
            _settings(side, sorted(points, key=lambda point: point.kl.value), name, look_of(place + 1))
        side.axhline(CHANCE if name == "win" else 0.0, color=GREY, linewidth=0.5, linestyle=":")
        side.set_xlabel("" if not lowest else KL if width.narrow else "KL, nats a response")
    legend_below(figure, sides[0][1])
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


# --- a point a cell ---------------------------------------------------------------------------------------


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
    axes.set_xlabel(KL)
    axes.set_ylabel("win rate, %")
    legend_below(figure, axes)
    return figure
