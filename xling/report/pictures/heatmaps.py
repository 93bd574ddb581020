"""Heat maps, source by target: win rates a panel, all panels side by side, accuracies of the reward models.

The colours are the page's: blue above 50, orange below, the darker the farther. The scale covers what is there, at
least 15 points of it: from 50 both ways, or only the side on which all of it lies. Holes are hatched with their status.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any

from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xling.analysis.matrix.names import heading_of, ordered, slug_of, varying, worded
from xling.analysis.matrix.types import CHANCE, Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.report.pictures.look import (
    Drawing,
    Made,
    Named,
    Names,
    Width,
    evenly,
    groups_over,
    holes_caption,
    named_panels,
    text_width,
)
from xling.report.tables.colours import ABOVE, BELOW
from xling.report.tables.table import BEST, TIED, hole_marks, hole_text, span, task_names

LEAST_REACH = 15.0  # points the colours span at least, so that noise does not look like a result
SMALLEST = 3.9  # points: smaller letters are left out
MOST_TOGETHER = 8  # panels side by side
LARGEST = 7.5  # inches of a picture whose languages are few
LETTER = 0.57  # width of a letter of a title on average, in its height
BESIDE = 0.32  # inches for the axis' title and gaps


@dataclass(frozen=True)
class Square:
    """One cell as it is drawn."""

    value: Estimate | None
    mark: str = ""  # after the number
    home: bool = False
    hole: str = ""  # what stands in a hatched cell


@dataclass(frozen=True)
class Grid:
    """One map: rows down, columns across; a cell that nobody asked for is not in `squares`."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    squares: Mapping[tuple[str, str], Square]
    breaks: int = 0  # the last so many rows stand apart: baselines
    across: str = "policy"  # whose languages the columns are
    below: Sequence[str] = ()  # lines under it

    def values(self) -> list[float]:
        return [square.value.value for square in self.squares.values() if square.value]


def win_rates(matrix: Matrix, names: Names) -> Made:
    """A figure a panel, and one of all panels with the same colours."""
    panels = named_panels(matrix)
    if not panels:
        return "no cell has a source language"
    there = [one for one in panels if any(entry.win for entry in one.panel.entries)]
    if not there:
        return "no cell is finished"
    note = _note(matrix)
    made = [
        Drawing(
            one.file("heatmap"),
            f"Win rate, %, {one.about()}; rows: language of the reward model, columns: of the policy. "
            f"{note} {holes_caption(one.panel)}".strip(),
            _drawing([win_grid(one, title=False)], names, "win rate, %"),
        )
        for one in there
    ]
    return made + _together(there, names, note)


def _together(panels: Sequence[Named], names: Names, note: str) -> list[Drawing]:
    """Panels that differ in the optimizer alone (or else in the reward model, or the judge) in one figure."""
    for axis in ("optimizer", "rm_backbone", "judge"):
        groups = [group for group in groups_over(panels, axis) if len(group[2]) <= MOST_TOGETHER]
        if groups:
            return [
                Drawing(
                    f"heatmaps-{name}" if name else "heatmaps",
                    f"Win rate, %, {words}; rows: language of the reward model, columns: of the policy. {note}",
                    _drawing([win_grid(Named("", _title(axis, panel), panel)) for panel in members.values()],
                             names, "win rate, %"),
                )
                for name, words, members in groups
            ]  # fmt: skip
    return []


