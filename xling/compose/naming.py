"""The name of a grid: the folder below <root>/grids in which its matrix stands."""

import hashlib
import re

from xling.compose.grid import Cells
from xling.compose.overrides import LANGUAGE_GROUPS
from xling.errors import LONGEST_NAME, ConfigError, shown
from xling.grid.stage import canonical_json


def grid_name(cells: Cells) -> str:
    """The given name, the sweep's, or a slug of the axes; a hash tells apart what else was asked for."""
    name = cells.settings["name"]
    if name is not None:
        if not re.fullmatch(r"[\w+-][\w.+-]*", str(name)) or len(str(name).encode()) > LONGEST_NAME:
            raise ConfigError(
                f"name={shown(str(name))} cannot name a folder. Use letters, digits and . _ + -, as in name=my_grid, "
                f"{LONGEST_NAME} at most."
            )
        return str(name)
    if cells.sweep and not cells.request.text:
        return cells.sweep
    digest = hashlib.sha256(canonical_json([cells.sweep, list(cells.request.text)])).hexdigest()[:6]
    return f"{cells.sweep or _slug(cells)}-{digest}"


def _slug(cells: Cells) -> str:
    parts = [str(cells.cells[0][0]["task"]).partition("(")[0]]  # files(own) is no name for a folder
    for group in LANGUAGE_GROUPS:
        labels = list(dict.fromkeys(str(axes[group]) for axes, _ in cells.cells))
        parts.append("_".join(labels) if len(labels) <= 4 else str(len(labels)))
    return "-".join(parts)
