"""What a large `files` task costs: 100,000 rows loaded, checked and split, from JSONL and from Parquet.

    python benchmarks/files_task.py                # 100,000 ratings of 50,000 prompts in 4 languages
    python benchmarks/files_task.py --rows 10000

Each format is read in a process of its own, which measures its CPU time and its peak of resident memory (imports
included); the parent stays small, because a child's peak begins with its parent's. Exit code 1 if one takes more
than 20 CPU-s or 1 GB.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LANGUAGES = ("de", "en", "ru", "tr")
CPU_SECONDS, GIGABYTES = 20.0, 1.0
WORDS = ("der", "Bericht", "summary", "новость", "haber", "of", "quantity", "Vertrag", "şehir", "город", "and", "42")


def rows(count: int) -> list[dict[str, object]]:
    """Two systems' rated responses a prompt: prompts of some 1,500 characters, responses of some 200."""
    draw = random.Random(0)
    found: list[dict[str, object]] = []
    for number in range(count // 2):
        lang, prompt = LANGUAGES[number % 4], " ".join(draw.choices(WORDS, k=240))
        for system in "ab":
            response = " ".join(draw.choices(WORDS, k=32))
            row = {"id": f"{number}", "lang": lang, "prompt": f"{number} {prompt}", "system": system}
            found.append(row | {"response": response, "rating": draw.randrange(2)})
    return found


def write(folder: Path, count: int) -> None:
    """The same rows as JSONL and as Parquet."""
    import pyarrow
    import pyarrow.parquet

    made, paths = rows(count), [folder / "rows.jsonl", folder / "rows.parquet"]
    with paths[0].open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), paths[1])


def load(path: str) -> None:
    """Everything that planning and the stages of a grid ask for, once; prints what it took."""
    start = time.perf_counter()
    from xling.tasks import files
    from xling.tasks.files import Settings as Files
    from xling.tasks.records import Split

    config = Files(path=path, languages=())
    found = files.summary(config, LANGUAGES)
    for lang in found.languages:
        for need in ("demonstrations", "pointwise", "pairwise", "prompts", "held_out_pointwise", "crossfitted"):
            files.require(config, [lang], need)  # type: ignore[arg-type]
    splits: tuple[Split, ...] = ("train", "validation", "test")
    assert found.rows == sum(len(files.ratings(config, lang, split)) for lang in found.languages for split in splits)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    measured = {
        "rows": found.rows,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - start,
        "gb": usage.ru_maxrss * 1024 / 1e9,
    }
    print(json.dumps(measured))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--load", help=argparse.SUPPRESS)
    options.add_argument("--write", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.write:
        write(Path(chosen.write), chosen.rows)
        return 0
    if chosen.load:
        load(chosen.load)
        return 0
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--write", folder, "--rows", str(chosen.rows)], check=True)
        for path in sorted(Path(folder).iterdir()):
            command = [sys.executable, __file__, "--load", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            size = path.stat().st_size / 1e6
            print(
                f"{path.suffix[1:]:8} {size:6.1f} MB, {found['rows']:,} rows: {found['cpu_s']:.2f} CPU-s, "
                f"{found['wall_s']:.2f} s, peak {found['gb']:.2f} GB"
            )
            code |= found["cpu_s"] > CPU_SECONDS or found["gb"] > GIGABYTES
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
