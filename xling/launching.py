"""From composed cells to a filled matrix: plan, dry run or execution, reduction, tracking. Without Hydra.

`catalogue` is the package that offers `KINDS` (how each kind of stage runs) and, in its module `dag`,
`cells_from` (experiments to cells) and, where it tells languages, `language_rates`: `xling.planning`, or one of no-op
stages in tests and benchmarks.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from xling.compose.grid import Cells, grid_name
from xling.config.policies import LanguageModel
from xling.console import Console, harmless, size
from xling.errors import ConfigError, did_you_mean, expanded, listed, shown, while_running
from xling.experiment import Experiment, experiment_from
from xling.folding import fold
from xling.grid.estimate import Speed, in_processes, rates_from
from xling.grid.grids import planned as planned_file
from xling.grid.launches import check_own, digest_of, running
from xling.grid.plan import Plan, make_plan, needs_of, replaced
from xling.grid.plan_table import print_plan, too_large
from xling.grid.stage import Gpus
from xling.grid.store import Store
from xling.grid.weights import drop_of, dropped_kinds
from xling.judges import judges_its_own
from xling.measures.own import located, own_measure
from xling.models.checkpoints import chat_template
from xling.planning import aligning, packages, sharing
from xling.planning.dag import RIVALS, idle_ensembles
from xling.planning.judging import notes
from xling.planning.pretrained import beyond, strange
from xling.planning.pretrained import notes as unsuited
from xling.planning.refusals import cross_fitted, responses_recorded
from xling.planning.translations import notes as untranslated
from xling.planning.unresolved import without_commits
from xling.results.items import Items
from xling.runners import LAUNCHERS, Launcher, Work
from xling.tasks.options import Task, task_module
from xling.tasks.records import PUBLISHED, absent
from xling.tracking.base import MODES, TRACKERS, asked_runs, asked_trackers

FOLD = "xling.folding:fold"  # for jobs of a cluster, which are told as text what to call
LEFT = 130  # exit code of somebody who has left a grid that goes on
FULL = "full"  # dry_run=full
HEALS = 2  # times that one command makes what has rotted again


def plan_of(
    cells: Cells, catalogue: str, device: Callable[[], Speed | None] = lambda: None, elsewhere: bool = False
) -> Plan:
    """Decide on every stage of the cells; nothing is run or written. A dry run needs neither data nor the hub.

    device: asked by a dry run for what its hours are of; elsewhere: stages run by another Python than this one.
    """
    settings, dry_run = cells.settings, bool(_dry_run(cells))
    rates = rates_from(settings["cost"], device() if dry_run else None)
    dag = _package(f"{catalogue}.dag")
    asked, remarks = [experiment_from(cell) for cell in cells.cells], list[str]()
    if dry_run:
        asked, remarks = without_commits(asked)
    elif any(absent(experiment.task) for experiment in asked):
        raise ConfigError(
            f"task.path={PUBLISHED} stands for data that is not here, whose sizes the paper states: only a dry run can "
            "do with it. Type task.path=PATH, or dry_run=true."
        )
    _check_data(asked, cells.known_languages)
    stage_cells = dag.cells_from(asked, controls=_controls(settings["controls"]))
    lacking = packages.check(asked, here=not (dry_run or elsewhere))
    plan = make_plan(
        stage_cells,
        Store(_root(settings["root"])),
        mode=str(settings["mode"]),
        name=grid_name(cells),
        command=cells.request.command,
        left_out=cells.left_out,
        kinds=importlib.import_module(catalogue).KINDS,
        rates=rates if dry_run else None,
    )
    said = [
        *_unsuited(asked, cells),
        *aligning.notes(asked, _typed(cells)),
        *beyond(asked),
        *strange(asked),
        *notes(plan),
        *_templates(asked),
    ]
    said += [*idle_ensembles(asked), *_own_judges(plan)]
    drops, measures = dropped_kinds(settings["keep_weights"], plan.kinds), _own_measures(settings["measures"])
    warnings = [
        *plan.warnings,
        *remarks,
        *lacking,
        *said,
        *replaced(plan),
        *_without_measures(plan, settings["measures"], measures),
    ]
    told = [] if dry_run or not hasattr(dag, "language_rates") else dag.language_rates(asked, stage_cells)
    return replace(plan, warnings=warnings, language_rates=told, measures=measures, drops=drops)


def _unsuited(asked: Sequence[Experiment], cells: Cells) -> list[str]:
    return unsuited(asked, _typed(cells))


def _typed(cells: Cells) -> set[str]:
    """The names of settings that the user gave, and of axes."""
    typed = {word.partition("=")[0].lstrip("+~") for word in cells.request.command}
    return typed | {axis.key for axis in cells.request.axes}


def _own_measures(value: Any) -> list[str]:
    """The measures of the user's own, found. ConfigError: there is no such function, or it has a fault."""
    named = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise ConfigError(f"measures={value} does not fit. Type measures=FILE:FUNCTION, or a list of them in [].")
    if not named:
        return []
    from xling.analysis.tidy.long import TAKEN  # pyarrow

    found = [located(one, Path.cwd()) for one in named]
    names = [own_measure(one).name for one in found]
    if taken := [name for name in names if names.count(name) > 1 or name in {*Items.__struct_fields__, *TAKEN}]:
        raise ConfigError(f"measures: the name {taken[0]} is taken. Give the function another.")
    return found


