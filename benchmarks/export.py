"""How long `xling export` takes for a model of 270 million weights, beside `cp` of its folder, in turns.

    python benchmarks/export.py               # 0.5 GB: random weights in bfloat16
    python benchmarks/export.py --repeats 9

A small grid is run first; its sft[tr] then gets a model of that size. An export reads all bytes twice: the store
compares their hashes with those that were published, and then they are copied. Each alone:

    cp        cp -r of the folder, into the system's cache
    disk      the same, until the bytes are on the disk
    hashes    what reading a result of the store costs
    export    the whole command, without starting Python
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf

import xling
from xling.exports import Asked, export, located
from xling.grid.store import Store

LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16,
         "num_key_value_heads": 16, "head_dim": 64}  # fmt: skip
FEW = ("task.ratings=32", "task.demonstrations=32", "task.test_prompts=32", "sft.steps=2", "optimizer.n=2",
       "source_lang=en", "target_lang=tr", "name=g", "tracking.mode=off", "hydra.launcher.workers=1")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        root, out = Path(folder).absolute() / "outputs", Path(folder).absolute() / "out"
        xling.run("sweeps=demo", *FEW, f"root={root}")
        model = enlarged(Store(root))
        size = sum(path.stat().st_size for path in model.iterdir()) / 1e9
        ways: dict[str, Callable[[], object]] = {
            "cp": lambda: subprocess.run(["cp", "-r", model, out], check=True),
            "disk": lambda: subprocess.run(f"cp -r '{model}' '{out}' && sync '{out}'/*", shell=True, check=True),
            "hashes": lambda: located_and_read(root),
            "export": lambda: export(Store(root), "g", "sft[tr]", Asked(out)),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.repeats + 1):
            for name, way in ways.items():
                before = time.perf_counter()
                way()
                if turn:  # the first fills the page cache
                    taken[name].append(time.perf_counter() - before)
                shutil.rmtree(out, ignore_errors=True)
    print(f"{size:.2f} GB, {options.repeats} turns")
    for name, seconds in taken.items():
        ratios = sorted(own / copy for own, copy in zip(seconds, taken["cp"], strict=True))
        print(f"{name}: {statistics.median(seconds):.2f} s, {statistics.median(ratios):.2f} x cp "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip


def located_and_read(root: Path) -> Path:
    store = Store(root)
    folder = located(store, "g", "sft[tr]")
    return store.load("sft", folder.name)


def enlarged(store: Store) -> Path:
    """The folder of sft[tr], once its model has been swapped for a large one of the same kind."""
    folder = located(store, "g", "sft[tr]")
    sheet, done = store.sheet("sft", folder.name), store.check("sft", folder.name).done
    assert sheet is not None and done is not None
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    for path in folder.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("spec.json", "done.json"):
            shutil.copy(path, made)
    config = hf.AutoConfig.from_pretrained(folder)
    for name, value in LARGE.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    print(f"{sum(one.numel() for one in model.parameters()) / 1e6:.0f} million weights", file=sys.stderr)
    model.save_pretrained(made)
    store.publish(sheet, folder.name, made, done.run, replace=True)
    return folder


if __name__ == "__main__":
    main()
