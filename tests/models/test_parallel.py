"""Two processes train what one trains: by DDP and by FSDP2, stopped and gone on with in another number of processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from in_processes import CASES, STEPS, name_of

STOP = 5  # between two checkpoints
NAMES = [name_of(case) for case in CASES]
SCRIPT = Path(__file__).with_name("in_processes.py")
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run(folder: Path, processes: int, *runs: str) -> None:
    command = [sys.executable, *(TOGETHER if processes > 1 else ()), str(SCRIPT), str(folder), *runs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By name of a run: undisturbed in one and in two processes; stopped in two and gone on with in one."""
    folder = tmp_path_factory.mktemp("processes")
    run(folder, 2, "two", f"stopped=scratch={STOP}")
    run(folder, 1, "one", "gone_on=scratch")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    assert set(found.pop("stopped").values()) == {None}
    return found


@pytest.mark.parametrize("runs", ["two", "gone_on"])
@pytest.mark.parametrize("case", NAMES)
def test_several_processes_train_what_one_does(results: dict[str, dict[str, Any]], case: str, runs: str) -> None:
    """Sums are taken in another order: equal to 1e-5; what the models say is the same."""
    one, other = results["one"][case], results[runs][case]
    assert other["losses"] == pytest.approx(one["losses"], rel=1e-5) and len(one["losses"]) == STEPS
    assert other["validation"] == pytest.approx(one["validation"], rel=1e-5)
    assert other["weights"] == pytest.approx(one["weights"], rel=1e-6)
    assert other["said"][-1:] == one["said"][-1:]
    assert one["validation"][-1] < one["validation"][0]
    assert other["whole beside blocks"] == (runs == "gone_on" or " ddp " in case)


@pytest.mark.parametrize("case", NAMES)
def test_what_goes_on_makes_the_steps_that_are_left(results: dict[str, dict[str, Any]], case: str) -> None:
    assert results["gone_on"][case]["steps"] == STEPS - STOP
