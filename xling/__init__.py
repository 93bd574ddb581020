"""xling: train reward models in source languages, align policies in target languages, fill in the matrix.

    import xling

    xling.plan("sweeps=demo").print()      # what would be run
    grid = xling.run("sweeps=demo")        # what `xling run sweeps=demo` runs
    grid = xling.load("outputs", "demo")   # a grid that is there: grid.cells, grid.items, ... (docs/python.md)

What these need is imported when they are first asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Grid", "__version__", "load", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("xling.api"), name)
    raise AttributeError(f"module 'xling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
