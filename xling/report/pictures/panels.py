"""The panels of a matrix with names that tell them apart, and what several figures ask of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xling.analysis.matrix.types import Entry, Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.console import harmless
from xling.report.tables.wording import hole_marks, slug

ORDER = ("task", "rm_backbone", "optimizer", "policy", "judge")
UPPER = ("ppo", "rloo", "grpo", "dpo")


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
        return ", ".join(worded(self.panel.axes, ordered(self.panel.axes), self.panel.entries))


def named_panels(matrix: Matrix) -> list[Named]:
    panels = [panel for block in matrix.blocks for panel in block.panels]
    apart = varying([panel.axes for panel in panels])
    found = []
    for panel in panels:
        words = ", ".join(worded(panel.axes, apart, panel.entries))
        found.append(Named("-".join(slug_of(panel.axes, apart)), words, panel))
    return found


def varying(axes: Sequence[Mapping[str, str]]) -> list[str]:
    """The axes that tell them apart, the usual ones first; one that says nothing new is left out."""
    kept: list[str] = []
    names, classes = ordered({name for one in axes for name in one}), 1
    for name in names:
        found = len({tuple(one.get(axis, "") for axis in (*kept, name)) for one in axes})
        if found > classes:
            kept.append(name)
            classes = found
    return kept


def ordered(axes: Mapping[str, str] | set[str]) -> list[str]:
    return [axis for axis in ORDER if axis in axes] + sorted(set(axes) - set(ORDER))


def worded(axes: Mapping[str, str], which: Sequence[str], entries: Sequence[Entry] = ()) -> list[str]:
    """Values as words: `best-of-16`, `PPO`, `judge gold`, `tuning=full`."""
    words = []
    for axis in which:
        value = harmless(axes.get(axis, ""))
        if not value:
            continue
        if axis == "optimizer":
            words.append(optimizer_word(value, entries))
        elif axis in ORDER:
            words.append(f"judge {plain(value)}" if axis == "judge" else plain(value))
        else:
            words.append(f"{axis.rpartition('.')[2]}={value}")
    return words


def optimizer_word(name: str, entries: Sequence[Entry] = ()) -> str:
    """`best-of-16`, `PPO beta=0.1`."""
    first, _, rest = name.partition(" ")
    n = max((entry.n_samples or 0 for entry in entries), default=0)
    if first == "best_of_n":
        first = f"best-of-{n or 'n'}"
    elif first in UPPER:
        first = first.upper()
    return f"{plain(first)} {rest}".strip()


def plain(value: str) -> str:
    return value.replace("_", " ")


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
            ", ".join(worded(axes, ordered(axes), every)),
            members,
        )


def slug_of(axes: Mapping[str, str], which: Sequence[str]) -> list[str]:
    """Values as parts of a file's name."""
    return [slug(axes.get(axis, "")) or "none" for axis in which]


def reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far intervals reach below and above; not at all where there is none."""
    below = [e.value - e.low if e.low is not None else 0.0 for e in estimates]
    above = [e.high - e.value if e.high is not None else 0.0 for e in estimates]
    return [[max(0.0, number) for number in below], [max(0.0, number) for number in above]]


def holes_caption(panel: Panel) -> str:
    """`Hatched: (1) blocked: sft[de] failed: ...`, or nothing."""
    marks = hole_marks(panel)
    return "Hatched: " + "; ".join(f"({number}) {text}" for text, number in marks.items()) + "." if marks else ""
