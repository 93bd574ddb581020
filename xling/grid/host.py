"""Who is running: the identity of a process, whether it still lives, and the code it runs."""

import functools
import hashlib
import os
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec

import xling


class Process(msgspec.Struct, frozen=True):
    """A process as others can recognise it: a pid alone is reused, with its start time it is not."""

    host: str
    pid: int
    start: str  # boot id and clock ticks since boot; empty where /proc does not exist
    slurm: str = ""  # SLURM_JOB_ID, with the array index if any

    @property
    def name(self) -> str:
        """A word that tells processes apart, fit for a file name."""
        return f"{self.host}-{self.pid}-{self.start or '0'}"


def this_process() -> Process:
    pid = os.getpid()
    return Process(hostname(), pid, start_of(pid), _slurm_id())


@functools.cache
def hostname() -> str:
    return socket.gethostname()


def _slurm_id() -> str:
    job, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{job}_{index}" if job and index else os.environ.get("SLURM_JOB_ID", "")


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return ""


def start_of(pid: int) -> str:
    """When a process of this host started, as a word; empty if it is gone or a zombie, or without /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else f"{_boot()}.{fields[19].decode()}"


def is_alive(process: Process) -> bool:
    """Whether a process of this host still runs; only to be asked for this host."""
    if process.start:
        return start_of(process.pid) == process.start
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def git_sha() -> str | None:
    """Commit of the running code, with `+` if its tree has changes; None outside a checkout of xling."""
    package = Path(xling.__file__).resolve().parent
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
def code_digest() -> str:
    """What the package's Python files say, in one word: seen to differ when the code is changed."""
    package = Path(xling.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what can decide the numbers and has been imported by now."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "xling": xling.__version__}
    for name in ("numpy", "torch", "transformers", "trl", "peft", "tokenizers", "sentencex"):
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", None) or metadata.version(name))
    return found


def device() -> str:
    """The accelerator in use, or `cpu`; never imports torch for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return "cpu"
