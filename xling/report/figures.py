"""`xling figures`: from a grid's name, or `paper`, to the folder of its figures and tables."""

from pathlib import Path

from xling.analysis.catalogue import grid_findings, paper_findings
from xling.analysis.matrix.types import read_matrix
from xling.analysis.paper.published import NAME as PAPER
from xling.grid.records import chosen_grid
from xling.grid.store import Store
from xling.report.pictures.published import paper_matrix
from xling.report.pictures.write import TABLES, Asked, Written, write_figures


def figures(store: Store, grid: str | None, out: str | None, asked: Asked) -> Written:
    """Draw a grid's matrix.json, or the paper's published matrices. ConfigError, StoreError: no such grid or matrix."""
    tables = TABLES in asked.only
    if grid == PAPER and not store.grid_folder(PAPER).exists():
        matrix, findings = paper_matrix(), paper_findings() if tables else []
        default = store.root / "figures" / PAPER
    else:
        name = chosen_grid(store, grid)
        folder = store.grid_folder(name)
        if out is None:
            store.refuse_links(name)
        matrix = read_matrix(folder)
        findings, default = grid_findings(store, name) if tables else [], folder / "figures"
    return write_figures(matrix, findings, Path(out).expanduser() if out else default, asked)
