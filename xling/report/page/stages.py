"""Data of stages on the page, read from the store: samples, learning curves, costs, where numbers come from.

Samples are not chosen by anybody's eye: of each target the first prompts in the order of the sha256 of language and
prompt, the same for all cells of the column; of each cell its first finished seed; best-of-n's pick, or the first
sample of a trained policy; the first response of the baseline. As many prompts as fit into a budget of bytes.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from xling.analysis.matrix.names import panel_place
from xling.analysis.matrix.types import Matrix
from xling.console import without_secrets
from xling.errors import StoreError, XlingError
from xling.grid.records import PlannedStage, Ref, Run
from xling.grid.stage import NO_SOURCE, WHERE
from xling.grid.store import Store
from xling.results.items import validation_rows
from xling.results.plan import SEED_AXES, Plan, PlannedEntry, SeedCell, axes_text
from xling.results.reading import SampleReader
from xling.runners import gpu_time


def panel_numbers(matrix: Matrix) -> dict[tuple[tuple[str, str], ...], int]:
    """A panel's axes -> its place on the page."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    return {tuple(sorted(panel.axes.items())): number for number, panel in enumerate(panels)}


# --- samples ----------------------------------------------------------------------------------------------

TEXTS = ("prompt", "text", "response", "baseline")  # of Sample
MOST_PROMPTS = 24  # of a target
BUDGET = 1_200_000  # bytes of all texts and rows together
LONGEST = 4_000  # characters of a text; what is beyond is cut, and said
ROW = 60  # bytes of a sample beside its texts
MOST_TROUBLES = 8  # that are told one by one


@dataclass(frozen=True, slots=True)
class Sample:
    """One response beside one of the baseline. Scores are None where nobody scored responses one by one."""

    panel: int
    source: str
    target: str
    prompt: str
    text: str
    response: str
    baseline: str
    reward: tuple[float | None, float | None]  # by the reward model: the response's, the baseline's
    score: tuple[float | None, float | None]  # by the judge
    verdict: float | None  # 1 the response is better than this baseline response, 0.5 a tie, 0 worse
    win: float | None  # share of all baseline responses to the prompt that it beats


@dataclass(frozen=True, slots=True)
class Selection:
    """Samples that are shown, and the reason for those that are not."""

    samples: list[Sample]
    prompts: int  # of each target, at most
    left_out: list[str] = field(default_factory=list)


def select(matrix: Matrix, store: Store, entries: Sequence[PlannedEntry]) -> Selection:
    """Samples of every finished cell with a source, as many as the budget holds."""
    panels = panel_numbers(matrix)
    files, found, troubles = SampleReader(store), list[Sample](), dict[str, None]()
    wanted = [(panels[place], entry) for entry in entries if (place := panel_place(entry.axes)) in panels]
    wanted.sort(key=lambda pair: (pair[1].axes["target_lang"], pair[0]))
    for number, entry in wanted:
        cell = next((cell for cell in entry.cells if cell.status == "done"), None)
        if cell is not None and entry.axes["source_lang"] != NO_SOURCE:
            try:
                found += _samples_of(number, entry, cell, files)
            except (XlingError, msgspec.DecodeError, OSError, ValueError, KeyError, IndexError) as error:
                troubles[str(error)] = None
    told = list(troubles)[:MOST_TROUBLES]
    if len(troubles) > MOST_TROUBLES:
        told.append(f"and {len(troubles) - MOST_TROUBLES} more.")
    return within(found, told)


def _samples_of(panel: int, entry: PlannedEntry, cell: SeedCell, files: SampleReader) -> Iterator[Sample]:
    source, target, judged = entry.axes["source_lang"], entry.axes["target_lang"], files.cell(cell.judge, cell.stages)
    for prompt in chosen(target, tuple(judged.items.prompt)):
        one = judged.read(prompt)
        other = _opponent(one.response, one.opponents, cell.stages["baseline"].kind == "recorded")
        text, response, baseline = (cut(text) for text in (one.text or "", one.response, one.opponents[other]))
        rewards, scores = ((_rounded(own), _rounded(theirs[other])) for own, theirs in (one.rewards, one.scores))
        verdict = None if one.points is None else one.points.get(other)
        yield Sample(panel, source, target, prompt, text, response, baseline, rewards, scores, verdict, one.win)


