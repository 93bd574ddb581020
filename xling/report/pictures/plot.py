"""matrix.png: a heat map a panel, diverging around 50 in colours that colour-blind people tell apart."""

import io
import math
from typing import Any

from matplotlib import rc_context, rcdefaults
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xling.analysis.matrix.types import CHANCE, Entry, Matrix, Panel
from xling.report.tables.table import BEST, TIED
from xling.report.tables.wording import hole_marks, hole_text, panel_title, span, task_names

COLOURS = "RdBu"  # red below 50, blue above: told apart with every common colour blindness
MOST_LABELLED = 14  # languages on a side up to which numbers are written in the cells
LEAST_REACH = 10.0  # points around 50 that the colours span at least, so that noise looks pale


def plot_png(matrix: Matrix, digest: str) -> bytes:
    """The picture as PNG bytes; the same matrix gives the same bytes (`digest` goes into the metadata)."""
    with rc_context():
        rcdefaults()  # not the reader's own matplotlibrc
        figure = _figure(matrix)
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None, "Comment": digest})
    return content.getvalue()


def _figure(matrix: Matrix) -> Figure:
    panels = [panel for block in matrix.blocks for panel in block.panels]
    if not panels:
        figure = Figure(figsize=(6, 1.5))
        figure.text(0.5, 0.5, f"{matrix.name}: no cell with a source language", ha="center")
        return figure
    across = min(len(panels), 2)
    down = math.ceil(len(panels) / across)
    width = max(_size(len(panel.targets)) for panel in panels) + 1.6
    height = max(_size(len(panel.sources)) * 0.62 for panel in panels) + 1.7
    figure = Figure(figsize=(across * width, down * height + 0.5), layout="constrained")
    legend = f"outlined: home   {BEST} best source of its column   {TIED} tied with it"
    title = f"Transfer matrix '{matrix.name}', task {task_names(matrix)}\n{matrix.interval_note}\n{legend}"
    figure.suptitle(title, fontsize=8)
    norm = _norm(panels)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, number + 1)
        image = _draw(axes, panel, norm)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.7, pad=0.02)
    bar.set_label("win rate, %")
    return figure


def _size(languages: int) -> float:
    """Inches for this many columns."""
    return max(3.0, 1.05 * languages) if languages <= MOST_LABELLED else max(8.0, 0.16 * languages)


def _norm(panels: list[Panel]) -> TwoSlopeNorm:
    values = [entry.win.value for panel in panels for entry in panel.entries if entry.win]
    reach = max([LEAST_REACH, *(abs(value - CHANCE) for value in values)])
    return TwoSlopeNorm(CHANCE, CHANCE - reach, CHANCE + reach)


def _draw(axes: Any, panel: Panel, norm: TwoSlopeNorm) -> Any:
    cells, marks = panel.at(), hole_marks(panel)
    grid = [
        [entry.win.value if (entry := cells.get((s, t))) and entry.win else math.nan for t in panel.targets]
        for s in panel.sources
    ]
    image = axes.imshow(grid, cmap=COLOURS, norm=norm, aspect="auto")
    labelled = max(len(panel.sources), len(panel.targets)) <= MOST_LABELLED
    for row, source in enumerate(panel.sources):
        for column, target in enumerate(panel.targets):
            entry = cells.get((source, target))
            if entry is not None:
                _mark(axes, column, row, entry, marks)
                if labelled:
                    _label(axes, column, row, entry, norm, marks)
    size = 9 if labelled else 5
    axes.set_xticks(range(len(panel.targets)), panel.targets, fontsize=size, rotation=0 if labelled else 90)
    axes.set_yticks(range(len(panel.sources)), panel.sources, fontsize=size)
    axes.set_ylabel("reward model trained in", fontsize=9)
    axes.set_xlabel("\n".join(["policy in", *_hole_lines(marks)]), fontsize=9)
    axes.set_title(panel_title(panel), fontsize=9)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return image


def _mark(axes: Any, x: int, y: int, entry: Entry, marks: dict[str, int]) -> None:
    """Outline home, hatch holes."""
    corner = (x - 0.5, y - 0.5)
    if entry.win is None:
        hatch = Rectangle(corner, 1, 1, facecolor="0.96", edgecolor="0.6", hatch="////", linewidth=0)
        axes.add_patch(hatch)
    if entry.home:
        inset = (x - 0.47, y - 0.47)
        axes.add_patch(Rectangle(inset, 0.94, 0.94, fill=False, edgecolor="black", linewidth=1.6, zorder=3))


def _label(axes: Any, x: int, y: int, entry: Entry, norm: TwoSlopeNorm, marks: dict[str, int]) -> None:
    """The win rate and its interval, or why there is none."""
    number = "" if entry.status == "done" else f" ({marks[hole_text(entry)]})"
    if entry.win is None:
        box = {"facecolor": "0.96", "edgecolor": "none", "pad": 1.5}
        own = f"[{entry.win_own.value:.1f}] " if entry.win_own else ""
        axes.text(x, y, f"{own}{entry.status}{number}", ha="center", va="center", fontsize=7, bbox=box, zorder=4)
        return
    colour = "white" if abs(float(norm(entry.win.value)) - 0.5) > 0.33 else "black"
    rank = BEST if entry.best else TIED if entry.tied else ""
    text = f"{entry.win.value:.1f}{rank}{number}"
    axes.text(x, y - 0.12, text, ha="center", va="center", fontsize=10, color=colour, zorder=4)
    axes.text(x, y + 0.22, span(entry.win), ha="center", va="center", fontsize=6.5, color=colour, zorder=4)


def _hole_lines(marks: dict[str, int]) -> list[str]:
    """The legend of holes, shortened to what fits under a panel."""
    lines = [f"({number}) {text}" for text, number in marks.items()]
    short = [line if len(line) <= 90 else line[:87] + "..." for line in lines[:6]]
    return short + ([f"and {len(lines) - 6} more: see matrix.md"] if len(lines) > 6 else [])
