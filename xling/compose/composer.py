"""Hydra's config loader, asked for plain containers: full composes, and the facts of languages without one.

Uses two members of Hydra 1.3 that are not public (the loader's class and its repository of config files);
hydra-core is held below 1.4 for that.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue

from xling.compose.command_line import conf_folder, explain, lacking
from xling.compose.overrides import (
    LANGUAGE_GROUPS,
    PLAIN_GROUPS,
    PRESETS,
    SETTINGS,
    SHARED_KEYS,
    WORDS,
    Axis,
    Request,
    parse,
    quoted,
)
from xling.config.common import Language
from xling.errors import ConfigError, did_you_mean, shown
from xling.experiment import checked_task
from xling.measures.language import language_hint
from xling.tasks.options import Task
from xling.tasks.records import PUBLISHED

Container = dict[str, Any]

# ${oc.env:X} and ${hydra:...} are the same in every cell; anything else may look at an axis.
INTERPOLATION = re.compile(r"\$\{(?!oc\.env:|hydra:)")


@dataclass(frozen=True)
class Composed:
    """One composition: the plain container, the option of each group, and whether values refer to others."""

    container: Container
    choices: Mapping[str, Any]
    interpolated: bool


class Composer:
    """Hydra's config loader, asked for plain containers. Counts its composes."""

    def __init__(self, loader: ConfigLoaderImpl, config_name: str, hydra_overrides: Sequence[str] = ()) -> None:
        self.composes = 0
        self._loader = loader
        self._config_name = config_name
        self._hydra_overrides = list(hydra_overrides)
        # The repository that a compose would use, with hydra.searchpath of the config and the command line.
        _, self._repository = loader._parse_overrides_and_create_caching_repo(config_name, self._hydra_overrides)
        self._facts: dict[tuple[str, str], Container] = {}
        self._options: dict[str, list[str]] = {}
        self._defaults: dict[tuple[str, str], Container] = {}

    def options(self, group: str) -> list[str]:
        """Names of a group's options; empty for a group that does not exist."""
        if group not in self._options:
            self._options[group] = self._repository.get_group_options(group)
        return self._options[group]

    def facts(self, group: str, code: str) -> Container:
        """The plain facts of a language file, without a compose."""
        if (group, code) not in self._facts:
            self._facts[group, code] = self._load_facts(group, code)
        return self._facts[group, code]

    def defaults(self, group: str, option: str) -> Container:
        """The values of an option's YAML and of those that it builds upon, unresolved and without a compose."""
        if (group, option) not in self._defaults:
            loaded = self._repository.load_config(f"{group}/{option}")
            plain = OmegaConf.to_container(loaded.config, resolve=False) if loaded else {}
            assert isinstance(plain, dict)
            found: Container = {}
            for entry in (loaded.defaults_list if loaded else None) or ():
                path = getattr(entry, "path", None)
                if isinstance(path, str) and path != "_self_":
                    found |= self.defaults(group, path)
            self._defaults[group, option] = found | {str(key): value for key, value in plain.items()}
        return self._defaults[group, option]

    def _having(self, key: str) -> tuple[str, list[str]]:
        """(group, names of its options that have the setting of a whole key, as judge.rm_backbone.init)."""
        parts = key.split(".")
        for size in range(len(parts) - 1, 0, -1) if parts[0] in PLAIN_GROUPS else ():
            group = "/".join(parts[:size])
            if found := [one for one in self.options(group) if _has(self.defaults(group, one), parts[size:])]:
                return group, found
        return parts[0], []

    def _load_facts(self, group: str, code: str) -> Container:
        loaded = self._repository.load_config(f"{group}/{code}")
        if loaded is None:
            raise self._unknown_language(group, code)
        plain = OmegaConf.to_container(loaded.config, resolve=False)
        if (
            not isinstance(plain, dict)
            or loaded.header["package"]
            or len(loaded.defaults_list or ())
            or "${" in str(plain)
        ):
            raise ConfigError(f"{group}/{code}.yaml must hold plain facts only: no defaults list, package or ${{}}.")
        if plain.get("code") != code:
            hint = ' A bare no is "false" in YAML: quote it.' if isinstance(plain.get("code"), bool) else ""
            raise ConfigError(f'{group}/{code}.yaml says code: {plain.get("code")}; it must be "{code}".{hint}')
        return {str(key): value for key, value in plain.items()}

    def _unknown_language(self, group: str, code: str) -> ConfigError:
        known = self.options(group)
        names = {self.facts(group, one)[name].casefold(): one for one in known for name in ("native_name", "name")}
        every = f" All languages of the task are {group}=all." if code.casefold() == "all" else ""
        return ConfigError(
            f"Unknown language {shown(code)} for {group}. Known (conf/lang): {', '.join(known)}."
            f"{every or language_hint(code, known, names)}"
        )

    def compose(self, overrides: Sequence[str]) -> Composed:
        """One full compose; raises Hydra's own errors (xling.compose.command_line turns them into sentences).

        ConfigError for a setting that the option chosen for its group has not: of several options it says which.
        """
        config, choices = self._loaded(overrides)
        return Composed(_resolved(config), choices, _is_interpolated(config))

    def chosen(self, overrides: Sequence[str]) -> tuple[Mapping[str, Any], Container]:
        """(the option of each group, the container as far as it is given) of a full compose."""
        config, choices = self._loaded(overrides)
        container = OmegaConf.to_container(config, resolve=False)
        assert isinstance(container, dict)
        return choices, {str(key): value for key, value in container.items()}

    def _loaded(self, overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, Any]]:
        self.composes += 1
        try:
            config = self._loader.load_configuration(
                self._config_name,
                [*self._hydra_overrides, *overrides],
                RunMode.RUN,
                from_shell=False,
                validate_sweep_overrides=False,
            )
        except HydraException as error:
            if sentence := lacking(error, overrides, self._having):
                raise ConfigError(sentence) from error
            raise
        choices = OmegaConf.to_container(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]  # it holds values that exist only inside a Hydra job
        assert isinstance(choices, dict)
        return config, {str(key): value for key, value in choices.items()}


