"""Ways for a toy stage to go wrong, or to take its time: outside of specs, so that keys stay as they are.

The environment's TOY_BEHAVIOUR names a JSON file: {"sft[de]": "sleep 3", "score": "raise no"}. A stage looks for its
kind with its languages first, then for its kind. Actions are joined by `; `.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from xling.grid.stage import Context, Interrupted
from xling.stages.blocks import kept_arrays, read_arrays


def behave(context: Context) -> None:
    path = os.environ.get("TOY_BEHAVIOUR")
    if not path:
        return
    wanted = json.loads(Path(path).read_text(encoding="utf-8"))
    for action in filter(None, wanted.get(label(context), wanted.get(context.scratch.parents[1].name, "")).split("; ")):
        word, _, value = action.partition(" ")
        ACTIONS[word](value, context)


def label(context: Context) -> str:
    langs = [str(context.spec[name]) for name in ("lang", "source", "target") if name in context.spec]
    kind = context.scratch.parents[1].name
    return f"{kind}[{', '.join(langs)}]" if langs else kind


def _sleep(value: str, _: Context) -> None:
    time.sleep(float(value))


def _import(name: str, _: Context) -> None:
    importlib.import_module(name)


def _until(path: str, _: Context) -> None:
    """Until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.1)


def _raise(value: str, _: Context) -> None:
    raise ValueError(value)


def _exit(value: str, _: Context) -> None:
    sys.exit(int(value))


def _kill(value: str, _: Context) -> None:
    os.kill(os.getpid(), getattr(signal, value))


def _memory(value: str, _: Context) -> None:
    """Megabytes, held for a while."""
    held = bytearray(int(value) << 20)
    time.sleep(60)
    del held


def _train(value: str, context: Context) -> None:
    """So many steps of 0.1 s with a checkpoint after each; each start says in `turns` where it began."""
    file = context.scratch / "step"
    step = int(file.read_text()) if file.exists() else 0
    _count(f"{context.scratch.parents[3]}/turns", context, f"from {step}")
    for number in range(step, int(value)):
        time.sleep(0.1)
        new = file.with_name("new")
        new.write_text(str(number + 1))
        new.replace(file)


def _count(path: str, context: Context, more: str = "") -> None:
    """A line in a file each time that the stage runs."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{label(context)} {more}".strip() + "\n")


def _together(value: str, context: Context) -> None:
    """All processes of the stage meet; each leaves its node and number in `turns`. Process `value` raises, if given."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    total = torch.tensor([rank])
    distributed.all_reduce(total)
    _count(f"{context.scratch.parents[3]}/turns", context, f"{os.environ['SLURMD_NODENAME']} {rank}/{world} {total[0]}")
    if value and rank == int(value):
        raise ValueError("one of many")


def _wait(_: str, context: Context) -> None:
    """Until the runner has to stop."""
    _count(f"{context.scratch.parents[3]}/turns", context, "waits")
    while not context.stopping():
        time.sleep(0.2)
    raise Interrupted("as told")


def _blocks(gate: str, context: Context) -> None:
    """Blocks that say which turn of the job made them; the first turn holds a file open until `gate` is there.

    Raises if a block that this turn has made is another's afterwards.
    """
    turn = int(os.environ["SLURM_RESTART_COUNT"]) if "SLURM_RESTART_COUNT" in os.environ else 0

    def make(block: list[int]) -> list[Any]:
        if not turn:
            _until(gate, context)
        return [np.full(1000, turn)]

    _count(f"{context.scratch.parents[3]}/turns", context, f"turn {turn}")
    paths = kept_arrays(context, "blocks", [[0], [1]], make, 2)
    Path(gate).touch()
    time.sleep(3)
    for path in paths:
        if not (read_arrays(path)[0] == turn).all():
            raise ValueError(f"{path} is of another turn than {turn}")


ACTIONS = {"blocks": _blocks, "sleep": _sleep, "import": _import, "until": _until, "raise": _raise, "exit": _exit,
           "kill": _kill, "memory": _memory, "train": _train, "count": _count, "together": _together,
           "wait": _wait}  # fmt: skip
