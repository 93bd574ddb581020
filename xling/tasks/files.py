"""task=files: your own rated responses of recorded systems, from JSONL(.gz); row format: xling/tasks/rows.py.

    python launch.py -m sweeps=human_judgements task.path=PATH

Every row is an evaluation row: there is no train, validation or test split in the file. Reward models are
cross-fitted by document instead (xling/models/folds.py). Planning calls `check`; stages call `load`.
"""

import functools
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from xling.config import Files, Task
from xling.errors import ConfigError, DataError, did_you_mean
from xling.tasks.records import Offer, Prompt, Recorded, Use
from xling.tasks.rows import RESERVED, SHOWN, Rated, Rows, read_rows


@dataclass(frozen=True, slots=True)
class LanguageSummary:
    """Counts of one language."""

    prompts: int
    documents: int  # prompts with the same text are one document
    responses: int
    systems: tuple[str, ...]
    one_system: tuple[int, ...]  # lines of prompts that only one system answered: left out


@dataclass(frozen=True, slots=True)
class Summary:
    """What `check` found in a file without bad rows."""

    rows: int
    digest: str
    languages: dict[str, LanguageSummary]
    ignored: dict[str, int]  # rows of languages outside task.languages

    def notes(self) -> list[str]:
        """Sentences for the plan: what was left out, and why."""
        found = []
        for lang, one in self.languages.items():
            if one.one_system:
                found.append(
                    f"{lang}: prompts that one system alone answered cannot be compared and are left out: "
                    f"{len(one.one_system)} (lines {_first(one.one_system)})."
                )
        if self.ignored:
            counts = ", ".join(f"{lang} {n}" for lang, n in sorted(self.ignored.items()))
            found.append(f"Rows of languages outside task.languages are left out: {counts}.")
        return found


def summary(config: Files, known: Collection[str] | None = None) -> Summary:
    """Read the whole file before anything runs (seconds for 100,000 rows; no torch).

    `known`: codes of the languages that have facts in conf/lang; None skips that test. DataError lists the
    first ten bad rows with their line numbers and says how many there are; ConfigError if the settings do not
    fit the file.
    """
    rows = _rows(config)
    wanted = config.languages or tuple(rows.languages)
    bad = rows.bad + _unknown(rows, wanted, known)
    if bad:
        n_unknown = len(bad) - len(rows.bad)
        raise DataError(_bad_rows(config, sorted(bad)[:SHOWN], rows.n_bad + n_unknown, rows.n, n_unknown > 0))
    if not rows.languages:
        raise DataError(f"{config.path} has no rows. Name a file of rated responses with task.path=PATH.")
    by_lang = {lang: _summary(_prompts(config, rows, lang)) for lang in sorted(wanted)}
    ignored = {
        lang: sum(len(prompt.answers) for prompt in prompts.values())
        for lang, prompts in rows.languages.items()
        if lang not in wanted
    }
    if not any(one.prompts for one in by_lang.values()):
        raise DataError(
            f"No prompt in {config.path} was answered by two systems, so there is nothing to compare (lines "
            f"{_first([n for one in by_lang.values() for n in one.one_system])}). "
            "`id` names the document or prompt and must be the same for all systems that answered it."
        )
    return Summary(rows.n, digest(config), by_lang, ignored)


def check_sources(config: Files, found: Summary, langs: Sequence[str]) -> None:
    """ConfigError if a source has too few documents for the folds, or no comparable prompts at all."""
    check_documents(config.documents, config.folds)
    needed = 2 * config.folds
    for lang in langs:
        n = found.languages[lang].documents if lang in found.languages else 0
        if n < needed:
            raise ConfigError(
                f"source_lang={lang} has {n} documents that two systems answered; {config.folds} folds need "
                f"at least {needed}. Leave {lang} out of source_lang or lower task.folds={config.folds}."
            )


def check_documents(documents: int | None, folds: int) -> None:
    """ConfigError for so few documents that a head would be trained on one."""
    if documents is not None and documents < 2 * folds:
        raise ConfigError(
            f"task.documents={documents} is too few for task.folds={folds}: at least two a fold. "
            f"Type task.documents={2 * folds}, or null for all."
        )


def recorded(config: Task, lang: str, expected: str | None = None) -> Recorded:
    """One language's prompts by id, with responses by system name, whatever the order of rows in the file.

    `expected`: the digest the plan was made with; DataError if the file has changed since. DataError also if
    the file has bad rows: nobody computes with half a file.
    """
    assert isinstance(config, Files)
    if expected is not None and digest(config) != expected:
        raise DataError(f"{config.path} has changed since the grid was planned. Run the same command again.")
    rows = _rows(config)
    if rows.bad:
        raise DataError(_bad_rows(config, rows.bad, rows.n_bad, rows.n, False))
    compared = _compared(_prompts(config, rows, lang))
    if not compared:
        raise ConfigError(f"{config.path} has no prompt in {lang!r} that two systems answered.")
    groups: dict[str, str] = {}  # text -> id of the first prompt that has it
    found = Recorded(lang, [], [], [], [])
    for name, prompt in compared:
        systems = sorted(prompt.answers)
        group = groups.setdefault(prompt.text, name)
        found.prompts.append(Prompt(id=name, lang=lang, group=group, text=prompt.text))
        found.systems.append(systems)
        found.responses.append([prompt.answers[system].response for system in systems])
        found.ratings.append([prompt.answers[system].rating for system in systems])
    return found


