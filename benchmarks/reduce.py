"""What reduce and the analyses of a big grid cost: made-up records in the formats of the stages, in a temporary folder.

    python benchmarks/reduce.py                                    # 100 x 100 languages x 1,000 prompts
    python benchmarks/reduce.py --languages 30 --optimizers 11     # 9,900 cells: best-of-n and ten that train
    python benchmarks/reduce.py --profile                          # where reduce spends its time

Each part runs in a process of its own: its CPU seconds and its peak memory are those of a fresh `xling reduce` or
`xling analyse`. Files are read from the page cache (a target's sources share a few files by hard links), so that what
a disk adds is not in the numbers. Exit code 1 if a limit is broken; limits hold for the full size.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xling.grid import joined
from xling.grid.files import json_bytes, sealed_json
from xling.grid.host import this_process
from xling.grid.plan import make_plan
from xling.grid.records import JOINED, Done, FileFact, JoinedDone, Run, Sheet
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.planning import KINDS
from xling.results.samples import Samples

SAMPLES, OPPONENTS, HELD_OUT, VARIANTS = 16, 4, 256, 7
MOST_CPU, MOST_MEGABYTES = 40.0, 2000
ANALYSES = """
from xling.analysis.catalogue import findings_of
from xling.analysis.tidy.entries import Draws
from xling.analysis.tidy.entries import grid_entries
from xling.analysis.matrix.fold_grid import fold_grid
draws = Draws()
matrix = fold_grid(Store(Path(root)), 'big', draws.add)
findings_of(grid_entries(matrix, draws))
"""
LIVE = """
from xling.grid.grids import read_grid
from xling.results.live import LiveMatrix
plan = read_grid(Store(Path(root)), 'big')
live = LiveMatrix(Store(Path(root)), plan, width=80)
live.look({cell.judge.key: 'done' for cell in plan.cells})
live.shown(40)
"""
LIMITED = "fold and analyses"  # reduce writes, draws and makes the page, too
PARTS = {
    LIMITED: ANALYSES,
    "reduce": "from xling.report.files import reduce_grid; reduce_grid(Path(root), 'big')",
    "live matrix": LIVE,
    "length rule": "from xling.analysis.items.length_rule import length_rule as f; f(Store(root), 'big')",
    "generalisation": "from xling.analysis.items.generalisation import generalisation as f; f(Store(root), 'big')",
}


@dataclass(frozen=True, slots=True)
class Size:
    """Of the grid: targets and sources, optimizers, prompts a target."""

    languages: int
    optimizers: int
    prompts: int

    @property
    def cells(self) -> int:
        return self.languages**2 * self.optimizers

    @property
    def names(self) -> list[str]:
        return [f"l{number:03d}" for number in range(self.languages)]

    @property
    def arms(self) -> list[str]:
        return ["best_of_n", *(f"ppo_{number}" for number in range(1, self.optimizers))]


class Made:
    """Publishes results as the store does, but for syncing; equal content is one file with many names."""

    def __init__(self, root: Path, apart: bool = False) -> None:
        self.store, self.blobs, self.apart = Store(root), root / "blobs", apart
        self.blobs.mkdir(parents=True)
        self.facts: dict[str, FileFact] = {}
        self.inside: dict[str, dict[str, str]] = {}
        self.run = Run(1.0, 1.0, "2026-01-01T00:00:00+00:00", 1, this_process(), 1, "cpu", "abc", {})

    def blob(self, name: str, content: bytes) -> str:
        """Content under a name to publish it by."""
        path = self.blobs / name
        path.write_bytes(content)
        facts = FileFact(hashlib.sha256(content).hexdigest(), len(content), path.stat().st_mtime_ns)
        self.facts[name] = facts
        return name

    def publish(self, stage: Stage, files: Mapping[str, str]) -> None:
        """files: name in the result -> name of a blob."""
        folder = self.store.folder(stage.kind, stage.key)
        folder.mkdir(parents=True)
        about = (stage.kind, stage.key, stage.label)
        if KINDS[stage.kind].joined and not self.apart:
            name, inside = self._joined(files)
            os.link(self.blobs / name, folder / joined.NAME)
            facts = {joined.NAME: self.facts[name]}
            done: Done = JoinedDone(*about, facts, self.run, JOINED, inside=inside, sheet=Sheet.of(stage))
        else:
            for name, blob in files.items():
                os.link(self.blobs / blob, folder / name)
            facts = {name: self.facts[blob] for name, blob in files.items()}
            path, sheet = folder / "spec.json", json_bytes(Sheet.of(stage))
            path.write_bytes(sheet)
            facts["spec.json"] = FileFact(hashlib.sha256(sheet).hexdigest(), len(sheet), path.stat().st_mtime_ns)
            done = Done(*about, facts, self.run)
        (folder / "done.json").write_bytes(sealed_json(done))

    def _joined(self, files: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The name of a blob with several in it, and their digests."""
        name = "+".join(files.values())
        if name not in self.inside:
            folder = self.blobs / "folder"
            folder.mkdir()
            for inner, blob in files.items():
                os.link(self.blobs / blob, folder / inner)
            self.inside[name] = joined.join(os.fspath(folder))
            self.blob(name, (folder / joined.NAME).read_bytes())
            shutil.rmtree(folder)
        return name, self.inside[name]


