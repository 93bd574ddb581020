"""Hooks of a task where nothing special is needed. A task's module imports those it does not define itself, by name.

So every hook of xling/tasks/options.py stands in the task's module, and a reader sees which of them are these. Below
them is what the tasks' own hooks have in common.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xling.errors import ConfigError
from xling.measures.language import language_hint
from xling.options import name_of
from xling.tasks.records import HasTemplate, Offer, Prompt, Size, Split, TaskSettings, Use
from xling.tasks.render import language_of, rendered

Row = TypeVar("Row")

# Settings of all tasks that are split which cap what is read of a language and split, and those that a use reads.
CAP_OF: Mapping[str, str] = {
    "demonstrations": "max_demonstrations",
    "prompts": "max_prompts",
    "ratings": "max_feedback",
    "pairs": "max_feedback",
}
CAPS = ("max_demonstrations", "max_prompts", "max_feedback", "max_validation")
CAPS_READ: Mapping[Use, tuple[str, ...]] = {
    "demonstrations": ("max_demonstrations", "max_validation"),
    "pointwise": ("max_feedback", "max_validation"),
    "pairwise": ("max_feedback", "max_validation"),
    "prompts": ("max_prompts",),
    "held_out_pointwise": ("max_prompts", "max_feedback"),
    "held_out_pairwise": ("max_prompts", "max_feedback"),
}


def sources(config: TaskSettings) -> Sequence[Path]:
    """No files: the data is generated, and `digest` says by what."""
    return []


def digest(config: TaskSettings) -> str:
    """Nothing is generated: the rows that a stage reads of the files are digested instead."""
    return ""


def missing(config: TaskSettings) -> Mapping[Offer, str]:
    """Whatever the user's settings, the data has all that the task offers."""
    return {}


def require(config: TaskSettings, langs: Sequence[str], use: Use) -> None:
    """Enough for every use: `check` has refused other data."""


def ignored(config: TaskSettings, splits: bool) -> Sequence[str]:
    """No setting is ever without effect."""
    return []


def truncation_side(config: TaskSettings, langs: Collection[str] = ()) -> str:
    """Prompts are documents, which are cut at their end: they begin with what matters most."""
    return "right"


def document_of(prompt: Prompt) -> str:
    """A prompt that is rendered without an instruction (`bare`, xling/tasks/render.py) is its document."""
    return prompt.text


def prompt_around(config: TaskSettings, lang: str, document: str) -> tuple[str, str]:
    """Rendered by the task's settings `template` and `facts`."""
    assert isinstance(config, HasTemplate), "a task without templates defines prompt_around itself"
    return rendered(config.template, document, language_of(config.facts, lang))


def published(config: TaskSettings) -> Mapping[Size, int]:
    """No paper states sizes, so that no grid can be planned without the data."""
    return {}


def counted(config: TaskSettings, what: Offer, split: Split) -> int | None:
    """Rows are counted by reading them."""
    return None


# --- what tasks' own hooks share ----------------------------------------------------------------------------


def check_language(config: TaskSettings, lang: str, have: Iterable[str], place: str = "") -> None:
    """ConfigError for a language that the data in some `place`, or task.languages, does not have."""
    known = sorted(have)
    if lang not in known:
        raise ConfigError(
            f"The task {name_of(config)} has no language {lang!r}{place and f' in {place}'}; "
            f"it has {', '.join(known) or 'none'}.{language_hint(lang, known)}"
        )


def left_out(lang: str, what: str, counts: Mapping[str, int]) -> list[str]:
    """A sentence on rows of a language that are left out, by reason; nothing if there are none."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()) if count)
    return [f"{lang}: {what} that are left out: {reasons}."] if reasons else []


def hashed(seed: int | str, name: str) -> bytes:
    """A digest by which names are ordered at random: a name that is added moves no other."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def share(seed: int, name: str) -> float:
    """A number in [0, 1) that a name and the seed decide."""
    return int.from_bytes(hashed(seed, name)[:7], "big") / 2**56


def cap(config: TaskSettings, what: Offer, split: Split) -> int | None:
    """The most rows of a kind and split that the settings allow; None: all."""
    names = [CAP_OF.get(what, ""), *(["max_validation"] if split == "validation" and what != "prompts" else [])]
    return min((most for name in names if (most := getattr(config, name, None))), default=None)


def capped(config: TaskSettings, rows: list[Row], what: Offer, split: Split) -> list[Row]:
    """As many of a language's rows as the caps allow, in the order that they had.

    Those whose prompts' ids come first by their hash: a smaller cap's are among a larger one's.
    """
    most, seed = cap(config, what, split), getattr(config, "seed", 0)
    if most is None or len(rows) <= most:
        return rows
    prompts: list[Any] = [getattr(row, "prompt", row) for row in rows]
    by_hash = sorted(range(len(rows)), key=lambda i: (hashed(seed, prompts[i].id), i))
    return [rows[i] for i in sorted(by_hash[:most])]


def documents_in(config: TaskSettings, langs: Collection[str]) -> dict[str, Any]:
    """`document_lang` as a spec has it: nothing where it is not set, or the only one of the languages."""
    lang = config.document_lang
    return {"document_lang": lang} if lang and set(langs) != {lang} else {}


def caps(config: TaskSettings, use: Use) -> dict[str, int]:
    """The caps that are set of those that a use reads: what is not set stands in no spec."""
    return {name: most for name in CAPS_READ.get(use, ()) if (most := getattr(config, name))}