def all_panels(matrix: Matrix) -> tuple[Drawing, Width]:
    """matrix.png: every panel under what tells it from others, the reasons of holes below, and how wide that is."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    if not panels:
        words = f"{matrix.name}: no cell with a source language"
        return Drawing("matrix", words, lambda width: Figure(figsize=(width.inches, 1.5))), Width("page", 6.0)
    names = ordered({axis for panel in panels for axis in panel.axes})
    apart = [axis for axis in names if len({panel.axes.get(axis, "") for panel in panels}) > 1]
    same = _heading(panels[0], [axis for axis in names if axis not in apart and axis != "task"])
    grids = []
    for panel in panels:
        # settings without a value are named as they are typed where nothing else tells a panel
        title = _heading(panel, apart) or ", ".join(f"{axis}=null" for axis in apart)
        grids.append(replace(win_grid(Named("", title or same, panel)), below=_hole_lines(hole_marks(panel))))
    shared = f"{same}\n" if apart and same else ""
    caption = (
        f"Transfer matrix '{matrix.name}', task {task_names(matrix)}\n{shared}{matrix.interval_note}\n"
        f"outlined: home   {BEST} best source of its column   {TIED} tied with it"
    )
    columns = max(len(grid.columns) for grid in grids)
    inches = max(min(LARGEST, 1.4 + 0.9 * columns * min(2, len(grids))), 1.4 + 0.17 * columns)
    return Drawing("matrix", caption, _drawing(grids, Names(), "win rate, %")), Width("page", max(4.2, inches))


def _heading(panel: Panel, axes: Sequence[str]) -> str:
    """A panel by some of its axes."""
    words = heading_of({"rm_backbone": "", **{axis: panel.axes.get(axis, "") for axis in axes}})
    return ", ".join(word for word in (panel.axes["task"] if "task" in axes else "", words) if word)


def _hole_lines(marks: dict[str, int]) -> list[str]:
    """The reasons of holes, shortened to what fits under a panel."""
    lines = [f"({number}) {text}" for text, number in marks.items()]
    short = [line if len(line) <= 90 else line[:87] + "..." for line in lines[:6]]
    return short + ([f"and {len(lines) - 6} more: see matrix.md"] if len(lines) > 6 else [])


def _title(axis: str, panel: Panel) -> str:
    return ", ".join(worded(panel.axes, [axis], panel.entries))


def _note(matrix: Matrix) -> str:
    intervals = any(e.win and e.win.low is not None for b in matrix.blocks for p in b.panels for e in p.entries)
    marks = f"Outlined: home; {BEST} best source of its column, {TIED} tied with it."
    return f"{marks} {matrix.interval_note}." if intervals else marks


def win_grid(named: Named, title: bool = True) -> Grid:
    """Entries as squares; the number of a hole's reason stands in the caption."""
    panel, marks = named.panel, hole_marks(named.panel)
    squares = {}
    for place, entry in panel.at().items():
        number = "" if entry.status == "done" else f"({marks[hole_text(entry)]})"
        if entry.win is None:
            own = f"[{entry.win_own.value:.1f}]\n" if entry.win_own else ""
            squares[place] = Square(None, home=entry.home, hole=f"{own}{entry.status}\n{number}")
        else:
            rank = BEST if entry.best else TIED if entry.tied else ""
            squares[place] = Square(entry.win, rank + number, entry.home)
    return Grid(named.title if title else "", panel.sources, panel.targets, squares)


def accuracies(matrix: Matrix, names: Names) -> Made:
    """Accuracy on held-out preferences, majority and length rule below; once for panels that share reward models."""
    kept: list[Panel] = []
    for one in sorted(named_panels(matrix), key=lambda one: -len(one.panel.accuracy)):
        if one.panel.accuracy and not any(_within(one.panel, other) for other in kept):
            kept.append(one.panel)
    if not kept:
        return "no accuracy of a reward model on held-out preferences was measured"
    shared = [{a: v for a, v in panel.axes.items() if a != "judge" and a[:9] != "optimizer"} for panel in kept]
    apart = varying(shared)
    return [
        Drawing(
            "-".join(["accuracy", *slug_of(axes, apart)]),
            "Accuracy of the reward models on held-out preferences, %; rows: their language, columns: that of the "
            "preferences. Outlined: home. Below: rules without a model.",
            _drawing([_accuracy_grid(panel)], names, "accuracy, %"),
        )
        for panel, axes in zip(kept, shared, strict=True)
    ]


def _within(panel: Panel, other: Panel) -> bool:
    """Nothing new: the other has the same accuracies."""
    known = {(one.source, one.target): one.accuracy for one in other.accuracy}
    same = all(known.get((one.source, one.target)) == one.accuracy for one in panel.accuracy)
    return same and panel.axes["rm_backbone"] == other.axes["rm_backbone"]


