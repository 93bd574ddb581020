"""The analyses that the page shows: those of the matrix made anew, those of a grid's files as they were last written.

The latter read every item again, which takes from seconds to a minute: too long for the end of each run. They are
taken from the analysis.json that `xling analyse` leaves in the grid's folder, where there is one.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from xling.analysis.catalogue import OF_ENTRIES
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import Matrix
from xling.analysis.tidy.entries import Draws, Entries, grid_entries
from xling.analysis.tidy.finding import Finding
from xling.grid.store import Store
from xling.jsonfiles import unsealed

Folded = tuple[Matrix, Draws]
WRITTEN = "analysis.json"


def shown_findings(store: Store, name: str, folded: Folded | None) -> list[Finding]:
    """All that there are; the grid is not folded a second time if that has just been done."""
    if folded is None:
        draws = Draws()
        folded = fold_grid(store, name, draws.add), draws
    entries = grid_entries(*folded)
    found: list[Finding] = []
    for one, analysis in OF_ENTRIES.items():
        found += _made(one, partial(_one, analysis, entries))
    return found + _made("analyses of items", partial(_written, store.grid_folder(name), set(OF_ENTRIES)))


def _one(analysis: Callable[[Entries], Finding], entries: Entries) -> list[Finding]:
    return [analysis(entries)]


def _made(name: str, make: Callable[[], list[Finding]]) -> list[Finding]:
    """One that fails costs neither the page nor the others, and is told."""
    try:
        return make()
    except Exception as error:
        return [_nothing(name, f"it could not be made ({type(error).__name__}: {error})")]


def _written(folder: Path, known: set[str]) -> list[Finding]:
    """Of analysis.json what is not known already."""
    path = folder / WRITTEN
    if not path.exists():
        return [_nothing("analyses of items", f"type `xling analyse {folder.name}`, then `xling report --open`")]
    found = []
    for one in unsealed(path.read_bytes(), dict[str, Any])["findings"]:
        if one["name"] not in known:
            table = pd.DataFrame(one["rows"], columns=one["columns"])
            note = f"{one['note']} As `xling analyse` last wrote it.".strip()
            found.append(Finding(one["name"], one["title"], table, note, tuple(one["left_out"])))
    return found


def _nothing(name: str, why: str) -> Finding:
    return Finding(name.replace(" ", "_"), name.replace("_", " ").capitalize(), pd.DataFrame(), left_out=(why,))
