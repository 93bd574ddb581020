"""A parsed command line: Hydra overrides, in Hydra's grammar, as fixed settings, axes and languages.

    request = parse({"seed": "0,1"}, ["source_lang=de,de+en", "target_lang=glob(*)", "policy.n=8"], options)
    request.fixed      # ["policy.n=8"]
    request.axes       # [Axis("seed", (0, 1), ...)]
    request.languages  # {"source_lang": ["de", "de+en"], "target_lang": [Glob(["*"])]}

Later overrides win over earlier ones, and the command line over the `params` of a sweeps file.
"""

import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, RangeSweep, ValueType
from hydra.errors import HydraException

from xling.config.common import members, pooled
from xling.console import without_secrets
from xling.errors import ConfigError, did_you_mean
from xling.grid.records import AxisValue
from xling.grid.stage import OTHERS

Options = Callable[[str], list[str]]  # group -> names of its options, empty if there is no such group

LANGUAGE_GROUPS = ("source_lang", "target_lang")
NAMED_GROUPS = ("task", "policy", "rm_backbone", "optimizer", "judge")
PLAIN_GROUPS = (*NAMED_GROUPS, "reward_task", "sft", "translator")  # their options fill their own sub-tree alone
# of an experiment, all but the languages
SHARED_KEYS = (*PLAIN_GROUPS, "seed", "reward_data", "sft_data", "ensemble", "lid")
SETTINGS = ("root", "name", "controls", "pairs", "scale", "dry_run", "cost", "mode", "keep_weights", "measures",
            "tracking")  # fmt: skip
PRESETS = ("experiment", "sweeps")  # groups whose options choose those of others
WORDS = ("root", "name")  # settings of one text: nothing in it is grammar
PATHS = ("path", "checkpoint", "encoder", "init", "policy", "reference", "articles", "model", "root")
MOST_VALUES = 100_000  # of one range: more are a typing error, and take minutes to count
LONE_CHOICE = re.compile(r"^(source_lang|target_lang)=choice\((.*)\)$")
TWICE = re.compile(rf"^((?:{'|'.join(PLAIN_GROUPS)})\.[^=]+)=(.+),\2$")  # choice() takes no null and drops quotes
# One value for the whole run: two of them would be two grids.
RUN_SETTINGS = ("controls", "cost", "dry_run", "keep_weights", "measures", "mode", "name", "pairs", "root", "scale",
                "sweeps", "tracking")  # fmt: skip
LISTS = ("keep_weights", "measures", "tracking.name")  # that may be several at once
CHOOSING = ("controls", "pairs", "scale")  # those of them that decide which cells there are


@dataclass(frozen=True)
class Axis:
    """A swept key: its values as people read them, and the overrides that set them."""

    key: str
    values: tuple[AxisValue, ...]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]
    languages: Mapping[str, tuple[str | Glob, ...]]
    command: tuple[str, ...]  # what was typed, without Hydra's own settings
    text: tuple[str, ...]  # what was typed that can change a number, sorted: the grid's identity by name


def quoted(argument: str) -> str:
    """A path, name or other text with characters that Hydra's grammar has other uses for, quoted for it.

    `task.path=a=b,c.jsonl` cannot be read as it is, nor can umlauts. Where it can, a comma is a sweep, unless the
    setting takes one value alone or there is such a file. What a launcher is told cannot be swept: nodes n1,n2 are one.
    """
    key, sign, value = argument.partition("=")
    launcher = key.lstrip("+").startswith("hydra.launcher.")
    if (
        not sign
        or not value
        or value[0] in "\"'"
        or "${" in value
        or (key.lstrip("+~").startswith("hydra") and not launcher)
    ):
        return argument
    grammar = bool(set(value) & set(",(){}[]'\""))
    names_one = (key in WORDS or launcher) and value[0] not in "[{" and not re.match(r"\w+\(", value)
    whole = grammar and (names_one or (_is_path(key) and os.path.exists(os.path.expanduser(value))))
    if not whole and (_read(argument) or not _may_be_text(key, value)):
        return argument
    escaped = re.sub(r"(\\*)'", r"\1\1\'", value)  # as the grammar wants it: a quote, and backslashes before it
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    found = f"{key}='{escaped}{chr(92) * trailing}'"
    return found if _read(found) else argument


def _is_path(key: str) -> bool:
    return key.rpartition(".")[2] in PATHS


