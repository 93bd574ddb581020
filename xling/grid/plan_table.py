"""A plan as dry runs show it: stages by kind, why they run, what they cost and take, what does not fit."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xling.console import SHOWN, Console, duration, size
from xling.grid.estimate import Estimate
from xling.grid.plan import Plan
from xling.grid.stage import Json, Memory

WORTH = 2.0  # GiB of a GPU, from which on plans say how much their stages take
SHOWN_BYTES = 1e9  # of results, from which on they say what weights are of it
CONSIDERABLE = 16.0  # from which on they say how to ask whether it fits


def print_plan(
    plan: Plan, console: Console | None = None, workers: int = 1, said: str = "", every: bool = False
) -> None:
    """The dry-run table: stages by kind, reasons, cost, what was left out; `said`: of the workers.

    every: every stage below it, with what is to be done about it and why.
    """
    console = console or Console(soft_wrap=True)
    console.print(plan_table(plan, workers, said))
    if every:
        console.print(stage_table(plan), soft_wrap=True)


def plan_table(plan: Plan, workers: int, said: str = "") -> RenderableType:
    title = f"{escape(plan.name)}: {len(plan.cells)} cells, {len(plan.steps)} stages"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )  # the paper's grids in the 80 columns of a terminal
    large = any(memory.gib >= WORTH or memory.gpus.gib is not None for _, memory in plan.needs.values())
    scale = ["GPU", "disk"] if large else []
    left = any(step.state not in ("cached", "run") for step in plan.steps.values())
    for column in ("stage", "count", "cached", "to run", *["not run"] * left, "est. time", *scale, "why"):
        table.add_column(
            column, justify="left" if column in ("stage", "why") else "right",
            no_wrap=column in ("stage", "est. time"), overflow="fold",
        )  # fmt: skip
    reasons = _reasons(plan)
    for kind, states in plan.count().items():
        estimate = plan.estimates[kind]
        time = duration(estimate.seconds * states["run"]) + _certainty(estimate)
        rest = states["failed"] + states["blocked"] + states["missing"]
        table.add_row(kind, str(states.total()), str(states["cached"]), str(states["run"]), *[str(rest or "")] * left,
                      time if states["run"] else "", *(_scale(plan, kind) if large else ()), reasons[kind])  # fmt: skip
    cost = [*_cost(plan, workers, said), *_units(plan)] if plan.to_run else ["Nothing to run."]
    return Group(table, *cost, *_notes(plan))


def stage_table(plan: Plan) -> Text:
    """A line a stage, by the index and label that `xling status --all` shows once the plan is run."""
    rows = [("index", "stage", "", "key", "disk", "why")]
    for number, (key, step) in enumerate(plan.steps.items()):
        disk = size(step.stored) if step.stored else ""
        rows.append((str(number), step.stage.label, step.state, key[:12], disk, step.reason))
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for index, label, state, key, disk, why in rows:  # nothing is cut: a narrow terminal breaks the lines
        left = [set_cell_size(text, width) for text, width in zip((label, state, key), widths[1:4], strict=True)]
        lines.append("  ".join((index.rjust(widths[0]), *left, disk.rjust(widths[4]), why)).rstrip())
    lines.insert(1, "─" * (sum(widths[:5]) + 14))
    cached = [step.stored for step in plan.steps.values() if step.state == "cached"]
    more = sum(estimate.stored for estimate in plan.estimates.values())
    said = f"On disk: {size(sum(cached))} in {len(cached)} results that are used as they are"
    lines.append(f"{said}{f'; models to come take about {size(more)}' if more else ''}.")
    return Text("\n".join(lines))


def _scale(plan: Plan, kind: str) -> tuple[str, str]:
    """Of a kind's stages: memory of each GPU (`!`: too much) and of how many, and what all of them store."""
    stored, (_, memory) = plan.estimates[kind].stored, plan.needs.get(kind, ("", None))
    disk = f"{_few(stored / 1e9)} GB" if stored >= 1e8 else ""
    if memory is None:
        return "", disk
    return (
        f"{_few(memory.gib)} GB{f' x{memory.gpus.count}' * (memory.gpus.count > 1)}{'' if memory.fits else ' !'}",
        disk,
    )


