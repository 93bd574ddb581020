"""Whole processes killed, interrupted, doubled, out of disk: nothing half-done is trusted or published."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from noop_stages import KINDS, fold, grid, stage

from xling.errors import StoreError
from xling.grid import claim
from xling.grid.local import run_local
from xling.grid.plan import make_plan
from xling.grid.stage import Cell
from xling.grid.store import Store

LAUNCH = [sys.executable, str(Path(__file__).with_name("noop_launch.py"))]
KILLS = 20


def launch(root: Path, workers: int = 2, mode: str = "retry", **special: Any) -> subprocess.Popen[str]:
    command = [*LAUNCH, str(root), str(workers), mode, json.dumps(special)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Poll until the condition gives something."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value


def claims(root: Path) -> list[claim.Claim]:
    found = (claim.read(str(path)) for path in root.glob("**/stages/*/*.claim"))
    return [one for one in found if one is not None]


def leftovers(root: Path) -> list[str]:
    return sorted(path.name[65:] for path in root.glob("stages/*/*.*"))


SLOW: dict[str, Any] = {kind: {"do": "sleep 0.03"} for kind in KINDS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fold of the grid of SLOW stages when nothing happens to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    plan = make_plan(grid(["de", "en"], ["de", "en"], **SLOW), Store(root))
    assert run_local(plan, "noop_stages:KINDS", workers=2, show=False).exit_code == 0
    return fold(root)


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_at_random_moments_and_run_again_gives_the_same_bytes(
    tmp_path: Path, workers: int, undisturbed: str
) -> None:
    moments = random.Random(workers)
    kills = finished = 0
    while kills < KILLS or not finished:
        process = launch(tmp_path / str(finished), workers, **SLOW)
        if kills < KILLS:
            try:
                process.wait(moments.uniform(0.2, 0.8))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                wait_for(lambda: not any(claim.is_alive(held.by) for held in claims(tmp_path)))
                kills += 1
        out, error = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, error
            assert json.loads(out)["fold"] == undisturbed
            assert leftovers(tmp_path / str(finished)) == []
            finished += 1
    assert not list(tmp_path.glob("*/stages/*/doubles.jsonl"))


def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    process = launch(tmp_path, base={"do": "hang 600"})
    (held,) = wait_for(lambda: claims(tmp_path))
    assert claim.holder(str(next(tmp_path.glob("stages/*/*.claim")))) is not None
    process.kill()
    process.communicate()
    path = str(next(tmp_path.glob("stages/*/*.claim")))
    wait_for(lambda: claim.holder(path) is None)
    assert held.by.pid != process.pid


def test_two_launches_at_once_share_the_work(tmp_path: Path) -> None:
    ran = tmp_path / "ran.txt"
    special: dict[str, Any] = {kind: {"do": f"count {ran}; sleep 0.1"} for kind in KINDS}
    both = [launch(tmp_path / "outputs", 2, **special) for _ in range(2)]
    outcomes = []
    for process in both:
        out, error = process.communicate()
        assert process.returncode == 0, error
        outcomes.append(json.loads(out))
    assert outcomes[0]["fold"] == outcomes[1]["fold"]
    assert sum(sum(outcome["executed"].values()) for outcome in outcomes) == 15
    lines = ran.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 15
    assert leftovers(tmp_path / "outputs") == []


def test_a_failure_in_the_other_launch_is_not_tried_again_by_the_one_that_waits(tmp_path: Path) -> None:
    ran = tmp_path / "ran.txt"
    special = {"base": {"do": f"count {ran}; sleep 1; raise no"}}
    first = launch(tmp_path / "outputs", 1, **special)
    wait_for(lambda: claims(tmp_path / "outputs"))
    second = launch(tmp_path / "outputs", 1, **special)
    for process in (first, second):
        _, error = process.communicate()
        assert process.returncode == 1 and "ValueError: no" in error
    assert len(ran.read_text(encoding="utf-8").splitlines()) == 1


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    mended = str(tmp_path / "mended")
    special = {"sft_de": {"do": "sleep 60", "unless": mended}}
    root = tmp_path / "outputs"
    process = launch(root, **special)
    wait_for(lambda: list(root.glob("stages/sft/*.partial/began")))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped by the user" in error and "not run" in error
    assert leftovers(root) == ["partial"]
    Path(mended).touch()
    process = launch(root, **special)
    assert process.communicate()[0] and process.returncode == 0
    assert leftovers(root) == []


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    process = launch(tmp_path, base={"do": "stubborn; sleep 60"})
    wait_for(lambda: list(tmp_path.glob("stages/base/*.partial/began")))
    (held,) = claims(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode not in (0, 1)
    wait_for(lambda: not claim.is_alive(held.by))
    assert leftovers(tmp_path) == ["partial"]


def test_a_stubborn_stage_does_not_outlive_the_first_ctrl_c_for_long(tmp_path: Path) -> None:
    process = launch(tmp_path, base={"do": "stubborn; sleep 60"})
    wait_for(lambda: list(tmp_path.glob("stages/base/*.partial/began")))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and leftovers(tmp_path) == ["partial"]


def test_sigterm_stops_like_ctrl_c(tmp_path: Path) -> None:
    process = launch(tmp_path, base={"do": "sleep 60"})
    wait_for(lambda: claims(tmp_path))
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM and leftovers(tmp_path) == ["partial"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no small file system can be mounted here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_costs_the_stage_and_leaves_nothing_that_is_trusted(small_disk: Path) -> None:
    root = small_disk / "outputs"
    cells = grid(["de", "en"], ["de", "en"], pool_en={"do": "fill 3000000"})
    outcome = run_local(make_plan(cells, Store(root)), "noop_stages:KINDS", workers=2, show=False)
    (failed,) = outcome.failures
    assert failed.label == "pool[en]" and "outputs' is full (No space left on device)" in failed.last
    assert outcome.cell_ends() == {"done": 2, "blocked": 2}
    plan = make_plan(cells, Store(root))
    assert [step.stage.label for step in plan.steps.values() if step.reason.startswith("failed before")] == ["pool[en]"]
    assert leftovers(root) == ["failed.json", "partial"]


def test_a_disk_that_fills_up_while_results_are_published_breaks_none_of_them(small_disk: Path) -> None:
    root = small_disk / "outputs"
    cells = [Cell({"seed": n}, stage("pool", f"pool{n}", do="fill 60000", n=n)) for n in range(30)]
    outcome = run_local(make_plan(cells, Store(root)), "noop_stages:KINDS", workers=2, show=False)
    ends = outcome.cell_ends()
    assert outcome.exit_code == 1 and ends["done"] >= 5 and ends["failed"] >= 5
    assert all("is full" in failed.last for failed in outcome.failures)
    store = Store(root)
    for what in (cell.stage for cell in cells if outcome.stages[cell.stage.key][1] == "done"):
        assert store.load("pool", what.key)
    assert len(store.listing("pool").results) == ends["done"]


def test_a_disk_that_is_full_from_the_start_is_a_sentence(small_disk: Path) -> None:
    store = Store(small_disk / "outputs")
    store.prepare()
    with open(small_disk / "ballast", "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                break
    with pytest.raises(StoreError, match=r"is full \(No space left on device\).*root=PATH"):
        run_local(make_plan(grid(["de"], ["de"]), store), "noop_stages:KINDS", show=False)


def test_a_file_beyond_the_size_limit_costs_its_stage(tmp_path: Path) -> None:
    cells = grid(["de", "en"], ["de", "en"], pool_en={"do": "fill 3000000"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        outcome = run_local(make_plan(cells, Store(tmp_path)), "noop_stages:KINDS", workers=1, show=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (failed,) = outcome.failures
    assert failed.label == "pool[en]" and "File too large" in failed.last
    assert outcome.cell_ends() == {"done": 2, "blocked": 2} and leftovers(tmp_path) == ["failed.json", "partial"]
