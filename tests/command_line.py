"""`python launch.py ...` in this process, from sys.argv to the exit code: a tenth of the time of one of its own.

python tests/command_line.py < COMMANDS (JSON: lists of arguments)      prints what `called` gives for each of them
"""

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

LAUNCH = str(Path(__file__).parents[1] / "launch.py")


def called(command: list[str]) -> tuple[int | str | None, str, str]:
    """(exit code, what was printed, what was said) of `python launch.py COMMAND` in the working directory."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    code: int | str | None
    GlobalHydra.instance().clear()
    sys.argv = [LAUNCH, *command]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(LAUNCH, run_name="__main__")
        raise AssertionError("launch.py ends with its exit code")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    assert "HYDRA_FULL_ERROR" not in os.environ  # or all later tests' processes would print tracebacks
    return code, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    print(json.dumps([called(command) for command in json.load(sys.stdin)]))
