"""Releases of people's judgements, each read in its own layout from a local checkout, or as JSONL of the same rows.

multi_summeval  Koto, Lau, Baldwin 2021: resulting_data/LANG/score.csv, gold/ID, pred_BERT/ID, pred_PG/ID
beyond_ngrams   Mondshine et al. 2025: data/coherence/LANGUAGE.csv and data/consistency/LANGUAGE.csv
oasst           Open Assistant: pairs, messages or trees as JSONL, ranked lists as NAME_LANG.json; one file or a folder

Knows no config and no torch; xling/tasks/released.py makes a task of it.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import msgspec
from msgspec import Struct

from xling.errors import ConfigError, DataError, shown
from xling.tasks.judged import DIGITS, Judged, Release, read_rows, read_text
from xling.tasks.replies import Replies
from xling.tasks.tables import text_of


class Layout(NamedTuple):
    """What a release holds, which files of a checkout are read, and how; `scale` bounds every rating."""

    criteria: tuple[str, ...]  # the first is their mean
    expected: str  # what a checkout has, in words
    files: Callable[[Path], list[Path]]
    checkout: Callable[[list[Path], Release], None]
    scale: tuple[float, float] = (-1e9, 1e9)


def files_of(layout: str, path: Path) -> list[Path]:
    """The files that are read, in order; ConfigError if there are none."""
    found = [path] if path.is_file() else LAYOUTS[layout].files(path) if path.is_dir() else []
    if not found:
        raise ConfigError(
            f"task.path={path} is neither a file nor a folder with {LAYOUTS[layout].expected}. "
            f"Name a local checkout of {layout}, or its JSONL, with task.path=PATH."
        )
    return found


def read_release(layout: str, path: Path) -> Release:
    """All rows below `path`; DataError with the first ten bad ones, ConfigError as `files_of`."""
    release, files = Release(), files_of(layout, path)
    if path.is_file() and layout != "oasst":
        _jsonl(layout, path, release)
    else:
        LAYOUTS[layout].checkout(files, release)
    if release.bad:
        more = f"\n  and {release.n_bad - len(release.bad)} more" if release.n_bad > len(release.bad) else ""
        listed = "\n".join(f"  {bad}" for bad in release.bad)
        raise DataError(f"{path} has {release.n_bad} bad rows (layout {layout}):\n{listed}{more}")
    release.settle()
    return release


# --- JSONL of rated summaries -------------------------------------------------------------------------------


class _Line(Struct):
    """`inner_index` is Beyond N-Grams' name of the document; its `id` names the response."""

    lang: str
    system: str
    document: str
    response: str
    rating: float
    id: str | int | float = ""
    inner_index: str | int | float = ""
    corrupted: bool = False
    focus: float | None = None
    coverage: float | None = None
    coherence: float | None = None
    consistency: float | None = None


def _jsonl(layout: str, path: Path, release: Release) -> None:
    criteria, (low, high) = LAYOUTS[layout].criteria, LAYOUTS[layout].scale
    for place, found in read_rows(path, release):
        try:
            row = msgspec.convert(found, _Line)
        except msgspec.ValidationError as error:
            release.reject(place, str(error))
            continue
        ratings = {one: value for one in criteria if (value := getattr(row, one)) is not None}
        if outside := [f"{one}={value:g}" for one, value in ratings.items() if not low <= value <= high]:
            release.reject(place, f"{outside[0]} is outside the scale {low:g} to {high:g}")
            continue
        name = f"{row.lang}-{text_of(row.inner_index)}" if row.inner_index else text_of(row.id)
        judged = Judged(row.lang, name, "", row.document, row.system, row.response, ratings, row.corrupted)
        release.add(place, judged)


# --- Multi_SummEval -----------------------------------------------------------------------------------------

SYSTEMS = {"BERT": "bert-sum", "PG": "pointer-generator"}
FILE = re.compile(r"(?!\.+$)[\w.-]{1,100}", re.ASCII)  # an id names a file of the folder, and none that is too long


def _multi_summeval_files(path: Path) -> list[Path]:
    root = path / "resulting_data" if (path / "resulting_data").is_dir() else path
    tables = sorted(root.glob("??/score.csv"))
    kinds = ("gold", *(f"pred_{model}" for model in SYSTEMS))
    return [
        file for table in tables for file in (table, *(f for k in kinds for f in sorted(table.parent.glob(f"{k}/*"))))
    ]


