"""Around Hydra's own main: the command line before it, the errors and the exit code after it."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

import xling
from xling.compose.overrides import (
    LANGUAGE_GROUPS,
    PLAIN_GROUPS,
    PRESETS,
    SETTINGS,
    SHARED_KEYS,
    protected,
    quoted,
    typed,
)
from xling.console import harmless, lasting_output
from xling.errors import ConfigError, XlingError, did_you_mean, listed, shown
from xling.measures.language import language_hint
from xling.tasks.defaults import CAPS

REFUSED = 2  # nothing was run
LONGEST = 4000  # characters of a sentence
# Flags that make Hydra show something instead of running. Else --multirun is added, since Hydra cannot see
# that hydra.mode is MULTIRUN in a configuration that it is unable to compose.
SHOWING = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info",
           "-sc", "--shell-completion")  # fmt: skip
OPEN = ("hydra.launcher.stages.", "hydra.launcher.cpu.", "hydra.launcher.additional_parameters.")
RUNNING = ("-m", "--multirun", "-r", "--run")
# Groups that the configuration has: `+` adds nothing.
THERE = (*PRESETS, "scale", *LANGUAGE_GROUPS, *PLAIN_GROUPS)
INNER = ("hydra/launcher", "judge/rm_backbone")  # groups in groups
# Settings of Hydra's own for a folder and a number a job, which nothing here would read.
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir")
NUMBERS = ("hydra.job.num", "hydra.job.id", "hydra.job.name")
OTHER_LAUNCHERS = {"submitit": "slurm", "joblib": "local", "ray": "local", "rq": "local"}  # by how they begin
INSTEAD = {  # of settings that the submitit launcher plugin has besides
    "hydra.launcher.submitit_folder": "scripts and logs of jobs are kept beside the grid's results, in "
    "<root>/grids/<name>/slurm/. Type root=PATH.",
    "hydra.launcher.stderr_to_stdout": "what a stage prints, to either, is one log, `xling logs`. Leave it out.",
}


def run(main: Callable[[], Any]) -> int:
    """Call `main`, decorated by hydra.main, on sys.argv; errors become one sentence. Gives the exit code."""
    lasting_output()
    typed = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own switch: let exceptions through rather than print them
    try:
        sys.argv[1:] = _arguments(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        sentence = None if typed == "1" else explain(error)
        if sentence is None:
            raise
        print(harmless(f"xling: {_cut(str(sentence))}"), file=sys.stderr)
        return REFUSED if sentence.refused else 1
    finally:  # a caller that goes on, and its children, have the setting that was typed
        os.environ.pop("HYDRA_FULL_ERROR")
        if typed is not None:
            os.environ["HYDRA_FULL_ERROR"] = typed
    return 0


def launch(arguments: Sequence[str]) -> int:
    """`xling run ARGUMENTS`, which is `python launch.py ARGUMENTS` from anywhere. Gives the exit code."""
    from hydra import main

    def task(_: Any) -> None:
        """Hydra's entry. Never called itself: hydra.mode is MULTIRUN, hydra_plugins/ does the work."""

    task.__module__ = "xling"  # Hydra names the program by it: "xling is powered by Hydra"
    sys.argv = ["xling run", *arguments]
    return run(main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(task))


def conf_folder() -> Path:
    """The configuration: in the installed package, or beside it in a checkout. ConfigError if it is in neither."""
    package = Path(xling.__file__).parent.absolute()
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").exists():
            return folder
    raise ConfigError(
        f"xling's configuration, conf/, is neither in {package} nor beside it. Install it anew: type `pip install .` "
        "in the checkout."
    )


def _cut(sentence: str) -> str:
    """Both ends of what is too long to be read: what is wrong, and what to type."""
    return sentence if len(sentence) <= LONGEST else f"{sentence[: LONGEST // 2]} ... {sentence[-LONGEST // 2 :]}"


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments as overrides that Hydra's grammar can read. ConfigError for flags."""
    prepared = _arguments(arguments)
    if flags := [argument for argument in arguments if argument.startswith("-") and argument not in RUNNING]:
        raise ConfigError(f"{shown(flags[0])} is a flag of the command line: here only settings are taken.")
    return prepared[1:]  # without --multirun


