"""A catalogue of no-op stages with the program's graph and file formats, to test what lies around them.

`hydra.launcher.catalogue=toy_stages` with this folder's parent on PYTHONPATH. Wins follow from a hash; a
reward model with permutation=99 raises.
"""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

from toy_stages.behaviour import behave
from xling.grid import joined
from xling.grid.stage import Context, Kind, Stage
from xling.planning import sharing

PROMPTS, SAMPLES, OPPONENTS = 24, 4, 2
TRAINED = ("sft", "reward")


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def note(context: Context) -> None:
    behave(context)
    if context.spec.get("permutation") == 99:
        raise ValueError("permutation 99 is the toy's failure")
    _write(context.out / "note.json", dict(context.spec))
    read_weights(context)
    if context.out.parent.name in TRAINED:
        (context.out / "weights.bin").write_bytes(bytes(1000))


def read_weights(context: Context) -> None:
    """Of all parents that have some: FileNotFoundError where they were dropped."""
    for parent in context.parents.values():
        if parent.parent.name in TRAINED:
            (parent / "weights.bin").read_bytes()


def scores(context: Context) -> None:
    behave(context)
    read_weights(context)
    generator = np.random.default_rng(random.Random(str(sorted(context.spec.items()))).randrange(2**32))
    np.save(context.out / "pool.npy", generator.random((PROMPTS, SAMPLES)))
    np.save(context.out / "baseline.npy", generator.random((PROMPTS, OPPONENTS)))


def judge(context: Context) -> None:
    behave(context)
    score, verdict = (np.load(joined.opened(context.parents[role] / "pool.npy")) for role in ("score", "verdict"))
    opponents = np.load(joined.opened(context.parents["verdict"] / "baseline.npy"))
    picked = score.argmax(axis=1)
    quality = verdict[np.arange(PROMPTS), picked]
    win = (quality[:, None] > opponents).mean(axis=1)
    items = {
        "prompt": [f"p{i}" for i in range(PROMPTS)],
        "group": [f"g{i // 2}" for i in range(PROMPTS)],
        "dataset": [""] * PROMPTS,
        "index": picked.tolist(),
        "win": win.tolist(),
        "in_language": [1.0] * PROMPTS,
        "length": [5] * PROMPTS,
        "reward": score.max(axis=1).tolist(),
        "quality": quality.tolist(),
        "baseline_quality": opponents.mean(axis=1).tolist(),
    }
    _write(context.out / "items.json", items)
    np.save(context.out / "curve.npy", np.repeat(win[:, None], SAMPLES, axis=1))
    bound = math.log(SAMPLES) - (SAMPLES - 1) / SAMPLES
    _write(context.out / "summary.json", {"n_samples": SAMPLES, "kl_bound": bound})


def _on_gpu(stage: Stage) -> bool:
    return stage.kind not in ("base", "gold", "judge")


KINDS = {kind: Kind(kind, 1, note, 0.01, gpu=_on_gpu) for kind in ("base", "pool", "baseline")}
KINDS["sft"] = Kind("sft", 1, note, 0.01, parallel=True, weights=("*.bin",), gpu=_on_gpu)
KINDS["reward"] = Kind("reward", 1, note, 0.01, parallel=True, shared=sharing.reward, weights=("*.bin",), gpu=_on_gpu)
KINDS |= {kind: Kind(kind, 1, scores, 0.01, joined=True, gpu=_on_gpu) for kind in ("score", "gold")}
KINDS["judge"] = Kind("judge", 1, judge, 0.01, joined=True, gpu=_on_gpu)
