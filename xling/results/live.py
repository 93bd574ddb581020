"""The matrix as it fills: win rates and intervals of the cells that are done, in a few lines of a terminal.

live = LiveMatrix(store, read_grid(store, name), width=80)
live.look({key: state})                      # reads what has been done since
console.print(live.shown(height=20))

A cell is folded from its own items.json alone, the way the matrix is (bootstrap over prompts; seeds folded), so that
`xling reduce` says the same but for the noise of its draws. What does not fit is summed up, a line a target; such cells
are read for their means and get no intervals.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from xling.analysis.statistics.bootstrap import SHARE, Clusters, Floats, Sample, draw, resample, select
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import StoreError
from xling.grid.records import PlanFile, Ref
from xling.grid.stage import NO_SOURCE
from xling.grid.store import Store
from xling.judges import judges_its_own
from xling.results.items import Wins, read_wins
from xling.results.plan import placed

MOST_ROWS = 40  # of cells with intervals
LEAST = 10  # characters of a cell with one
LEGEND = {
    "·": "to do",
    "▸": "running",
    "✗": "failed or damaged",
    "*": "some seeds to do",
    "own": "by its own reward model",
}
_BROKEN = ("failed", "blocked", "damaged", "unreadable")
Place = tuple[str, str]  # source, target


@dataclass(frozen=True, slots=True)
class _Seed:
    """One cell of the plan: a seed of an entry."""

    judge: Ref
    label: tuple[str, str]  # task.seed, seed
    own: bool  # judged by the reward model that was optimised: no evidence
    crossed: bool  # seeds split the same recorded ratings anew


@dataclass
class _Panel:
    entries: dict[Place, list[_Seed]] = field(default_factory=dict)
    title: str = ""
    small: bool = True  # its cells are shown one by one

    @cached_property
    def seeds(self) -> list[_Seed]:
        return [seed for seeds in self.entries.values() for seed in seeds]

    @cached_property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self.entries}, key=lambda name: ("+" in name, name))

    @cached_property
    def targets(self) -> list[str]:
        return sorted({target for _, target in self.entries})

    @cached_property
    def columns(self) -> dict[str, list[_Seed]]:
        """Its cells by target."""
        found: dict[str, list[_Seed]] = {target: [] for target in self.targets}
        for (_, target), seeds in self.entries.items():
            found[target] += seeds
        return found


class LiveMatrix:
    """What is known of a plan's cells at this moment; references and controls are left out."""

    def __init__(self, store: Store, plan: PlanFile, width: int) -> None:
        """width: of the terminal, which decides of which panels cells are shown and get intervals."""
        self.plan, self._store, self._width = plan, store, width
        self._states: Mapping[str, str] = {}
        self._samples: dict[str, Sample] = {}  # key -> its resamples, of panels whose cells are shown
        self._means: dict[str, float] = {}  # key -> win rate, %; NaN: it cannot be read
        self._folded: dict[tuple[str, ...], Estimate | None] = {}  # keys of an entry that are done -> their estimate
        self._clusters = lru_cache(maxsize=256)(_clusters)
        self._panels = _panels(plan)
        for panel in self._panels:
            least = LEAST * len(panel.targets) + max(map(len, panel.sources))
            panel.small = least <= width and len(panel.sources) <= MOST_ROWS
        self._fresh = len({seed.label[0] for panel in self._panels for seed in panel.seeds}) > 1

    def look(self, states: Mapping[str, str], seconds: float | None = None) -> None:
        """Take over the states of stages by key, and read those that are `done` or `cached`; stop after so long."""
        self._states, start = states, time.monotonic()
        for panel in self._panels:
            for seeds in panel.columns.values():
                if seconds is not None and time.monotonic() - start > seconds:
                    return
                self._read(list(filter(self._is_new, seeds)), panel.small)

    def _is_new(self, seed: _Seed) -> bool:
        """Done, and not read yet."""
        key = seed.judge.key
        return self._states.get(key) in ("done", "cached") and not seed.own and key not in self._means

    def _read(self, seeds: Sequence[_Seed], whole: bool) -> None:
        """Cells of one target; `whole`: with resamples, those of the same prompts at once."""
        alike: dict[tuple[tuple[str, ...], tuple[str, ...], str, bool], list[tuple[str, Floats]]] = {}
        for seed in seeds:
            ref = seed.judge
            try:
                wins = read_wins(self._store.folder(ref.kind, ref.key))
            except (OSError, StoreError):
                self._means[ref.key] = np.nan
                continue
            self._means[ref.key] = _mean(wins)
            if whole:
                label = seed.label[0] if self._fresh else seed.label[1]
                layout = tuple(wins.group), tuple(wins.dataset), label, seed.crossed
                alike.setdefault(layout, []).append((ref.key, wins.win))
        for (groups, datasets, label, crossed), found in alike.items():
            values = np.stack([win for _, win in found], axis=1) * 100
            clusters = self._clusters(groups, datasets)
            sample = resample(clusters, values, label, self._fresh, crossed, span=SHARE)
            self._samples |= {key: select(sample, [place]) for place, (key, _) in enumerate(found)}

    # --- showing it ---------------------------------------------------------------------------------------

    def shown(self, height: int) -> RenderableType:
        """As many panels as there is room for; nothing before the first cell is done."""
        parts: list[RenderableType] = []
        marks, left, more = set[str](), height - 2, 0
        for panel in self._panels:
            if np.isnan([self._means.get(seed.judge.key, np.nan) for seed in panel.seeds]).all():
                continue
            table, lines = self._table(panel, left, marks)
            if parts and lines > left:
                more += 1
                continue
            parts += [Text(panel.title, style="italic"), table]
            left -= lines
        if not parts:
            return Group()
        unread = sum(self._is_new(seed) for panel in self._panels for seed in panel.seeds)
        notes = [f"{mark} {LEGEND[mark]}" for mark in LEGEND if mark in marks]
        notes += [f"{more} more matrices: `xling reduce {self.plan.name}`"] if more else []
        notes += [f"{unread:,} more cells are done and not read yet"] if unread else []
        return Group(*parts, *([Text("; ".join(notes), style="dim")] if notes else []))

    def _table(self, panel: _Panel, height: int, marks: set[str]) -> tuple[RenderableType, int]:
        """Of one panel, and its lines: cell by cell if that fits, else a line a target."""
        if panel.small and len(panel.sources) + 2 <= max(height, 6):
            label = max(map(len, ["source", *panel.sources]))
            for wide in (True, False):
                cells = [[self._cell(panel, (s, t), wide) for t in panel.targets] for s in panel.sources]
                columns = zip(panel.targets, *([cell[0].plain for cell in row] for row in cells), strict=True)
                if label + sum(max(map(len, column)) + 2 for column in columns) <= self._width:
                    marks.update(mark for row in cells for _, found in row for mark in found)
                    return _grid(["source", *panel.targets], panel.sources, [[one for one, _ in row] for row in cells])
        return self._summary(panel, max(height - 3, 3))

    def _cell(self, panel: _Panel, place: Place, wide: bool) -> tuple[Text, list[str]]:
        """`71.3 [69.1-73.6]` or `71 69-74`, and the marks in it that have to be explained."""
        seeds = panel.entries.get(place)
        if seeds is None:
            return Text(""), []
        if all(seed.own for seed in seeds) and any(seed.judge.key in self._states for seed in seeds):
            return Text("own", style="dim"), ["own"]
        found = self._estimate([seed for seed in seeds if not seed.own])
        unread = [seed.judge.key for seed in seeds if np.isnan(self._means.get(seed.judge.key, 0.0))]
        states = ["damaged" if s.judge.key in unread else self._states.get(s.judge.key, "") for s in seeds]
        if found is None:
            mark = "✗" if any(one in _BROKEN for one in states) else "▸" if "running" in states else "·"
            return Text(mark, style="dim"), [mark]
        digits = 1 if wide else 0
        text = Text(f"{found.value:.{digits}f}", style="bold" if place[0] == place[1] else "")
        if found.low is not None and found.high is not None:
            span = f"{found.low:.{digits}f}-{found.high:.{digits}f}"
            text.append(f" [{span}]" if wide else f" {span}", style="not bold")
        partial = any(one not in ("done", "cached") for one in states)
        return (text.append("*") if partial else text), ["*"] * partial

    def _estimate(self, seeds: Sequence[_Seed]) -> Estimate | None:
        keys = tuple(seed.judge.key for seed in seeds if seed.judge.key in self._samples)
        if keys and keys not in self._folded:
            self._folded[keys] = fold([self._samples[key] for key in keys])[0]
        return self._folded.get(keys)

    def _summary(self, panel: _Panel, most: int) -> tuple[RenderableType, int]:
        rows: list[tuple[str, list[Text]]] = []
        for target in panel.targets:
            of = {source: seeds for (source, other), seeds in panel.entries.items() if other == target}
            means = {source: self._mean_of(seeds) for source, seeds in of.items()}
            known = {source: mean for source, mean in means.items() if not np.isnan(mean)}
            if known:
                low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
                words = [f"{len(known)} of {len(of)}", f"{np.mean(list(known.values())):.1f}"]
                rows.append(
                    (target, [Text(w) for w in (*words, f"{known[low]:.1f} {low}", f"{known[high]:.1f} {high}")])
                )
        shown = rows[:most]
        head = ["target", "sources", "mean", "lowest", "highest"]
        table, lines = _grid(head, [name for name, _ in shown], [row for _, row in shown])
        rest = len(panel.targets) - len(shown)
        if rest:
            return Group(table, Text(f"and {rest} more target{'s' * (rest > 1)}", style="dim")), lines + 1
        return table, lines

    def _mean_of(self, seeds: Sequence[_Seed]) -> float:
        """Over the seeds that are read; NaN: none."""
        means = [mean for seed in seeds if not np.isnan(mean := self._means.get(seed.judge.key, np.nan))]
        return float(np.mean(means)) if means else np.nan


