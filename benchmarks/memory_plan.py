"""The memory plan beside measured peaks: every trainer, of models of 12 million weights.

    python benchmarks/memory_plan.py [--small | --middle] [--ways N] [TRAINER ...]     # some minutes on one idle core

--small: models of 1.2 million weights, --middle: of 45 to 58 million; --ways: the first N of six ways to train.

Measured are bytes of tensors (benchmarks/tensors.py) over two steps of texts that all are as long as their limits, as
the plan takes them to be; a GPU's allocator and CUDA itself come on top, for which the plan has room of its own. Exit
code 1 if the plan is off by more than 15 % of the measured peak in a case.
"""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

LIMIT = 0.15
ON_PROCESSOR = 24  # bytes of a logit in trl's tiles, besides the tile: six tensors in float32
LARGE, SMALL, MIDDLE = (320, 6, 8000), (128, 4, 2000), (512, 8, 32000)  # width, layers, vocabulary
# what differs from 8 texts at once, all weights, AdamW, float32
WAYS: list[dict[str, Any]] = [
    {}, {"batch": 16, "micro": 4}, {"again": True}, {"precision": "bfloat16"},
    {"batch": 16, "micro": 4, "optimizer": "adafactor"}, {"batch": 16, "micro": 4, "tuning": "lora"},
]  # fmt: skip


def planned(case: Any, folder: Path) -> float:
    """Bytes that the plan says."""
    from trainings import RANK

    from xling.models.sizes import sizes_of
    from xling.optimizers import OPTIMIZERS
    from xling.planning.memory import TILE_TOKENS, TILE_WORDS, Net, Task, Way, aligned, worst

    sizes = sizes_of(str(folder), None)
    assert sizes is not None
    half, rank = case.precision == "bfloat16", RANK if case.tuning == "lora" else 0
    net = Net(sizes, 4, case.tuning, rank, trunk=case.trainer == "reward")
    if case.trainer in ("sft", "reward"):
        task = Task((net,), 0.0, case.batch, case.batch, 1, case.prompt, case.response, case.trainer == "sft", half,
                    False, case.optimizer, 0, 0.0)  # fmt: skip
    else:
        own = {"minibatches": 1} if case.trainer == "ppo" else {"trainer": "own"} if case.trainer == "rloo" else {}
        settings = OPTIMIZERS.read({"name": case.trainer, "optimizer": case.optimizer, "batch_size": case.batch} | own)
        task = aligned(settings, net, half, case.prompt, case.response, 0.0, 2.0 * 2**30, "auto")
        task = task._replace(written=case.batch if task.written else 0)  # nothing is measured in between
    told = sum(worst(task, Way(1, False, case.micro, case.again)).values())
    if task.tiled:  # what Triton does in place on a GPU, torch's operations do with copies here
        tokens = (case.micro or case.batch) * (case.prompt + case.response)
        told += ON_PROCESSOR * min(tokens, TILE_TOKENS) * min(sizes.vocabulary, TILE_WORDS)
    return told


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("trainers", nargs="*", metavar="TRAINER")
    parser.add_argument("--small", dest="sizes", action="store_const", const=SMALL, default=LARGE)
    parser.add_argument("--middle", dest="sizes", action="store_const", const=MIDDLE)
    parser.add_argument("--ways", type=int, default=len(WAYS))
    given = parser.parse_args(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    warnings.simplefilter("ignore")
    from trainings import TRAINERS, Case, peak, saved

    off = cases = within = 0.0
    print("| trainer | model | what differs | measured, MB | planned, MB | planned / measured |")
    print("|---|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as where:
        for trainer in given.trainers or TRAINERS:
            for model in ("llama", "mt5") if trainer != "grpo" else ("llama",):
                folder = saved(Path(where) / model, model, *given.sizes)
                for way in WAYS[: given.ways]:
                    case = Case(trainer, model, **way)
                    found, told = peak(case, folder), planned(case, folder)
                    off, cases, within = (
                        max(off, abs(told / found - 1)),
                        cases + 1,
                        within + (abs(told / found - 1) <= LIMIT),
                    )
                    words = ", ".join(f"{name} {value}" for name, value in way.items()) or "-"
                    numbers = f"{found / 1e6:,.0f} | {told / 1e6:,.0f} | {told / found:.2f}"
                    print(f"| {trainer} | {model} | {words} | {numbers} |", flush=True)
    print(f"{'ok  ' if off <= LIMIT else 'MISS'} {within:.0f} of {cases:.0f} within {LIMIT:.0%}, at most {off:.0%} off")
    return int(off > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
