"""Heads on many rated responses: by sums of rows against by the rows themselves, in turns, on made-up features.

    python benchmarks/ridge.py                    # 16,000 rows, 513 columns
    python benchmarks/ridge.py --rows 37000 --columns 1025 --only sums

Prints CPU seconds of one head each way, their ratio, and how far apart penalties and weights are.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from xling.models import ridge


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 if the two differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--columns", type=int, default=513)
    parser.add_argument("--only", choices=["sums", "rows"])
    given = parser.parse_args(arguments)
    draw = np.random.default_rng(0)
    features = draw.normal(size=(given.rows, given.columns))
    labels = features[:, :8].sum(axis=1) + 4 * draw.normal(size=given.rows)
    groups = [f"g{row // 8}" for row in range(given.rows)]
    found = {}
    for name, many in {"sums": 0, "rows": given.rows + 1}.items():
        if given.only in (None, name):
            ridge.MANY_ROWS = many
            seconds, head = measured(lambda: ridge.fit([features], labels, groups))
            print(f"by {name}: {seconds:.2f} CPU-s, penalty {head.penalty:g}, explained {head.explained:.6f}")
            found[name] = seconds, head
    if len(found) < 2:
        return 0
    (fast, one), (slow, other) = found["sums"], found["rows"]
    apart = float(np.abs(one.weight - other.weight).max() / np.abs(other.weight).max())
    print(f"ratio: {slow / fast:.1f}; largest difference of a weight: {apart:.1e} of the largest one")
    return int(one.penalty != other.penalty or apart > 1e-6)


def measured(fit: Callable[[], ridge.Linear]) -> tuple[float, ridge.Linear]:
    """CPU seconds, and the head."""
    start = time.process_time()
    head = fit()
    return time.process_time() - start, head


if __name__ == "__main__":
    sys.exit(main())