def _without_measures(plan: Plan, asked: Any, measures: Sequence[str]) -> list[str]:
    """A sentence where the grid's matrix loses measures of the user's own, or where none are asked for by name."""
    gone = [one for one in planned_file(plan.store, plan.name).measures if one not in measures]
    lost = [one for one in gone if one.rpartition(":")[2] not in {new.rpartition(":")[2] for new in measures}]
    if lost:
        names, again = listed([one.rpartition(":")[2] for one in lost], 5), ",".join([*measures, *lost])
        return [
            f"The matrix is folded without {names}, which the last command of {plan.name} measured; that is kept, and "
            f"measures=[{again}] shows it again."
        ]
    return ["measures=[] asks for no measures of your own, and there are none to leave out."] if asked == [] else []


def _package(name: str) -> Any:
    """A module of the package that knows the stages; ConfigError if there is no such package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(str(error.name)):
            raise
        package = name.removesuffix(".dag")
        raise ConfigError(
            f"hydra.launcher.catalogue={package} is no package with stages: leave it out, or type xling.planning."
        ) from error


def _templates(asked: Sequence[Experiment]) -> list[str]:
    """A sentence for each policy whose prompts go through a chat template."""
    policies = dict.fromkeys(e.policy for e in asked if isinstance(e.policy, LanguageModel))
    found = {policy.checkpoint: text for policy in policies if (text := chat_template(policy))}
    return [
        f"{checkpoint} is asked by its tokenizer's chat template"
        f"{', with thinking switched off' if 'enable_thinking' in text else ''}; a chat's turns are the "
        "template's, one that it refuses before the user's is put into that, and thoughts are left out of responses. "
        "policy.template=plain asks with bare texts."
        for checkpoint, text in found.items()
    ]


def _own_judges(plan: Plan) -> list[str]:
    """A sentence where some cell's judge is the reward model whose reward it optimises: its verdict is no evidence."""
    own = sum(judges_its_own(cell.stage.parents) for cell in plan.cells)
    if not own:
        return []
    cells = "1 cell is" if own == 1 else f"{own} cells are"
    return [
        f"{cells} judged by the very reward model whose reward is optimised: marked, and left out of means, ties and "
        "counts. Type judge.half=true for a judge from other documents, or judge.seed=N for a network of another seed."
    ]


def _root(value: Any) -> Path:
    """The folder of all results. ConfigError for what names none: an empty shell variable, null, a list."""
    if not isinstance(value, str) or not value.strip():
        word = "null" if value is None else f"'{value}'" if isinstance(value, str) else value
        example = f"\"'{value}'\"" if isinstance(value, int | float) and not isinstance(value, bool) else "outputs"
        raise ConfigError(f"root={word} names no folder. Type root={example}.")
    try:
        path = expanded(value).absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()  # finds names that are too long, and NULs
        return path
    except (OSError, ValueError) as error:
        raise ConfigError(f"root={shown(value)} cannot be a folder: {error}. Type root=outputs.") from error


def _check_data(asked: Sequence[Experiment], known: Sequence[str]) -> None:
    """Each task looks at its data before anything runs: refuses, or says what is left out."""
    grids: dict[Task, tuple[set[str], set[str]]] = {}
    split: set[Task] = set()  # tasks of which some cell reads splits
    for experiment in asked:
        sources, _ = grids.setdefault(experiment.feedback_task, (set(), set()))
        sources.update(lang.code for lang in experiment.source_langs)
        _, targets = grids.setdefault(experiment.task, (set(), set()))
        targets.add(experiment.target_lang.code)
        split |= set() if cross_fitted(experiment) else {experiment.feedback_task}
        split |= set() if responses_recorded(experiment) else {experiment.task}
    said = set[str]()  # a task with another seed has the same to say of the same files
    for task, (sources, targets) in grids.items():
        module = task_module(task)
        notes = module.check(task, known, sorted(sources), sorted(targets))
        for note in dict.fromkeys([*notes, *module.ignored(task, task in split)]):
            if note not in said:
                print(harmless(f"xling: {note}"), file=sys.stderr)
            said.add(note)
    for note in untranslated(asked):
        print(harmless(f"xling: {note}"), file=sys.stderr)