def array(values: np.ndarray[Any, Any]) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def items(size: Size, target: str, random: np.random.Generator, trained: bool) -> dict[str, Any]:
    """items.json of a cell, with all columns that a stage writes."""
    count = size.prompts
    columns: dict[str, Any] = {
        "prompt": [f"test-{number:04d}" for number in range(count)],
        "group": [f"test-{number:04d}" for number in range(count)],
        "dataset": ["toy"] * count,
        "win": (random.integers(0, 5, count) / 4).tolist(),
    }
    for name in ("", "baseline_"):
        measured = ("reward", "quality", "repetition")
        columns |= {f"{name}{measure}": random.random(count).tolist() for measure in measured}
        columns |= {f"{name}{measure}": [1.0] * count for measure in ("in_language", "eos")}
        columns |= {f"{name}length": random.integers(5, 25, count).astype(float).tolist()}
    return columns | ({"kl": random.gamma(2.0, 1.0, count).tolist()} if trained else {"index": [0] * count})


def held_out(random: np.random.Generator) -> dict[str, Any]:
    return {
        "group": [f"h{number}" for number in range(HELD_OUT)],
        "score": random.normal(size=HELD_OUT).tolist(),
        "label": [number % 2 for number in range(HELD_OUT)],
        "length": [float(number % 40) for number in range(HELD_OUT)],
        "length_rule": {"threshold": 20.0, "longer_is_better": True},
    }


def samples(size: Size) -> bytes:
    said, true, lengths = ["the cat sat"] * OPPONENTS, [True] * OPPONENTS, [4] * OPPONENTS
    names = [f"test-{number:04d}" for number in range(size.prompts)]
    rows = (Samples(name, name, "toy", said, lengths, true) for name in names)
    return b"".join(msgspec.json.encode(row, order="sorted") + b"\n" for row in rows)


def make_grid(root: Path, size: Size, apart: bool) -> None:
    """All stages of a cell that reduce reads, published; plan.json by the real planner."""
    made = Made(root, apart)
    made.blob("samples", samples(size))
    made.blob("summary", b'{"n_samples": 16, "kl_bound": 1.835}')
    made.blob("summary_trained", b'{"n_samples": 4, "kl_bound": null}')
    cells = [cell for number, target in enumerate(size.names) for cell in column(made, size, target, number)]
    make_plan(cells, made.store, name="big", command=["benchmark"]).write()


def column(made: Made, size: Size, target: str, number: int) -> Iterator[Cell]:
    """The cells of a target: VARIANTS different records of each kind, dealt out to the sources."""
    random = np.random.default_rng([size.languages, number])
    shared = [f"{target}_gold_pool", f"{target}_gold_baseline"]
    for name, width in zip(shared, (SAMPLES, OPPONENTS), strict=True):
        made.blob(name, array(random.random((size.prompts, width)).round(2)))
    for v in range(VARIANTS):
        made.blob(f"{target}_heldout_{v}", msgspec.json.encode(held_out(random)))
        made.blob(f"{target}_items_{v}", msgspec.json.encode(items(size, target, random, trained=False)))
        made.blob(f"{target}_curve_{v}", array(random.random((size.prompts, SAMPLES))))
        made.blob(f"{target}_pool_{v}", array(random.normal(size=(size.prompts, SAMPLES))))
        made.blob(f"{target}_baseline_{v}", array(random.normal(size=(size.prompts, OPPONENTS))))
        if size.optimizers > 1:
            made.blob(f"{target}_trained_{v}", msgspec.json.encode(items(size, target, random, trained=True)))
    base = Stage.make("base", 1, "base", {}, {})
    sft = {lang: Stage.make("sft", 1, f"sft[{lang}]", {"lang": lang}, {"base": base}) for lang in size.names}
    pool = Stage.make("pool", 1, f"pool[{target}]", {}, {"sft": sft[target]})
    baseline = Stage.make("baseline", 1, f"baseline[{target}]", {}, {"sft": sft[target]})
    for stage in (pool, baseline):
        made.publish(stage, {"samples.jsonl": "samples"})
    for place, source in enumerate(size.names):
        reward = Stage.make("reward", 1, f"reward[{source}]", {"lang": source}, {"sft": sft[source]})
        for arm, optimizer in enumerate(size.arms):
            said = pool
            if arm:
                parents = {"sft": sft[target], "reward": reward}
                policy = Stage.make("align", 1, f"align[{source}, {target}]", {"optimizer": optimizer}, parents)
                said = Stage.make("aligned", 1, f"aligned[{source}, {target}]", {}, {"sft": policy})
            yield cell(made, source, target, optimizer, (reward, said, baseline), (place + arm) % VARIANTS)