@lru_cache(maxsize=8)  # the cells of a target have the same
def chosen(target: str, prompts: tuple[str, ...]) -> list[str]:
    """The first prompts of a target in an order that is nobody's choice."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{target}/{prompt}".encode()).digest())[:MOST_PROMPTS]


def _opponent(said: str, responses: Sequence[str], recorded: bool) -> int:
    """The first; where people's recorded systems are compared, the first that is not the very same."""
    different = [place for place, response in enumerate(responses) if response != said] if recorded else []
    return different[0] if different else 0


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def cut(text: str) -> str:
    """A text of at most LONGEST characters, and how many are missing."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [... {len(text) - LONGEST:,} more characters]"


def within(samples: Sequence[Sample], left_out: Sequence[str] = (), budget: int = BUDGET) -> Selection:
    """As many prompts of every target as fit, the same number of each; one at least."""
    ranks: dict[str, dict[str, int]] = {}  # a target's prompts in their order
    costs: dict[int, int] = {}
    seen: set[str] = set()
    of: list[int] = []
    for sample in samples:
        known = ranks.setdefault(sample.target, {})
        of.append(known.setdefault(sample.prompt, len(known)))
        new = {sample.text, sample.response, sample.baseline} - seen
        seen |= new
        costs[of[-1]] = costs.get(of[-1], 0) + ROW + sum(len(text.encode(errors="replace")) for text in new)
    prompts, left = 0, budget
    for rank in range(len(costs)):
        left -= costs[rank]
        if left < 0 and prompts:
            break
        prompts += 1
    kept = [sample for sample, rank in zip(samples, of, strict=True) if rank < prompts]
    return Selection(kept, prompts, list(left_out))


# --- learning curves --------------------------------------------------------------------------------------

NAMES = {
    "reward": "Reward, standard deviations",
    "kl": "KL from SFT_t, nats a response",
    "quality": "Judge's score",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of one panel: (steps,) lists that run in parallel."""

    steps: list[int]
    mean: list[float]
    least: list[float]
    greatest: list[float]


@dataclass(frozen=True, slots=True)
class Learning:
    """Of one panel."""

    panel: int
    policies: int  # trained: cells times seeds
    lines: dict[str, Line]  # by the names of NAMES, as far as they were measured


def learning(matrix: Matrix, store: Store, entries: Sequence[PlannedEntry]) -> list[Learning]:
    """Of each panel whose policies were trained, on validation prompts over the steps.

    A panel's line is the mean over its cells and seeds at the steps that all of them were measured at, its band from
    the least to the greatest of them.
    """
    refs: dict[tuple[tuple[str, str], ...], dict[str, Ref]] = {}
    for entry in entries:
        for cell in entry.cells:
            if "align" in cell.stages and cell.status == "done":
                ref = cell.stages["align"]
                refs.setdefault(panel_place(entry.axes), {})[ref.key] = ref
    found = []
    for place, number in panel_numbers(matrix).items():
        curves = [rows for ref in refs.get(place, {}).values() if (rows := _rows(store, ref))]
        if curves:
            lines = {name: line for name in NAMES if (line := _line(curves, name)) is not None}
            found.append(Learning(number, len(curves), lines))
    return found


def _rows(store: Store, ref: Ref) -> dict[int, dict[str, float]]:
    """step -> measures; empty where the stage has no curve or is damaged."""
    try:
        content = store.content(ref.kind, ref.key, "curve.jsonl")
        return {int(row["step"]): row for row in validation_rows(content, f"{ref.kind}/{ref.key[:12]}")}
    except StoreError:
        return {}


