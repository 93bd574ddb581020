"""Released judgements of people as a task: recorded responses, several criteria, checked before anything runs.

    python launch.py -m sweeps=human_multi_summeval task.path=PATH

conf/task has one option a layout (xling/tasks/layouts.py says what each reads). Reward models are cross-fitted by
document (xling/rewards/heads.py); there are no splits.
"""

import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from xling.config.common import Positive, Seed
from xling.errors import ConfigError, did_you_mean, expanded
from xling.tasks import defaults
from xling.tasks.files import check_folds
from xling.tasks.layouts import LAYOUTS, Judged, Release, files_of, read_release
from xling.tasks.paths import Identity, identity
from xling.tasks.records import Offer, Prompt, Recorded, TaskSettings, Use


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="released"):
    """People's judgements as their authors released them: a local checkout in its own layout, or JSONL of its rows."""

    path: str
    layout: Literal["multi_summeval", "beyond_ngrams", "oasst"]
    languages: tuple[str, ...]
    seed: Seed = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    corrupted: Literal["both", "only", "without"] = "both"
    documents: Positive | None = None
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


Prompts = dict[str, list[Judged]]  # prompt id -> its responses, by system

OFFERS: frozenset[Offer] = frozenset({"recorded"})

# Hooks that need nothing special here.
counted = defaults.counted
digest = defaults.digest
document_of = defaults.document_of
ignored = defaults.ignored
missing = defaults.missing
prompt_around = defaults.prompt_around
published = defaults.published
require = defaults.require
truncation_side = defaults.truncation_side


def languages(config: Settings) -> Sequence[str]:
    """Those of task.languages, or of the release, in which some prompt has two rated responses."""
    rows = _release(config).rows
    there = sorted({row.lang for row in rows})
    for lang in config.languages:
        defaults.check_language(config, lang, there, config.path)
    return tuple(lang for lang in config.languages or there if _compared(config, lang))


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Settings that do not fit the layout, bad rows, and sources with too few documents are refused."""
    release = _release(config)
    for lang in sources:
        check_folds(config, lang, len({row.group for rows in _compared(config, lang).values() for row in rows}))
    used = {*sources, *targets}
    left_out = sorted((lang, reason, n) for (lang, reason), n in release.notes.items() if lang in used)
    notes = [f"{lang}: {n} {reason}, left out." for lang, reason, n in left_out]
    alone = {lang: len(_prompts(config, lang)) - len(_compared(config, lang)) for lang in sorted(used)}
    if counts := ", ".join(f"{lang} {n}" for lang, n in alone.items() if n):
        notes.append(f"Prompts with a single rated response cannot be compared and are left out: {counts}.")
    return notes


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Only heads have folds; texts are those of all criteria and kinds of row; `documents` decides no data."""
    plain = msgspec.structs.replace(config, languages=(), documents=None)
    if use == "crossfitted":
        return plain
    read = msgspec.structs.replace(plain, seed=0, folds=5, feedback="pointwise")
    return read if use != "texts" else msgspec.structs.replace(read, rating_field="rating", corrupted="both")


def sources(config: Settings) -> list[Path]:
    """All files of the release."""
    return _files(config)


def recorded(config: Settings, lang: str) -> Recorded:
    """One language's prompts by id, responses by system."""
    compared = _compared(config, lang)
    if not compared:
        raise ConfigError(f"{config.path} has no prompt in {lang!r} with two rated responses.")
    found = Recorded(lang)
    for name in sorted(compared):
        rows = sorted(compared[name], key=lambda row: row.system)
        prompt = Prompt(id=name, lang=lang, group=rows[0].group, text=rows[0].text)
        found.add(prompt, ((row.system, row.response, row.ratings[config.rating_field]) for row in rows))
    return found


# --- inside -------------------------------------------------------------------------------------------------


def _compared(config: Settings, lang: str) -> Prompts:
    """Prompts with at least two rated responses."""
    return {name: rows for name, rows in _prompts(config, lang).items() if len(rows) > 1}


def _prompts(config: Settings, lang: str) -> Prompts:
    """Responses that have the criterion and are of the kind asked for."""
    found: Prompts = {}
    for row in _release(config).rows:
        kind = config.corrupted == "both" or row.corrupted == (config.corrupted == "only")
        if row.lang == lang and kind and config.rating_field in row.ratings:
            found.setdefault(row.prompt, []).append(row)
    return found


def _release(config: Settings) -> Release:
    criteria = LAYOUTS[config.layout].criteria
    if config.rating_field not in criteria:
        raise ConfigError(
            f"task.rating_field={config.rating_field} is no criterion of {config.layout}: allowed are "
            f"{', '.join(criteria)}.{did_you_mean(config.rating_field, criteria)}"
        )
    if config.corrupted != "both" and config.layout != "beyond_ngrams":
        raise ConfigError(
            f"task.corrupted={config.corrupted}: only beyond_ngrams has rows that were degraded on purpose. "
            "Type task.corrupted=both."
        )
    return _read(config.layout, config.path, identity(_files(config)))


def _files(config: Settings) -> list[Path]:
    if config.path in ("", "???"):
        raise ConfigError(f"task={config.layout} needs a local checkout or its JSONL. Name it with task.path=PATH.")
    return files_of(config.layout, expanded(config.path))


@functools.lru_cache(maxsize=4)
def _read(layout: str, path: str, files: Identity) -> Release:
    return read_release(layout, expanded(path))