def _has(values: Any, path: Sequence[str]) -> bool:
    """Whether there is something at a path of keys."""
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _resolved(config: DictConfig) -> Container:
    known = (*SHARED_KEYS, *LANGUAGE_GROUPS, *SETTINGS)
    if config.get("dry_run") in (True, "full") and OmegaConf.is_missing(config.task, "path"):
        config.task.path = PUBLISHED
    for key in map(str, config):
        if key in PRESETS:
            raise ConfigError(f"The file chosen for {key} must open with the line `# @package _global_`.")
        if key not in known:
            raise ConfigError(f"Unknown key '{key}'.{did_you_mean(key, (*known, *PRESETS))} Known: {', '.join(known)}.")
    for key in known:
        if key not in config:
            raise ConfigError(f"'{key}' is missing from the configuration; every cell needs one.")
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} must be given. Type {error.full_key}=VALUE.") from error
    assert isinstance(container, dict)
    check_numbers(container)
    return {str(key): value for key, value in container.items()}


def check_numbers(value: Any, path: str = "") -> None:
    """ConfigError for nan, inf and integers beyond 64 bits, wherever they stand: no setting has a use for them."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check_numbers(item, f"{path}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        if path in WORDS:
            raise ConfigError(f"{path}={value} is a number. Type {path}=\"'{value}'\" if it is meant as a text.")
        raise ConfigError(f"{path}={value} does not fit: expected a finite number. Type {path}=1, or another.")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{path} has {value.bit_length()} bits: at most 64 fit, of a seed 32. Type a smaller number.")


def _is_interpolated(config: DictConfig) -> bool:
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    return any(INTERPOLATION.search(str(raw.get(key))) for key in (*SHARED_KEYS, *LANGUAGE_GROUPS))


# --- The same grid at another scale: conf/scale/NAME.yaml says which option stands for which, group by group ---
#     # conf/scale/tiny.yaml
#     optimizer: {ppo_paper: ppo_tiny}
#     judge: {llm_paper: gold, llm_paper_second: target_rm}
#
# Options are replaced wherever they come from: a preset's defaults, an axis or the command line. What the file does not
# name stays as it is, and so does which stages the cells share.

Replacing = Mapping[str, Mapping[str, str]]  # group -> option -> the option that stands for it


def at_scale(composer: Composer, request: Request) -> Request:
    """The request with its options replaced; as it is without a `scale=NAME`. ConfigError for a file that is none."""
    chosen = [line for line in request.fixed if line.lstrip("+").startswith("scale=")]
    if not chosen or chosen[-1].endswith("=null"):
        return request
    lines = [*request.fixed, *(axis.overrides[0] for axis in request.axes)]
    groups = [line for line in lines if "." not in line.partition("=")[0]]  # settings may be those of what replaces
    choices, container = composer.chosen(groups)
    replacing = _checked(composer, chosen[-1].lstrip("+"), container.get("scale"))
    fixed = [_line(line, replacing) for line in request.fixed]
    axes = [_axis(axis, replacing) for axis in request.axes]
    fixed += [axis.overrides[0] for axis in axes if len(axis.values) == 1]
    named = {line.partition("=")[0] for line in lines}
    for group, options in replacing.items():
        if group not in named and choices.get(group) in options:
            fixed.append(f"{group}={options[choices[group]]}")
    return replace(request, fixed=tuple(fixed), axes=tuple(axis for axis in axes if len(axis.values) > 1))


def _checked(composer: Composer, line: str, value: Any) -> Replacing:
    if not isinstance(value, dict) or not all(isinstance(options, dict) for options in value.values()):
        raise ConfigError(
            f"{line}: the file must hold group: {{option: the one that stands for it}}, and nothing else."
        )
    for group, options in value.items():
        if group not in PLAIN_GROUPS:
            raise ConfigError(f"{line} names '{group}', which is no group. Known: {', '.join(PLAIN_GROUPS)}.")
        known = composer.options(group)
        if unknown := sorted({*options, *options.values()} - set(known)):
            raise ConfigError(f"{line}: {group} has no option {', '.join(unknown)}. Known: {', '.join(known)}.")
    return value


def _line(line: str, replacing: Replacing) -> str:
    group, _, option = line.partition("=")
    return f"{group}={replacing.get(group, {}).get(option, option)}"


def _axis(axis: Axis, replacing: Replacing) -> Axis:
    """The axis with options replaced, each once."""
    if axis.key not in replacing:
        return axis
    options: Sequence[str] = [replacing[axis.key].get(str(value), str(value)) for value in axis.values]
    names = tuple(dict.fromkeys(options))
    return Axis(axis.key, names, tuple(f"{axis.key}={name}" for name in names))


# --- composing without Hydra's main -----------------------------------------------------------------------


def composed_task(overrides: Sequence[str]) -> tuple[str, Task, list[Language], str]:
    """(its option's name, the task, the facts of all languages in conf/lang, lid.model or an empty text).

    ConfigError for what cannot be meant.
    """
    with hydra_loader() as loader:
        return _composed(Composer(loader, "config"), overrides)


@contextmanager
def hydra_loader() -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader of conf/; what it raises as sentences."""
    conf = conf_folder()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            assert isinstance(loader, ConfigLoaderImpl)
            yield loader
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        raise sentence from error


def _composed(composer: Composer, overrides: Sequence[str]) -> tuple[str, Task, list[Language], str]:
    request = parse({}, [quoted(one) for one in overrides], composer.options)
    if request.axes:
        key = request.axes[0].key
        values = request.axes[0].values
        whole = (
            f", or {key}=[{','.join(map(str, values))}] if a list is meant" if "." in key and len(values) < 9 else ""
        )
        raise ConfigError(f"{key} has several values; one task is looked at. Type {key}={values[0]}{whole}.")
    composed = composer.compose(request.fixed)
    facts: list[dict[str, Any]] = [composer.facts("target_lang", code) for code in composer.options("target_lang")]
    task, model = checked_task(composed.container["task"]), composed.container["lid"]["model"]
    return composed.choices["task"], task, [Language(**one) for one in facts], str(model or "")