def _arguments(arguments: Sequence[str]) -> list[str]:
    rerun = "--experimental-rerun"
    flags = [argument.partition("=")[0] for argument in arguments]
    # Hydra's parser takes any beginning of it that no other flag has.
    if any(flag.startswith(rerun) or (len(flag) > 2 and rerun.startswith(flag)) for flag in flags):
        raise ConfigError(
            "--experimental-rerun unpickles the file it is given, which can run any code, and a grid needs none: the "
            "same command again goes on where it stopped."
        )
    for argument in arguments:
        if "\0" in argument or any("\ud800" <= character <= "\udfff" for character in argument):
            raise ConfigError(f"{shown(argument)} is no text: it has bytes that are no UTF-8. Type it in UTF-8.")
        _refuse_jobs(argument)
        flag, equals, value = argument.partition("=")
        setting = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and setting in (*SETTINGS, *SHARED_KEYS, *LANGUAGE_GROUPS):
            said = value if equals else "true" if setting in ("dry_run", "controls") else "VALUE"
            raise ConfigError(f"{shown(argument)}: settings have no dashes before them. Type {setting}={said}.")
    if any(argument.partition("=")[0] in SHOWING for argument in arguments):
        return [argument for argument in map(_addable, arguments) if argument not in RUNNING]
    return ["--multirun", *(protected(quoted(_addable(a))) for a in arguments if a not in RUNNING)]


def _refuse_jobs(argument: str) -> None:
    """ConfigError for what speaks of Hydra's jobs: cells are not run one by one in folders of their own."""
    key, _, value = argument.partition("=")
    if (said := INSTEAD.get(key.lstrip("+~"))) is not None:
        raise ConfigError(f"{shown(argument)}: {said}")
    if key.lstrip("+~") in FOLDERS:
        raise ConfigError(
            f"{shown(argument)}: there is no folder a job. All results lie below root=PATH, and the grid's own in "
            "PATH/grids/NAME with name=NAME. Type these."
        )
    if key.lstrip("+~") in NUMBERS or re.search(r"\$\{hydra[.:]job\.", value):
        raise ConfigError(
            f"{shown(argument)}: cells are no numbered jobs; they are told apart by their axes. Type name=NAME for the "
            "grid's name, seed=0,1,2 for seeds."
        )


def _addable(argument: str) -> str:
    """Settings by free names (kinds of stages, options of sbatch) need no `+` of Hydra's, and groups are there."""
    key = argument.partition("=")[0]
    if key.startswith("+") and key.lstrip("+") in THERE:
        return argument.lstrip("+")
    return f"++{argument}" if argument.startswith(OPEN) else argument


# --- Hydra's exceptions as sentences: what was wrong, the value, what is allowed, the override to type ----

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
    if merged := re.match(r"Error merging override (.*)", str(error), re.DOTALL):
        key = merged[1].lstrip("+").partition("=")[0]
        return ConfigError(
            f"{shown(merged[1])} does not fit: {key} is of another kind (a value, a list, or settings of its own). "
            f"Leave it out, or see what it has: --cfg job --package {key}."
        )
    if "does not have a `_target_` field" in str(error):
        return ConfigError(
            "hydra.launcher and hydra.sweeper are chosen by name. Type hydra/launcher=slurm, or leave it out."
        )
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
    if group == "hydra/launcher" and (ours := OTHER_LAUNCHERS.get(option.partition("_")[0])):
        ours = "local" if option.endswith("_local") else ours
        return (
            f"All cells are one plan, so that xling has launchers of its own. In place of {option} type {group}={ours}."
        )
    if group in WITHOUT and option.lower() in ("off", "no", "none", "false"):
        return f"{group}={option} is unknown. For none type {WITHOUT[group]}. Allowed besides: {allowed}."
    return f"Unknown option '{option}' for {group}. Allowed: {allowed}.{did_you_mean(option, options)}"


def _unreadable(error: OverrideParseException) -> str:
    typed_in = _one_line(typed(error.override))
    reason = _one_line(str(error)).removeprefix(f"Error parsing override '{_one_line(error.override)}' ")
    key, equals, value = typed_in.partition("=")
    if not equals:
        return f"Cannot read '{typed_in}': {reason}. Overrides have the form key=value, without spaces around the '='."
    if value.endswith(",") and "'<EOF>'" in reason:  # of `source_lang=de, tr` the shell makes two words
        return f"Cannot read '{typed_in}': nothing follows the comma. Lists have no spaces: {key}=VALUE,VALUE."
    text = (
        "" if set(value) & set("\"'") else f" A text with such characters has quotes of its own: \"{key}='{value}'\"."
    )
    return (
        f"Cannot read '{typed_in}': {reason}. Overrides have the form key=value; "
        f"quote what the shell would change, as in target_lang='glob(*)'.{text}"
    )