def cell(
    made: Made, source: str, target: str, optimizer: str, parents: tuple[Stage, Stage, Stage], variant: int
) -> Cell:
    reward, pool, baseline = parents
    both = {"pool": pool, "baseline": baseline}
    score = Stage.make("score", 1, f"score[{source}, {target}]", {}, {"reward": reward, **both})
    gold = Stage.make("gold", 1, f"gold[{target}]", {}, both)
    judge = Stage.make("judge", 1, f"judge[{source}, {target}]", {}, {"score": score, "verdict": gold, **both})
    arrays = {"pool.npy": f"{target}_pool_{variant}", "baseline.npy": f"{target}_baseline_{variant}"}
    made.publish(score, arrays | {"heldout.json": f"{target}_heldout_{variant}"})
    if not made.store.folder("gold", gold.key).exists():
        made.publish(gold, {"pool.npy": f"{target}_gold_pool", "baseline.npy": f"{target}_gold_baseline"})
    if optimizer == "best_of_n":
        curve = f"{target}_curve_{variant}"
        files = {"items.json": f"{target}_items_{variant}", "curve.npy": curve, "summary.json": "summary"}
    else:
        files = {"items.json": f"{target}_trained_{variant}", "summary.json": "summary_trained"}
    made.publish(judge, files)
    axes = {"task": "toy", "policy": "micro", "rm_backbone": "frozen_lm", "optimizer": optimizer, "judge": "gold"}
    return Cell({**axes, "source_lang": source, "target_lang": target, "seed": 0}, judge)


MEASURED = """
import resource, sys, time
from pathlib import Path
from xling.grid.store import Store
root = sys.argv[1]
{profile}{work}{shown}
usage = resource.getrusage(resource.RUSAGE_SELF)
megabytes = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
print(usage.ru_utime + usage.ru_stime, megabytes)
"""
PROFILE = "import cProfile, pstats; p = cProfile.Profile(time.process_time); p.enable()\n"
SHOWN = "\np.disable(); pstats.Stats(p, stream=sys.stderr).sort_stats('tottime').print_stats(25)"


def measured(work: str, root: Path, profile: bool) -> tuple[float, float, float]:
    """(CPU seconds, peak megabytes, seconds) of a fresh process, its imports included."""
    began = time.perf_counter()
    code = MEASURED.format(work=work, profile=PROFILE if profile else "", shown=SHOWN if profile else "")
    done = subprocess.run([sys.executable, "-c", code, str(root)], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=None if profile else subprocess.PIPE)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu, megabytes = map(float, done.stdout.split()[-2:])
    return cpu, megabytes, time.perf_counter() - began


def benchmark(root: Path, size: Size, parts: Sequence[str], profile: bool, apart: bool) -> int:
    began = time.process_time()
    make_grid(root, size, apart)
    took = time.process_time() - began
    print(f"made {size.cells:,} cells x {size.prompts:,} prompts in {took:.0f} CPU-s", flush=True)
    limited, peak = None, 0.0
    for name in parts:
        cpu, megabytes, seconds = measured(PARTS[name], root, profile)
        print(f"{name:18s} {cpu:8.1f} CPU-s {megabytes:8.0f} MB {seconds:8.1f} s", flush=True)
        limited, peak = cpu if name == LIMITED else limited, max(peak, megabytes)
    whole = size.cells >= 9_000 and size.prompts >= 1_000 and not profile
    limits = {
        f"{LIMITED}: at most {MOST_CPU:.0f} CPU-s": limited is None or limited <= MOST_CPU,
        f"at most {MOST_MEGABYTES} MB": peak <= MOST_MEGABYTES,
    }
    for name, holds in limits.items() if whole else ():
        print(f"{'ok  ' if holds else 'MISS'} {name}")
    return 0 if all(limits.values()) or not whole else 1


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--languages", type=int, default=100)
    parser.add_argument("--optimizers", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--profile", action="store_true", help="show where each part spends its time")
    parser.add_argument("--apart", action="store_true", help="each file of a result by itself, as in older roots")
    parser.add_argument("--within", help="a folder on the disk to measure (default: the temporary one)")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="reduce-", dir=options.within))
    try:
        size = Size(options.languages, options.optimizers, options.prompts)
        return benchmark(root, size, options.parts, options.profile, options.apart)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
