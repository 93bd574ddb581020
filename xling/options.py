"""Tables of options: what can be chosen of a kind (optimizer, reward model, judge, ...), one module an option.

A module holds all there is to know about its option: `Settings`, a msgspec Struct whose tag is the option's name in
conf/, and the hooks of its kind, functions that planning and stages call. It is imported when a table is read, so it
imports torch and other heavy packages only inside the functions that compute.

A kind's table lists its own modules. An installed package adds others by entry points: group `xling.judge`, say,
name `mine`, value `mypackage.judge`. docs/adding.md has the skeletons. A fault in somebody's package is said to those
who choose its option, and stops nobody else.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
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
    same, a function from a module (which has `Settings`) to its hooks. base: what Settings derives from. setting: whose
    value an option's name is, if that is not `name` of a group of the kind's name.
    """

    def __init__(
        self,
        kind: str,
        modules: Mapping[str, str],
        hooks: Mapping[str, str] | Callable[[Any], Mapping[str, str]],
        base: type[Struct] = Struct,
        setting: str = "",
    ) -> None:
        self.kind, self.hooks, self.base, self.setting = kind, hooks, base, setting or f"{kind}.name"
        self._own = dict(modules)
        self._checked: dict[str, Module] = {}

    def modules(self) -> dict[str, str]:
        """Name -> dotted module of every option, those of installed packages included."""
        return {**{point.name: point.value for point in _added(f"xling.{self.kind}")}, **self._own}

    def usable(self) -> dict[str, Module]:
        """Name -> module of every option that `[name]` gives: for what all options have a say in."""
        usable = {}
        for name in self.modules():
            with suppress(ConfigError):
                usable[name] = self[name]
        return usable

    def __getitem__(self, name: str) -> Module:
        """The module of an option. ConfigError for an unknown name, one that two packages use, and a lacking hook."""
        if name not in self._checked:
            modules = self.modules()
            if name not in modules:
                hint = did_you_mean(name, list(modules)) or " One of your own: docs/adding.md."
                raise ConfigError(f"{self.setting}={name} is unknown. Allowed: {', '.join(sorted(modules))}.{hint}")
            added = {point.value for point in _added(f"xling.{self.kind}") if point.name == name}
            if len(called := sorted({modules[name], *added})) > 1:
                raise ConfigError(
                    f"{self.kind}={name} is ambiguous: the modules {' and '.join(called)} are both called so. Rename "
                    "the entry point of yours, or uninstall its package."
                )
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
        """The union of all Settings, by whose tags msgspec knows which option a config means.

        Without those of installed packages that have a fault: `[name]` says which.
        """
        every = []
        for name, module in self.modules().items():
            with suppress(*() if name in self._own else (ConfigError,)):
                every.append(self._imported(name, module).Settings)
        return Union[tuple(every)]  # noqa: UP007  # made of a list

    def _imported(self, name: str, module: str) -> Any:
        try:
            found = importlib.import_module(module)
        except Exception as error:
            kind = "" if isinstance(error, (ImportError, ConfigError)) else f"{type(error).__name__}: "
            reason = f"{kind}{error}".strip().rstrip(".")
            raise ConfigError(f"{self.kind}={name}: the module {module} cannot be imported: {reason}.") from error
        own = getattr(found, "Settings", None)
        config = own.__struct_config__ if isinstance(own, type) and issubclass(own, self.base) else None
        if config is None or (config.frozen, config.tag_field, config.tag) != (True, "name", name):
            derived = "" if self.base is Struct else f" derived from {self.base.__module__}.{self.base.__qualname__}"
            raise ConfigError(
                f"{self.kind}={name}: the module {module} needs `Settings`, a msgspec Struct{derived} with "
                f"frozen=True, tag_field='name' and tag='{name}'. docs/adding.md has a skeleton."
            )
        return found


def name_of(settings: Struct) -> str:
    """The option's name, as in conf/."""
    return str(settings.__struct_config__.tag)


def _added(group: str) -> Any:
    """The entry points of a group: (name, value) of each option of an installed package."""
    return _entry_points().select(group=group)


@cache
def _entry_points() -> Any:  # its type depends on Python's version
    return metadata.entry_points()  # all groups at once: it reads a file of every installed package