def planned(cells: Cells, catalogue: str, launcher: str, values: Mapping[str, Any]) -> Plan:
    """What `launch` would do, with the same arguments."""
    module = _launcher(launcher)
    return plan_by(cells, catalogue, module, module.read(values, _package(catalogue).KINDS))


def launch(cells: Cells, catalogue: str, launcher: str, values: Mapping[str, Any]) -> int:
    """Do what the command line asks for, by a launcher of the table with the settings of its YAML.

    Exit code: 0 (done, or submitted), 1 if all has ended and a cell failed, 128 + signal if interrupted.
    """
    module = _launcher(launcher)
    settings = module.read(values, _package(catalogue).KINDS)
    work = Work(f"{catalogue}:KINDS", FOLD, _tracking(cells.settings["tracking"]))
    plan = _planned(cells, catalogue, module, settings, work)
    if plan is None:
        return 0
    heals = 0
    _refuse_submitted(plan)
    checked = module.check(plan, settings)  # before the grid's plan is replaced
    with running(plan, settings.claim_timeout_s) as digest:
        _clear(plan)
        while (ended := module.run(plan, settings, work, checked)).whole:
            with while_running():
                check_own(plan.store, plan.name, digest)
                code = fold(plan.store, plan.name, work.tracking, heal=_heals(plan) and heals < HEALS)
            if code is not None:
                if plan.mode == "force":
                    drop_of(plan.store, plan.kinds, plan.name)
                return code or ended.exit_code
            plan, heals = _healing(plan, catalogue, "cached" if ended.failures else "retry"), heals + 1
    return ended.exit_code if ended.wait is None else _shown_after(ended.wait, plan)


def _launcher(name: str) -> Launcher:
    """A launcher of the table; ConfigError for another name, which is likely to be meant for jobs."""
    if name not in (known := LAUNCHERS.modules()):
        raise ConfigError(
            f"hydra.launcher.name={name}: that is the launcher itself ({', '.join(sorted(known))}), chosen by "
            f"hydra/launcher=slurm. Jobs are called after their grid: type name={name} for that."
        )
    return LAUNCHERS[name]


def _shown_after(wait: Callable[[], int], plan: Plan) -> int:
    """Watch jobs until they have ended, then show the matrix. Exit code as of `wait`."""
    from xling.report.files import reduce_grid
    from xling.report.tables.terminal import print_matrix

    code = wait()
    if code != LEFT:
        print_matrix(reduce_grid(plan.store, plan.name))  # as the last job did; it may have been cancelled
    return code


def _refuse_submitted(plan: Plan) -> None:
    """ConfigError if jobs of another set of cells are queued or running under the grid's name."""
    cells = digest_of(plan.cells)
    if any(launcher.others(plan.store, plan.name, cells) for launcher in LAUNCHERS.usable().values()):
        raise ConfigError(
            f"name={plan.name} is taken: jobs of another set of cells were submitted under it and have not ended. "
            f"Type another name=NAME, or `xling cancel all {plan.name}`."
        )


def _planned(cells: Cells, catalogue: str, launcher: Launcher, settings: Any, work: Work) -> Plan | None:
    """The plan, announced; None if showing it was all that was asked for."""
    dry_run = _dry_run(cells)
    plan = plan_by(cells, catalogue, launcher, settings)
    count, said = launcher.workers(plan, settings)
    if dry_run:
        print_plan(plan, workers=count, said=said, every=dry_run == FULL)
        console = Console(soft_wrap=True)
        for part in launcher.preview(plan, settings, work) if hasattr(launcher, "preview") else ():
            console.print(part)
        return None
    for sentence, memory in too_large(plan):
        if memory.gpus.stated:
            raise ConfigError(sentence)
        print(harmless(f"xling: {sentence}"), file=sys.stderr)
    print(harmless(_intention(plan, said)), file=sys.stderr)
    return plan


def _clear(plan: Plan) -> None:
    """What is of no use goes, once the name is this command's: jobs of other cells may need what these do not."""
    plan.clear_lost()
    if freed := plan.drop_weights():
        print(
            f"xling: {size(freed)} of weights that nothing reads any more were dropped (keep_weights).", file=sys.stderr
        )
    if others := plan.keepers():
        print(
            f"xling: Weights that other grids of this root have in common with it stay, since they keep theirs, or "
            f"start from them: {listed(others, 5)}. Type keep_weights in their commands, too (docs/running.md).",
            file=sys.stderr,
        )


