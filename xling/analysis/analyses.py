"""All analyses of a grid or of the paper's published matrices, by name.

grid_findings(store, "embedded")          # of what stands in the store now
findings_of(grid_entries(matrix, draws))  # of a grid that has just been folded
paper_findings()
"""

from collections.abc import Callable, Sequence

from xling.analysis.draws import Draws
from xling.analysis.entries import Entries, grid_entries
from xling.analysis.findings import Finding
from xling.analysis.paper import paper_entries
from xling.analysis.ranking import source_ranking
from xling.analysis.reduce import fold_grid
from xling.errors import ConfigError
from xling.grid.store import Store

Analysis = Callable[[Entries], Finding]
OF_ENTRIES: dict[str, Analysis] = {"source_ranking": source_ranking}


def grid_findings(store: Store, name: str, only: Sequence[str] = ()) -> list[Finding]:
    """Every analysis of a grid, or those named. ConfigError: no such grid or analysis."""
    draws = Draws()
    matrix = fold_grid(store, name, draws)
    return findings_of(grid_entries(matrix, draws), only)


def findings_of(entries: Entries, only: Sequence[str] = ()) -> list[Finding]:
    """What can be said from the matrix alone, without reading a grid's files again."""
    wanted = chosen(only, list(OF_ENTRIES))
    return [OF_ENTRIES[name](entries) for name in wanted]


def paper_findings(only: Sequence[str] = ()) -> list[Finding]:
    """The same of the paper's published matrices, and what its other tables say."""
    return findings_of(paper_entries(), only)


def chosen(only: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names asked for in the order of `known`; all of them where none is asked for. ConfigError: unknown."""
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"There is no analysis '{unknown[0]}' here. Type --only with some of: {', '.join(known)}.")
    return [name for name in known if not only or name in only]
