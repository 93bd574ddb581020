"""frontier.png: KL against quality and reward, a line an optimizer. learning.png: how they were learnt.

Colours are those of Okabe and Ito (2008), told apart with every common colour blindness; markers differ too.
"""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context, rcdefaults
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xling.analysis.matrix.types import CHANCE, Frontier, FrontierPoint, LearningPoint, Matrix
from xling.analysis.matrix.verdicts import many
from xling.analysis.statistics.intervals import Estimate
from xling.report.tables.wording import words_of

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^Dv<>"
MOST_ROWS = 6  # of panels: judges and reward models beyond in frontier.csv


def frontier_png(matrix: Matrix, digest: str) -> bytes:
    """The picture as PNG bytes; the same matrix gives the same bytes (`digest` goes into the metadata)."""
    return _png(_figure(matrix, _draw_frontier, matrix.interval_note), digest)


def learning_png(matrix: Matrix, digest: str) -> bytes:
    """Reward and quality on validation prompts over the steps of training."""
    return _png(_figure(matrix, _draw_learning, "validation prompts while training"), digest)


def _png(figure: Figure, digest: str) -> bytes:
    with rc_context():
        rcdefaults()  # not the reader's own matplotlibrc
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None, "Comment": digest})
    return content.getvalue()


def _figure(matrix: Matrix, draw: Any, about: str) -> Figure:
    with rc_context():
        rcdefaults()
        shown = matrix.frontiers[:MOST_ROWS]
        figure = Figure(figsize=(10, 0.6 + 3.6 * len(shown)), layout="constrained")
        rows = figure.subplots(len(shown), 2, squeeze=False)
        for frontier, axes in zip(shown, rows, strict=True):
            draw(frontier, axes)
            axes[0].set_title(
                f"{words_of(frontier.axes)}, mean over {many(frontier.cells, 'cell')}", fontsize=8, loc="left"
            )
        figure.suptitle(f"'{matrix.name}': {about}", fontsize=8)
    return figure


def _looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each optimizer, whatever its settings."""
    optimizers = list(dict.fromkeys(arm.split()[0] for arm in arms))
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(optimizers)}


def _draw_frontier(frontier: Frontier, axes: Sequence[Any]) -> None:
    """The judge's side on the left, the reward model's on the right."""
    looks = _looks([point.arm for point in frontier.points])
    left = "quality" if any(point.quality for point in frontier.points) else "win"
    for side, name in zip(axes, (left, "reward"), strict=True):
        for optimizer, (colour, marker) in looks.items():
            points = [p for p in frontier.points if p.arm.split()[0] == optimizer and _of(p, name) is not None]
            _line(side, sorted(points, key=lambda point: point.kl.value), name, optimizer, colour, marker)
        side.axhline(CHANCE if name == "win" else 0.0, color="0.6", linewidth=0.8, linestyle=":")
        side.set_xlabel("KL from SFT_t, nats a response (best-of-k: at most)", fontsize=8)
        side.set_ylabel(_LABELS[name].format(judge=frontier.axes.get("judge", "")), fontsize=8)
        side.tick_params(labelsize=8)
    axes[0].legend(fontsize=7, loc="lower right")


_LABELS = {
    "quality": "{judge}: score increase over the baseline",
    "win": "{judge}: win rate, %",
    "reward": "reward model: increase over the baseline,\nits standard deviations",
}


def _line(axes: Any, points: Sequence[FrontierPoint], name: str, label: str, colour: str, marker: str) -> None:
    """Settings of one optimizer by KL, joined; each with both intervals."""
    if not points:
        return
    x, y = [point.kl for point in points], [estimate for point in points if (estimate := _of(point, name))]
    axes.errorbar(
        [estimate.value for estimate in x],
        [estimate.value for estimate in y],
        xerr=_reach(x),
        yerr=_reach(y),
        label=label,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.2,
        elinewidth=0.7,
        capsize=2,
    )
    for point, estimate in zip(points, y, strict=True):
        words = f"k={point.k}" if point.k else point.arm.partition(" ")[2]
        axes.annotate(words, (point.kl.value, estimate.value), (4, 4), textcoords="offset points", fontsize=6)


def _reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far the intervals reach below and above; not at all where there is none."""
    below = [e.value - e.low if e.low is not None else 0.0 for e in estimates]
    above = [e.high - e.value if e.high is not None else 0.0 for e in estimates]
    return [[max(0.0, reach) for reach in below], [max(0.0, reach) for reach in above]]


def _of(point: FrontierPoint, name: str) -> Estimate | None:
    found: Estimate | None = getattr(point, name)
    return found


def _draw_learning(frontier: Frontier, axes: Sequence[Any]) -> None:
    looks = _looks([point.arm for point in frontier.points])
    arms: dict[str, list[LearningPoint]] = {}
    for row in frontier.learning:
        arms.setdefault(row.arm, []).append(row)
    styles = ("-", "--", ":", "-.")
    for side, name in zip(axes, ("quality", "reward"), strict=True):
        seen: dict[str, int] = {}
        for arm, rows in arms.items():
            optimizer = arm.split()[0]
            colour, marker = looks.get(optimizer, ("0.4", "x"))
            style = styles[seen.setdefault(optimizer, 0) % len(styles)]
            seen[optimizer] += 1
            there = [(row.step, value) for row in rows if (value := getattr(row, name)) is not None]
            if there:
                side.plot(*zip(*there, strict=True), style, color=colour, marker=marker, markersize=3, label=arm)
        side.set_xlabel("step", fontsize=8)
        side.set_ylabel(f"validation {name}", fontsize=8)
        side.tick_params(labelsize=8)
    if arms:
        axes[1].legend(fontsize=7)