# --- the surface of a task module ---------------------------------------------------------------------------

OFFERS: frozenset[Offer] = frozenset({"recorded"})


def languages(config: Task) -> Sequence[str]:
    """Languages with prompts to compare, of task.languages or the whole file. Raises what `summary` raises."""
    assert isinstance(config, Files)
    return tuple(lang for lang, one in summary(config).languages.items() if one.prompts)


def check(config: Task, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Bad rows, unknown languages and sources with too few documents are refused."""
    assert isinstance(config, Files)
    found = summary(config, known)
    check_sources(config, found, sources)
    return found.notes()


def narrowed(config: Task, langs: Sequence[str], use: Use) -> Task:
    """Which languages are used decides nothing; how many documents train a head, the reward stage's key alone."""
    return msgspec.structs.replace(config, languages=(), documents=None)


def digest(config: Task) -> str:
    """sha256 of the file's bytes, computed once for a size and modification time."""
    assert isinstance(config, Files)
    return _digest(*_identity(config))


# --- inside -------------------------------------------------------------------------------------------------


def _identity(config: Files) -> tuple[str, int, int]:
    """(path, size, modification time): what the caches go by."""
    if config.path in ("", "???"):
        raise ConfigError("task=files needs a file of rated responses. Name it with task.path=PATH.")
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise ConfigError(f"task.path={config.path} is not a file. Name a JSONL or JSONL.gz with task.path=PATH.")
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def _rows(config: Files) -> Rows:
    if config.rating_field in RESERVED:
        raise ConfigError(
            f"task.rating_field={config.rating_field} names another field of a row. Name the field that "
            "holds the rating, as in task.rating_field=rating."
        )
    return _read(*_identity(config), config.rating_field)


@functools.lru_cache(maxsize=4)
def _digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=1)
def _read(path: str, size: int, modified: int, rating_field: str) -> Rows:
    return read_rows(Path(path), rating_field)


def _prompts(config: Files, rows: Rows, lang: str) -> dict[str, Rated]:
    """The language's prompts; ConfigError if the file has none."""
    if lang not in rows.languages:
        have = ", ".join(sorted(rows.languages)) or "none"
        raise ConfigError(
            f"{config.path} has no rows in {lang!r}; it has {have}.{did_you_mean(lang, rows.languages)} "
            f"Name languages of the file with task.languages=[{','.join(sorted(rows.languages))}]."
        )
    return rows.languages[lang]


def _compared(found: dict[str, Rated]) -> list[tuple[str, Rated]]:
    """Prompts that at least two systems answered, by id."""
    return [(name, found[name]) for name in sorted(found) if len(found[name].answers) > 1]


def _summary(found: dict[str, Rated]) -> LanguageSummary:
    compared = [prompt for _, prompt in _compared(found)]
    return LanguageSummary(
        prompts=len(compared),
        documents=len({prompt.text for prompt in compared}),
        responses=sum(len(prompt.answers) for prompt in compared),
        systems=tuple(sorted({system for prompt in compared for system in prompt.answers})),
        one_system=tuple(sorted(prompt.line for prompt in found.values() if len(prompt.answers) == 1)),
    )


def _unknown(rows: Rows, wanted: Collection[str], known: Collection[str] | None) -> list[tuple[int, str]]:
    """Rows in wanted languages without facts in conf/lang."""
    if known is None:
        return []
    found = []
    for lang in sorted(set(wanted) & set(rows.languages) - set(known)):
        reason = f"unknown language {lang!r}.{did_you_mean(lang, known)}"
        found += [(a.line, reason) for p in rows.languages[lang].values() for a in p.answers.values()]
    return found


def _bad_rows(config: Files, bad: Sequence[tuple[int, str]], n_bad: int, n: int, unknown: bool) -> str:
    listed = "\n".join(f"  line {line}: {reason}" for line, reason in bad)
    more = f"\n  and {n_bad - len(bad)} more" if n_bad > len(bad) else ""
    hint = (
        "\nA language needs a file in conf/lang; rows of others are left out when you name the languages "
        "you want with task.languages=[...]."
        if unknown
        else ""
    )
    counted = f"{config.path} has {n_bad} bad rows of {n} (rating field: {config.rating_field!r}):"
    return f"{counted}\n{listed}{more}{hint}"


def _first(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(lines)[:SHOWN]))
    return shown + (", ..." if len(lines) > SHOWN else "")