def _line(curves: Sequence[dict[int, dict[str, float]]], name: str) -> Line | None:
    steps = [step for step in sorted(set[int]().union(*curves)) if all(name in curve.get(step, {}) for curve in curves)]
    if not steps:
        return None
    columns = [[curve[step][name] for curve in curves] for step in steps]
    return Line(steps, [sum(c) / len(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns])


# --- costs and provenance ---------------------------------------------------------------------------------

TASK = "task"
MOST_VALUES = 12  # of a setting that are listed


@dataclass(frozen=True, slots=True)
class Cost:
    """The stages of one kind; seconds are of the wall clock, summed over stages."""

    kind: str
    planned: int
    done: int
    seconds: float
    cpu_seconds: float
    longest: float
    longest_label: str
    again: int  # that needed more than one attempt


@dataclass(frozen=True, slots=True)
class GpuCost:
    """GPU seconds of the stages of one kind."""

    kind: str
    asked: float  # by the time limits of their jobs; 0: they were no jobs of a cluster
    held: float
    used: float


@dataclass(frozen=True, slots=True)
class Origin:
    """All that the page says about it."""

    costs: list[Cost]  # in the order in which kinds depend on each other
    devices: dict[str, float]  # seconds
    machines: int
    began: str  # ISO 8601, UTC; empty: nothing has run
    ended: str
    facts: list[tuple[str, list[str]]]  # command, code, versions, seeds, digests
    settings: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # kind -> setting -> its values as JSON
    gpus: list[GpuCost] = field(default_factory=list)  # of those that had any


def origin(name: str, matrix: Matrix, plan: Plan, store: Store) -> Origin:
    """Of all stages of the plan, whichever grid had them made: what their done.json and spec.json say.

    Names of machines are left out: the page is made to be passed on.
    """
    runs = {stage.key: status.done.run for stage in plan.stages
            if (status := store.check(stage.kind, stage.key)).state == "done" and status.done is not None}  # fmt: skip
    devices: dict[str, float] = {}
    for run in runs.values():
        devices[run.device] = devices.get(run.device, 0.0) + run.seconds
    settings = _settings(plan, store)
    made = [(stage.kind, runs[stage.key]) for stage in plan.stages if stage.key in runs]
    return Origin(
        _costs(plan.stages, runs),
        devices,
        len({run.by.host for run in runs.values()}),
        min((_began(run) for run in runs.values()), default=""),
        max((run.when for run in runs.values()), default=""),
        _facts(matrix, plan, runs.values(), settings),
        settings,
        [GpuCost(kind, one.asked, one.held, one.used) for kind, one in gpu_time(store, name, made).items()],
    )


def _began(run: Run) -> str:
    return (datetime.fromisoformat(run.when) - timedelta(seconds=run.seconds)).isoformat(timespec="seconds")


def _costs(stages: Sequence[PlannedStage], runs: Mapping[str, Run]) -> list[Cost]:
    kinds: dict[str, list[PlannedStage]] = {}
    for stage in stages:
        kinds.setdefault(stage.kind, []).append(stage)
    costs = []
    for kind, members in kinds.items():
        made = [(runs[stage.key], stage.label) for stage in members if stage.key in runs]
        longest = max(made, key=lambda pair: pair[0].seconds, default=None)
        costs.append(
            Cost(
                kind,
                len(members),
                len(made),
                sum(run.seconds for run, _ in made),
                sum(run.cpu_seconds for run, _ in made),
                longest[0].seconds if longest else 0.0,
                longest[1] if longest else "",
                sum(run.attempt > 1 for run, _ in made),
            )
        )
    return costs


def _settings(plan: Plan, store: Store) -> dict[str, dict[str, list[str]]]:
    """By kind, every setting that its stages read, with the values that it has in this grid; those of the task once."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for stage in plan.stages:
        sheet = store.sheet(stage.kind, stage.key)
        for name, value in _flat(sheet.spec if sheet else {}):
            group = TASK if name.startswith(f"{TASK}.") else stage.kind  # the same for all who read a task's data
            found.setdefault(group, {}).setdefault(name, {})[json.dumps(value, ensure_ascii=False)] = None
    return {kind: {name: _few(list(values)) for name, values in by_name.items()} for kind, by_name in found.items()}


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`training.steps`, 100; where something lies is left out."""
    for name, value in spec.items():
        if name == WHERE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _few(values: list[str]) -> list[str]:
    return values if len(values) <= MOST_VALUES else [*values[:MOST_VALUES], f"and {len(values) - MOST_VALUES} more"]


def _facts(
    matrix: Matrix, plan: Plan, runs: Iterable[Run], settings: Mapping[str, Mapping[str, list[str]]]
) -> list[tuple[str, list[str]]]:
    """Facts that a co-author needs to reproduce the numbers."""
    axes = [axes_text(cell.axes) for cell in plan.cells]
    runs = list(runs)
    versions = sorted({f"{name} {version}" for run in runs for name, version in run.versions.items()})
    digests = sorted({json.loads(value) for by_name in settings.values() for value in by_name.get("digest", [])
                      if value.startswith('"')})  # fmt: skip
    facts = [
        ("command", [without_secrets(shlex.join(["python", "launch.py", "-m", *plan.command]))]),
        ("planned with code", [plan.git or "unknown"]),
        ("results made with code", sorted({run.git or "unknown" for run in runs})),
        ("versions", versions),
        ("threads of a process", sorted({str(run.threads) for run in runs})),
        ("processes of a stage", sorted({str(run.processes) for run in runs})),
        *((axis, sorted({a[axis] for a in axes if a.get(axis)})) for axis in SEED_AXES),
        ("data digests", digests),
        ("left out", matrix.left_out),
    ]
    return [(name, values) for name, values in facts if values]