def _may_be_text(key: str, value: str) -> bool:
    """Whether a value that cannot be read may be meant as it stands: no list, no call, no half of a quotation."""
    if key.partition(".")[0] in LANGUAGE_GROUPS or "/" in key or set(value) & set("\"'"):
        return False
    return _is_path(key) or not re.match(r"[\[{]|\w*\(", value)


@functools.lru_cache
def _read(argument: str) -> Override | None:
    """The override; None if Hydra's grammar cannot read it. Remembered, since the grammar is slow."""
    try:
        [override] = OverridesParser.create().parse_overrides([argument])
    except (HydraException, ValueError, RecursionError):
        return None
    return override


def protected(argument: str) -> str:
    """A single language, or one value of a group's setting, as a sweep, which Hydra leaves to the sweeper.

    It knows no option `de+en`, and would look for rm_backbone.checkpoint in the default rm_backbone, not in the swept.
    """
    key, _, value = argument.partition("=")
    setting = "." in key and key.partition(".")[0] in PLAIN_GROUPS
    if not value or not (key in LANGUAGE_GROUPS or setting):
        return argument
    if setting:
        return f"{argument},{value}" if _can_be_swept(argument) else argument
    override = _read(argument)
    alone = override is not None and override.value_type == ValueType.ELEMENT
    return f"{key}=choice({value})" if alone else argument


def _can_be_swept(argument: str) -> bool:
    """Whether it has one value, which is still the same when it is written back."""
    override = _read(argument)
    if override is None or override.is_sweep_override():
        return False  # what cannot be read is said elsewhere
    try:
        text = Override._get_value_element_as_str(override._value)  # type: ignore[arg-type]  # which is no sweep
    except (HydraException, ValueError):
        return False
    back = _read(f"{override.key_or_group}={text}")
    return back is not None and repr(override._value) == repr(back._value)


def typed(argument: str) -> str:
    """The inverse of `protected`: the argument as people type it."""
    return TWICE.sub(r"\1=\2", LONE_CHOICE.sub(r"\1=\2", argument))


def parse(params: Mapping[str, Any], arguments: Sequence[str], options: Options) -> Request:
    """Sort `arguments` and the sweeps file's `params`; `ConfigError` names what cannot be meant."""
    parser = OverridesParser.create()
    overrides = {o.key_or_group: o for o in parser.parse_overrides([*_param_lines(params), *arguments])}
    fixed: list[str] = []
    axes: list[Axis] = []
    languages: dict[str, tuple[str | Glob, ...]] = {}
    for key, override in overrides.items():
        if key in LANGUAGE_GROUPS:
            languages[key] = _languages(override)
        elif override.is_delete():
            raise ConfigError(
                f"'{_line(override)}' deletes a setting, and every cell needs each: leave it out, or type {key}=VALUE."
            )
        elif not override.is_sweep_override():
            fixed.append(_line(override))
        else:
            axis = _axis(override, options)
            if len(axis.values) == 1:
                fixed.append(axis.overrides[0])
            else:
                axes.append(axis)
    lines = [typed(line) for line in arguments]
    command = tuple(map(without_secrets, lines))
    text = sorted({line for line in lines if _changes_numbers(line)})
    return Request(tuple(fixed), tuple(axes), languages, command, tuple(text))


def _line(override: Override) -> str:
    """The override as it was typed."""
    assert override.input_line is not None
    return typed(override.input_line)


def _changes_numbers(line: str) -> bool:
    key = line.partition("=")[0].lstrip("+~")
    return key in CHOOSING or not _is_run_setting(key)


def _is_run_setting(key: str) -> bool:
    return key.partition(".")[0] in RUN_SETTINGS


def _param_lines(params: Mapping[str, Any]) -> list[str]:
    for key, value in params.items():
        if key.startswith("hydra"):
            raise ConfigError(f"hydra.sweeper.params sets '{key}'; settings of Hydra belong under `hydra:` itself.")
        values = value if isinstance(value, list) else [value]
        if key in LANGUAGE_GROUPS and any(isinstance(item, bool) for item in values):
            raise _bare_no(key, value)
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def _bare_no(key: str, value: Any) -> ConfigError:
    return ConfigError(
        f"{key} is {value}, which is no language: YAML reads a bare no, off, yes or on as true or false. "
        f'Quote it in the file, {key}: "no", or type {key}=no on the command line.'
    )


# --- languages --------------------------------------------------------------------------------------------