def _few(number: float) -> str:
    """`1,234`, `12`, `0.45`."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _units(plan: Plan) -> Iterable[RenderableType]:
    """Totals of the stages to run in units that people count; of dry runs alone."""
    rows = [(kind, {what: count for what, count in e.units.items() if count}) for kind, e in plan.estimates.items()]
    if not any(units for _, units in rows):
        return
    grid = Table.grid(padding=(0, 1))
    for kind, units in rows:
        if units:
            grid.add_row(f"  {kind}", ", ".join(f"{count:,} {what}" for what, count in units.items()))
    yield "To run, in units:"
    yield grid


def _certainty(estimate: Estimate) -> str:
    return "" if estimate.recorded else " *" if estimate.modelled else " ?"


def _cost(plan: Plan, workers: int, said: str) -> Iterable[str]:
    """Lines on the cost of the whole plan, and how it is known."""
    total, wall = plan.cost(workers)
    found = [estimate for kind, estimate in plan.estimates.items() if plan.count()[kind]["run"]]
    guessed = any(not (estimate.recorded or estimate.modelled) for estimate in found)
    crew = escape(said) or f"{workers} worker{'s' * (workers > 1)}"
    wait = f"; about {duration(wall)} with {crew}" if workers else ""
    yield f"Work: {duration(total)}{wait}." + ("  (? = guessed: no run of the kind is recorded yet)" if guessed else "")
    yield from _disk(plan)
    modelled = [(kind, e) for kind, e in plan.estimates.items() if e.modelled]
    if modelled and plan.rates:
        hours = sum(e.seconds * e.processes * plan.count()[kind]["run"] for kind, e in modelled) / 3600
        flops, shares = sum(estimate.flops for _, estimate in modelled), plan.rates.utilisation.items()
        yield (
            f"* = by its work: {flops:.3g} FLOP, {_few(hours)} hours of {plan.rates.speed.name} "
            f"({plan.rates.speed.flops:.3g} FLOP/s, in float32 {plan.rates.speed.single:.3g}), of which "
            f"{', '.join(f'{sort} gets {share:.0%}' for sort, share in shares)} (cost.*; docs/paper.md)"
        )
    if several := [f"{kind} in {e.processes}" for kind, e in modelled if e.processes > 1]:
        yield (
            f"{', '.join(several)} processes: taken to be as many times as fast. What messages between GPUs cost of "
            "that was not measured."
        )


def _disk(plan: Plan) -> Iterable[str]:
    """What new results take, how much of it weights are, and what dropping those costs whoever needs them later."""
    stored = {kind: estimate.stored for kind, estimate in plan.estimates.items()}
    total, trained = sum(stored.values()), [kind for kind in stored if kind in plan.kinds and plan.kinds[kind].weights]
    weights = {kind: stored[kind] for kind in trained if stored[kind]}
    if total < SHOWN_BYTES or not weights:
        return
    parts = ", ".join(f"{kind} {size(part)}" for kind, part in weights.items())
    gone = [kind for kind in weights if not plan.drops or kind in plan.drops]
    left = size(total - sum(weights[kind] for kind in gone))
    again = duration(sum(plan.estimates[kind].seconds * plan.count()[kind]["run"] for kind in gone))
    how = f"Of these {left} stay" if plan.drops else f"keep_weights=none leaves {left}"
    yield (
        f"Disk: {size(total)} of results, most of it weights: {parts}. {escape(how)} once all stages have read them; "
        f"to train all of {', '.join(gone)} again takes {again}, if a later command has to read them."
    )
    kept = [f"{kind} {size(memory.scratch)}" for kind, (_, memory) in plan.needs.items() if memory.scratch]
    if kept:
        yield f"Checkpoints, on disk while a stage runs, at most: {', '.join(kept)}."


def _reasons(plan: Plan) -> dict[str, str]:
    """The most frequent reasons of each kind with their counts."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in plan.estimates}
    for step in plan.steps.values():
        if step.reason:
            counts[step.stage.kind][step.reason] += 1
    return {kind: _summary(reasons) for kind, reasons in counts.items()}


