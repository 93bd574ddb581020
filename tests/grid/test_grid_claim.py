"""A claim holds as long as its maker lives, as far as that can be told, and no longer."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from xling.errors import ConfigError, StoreError
from xling.grid import claim, files, host
from xling.grid.claim import Claim, Heart, Watch
from xling.grid.host import Process
from xling.grid.records import Sheet
from xling.grid.store import Store
from xling.runners import local
from xling.runners.execute import Executor, Job
from xling.runners.slurm.settings import read as settings_from

AWAY = Process("elsewhere", 1, "boot.ns.7", slurm="77")


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "kind").mkdir()
    return str(tmp_path / "kind" / f"{'a' * 64}.claim")


def put(path: str, by: Process, since: float, beat: float = 0.0) -> None:
    Path(path).write_bytes(msgspec.json.encode(Claim(by, since, beat)))


def test_a_claim_is_ours_once_and_in_the_way_of_others(path: str) -> None:
    me = host.this_process()
    assert claim.take(path, me) is None
    living = claim.take(path, AWAY)
    assert living is not None and living.by == me
    claim.release(path, AWAY)
    assert claim.read(path) == living
    claim.release(path, me)
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


@pytest.mark.parametrize("what", ["folder", "link"])
def test_what_is_no_file_in_the_place_of_a_claim_is_named_and_left_alone(path: str, what: str) -> None:
    """A link to itself, which no process can read; to lookers it is somebody's whom they do not know."""
    if what == "folder":
        os.makedirs(path)
    else:
        os.symlink(path, path)
    sentence = re.escape(f"'{path}' is a {what}, where a claim")
    held = claim.holder(path)
    assert held is not None and held.who == "somebody unknown"
    with pytest.raises(StoreError, match=sentence):
        claim.take(path, host.this_process())
    with pytest.raises(StoreError, match=sentence):
        claim.drop(path, held)
    assert os.path.lexists(path)


def test_a_stage_whose_claim_is_a_folder_fails_and_says_so(tmp_path: Path) -> None:
    job, store = Job("a" * 64, Sheet("noop", 1, "noop", {}, {})), Store(tmp_path)
    os.makedirs(store.beside("noop", job.key, ".claim"))
    report = Executor(store, {}).execute(job)
    assert report.event == "failed" and "is a folder, where a claim" in report.text


@pytest.mark.skipif(not host.start_of(os.getpid()), reason="needs /proc")
def test_a_reused_pid_is_not_the_process_that_claimed(path: str) -> None:
    put(path, Process(host.hostname(), os.getpid(), f"{host.view()}.1"), time.time())
    assert claim.holder(path) is None


def test_a_zombie_is_dead(path: str) -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    put(path, Process(host.hostname(), child.pid, host.start_of(child.pid)), time.time())
    assert claim.holder(path) is not None and child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the table
    assert claim.holder(path) is None
    child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces")
@pytest.mark.parametrize("by", [
    AWAY,
    Process(host.hostname(), 4194304, "deadbeef.f0000001.7"),  # same name, another boot or machine
    Process(host.hostname(), 4194304, f"{host.view().partition('.')[0]}.abc.7"),  # another PID namespace
    Process(host.hostname(), 4194304, "deadbeef.7"),  # as an earlier version wrote it
    Process("", 0, ""),
])  # fmt: skip
def test_what_cannot_be_seen_is_not_dead(path: str, by: Process) -> None:
    put(path, by, time.time() - 7 * 24 * 3600)  # for a week
    assert claim.holder(path) is not None and claim.take(path, host.this_process()) is not None
    assert not claim.remove_stale(path) and claim.read(path) is not None
    gone = Process(host.hostname(), 4194304, f"{host.view()}.7")
    assert not host.is_alive(gone)


