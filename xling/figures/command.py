"""`xling figures`: from a grid's name, or `paper`, to the folder of its figures."""

from pathlib import Path

from xling.figures.write import Asked, Written, write_figures
from xling.grid.status import chosen_grid
from xling.grid.store import Store
from xling.report.files import read_matrix


def figures(store: Store, grid: str | None, out: str | None, asked: Asked) -> Written:
    """Write the figures of a grid's matrix.json. ConfigError, StoreError: no such grid, or nothing folded yet."""
    name = chosen_grid(store, grid)
    folder = store.grid_folder(name)
    return write_figures(read_matrix(folder), [], Path(out).expanduser() if out else folder / "figures", asked)