def _accuracy_grid(panel: Panel) -> Grid:
    squares = {(a.source, a.target): Square(a.accuracy, home=a.source == a.target) for a in panel.accuracy}
    rules = [rule for rule in ("majority", "length") if any(getattr(one, rule) for one in panel.accuracy_baselines)]
    for one in panel.accuracy_baselines:
        squares |= {(rule, one.target): Square(value) for rule in rules if (value := getattr(one, rule))}
    sources = [s for s in panel.sources if any(a.source == s for a in panel.accuracy)]
    targets = [t for t in panel.targets if any(a.target == t for a in panel.accuracy)]
    return Grid("", [*sources, *rules], targets, squares, len(rules), "preferences")


# --- drawing ----------------------------------------------------------------------------------------------


def _drawing(grids: Sequence[Grid], names: Names, label: str) -> Callable[[Width], Figure]:
    return lambda width: _figure(grids, names, label, width)


def scale_of(values: Sequence[float]) -> tuple[Normalize, Colormap]:
    """Limits, multiples of five at least LEAST_REACH apart, and the colours between them."""
    low, high = (min(values), max(values)) if values else (CHANCE, CHANCE)
    low, high = math.floor(low / 5) * 5.0, math.ceil(high / 5) * 5.0
    if low < CHANCE < high:
        reach = max(high - CHANCE, CHANCE - low, LEAST_REACH / 2)
        return Normalize(CHANCE - reach, CHANCE + reach), _colours(BELOW, "white", ABOVE)
    if low >= CHANCE:
        low = max(CHANCE, min(low, high - LEAST_REACH))
        return Normalize(low, min(100.0, max(high, low + LEAST_REACH))), _colours("white", ABOVE)
    high = min(CHANCE, max(high, low + LEAST_REACH))
    return Normalize(max(0.0, min(low, high - LEAST_REACH)), high), _colours(BELOW, "white")


def _colours(*steps: str) -> Colormap:
    return LinearSegmentedColormap.from_list("page", steps)


