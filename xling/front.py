"""Around Hydra's own main: the command line before it, the errors and the exit code after it."""

import os
import sys
from collections.abc import Callable
from typing import Any

from xling.errors import ConfigError
from xling.grid.hydra_errors import explain
from xling.grid.overrides import protected

REFUSED = 2  # nothing was run
# Flags that make Hydra show something instead of running; the rest runs the sweeper, also when Hydra, unable to
# compose the configuration, cannot see that hydra.mode is MULTIRUN.
SHOWING = ("-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion", "--version")


def run(main: Callable[[], Any]) -> int:
    """Call `main`, decorated by hydra.main, on sys.argv; errors become one sentence. Returns the exit code."""
    if not any(argument.split("=")[0] in SHOWING for argument in sys.argv[1:]):
        arguments = [argument for argument in sys.argv[1:] if argument not in ("-m", "--multirun", "-r", "--run")]
        sys.argv[1:] = ["--multirun", *map(protected, arguments)]
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's own switch: let exceptions through rather than print them
    try:
        main()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        sentence = None if full_error else explain(error)
        if sentence is None:
            raise
        print(f"xling: {sentence}", file=sys.stderr)
        return REFUSED if isinstance(sentence, ConfigError) else 1
    return 0
