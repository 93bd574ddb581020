"""What the way through Hydra costs: N x N languages to a plan, against Hydra's own sweeper composing cells.

    python benchmarks/hydra_overhead.py                                  # 100 x 100 languages, 200 basic cells
    python benchmarks/hydra_overhead.py --languages 20 --basic-cells 40

Every line is the user and system time of one process, from the start of Python to its end. The languages are
invented and lie in a folder of their own (hydra.searchpath). `start` is the same command with one cell; what a
further cell costs is the rest divided by their number, and the ratio of both ways is of this very run.
Exit code 1 if a limit is broken; the limits hold for 100 x 100.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import hydra
from omegaconf import DictConfig

HERE = Path(__file__).resolve().parent
LAUNCH = HERE.parent / "launch.py"
MOST_CPU_SECONDS = 25.0
MOST_MEGABYTES = 200.0
BASIC = ("hydra/sweeper=basic", "hydra/launcher=basic")


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def basic(_: DictConfig) -> None:
    """One cell of Hydra's basic launcher, doing nothing: only its composing is measured."""


def overlay(folder: Path, count: int) -> list[str]:
    """Invented languages in a configuration folder; their codes."""
    codes = [f"q{number:03d}" for number in range(count)]
    (folder / "source_lang").mkdir(parents=True)
    (folder / "target_lang").symlink_to("source_lang")
    for code in codes:
        facts = f"code: {code}\nname: Language {code}\nnative_name: {code}\nscript: Latn\ndirection: ltr\n"
        (folder / "source_lang" / f"{code}.yaml").write_text(facts, encoding="utf-8")
    return codes


def measured(name: str, arguments: list[str], cwd: Path, expected: str = "") -> tuple[float, float]:
    """(CPU seconds, peak MB) of a Python process with these arguments, whose output must hold `expected`."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    log = cwd / "output.txt"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    argv = [sys.executable, *arguments, f"hydra.sweep.dir={cwd / 'sweep'}"]
    child = os.posix_spawn(sys.executable, argv, environment, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) or expected not in log.read_text():
        sys.exit(f"{name} failed:\n{log.read_text()}")
    cpu, megabytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{name:44s} {cpu:8.2f} CPU-s {megabytes:8.0f} MB", flush=True)
    return cpu, megabytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", type=int, default=100)
    parser.add_argument("--basic-cells", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        codes = overlay(folder / "conf", options.languages)
        shared = [f"hydra.searchpath=[file://{folder / 'conf'}]", f"task.languages=[{','.join(codes)}]"]
        ours = [str(LAUNCH), "hydra.launcher.catalogue=noop_grid", f"root={folder / 'outputs'}", "dry_run=true"]
        hydras = [str(Path(__file__).resolve()), "--multirun", *BASIC]
        one = [f"source_lang={codes[0]}", f"target_lang={codes[0]}"]
        every = ["source_lang=glob(q*)", "target_lang=glob(q*)"]
        some = [one[0], f"target_lang={codes[0]}", f"seed=range({options.basic_cells})"]

        start, _ = measured("xling, one cell planned", [*ours, *shared, *one], folder)
        count = options.languages
        name = f"xling, {count} x {count} languages planned"
        planned = f"{count**2} cells, {1 + 3 * count + count**2} stages"
        whole, megabytes = measured(name, [*ours, "name=b", *shared, *every], folder, planned)
        basic_start, _ = measured("Hydra basic, one cell", [*hydras, *shared, *one], folder)
        basic_whole, _ = measured(f"Hydra basic, {options.basic_cells} cells", [*hydras, *shared, *some], folder)

    per_cell = (whole - start) / max(1, options.languages**2 - 1)
    basic_per_cell = (basic_whole - basic_start) / max(1, options.basic_cells - 1)
    print(f"a further cell: {1000 * per_cell:.2f} CPU-ms against {1000 * basic_per_cell:.0f}", end="")
    print(f": {basic_per_cell / per_cell:.0f} times less")
    print(f"limits: {MOST_CPU_SECONDS:.0f} CPU-s, {MOST_MEGABYTES:.0f} MB")
    return int(whole > MOST_CPU_SECONDS or megabytes > MOST_MEGABYTES)


if __name__ == "__main__":
    # As a child it is a Hydra program, else the benchmark.
    sys.exit(basic() if set(BASIC) <= set(sys.argv) else main())