def _figure(grids: Sequence[Grid], names: Names, label: str, width: Width) -> Figure:
    columns, rows = max(len(grid.columns) for grid in grids), max(len(grid.rows) for grid in grids)
    beside = BESIDE + max(text_width(name, 6.5) for grid in grids for name in names.all(grid.rows)) / 72
    # so many maps side by side that their intervals can be read
    across = evenly(len(grids), int((width.inches - beside) * 72 // (25 * columns + 8)))
    down = math.ceil(len(grids) / across)
    cell = (width.inches - beside - 0.12 * (across - 1)) / (across * columns)
    tall = min(max(cell * 0.62, 0.23 if rows <= 20 else 0.1), 0.42)
    titles = [_wrapped([grid.title], cell * columns, 7) for grid in grids]
    belows = [_wrapped(grid.below, cell * columns, 7) for grid in grids]
    lines = max(map(len, titles)) - 1 + max(map(len, belows))
    figure = Figure(figsize=(width.inches, down * (rows * tall + 0.3 + 0.11 * max(0, lines)) + 0.62))
    axes = figure.subplots(down, across, squeeze=False, sharey=len({tuple(grid.rows) for grid in grids}) == 1)
    norm, colours = scale_of([value for grid in grids for value in grid.values()])
    image: Any = None
    for number, side in enumerate(axes.flat):
        if number < len(grids):
            grid = replace(grids[number], title="\n".join(titles[number]))
            image = _draw(side, grid, names, norm, colours, min(cell, tall * 2) * 72)
            words = [grid.across] if number + across >= len(grids) else []
            side.set_xlabel("\n".join([*words, *belows[number]]), labelpad=1)
        else:
            side.set_axis_off()
    if len(grids) == 1:
        axes[0, 0].set_ylabel("reward model")
    else:
        figure.supylabel("reward model", fontsize=7)
    bar = figure.colorbar(
        image, ax=list(axes.flat), orientation="horizontal", aspect=45, shrink=0.62, pad=0.02, fraction=0.05
    )
    _bar(bar, label, norm)
    return figure


def _wrapped(lines: Sequence[str], inches: float, size: float) -> list[str]:
    """Lines that are no wider than the panel they belong to."""
    letters = max(8, int(inches * 72 / (LETTER * size)))
    return [part for line in lines for part in wrap(line, letters)]


def _bar(bar: Any, label: str, norm: Normalize) -> None:
    bar.set_label(label, labelpad=1)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2, width=0.4, labelsize=6)
    if norm.vmin is not None and norm.vmax is not None and norm.vmin < CHANCE < norm.vmax:
        bar.ax.axvline(CHANCE, color="black", linewidth=1.0)


def _draw(axes: Any, grid: Grid, names: Names, norm: Normalize, colours: Colormap, points: float) -> Any:
    """points: how wide a cell is."""
    values = [
        [
            square.value.value if (square := grid.squares.get((r, c))) and square.value else math.nan
            for c in grid.columns
        ]
        for r in grid.rows
    ]
    image = axes.imshow(values, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    fonts = _fonts(grid, points)
    for y, row in enumerate(grid.rows):
        for x, column in enumerate(grid.columns):
            square = grid.squares.get((row, column))
            if square is not None:
                _outline(axes, x, y, square)
                _write(axes, x, y, square, fonts, norm, colours)
    _ticks(axes, grid, names, points)
    if grid.breaks:
        axes.axhline(len(grid.rows) - grid.breaks - 0.5, color="white", linewidth=2.5)
    if grid.title:
        axes.set_title(grid.title, pad=3)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    return image


def _fonts(grid: Grid, points: float) -> tuple[float, float]:
    """Sizes of the number and of the interval; 0: too small to be read."""
    number = min(8.0, points * 0.88 / _widest(grid, _number))
    interval = min(5.8, points * 0.9 / _widest(grid, lambda square: span(square.value)))
    number = number if number >= SMALLEST else 0.0
    return number, interval if number and interval >= SMALLEST else 0.0


def _widest(grid: Grid, text: Callable[[Square], str]) -> float:
    """In heights of a letter."""
    return max([1.0, *(text_width(text(square), 1.0) for square in grid.squares.values())])


def _number(square: Square) -> str:
    return "" if square.value is None else f"{square.value.value:.1f}{square.mark}"


def _ticks(axes: Any, grid: Grid, names: Names, points: float) -> None:
    across = names.all(grid.columns)
    size = max(3.5, min(6.5, points * 0.9))
    steep = max((text_width(name, size) for name in across), default=0) > points
    axes.set_xticks(range(len(across)), across, fontsize=size, rotation=90 if steep else 0)
    axes.set_yticks(range(len(grid.rows)), names.all(grid.rows), fontsize=size)


def _outline(axes: Any, x: int, y: int, square: Square) -> None:
    if square.value is None:
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="0.97", edgecolor="0.6", hatch="/////", lw=0))
    if square.home:
        inset = (x - 0.46, y - 0.46)
        axes.add_patch(Rectangle(inset, 0.92, 0.92, fill=False, edgecolor="black", linewidth=1.0, zorder=3))


def _write(
    axes: Any, x: int, y: int, square: Square, fonts: tuple[float, float], norm: Normalize, colours: Colormap
) -> None:
    number, interval = fonts
    middle = {"ha": "center", "va": "center", "zorder": 4}
    if square.value is None:
        if number:
            box = {"facecolor": "0.97", "edgecolor": "none", "pad": 0.8}
            axes.text(x, y, square.hole, fontsize=min(number * 0.62, 5.5), bbox=box, linespacing=0.95, **middle)
        return
    if not number:
        if square.mark[:1] == BEST:
            axes.plot(x, y, marker="^", markersize=1.8, color=_ink(square.value.value, norm, colours), zorder=4)
        return
    between = span(square.value) if interval else ""
    ink = _ink(square.value.value, norm, colours)
    axes.text(x, y - (0.17 if between else 0), _number(square), fontsize=number, color=ink, **middle)
    if between:
        axes.text(x, y + 0.25, between.replace("-", "–"), fontsize=interval, color=ink, **middle)


def _ink(value: float, norm: Normalize, colours: Colormap) -> str:
    """Black or white, whichever can be read on the colour of this value."""
    red, green, blue = (part**2.2 for part in colours(float(norm(value)))[:3])
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.18 else "black"  # equal contrast at 0.18
