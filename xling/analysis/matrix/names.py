"""Names of cells, panels and groups of them, made of their axes: for titles, captions, labels and files.

`heading_of` names every axis that is set, for a heading that stands alone; `worded` the axes asked for, in words of a
paper (best-of-16, PPO), and `in_full` all of them; `varying`, `panel_names` and `told_apart` choose the axes that tell
several apart.
"""

import re
from collections.abc import Mapping, Sequence

from xling.analysis.matrix.types import Entry
from xling.console import harmless
from xling.results.plan import SEED_AXES

ORDER = ("task", "rm_backbone", "optimizer", "policy", "judge")
UPPER = ("ppo", "rloo", "grpo", "dpo")


def panel_place(axes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The axes of an entry that are its panel's."""
    return tuple(sorted((axis, value) for axis, value in axes.items() if axis not in ("source_lang", "target_lang")))


def named(axes: dict[str, str], group: str) -> str:
    """`ppo`, or `ppo beta=0.1` where settings are swept too."""
    settings = [f"{axis.partition('.')[2]}={value}" for axis, value in axes.items() if axis.startswith(f"{group}.")]
    return " ".join([axes[group], *(word for word in sorted(settings) if not word.endswith("="))])


def values_of(axes: dict[str, str]) -> str:
    """A panel by those of its axes that say something: `micro_summarization, frozen_lm, ppo, gold`."""
    return ", ".join(value for value in axes.values() if value)


def heading_of(axes: Mapping[str, str]) -> str:
    """The axes of a panel, or those that several share."""
    words = [axes["rm_backbone"], axes.get("optimizer", "")]
    words += [f"{axis} {axes[axis]}" for axis in ("judge", "policy") if axes.get(axis)]
    fixed = {"task", "policy", "rm_backbone", "optimizer", "judge"}
    words += [f"{axis}={value}" for axis, value in sorted(axes.items()) if axis not in fixed and value]
    return ", ".join(word for word in words if word)


def worded(axes: Mapping[str, str], which: Sequence[str], entries: Sequence[Entry] = ()) -> list[str]:
    """Values as words: `best-of-16`, `PPO`, `judge gold`, `tuning=full`."""
    words = []
    for axis in which:
        value = harmless(axes.get(axis, ""))
        if not value:
            continue
        if axis == "optimizer":
            words.append(optimizer_word(value, entries))
        elif axis in ORDER:
            words.append(f"judge {plain(value)}" if axis == "judge" else plain(value))
        else:
            words.append(f"{axis.rpartition('.')[2]}={value}")
    return words


def in_full(axes: Mapping[str, str], entries: Sequence[Entry] = ()) -> str:
    """`PPO, judge gold`: all axes as words."""
    return ", ".join(worded(axes, ordered(axes), entries))


def optimizer_word(name: str, entries: Sequence[Entry] = ()) -> str:
    """`best-of-16`, `PPO beta=0.1`."""
    first, _, rest = name.partition(" ")
    n = max((entry.n_samples or 0 for entry in entries), default=0)
    if first == "best_of_n":
        first = f"best-of-{n or 'n'}"
    elif first in UPPER:
        first = first.upper()
    return f"{plain(first)} {rest}".strip()


def plain(value: str) -> str:
    return value.replace("_", " ")


def varying(axes: Sequence[Mapping[str, str]]) -> list[str]:
    """The axes that tell them apart, the usual ones first; one that says nothing new is left out."""
    kept: list[str] = []
    names, classes = ordered({name for one in axes for name in one}), 1
    for name in names:
        found = len({tuple(one.get(axis, "") for axis in (*kept, name)) for one in axes})
        if found > classes:
            kept.append(name)
            classes = found
    return kept


def ordered(axes: Mapping[str, str] | set[str]) -> list[str]:
    return [axis for axis in ORDER if axis in axes] + sorted(set(axes) - set(ORDER))


def panel_names(of: Sequence[Mapping[str, str]]) -> list[str]:
    """A short name for each of several sets of axes: the values in which they differ, `none` without any of them.

    If there is one set, `all`.
    """
    names = list(dict.fromkeys(axis for axes in of for axis in axes))
    differing = [name for name in names if len({axes.get(name, "") for axes in of}) > 1]
    return ["-".join(axes[n] for n in differing if axes.get(n)) or ("none" if differing else "all") for axes in of]


def told_apart(axes: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Source and target of each cell, and of the other axes those in which the cells differ."""
    names = list(dict.fromkeys(name for one in axes for name in one))
    kept = [n for n in names if n in ("source_lang", "target_lang") or len({one.get(n, "") for one in axes}) > 1]
    kept.sort(key=lambda name: name in SEED_AXES)
    return [{name: one.get(name, "") for name in kept} for one in axes]


def slug_of(axes: Mapping[str, str], which: Sequence[str]) -> list[str]:
    """Values as parts of a file's name."""
    return [slug(axes.get(axis, "")) or "none" for axis in which]


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_.")
