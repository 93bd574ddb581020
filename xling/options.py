"""Tables of options: what can be chosen of a kind (optimizer, reward model, judge, ...), one module an option.

A module holds all there is to know about its option: `Settings`, a msgspec Struct whose tag is the option's name in
conf/, and the hooks of its kind, functions that planning and stages call. It is imported when a table is read, so it
imports torch and other heavy packages only inside the functions that compute.

A kind's table lists its own modules. An installed package adds others by entry points: group `xling.judge`, say,
name `mine`, value `mypackage.judge`. docs/adding.md has the skeletons.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, Generic, TypeVar, Union, cast

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, did_you_mean

Module = TypeVar("Module")  # a Protocol: the hooks of a kind with their types


class Options(Generic[Module]):
    """The options of a kind by name.

    hooks: attribute -> what it is for, said where a module lacks it; or, where not all options of a kind need the
    same, a function from a module (which has `Settings`) to its hooks.
    """

    def __init__(
        self, kind: str, modules: Mapping[str, str], hooks: Mapping[str, str] | Callable[[Any], Mapping[str, str]]
    ) -> None:
        self.kind, self.hooks = kind, hooks
        self._own = dict(modules)
        self._checked: dict[str, Module] = {}

    def modules(self) -> dict[str, str]:
        """Name -> dotted module of every option, those of installed packages included."""
        return {**_added(f"xling.{self.kind}"), **self._own}

    def __getitem__(self, name: str) -> Module:
        """The module of an option. ConfigError for an unknown name, and for a module that lacks one of the hooks."""
        if name not in self._checked:
            modules = self.modules()
            if name not in modules:
                hint = did_you_mean(name, list(modules))
                raise ConfigError(f"{self.kind}={name} is unknown. Allowed: {', '.join(sorted(modules))}.{hint}")
            module = self._imported(name, modules[name])
            hooks = self.hooks(module) if callable(self.hooks) else self.hooks
            lacking = [f"`{hook}` ({what})" for hook, what in hooks.items() if not hasattr(module, hook)]
            if lacking:
                raise ConfigError(
                    f"{self.kind}={name}: the module {modules[name]} lacks {', '.join(lacking)}. docs/adding.md has a "
                    f"skeleton of a {self.kind} with every hook."
                )
            self._checked[name] = cast(Module, module)
        return self._checked[name]

    def of(self, settings: Struct) -> Module:
        """The module of an option by its settings."""
        return self[name_of(settings)]

    def read(self, container: Mapping[str, Any]) -> Struct:
        """Settings from a stage's spec; `name` there is the option's."""
        module: Any = self[container["name"]]
        return cast(Struct, msgspec.convert(container, module.Settings))

    def settings(self) -> Any:
        """The union of all Settings, by whose tags msgspec knows which option a config means."""
        every = tuple(self._imported(name, module).Settings for name, module in self.modules().items())
        return Union[every]  # noqa: UP007  # made of a list

    def _imported(self, name: str, module: str) -> Any:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"{self.kind}={name}: the module {module} cannot be imported: {error}.") from error
        own = getattr(found, "Settings", None)
        if own is None or own.__struct_config__.tag != name:
            raise ConfigError(
                f"{self.kind}={name}: the module {module} needs `Settings`, a msgspec Struct with tag_field='name' "
                f"and tag='{name}'. docs/adding.md has a skeleton."
            )
        return found


def name_of(settings: Struct) -> str:
    """The option's name, as in conf/."""
    return str(settings.__struct_config__.tag)


def _added(group: str) -> dict[str, str]:
    return {point.name: point.value for point in _entry_points().select(group=group)}


@cache
def _entry_points() -> Any:  # its type depends on Python's version
    return metadata.entry_points()  # all groups at once: it reads a file of every installed package
