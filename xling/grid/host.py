"""Who is running: the identity of a process, whether it still lives, and the code it runs."""

import contextlib
import functools
import gc
import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import msgspec

import xling


class Process(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process as others can recognise it: a pid alone is reused, with its start time it is not.

    Containers can share a host name and have the same pids: who sees which processes is a part of `start`.
    """

    host: str
    pid: int
    start: str  # boot id, PID namespace and clock ticks since boot, joined by dots; empty without /proc
    slurm: str = ""  # SLURM_JOB_ID, with the array index if any
    cluster: str = ""  # whose job that is: several clusters can share a root, and each has its own job 12

    @property
    def name(self) -> str:
        """A word that tells processes apart, fit for a file name."""
        return f"{self.host}-{self.pid}-{self.start or '0'}"


def this_process() -> Process:
    pid, job = os.getpid(), _slurm_id()
    cluster = os.environ.get("SLURM_CLUSTER_NAME", "") if job else ""
    return Process(hostname(), pid, start_of(pid), job, cluster)


@functools.cache
def hostname() -> str:
    return socket.gethostname()


def _slurm_id() -> str:
    job, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{job}_{index}" if job and index else os.environ.get("SLURM_JOB_ID", "")


@functools.cache
def view() -> str:
    """Which processes can be seen from here: boot id and PID namespace; empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc shows another namespace than ours
            return ""
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino:x}"
    except OSError:
        return ""


def _stat(pid: int) -> tuple[bytes, str] | None:
    """(state, clock ticks from boot to start) of a process; None if it is gone or hidden, or without /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19].decode()


def start_of(pid: int) -> str:
    """When a process that can be seen from here started, as a word; empty if it is gone, a zombie or hidden."""
    found = _stat(pid) if view() else None
    return "" if found is None or found[0] in (b"Z", b"X") else f"{view()}.{found[1]}"


def sees(process: Process) -> bool:
    """Whether this process would notice the end of that one: same host, same boot, same PID namespace."""
    if process.host != hostname() or process.pid <= 0:
        return False
    return process.start.rpartition(".")[0] == view() if sys.platform == "linux" else True


def is_alive(process: Process) -> bool:
    """False if it is certain that a process has ended. What cannot be seen from here is not dead."""
    if not sees(process) or (sys.platform == "linux" and not view()):
        return True
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's
    found = _stat(process.pid) if process.start else None
    if found is None:  # without /proc, or hidden there (hidepid)
        return True
    return found[0] not in (b"Z", b"X") and f"{view()}.{found[1]}" == process.start


@functools.cache
def git_sha() -> str | None:
    """Commit of the running code, with `+` if its tree has changes; None if neither git nor the wheel knows it."""
    package = Path(xling.__file__).resolve().parent
    with contextlib.suppress(FileNotFoundError):  # an installed package has what hatch_build.py wrote into the wheel
        return (package / "commit.txt").read_text(encoding="utf-8").strip()
    here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook, say

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]  # a kill must not leave a lock in somebody's checkout
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, cwd=package, env=here)

    try:
        top, sha = git("rev-parse", "--show-toplevel", "HEAD").split("\n")[:2]
        if Path(top) != package.parent:  # installed inside somebody else's repository
            return None
        changes = git("status", "--porcelain", "--", ".")  # of the package; a file that is not added yet is a change
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return sha + ("+" if changes else "")


@functools.cache
def code_digest(package: Path = Path(xling.__file__).parent) -> str:
    """Digest of the package's Python files, which differs when code is changed; of the one that runs, or of a copy."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def commit(planned: str | None, code: str) -> str | None:
    """The commit that was planned with, or, where the code (its digest then) has been edited since, that of now.

    Thousands of processes need not ask git.
    """
    return planned if code == code_digest() else git_sha()


PACKAGES = ("numpy", "torch", "transformers", "trl", "peft", "tokenizers", "sentencex")
INSTALLED = re.compile(rf"({'|'.join(PACKAGES)})-(.+)\.dist-info")


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def installed() -> dict[str, str]:
    """Versions of what can decide the numbers, imported or not; without what is not installed.

    By the names of installed packages' folders: thousands of jobs need not read what is in them.
    """
    found = {"python": _python()}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or os.curdir):
                if fits := INSTALLED.fullmatch(name):
                    found.setdefault(fits[1], fits[2])
    return found


def changed(before: Mapping[str, str]) -> str:
    """How the installed versions differ from those of before: `torch 2.12.0 -> 2.13.0`; empty if they do not."""
    now = installed()
    names = [name for name in sorted(before.keys() | now.keys()) if before and before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}" for name in names)


def versions() -> dict[str, str]:
    """Versions of what can decide the numbers and has been imported by now."""
    found = {"python": _python(), "xling": xling.__version__}
    for name in PACKAGES:
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", None) or metadata.version(name))
    return found


def release() -> None:
    """Give back the memory that a finished stage has left behind, of an accelerator too; never imports torch for it."""
    gc.collect()  # models and their optimizers refer to each other
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def device() -> str:
    """The accelerator in use, or `cpu`; never imports torch for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return "cpu"
