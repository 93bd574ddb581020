"""`xling reduce GRID`: fold the finished cells of a grid, and write everything that shows its matrix.

matrix = reduce_grid(Path("outputs"), "embedded")  # matrix.csv, .json, .md, .png and report.html beside plan.json
"""

from pathlib import Path

from xling.analysis.matrix.fold_grid import fold_grid, grid_categories
from xling.analysis.matrix.types import Matrix
from xling.analysis.tidy.entries import Draws
from xling.grid.store import Store
from xling.report.files import write_matrix
from xling.report.page.write import update
from xling.report.tables.categories import write_categories


def reduce_grid(root: Path | Store, name: str) -> Matrix:
    """Fold a grid, write its matrix files. ConfigError: no such grid; StoreError: its plan cannot be read.

    What has been found damaged on the way stands in the store's `damaged`.
    """
    store, draws = root if isinstance(root, Store) else Store(root), Draws()
    store.refuse_links(name)
    matrix = fold_grid(store, name, draws.add)
    write_matrix(store.grid_folder(name), matrix)
    write_categories(store.grid_folder(name), grid_categories(store, name), matrix.other_axes)
    update(store, name, (matrix, draws))
    return matrix
