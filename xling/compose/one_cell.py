"""Overrides composed as launch.py composes them, without Hydra's main: a task alone, or the cells of a grid."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from xling.compose.command_line import conf_folder
from xling.compose.composer import Composer
from xling.compose.grid import Cells, TaskLanguages, compose_grid
from xling.compose.hydra_errors import explain
from xling.compose.overrides import parse, protected
from xling.compose.typed import checked_task
from xling.config.common import Language
from xling.config.tasks import Task
from xling.errors import ConfigError


def composed_task(overrides: Sequence[str]) -> tuple[str, Task, list[Language], str]:
    """(its option's name, the task, the facts of all languages in conf/lang, lid.model or an empty text).

    ConfigError for what cannot be meant.
    """
    with _loader() as loader:
        return _composed(Composer(loader, "config"), overrides)


def composed_cells(overrides: Sequence[str], task_languages: TaskLanguages, warn: Callable[[str], None]) -> Cells:
    """The cells of a grid that overrides ask for, those of a named one (sweeps=NAME) too. ConfigError as above."""
    with _loader() as loader:
        bundles = [line for line in overrides if line.partition("=")[0] in ("sweeps", "experiment")]
        config = loader.load_configuration("config", bundles, RunMode.RUN, from_shell=False)
        params = OmegaConf.to_container(config.hydra.sweeper.params)
        assert isinstance(params, dict)
        named = {str(key): value for key, value in params.items()}
        return compose_grid(Composer(loader, "config"), named, list(map(protected, overrides)), task_languages, warn)


@contextmanager
def _loader() -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader of conf/; what it raises as sentences."""
    conf = conf_folder()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            assert isinstance(loader, ConfigLoaderImpl)
            yield loader
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        raise sentence from error


def _composed(composer: Composer, overrides: Sequence[str]) -> tuple[str, Task, list[Language], str]:
    request = parse({}, overrides, composer.options)
    if request.axes:
        key = request.axes[0].key
        values = request.axes[0].values
        whole = (
            f", or {key}=[{','.join(map(str, values))}] if a list is meant" if "." in key and len(values) < 9 else ""
        )
        raise ConfigError(f"{key} has several values; one task is looked at. Type {key}={values[0]}{whole}.")
    composed = composer.compose(request.fixed)
    facts: list[dict[str, Any]] = [composer.facts("target_lang", code) for code in composer.options("target_lang")]
    task, model = checked_task(composed.container["task"]), composed.container["lid"]["model"]
    return composed.choices["task"], task, [Language(**one) for one in facts], str(model or "")
