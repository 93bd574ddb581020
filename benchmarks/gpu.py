"""docs/gpu.md: every trainer on a GPU beside the CPU, and at real size: speed and memory beside roofline and plan.

    make gpu-check                 # or: python benchmarks/gpu.py [--only PART ...]; under 8 minutes on one H100 or H200
    python benchmarks/gpu.py --cpu # the same code on the CPU, with tiny models: what can be tested without a GPU

Models have random weights: nothing is downloaded. A part is a process of its own and leaves its result in
<root>/PART.json. The same command goes on where it was stopped: finished parts are not run again (delete their file for
that), and a part for which too little of the eight minutes is left is left out, and said. Exit code 1 if a part failed,
or if a number of the GPU is not the CPU's. The page is written on a GPU alone.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_real_size import at_real_size
from gpu_trainers import MODELS, SMALL, Row, models_of

ROOT = Path(__file__).parents[1]
LIMIT = 480.0  # seconds of one command
PARTS: Mapping[str, float] = {  # name -> seconds that it is given
    "trainers": 90,
    "flash_attention": 40,
    "qlora": 40,
    "vllm": 90,
    "two_processes": 60,
    **dict.fromkeys(MODELS, 120),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that have no result yet, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT / "outputs" / "gpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "gpu.md")
    parser.add_argument("--cpu", action="store_true", help="tiny models on the CPU, in this process; no page")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        write(given.root / f"{given.part}.json", results_of(given.part, given.root, given.cpu))
        return 0
    if not given.cpu and not _there():
        print("There is no GPU here. Type python benchmarks/gpu.py --cpu for the same code on the CPU.")
        return 1
    begun, bad = time.monotonic(), False
    given.root.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        path, left = given.root / f"{name}.json", given.limit - (time.monotonic() - begun)
        if not path.exists() and left < PARTS[name]:
            print(f"{name}: left out, it is given {PARTS[name]:.0f} s and {left:.0f} are left. Type the same again.")
            continue
        if not path.exists():
            print(f"{name} ...", flush=True)
            _run(name, given.root, given.cpu)
        if not path.exists():
            bad = True
            continue
        for row in read(path)["rows"]:
            print("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
            bad = bad or bool(row.get("off"))
    if not given.cpu:
        given.page.write_text(page(given.root), "utf-8")
    return int(bad)


def _run(name: str, root: Path, cpu: bool) -> None:
    if cpu:
        write(root / f"{name}.json", results_of(name, root, cpu))
        return
    command = [sys.executable, __file__, "--part", name, "--root", str(root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _, told = process.communicate(timeout=PARTS[name])
            said = told[-1500:] if process.returncode else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # with what it has started itself
            said = f"it was stopped after {PARTS[name]:.0f} s."
    if said:
        print(f"{name} failed: {said}", file=sys.stderr)


def _there() -> bool:
    import torch

    return torch.cuda.is_available()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(path: Path, value: Any) -> None:
    """Whole, or not at all."""
    path.with_suffix(".partial").write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    path.with_suffix(".partial").replace(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def results_of(name: str, root: Path, cpu: bool) -> Row:
    """A part's rows, and where and how long it ran."""
    import torch

    torch.manual_seed(0)
    begun = time.monotonic()
    folder = models_of(root / "models")
    rows = at_real_size(name, cpu) if name in MODELS else SMALL[name](folder, root, cpu)
    device = "CPU" if cpu else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "seconds": time.monotonic() - begun, "rows": rows}


# --- the page -----------------------------------------------------------------------------------------------


def page(root: Path) -> str:
    """docs/gpu.md of the results that are there."""
    found = {name: read(root / f"{name}.json") for name in PARTS if (root / f"{name}.json").exists()}
    devices = sorted({f"{one['device']}, torch {one['torch']}" for one in found.values()})
    lines = ["# On a GPU", "", f"`make gpu-check` on {'; '.join(devices)}.",
             "Random weights; `benchmarks/gpu.py` says what each part does.", ""]  # fmt: skip
    for name in PARTS:
        lines += [f"## {name}", ""]
        rows = found.get(name, {"rows": [{"said": "not run"}]})["rows"]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_short(row.get(column, '')) for column in columns)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
