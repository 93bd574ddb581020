"""What survives a kill of a training: folders `checkpoint-STEP` with its tensors, and its numbers in state.json.

A folder is whole or not there. Several processes write one together, each its share; any number of them goes on. What
has rotted meanwhile is no checkpoint: every file is read by its hash.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xling.errors import StageError
from xling.grid import files
from xling.jsonfiles import sealed, unsealed
from xling.models import parallel

STATE = "state.json"  # of a checkpoint, besides its tensors
SEAL = "sha256.json"  # of one that another library has made, besides its files


class Checkpoints:
    """Those in the scratch folder of a stage."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._sound = set[int]()  # steps of those that have been read by their hashes

    def folder(self, step: int) -> Path:
        return self.scratch / f"checkpoint-{step}"

    def save(self, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], kept: int | None) -> None:
        """A checkpoint after `step` steps; of older ones that after `kept` stays, and the others are deleted."""
        partial = self.folder(step).with_suffix(files.UNFINISHED)
        if parallel.rank() == 0:
            files.own_folder(partial)
        parallel.meet()
        parallel.save(partial, tensors)
        parallel.meet()
        if parallel.rank() == 0:
            self._publish(partial, step, numbers, kept)
        parallel.meet()

    def _publish(self, partial: Path, step: int, numbers: Mapping[str, Any], kept: int | None) -> None:
        hashes = {path.name: files.sha256_of(str(path)) for path in files.matching(partial, "*.safetensors")}
        beside = kept if kept is not None and self.folder(kept).is_dir() else step
        state = {**numbers, "step": step, "processes": parallel.world_size(), "sha256": hashes, "kept": beside}
        (partial / STATE).write_bytes(sealed(json.dumps(state, sort_keys=True, allow_nan=False).encode()))
        files.share(str(partial))  # another user of the root may have to go on from it
        folder = self.folder(step)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        for other in files.matching(self.scratch, "checkpoint-*"):
            if other.name not in {folder.name, f"checkpoint-{kept}"}:
                shutil.rmtree(other, ignore_errors=True)

    def newest(self) -> dict[str, Any] | None:
        """Numbers of the newest checkpoint that is whole, `step` and `processes` among them, the same in all processes.

        Others (of a kill, of an older version, or with a byte that has changed since) are left out. That it is gone on
        from is said, for the stage's log.
        """
        names = [re.fullmatch(r"checkpoint-(\d+)", path.name) for path in files.matching(self.scratch, "checkpoint-*")]
        steps = {int(name[1]) for name in names if name}
        newest: dict[str, Any] | None = None
        if parallel.rank() == 0:
            whole = (self._state(step) for step in sorted(steps, reverse=True))
            newest = next((state for state in whole if state is not None), None)
        state = parallel.agreed(newest)
        if state is None:
            return None
        step = state["step"]
        self._sound = {step, state["kept"]}
        say_gone_on(step, state["processes"])
        return state

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` with those of the checkpoint after `step` steps. StageError if it has changed since."""
        sound = step in self._sound or (parallel.rank() == 0 and _whole(self.folder(step)) is not None)
        if not parallel.agreed(sound):
            if parallel.rank() == 0:
                for other in files.matching(self.scratch, "checkpoint-*"):
                    shutil.rmtree(other, ignore_errors=True)
            raise StageError(
                f"{self.folder(step)}, the checkpoint that was to be kept, has changed since it was written: the disk "
                "is damaged, or somebody wrote there. The same command trains anew."
            )
        parallel.load(self.folder(step), tensors)

    def _state(self, step: int) -> dict[str, Any] | None:
        """The numbers of a checkpoint that is whole, and that which it keeps, too; else None."""
        state = _whole(self.folder(step))
        if state is None or (state["kept"] != step and _whole(self.folder(state["kept"])) is None):
            return None
        return state


def say_gone_on(step: int, before: int) -> None:
    """Into the stage's log; before: how many processes have saved the checkpoint."""
    now = parallel.world_size()
    if parallel.rank() == 0:
        saved = f", saved by {before}" if before != now else ""
        print(f"Goes on after step {step} in {now} process{'es' * (now != 1)}{saved}.")


def say_measured(step: int, steps: int, numbers: Mapping[str, float]) -> None:
    """Into the stage's log whenever a training is evaluated: `xling logs STAGE --follow` shows it."""
    if parallel.rank() == 0:
        told = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        print(f"step {step} of {steps}: {told}", flush=True)


def _whole(folder: Path) -> dict[str, Any] | None:
    """The numbers of a checkpoint of which no byte has changed; else None."""
    state = _unchanged(folder, STATE)
    return state if state is not None and isinstance(state.get("kept"), int) else None


def _unchanged(folder: Path, name: str) -> dict[str, Any] | None:
    """What stands in a sealed file that has the hashes of others beside it; None if any byte of them has changed."""
    try:
        found: dict[str, Any] = unsealed((folder / name).read_bytes(), dict[str, Any])
        same = all(files.sha256_of(str(folder / file)) == hashed for file, hashed in found["sha256"].items())
        return found if same else None
    except (OSError, ValueError, KeyError):
        return None


# --- checkpoints that another library makes: any files ------------------------------------------------------


def seal(folder: Path) -> None:
    """Write down the hashes of a checkpoint's files, last: with them it is whole."""
    hashes = {name: files.sha256_of(entry.path) for name, entry in files.files_below(str(folder)) if name != SEAL}
    files.write_atomically(folder / SEAL, sealed(json.dumps({"sha256": hashes}, sort_keys=True).encode()))


def is_sealed(folder: Path) -> bool:
    """Whether all files are there with the bytes that were written. That one has changed since is said, for the log."""
    whole = _unchanged(folder, SEAL) is not None
    if not whole and (folder / SEAL).exists():
        print(f"{folder} has changed since it was written, and is not gone on from: the disk is damaged, or somebody "
              "wrote there.")  # fmt: skip
    return whole