def _languages(override: Override) -> tuple[str | Glob, ...]:
    """Codes, pooled codes (`de+en`, sorted, so that en+de is the same) and globs, each once."""
    key = override.key_or_group
    if override.is_delete() or override.is_add() or override.is_force_add():
        raise ConfigError(f"'{_line(override)}': {key} is always there. Type {key}=LANGUAGE.")
    items = _items(override)
    return tuple({repr(item): item for item in (_language(key, item) for item in items)}.values())


def _language(key: str, item: Any) -> str | Glob:
    if isinstance(item, QuotedString):
        item = item.text
    if isinstance(item, Glob):
        return item
    if item == "all":
        return Glob(include=["*"])
    if isinstance(item, list):
        codes = [str(code) for code in Override._convert_value(item) or []]  # type: ignore[union-attr]
        raise _list_of_languages(key, codes)
    if isinstance(item, bool):
        raise _bare_no(key, item)
    if not isinstance(item, str):
        raise ConfigError(
            f"{key}={'null' if item is None else item} is no language. Type {key}=de, or {key}='glob(*)'."
        )
    codes = sorted(set(members(item)))
    if len(codes) > 1 and key == "target_lang":
        raise ConfigError(
            f"target_lang={item}: a policy is aligned in one language; only sources are pooled. "
            f"Type target_lang={','.join(codes)} for a cell each."
        )
    if OTHERS in codes and (len(codes) > 1 or key == "target_lang"):
        raise ConfigError(
            f"{key}={item}: '{OTHERS}' is a source by itself: all languages of the task but the target, pooled. "
            f"Type source_lang={OTHERS}."
        )
    return pooled(codes)


def _list_of_languages(key: str, codes: list[str]) -> ConfigError:
    if not codes:
        return ConfigError(f"{key}=[] names no language. Type {key}=de, or {key}='glob(*)'.")
    pool = f"{key}={pooled(codes)} to pool them into one reward model, or " if key == "source_lang" else ""
    return ConfigError(
        f"{key}=[{','.join(codes)}] is a list, which is no language. "
        f"Type {pool}{key}={','.join(codes)} for a cell each."
    )


# --- other axes -------------------------------------------------------------------------------------------


def _items(override: Override) -> list[Any]:
    """The elements of a sweep, or the one value."""
    if override.value_type == ValueType.INTERVAL_SWEEP:
        raise ConfigError(f"'{_line(override)}' has no finite list of values. Type a list a,b,c, range() or choice().")
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return [override._value]
    if not override.is_sweep_override():
        return [override._value]
    _check_range(override)
    return list(override.sweep_iterator())


def _check_range(override: Override) -> None:
    """ConfigError for a range without end, or with more values than anybody means."""
    value = override._value
    if not isinstance(value, RangeSweep) or value.start is None or value.stop is None:
        return
    if not value.step or not all(map(math.isfinite, (value.start, value.stop, value.step))):
        raise ConfigError(f"'{_line(override)}' never ends: its step must be another number than 0. Type range(0,3).")
    if (count := (value.stop - value.start) / value.step) > MOST_VALUES:
        raise ConfigError(f"'{_line(override)}' has {count:,.0f} values; at most {MOST_VALUES:,} can be swept.")


def _axis(override: Override, options: Options) -> Axis:
    key = override.key_or_group
    if _is_run_setting(key):
        listed = f", or a list: {key}=[{_line(override).partition('=')[2]}]" if key in LISTS else ""
        raise ConfigError(
            f"'{_line(override)}': '{key}' holds for the whole run and cannot be swept. Give it one value{listed}."
        )
    values: dict[str, tuple[AxisValue, str]] = {}
    for item in _items(override):
        for value in _matches(override, item, options) if isinstance(item, Glob) else [item]:
            text = Override._get_value_element_as_str(value)
            label = value.text if isinstance(value, QuotedString) else value
            scalar = label if isinstance(label, (str, int, float, bool)) or label is None else text
            values.setdefault(repr(scalar), (scalar, f"{override.get_key_element()}={text}"))
    if not values:
        raise ConfigError(f"'{_line(override)}' has no values at all. Give it at least one.")
    return Axis(key, tuple(v for v, _ in values.values()), tuple(o for _, o in values.values()))


def _matches(override: Override, glob: Glob, options: Options) -> list[str]:
    names = options(override.key_or_group)
    if not names:
        raise ConfigError(
            f"'{_line(override)}': glob() chooses among the options of a group, and '{override.key_or_group}' is none."
        )
    if not glob.filter(names):
        raise ConfigError(
            f"'{_line(override)}' matches none of {', '.join(names)}.{did_you_mean(glob.include[0], names)}"
        )
    return glob.filter(names)
