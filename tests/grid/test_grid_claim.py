"""A claim holds as long as its maker lives, and no longer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from xling.grid import claim, host
from xling.grid.claim import Claim
from xling.grid.host import Process


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "kind" / f"{'a' * 64}.claim")


def put(path: str, by: Process, since: float) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(msgspec.json.encode(Claim(by, since)))


def test_a_claim_is_ours_once_and_in_the_way_of_others(path: str) -> None:
    me = host.this_process()
    assert claim.take(path, me) is None
    living = claim.take(path, Process(me.host, me.pid + 1, "other"))
    assert living is not None and living.by == me
    claim.release(path)
    assert claim.take(path, me) is None


def test_the_claim_of_a_dead_process_is_taken_over(path: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = Process(host.hostname(), child.pid, host.start_of(child.pid))
    put(path, dead, time.time())
    assert claim.holder(path) is not None
    child.communicate(b"\n")
    assert claim.holder(path) is None
    assert claim.take(path, host.this_process()) is None
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


@pytest.mark.skipif(not host.start_of(os.getpid()), reason="needs /proc")
def test_a_reused_pid_is_not_the_process_that_claimed(path: str) -> None:
    put(path, Process(host.hostname(), os.getpid(), "before"), time.time())
    assert claim.holder(path) is None


def test_a_claim_of_another_host_counts_until_it_is_old(path: str) -> None:
    away = Process("elsewhere", 1, "x", slurm="77")
    put(path, away, time.time() - 3600)
    assert claim.take(path, host.this_process(), foreign_hours=2) is not None
    assert claim.take(path, host.this_process(), foreign_hours=0.5) is None


def test_an_empty_claim_is_being_written_while_it_is_young(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).touch()
    assert claim.take(path, host.this_process()) is not None
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert claim.take(path, host.this_process()) is None


def test_only_the_claim_of_the_dead_worker_is_released(path: str) -> None:
    claim.take(path, host.this_process())
    claim.release_of(path, os.getpid() + 1)
    assert claim.read(path) is not None
    claim.release_of(path, os.getpid())
    assert claim.read(path) is None
