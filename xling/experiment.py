"""One cell's settings, typed and frozen: what a composed Hydra config becomes, once, before anything is planned.

`experiment_from` is the only way in: plain containers in (nothing of Hydra or OmegaConf), Structs out. Structs rather
than dataclasses because msgspec checks types and unknown keys while it converts, with the path of the offending value,
at a few microseconds a cell.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct, inspect

from xling.config.common import Ensemble, Language, Lid, Seed, Training
from xling.config.policies import Policy
from xling.errors import LONGEST_NAME, ConfigError, did_you_mean, listed
from xling.grid.records import AxisValue
from xling.judges import JUDGES, JudgeSettings
from xling.optimizers import OPTIMIZERS
from xling.options import Options
from xling.rewards import REWARDS
from xling.rewards.settings import RewardModel
from xling.tasks.options import TASKS, Task, task_module
from xling.translators import TRANSLATORS, TranslatorSettings

if TYPE_CHECKING:
    Judge = JudgeSettings  # which of them it is, is not to be asked: they differ by the hooks of their modules
    Optimizer = Struct
    Translator = TranslatorSettings
else:
    Judge = JUDGES.settings()
    Optimizer = OPTIMIZERS.settings()
    Translator = TRANSLATORS.settings()

Regime = Literal["organic", "translated", "round_trip"]


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """One cell's settings: all that can change its numbers. `source_langs` has several for a pooled RM.

    axes: the cell's place in the matrix, as tables call it (task, policy, rm_backbone, source_lang, ..., seed).
    """

    task: Task
    source_langs: tuple[Language, ...]
    target_lang: Language
    policy: Policy
    sft: Training
    rm_backbone: RewardModel
    optimizer: Optimizer
    judge: Judge
    seed: Seed = 0
    reward_task: Task | None = None  # whose feedback trains the reward model; None: the task's own
    translator: Translator | None = None
    reward_data: Literal["organic", "translated"] = "organic"  # translated: the source's feedback, in the target
    sft_data: Regime = "organic"  # translated: the source's demonstrations, in the target; round_trip: there and back
    ensemble: Ensemble = Ensemble()
    lid: Lid = Lid()
    axes: dict[str, AxisValue] = {}  # msgspec copies it

    @property
    def feedback_task(self) -> Task:
        """The task that the reward model learns from; source languages are its languages."""
        return self.reward_task or self.task.feedback_task

    @property
    def judging(self) -> RewardModel:
        """The kind of reward model, trained on the target's own feedback, that judge=target_rm decides by.

        A row whose own labels are permuted is a control, and judged by its kind with the true ones.
        """
        return self.judge.rm_backbone or self.rm_backbone.plain


def experiment_from(container: Mapping[str, Any]) -> Experiment:
    """Convert a resolved, plain container; `ConfigError` names the first value that does not fit, and what to type."""
    try:
        return msgspec.convert(container, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(_sentence(container, str(error))) from error


def checked_task(task: Mapping[str, Any], group: str = "task") -> Task:
    """The typed task of a composed one, before there are cells; `group`: task or reward_task. ConfigError as above."""
    try:
        typed: Task = msgspec.convert(dict(task), Task)
        return typed
    except msgspec.ValidationError as error:
        report = str(error).replace("`$", f"`$.{group}") if " - at `$" in str(error) else f"{error} - at `$.{group}`"
        raise ConfigError(_sentence({group: task}, report)) from error


def task_languages(task: Mapping[str, Any], group: str = "task") -> Sequence[str]:
    """The languages that a composed task (or reward_task: `group`) has; for data in files, those that are there."""
    config = checked_task(task, group)
    return task_module(config).languages(config)


# --- what does not fit, as a sentence with the override to type -------------------------------------------

# msgspec's own wording, e.g. "Expected `int` >= 1 - at `$.policy.n`"
REPORT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)

# The last group of a path -> the options that its `name` can be
_TABLES: Mapping[str, Options[Any]] = {
    "task": TASKS,
    "reward_task": TASKS,
    "rm_backbone": REWARDS,
    "optimizer": OPTIMIZERS,
    "judge": JUDGES,
    "translator": TRANSLATORS,
}

_EXAMPLES = {"int": "1", "float": "0.1", "bool": "true"}


def _sentence(container: Mapping[str, Any], report: str) -> str:
    match = REPORT.match(report)
    assert match is not None
    what, path = match["what"], match["path"] or ""
    if unknown := re.match(r"Object contains unknown field `(.*)`", what):
        known = _fields(container, path)
        table, named = _TABLES.get(path.rpartition(".")[2]), _at(container, f"{path}.name")
        usable = table.usable().items() if table else ()
        if having := [name for name, module in usable if unknown[1] in module.Settings.__struct_fields__]:
            return (
                f"{path}.name={named} does not go with {path}.{unknown[1]}, which is a setting of {listed(having)}: an "
                f"option comes with all its settings. Type {path.replace('.', '/')}={named}."
            )
        suggestion = did_you_mean(f"{path}.{unknown[1]}", [f"{path}.{field}" for field in known])
        return f"Unknown key '{path}.{unknown[1]}'.{suggestion} Known below {path}: {', '.join(known)}."
    if missing := re.match(r"Object missing required field `(.*)`", what):
        return f"{path}.{missing[1]} must be given. Type {path}.{missing[1]}=VALUE."
    value = _at(container, path)
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    shown = shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 3]}..."
    if (name := path.rpartition(".")[0].rpartition(".")[2]) in _TABLES and path.endswith(".name"):
        _TABLES[name][str(value)]  # says that there is no such option, or what is wrong with its module
    allowed = _choices(container, path)
    if allowed:
        words = ", ".join(allowed)
        return f"{path}={shown} does not fit: allowed are {words}.{did_you_mean(str(value), allowed)}"
    plain = re.sub(r"^Expected ", "expected ", what.replace("`", ""))
    bound = re.search(r">=? (\d+)", plain) or re.search(r"<=? (\d+)", plain)
    if path == "judge.rm_backbone":
        return f"{path}={shown} does not fit: it is chosen by name. Type judge/rm_backbone={shown}."
    if plain.startswith("expected object") and (fields := _fields({**container, path: {}}, path)):
        return f"{path}={shown} does not fit: it has settings of its own. Type {path}.{fields[0]}=VALUE."
    kind = re.match(r"expected (int|float|bool)\b", plain)
    if bound is None and kind is not None and "null" not in plain:
        return f"{path}={shown} does not fit: {plain}. Type {path}={_EXAMPLES[kind[1]]}, or another."
    if plain.startswith("expected array") and not isinstance(value, (list, dict)) and value is not None:
        return f"{path}={shown} does not fit: expected a list. Type {path}=[{shown}], with all its values in brackets."
    beside = bool(re.search(r"> \d", plain)) - bool(re.search(r"< \d", plain))
    example = "VALUE" if bound is None else str(int(bound[1]) + beside)
    return f"{path}={shown} does not fit: {plain}. Type {path}={example}."


def _at(container: Any, path: str) -> Any:
    """The value at a path such as `source_langs[0].code`; None below what has nothing in it."""
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(container, (list, tuple)):
            container = container[int(part)]
        else:
            container = container.get(part) if isinstance(container, Mapping) else None
    return container


def _struct(container: Mapping[str, Any], path: str) -> inspect.StructType | None:
    """The Struct that the mapping at `path` is converted to, of a union the one with its tag."""
    type_: inspect.Type = inspect.type_info(Experiment)
    for depth, part in enumerate(parts := [p for p in path.split(".") if p], start=1):
        structs = [t for t in _alternatives(type_) if isinstance(t, inspect.StructType)]
        named = {f.encode_name: f.type for struct in structs for f in struct.fields}
        if part not in named:
            return None
        tag = _at(container, ".".join([*parts[:depth], "name"]))
        options = [t for t in _alternatives(named[part]) if isinstance(t, inspect.StructType)]
        tagged = [t for t in options if t.tag == tag]
        type_ = [*tagged, *options, named[part]][0]
    return type_ if isinstance(type_, inspect.StructType) else None


def _alternatives(type_: inspect.Type) -> Iterator[inspect.Type]:
    yield from type_.types if isinstance(type_, inspect.UnionType) else (type_,)


def _fields(container: Mapping[str, Any], path: str) -> list[str]:
    struct = _struct(container, path)
    return [field.encode_name for field in struct.fields] if struct else []


def _choices(container: Mapping[str, Any], path: str) -> list[str]:
    """The allowed words of a setting that has a few, else nothing."""
    parent, _, leaf = path.rpartition(".")
    struct = _struct(container, parent)
    types = [f.type for f in struct.fields if f.encode_name == leaf] if struct else []
    literals = [t for type_ in types for t in _alternatives(type_) if isinstance(t, inspect.LiteralType)]
    return [str(value) for literal in literals for value in literal.values]
