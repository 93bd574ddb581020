"""Hydra sweeper: overrides in, cells out, all to the launcher at once. The work is in xling/compose/grid.py.

Hydra finds it here because `hydra_plugins/`, without an __init__.py, lies beside launch.py. Modules are
imported late: Hydra scans this folder at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class XlingSweeper(Sweeper):
    """`params`: the axes of a named grid, key to override value, e.g. {"source_lang": "de,en"}."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        plain = OmegaConf.to_container(OmegaConf.create(dict(params)), resolve=True)
        assert isinstance(plain, dict)
        self._params = {str(key): value for key, value in plain.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context = hydra_context
        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Compose the cells that `arguments` (overrides) ask for and hand them to the launcher."""
        from xling.compose.composer import Composer
        from xling.compose.grid import compose_grid
        from xling.errors import ConfigError

        if not hasattr(self._launcher, "launch_grid"):
            choice = self._config.hydra.runtime.choices["hydra/launcher"]
            raise ConfigError(f"hydra/launcher={choice} runs no grid. Type hydra/launcher=local, or leave it out.")
        HydraConfig.instance().set_config(self._config)  # for ${hydra:...} in config files
        hydra = self._config.hydra
        loader = self._context.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        composer = Composer(loader, hydra.job.config_name, list(hydra.overrides.hydra))
        cells = compose_grid(composer, self._params, arguments)
        return self._launcher.launch_grid(cells)
