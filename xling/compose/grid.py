"""From overrides to cells: Hydra composes each axis value once, cells are assembled from plain containers.

    composer = Composer(loader, "config", hydra_overrides)
    grid = compose_grid(composer, params, ["source_lang=de,en", "target_lang=glob(*)"])
    grid.cells  # [{"task": ..., "source_langs": [...], ..., "axes": {...}}, ...], what experiment_from takes

One compose costs some 50 to 80 CPU-ms: 100 x 100 languages cell by cell would take a quarter of an hour.
Language files are plain facts and are read through Hydra's repository without a compose. Every other axis is
composed once a value and merged, if its values change nothing but their own sub-tree; else each combination
is composed. A few cells drawn with a fixed seed are compared with a full compose; should one differ, all
cells are composed in full.
"""

import hashlib
import itertools
import math
import random
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from xling.compose.command_line import overrides_of
from xling.compose.composer import Composed, Composer, Container, at_scale, hydra_loader
from xling.compose.overrides import (
    LANGUAGE_GROUPS,
    NAMED_GROUPS,
    PLAIN_GROUPS,
    SETTINGS,
    SHARED_KEYS,
    Axis,
    Request,
    parse,
)
from xling.config.common import members, pooled
from xling.errors import LONGEST_NAME, ConfigError, expanded, listed, shown
from xling.experiment import task_languages
from xling.grid.records import AxisValue
from xling.grid.stage import OTHERS, canonical_json
from xling.judges import JUDGES
from xling.measures.language import language_hint

Axes = dict[str, AxisValue]
TaskLanguages = Callable[..., Sequence[str]]  # (a composed task, its group's name if not task) -> its languages

CHECKED_CELLS = 3
MANY_CELLS, MOST_CELLS = 20_000, 100_000  # said before they are planned; refused (pooled and globbed ones count once)


@dataclass(frozen=True)
class Cells:
    """All cells of a command, in the order they were asked for."""

    cells: list[Container]  # what xling.experiment.experiment_from takes
    left_out: list[dict[str, Any]]  # {"axes", "reason"}: what a glob matched or `pairs` does not want
    settings: Container  # those of composer.SETTINGS
    sweep: str | None  # the named grid of sweeps/
    request: Request
    known_languages: Sequence[str]  # those that conf/lang has facts about


# --- combinations of all axes but the languages -----------------------------------------------------------


@dataclass(frozen=True)
class Combination:
    """One point of the axes that are not languages."""

    values: Mapping[str, AxisValue]
    overrides: tuple[str, ...]
    composed: Composed


Lacking = Mapping[str, frozenset[str]]  # override of an option -> settings asked for that it has not


def _combinations(composer: Composer, request: Request, lacking: Lacking, merge: bool) -> list[Combination]:
    points: dict[tuple[str, ...], dict[str, AxisValue]] = {}  # overrides -> values; without what an option has not
    for point in itertools.product(*(list(zip(axis.values, axis.overrides, strict=True)) for axis in request.axes)):
        without = frozenset[str]().union(*(lacking.get(override, ()) for _, override in point))
        lines = (*request.fixed, *(override for _, override in point))
        values = {axis.key: value for axis, (value, _) in zip(request.axes, point, strict=True)}
        kept = tuple(line for line in lines if _key(line) not in without)
        points.setdefault(kept, {key: value for key, value in values.items() if key not in without})
    overrides = list(points)
    first = composer.compose(overrides[0])
    merged = _merged(composer, request, first) if merge and not lacking else None
    composed = merged or itertools.chain([first], (composer.compose(lines) for lines in overrides[1:]))
    return [
        Combination(values, lines, result) for (lines, values), result in zip(points.items(), composed, strict=True)
    ]


