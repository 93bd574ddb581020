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


class _GridLauncher(Launcher):
    """Hydra's protocol, of which only the whole grid is of use."""

    name = ""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's protocol; everything comes with the cells."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's protocol for jobs one by one, which would share nothing."""
        from xling.errors import ConfigError

        raise ConfigError(f"hydra/launcher={self.name} takes whole grids: leave hydra/sweeper=xling as it is.")


class LocalLauncher(_GridLauncher):
    """`workers` processes (None: one a core), `threads` torch threads each; `catalogue`: where stages are.

    `claim_timeout_s`: after which silence a runner that cannot be seen from here counts as dead.
    """

    name = "local"

    def __init__(
        self, workers: Any = None, threads: Any = 1, claim_timeout_s: Any = 180, catalogue: str = "xling.planning"
    ) -> None:
        from xling.launching import seconds, whole_number

        self._workers = None if workers is None else whole_number("hydra.launcher.workers", workers)
        self._threads = whole_number("hydra.launcher.threads", threads)
        self._claim_timeout = seconds("hydra.launcher.claim_timeout_s", claim_timeout_s)
        self.catalogue = catalogue

    def launch_grid(self, cells: Cells) -> Sequence[JobReturn]:
        """Plan, run, fold into the matrix. Leaves with exit code 1 if a cell failed."""
        from xling.launching import launch

        code = launch(cells, self.catalogue, self._workers, self._threads, self._claim_timeout)
        if code:
            raise SystemExit(code)
        return []


class SlurmLauncher(_GridLauncher):
    """Jobs on a SLURM cluster; `values` are the settings of conf/hydra/launcher/slurm.yaml."""

    name = "slurm"

    def __init__(self, catalogue: str = "xling.planning", **values: Any) -> None:
        self.catalogue = catalogue
        plain = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
        assert isinstance(plain, dict)
        self._values = {str(key): value for key, value in plain.items()}

    def launch_grid(self, cells: Cells) -> Sequence[JobReturn]:
        """Plan, submit, return. Leaves with exit code 1 if all has ended and a cell failed."""
        from xling.launching import launch_slurm

        code = launch_slurm(cells, self.catalogue, self._values)
        if code:
            raise SystemExit(code)
        return []
