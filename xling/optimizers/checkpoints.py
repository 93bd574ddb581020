"""What an optimizer needs to go on after a kill: one file, written beside and renamed, that cannot run code when read.

save(problem.scratch, {"step": 7, "policy": policy.state_dict(), "updates": updates.state(), ...})
state = load(problem.scratch)  # None: there is nothing to go on from
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

NAME = "training.pt"


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the folder's checkpoint with `state`: tensors and plain values, in dicts, lists and tuples."""
    path, partial = folder / NAME, folder / f"{NAME}.partial"
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(folder: Path) -> dict[str, Any] | None:
    """What `save` was given last, on the CPU."""
    path = folder / NAME
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