def _lacking(composer: Composer, request: Request, warn: Callable[[str], None]) -> Lacking:
    """Settings that some of a group's swept options have and others have not, which is said.

    `optimizer=best_of_n,soft_best_of_n optimizer.tau=0.5,1`: best_of_n once, soft_best_of_n with each tau. What none of
    the options has stays, for Hydra to refuse.
    """
    keys = [_key(line) for line in (*request.fixed, *(axis.overrides[0] for axis in request.axes))]
    groups = [line for line in request.fixed if "." not in _key(line)]
    found: dict[str, frozenset[str]] = {}
    for axis in request.axes:
        asked = [key for key in keys if key.startswith(f"{axis.key}.")] if axis.key in PLAIN_GROUPS else []
        have: dict[str, set[str]] = {}
        for option, line in zip(map(str, axis.values), axis.overrides, strict=True) if asked else ():
            have[line] = _having({axis.key: composer.defaults(axis.key, option)}, asked)
            if len(have[line]) < len(asked):  # a file of package _global_ may have them all the same
                have[line] = _having(composer.chosen([*groups, line])[1], asked)
        known = set[str]().union(*have.values())
        found |= {line: frozenset(known - own) for line, own in have.items() if known - own}
    for line, without in found.items():
        warn(f"{line} has no {listed(sorted(without))}, and is there once, without.")
    return found


def _having(container: Container, keys: Sequence[str]) -> set[str]:
    return {key for key in keys if _at(container, key) is not KeyError}


def _key(line: str) -> str:
    return line.partition("=")[0]


def _merged(composer: Composer, request: Request, first: Composed) -> Iterator[Composed] | None:
    """Every combination from one compose an axis value, or None where merging could be wrong."""
    keys = [axis.key for axis in request.axes]
    nested = any(a != b and f"{b}.".startswith(f"{a}.") for a in keys for b in keys)
    if first.interpolated or nested:
        return None
    variants = [_variants(composer, request, axis, first) for axis in request.axes]
    if not all(variants):
        return None
    return (_with_subtrees(first, keys, point) for point in itertools.product(*(v for v in variants if v)))


def _variants(composer: Composer, request: Request, axis: Axis, first: Composed) -> list[tuple[Any, Any]] | None:
    """For each value of the axis its (sub-tree, choice), or None if it touches more than its sub-tree."""
    if axis.key not in PLAIN_GROUPS:
        current = _at(first.container, axis.key)
        scalars = not isinstance(current, (dict, list)) and current is not KeyError
        plain = scalars and not any(isinstance(v, str) and (v[:1] in "[{" or "$" in v) for v in axis.values)
        return [(value, None) for value in axis.values] if plain else None
    fixed = [*request.fixed, *(other.overrides[0] for other in request.axes if other.key != axis.key)]
    variants: list[tuple[Any, Any]] = [(first.container[axis.key], first.choices[axis.key])]
    for override in axis.overrides[1:]:
        composed = composer.compose([*fixed, override])
        if composed.interpolated or _without(composed, axis.key) != _without(first, axis.key):
            return None
        variants.append((composed.container[axis.key], composed.choices[axis.key]))
    return variants


def _without(composed: Composed, key: str) -> tuple[Container, Container]:
    container = {k: v for k, v in composed.container.items() if k != key}
    return container, {k: v for k, v in composed.choices.items() if k != key}


def _at(container: Container, path: str) -> Any:
    """The value at a dotted path, or KeyError (the class) if there is none."""
    node: Any = container
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return KeyError
        node = node[part]
    return node


def _with_subtrees(first: Composed, keys: Sequence[str], point: Sequence[tuple[Any, Any]]) -> Composed:
    container, choices = first.container, dict(first.choices)
    for key, (subtree, choice) in zip(keys, point, strict=True):
        container = _replaced(container, key.split("."), subtree)
        if key in choices:
            choices[key] = choice
    return Composed(container, choices, False)


def _replaced(container: Container, path: Sequence[str], value: Any) -> Container:
    """A copy of the container with one value replaced; everything beside the path is shared."""
    head, *rest = path
    return {**container, head: _replaced(container[head], rest, value) if rest else value}


# --- languages --------------------------------------------------------------------------------------------


def _task_group(combination: Combination, group: str) -> str:
    """The group whose task a language axis goes by: a reward model may learn from a task of its own."""
    learned = group == "source_lang" and combination.composed.container["reward_task"] is not None
    return "reward_task" if learned else "task"


