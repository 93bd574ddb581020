"""Results never depend on the display: closed pipes, full disks, closed descriptors, terminals without UTF-8."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = [sys.executable, str(ROOT / "launch.py"), "hydra.launcher.catalogue=toy_stages", "hydra.launcher.workers=1",
          "source_lang=en", "target_lang=en", "name=g"]  # fmt: skip
XLING = [sys.executable, "-m", "xling"]
PATH = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def shell(command: list[str], redirection: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command redirection`, by a shell that gives the command's own exit code."""
    line = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", line, "bash", *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PATH, "WANDB_MODE": "offline", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


WAYS = {
    "stderr full": ("2>/dev/full", {}),
    "stdout full": (">/dev/full", {}),
    "both read by head": ("2>&1 | head -1", {}),
    "all closed": ("<&- >&- 2>&-", {}),
    "ascii": ("", ASCII),
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=FULL if "full" in way else ()) for way in WAYS])
def test_a_grid_is_filled_whatever_becomes_of_what_it_says(way: str, tmp_path: Path) -> None:
    redirection, environment = WAYS[way]
    asked = ["tracking.mode=offline"] if way == "stdout full" else ["tracking.mode=off"]
    ended = shell([*LAUNCH, *asked], redirection, tmp_path, **environment)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr and "Error" not in ended.stderr
    lines = (tmp_path / "outputs" / "grids" / "g" / "matrix.csv").read_text().splitlines()
    assert len(lines) == 2 and ",done," in lines[1]
    if asked == ["tracking.mode=offline"]:  # W&B comes after the table that could not be printed
        assert list(tmp_path.glob("outputs/tracking/wandb/offline-run-*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the toy grid in it; a failed cell too."""
    folder = tmp_path_factory.mktemp("finished")
    assert shell([*LAUNCH, "tracking.mode=off"], "", folder).returncode == 0
    return folder


@FULL
def test_the_exit_code_is_that_of_the_cells(finished: Path) -> None:
    """A failing cell is 1, and a refusal 2, also where nobody can read so."""
    behaviour = finished / "behaviour.json"
    behaviour.write_text(json.dumps({"judge": "raise no"}))
    failing = [*LAUNCH, "seed=5", "tracking.mode=off"]
    assert shell(failing, ">/dev/full 2>&1", finished, TOY_BEHAVIOUR=str(behaviour)).returncode == 1
    assert shell([*LAUNCH, "sede=5"], ">/dev/full 2>&1", finished).returncode == 2
    assert shell([*XLING, "status", "nothing"], ">/dev/full 2>&1", finished).returncode == 2


@pytest.mark.parametrize("command", [["status", "--all"], ["logs", "0"], ["report"], ["gc"]])
def test_a_closed_pipe_is_quiet(finished: Path, command: list[str]) -> None:
    ended = shell([*XLING, *command], "| true", finished)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr


def test_a_log_is_not_followed_for_somebody_who_has_left(finished: Path) -> None:
    """The stage's claim is this process's, so that it would run for as long as this test does."""
    from xling.grid import claim, host
    from xling.grid.grids import read_grid
    from xling.grid.store import Store

    store = Store(finished / "outputs")
    stage = read_grid(store, "g").stages[0]
    path = store.beside(stage.kind, stage.key, ".claim")
    assert claim.take(path, host.this_process()) is None
    try:
        ended = shell([*XLING, "logs", "--follow", "0"], "| true", finished)
    finally:
        claim.release(path, host.this_process())
    assert "Traceback" not in ended.stderr and ended.returncode in (0, 1)


def test_what_the_terminal_lacks_is_replaced_and_json_for_programs_is_not() -> None:
    code = "from xling.console import *; lasting_output(); print_bytes('\\xfc'.encode()); print('\\xfc\\ud800')"
    for environment, expected in ((ASCII, b"\xc3\xbc??\n"), ({"PYTHONIOENCODING": "utf-8"}, b"\xc3\xbc\xc3\xbc?\n")):
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": PATH, **environment}, capture_output=True)
        assert (ended.stdout, ended.stderr) == (expected, b"")
