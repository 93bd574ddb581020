"""make nightly: the embedded 2x2 grid with real models, killed at random moments and resumed, gives the same bytes."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xling.models.hub import BASE_FOLDER

LAUNCH = Path(__file__).parent.parent / "launch.py"
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not (BASE_FOLDER / "recipe.json").exists(), reason="no micro base: run make base"),
]


def command(root: Path, workers: int) -> list[str]:
    return [
        sys.executable,
        str(LAUNCH),
        "sweeps=demo",
        f"root={root}",
        "tracking.mode=off",
        f"hydra.launcher.workers={workers}",
    ]


def undisturbed(root: Path, workers: int) -> bytes:
    subprocess.run(command(root, workers), check=True, capture_output=True)
    return (root / "grids" / "demo" / "matrix.csv").read_bytes()


def test_killed_and_resumed_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "once", workers=2)
    root, moments = tmp_path / "killed", random.Random(0)
    for _ in range(20):
        run = subprocess.Popen(
            command(root, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            run.wait(timeout=moments.uniform(2, 30))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert undisturbed(root, workers=2) == expected


def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path) -> None:
    assert undisturbed(tmp_path / "one", workers=1) == undisturbed(tmp_path / "three", workers=3)
