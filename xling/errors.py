"""The errors people meet. Every message is a sentence: what was wrong, the value, what is allowed,
and the override to type instead.

XlingError
├── ConfigError     what was asked for cannot be: raised while planning, before anything runs
├── DataError       an input file or dataset is not what it should be (names the line)
├── StoreError      a stored result is damaged, edited or unreadable: named, never used
└── StageError      a stage cannot go on (diverged, killed, out of budget)
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

LONGEST_NAME = 200


class XlingError(Exception):
    """Base of every error that xling raises on purpose."""

    refused = True  # nothing was run (exit code 2); False: it came up while the grid was run or folded (exit code 1)


@contextmanager
def while_running() -> Iterator[None]:
    """Marks errors raised inside as later than the first stage run or submitted: no refusals, but for ConfigError."""
    try:
        yield
    except XlingError as error:
        error.refused = isinstance(error, ConfigError)
        raise


class ConfigError(XlingError):
    """The request cannot be fulfilled; nothing has been run."""


class DataError(XlingError):
    """Input data does not have the promised form."""


class StoreError(XlingError):
    """A stored result cannot be trusted or the store cannot be written."""


class StageError(XlingError):
    """A stage stopped for a reason that running on would not mend."""


def install(extra: str) -> str:
    """The command that installs an optional dependency (pyproject.toml): from the checkout, else its packages by name.

    `pip install 'xling[...]'` would ask the package index, where the name is not ours.
    """
    checkout = Path(__file__).absolute().parents[1]
    if (checkout / "pyproject.toml").exists():
        return f"pip install -e '{checkout}[{extra}]'"
    try:
        needed = [line.partition(";") for line in metadata.requires("xling") or ()]
    except metadata.PackageNotFoundError:  # a copy, as jobs of a cluster run it, of a checkout that is not installed
        return f"pip install -e '.[{extra}]' in the folder of launch.py"
    packages = [name.strip() for name, _, when in needed if re.search(rf"""extra == ['"]{extra}['"]""", when)]
    return f"pip install {shlex.join(packages)}"


def expanded(path: str | Path) -> Path:
    """A path as it is typed, with the home folder in the place of ~; ConfigError where nobody's is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{path} begins with the home folder of somebody who has none here. Type the whole path, or set HOME."
        ) from error


def shown(value: object, most: int = 60) -> str:
    """A value for a sentence: its repr (of an error its words), cut where it is long."""
    try:
        text = (
            str(value) if isinstance(value, BaseException) else repr(value[:most] if isinstance(value, str) else value)
        )
    except (RecursionError, ValueError):  # nested without end; an integer of more digits than Python prints
        text = f"a value of {type(value).__name__}"
    long = len(text) > most or (isinstance(value, str) and len(value) > most)
    return text[: most - 3] + "..." if long else text


def listed(names: Iterable[object], most: int = 20) -> str:
    """Names for a sentence, the first of them where there are many, each cut where it is long; `none` for none."""
    found = [str(name) for name in names]
    cut = [name if len(name) <= 60 else name[:57] + "..." for name in found[:most]]
    return ", ".join([*cut, f"... ({len(found)} in all)"] if len(found) > most else cut) or "none"


def typed(setting: str, value: object) -> str:
    """A setting as a shell takes it, quoted where a column or file has a name with spaces or the like."""
    return shlex.quote(f"{setting}={value}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for the nearest known word (of equally near ones, one that begins alike), or nothing."""
    if len(word) > LONGEST_NAME:
        return ""  # no name that was mistyped; comparing takes the square of the length
    close = difflib.get_close_matches(word, [one for one in known if len(one) <= LONGEST_NAME], n=5, cutoff=0.6)
    if not close:
        return ""
    nearness = [difflib.SequenceMatcher(None, one, word).ratio() for one in close]
    nearest = [one for one, value in zip(close, nearness, strict=True) if value == max(nearness)]
    return f" Did you mean '{max(nearest, key=lambda one: one[:1] == word[:1])}'?"