def _controls(asked: Any) -> bool | str:
    """Whether controls stand beside the cells; RIVALS: those that learn from no permuted labels."""
    return RIVALS if asked == RIVALS else _switch("controls", asked, [RIVALS])


def _dry_run(cells: Cells) -> bool | str:
    """Whether only to show the plan; FULL: with every stage."""
    asked = cells.settings["dry_run"]
    return FULL if asked == FULL else _switch("dry_run", asked, [FULL])


def plan_by(cells: Cells, catalogue: str, launcher: Launcher, settings: Any) -> Plan:
    """`plan_of` with the time and the memory that its stages take where the launcher runs them."""
    speed = getattr(launcher, "speed", lambda settings: None)
    elsewhere = launcher.elsewhere(settings) if hasattr(launcher, "elsewhere") else False
    plan = on_gpus(plan_of(cells, catalogue, lambda: speed(settings), elsewhere), launcher, settings)
    said = launcher.doubts(plan, settings) if hasattr(launcher, "doubts") else []
    return replace(plan, warnings=[*plan.warnings, *said]) if said else plan


def on_gpus(plan: Plan, launcher: Launcher, settings: Any) -> Plan:
    """The plan with the memory that its stages take of the launcher's GPUs, and their hours in so many processes.

    ConfigError where a stage is given more processes than can share its work. Of memory nothing is asked where nobody
    reads it.
    """
    hook, kinds = getattr(launcher, "gpus", None), plan.kinds
    given = {
        kind: replace(hook(settings, kind) if hook else Gpus(), more=kind in kinds and kinds[kind].parallel)
        for kind in plan.estimates
    }
    gpus = given.__getitem__
    sharing.check(plan, gpus)
    if plan.rates is None and all(own.gib is None for own in given.values()):
        return plan
    estimates = {
        kind: in_processes(one, gpus(kind).count, kinds[kind].seconds) if kind in kinds else one
        for kind, one in plan.estimates.items()
    }
    warnings = [*plan.warnings, *sharing.notes(plan, gpus)]
    return replace(plan, needs=needs_of(plan, gpus), estimates=estimates, warnings=warnings)


def _intention(plan: Plan, workers: str) -> str:
    """What there is to do, who does it, and the warnings, before anything runs."""
    left = len(plan.to_run)
    folder = plan.store.grid_folder(plan.name)
    line = f"{plan.name}: {len(plan.cells)} cells, {len(plan.steps)} stages, {left} to run. Results: {folder}"
    return "\n".join([line, *([f"{workers}."] if workers and left else []), *plan.warnings])


def _heals(plan: Plan) -> bool:
    return plan.mode not in ("cached", "read-only")


def _healing(plan: Plan, catalogue: str, mode: str) -> Plan:
    """Set aside what the fold found damaged, and plan it anew; the other results are used as they are.

    A marker fits by sizes and times: that bytes have rotted is only seen by who reads them.
    """
    for damaged in list(plan.store.damaged.values()):
        print(harmless(f"xling: {damaged} It is set aside and made again."), file=sys.stderr)
        plan.store.set_aside(damaged.kind, damaged.key)
        plan.store.damaged.pop((damaged.kind, damaged.key), None)
    kinds = importlib.import_module(catalogue).KINDS
    anew = make_plan(plan.cells, plan.store, mode, plan.name, plan.command, plan.left_out, kinds)
    anew.clear_lost()
    return replace(anew, warnings=plan.warnings, language_rates=plan.language_rates, measures=plan.measures,
                   drops=plan.drops)  # fmt: skip


def _tracking(settings: Any) -> Mapping[str, Any]:
    """The settings of `tracking`, checked by each tracker that they name."""
    if not isinstance(settings, Mapping):
        typed = "off" if settings is False else "null" if settings is None else settings
        mode = typed if typed in MODES else "online" if typed is True else "off"
        chosen = f"name={typed}" if typed in TRACKERS.modules() else f"mode={mode}"
        raise ConfigError(f"tracking={typed} does not fit: it has settings of its own. Type tracking.{chosen}.")
    names = asked_trackers(settings)
    read = [to_builtins(TRACKERS[name].read(settings)) for name in names]
    return {**settings, **read[0], "name": names, "runs": asked_runs(settings)}


def _switch(key: str, value: Any, more: Sequence[str] = ()) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    allowed = ["true", "false", *more]
    hint = did_you_mean(str(value).lower(), allowed) or f" Type {key}=true."
    raise ConfigError(f"{key}={value} does not fit: allowed are {', '.join(allowed)}.{hint}")
