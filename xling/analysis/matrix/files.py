"""matrix.json: a matrix as it is stored beside a grid's plan."""

import json
from pathlib import Path
from typing import Any

import msgspec

from xling.analysis.matrix.types import Matrix
from xling.errors import StoreError
from xling.grid import records
from xling.grid.files import sealed_json
from xling.jsonfiles import unsealed


def matrix_json(matrix: Matrix) -> bytes:
    """Everything, sorted keys, floats to six decimals; sealed."""
    return sealed_json(_rounded(msgspec.json.encode(matrix)), indent=1)


def read_matrix(folder: Path) -> Matrix:
    """The matrix that `write_matrix` wrote; StoreError if there is none or it does not fit."""
    path = folder / "matrix.json"
    try:
        content = path.read_bytes()
        found = records.format_of(content, default=records.MATRIX)  # it had no number at first
        if found is not None:
            records.check_format(str(path), found, records.MATRIX, f"run 'xling reduce {folder.name}'")
        return unsealed(content, type=Matrix)
    except FileNotFoundError:
        raise StoreError(f"{path} is not there; make it with 'xling reduce {folder.name}'.") from None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} is not a matrix ({error}); run 'xling reduce {folder.name}'.") from error


def _rounded(encoded: bytes) -> Any:
    """The same with floats rounded; the parser calls nothing but for floats, of which big grids have millions."""
    return json.loads(encoded, parse_float=lambda digits: round(float(digits), 6) + 0.0)
