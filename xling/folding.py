"""From finished cells to what people see of them: the matrix's files, the terminal, the tracker.

code = fold(store, "embedded", {"mode": "off"})
"""

import sys
from collections.abc import Mapping
from typing import Any

from xling.console import harmless
from xling.grid.store import Store


def fold(store: Store, name: str, tracking: Mapping[str, Any], heal: bool = False) -> int | None:
    """Folds a grid's complete cells into its matrix. Exit code: 1 if a result was damaged or could not be read, else 0.

    heal: the caller makes damaged results (`store.damaged`) again. If there are any, nothing is shown: None.
    """
    from xling.report.files import reduce_grid  # scipy and pandas, which plan and run do without
    from xling.report.tables.terminal import print_matrix

    matrix = reduce_grid(store, name)
    if heal and store.damaged:
        return None
    print_matrix(matrix)
    if tracking["mode"] != "off":
        from xling.tracking.base import asked_trackers
        from xling.tracking.track import track_grid

        for tracker in asked_trackers(tracking):
            result = track_grid(store.root, name, {**tracking, "name": tracker})
            print(f"xling: {result.sentence()}", file=sys.stderr)
    for sentence in store.damage():
        print(harmless(f"xling: {sentence}"), file=sys.stderr)
    return int(not store.trusted)
