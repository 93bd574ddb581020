"""docs/choosing.md, "On made-up grids": what each rule costs where it is known which one is right.

python benchmarks/choosing.py [WORLDS]
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "analysis"))

from test_choosing import world

from xling.analysis.findings.choosing import choice, recommendation
from xling.analysis.findings.rules import RULES

WORLDS = ("nothing", "none", "elsewhere", "english", "source", "states", "learned")


def main(times: int) -> None:
    """Print a Markdown table, a row a kind of world: how often a source is used, and mean regrets."""
    rules = [rule for rule in RULES if rule not in ("typology", "nn_rank")]  # as `states`, by another likeness
    print(f"| world | source used, % | {' | '.join(rules)} |\n|---|---:|{'---:|' * len(rules)}")
    for kind in WORLDS:
        used, regrets = [], []
        for seed in range(times):
            entries = world(kind, 1000 + seed)
            used += (choice(entries).table["use"] == "source").tolist()
            table = recommendation(entries).table if seed < times // 4 else None
            if table is not None:
                regrets.append(table[table.target_lang == "all"].set_index("rule")["regret"].reindex(rules))
        means = " | ".join("" if np.isnan(cost) else f"{cost:+.1f}" for cost in np.mean(regrets, axis=0))
        print(f"| {kind} | {100 * np.mean(used):.0f} | {means} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="?", type=int, default=200)
    main(parser.parse_args().worlds)
