"""What sharing stages saves: a grid as one plan, against Hydra's basic launcher doing each cell by itself.

    python benchmarks/sharing.py                # 3 x 3 languages, small sizes, a few minutes
    python benchmarks/sharing.py --languages 2

Both run the same cells with the same stage functions, one process at a time (one worker, one thread). The figures
are user and system time from the start of Python to its end, imports included, in one run; the ratio is the result.
Exit code 1 if the 3 x 3 ratio is below 3.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

HERE = Path(__file__).resolve().parent
LAUNCH = HERE.parent / "launch.py"
LANGUAGES = ("de", "en", "tr", "es", "ru", "vi")
SMALL = (
    "task.test_prompts=64",
    "task.demonstrations=400",
    "task.ratings=400",
    "sft.steps=30",
    "rm_backbone.training.steps=30",
    "tracking.mode=off",
)
LEAST = 3.0


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def basic(cfg: DictConfig) -> None:
    """One cell of Hydra's basic launcher: every stage it needs, in this process, shared with nobody."""
    from xling.compose.overrides import SHARED_KEYS
    from xling.experiment import experiment_from
    from xling.planning import dag

    container: Any = OmegaConf.to_container(cfg)
    cell = {key: container[key] for key in SHARED_KEYS}
    cell |= {"source_langs": [container["source_lang"]], "target_lang": container["target_lang"]}
    with tempfile.TemporaryDirectory() as folder:
        _run(dag.judge_stage(experiment_from(cell)), Path(folder), {})


def _run(stage: Any, root: Path, done: dict[str, Path]) -> Path:
    """The folder of a stage after all that it needs."""
    from xling.grid.stage import Context
    from xling.planning import KINDS

    if stage.key not in done:
        parents: Mapping[str, Path] = {role: _run(parent, root, done) for role, parent in stage.parents.items()}
        out, scratch = root / stage.key, root / f"{stage.key}.scratch"
        out.mkdir()
        scratch.mkdir()
        spec = json.loads(json.dumps(stage.spec))
        KINDS[stage.kind].run(Context(spec, parents, out, scratch, lambda _done, _total: None))
        done[stage.key] = out
    return done[stage.key]


def cpu_seconds(name: str, arguments: list[str], cwd: Path) -> float:
    """User and system time of a Python process and its workers."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    log = cwd / f"{name}.txt"
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    child = os.posix_spawn(sys.executable, [sys.executable, *arguments], environment, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{name} failed:\n{log.read_text()[-3000:]}")
    seconds = usage.ru_utime + usage.ru_stime
    print(f"{name:24s} {seconds:8.1f} CPU-s", flush=True)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", type=int, default=3, help="N for an N x N grid, at most 6")
    count = parser.parse_args().languages
    langs = ",".join(LANGUAGES[:count])
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        asked = [f"source_lang={langs}", f"target_lang={langs}", *SMALL]
        shared = [str(LAUNCH), *asked, f"root={cwd / 'shared'}", "hydra.launcher.workers=1"]
        alone = [str(HERE / "sharing.py"), "--basic", "-m", *asked, "hydra/sweeper=basic", "hydra/launcher=basic"]
        ours = cpu_seconds("xling", shared, cwd)
        theirs = cpu_seconds("hydra-basic", [*alone, f"hydra.sweep.dir={cwd / 'sweep'}"], cwd)
    print(f"{count} x {count}: Hydra's basic launcher takes {theirs / ours:.2f} times the CPU")
    return int(count == 3 and theirs / ours < LEAST)


if __name__ == "__main__":
    if "--basic" in sys.argv:
        sys.argv.remove("--basic")
        basic()
    else:
        sys.exit(main())
