"""The planner benchmark works, on a grid of a size for tests; its times are asserted nowhere."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "planner.py"


def test_the_planner_benchmark_runs_every_stage_once(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--languages", "3", "--workers", "1", "--within", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "19 stages, 9 cells" in done.stdout, done.stderr
    assert "ok   every stage ran once, and none the second time" in done.stdout
    assert list(tmp_path.iterdir()) == []
