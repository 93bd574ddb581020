"""Whole processes killed, interrupted, doubled, out of disk: nothing half-done is trusted or published."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from noop_stages import KINDS, executed, fold, grid, stage

from xling.errors import StoreError
from xling.grid import claim, host
from xling.grid.files import matching
from xling.grid.host import Process
from xling.grid.plan import make_plan
from xling.grid.stage import Cell
from xling.grid.store import Store

LAUNCH = [sys.executable, str(Path(__file__).with_name("noop_launch.py"))]
KILLS = 24


def launch(
    root: Path, workers: int = 2, mode: str = "retry", before: Sequence[str] = (), timeout: float = 180, **special: Any
) -> subprocess.Popen[str]:
    """In a process of its own; before: a command to start it with."""
    command = [*before, *LAUNCH, str(root), str(workers), mode, json.dumps(special), str(timeout)]
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
    found = (claim.read(str(path)) for path in matching(root, "stages/*/*.claim"))
    return [one for one in found if one is not None]


def leftovers(root: Path) -> list[str]:
    return sorted(path.name[65:] for path in root.glob("stages/*/*.*"))


SLOW: dict[str, Any] = {kind: {"do": "sleep 0.03"} for kind in KINDS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fold of the grid of SLOW stages when nothing happens to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert executed(root, grid(["de", "en"], ["de", "en"], **SLOW)).exit_code == 0
    return fold(root)


def test_killed_at_random_moments_and_run_again_gives_the_same_bytes(tmp_path: Path, undisturbed: str) -> None:
    moments = random.Random(1)
    kills = finished = 0
    while kills < KILLS or not finished:
        root = tmp_path / str(finished)
        process = launch(root, moments.choice((1, 3)), **SLOW)
        if kills < KILLS:
            try:
                process.wait(moments.uniform(0.2, 0.8))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                wait_for(lambda root=root: not any(claim.is_alive(held.by) for held in claims(root)))
                kills += 1
        out, error = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, error
            assert json.loads(out)["fold"] == undisturbed
            assert leftovers(root) == []
            finished += 1
    assert not list(tmp_path.glob("*/stages/*/doubles.jsonl"))


def test_a_failure_in_the_other_launch_is_not_tried_again_by_the_one_that_waits(tmp_path: Path) -> None:
    ran, go = tmp_path / "ran.txt", tmp_path / "go"
    special = {"base": {"do": f"count {ran}; until {go}; raise no"}}
    first = launch(tmp_path / "outputs", 1, **special)
    wait_for(lambda: claims(tmp_path / "outputs"))
    second = launch(tmp_path / "outputs", 1, **special)
    assert second.stderr is not None
    said = second.stderr.readline()
    assert re.match(rf"base: waiting for {host.hostname()} \(pid \d+\), at it since .* `kill \d+` ends it\.", said)
    go.touch()
    for process in (first, second):
        _, error = process.communicate()
        assert process.returncode == 1 and "ValueError: no" in error
    assert len(ran.read_text(encoding="utf-8").splitlines()) == 1


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    mended = str(tmp_path / "mended")
    special = {"sft_de": {"do": "sleep 60", "unless": mended}}
    root = tmp_path / "outputs"
    process = launch(root, **special)
    wait_for(lambda: matching(root, "stages/sft/*.partial/*/began"))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped by the user" in error and "not run" in error
    assert leftovers(root) == ["partial"]
    Path(mended).touch()
    process = launch(root, **special)
    assert process.communicate()[0] and process.returncode == 0
    assert leftovers(root) == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_stubborn_stage_does_not_outlive_ctrl_c_for_long(tmp_path: Path, times: int) -> None:
    process = launch(tmp_path, base={"do": "stubborn; sleep 60"})
    wait_for(lambda: matching(tmp_path, "stages/base/*.partial/*/began"))
    (held,) = claims(tmp_path)
    for _ in range(times):  # the second one stops at once
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    process.communicate(timeout=30)
    assert process.returncode == 130 if times == 1 else process.returncode not in (0, 1)
    wait_for(lambda: not claim.is_alive(held.by))
    assert leftovers(tmp_path) == ["partial"]


# --- nothing outlives a launch ----------------------------------------------------------------------------


def pids(root: Path) -> list[int]:
    """Of what stages have spawned."""
    path = root / "pids"
    return [int(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def living(root: Path) -> list[int]:
    return [pid for pid in pids(root) if host.start_of(pid)]


SPAWN = "spawn child; spawn session; spawn daemon; spawn ignores"


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_all_descendants_end_with_the_launch(tmp_path: Path, how: str) -> None:
    process = launch(tmp_path, workers=1, base={"do": f"{SPAWN}; sleep 60"})
    wait_for(lambda: len(pids(tmp_path)) == 4)
    (held,) = claims(tmp_path)
    assert len(living(tmp_path)) == 4
    process.send_signal(getattr(signal, how))
    process.communicate(timeout=30)
    number = getattr(signal, how)
    assert process.returncode == (-number if how == "SIGKILL" else 128 + number)
    wait_for(lambda: not living(tmp_path) and not claim.is_alive(held.by), 10)
    if how != "SIGKILL":
        assert leftovers(tmp_path) == ["partial"]


@pytest.mark.parametrize("end", ["kill SIGKILL", "os_exit 3", "raise no", "print fine"])
def test_all_descendants_end_with_the_worker(tmp_path: Path, end: str) -> None:
    process = launch(tmp_path, workers=1, base={"do": f"{SPAWN}; {end}"})
    _, error = process.communicate(timeout=60)
    assert process.returncode == (0 if end == "print fine" else 1)
    assert len(pids(tmp_path)) == 4 and living(tmp_path) == []
    if end == "kill SIGKILL":
        assert "killed by SIGKILL (out of memory, or killed by hand)" in error
    if end == "os_exit 3":
        assert "it exited with code 3" in error


def test_a_launch_under_nohup_does_not_mind_a_terminal_that_closes(tmp_path: Path) -> None:
    process = launch(tmp_path, before=["nohup"], base={"do": "sleep 1"})
    wait_for(lambda: claims(tmp_path))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


# --- containers: other host names, other PID namespaces ---------------------------------------------------


def container(name: str) -> list[str]:
    """A command that starts another one under a host name, with processes of its own."""
    if subprocess.run(["unshare", "-pfu", "--mount-proc", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    start = f'hostname {name}; exec "$@"'
    return ["unshare", "-pfu", "--mount-proc", "--kill-child", "sh", "-c", start, "sh"]


def test_a_container_that_was_killed_is_waited_for_no_longer_than_the_timeout(tmp_path: Path) -> None:
    root, mended = tmp_path / "outputs", tmp_path / "mended"
    special = {"base": {"do": "sleep 60", "unless": str(mended)}}
    first = launch(root, 1, before=container("c0ffee01"), timeout=10, **special)
    wait_for(lambda: matching(root, "stages/base/*.partial/*/began"))
    first.kill()
    first.communicate()
    mended.touch()
    second = launch(root, 1, before=container("c0ffee02"), timeout=10, **special)
    out, error = second.communicate(timeout=60)
    assert second.returncode == 0 and json.loads(out)["executed"]["base"] == 1
    said = r"base: waiting for c0ffee01 \(pid \d+\), at it since \d\d:\d\d:\d\d .* Last sign of life .* ago; "
    said += r"after 10 s without one it counts as dead .*claim_timeout_s.* type: rm '(.*)'"
    (path,) = re.findall(said, error)
    assert path.startswith(str(root)) and "base done (" not in error.partition("waiting")[0]
    assert claims(root) == []


def test_a_claim_can_be_removed_by_hand_as_the_message_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = next(iter(make_plan(grid(["de", "en"], ["de", "en"]), store).steps))
    path = Path(store.beside("base", base, ".claim"))
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(claim.Claim(Process("c0ffee01", 7, "b.n.1"), time.time())))
    process = launch(tmp_path, 1)
    time.sleep(1.5)
    assert process.poll() is None and path.exists()
    path.unlink()
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("apart", [False, True], ids=["beside each other", "in containers of one name"])
def test_two_launches_at_once_share_the_work(tmp_path: Path, apart: bool) -> None:
    root, ran = tmp_path / "outputs", tmp_path / "ran.txt"
    before = container("same") if apart else []
    special: dict[str, Any] = {kind: {"do": f"count {ran}; sleep 0.2"} for kind in KINDS}
    both = [launch(root, 2, before=before, timeout=5 if apart else 180, **special) for _ in range(2)]
    outcomes = []
    for process in both:
        out, error = process.communicate(timeout=90)
        assert process.returncode == 0, error
        outcomes.append(json.loads(out))
    assert outcomes[0]["fold"] == outcomes[1]["fold"] and not list(root.glob("stages/*/doubles.jsonl"))
    assert sum(sum(outcome["executed"].values()) for outcome in outcomes) == 15
    lines = ran.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 15
    assert leftovers(root) == []


def test_a_runner_that_was_frozen_for_too_long_gives_way_and_both_finish(tmp_path: Path) -> None:
    """A suspended machine, a paused container: others go on from its scratch, and it notices when it wakes up."""
    root, go, ran = tmp_path / "outputs", tmp_path / "go", tmp_path / "ran.txt"
    special = {"base": {"do": f"until {go}; count {ran}"}}
    first = launch(root, 1, before=container("c0ffee01"), timeout=2, **special)
    (began,) = wait_for(lambda: matching(root, "stages/base/*.partial/*/began"))
    inside = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if below(pid, first.pid)]
    for pid in inside:
        os.kill(pid, signal.SIGSTOP)
    second = launch(root, 1, timeout=2, **special)
    (taken,) = wait_for(lambda: [path for path in matching(root, "stages/base/*.partial/*/began") if path != began])
    held = claims(root)
    assert held[0].by.host == host.hostname()
    wait_for(lambda: not began.exists())  # what the first one had written goes file by file
    for pid in reversed(inside):
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.5)  # it wakes up beside the other one
    assert claims(root) == held and matching(root, "stages/base/*.partial/*") == [taken.parent]
    go.touch()
    folds = []
    for process in (first, second):
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        folds.append(json.loads(out)["fold"])
    assert folds[0] == folds[1] and len(ran.read_text(encoding="utf-8").splitlines()) == 1
    assert not list(root.glob("stages/*/doubles.jsonl")) and leftovers(root) == []


def below(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == ancestor


# --- disks ------------------------------------------------------------------------------------------------


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
    outcome = executed(root, cells)
    (failed,) = outcome.failures
    assert failed.label == "pool[en]" and "outputs' is full (No space left on device)" in failed.last
    assert outcome.cell_ends() == {"done": 2, "blocked": 2}
    plan = make_plan(cells, Store(root))
    assert [step.stage.label for step in plan.steps.values() if step.reason.startswith("failed before")] == ["pool[en]"]
    assert leftovers(root) == ["failed.json", "partial"]


def test_a_disk_that_fills_up_while_results_are_published_breaks_none_of_them(small_disk: Path) -> None:
    root = small_disk / "outputs"
    cells = [Cell({"seed": n}, stage("pool", f"pool{n}", do="fill 60000", n=n)) for n in range(30)]
    outcome = executed(root, cells)
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
        executed(store.root, grid(["de"], ["de"]))


def test_a_file_beyond_the_size_limit_costs_its_stage(tmp_path: Path) -> None:
    cells = grid(["de", "en"], ["de", "en"], pool_en={"do": "fill 3000000"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        outcome = executed(tmp_path, cells, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (failed,) = outcome.failures
    assert failed.label == "pool[en]" and "File too large" in failed.last
    assert outcome.cell_ends() == {"done": 2, "blocked": 2} and leftovers(tmp_path) == ["failed.json", "partial"]
