"""What tracking costs: CPU-seconds of the child process and its wandb-core, for a grid of 200 finished stages.

    python benchmarks/tracking.py                          # offline, artifacts by reference
    python benchmarks/tracking.py --artifacts none --stages 1000
    python benchmarks/tracking.py --tracker tensorboard
    python benchmarks/tracking.py --grid ROOT NAME         # a grid of your own, tracked anew in a temporary folder

The made-up stages are those of trained policies: align with a curve of 100 steps, pool, score, gold and judge with the
records of 256 prompts; every file has the format of the real one. The bound that the project set itself: 0.3 CPU-s a
stage, or 2 % of the grid's CPU time, whichever is more.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from xling.grid.store import Store
from xling.report.files import reduce_grid
from xling.results.plan import read_plan
from xling.tracking.track import track_grid

TESTS = Path(__file__).parents[1] / "tests"
BOUND = 0.3  # CPU-seconds a stage
A_CELL = 5  # stages that are its own


def synthetic(root: Path, stages: int) -> str:
    """A finished grid of about that many stages, folded; returns its name."""
    sys.path.insert(0, str(TESTS / "analysis"))
    from synthetic import SyntheticGrid

    grid, random = SyntheticGrid(root, "tracking"), np.random.default_rng(0)
    steps = range(1, 101)
    curve = [{"step": i, "reward": i / 100, "kl": i / 50, "entropy": 1.0, "length": 13.0, "eos": 1.0} for i in steps]
    curve += [{"step": i, "validation_reward": 0.1, "validation_kl": 0.2, "validation_quality": 0.3} for i in (50, 100)]
    curve.sort(key=lambda row: row["step"])
    for number in range(stages // A_CELL):
        wins = random.choice([0.0, 0.5, 1.0], 256)
        made = grid.cell("de", "en", wins.tolist(), learning=curve, seed=number, optimizer="ppo")
        grid.publish(made["pool"], {"samples.json": {"done": True}})
    reduce_grid(root, grid.write().name)
    return "tracking"


def copied(root: Path, name: str, into: Path) -> str:
    """A grid of somebody else's root, with stages that are links: its tracking is written here."""
    shutil.copytree(root / "grids" / name, into / "grids" / name)
    (into / "stages").symlink_to((root / "stages").absolute())
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stages", type=int, default=200)
    parser.add_argument("--artifacts", default="references", choices=["none", "references", "files"])
    parser.add_argument("--tracker", default="wandb", choices=["wandb", "tensorboard"])
    parser.add_argument("--grid", nargs=2, metavar=("ROOT", "NAME"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        name = copied(Path(options.grid[0]), options.grid[1], root) if options.grid else synthetic(root, options.stages)
        settings = {"mode": "offline", "project": "benchmark", "entity": None, "artifacts": options.artifacts,
                    "name": options.tracker, "runs": "stages"}  # fmt: skip
        before, began = _children(), time.monotonic()
        result = track_grid(root, name, settings, patience=None)
        seconds, wall = _children() - before, time.monotonic() - began
        print(result.sentence())
        store = Store(root)
        found = [store.check(stage.kind, stage.key).done for stage in read_plan(store.grid_folder(name)).stages]
        done = [one for one in found if one is not None]
        size = sum(path.lstat().st_size for path in (root / "tracking").rglob("*"))
        each = seconds / len(done)
        print(f"{len(done)} stages: {seconds:.1f} CPU-s, {each:.3f} a stage (bound {BOUND})")
        print(f"{wall:.1f} s by the clock; {size / 1e6:.1f} MB")
        if options.grid:
            cost = sum(one.run.cpu_seconds for one in done)
            print(f"The grid itself took {cost:.0f} CPU-s: tracking is {100 * seconds / cost:.2f} % of it.")
    return int(each > BOUND or bool(result.problem))


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
