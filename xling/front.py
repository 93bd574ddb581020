"""Around Hydra's own main: the command line before it, the errors and the exit code after it."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from xling.console import harmless, lasting_output
from xling.errors import ConfigError
from xling.grid.hydra_errors import explain
from xling.grid.overrides import protected

REFUSED = 2  # nothing was run
# Flags that make Hydra show something instead of running. Else --multirun is added, since Hydra cannot see
# that hydra.mode is MULTIRUN in a configuration that it is unable to compose.
SHOWING = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info",
           "-sc", "--shell-completion")  # fmt: skip
OPEN = ("hydra.launcher.stages.", "hydra.launcher.additional_parameters.")
RUNNING = ("-m", "--multirun", "-r", "--run")


def run(main: Callable[[], Any]) -> int:
    """Call `main`, decorated by hydra.main, on sys.argv; errors become one sentence. Gives the exit code."""
    lasting_output()
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own switch: let exceptions through rather than print them
    try:
        sys.argv[1:] = _arguments(sys.argv[1:])
        main()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        sentence = None if full_error else explain(error)
        if sentence is None:
            raise
        print(harmless(f"xling: {sentence}"), file=sys.stderr)
        return REFUSED if isinstance(sentence, ConfigError) else 1
    return 0


def _arguments(arguments: Sequence[str]) -> list[str]:
    if any(argument.partition("=")[0] in SHOWING for argument in arguments):
        return list(arguments)
    return ["--multirun", *(_addable(protected(argument)) for argument in arguments if argument not in RUNNING)]


def _addable(argument: str) -> str:
    """Settings by free names (kinds of stages, options of sbatch) need no `+` of Hydra's; `scale` is there already."""
    if argument.startswith("+scale="):
        return argument[1:]
    return f"++{argument}" if argument.startswith(OPEN) else argument
