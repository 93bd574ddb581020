"""Curves: best-of-k by k, and what policies have learnt by step."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from xling.analysis.matrix.names import in_full, optimizer_word, slug_of, varying
from xling.analysis.matrix.types import CHANCE, Entry, Frontier, LearningPoint, Matrix, Panel
from xling.report.pictures.look import COLOURS, GREY, Drawing, Made, Width, legend_below, look_of
from xling.report.pictures.names import Names
from xling.report.pictures.panels import named_panels

MOST_LINES = 7  # sources with a colour each; beyond, those abroad are grey
MOST_SIDES = 12  # targets with axes of their own; beyond, one picture of means
LINES = ("-", "--", ":", "-.")


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
    across = min(len(panel.targets), 3 if width.narrow else 6)
    across = math.ceil(len(panel.targets) / math.ceil(len(panel.targets) / across))
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
        ("abroad", COLOURS[1], [e for e in panel.entries if e.abroad]),
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


# --- learning ---------------------------------------------------------------------------------------------

SEEN = {
    "reward": "reward, SD",
    "quality": "quality",
    "kl": "KL, nats",
}


def learning(matrix: Matrix, names: Names) -> Made:
    """Reward, quality and divergence on validation prompts over the steps of training, means over cells."""
    there = [frontier for frontier in matrix.frontiers if frontier.learning]
    if not there:
        return "no learning curve: this grid does not compare optimizers that train a policy"
    apart = varying([frontier.axes for frontier in there])
    made = []
    for frontier in there:
        words = in_full(frontier.axes)
        name = "-".join(["learning", *slug_of(frontier.axes, apart)])
        caption = (
            f"On validation prompts while training, means over {frontier.cells} cells, {words}. Reward in standard "
            "deviations of the reward model; quality: the judge's score; KL from the SFT policy, nats a response."
        )
        made.append(Drawing(name, caption, partial(_learning, frontier)))
    return made


def _learning(frontier: Frontier, width: Width) -> Figure:
    seen = [name for name in SEEN if any(getattr(point, name) is not None for point in frontier.learning)]
    down, across = (len(seen), 1) if width.narrow else (1, len(seen))
    figure = Figure(figsize=(width.inches, down * 1.35 + 0.35))
    axes = figure.subplots(down, across, sharex=True, squeeze=False)
    arms: dict[str, list[LearningPoint]] = {}
    for point in frontier.learning:
        arms.setdefault(point.arm, []).append(point)
    for number, (side, name) in enumerate(zip(axes.flat, seen, strict=True)):
        for arm, look in zip(arms, _arm_looks(list(arms)), strict=True):
            rows = [(point.step, value) for point in arms[arm] if (value := getattr(point, name)) is not None]
            if rows:
                side.plot(*zip(*rows, strict=True), label=optimizer_word(arm), **look)
        side.set_ylabel(SEEN[name])
        side.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        side.set_xlabel("step" if not width.narrow or number == len(seen) - 1 else "")
    legend_below(figure, axes.flat[0])
    return figure


def _arm_looks(arms: Sequence[str]) -> list[dict[str, Any]]:
    """A colour and marker an optimizer, a kind of line a setting of it."""
    optimizers = list(dict.fromkeys(arm.split()[0] for arm in arms))
    settings: dict[str, int] = {}
    looks = []
    for arm in arms:
        optimizer = arm.split()[0]
        style = LINES[settings.setdefault(optimizer, 0) % len(LINES)]
        settings[optimizer] += 1
        looks.append({**look_of(optimizers.index(optimizer) + 1), "linestyle": style})
    return looks
