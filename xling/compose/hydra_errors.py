"""Hydra's exceptions as sentences: what was wrong, the value, what is allowed, the override to type."""

import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
import omegaconf
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from xling.compose.overrides import LANGUAGE_GROUPS, PLAIN_GROUPS, typed
from xling.errors import ConfigError, XlingError, did_you_mean, listed, shown
from xling.measures.language import language_hint

BARE_NO = (
    'YAML reads a bare no, off, yes or on as true or false. Quote it in the file, as in source_lang: "no"; '
    "on the command line source_lang=no is right as it is."
)


WITHOUT = {"translator": "translator=null", "sft": "sft.steps=0"}  # what is typed for none of a group
LEAVE_OUT = "Leave out what it speaks of: a run needs only what README.md lists."


def explain(error: BaseException) -> XlingError | None:
    """The sentence for an exception that came out of Hydra; None for one that is not about the request."""
    for link in _chain(error):
        if isinstance(link, XlingError):
            return link
    if isinstance(error, MissingConfigException):
        return ConfigError(_unknown_option(error))
    if isinstance(error, OverrideParseException):
        return ConfigError(_unreadable(error))
    for link in _chain(error):
        if isinstance(link, (ConfigAttributeError, ConfigKeyError)):
            return ConfigError(_unknown_key(link))
    if isinstance(error, ValueError) and "Unsupported item value in defaults" in str(error):
        return ConfigError(f"{error}. {BARE_NO}")
    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        value = _typed_by(error)
        return ConfigError(f"{value}{error}. A group takes the name of one of its files, as in judge=gold.")
    if no_match := re.match(r"Could not override '(.*)'. No match in the defaults list", str(error)):
        likely = [group for group in (*LANGUAGE_GROUPS, *PLAIN_GROUPS) if no_match[1] in group]
        hint = f" Did you mean {' or '.join(map(repr, likely))}?" if likely else ""
        return ConfigError(f"'{no_match[1]}' is a folder of conf/ but no setting.{hint}")
    if isinstance(error, (HydraException, OmegaConfBaseException, YAMLError)):
        return ConfigError(_one_line(str(error) or str(error.__cause__)))
    if _raised_in_hydra(error):
        reason = _one_line(str(error)) or type(error).__name__
        return ConfigError(f"{_typed_by(error)}Hydra cannot read the command line: {reason.rstrip('.')}. {LEAVE_OUT}")
    return None


def _raised_in_hydra(error: BaseException) -> bool:
    """Raised by Hydra's or OmegaConf's own code about what was typed, and by no code that they called."""
    frames = traceback.extract_tb(error.__traceback__)
    folders = [str(Path(module.__file__ or "").parent) + os.sep for module in (hydra, omegaconf)]
    return bool(frames) and frames[-1].filename.startswith(tuple(folders))