def _summary(reasons: Counter[str]) -> str:
    if len(reasons) == 1:
        return escape(next(iter(reasons)))
    shown = [f"{escape(reason)} ({count})" for reason, count in reasons.most_common(3)]
    rest = len(reasons) - len(shown)
    return "\n".join(shown + [f"and {rest} other reason{'s' if rest > 1 else ''}"] * (rest > 0))


def _notes(plan: Plan) -> Iterable[str]:
    if any(memory.gpus.gib is None and memory.gib >= CONSIDERABLE for _, memory in plan.needs.values()):
        yield (
            "GPU: what a stage takes of each at most. How much one has is not known here; with hydra/launcher=slurm "
            "hydra.launcher.gpu_mem_gb=80 a dry run, which needs no cluster, says what does not fit and what to type."
        )
    yield from (f"[yellow]Does not fit:[/yellow] {escape(sentence)}" for sentence, _ in too_large(plan))
    yield from _fitting(plan)
    for warning in plan.warnings:
        yield f"[yellow]Warning:[/yellow] {escape(warning)}"
    lines = _left_out(plan.left_out)
    if lines:
        yield f"Left out ({len(lines)}):"
        yield from (escape(f"  {line}") for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            yield f"  and {len(lines) - SHOWN} more (plan.json has all)"


def _left_out(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    """`source_lang and target_lang=am, ar, bg and 38 more: the task has no data in them`: the same codes once."""
    names: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        values = tuple(map(str, row["axes"].values()))
        merged = names.setdefault((row["reason"], *values), [[] for _ in values])
        for known, name in zip(merged, row["axes"], strict=True):
            known += [] if name in known else [name]
    return [
        ", ".join(f"{' and '.join(axes)}={_few_codes(value)}" for axes, value in zip(merged, values, strict=True))
        + f": {reason}"
        for (reason, *values), merged in names.items()
    ]


def _few_codes(value: str) -> str:
    codes = value.split(", ")
    return value if len(codes) <= 5 else f"{', '.join(codes[:3])} and {len(codes) - 3} more"


# --- memory --------------------------------------------------------------------------------------------------


def too_large(plan: Plan) -> Iterator[tuple[str, Memory]]:
    """A sentence on each kind of stage that does not fit into its GPUs, and the memory."""
    for kind, (label, memory) in plan.needs.items():
        if not memory.fits:
            parts = sorted(memory.parts.items(), key=lambda part: -part[1])
            shown = ", ".join(f"{name} {size / 2**30:,.0f}" for name, size in parts if size >= 2**29)
            trains = "optimizer" in memory.parts
            adapters = f", {'rm_backbone' if kind == 'reward' else 'policy'}.tuning=lora" if trains else ""
            instead = memory.setting or (
                f"a smaller model{adapters} or GPUs with more memory: no setting of memory makes it fit"
            )
            verb = "Type" if memory.setting else "Take"
            known = memory.gpus.stated or f"it has {memory.gpus.gib:.0f}"
            then = f": {memory.then[0]:,.0f} GB of {_gpus(memory.then[1])}" if memory.then else ""
            told = f"{label} takes up to {memory.gib:,.0f} GB of a GPU ({shown}), and {known}. {verb} {instead}{then}."
            yield told, memory


def _gpus(count: int) -> str:
    return "one GPU" if count == 1 else f"each of {count} GPUs"


def _fitting(plan: Plan) -> Iterator[str]:
    """What fits as it is set, where it is known how much a GPU has."""
    fits = {kind: memory for kind, (_, memory) in plan.needs.items() if memory.gpus.gib is not None and memory.fits}
    if fits:
        kind = max(fits, key=lambda one: fits[one].gib)
        most, gpus = fits[kind], fits[kind].gpus
        which = "Every kind of stage" if len(fits) == len(plan.needs) else ", ".join(fits)
        taken = f"{most.gib:,.0f} GB of {_gpus(gpus.count)} of {gpus.gib:g} GB"
        yield f"Fits as it is set: {which}. Most takes {kind}, {taken}."