def test_the_process_of_another_user_whose_proc_is_hidden_is_not_dead() -> None:
    """hidepid: the kernel says that it is there, /proc does not."""
    script = (
        "import os, sys, subprocess; from xling.grid import host; child = subprocess.Popen(['sleep', '9']);"
        "who = host.Process(host.hostname(), child.pid, host.start_of(child.pid)); view = host.view();"
        "subprocess.check_call(['mount', '-t', 'proc', '-o', 'hidepid=2', 'proc', '/proc']);"
        "os.setgroups([]); os.setegid(65534); os.seteuid(65534);"
        "print(host.start_of(child.pid) == '', host.is_alive(who)); os.seteuid(0); child.kill(); child.wait();"
        "os.seteuid(65534); print(host.is_alive(who))"
    )
    command = ["unshare", "-pfm", "--mount-proc", sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode and ("unshare" in ran.stderr or "mount" in ran.stderr):
        pytest.skip(f"no namespaces here: {ran.stderr.strip()[-100:]}")
    assert ran.stdout.split() == ["True", "True", "False"], ran.stderr


def test_proc_of_another_namespace_is_not_taken_for_ours() -> None:
    """`unshare -p` without a new /proc: numbers in /proc are not those of kill()."""
    ask = "from xling.grid import host; print(repr(host.view()), host.is_alive(host.Process(host.hostname(), 999, '')))"
    ran = subprocess.run(["unshare", "-pf", sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip("no namespaces here")
    assert ran.stdout.split() == ["''", "True"]


def watch(path: str, timeout: float) -> Watch:
    return Watch(lambda: files.clock(Path(path).parent), timeout)


def test_an_unseen_runner_is_dead_once_it_has_been_silent_for_long_enough(path: str) -> None:
    put(path, AWAY, time.time())
    looking, start = watch(path, 0.6), time.monotonic()
    while looking.holder(path) is not None:
        assert time.monotonic() - start < 5
        time.sleep(0.02)
    assert time.monotonic() - start > 0.5 and claim.read(path) is None
    assert claim.take(path, host.this_process()) is None


def test_one_that_has_been_silent_before_is_watched_for_a_third_of_the_time(path: str) -> None:
    put(path, AWAY, time.time())
    os.utime(path, (time.time() - 3600,) * 2)
    looking, start = watch(path, 0.9), time.monotonic()
    assert looking.holder(path) is not None and looking.silent(path) == pytest.approx((0.6, 0.9))
    while looking.holder(path) is not None:
        time.sleep(0.02)
    assert 0.25 < time.monotonic() - start < 0.6


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_runner_whose_clock_is_wrong_lives_as_long_as_it_beats(path: str, hours: int) -> None:
    put(path, AWAY, time.time() + hours * 3600)
    looking, start = watch(path, 0.3), time.monotonic()
    for turn in range(60):
        os.utime(path, (time.time() + hours * 3600 + turn / 100,) * 2)
        assert looking.holder(path) is not None
        time.sleep(0.02)
    assert time.monotonic() - start > 4 * 0.3


def test_an_observer_who_slept_counts_no_silence_meanwhile(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, AWAY, time.time())
    looking = watch(path, 180)
    assert looking.holder(path) is not None
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 3600)
    assert looking.holder(path) is not None and looking.silent(path)[0] < 6


def test_a_runner_that_beats_seldom_is_given_time(path: str) -> None:
    put(path, AWAY, time.time(), beat=60.0)
    looking = watch(path, 0.1)
    for _ in range(10):
        assert looking.holder(path) is not None
        time.sleep(0.03)


def test_a_heart_beats_and_notices_that_its_claim_is_lost(path: str) -> None:
    me, lost = host.this_process(), list[str]()
    assert claim.take(path, me, timeout=0.6) is None
    heart = Heart(me, 0.6, lost.append)
    heart.hold(path)
    first = os.stat(path).st_mtime_ns
    time.sleep(0.3)
    assert os.stat(path).st_mtime_ns > first and heart.ours(path) and lost == []
    os.unlink(path)  # by hand: nobody has taken it
    time.sleep(0.2)
    held = claim.read(path)
    assert held is not None and held.by == me
    put(path, AWAY, time.time())
    time.sleep(0.2)
    assert lost == [path] and not heart.ours(path)
    heart.release(path)
    held = claim.read(path)
    assert held is not None and held.by == AWAY
    os.unlink(path)
    time.sleep(0.2)
    assert claim.read(path) is None  # it is not made again by who has let go of it


def test_a_heart_with_nothing_to_hold_ends_its_thread_and_begins_again(path: str) -> None:
    me = host.this_process()
    heart = Heart(me, 0.3)
    for _ in range(2):
        assert claim.take(path, me, 0.3) is None
        heart.hold(path)
        assert "heartbeat" in {thread.name for thread in threading.enumerate()}
        heart.release(path)
        deadline = time.monotonic() + 30
        while "heartbeat" in {thread.name for thread in threading.enumerate()}:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_claim_of_which_nothing_can_be_read_is_somebodys(path: str) -> None:
    far = (
        b'{"by":{"host":"v","pid":1,"start":"a"},"since":1e300}',
        b'{"by":{"host":"v","pid":1,"start":"a"},"since":-1}',
    )
    rare = b'{"by":{"host":"v","pid":1,"start":"a"},"since":1,"beat":1e308}'
    torn = b'{"by":{"host":"v\xff","pid":1,"start":"a","slurm":""},"since":1.0}', b"\0" * 90, b"[]"
    for content in (*torn, *far, rare):
        Path(path).write_bytes(content)
        held = claim.take(path, host.this_process())
        assert held is not None and held.who == "somebody unknown"
        assert Path(path).read_bytes() == content
    looking = watch(path, 0.3)
    while looking.holder(path) is not None:
        time.sleep(0.02)
    assert claim.take(path, host.this_process()) is None


def test_an_empty_claim_is_being_written_while_it_is_young(path: str) -> None:
    Path(path).touch()
    assert claim.take(path, host.this_process()) is not None
    looking = watch(path, 180)
    assert looking.holder(path) is not None
    os.utime(path, (time.time() - 60, time.time() - 60))
    looking, start = watch(path, 180), time.monotonic()
    while looking.holder(path) is not None:
        time.sleep(0.1)
    assert time.monotonic() - start < 5


def test_a_claim_that_was_replaced_meanwhile_is_not_removed(path: str) -> None:
    put(path, Process(host.hostname(), 4194304, f"{host.view()}.7"), time.time())
    seen = claim.read(path)
    assert seen is not None
    put(path, AWAY, time.time())
    claim.drop(path, seen)
    held = claim.read(path)
    assert held is not None and held.by == AWAY
    claim.drop(path, held)
    assert os.listdir(os.path.dirname(path)) == []


def test_scratch_goes_to_the_next_runner_and_is_shared_by_no_two(tmp_path: Path) -> None:
    store, first, second = Store(tmp_path), host.this_process(), AWAY
    one = store.scratch("sft", "a" * 64, first)
    (one / "checkpoint").write_text("5", encoding="utf-8")
    assert store.scratch("sft", "a" * 64, first) == one
    two = store.scratch("sft", "a" * 64, second)
    assert (two / "checkpoint").read_text(encoding="utf-8") == "5"
    assert two != one and not one.exists() and re.search(r"elsewhere-1-boot\.ns\.7$", str(two))
    with (two / "step.partial").open("w", encoding="utf-8") as writing:
        (two / "kept").mkdir()
        (two / "kept" / "block").write_text("7", encoding="utf-8")
        three = store.scratch("sft", "a" * 64, first)
        assert not (three / "step.partial").exists() and not two.exists()
        writing.write("of one that lives on")
    assert sorted(path.name for path in three.rglob("*")) == ["block", "checkpoint", "kept"]
    assert (three / "kept" / "block").read_text(encoding="utf-8") == "7" and [*three.parent.iterdir()] == [three]


@pytest.mark.parametrize("value", [0, 0.5, -1, True, "180", None, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused_by_both_launchers(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"hydra.launcher.claim_timeout_s"):
        local.read({"claim_timeout_s": value}, {})
    with pytest.raises(ConfigError, match=r"hydra.launcher.claim_timeout_s"):
        settings_from({"claim_timeout_s": value}, {})
