"""The panels of a matrix with names that tell them apart, and what several figures ask of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xling.analysis.matrix.names import in_full, slug, slug_of, varying, worded
from xling.analysis.matrix.types import Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.report.tables.table import hole_marks


@dataclass(frozen=True)
class Named:
    """A panel; `slug` and `title` say only what tells it from the others of its grid, and may be empty."""

    slug: str
    title: str
    panel: Panel

    def file(self, figure: str) -> str:
        return f"{figure}-{self.slug}" if self.slug else figure

    def about(self) -> str:
        """`PPO, judge gold`: all of it, for captions."""
        return in_full(self.panel.axes, self.panel.entries)


def named_panels(matrix: Matrix) -> list[Named]:
    panels = [panel for block in matrix.blocks for panel in block.panels]
    apart = varying([panel.axes for panel in panels])
    found = []
    for panel in panels:
        words = ", ".join(worded(panel.axes, apart, panel.entries))
        found.append(Named("-".join(slug_of(panel.axes, apart)), words, panel))
    return found


def groups_over(panels: Sequence[Named], axis: str) -> Iterator[tuple[str, str, dict[str, Panel]]]:
    """Panels that differ in one axis alone: (slug, words, value -> panel), where there are two or more."""
    found: dict[tuple[tuple[str, str], ...], dict[str, Panel]] = {}
    for one in panels:
        rest = tuple(sorted((name, value) for name, value in one.panel.axes.items() if name != axis))
        found.setdefault(rest, {})[one.panel.axes.get(axis, "")] = one.panel
    several = {rest: members for rest, members in found.items() if len(members) > 1}
    apart = varying([dict(rest) for rest in several])
    for rest, members in several.items():
        axes = dict(rest)
        every = [entry for panel in members.values() for entry in panel.entries]
        yield (
            slug("-".join(axes.get(name, "") or "none" for name in apart)),
            in_full(axes, every),
            members,
        )


def reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far intervals reach below and above; not at all where there is none."""
    below = [e.value - e.low if e.low is not None else 0.0 for e in estimates]
    above = [e.high - e.value if e.high is not None else 0.0 for e in estimates]
    return [[max(0.0, number) for number in below], [max(0.0, number) for number in above]]


def holes_caption(panel: Panel) -> str:
    """`Hatched: (1) blocked: sft[de] failed: ...`, or nothing."""
    marks = hole_marks(panel)
    return "Hatched: " + "; ".join(f"({number}) {text}" for text, number in marks.items()) + "." if marks else ""
