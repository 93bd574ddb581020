"""What survives a kill of a training: folders `checkpoint-STEP` with its tensors, and its numbers in state.json.

A folder is whole or not there. Several processes write one together, each its share; any number of them goes on.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from xling.grid import files
from xling.jsonfiles import read_json, write_json
from xling.models import parallel

STATE = "state.json"  # of a checkpoint, besides its tensors


class Checkpoints:
    """Those in the scratch folder of a stage."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

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
        sizes = {path.name: path.stat().st_size for path in files.matching(partial, "*.safetensors")}
        state = {**numbers, "step": step, "processes": parallel.world_size(), "sizes": sizes}
        write_json(partial / STATE, state)
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

        Others (of a kill, or of an older version) are left out. That it is gone on from is said, for the stage's log.
        """
        steps = {int(found[1]): path for path in files.matching(self.scratch, "checkpoint-*")
                 if (found := re.fullmatch(r"checkpoint-(\d+)", path.name))}  # fmt: skip
        whole = (step for step in sorted(steps, reverse=True) if _is_whole(steps[step]))
        step = parallel.agreed(next(whole, None))
        if step is None:
            return None
        state: dict[str, Any] = read_json(steps[step] / STATE)
        before, now = state["processes"], parallel.world_size()
        if parallel.rank() == 0:
            print(f"Goes on after step {step} in {_counted(now)}{f', saved by {before}' if before != now else ''}.")
        return state

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` with those of the checkpoint after `step` steps."""
        parallel.load(self.folder(step), tensors)


def _counted(processes: int) -> str:
    return f"{processes} process{'es' * (processes != 1)}"


def _is_whole(folder: Path) -> bool:
    try:
        sizes = read_json(folder / STATE)["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
