"""Entries of a grid's plan.json, folded over seeds, with their results in the store; holes have a reason."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import Struct, field

from xling.analysis.statistics.intervals import Estimate
from xling.grid import records
from xling.grid.labels import axis_text
from xling.grid.records import AxisValue, LeftOut, PlanFile, PlannedCell, Ref, Run
from xling.grid.stage import NO_SOURCE
from xling.grid.store import Status, Store
from xling.judges import judges_its_own

ENTRY_AXES = ("task", "policy", "rm_backbone", "source_lang", "target_lang", "optimizer", "judge")
SEED_AXES = ("task.seed", "seed")


class LanguageRates(Struct, frozen=True):
    """How often the language detector errs on the task's own references (planning/detection.py), in percent.

    None: it has no label for the language, or there are no such references.
    """

    target: str
    detector: str  # which model
    labels: list[str]  # of it, that mean the target
    recognised: Estimate | None  # of references in the target; it misses the rest
    mistaken: Estimate | None  # of references in the task's other languages, which it takes for the target


class PlannedRates(Struct, frozen=True):
    """Measured at the launch; `cells` are places in the plan's list."""

    rates: LanguageRates
    cells: list[int]


class Plan(PlanFile, frozen=True, kw_only=True):
    """plan.json with all of its types."""

    language_rates: list[PlannedRates] = field(default_factory=list)


def read_plan(folder: Path) -> Plan:
    """Load <grid>/plan.json; errors as of `records.read_plan`."""
    return records.read_plan(folder, Plan)


@dataclass(frozen=True, slots=True)
class SeedCell:
    """One seed of an entry: where its verdicts are, or why there are none."""

    seeds: tuple[str, str]  # task.seed, seed
    judge: Ref
    stages: dict[str, Ref]
    status: str
    reason: str
    judge_langs: tuple[str, ...] = ()  # whose feedback the judge learnt from; of other judges none

    @property
    def own_judge(self) -> bool:
        """The judge's scores are the very ones that the response was picked or the policy rewarded by."""
        return judges_its_own(self.stages)


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """The cells that one row of the matrix folds."""

    axes: dict[str, str]
    cells: tuple[SeedCell, ...]
    left_out: str = ""

    def status(self) -> tuple[str, str]:
        """(status, reason) of the row: done, partial, or the gravest reason of a hole."""
        if not self.cells:
            return "left out", self.left_out
        own = [cell for cell in self.cells if cell.own_judge and cell.status == "done"]
        if len(own) == len(self.cells):
            return OWN_JUDGE, OWN_JUDGE_REASON
        holes = [replace(c, status=OWN_JUDGE, reason=OWN_JUDGE_REASON) if c in own else c for c in self.cells]
        holes = [cell for cell in holes if cell.status != "done"]
        if not holes:
            return "done", ""
        gravest = min(holes, key=lambda cell: _GRAVITY.index(cell.status))
        if len(self.cells) == 1:
            return gravest.status, gravest.reason
        status = "partial" if len(holes) < len(self.cells) else gravest.status
        return status, f"{_seed_name(gravest.seeds)}: {gravest.reason or gravest.status}"


OWN_JUDGE = "own judge"  # a status: there is a verdict, and it is that of the cell's own reward model
OWN_JUDGE_REASON = (
    "the judge is the very reward model whose reward was optimised, so that this win rate is no evidence: it is left "
    "out of means, ties and counts; judge.half=true or judge.seed=N makes another judge"
)
_GRAVITY = ["damaged", "failed", "blocked", "not run", OWN_JUDGE]


def _seed_name(seeds: tuple[str, str]) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in zip(SEED_AXES, seeds, strict=True) if value)


def planned_entries(plan: Plan, results: "Results") -> list[PlannedEntry]:
    """Cells folded over their seeds, in the plan's order; left-out ones last."""
    cells: dict[tuple[tuple[str, str], ...], dict[tuple[str, str], SeedCell]] = {}
    for cell in plan.cells:
        axes, seeds = placed(cell)
        status, reason = results.outcome(cell.judge)
        row = SeedCell(seeds, cell.judge, cell.stages, status, reason, results.judge_langs(cell))
        cells.setdefault(tuple(axes.items()), {})[seeds] = row
    entries = [
        PlannedEntry(dict(axes), tuple(rows[seeds] for seeds in sorted(rows, key=_seed_order)))
        for axes, rows in cells.items()
    ]
    for left in plan.left_out:
        axes = {axis: value for axis, value in axes_text(left.axes).items() if axis not in SEED_AXES}
        if _is_cell(left) and tuple(axes.items()) not in cells:
            entries.append(PlannedEntry(axes, (), left.reason))
    return entries


def placed(cell: PlannedCell) -> tuple[dict[str, str], tuple[str, str]]:
    """A cell's axes as text without its seeds, and these (task.seed, seed).

    A score that needs no reward model has no source: such cells of all sources are one and the same, and stand
    in one entry with the source `-`.
    """
    axes = axes_text(cell.axes)
    if "score" in cell.stages and "reward" not in cell.stages:
        axes["source_lang"] = NO_SOURCE
    return axes, (axes.pop("task.seed", ""), axes.pop("seed", ""))