def _panels(plan: PlanFile) -> list[_Panel]:
    """The cells of a plan that have a source, by the axes that tell panels apart."""
    panels: dict[tuple[tuple[str, str], ...], _Panel] = {}
    for cell in plan.cells:
        axes, label = placed(cell)
        place = axes.pop("source_lang"), axes.pop("target_lang")
        if place[0] == NO_SOURCE or axes["rm_backbone"].startswith("shuffled_"):
            continue
        panel = panels.setdefault(tuple(axes.items()), _Panel())
        seed = _Seed(cell.judge, label, judges_its_own(cell.stages), axes["policy"] == "recorded")
        panel.entries.setdefault(place, []).append(seed)
    names = {axis for axes in panels for axis, _ in axes}
    varying = [axis for axis in sorted(names) if len({dict(axes).get(axis, "") for axes in panels}) > 1]
    for key, panel in panels.items():
        told = dict(key)
        words = [f"{axis}={told[axis]}" for axis in varying if told.get(axis)]
        panel.title = f"Win rates so far, %{': ' if words else ''}{', '.join(words)}"
    return list(panels.values())


def _clusters(groups: tuple[str, ...], datasets: tuple[str, ...]) -> Clusters:
    return draw([(groups, datasets)])[0]


def _mean(wins: Wins) -> float:
    """Win rate in percent: the mean over datasets."""
    names = np.array(wins.dataset)
    means = [np.nanmean(wins.win[names == name]) for name in dict.fromkeys(wins.dataset)
             if not np.isnan(wins.win[names == name]).all()]  # fmt: skip
    return 100 * float(np.mean(means))


def _grid(head: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[Text]]) -> tuple[Table, int]:
    """A table without lines, and how many it has."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(head):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for name, row in zip(names, rows, strict=True):
        table.add_row(Text(name), *row)
    return table, len(rows) + 2
