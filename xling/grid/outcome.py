"""How a run of a plan ended: a state for every stage and cell, the failures, the exit code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xling.console import Console
from xling.grid.stage import Cell

End = Literal["done", "cached", "failed", "blocked", "not run"]


@dataclass(frozen=True, slots=True)
class Failed:
    index: int  # of the stage in the plan
    label: str
    last: str
    log: str


@dataclass(frozen=True)
class Outcome:
    """`done` ran in this run; `cached` was there, or another runner made it meanwhile."""

    name: str
    cells: Sequence[Cell]
    stages: Mapping[str, tuple[str, End]]  # key -> kind, end
    failures: Sequence[Failed]
    work: Mapping[str, float]  # kind -> seconds inside stage functions
    seconds: float  # wall
    workers: int
    interrupted: int = 0  # the signal that stopped the run, 0 if none

    @property
    def executed(self) -> dict[str, int]:
        """How many stages of each kind this run executed with success."""
        return dict(Counter(kind for kind, end in self.stages.values() if end == "done"))

    def count(self) -> dict[str, Counter[End]]:
        counts: dict[str, Counter[End]] = {}
        for kind, end in self.stages.values():
            counts.setdefault(kind, Counter())[end] += 1
        return counts

    def cell_ends(self) -> Counter[End]:
        return Counter(self.stages[cell.stage.key][1] for cell in self.cells)

    @property
    def exit_code(self) -> int:
        """0: every cell is there; 1: some are not; 128 + signal: interrupted."""
        if self.interrupted:
            return 128 + self.interrupted
        ends = self.cell_ends()
        return 0 if ends["done"] + ends["cached"] == len(self.cells) and not self.failures else 1

    def summary(self) -> str:
        ends = self.cell_ends()
        parts = [f"{ends['done'] + ends['cached']} of {len(self.cells)} cells done"]
        parts += [f"{ends[end]} {end}" for end in ("failed", "blocked", "not run") if ends[end]]
        stopped = "; stopped by the user" if self.interrupted else ""
        ran = sum(self.executed.values())
        return f"{', '.join(parts)}{stopped} ({ran} stages ran in {self.seconds:.1f} s)"

    def print(self, console: Console | None = None) -> None:
        from xling.grid.tables import outcome_table

        (console or Console(stderr=True, soft_wrap=True)).print(outcome_table(self))