class _Languages:
    """Expands the language axes of a combination by what its task has."""

    def __init__(self, composer: Composer, request: Request, task_languages: TaskLanguages) -> None:
        self._left_out: dict[tuple[str, str, str], list[str]] = {}
        self._composer = composer
        self._request = request
        self._task_languages = task_languages
        self._known: dict[bytes, Sequence[str]] = {}

    def of(self, combination: Combination, group: str) -> list[str]:
        """Labels (`de`, `de+en`) of a group's values, each once; ConfigError for what does not exist."""
        items = self._request.languages.get(group, (combination.composed.choices[group],))
        labels: dict[str, None] = {}
        for item in items:
            for label in (
                self._glob(combination, group, item)
                if isinstance(item, Glob)
                else self._named(combination, group, item)
            ):
                labels[label] = None
        if not labels:
            raise ConfigError(f"{group}: nothing is left. {self._has(combination, group)}")
        return list(labels)

    def _of_task(self, combination: Combination, group: str) -> Sequence[str]:
        name = _task_group(combination, group)
        task = combination.composed.container[name]
        key = canonical_json(task)
        if key not in self._known:
            self._known[key] = self._task_languages(task) if name == "task" else self._task_languages(task, name)
        return self._known[key]

    def _has(self, combination: Combination, group: str) -> str:
        known = ", ".join(self._of_task(combination, group)) or "no languages"
        return f"Task {combination.composed.choices[_task_group(combination, group)]} has {known}."

    def members(self, combination: Combination, source: str, target: str) -> tuple[str, ...]:
        """Codes behind a source's label; those of `others` are all that the task has but the target."""
        if source != OTHERS:
            return members(source)
        options = self._composer.options("source_lang")
        known = self._of_task(combination, "source_lang")
        codes = tuple(sorted(code for code in known if code != target and code in options))
        if not codes:
            raise ConfigError(
                f"source_lang={OTHERS} pools all languages of the task but the target, and there is no other than "
                f"{target}. {self._has(combination, 'source_lang')} Type source_lang={target}."
            )
        return codes

    def _named(self, combination: Combination, group: str, label: str) -> list[str]:
        for code in () if label == OTHERS and group == "source_lang" else members(label):
            self._composer.facts(group, code)
            if code not in self._of_task(combination, group):
                raise ConfigError(
                    f"{group}={label}: the task has no '{code}'. {self._has(combination, group)} "
                    f"Type {group}='glob(*)' for all of them."
                )
        return [label]

    def _glob(self, combination: Combination, group: str, glob: Glob) -> list[str]:
        known, options = self._of_task(combination, group), self._composer.options(group)
        task = str(combination.composed.choices[_task_group(combination, group)])
        for code in glob.filter(sorted({*options, *known})):
            if code not in known:
                self._leave_out(task, group, code, f"task {task} has no data in them")
            elif code not in options:
                self._leave_out(task, group, code, "conf/lang has no file about them")
        return [code for code in glob.filter(list(known)) if code in options]

    def _leave_out(self, task: str, group: str, code: str, reason: str) -> None:
        codes = self._left_out.setdefault((task, group, reason), [])
        if code not in codes:
            codes.append(code)

    def left_out(self) -> list[dict[str, Any]]:
        """One entry a task, group and reason, the codes in one string: `ar, fr, ja`."""
        return [
            {"axes": {"task": task, group: ", ".join(codes)}, "reason": reason}
            for (task, group, reason), codes in self._left_out.items()
        ]


# --- the whole --------------------------------------------------------------------------------------------

Point = tuple[Combination, str, str, tuple[str, ...]]  # with the labels of source and target, the source's codes


def _warn(message: str) -> None:
    print(f"xling: {message}", file=sys.stderr)


def compose_grid(
    composer: Composer,
    params: Mapping[str, Any],
    arguments: Sequence[str],
    task_languages: TaskLanguages = task_languages,
    warn: Callable[[str], None] = _warn,
) -> Cells:
    """All cells of a command line and a sweeps file's `params`; nothing is run. See the module docstring."""
    request = at_scale(composer, parse(params, arguments, composer.options))
    _check_size(request, warn)
    lacking = _lacking(composer, request, warn)
    points, left_out = _points(composer, request, lacking, task_languages, merge=True)
    make, differs = _cell, _difference(composer, points)
    if differs:
        warn(f"Hydra composes each of the {len(points)} cells, about 0.1 s each: {differs}.")
        points, left_out = _points(composer, request, lacking, task_languages, merge=False)
        make = _composed_cell
    combinations = {id(combination): combination for combination, *_ in points}  # cells share them
    labels = {place: _labels(composer, combination) for place, combination in combinations.items()}
    cells = [
        {
            **make(composer, combination, codes, target),
            "axes": _axes(combination, labels[id(combination)], source, target),
        }
        for combination, source, target, codes in points
    ]
    first = points[0][0].composed
    settings = {key: first.container[key] for key in SETTINGS}
    known = composer.options("target_lang")
    return Cells(cells, left_out, settings, first.choices.get("sweeps"), request, known)


