"""Running a plan: what every runner does with a stage; on this machine, or as jobs of SLURM.

`xling.run(...)` (xling/api.py) has this package's name, so that the package itself can be called.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Run(ModuleType):
    def __call__(self, *overrides: str) -> Any:
        """See xling.api.run."""
        return importlib.import_module("xling.api").run(*overrides)


sys.modules[__name__].__class__ = _Run
