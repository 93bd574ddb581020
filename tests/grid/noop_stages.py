"""A catalogue of tiny stages for the grid tests: deterministic results, and every way to go wrong.

`spec["do"]` says what happens before the result is written; `spec["unless"]` names a file: once it is there,
nothing bad happens, so that a test can mend a stage between two runs.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xling.grid.stage import Cell, Context, Kind, Stage

if TYPE_CHECKING:
    from xling.runners.local.schedule import Outcome


def run(context: Context) -> None:
    """Write the hash of the spec and of the parents' results; misbehave first if the spec says so."""
    if not os.path.exists(context.spec.get("unless", "/nowhere")):
        for action in filter(None, context.spec.get("do", "").split("; ")):
            misbehave(action, context)
    digest = hashlib.sha256(json.dumps(dict(context.spec), sort_keys=True).encode())
    for role in sorted(context.parents):
        digest.update((context.parents[role] / "result.json").read_bytes())
    result = {"value": digest.hexdigest(), "spec": dict(context.spec)}
    (context.out / "result.json").write_text(json.dumps(result, sort_keys=True) + "\n", encoding="utf-8")
    (context.out / "more").mkdir()
    (context.out / "more" / "text.txt").write_text("a file in a folder\n", encoding="utf-8")


def misbehave(action: str, context: Context) -> None:
    """`sleep 0.2` and the like; several are joined by `; `."""
    word, _, value = action.partition(" ")
    if word == "raise":
        raise ValueError(value)
    elif word == "exit":
        sys.exit(int(value))
    elif word == "os_exit":
        os._exit(int(value))
    elif word == "interrupt":
        raise KeyboardInterrupt
    elif word == "kill":
        print("about to die", flush=True)
        os.kill(os.getpid(), getattr(signal, value))
    elif word == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif word == "hang":
        time.sleep(float(value))
    elif word == "sleep":
        nap(float(value), context)
    elif word == "print":
        print(value)
        os.system(f"echo {value} from a child")
        sys.stdin.read()
    elif word == "until":
        (context.scratch / "began").write_text("yes", encoding="utf-8")
        while not os.path.exists(value):
            time.sleep(0.05)
    elif word == "spawn":
        spawn(value, context)
    elif word == "fill":
        (context.out / "big").write_bytes(b"x" * int(value))
    elif word == "gpu":
        with open(value, "a", encoding="utf-8") as file:
            file.write(f"{context.out.parent.name} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}\n")
    elif word == "count":
        with open(value, "a", encoding="utf-8") as file:
            file.write(f"{context.out.parent.name} {'+'.join(context.spec['langs'])}\n")
    else:
        raise AssertionError(f"unknown action {action}")


def spawn(how: str, context: Context) -> None:
    """Children of a stage, as libraries start them: in its group, in a session of their own, forked twice."""
    (context.scratch / "began").write_text("yes", encoding="utf-8")
    sleep = ["sleep", "600"]
    pids = {
        "child": lambda: [subprocess.Popen(sleep).pid],
        "session": lambda: [subprocess.Popen(sleep, start_new_session=True).pid],
        "daemon": lambda: [int(subprocess.check_output(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"]))],
        "ignores": lambda: [subprocess.Popen(["sh", "-c", "trap '' HUP TERM INT; sleep 600; sleep 600"]).pid],
    }[how]()
    with open(context.out.parents[2] / "pids", "a", encoding="utf-8") as file:
        file.write("".join(f"{pid}\n" for pid in pids))


def nap(seconds: float, context: Context) -> None:
    """Sleep in steps, with progress; leaves a trace in scratch."""
    (context.scratch / "began").write_text("yes", encoding="utf-8")
    for step in range(10):
        time.sleep(seconds / 10)
        context.progress(step + 1, 10)


NAMES = ("base", "sft", "reward", "pool", "score", "judge")
COMPUTING = ("sft", "reward", "pool")  # these would compute on a GPU
KINDS = {name: Kind(name, 1, run, seconds=0.01, gpu=lambda stage: stage.kind in COMPUTING) for name in NAMES}


def train(context: Context) -> None:
    """`run`, with weights: written by sft and reward, and read of all parents that have any."""
    for parent in context.parents.values():
        if parent.parent.name in TRAINED:
            assert len((parent / "weights.bin").read_bytes()) == 1000
    run(context)
    if context.out.parent.name in TRAINED:
        (context.out / "weights.bin").write_bytes(bytes(1000))


TRAINED = ("sft", "reward")
TRAINING = {
    name: Kind(name, 1, train, 0.01, weights=("*.bin",) if name in TRAINED else (), gpu=lambda stage: False)
    for name in NAMES
}


def stage(kind: str, label: str, parents: Mapping[str, Stage] | None = None, **spec: Any) -> Stage:
    return Stage.make(kind, 1, label, spec, parents or {})


def grid(sources: Sequence[str], targets: Sequence[str], **special: Mapping[str, Any]) -> list[Cell]:
    """Cells of the usual graph; `special` adds to the spec of stages by label, `sft_de={"do": "raise x"}`."""

    def make(kind: str, *languages: str, parents: Mapping[str, Stage] | None = None) -> Stage:
        extra = special.get("_".join((kind, *languages)), special.get(kind, {}))
        label = f"{kind}[{', '.join(languages)}]" if languages else kind
        return stage(kind, label, parents, langs=list(languages), **extra)

    base = make("base")
    languages = sorted({*sources, *targets})
    sft = {lang: make("sft", lang, parents={"base": base}) for lang in languages}
    reward = {lang: make("reward", lang, parents={"sft": sft[lang]}) for lang in sources}
    pool = {lang: make("pool", lang, parents={"sft": sft[lang]}) for lang in targets}
    cells = []
    for source in sources:
        for target in targets:
            parents = {"reward": reward[source], "pool": pool[target]}
            score = make("score", source, target, parents=parents)
            judge = make("judge", source, target, parents={"score": score, "pool": pool[target]})
            cells.append(Cell({"source_lang": source, "target_lang": target, "seed": 0}, judge))
    return cells


def fold(root: Path) -> str:
    """One hash over all results: names and bytes, without the markers."""
    digest = hashlib.sha256()
    for folder in sorted((root / "stages").glob("*/" + "[0-9a-f]" * 64)):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != "done.json":
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def executed(
    root: Path, cells: Sequence[Cell], name: str = "small", mode: str = "retry", workers: int = 2, show: bool = False
) -> "Outcome":
    """Plan a grid and run it in worker processes."""
    from xling.grid.plan import make_plan
    from xling.grid.store import Store
    from xling.runners.local.runner import run_local

    plan = make_plan(cells, Store(root), mode=mode, name=name)
    return run_local(plan, "noop_stages:KINDS", workers=workers, show=show)