def _check_size(request: Request, warn: Callable[[str], None]) -> None:
    """Say that many cells take time, before they do; ConfigError for more than anybody means."""
    sizes = {axis.key: len(axis.values) for axis in request.axes}
    sizes |= {group: len(items) for group, items in request.languages.items()}
    cells = math.prod(sizes.values())
    factors = " x ".join(f"{size:,} of {key}" for key, size in sorted(sizes.items(), key=lambda s: -s[1]) if size > 1)
    if cells > MOST_CELLS:
        raise ConfigError(f"{cells:,} cells are asked for ({factors}); a grid can have {MOST_CELLS:,}. Ask for fewer.")
    if cells > MANY_CELLS:
        warn(f"{cells:,} cells ({factors}) are planned; that takes a while.")


def _points(
    composer: Composer, request: Request, lacking: Lacking, task_languages: TaskLanguages, merge: bool
) -> tuple[list[Point], list[dict[str, Any]]]:
    languages = _Languages(composer, request, task_languages)
    asked = [
        (combination, source, target, languages.members(combination, source, target))
        for combination in _combinations(composer, request, lacking, merge)
        for source in languages.of(combination, "source_lang")
        for target in languages.of(combination, "target_lang")
    ]
    value = asked[0][0].composed.container["pairs"]
    wanted = wanted_pairs(value, composer.options("target_lang"))
    points = [point for point in asked if wanted(point[3], point[2])]
    left = {(source, target): None for _, source, target, codes in asked if not wanted(codes, target)}
    kept = {(source, target) for _, source, target, _ in points}
    return points, [*languages.left_out(), *left_out_pairs(value, kept, list(left))]


def _labels(composer: Composer, combination: Combination) -> dict[str, str]:
    """Labels in tables of the options of the named groups, and of reward_task where there is one."""
    choices, container = combination.composed.choices, combination.composed.container

    def of(group: str, settings: Container, choice: str) -> str:
        return option_label(group, choice, settings, composer.defaults(group, choice), combination.values)

    chosen = [group for group in (*NAMED_GROUPS, "reward_task") if choices.get(group)]
    found = {group: of(group, container[group], str(choices[group])) for group in chosen}
    judge, kind = container["judge"], ""
    rm = judge.get("rm_backbone")
    if isinstance(rm, dict) and "judge/rm_backbone" not in combination.values:
        kind = of("rm_backbone", rm, str(choices.get("judge/rm_backbone") or rm.get("name")))
    found["judge"] = JUDGES[judge["name"]].Settings.label(found["judge"], judge, kind, combination.values)
    return found


def _axes(combination: Combination, named: Mapping[str, str], source: str, target: str) -> Axes:
    """Coordinates in the fixed order: named groups and languages, any other swept key, seed, task.seed."""
    order = ("task", "policy", "rm_backbone", "source_lang", "target_lang", "optimizer", "judge")
    axes: Axes = {key: {**named, "source_lang": source, "target_lang": target}[key] for key in order}
    if "reward_task" in named:
        axes["reward_task"] = named["reward_task"]
    last = ("seed", "task.seed")
    more = {key: value for key, value in combination.values.items() if key not in axes and key not in last}
    axes.update({f"rm_backbone.{key}" if key.startswith("ensemble.") else key: value for key, value in more.items()})
    axes["seed"] = combination.composed.container["seed"]
    if "task.seed" in combination.values:
        axes["task.seed"] = combination.values["task.seed"]
    return axes


def _cell(composer: Composer, combination: Combination, sources: Sequence[str], target: str) -> Container:
    cell = {key: combination.composed.container[key] for key in SHARED_KEYS}
    cell["judge"] = _judge(composer, cell["judge"])
    cell["source_langs"] = [composer.facts("source_lang", code) for code in sources]
    cell["target_lang"] = composer.facts("target_lang", target)
    return cell