def _multi_summeval(files: list[Path], release: Release) -> None:
    for table in (file for file in files if file.name == "score.csv"):
        for place, row in read_rows(table, release, ("id", "model", "focus", "coverage")):
            if not FILE.fullmatch(row["id"]) or row["model"] not in SYSTEMS:
                release.reject(place, f"no text of id {row['id']!r:.60} and model {row['model']!r:.60}")
                continue
            texts = [table.parent / kind / row["id"] for kind in ("gold", f"pred_{row['model']}")]
            missing = [f"{text.parent.name}/{text.name}" for text in texts if not text.is_file()]
            try:
                focus, coverage = float(row["focus"]), float(row["coverage"])
            except ValueError:
                release.reject(place, f"focus {shown(row['focus'])}, coverage {shown(row['coverage'])}")
                continue
            if missing:
                release.reject(place, f"there is no {missing[0]}")
                continue
            ratings = {"rating": (focus + coverage) / 2, "focus": focus, "coverage": coverage}
            ratings = {name: round(value, DIGITS) for name, value in ratings.items()}
            lang, (document, response) = table.parent.name, map(read_text, texts)
            name, system = f"{lang}-{row['id']}", SYSTEMS[row["model"]]
            release.add(place, Judged(lang.lower(), name, "", document, system, response, ratings))


# --- Beyond N-Grams -----------------------------------------------------------------------------------------

LANGUAGES = {
    "arabic": "ar",
    "chinese": "zh",
    "hebrew": "he",
    "indonesian": "id",
    "japanese": "ja",
    "spanish": "es",
    "turkish": "tr",
    "ukrainian": "uk",
    "yoruba": "yo",
}
SCORES = {"coherence": "coherence_{}", "consistency": "{}_grade"}  # criterion -> column of a system's scores


def _beyond_ngrams_files(path: Path) -> list[Path]:
    root = path / "data" if (path / "data").is_dir() else path
    tables = [root / criterion / f"{language}.csv" for criterion in SCORES for language in LANGUAGES]
    return [table for table in tables if table.is_file()]


def _beyond_ngrams(files: list[Path], release: Release) -> None:
    """A text is rated for coherence, for consistency or for both, each in its own table."""
    means: dict[tuple[str, str, str, str, str, bool], dict[str, float]] = {}
    for table in files:
        criterion, lang = table.parent.name, LANGUAGES[table.stem]
        for system in ("gemini", "gpt"):
            score = SCORES[criterion].format(system)
            shown, original = f"{system}_corrupted_summary", f"orig_{system}_prediction"
            for place, row in read_rows(table, release, ("inner_index", "text", score, shown, original)):
                scores = _scores(row[score])
                if scores is None:
                    release.reject(place, f"{score} is {row[score]!r:.60}, which is no list of scores from 1 to 4")
                elif scores:
                    name, text = f"{lang}-{row['inner_index'].removesuffix('.0')}", row["text"].strip()
                    degraded = bool(row[original].strip())  # what it was before is there
                    key = (lang, name, text, system, row[shown].strip(), degraded)
                    means.setdefault(key, {})[criterion] = fmean(scores)
    for (lang, name, text, system, response, degraded), found in means.items():
        ratings = {"rating": fmean(found.values()), **found}
        ratings = {criterion: round(mean, DIGITS) for criterion, mean in ratings.items()}
        release.add(f"{lang} {name} {system}", Judged(lang, name, "", text, system, response, ratings, degraded))


def _scores(cell: str) -> list[float] | None:
    """`['4', '3']` as numbers, nothing for an empty cell, None for what is neither."""
    if cell.strip().lower() in ("", "nan"):
        return []
    try:
        values = [float(value) for value in ast.literal_eval(cell)]
    except (ValueError, SyntaxError, TypeError):
        return None
    return values if all(1 <= value <= 4 for value in values) else None


# --- Open Assistant -----------------------------------------------------------------------------------------


def _oasst_files(path: Path) -> list[Path]:
    named = re.compile(r".*\.jsonl(\.gz)?|.*_[a-z]{2}\.json")
    return sorted(file for file in path.iterdir() if file.is_file() and named.fullmatch(file.name))


def _oasst(files: list[Path], release: Release) -> None:
    replies = Replies(release)
    for file in files:
        replies.read(file)
    replies.finish()


LAYOUTS = {
    "multi_summeval": Layout(
        ("rating", "focus", "coverage"), "resulting_data/LANG/score.csv", _multi_summeval_files, _multi_summeval
    ),
    "beyond_ngrams": Layout(
        ("rating", "coherence", "consistency"),
        "data/coherence/LANGUAGE.csv",
        _beyond_ngrams_files,
        _beyond_ngrams,
        (1.0, 4.0),
    ),
    "oasst": Layout(("rating",), "NAME.jsonl or NAME_LANG.json", _oasst_files, _oasst),
}