SIZES = (
    "the embedded world in task.demonstrations, ratings, pairs, validation and test_prompts, a release with recorded "
    "responses in task.documents"
)


def lacking(
    error: BaseException, overrides: Sequence[str], having: Callable[[str], tuple[str, Sequence[str]]]
) -> str | None:
    """The sentence for a setting that the option of its group has not, and which options have it; None for others.

    overrides: may name the option. having: a setting's whole key -> (its group, names of the options that have it).
    """
    for link in _chain(error):
        if isinstance(link, (ConfigAttributeError, ConfigKeyError)):
            chosen = [line for line in overrides if _holds(line.partition("=")[0], str(link.full_key))]
            option = max(reversed(chosen), key=lambda line: line.count("/")) if chosen else ""
            group, options = having(str(link.full_key))
            if options:
                return _of_others(link, option, group, options)
            return _unknown_key(link, option) if option else None
    return None


def _of_others(error: OmegaConfBaseException, option: str, group: str, options: Sequence[str]) -> str:
    """`option`: the choice that has no such setting, where one was typed."""
    key, known = str(error.full_key), _known(error)
    which = f"{group}={options[0]} has it" if len(options) == 1 else f"{group}= one of {listed(options)} have it"
    size = f" What else has a size says so itself: {SIZES}." if key.rpartition(".")[2] in CAPS else ""
    if option:
        return f"Unknown key '{key}': {option} has none, only {which}.{size}{_beside(key, known)}"
    return f"Unknown key '{key}' of the {group} that is chosen: only {which}. Type that, too.{size}"


def _holds(group: str, key: str) -> bool:
    """Whether a setting is one of a group (judge/rm_backbone), so that an option of it was to have it."""
    return group.partition("/")[0] in PLAIN_GROUPS and key.startswith(f"{group.replace('/', '.')}.")


def _unknown_key(error: OmegaConfBaseException, option: str = "") -> str:
    """`option`: the choice (`rm_backbone=frozen_lm`) that has no such setting."""
    key, known = str(error.full_key), _known(error)
    known = list(INNER) if "/" in key else known if "." in key else sorted([*known, *PRESETS])
    here = key.startswith("hydra.launcher.") and "hydra.launcher.workers" in known
    cluster = " A cluster's come with hydra/launcher=slurm, which must be typed, too." if here else ""
    return f"Unknown key '{key}'{f': {option} has none' if option else ''}.{nearest_key(key, known)}{cluster}"


def _known(error: OmegaConfBaseException) -> list[str]:
    """All keys that there are where one was not."""
    root = error.parent_node._get_root() if error.parent_node is not None else None
    return sorted(_paths(root, str(error.full_key).startswith("hydra."))) if isinstance(root, DictConfig) else []


def nearest_key(key: str, known: list[str]) -> str:
    """A suggestion by likeness or by the path's last part (`n` for policy.n), and the key's neighbours."""
    parent, _, leaf = key.rpartition(".")
    siblings = _siblings(key, known)
    alike = [path for path in known if did_you_mean(leaf, [path.rpartition(".")[2]])]  # not for a parent in common
    suggestion = did_you_mean(key, [path for path in siblings if path in alike]) or did_you_mean(key, alike)
    if starting := [path for path in known if path.rpartition(".")[2].startswith(f"{leaf}_")]:
        near = [path for path in starting if path.partition(".")[0] == key.partition(".")[0]]
        suggestion = f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else suggestion
    same_leaf = [path for path in known if path.rpartition(".")[2] == leaf]
    below = [path for path in same_leaf if path.startswith(f"{parent}.")] if parent else same_leaf
    if named := below or ([] if suggestion else same_leaf):  # of other groups where nothing is more like it
        suggestion = f" Did you mean {' or '.join(map(repr, named[:3]))}?"
    return suggestion + _beside(key, known)


def _siblings(key: str, known: Sequence[str]) -> list[str]:
    return [path for path in known if path.rpartition(".")[0] == key.rpartition(".")[0]]


def _beside(key: str, known: Sequence[str]) -> str:
    """The key's neighbours."""
    parent, siblings = key.rpartition(".")[0], _siblings(key, known)
    beside = f" Known{f' below {parent}' if parent else ''}: {', '.join(p.rpartition('.')[2] for p in siblings)}."
    return beside if siblings else ""


def _paths(node: DictConfig, with_hydra: bool, prefix: str = "") -> Iterator[str]:
    for key in node:
        if (key == "hydra" and not prefix) and not with_hydra:
            continue
        path = prefix + str(key)
        yield path
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _paths(child, with_hydra, f"{path}.")