def _judge(composer: Composer, judge: Container) -> Container:
    """The judge's settings, with the facts of the language that judge.lang names."""
    code = judge.get("lang")
    if code is None:
        return judge
    if not isinstance(code, str):
        raise ConfigError(f"judge.lang={code} is no language code. Type judge.lang=de; quote no: judge.lang='\"no\"'.")
    return {**judge, "lang": composer.facts("source_lang", code)}


def _composed_cell(composer: Composer, combination: Combination, sources: Sequence[str], target: str) -> Container:
    """The same cell by a full compose. A pooled cell is that of its first source, and the others' facts."""
    first, *others = sources
    composed = composer.compose([*combination.overrides, f"source_lang={first}", f"target_lang={target}"])
    if others and composed.interpolated:
        raise ConfigError(
            f"source_lang={pooled(sources)}: pooled sources cannot be used with ${{}} references between settings."
        )
    cell = {key: composed.container[key] for key in SHARED_KEYS}
    cell["judge"] = _judge(composer, cell["judge"])
    others_facts = [composer.facts("source_lang", code) for code in others]
    cell["source_langs"] = [composed.container["source_lang"], *others_facts]
    cell["target_lang"] = composed.container["target_lang"]
    return cell


def _difference(composer: Composer, points: Sequence[Point]) -> str:
    """Why merging is wrong here, by what a few cells are in a full compose; empty if they agree."""
    if any(combination.composed.interpolated for combination, *_ in points):
        return "settings refer to each other with ${}"
    for combination, _, target, codes in random.Random(0).sample(points, min(CHECKED_CELLS, len(points))):
        first = codes[:1]
        if _cell(composer, combination, first, target) != _composed_cell(composer, combination, first, target):
            return f"merging gives another cell {first[0]} to {target} than Hydra"
    return ""


# --- the name of a grid: the folder below <root>/grids in which its matrix stands -------------------------


def grid_name(cells: Cells) -> str:
    """The given name, the sweep's, or a slug of the axes; a hash tells apart what else was asked for."""
    name = cells.settings["name"]
    if name is not None:
        if not re.fullmatch(r"[\w+-][\w.+-]*", str(name)) or len(str(name).encode()) > LONGEST_NAME:
            raise ConfigError(
                f"name={shown(str(name))} cannot name a folder. Use letters, digits and . _ + -, as in name=my_grid, "
                f"{LONGEST_NAME} at most."
            )
        return str(name)
    if cells.sweep and not cells.request.text:
        return cells.sweep
    digest = hashlib.sha256(canonical_json([cells.sweep, list(cells.request.text)])).hexdigest()[:6]
    return f"{cells.sweep or _slug(cells)}-{digest}"


def _slug(cells: Cells) -> str:
    parts = [str(cells.cells[0]["axes"]["task"]).partition("(")[0]]  # files(own) is no name for a folder
    for group in LANGUAGE_GROUPS:
        labels = list(dict.fromkeys(str(cell["axes"][group]) for cell in cells.cells))
        parts.append("_".join(labels) if len(labels) <= 4 else str(len(labels)))
    return "-".join(parts)


# --- overrides without Hydra's main -----------------------------------------------------------------------


def composed_grid(overrides: Sequence[str]) -> tuple[Cells, Any]:
    """(cells, launcher of hydra_plugins) that overrides ask for, those of a named grid too. ConfigError as above."""
    with hydra_loader() as loader:
        config = loader.load_configuration("config", overrides_of(overrides), RunMode.MULTIRUN, from_shell=False)
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # for ${hydra:...} in config files
        try:
            composer = Composer(loader, "config", list(config.hydra.overrides.hydra))
            params = OmegaConf.to_container(config.hydra.sweeper.params, resolve=True)
            assert isinstance(params, dict)
            named = {str(key): value for key, value in params.items()}
            cells = compose_grid(composer, named, list(config.hydra.overrides.task))
            context = HydraContext(config_loader=loader, callbacks=Callbacks())
            launcher = Plugins.instance().instantiate_launcher(context, lambda _: None, config)
        finally:
            HydraConfig.instance().cfg = before
        return cells, launcher


