"""Hydra launchers: all cells as one plan, in worker processes here or as SLURM jobs. See xling/launching.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from xling.compose.grid import Cells
    from xling.grid.plan import Plan


class GridLauncher(Launcher):
    """hydra/launcher=NAME for every NAME of `LAUNCHERS` (xling/runners/__init__.py); `values`: its YAML.

    catalogue: the package that knows the kinds of stages.
    """

    def __init__(self, name: str, catalogue: str = "xling.planning", **values: Any) -> None:
        self._name, self.catalogue = name, catalogue
        plain = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
        assert isinstance(plain, dict)
        self._values = {str(key): value for key, value in plain.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's protocol; everything comes with the cells."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's protocol for jobs one by one, which would share nothing."""
        from xling.errors import ConfigError

        raise ConfigError(f"hydra/launcher={self._name} takes whole grids: leave hydra/sweeper=xling as it is.")

    def plan(self, cells: Cells) -> Plan:
        """The plan alone."""
        from xling.launching import planned

        return planned(cells, self.catalogue, self._name, self._values)

    def launch_grid(self, cells: Cells) -> Sequence[JobReturn]:
        """Plan, run or submit, fold into the matrix. Leaves with exit code 1 if all has ended and a cell failed."""
        from xling.launching import launch

        code = launch(cells, self.catalogue, self._name, self._values)
        if code:
            raise SystemExit(code)
        return []