def _typed_by(error: BaseException) -> str:
    """`judge=2: `, the override that Hydra was at when it failed; nothing where no frame of it says."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        override = frame.f_locals.get("override")
        if isinstance(override, Override) and override.input_line:
            return f"{shown(typed(override.input_line))}: "
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("See https"))


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return _one_line(str(error))
    options = list(error.options or [])
    if group in ("source_lang", "target_lang"):
        known = f"Known (conf/lang): {', '.join(options)}."
        return f"Unknown language '{option}' for {group}. {known}{language_hint(option, options)}"
    allowed = ", ".join(options) or "none"
    if group in WITHOUT and option.lower() in ("off", "no", "none", "false"):
        return f"{group}={option} is unknown. For none type {WITHOUT[group]}. Allowed besides: {allowed}."
    return f"Unknown option '{option}' for {group}. Allowed: {allowed}.{did_you_mean(option, options)}"


def _unreadable(error: OverrideParseException) -> str:
    typed_in = _one_line(typed(error.override))
    reason = _one_line(str(error)).removeprefix(f"Error parsing override '{_one_line(error.override)}' ")
    key, equals, value = typed_in.partition("=")
    if not equals:
        return f"Cannot read '{typed_in}': {reason}. Overrides have the form key=value, without spaces around the '='."
    text = (
        "" if set(value) & set("\"'") else f" A text with such characters has quotes of its own: \"{key}='{value}'\"."
    )
    return (
        f"Cannot read '{typed_in}': {reason}. Overrides have the form key=value; "
        f"quote what the shell would change, as in target_lang='glob(*)'.{text}"
    )


def lacking(error: BaseException, overrides: Sequence[str]) -> str | None:
    """The sentence for a setting that the option named in `overrides` has not; None for any other error."""
    for link in _chain(error):
        if isinstance(link, (ConfigAttributeError, ConfigKeyError)):
            chosen = [line for line in overrides if _holds(line.partition("=")[0], str(link.full_key))]
            return _unknown_key(link, max(reversed(chosen), key=lambda line: line.count("/"))) if chosen else None
    return None


def elsewhere(error: BaseException, having: Callable[[str, str], Sequence[str]]) -> str | None:
    """The sentence for a setting of another option than the group's default; None for any other error.

    having: names of the options of a group that have a setting.
    """
    for link in _chain(error):
        if isinstance(link, (ConfigAttributeError, ConfigKeyError)):
            group, _, setting = str(link.full_key).rpartition(".")
            if group not in PLAIN_GROUPS or not (options := having(group, setting)):
                return None
            which = f"{group}={options[0]}" if len(options) == 1 else f"{group}= one of {listed(options)}"
            only = "has it" if len(options) == 1 else "have it"
            return f"Unknown key '{link.full_key}' of the {group} that is chosen: only {which} {only}. Type that, too."
    return None


def _holds(group: str, key: str) -> bool:
    """Whether a setting is one of a group (judge/rm_backbone), so that an option of it was to have it."""
    return group.partition("/")[0] in PLAIN_GROUPS and key.startswith(f"{group.replace('/', '.')}.")


def _unknown_key(error: OmegaConfBaseException, option: str = "") -> str:
    """`option`: the choice (`rm_backbone=frozen_lm`) that has no such setting."""
    key = str(error.full_key)
    root = error.parent_node._get_root() if error.parent_node is not None else None
    known = sorted(_paths(root, key.startswith("hydra"))) if isinstance(root, DictConfig) else []
    return f"Unknown key '{key}'{f': {option} has none' if option else ''}.{nearest_key(key, known)}"


def nearest_key(key: str, known: list[str]) -> str:
    """A suggestion by likeness or by the path's last part (`n` for policy.n), and the key's neighbours."""
    parent, _, leaf = key.rpartition(".")
    siblings = [path for path in known if path.rpartition(".")[0] == parent]
    alike = [path for path in known if did_you_mean(leaf, [path.rpartition(".")[2]])]  # not for a parent in common
    suggestion = did_you_mean(key, [path for path in siblings if path in alike]) or did_you_mean(key, alike)
    if starting := [path for path in known if path.rpartition(".")[2].startswith(f"{leaf}_")]:
        near = [path for path in starting if path.partition(".")[0] == key.partition(".")[0]]
        suggestion = f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else suggestion
    same_leaf = [path for path in known if path.rpartition(".")[2] == leaf]
    same_leaf = [path for path in same_leaf if path.startswith(f"{parent}.")] if parent else same_leaf
    if same_leaf:
        suggestion = f" Did you mean {' or '.join(repr(path) for path in same_leaf[:3])}?"
    beside = f" Known{f' below {parent}' if parent else ''}: {', '.join(p.rpartition('.')[2] for p in siblings)}."
    return suggestion + (beside if siblings else "")


def _paths(node: DictConfig, with_hydra: bool, prefix: str = "") -> Iterator[str]:
    for key in node:
        if (key == "hydra" and not prefix) and not with_hydra:
            continue
        path = prefix + str(key)
        yield path
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _paths(child, with_hydra, f"{path}.")
