"""What planning says of your own data: counts by language, what is left out, and the bad rows, in words."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from xling.config import Files
from xling.errors import did_you_mean
from xling.tasks.pieces import answers
from xling.tasks.rows import Place, Row, Rows


@dataclass(frozen=True, slots=True)
class LanguageSummary:
    """Counts of one language: rows by kind, documents, and what recorded responses there are to compare."""

    rows: dict[str, int]
    groups: int
    prompts: int  # that two systems answered
    documents: int  # of those; prompts of one group are one document
    responses: int
    systems: tuple[str, ...]
    one_system: tuple[Place, ...]  # rows of prompts that only one system answered


@dataclass(frozen=True, slots=True)
class Summary:
    """What `check` found in data without bad rows, or with those left out."""

    rows: int
    digest: str
    languages: dict[str, LanguageSummary]
    ignored: dict[str, int]  # rows of languages outside task.languages
    said: tuple[str, ...]

    def notes(self) -> list[str]:
        """Sentences for the plan: what was left out, and why."""
        found = list(self.said)
        if self.ignored:
            counts = ", ".join(f"{lang} {n}" for lang, n in sorted(self.ignored.items()))
            found.append(f"Rows of languages outside task.languages are left out: {counts}.")
        return found


def said(config: Files, rows: Rows, by_lang: dict[str, LanguageSummary]) -> list[str]:
    """Sentences on what is left out although nothing is wrong with the settings."""
    found = []
    if rows.n_bad:
        reasons = "; ".join(f"{rows.name(place)}: {reason}" for place, reason in rows.bad[:3])
        found.append(f"{config.path}: {rows.n_bad} bad rows of {rows.n} are left out ({reasons}).")
    for lang, one in by_lang.items():
        if one.one_system and one.prompts:
            found.append(
                f"{lang}: prompts that one system alone answered cannot be compared by policy=recorded: "
                f"{len(one.one_system)} ({rows.named(one.one_system)})."
            )
        if empty := rows.empty.get(lang):
            found.append(f"{lang}: {len(empty)} rated responses are empty ({rows.named(empty)}).")
    return found


def summarised(rows: Sequence[Row]) -> LanguageSummary:
    """One language's rows, counted."""
    everything = answers(rows)
    compared = [(prompt, found) for prompt, found in everything if len(found) > 1]
    return LanguageSummary(
        rows=dict(Counter(row.kind for row in rows)),
        groups=len({row.group for row in rows}),
        prompts=len(compared),
        documents=len({prompt.group for prompt, _ in compared}),
        responses=sum(len(found) for _, found in compared),
        systems=tuple(sorted({answer.system for _, found in compared for answer in found})),
        one_system=tuple(sorted(found[0].row.place for _, found in everything if len(found) == 1)),
    )


def unknown_languages(rows: Rows, wanted: Collection[str], known: Collection[str] | None) -> list[tuple[Place, str]]:
    """Rows in wanted languages without facts in conf/lang."""
    if known is None:
        return []
    found = []
    for lang in sorted(set(wanted) & set(rows.languages) - set(known)):
        reason = f"unknown language {lang!r}.{did_you_mean(lang, known)}"
        found += [(row.place, reason) for row in rows.languages[lang]]
    return found


def bad_rows_text(config: Files, rows: Rows, bad: Sequence[tuple[Place, str]], n_bad: int, unknown: bool) -> str:
    """The first bad rows, each with its place and reason, how many there are, and what to do."""
    listed = "\n".join(f"  {rows.name(place)}: {reason}" for place, reason in bad)
    more = f"\n  and {n_bad - len(bad)} more" if n_bad > len(bad) else ""
    hint = (
        "\nA language needs a file in conf/lang; rows of others are left out when you name the languages "
        "you want with task.languages=[...]."
        if unknown
        else "\nMend them, or type task.bad_rows=skip to leave them out."
    )
    counted = f"{config.path} has {n_bad} bad rows of {rows.n} (rating field: {config.rating_field!r}):"
    return f"{counted}\n{listed}{more}{hint}"
