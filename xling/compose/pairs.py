"""Which (source, target) pairs of the asked languages are cells: the setting `pairs`.

pairs=all    every one of them (the default)
pairs=cross  the target is not among the sources: cross-lingual cells only
pairs=home   the source is the target and nothing else
pairs=en     exactly one of the two is English: into it and out of it
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from xling.errors import ConfigError
from xling.measures.language import language_hint

Wanted = Callable[[Sequence[str], str], bool]  # (codes of the source, the target's) -> whether it is a cell
Left = list[tuple[str, str]]  # labels of source and target

SHOWN = 8  # pairs that are named before the rest is counted

NAMED: dict[str, Wanted] = {
    "all": lambda codes, target: True,
    "cross": lambda codes, target: target not in codes,
    "home": lambda codes, target: list(codes) == [target],
}


def wanted_pairs(value: Any, known: Collection[str]) -> Wanted:
    """The rule of a value of `pairs`; ConfigError for one that is none. known: languages of conf/lang."""
    if isinstance(value, bool):
        raise ConfigError(
            f"pairs is {str(value).lower()}, which is no language: YAML reads a bare no, off, yes or on as true or "
            'false. Quote it in the file, pairs: "no", or type pairs=no on the command line.'
        )
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]
    if not isinstance(value, str) or value not in known:
        names = ", ".join(NAMED)
        raise ConfigError(
            f"pairs={'null' if value is None else value} is unknown. Allowed: {names}, or the code of a language "
            f"(pairs=en: one of the two is English).{language_hint(str(value), [*NAMED, *known])}"
        )
    return lambda codes, target: (value in codes) != (value == target)


def left_out_pairs(value: Any, kept: Collection[Any], left: Left) -> list[dict[str, Any]]:
    """What `pairs` leaves out, as one entry of a plan; nothing if it leaves out none. ConfigError if none is left."""
    if not left:
        return []
    shown = ", ".join(f"{source} to {target}" for source, target in left[:SHOWN])
    shown += f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    if not kept:
        raise ConfigError(
            f"pairs={value} leaves no cell: of the asked languages there {'is' if len(left) == 1 else 'are'} {shown}. "
            "Ask for more languages with source_lang and target_lang, or type pairs=all."
        )
    return [{"axes": {"pairs": value}, "reason": f"leaves out {len(left)} of {len(left) + len(kept)} pairs: {shown}"}]
