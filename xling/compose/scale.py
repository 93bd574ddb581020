"""The same grid at another scale: conf/scale/NAME.yaml says which option stands for which, group by group.

    # conf/scale/tiny.yaml
    optimizer: {ppo_paper: ppo_tiny}
    judge: {llm_paper: gold, llm_paper_second: target_rm}

Options are replaced wherever they come from: a preset's defaults, an axis or the command line. What the file does not
name stays as it is, and so does which stages the cells share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from xling.compose.composer import Composer
from xling.compose.overrides import PLAIN_GROUPS, Axis, Request
from xling.errors import ConfigError

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
