"""One stage in several processes, which torchrun starts: on this machine, or on each node of a job.

Who has claimed the stage, and publishes its result, stays one process: a worker, or a job of a cluster. It starts a
command with a torchrun, or one a node, whose processes all run the stage's function; what process 0 writes is the
result. They are told to stop, and tell how they ended, through files beside the payload.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from xling.console import lasting_output
from xling.errors import StageError
from xling.grid import files
from xling.grid.stage import Context, Interrupted, Json, Kind, PartDone
from xling.jsonfiles import decode
from xling.runners.execute import last_line, load_catalogue

POLL_SECONDS = 0.2
END_SECONDS = 10.0  # for the step to end after it has been told to


class Payload(msgspec.Struct, frozen=True):
    """A Context as JSON."""

    catalogue: str
    kind: str
    spec: dict[str, Json]
    parents: dict[str, str]
    out: str
    scratch: str
    cache: str | None = None


class Ending(msgspec.Struct, frozen=True):
    """How a process ended, if not well."""

    interrupted: bool
    last: str
    traceback: str


class RankError(StageError):
    """One of the stage's processes failed."""


def run(
    kind: Kind,
    context: Context,
    catalogue: str,
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    why: Callable[[], str] = lambda: "",
) -> None:
    """Run a stage in the processes that `command` starts, and wait. Raises RankError, or Interrupted.

    folder: of this turn alone, where all of them see it; why: not empty once the stage has to stop.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a turn that was killed: in a container a pid comes again
    folder.mkdir(parents=True)
    parents = {role: str(path) for role, path in context.parents.items()}
    cache = None if context.cache is None else str(context.cache)
    payload = Payload(catalogue, kind.name, dict(context.spec), parents, str(context.out), str(context.scratch), cache)
    files.write_atomically(folder / "payload.json", files.json_bytes(payload))
    # torchrun's processes too look into no folder but those that this one looks into
    own = {**environment, "PYTHONSAFEPATH": "1"}
    step = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=own)
    try:
        while step.poll() is None:
            if why():
                (folder / "stop").touch()
            time.sleep(POLL_SECONDS)
    finally:
        _end(step)
    try:
        _judge(step.returncode, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def torchrun(program: Sequence[str], processes: int, *options: str) -> list[str]:
    """The command of so many processes on one machine, as far as it is the same everywhere; program starts Python."""
    return [*program, "-P", "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options]


def here(processes: int, folder: Path) -> list[str]:
    """The command of a stage on this machine alone."""
    return [*torchrun([sys.executable], processes, "--standalone"), "-m", __name__, str(folder)]


def _end(step: "subprocess.Popen[bytes]") -> None:
    if step.poll() is None:
        step.terminate()
        try:
            step.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            step.kill()
            step.wait()


def _judge(code: int | None, folder: Path) -> None:
    endings = {}
    for path in sorted(folder.glob("ended-*.json")):
        endings[path.stem.removeprefix("ended-")] = decode(path.read_bytes(), type=Ending)
    for number, ending in endings.items():
        if not ending.interrupted:
            print(ending.traceback, flush=True)
            raise RankError(f"Process {number}: {ending.last}")
    for ending in endings.values():
        raise Interrupted(ending.last)
    if code:
        killed = f"were killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
        memory = ", as the system, or SLURM's mem_gb, does where they take too much memory" if code == 137 else ""
        raise RankError(f"The stage's processes {killed}{memory}; the log has their words.")


# --- in each of the processes -----------------------------------------------------------------------------


def main(folder: Path, environment: Mapping[str, str]) -> int:
    """One process: the stage's function with a context of its own; only process 0 writes the result."""
    lasting_output()
    rank = int(environment["RANK"])
    payload = decode((folder / "payload.json").read_bytes(), type=Payload)
    kind = load_catalogue(payload.catalogue)[payload.kind]
    out = Path(payload.out) if rank == 0 else Path(tempfile.mkdtemp(prefix="xling-rank-"))
    parents = {role: Path(path) for role, path in payload.parents.items()}
    cache = None if payload.cache is None else Path(payload.cache)
    stopping = _agreed(folder / "stop")
    context = Context(payload.spec, parents, out, Path(payload.scratch), stopping=stopping, cache=cache)
    try:
        kind.run(context)
        return 0
    except PartDone:
        return 0
    except BaseException as error:
        told = isinstance(error, Interrupted)
        ending = Ending(told, str(error) if told else last_line(error), "".join(traceback.format_exception(error)))
        if rank == 0 or not told:
            files.write_atomically(folder / f"ended-{rank}.json", files.json_bytes(ending))
        return 0 if told else 1
    finally:
        if rank:
            shutil.rmtree(out, ignore_errors=True)


def _agreed(stop: Path) -> Callable[[], bool]:
    """Whether process 0 has been told to stop: the same answer in all processes, which must ask equally often."""

    def stopping() -> bool:
        import torch
        from torch import distributed

        told = stop.exists()
        if distributed.is_initialized():
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            flag = torch.tensor([int(told)], device=device)
            distributed.broadcast(flag, 0)
            told = bool(flag.item())
        return told

    return stopping


def end() -> None:
    """Leave the group of processes, if one was made; then this process, whatever threads are left."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), os.environ)
    if code:
        sys.exit(code)
    end()
