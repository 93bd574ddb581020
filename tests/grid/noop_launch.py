"""Run a grid of no-op stages in a process of its own: `python noop_launch.py ROOT WORKERS MODE SPECIAL [TIMEOUT]`.

SPECIAL is the JSON of `grid`'s keyword arguments. Prints one JSON line with the outcome, exits with its code.
"""

import json
import sys
from pathlib import Path

from noop_stages import KINDS, fold, grid

from xling.errors import XlingError
from xling.grid.plan import make_plan
from xling.grid.store import Store
from xling.runners.local.runner import run_local


def main(root: str, workers: str, mode: str, special: str, timeout: str = "180") -> int:
    cells = grid(["de", "en"], ["de", "en"], **json.loads(special))
    plan = make_plan(cells, Store(root), mode=mode, name="small", kinds=KINDS)
    try:
        outcome = run_local(plan, "noop_stages:KINDS", workers=int(workers), claim_timeout=float(timeout))
    except XlingError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"executed": outcome.executed, "fold": fold(Path(root))}))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
