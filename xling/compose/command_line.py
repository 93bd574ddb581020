"""Around Hydra's own main: the command line before it, the errors and the exit code after it."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xling
from xling.compose.composer import SETTINGS, SHARED_KEYS
from xling.compose.hydra_errors import explain
from xling.compose.overrides import LANGUAGE_GROUPS, protected, quoted
from xling.console import harmless, lasting_output
from xling.errors import ConfigError, shown

REFUSED = 2  # nothing was run
LONGEST = 4000  # characters of a sentence
# Flags that make Hydra show something instead of running. Else --multirun is added, since Hydra cannot see
# that hydra.mode is MULTIRUN in a configuration that it is unable to compose.
SHOWING = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info",
           "-sc", "--shell-completion")  # fmt: skip
OPEN = ("hydra.launcher.stages.", "hydra.launcher.additional_parameters.")
RUNNING = ("-m", "--multirun", "-r", "--run")


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


def _arguments(arguments: Sequence[str]) -> list[str]:
    if any(argument.startswith("--experimental-rerun") for argument in arguments):
        raise ConfigError(
            "--experimental-rerun unpickles the file it is given, which can run any code, and a grid needs none: the "
            "same command again goes on where it stopped."
        )
    for argument in arguments:
        if "\0" in argument or any("\ud800" <= character <= "\udfff" for character in argument):
            raise ConfigError(f"{shown(argument)} is no text: it has bytes that are no UTF-8. Type it in UTF-8.")
        flag, equals, value = argument.partition("=")
        setting = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and setting in (*SETTINGS, *SHARED_KEYS, *LANGUAGE_GROUPS):
            said = value if equals else "true" if setting in ("dry_run", "controls") else "VALUE"
            raise ConfigError(f"{shown(argument)}: settings have no dashes before them. Type {setting}={said}.")
    if any(argument.partition("=")[0] in SHOWING for argument in arguments):
        return list(arguments)
    return ["--multirun", *(_addable(protected(quoted(a))) for a in arguments if a not in RUNNING)]


def _addable(argument: str) -> str:
    """Settings by free names (kinds of stages, options of sbatch) need no `+` of Hydra's; `scale` is there already."""
    if argument.startswith("+scale="):
        return argument[1:]
    return f"++{argument}" if argument.startswith(OPEN) else argument
