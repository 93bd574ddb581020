"""Measures of the user's own: functions in a file of theirs, which the setting `measures` names FILE:FUNCTION.

    def copied(responses, prompts):
        "Words of the prompt in a response, %"
        return [...]                          # a number a response; None where there is nothing to measure
    copied.span = (0, 100)                    # if the numbers have a scale: no interval leaves it

A function asks by name for those of ARGUMENTS that it needs. xling averages a prompt's responses and gives the mean of
every cell its interval, as for its own measures. It is called while a grid is folded: no stage depends on it.
"""

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from xling.errors import ConfigError, did_you_mean, shown

ARGUMENTS = {
    "responses": "list[str]: the judged responses of a cell, or its opponents' (the baseline)",
    "prompts": "list[str]: what the policy read, for each response",
    "references": "list[list[str]]: for each response what people hold to be good answers; empty where a task has none",
    "language": "str: code of the target language",
}


@dataclass(frozen=True)
class OwnMeasure:
    """A function of the user's that has been found and asks for nothing unknown."""

    name: str  # of the function
    title: str  # the first line of its docstring, else its name
    file: str
    digest: str  # of the file
    span: tuple[float, float]  # the ends of its scale
    wants: frozenset[str]  # of ARGUMENTS
    function: Callable[..., Sequence[float | None]]

    def __call__(self, arguments: Mapping[str, Any]) -> list[float]:
        """A number for each of the responses, NaN for None. ConfigError, a sentence, for whatever goes wrong in it."""
        many = len(arguments["responses"])
        try:
            values = self.function(**{name: arguments[name] for name in sorted(self.wants)})
            found = [math.nan if value is None else float(value) for value in values]
        except (Exception, SystemExit) as error:
            raise ConfigError(f"The measure {self.name} failed {fault_in(error, self.file)}.") from error
        if len(found) != many:
            raise ConfigError(
                f"The measure {self.name} of {self.file} gave {len(found)} numbers for {many} responses: it must give "
                "one for each, None where there is nothing to measure."
            )
        low, high = self.span
        if outside := [value for value in found if math.isinf(value) or value < low or value > high]:
            raise ConfigError(
                f"The measure {self.name} of {self.file} gave {outside[0]}, outside its span {self.span}."
            )
        return found


def located(named: str, folder: Path) -> str:
    """FILE:FUNCTION with the absolute path of a file that lies below `folder`; installed modules keep their name."""
    module, colon, function = named.rpartition(":")
    if not colon or not module or not function.isidentifier():
        raise ConfigError(f"measures={shown(named)} names no function. Type measures=FILE:FUNCTION, as in my.py:chrf.")
    path = folder / (module if module.endswith(".py") else f"{module.replace('.', '/')}.py")
    if path.is_file():
        return f"{path.absolute()}:{function}"
    try:
        installed = not module.endswith(".py") and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        installed = False
    if not installed:
        raise ConfigError(f"measures={named}: there is no file {path}, and no module {module} is installed.")
    return named


def own_function(named: str) -> tuple[str, Callable[..., Any]]:
    """(its file, the function) that `located` has found. ConfigError names the file, and the line with a fault."""
    module_name, _, name = named.rpartition(":")
    module = _module(module_name)
    file = str(getattr(module, "__file__", None))
    if not file.endswith(".py"):
        raise ConfigError(f"{named}: {module_name} is no file of Python. Type FILE:FUNCTION, as in my.py:chrf.")
    function = getattr(module, name, None)
    if not callable(function):
        known = [word for word, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(f"{file} has no function {name}.{did_you_mean(name, known)}")
    return file, function


def own_measure(named: str) -> OwnMeasure:
    """The measure that `located` has found. ConfigError as above, and where it asks for what there is not."""
    name = named.rpartition(":")[2]
    file, function = own_function(named)
    parameters = inspect.signature(function).parameters
    catching = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # *args, **kwargs
    asked = [one for one in parameters.values() if one.kind not in catching and one.default is one.empty]
    if unknown := [one.name for one in asked if one.name not in ARGUMENTS]:
        raise ConfigError(
            f"The measure {name} of {file} asks for {', '.join(unknown)}. What a measure can ask for: "
            f"{', '.join(ARGUMENTS)} (docs/python.md)."
        )
    try:
        low, high = (float(end) for end in getattr(function, "span", (-math.inf, math.inf)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The measure {name} of {file}: its span is not two numbers, as in (0, 100).") from error
    title = title_of(function, name)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    wants = frozenset(parameters) & ARGUMENTS.keys()
    return OwnMeasure(name, title, file, digest, (low, high), wants, function)


def title_of(function: Callable[..., Any], name: str) -> str:
    """The first line of its docstring, else its name."""
    return (inspect.getdoc(function) or name).splitlines()[0].rstrip(".")


def _module(name: str) -> ModuleType:
    """A module by its path, run anew each time, or by its name. It may import what lies beside it."""
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"Measures cannot be read {fault_in(error, _origin(name))}.") from error
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"The measures of this grid are in {path}, which is not there any more.")
    own = f"xling_own_{path.stem}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[own] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"Measures cannot be read {fault_in(error, name)}.") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _origin(module: str) -> str:
    """The file of an installed module, or its name where it cannot be found."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(module)
        return module if spec is None or spec.origin is None else spec.origin
    return module


def fault_in(error: BaseException, file: str) -> str:
    """`in my.py, line 7: ZeroDivisionError: division by zero`: the last line of the user's own file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    text = str(error).splitlines()[0].rstrip(".") if str(error) else ""
    place = f", line {line}" if line else ""
    return f"in {file}{place}: {type(error).__name__}{f': {text}' if text else ''}"