# --- which (source, target) pairs of the asked languages are cells: the setting `pairs` -------------------
# pairs=all    every one of them (the default)
# pairs=cross  the target is not among the sources: cross-lingual cells only
# pairs=home   the source is the target and nothing else
# pairs=en     exactly one of the two is English: into it and out of it

Wanted = Callable[[Sequence[str], str], bool]  # (codes of the source, the target's) -> whether it is a cell
LeftOut = list[tuple[str, str]]  # labels of source and target

SHOWN = 8  # pairs that are named before the rest is counted

NAMED: dict[str, Wanted] = {
    "all": lambda codes, target: True,
    "cross": lambda codes, target: target not in codes,
    "home": lambda codes, target: list(codes) == [target],
}


def wanted_pairs(value: Any, known: Collection[str]) -> Wanted:
    """The rule of a value of `pairs`; ConfigError for one that is none. known: languages of conf/lang."""
    if isinstance(value, bool):
        raise ConfigError(
            f"pairs is {str(value).lower()}, which is no language: YAML reads a bare no, off, yes or on as true or "
            'false. Quote it in the file, pairs: "no", or type pairs=no on the command line.'
        )
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]
    if not isinstance(value, str) or value not in known:
        names = ", ".join(NAMED)
        raise ConfigError(
            f"pairs={'null' if value is None else value} is unknown. Allowed: {names}, or the code of a language "
            f"(pairs=en: one of the two is English).{language_hint(str(value), [*NAMED, *known])}"
        )
    return lambda codes, target: (value in codes) != (value == target)


def left_out_pairs(value: Any, kept: Collection[Any], left: LeftOut) -> list[dict[str, Any]]:
    """Cells that `pairs` leaves out, as at most one entry of a plan. ConfigError if no cell is left."""
    if not left:
        return []
    shown = ", ".join(f"{source} to {target}" for source, target in left[:SHOWN])
    shown += f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    if not kept:
        raise ConfigError(
            f"pairs={value} leaves no cell: of the asked languages there {'is' if len(left) == 1 else 'are'} {shown}. "
            "Ask for more languages with source_lang and target_lang, or type pairs=all."
        )
    return [{"axes": {"pairs": value}, "reason": f"leaves out {len(left)} of {len(left) + len(kept)} pairs: {shown}"}]


# --- what tables call the options of a cell ---------------------------------------------------------------
# `policy=micro policy.checkpoint=FOLDER` runs FOLDER, so that `micro` would name another model. A label says what
# decides the numbers; what is an axis of its own (`judge.lang=de,en`) has a column of its own.

Settings = Mapping[str, Any]

MODELS = {  # settings that name a model, by group
    "policy": ("checkpoint",),
    "rm_backbone": ("checkpoint", "init", "encoder", "policy", "reference"),
    "judge": ("checkpoint", "model"),
}
NO_MODELS = (None, "???", "sft", "base")  # what such a setting may say besides


def option_label(group: str, option: str, settings: Settings, defaults: Settings, swept: Collection[str]) -> str:
    """An option's label. defaults: what its YAML says; swept: keys that are axes of the grid.

    policy: the model's own name; rm_backbone, judge: kind(model); task=files: files(name of the data). Options that
    are swept keep their names, so that no two have the same label.
    """
    if group in ("task", "reward_task"):
        return f"{option}({short(str(settings['path']))})" if settings.get("name") == "files" else option
    changed = [name for name in MODELS.get(group, ()) if name in settings and settings[name] != defaults.get(name)]
    models = [short(str(settings[name])) for name in changed if settings[name] not in NO_MODELS]
    if group == "policy" and models and group not in swept:
        return models[0]
    replaced = any(defaults.get(name) not in NO_MODELS for name in changed)
    if group == "rm_backbone" and replaced and group not in swept:
        option = str(settings["name"])  # xlm_roberta with another checkpoint is an encoder, and not XLM-R
    return f"{option}({', '.join(models)})" if models else option


def short(name: str) -> str:
    """The last part of a path or hub id, without what a data file's kind says: /data/own.jsonl is `own`."""
    path = Path(name.rstrip("/") or "/")
    last = path.name if path.name not in ("", ".", "..") else expanded(path).resolve().name
    for ending in (".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        last = last.removesuffix(ending)
    return last or name