def rates_of_entries(plan: Plan) -> dict[tuple[tuple[str, str], ...], LanguageRates]:
    """The detector's error rates beside each entry's language shares, by axes; of several data seeds the first's."""
    found: dict[tuple[tuple[str, str], ...], LanguageRates] = {}
    for one in plan.language_rates:
        for place in one.cells:
            if 0 <= place < len(plan.cells):
                axes = axes_text(plan.cells[place].axes)
                found.setdefault(tuple((axis, axes[axis]) for axis in axes if axis not in SEED_AXES), one.rates)
    return found


def _is_cell(left: LeftOut) -> bool:
    """Most of what is left out is a value of an axis, for which there is no cell."""
    return set(ENTRY_AXES) <= set(left.axes)


def left_out_notes(plan: Plan) -> list[str]:
    """`source_lang, target_lang ar, fr: task x has no data in them`, for what a glob matched in vain."""
    axes_of: dict[tuple[str, str], list[str]] = {}
    for left in plan.left_out:
        if not _is_cell(left):
            for axis, value in left.axes.items():
                if axis != "task":
                    axes_of.setdefault((str(value), left.reason), []).append(axis)
    return sorted(f"{', '.join(axes)} {values}: {reason}" for (values, reason), axes in axes_of.items())


def axes_text(axes: dict[str, AxisValue]) -> dict[str, str]:
    """Axes as they are printed; every fixed axis is there, in the fixed order first."""
    text = {axis: "" for axis in ENTRY_AXES}
    for axis, value in axes.items():
        text[axis] = axis_text(value)
    return text


def _seed_order(seeds: tuple[str, str]) -> list[tuple[int, str]]:
    return [(int(seed), "") if seed.isdigit() else (-1, seed) for seed in seeds]


def other_axes(entries: Iterable[PlannedEntry]) -> list[str]:
    """Swept axes beside the fixed ones and the seeds, sorted."""
    return sorted({axis for entry in entries for axis in entry.axes} - set(ENTRY_AXES))


class Results:
    """The store as the reducer sees it: what stands there, checked, and if not, why."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._stages = plan.stages
        self._place = {stage.key: place for place, stage in enumerate(plan.stages)}
        self._statuses: dict[str, Status] = {}
        self._folders: dict[str, Path] = {}
        self._culprits: dict[int, int | None] = {}
        self._judge_langs: dict[str, tuple[str, ...]] = {}

    def folder(self, ref: Ref) -> Path:
        """The folder of a finished result, its hashes checked once; StoreError (Damaged) otherwise."""
        if ref.key not in self._folders:
            self._folders[ref.key] = self._store.load(ref.kind, ref.key)
        return self._folders[ref.key]

    def there(self, ref: Ref) -> bool:
        """Whether a stage has a result."""
        return self._status(ref.kind, ref.key).state == "done"

    def runs(self) -> Iterator[Run]:
        """How each finished result of the grid came about."""
        for stage in self._stages:
            status = self._status(stage.kind, stage.key)
            if status.state == "done" and status.done is not None:
                yield status.done.run

    def judge_langs(self, cell: PlannedCell) -> tuple[str, ...]:
        """Languages of the feedback that the reward model learnt from which judges a cell; none where none judges."""
        verdict = cell.stages.get("verdict")
        if verdict is None or verdict.kind != "score":
            return ()
        if verdict.key not in self._judge_langs:
            sheet = self._store.sheet(verdict.kind, verdict.key)
            judge = sheet.parents.get("reward") if sheet else None
            taught = self._store.sheet(judge.kind, judge.key) if judge else None
            self._judge_langs[verdict.key] = tuple(taught.spec.get("langs", ())) if taught else ()
        return self._judge_langs[verdict.key]

    def outcome(self, judge: Ref) -> tuple[str, str]:
        """(status, reason) of a cell; what stands in the way is the first of its ancestors that failed."""
        status = self._status(judge.kind, judge.key)
        if status.state in ("failed", "damaged"):
            return status.state, _last_line(status.why)
        if status.state == "done":
            return "done", ""
        place = self._place.get(judge.key)
        culprit = None if place is None else self._culprit(place)
        if culprit is None:
            return "not run", ""
        stage = self._stages[culprit]
        above = self._status(stage.kind, stage.key)
        return "blocked", f"{stage.label} {above.state}: {_last_line(above.why)}"

    def _culprit(self, place: int) -> int | None:
        """The first failed or damaged stage among a stage's ancestors."""
        if place not in self._culprits:
            found = None
            for parent in self._stages[place].parents:
                stage = self._stages[parent]
                bad = self._status(stage.kind, stage.key).state in ("failed", "damaged")
                found = parent if bad else self._culprit(parent)
                if found is not None:
                    break
            self._culprits[place] = found
        return self._culprits[place]

    def _status(self, kind: str, key: str) -> Status:
        if key not in self._statuses:
            self._statuses[key] = self._store.examine(kind, key)
        return self._statuses[key]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason was recorded"
