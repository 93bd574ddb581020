"""Heads on many rated responses: by sums of rows against by the rows themselves, in turns, on made-up features.

    python benchmarks/ridge.py                    # 16,000 rows, 513 columns
    python benchmarks/ridge.py --rows 4999
    python benchmarks/ridge.py --rows 37000 --columns 1025 --only sums
    python benchmarks/ridge.py --others sentence_encoder --rows 46714      # or bag_of_words

Prints CPU seconds of one head each way, their ratio, and how far apart penalties and weights are. --others: all that
the reward stage of `source_lang=others` does, from a file of so many rows in eight languages to its heads, with the
largest memory; in place of a sentence encoder's vectors, which have a stage of their own, there are made-up ones.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.linalg  # noqa: F401  # which the first fit would load

from xling.models import ridge
from xling.rewards import RewardSettings, heads
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.tasks import files
from xling.tasks.records import Recorded

Made = TypeVar("Made")
LANGS = ("ar", "de", "en", "es", "fr", "ru", "tr", "zh")
BACKBONES: dict[str, RewardSettings] = {"sentence_encoder": SentenceEncoder(), "bag_of_words": BagOfWords()}
SYSTEMS = 8  # of a document
WORDS = 20_000  # that there are
LENGTHS = (120, 30)  # words of documents and of responses
WIDTH = 512  # of a vector


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 if the two differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--columns", type=int, default=513)
    parser.add_argument("--only", choices=["sums", "rows"])
    parser.add_argument("--others", choices=list(BACKBONES))
    given = parser.parse_args(arguments)
    if given.others:
        with tempfile.TemporaryDirectory() as folder:
            others(Path(folder), given.others, given.rows)
        return 0
    draw = np.random.default_rng(0)
    features = draw.normal(size=(given.rows, given.columns))
    labels = features[:, :8].sum(axis=1) + 4 * draw.normal(size=given.rows)
    groups = [f"g{row // 8}" for row in range(given.rows)]
    found = {}
    for name, many in {"sums": 0, "rows": given.rows + 1}.items():
        if given.only in (None, name):
            ridge.MANY_ROWS, ridge.ROWS_PER_COLUMN = many, 0
            seconds, head = measured(lambda: ridge.fit([features], labels, groups))
            print(f"by {name}: {seconds:.2f} CPU-s, penalty {head.penalty:g}, explained {head.explained:.6f}")
            found[name] = seconds, head
    if len(found) < 2:
        return 0
    (fast, one), (slow, other) = found["sums"], found["rows"]
    apart = float(np.abs(one.weight - other.weight).max() / np.abs(other.weight).max())
    print(f"ratio: {slow / fast:.1f}; largest difference of a weight: {apart:.1e} of the largest one")
    return int(one.penalty != other.penalty or apart > 1e-6)


def measured(make: Callable[[], Made]) -> tuple[float, Made]:
    """CPU seconds, and what was made."""
    start = time.process_time()
    made = make()
    return time.process_time() - start, made


def others(folder: Path, backbone: str, rows: int) -> None:
    """Prints what reading the rows and training the heads cost."""
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made(rows)), encoding="utf-8")
    task = files.Settings(str(path), ())
    seconds, sources = measured(lambda: [files.recorded(task, lang) for lang in LANGS])
    print(f"{sum(1 for one in sources for _ in one.flat())} rows in {len(sources)} languages read: {seconds:.1f} CPU-s")
    vectors = {one.lang: _vectors(folder, one) for one in sources} if backbone == "sentence_encoder" else {}
    rm = BACKBONES[backbone]
    seconds, _ = measured(lambda: heads.train_heads(sources, rm, vectors, heads.Fitting(), folder))
    head = ridge.load_all(folder / "heads.npz")[0]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"five heads of {backbone}: {seconds:.1f} CPU-s, {most:.2f} GiB at most; explained {head.explained:.3f}")


def made(rows: int) -> list[dict[str, object]]:
    """Rated responses of SYSTEMS systems to each document, in turn in every language; words are drawn by Zipf's law."""
    draw, found = np.random.default_rng(0), list[dict[str, object]]()
    while len(found) < rows:
        number = len(found) // SYSTEMS
        lang = LANGS[number % len(LANGS)]
        texts = [
            " ".join(f"{lang}{word % WORDS}" for word in draw.zipf(1.3, size))
            for size in LENGTHS[:1] + LENGTHS[1:] * SYSTEMS
        ]
        for system, said in enumerate(texts[1:]):
            rating = round(float(draw.normal() + len(set(said.split())) / 10), 3)
            one = {"id": f"{lang}{number}", "lang": lang, "prompt": texts[0], "response": said}
            found.append({**one, "system": f"s{system}", "rating": rating})
    return found[:rows]


def _vectors(folder: Path, recorded: Recorded) -> Path:
    """Made-up unit vectors in the format of the embed stage."""
    out = folder / recorded.lang
    out.mkdir()
    texts = sorted({text for prompt, _, said, _ in recorded.flat() for text in (prompt.reward_text, said)})
    rows = np.random.default_rng(0).normal(size=(len(texts), WIDTH)).astype(np.float32)
    ridge.write_rows(out / "texts.npz", texts, [rows / np.linalg.norm(rows, axis=1, keepdims=True)])
    return out


if __name__ == "__main__":
    sys.exit(main())
