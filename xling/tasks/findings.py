"""Planning's notes on your own data: counts by language, rows left out, and bad rows, in words."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from xling.errors import listed, shown, typed
from xling.measures.language import is_code, language_hint
from xling.tasks.defaults import CAPS
from xling.tasks.paths import SPLITS
from xling.tasks.reading import answers, split_groups, trained_on
from xling.tasks.records import Offer
from xling.tasks.rows import Noted, Place, Row, Rows, Settings
from xling.tasks.tables import bad_rows
from xling.tasks.texts import BY_TEXT


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
    undecided: bool  # no prompt that two systems answered has responses that are rated differently
    largest: tuple[str, int, int]  # the group that most rows are of, how many, and how many prompts they have


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary by `check` of data without bad rows, or with those left out."""

    rows: int
    languages: dict[str, LanguageSummary]
    ignored: dict[str, int]  # rows of languages outside task.languages
    said: tuple[str, ...]

    def notes(self) -> list[str]:
        """Sentences for the plan: what was left out, and why."""
        found = list(self.said)
        if self.ignored:
            counts = listed(f"{lang} {n}" for lang, n in sorted(self.ignored.items()))
            found.append(f"Rows of languages outside task.languages are left out: {counts}.")
        return found


def said(config: Settings, rows: Rows, by_lang: dict[str, LanguageSummary]) -> list[str]:
    """Sentences on what is left out although nothing is wrong with the settings."""
    found = []
    if rows.n_bad:
        reasons = "; ".join(f"{rows.name(place)}: {reason}" for place, reason in rows.bad[:3])
        found.append(f"{config.path}: {rows.n_bad} bad rows of {rows.n} are left out ({reasons}).")
    found += rows.published
    if rows.documents and config.columns.group == "group":
        [name, column] = next(iter(rows.documents.items()))
        found.append(
            f"{name} has no column `group`: `{column}` names the documents, by which splits and intervals go. "
            "task.columns.group=null goes by prompts' text."
        )
    for column, (name, values, prompts) in sorted(rows.repeats.items()):
        group = typed("task.columns.group", column)
        found.append(
            f"{name}: `{column}` has {values} values for {prompts} prompts, and nothing reads it. If it names what "
            f"prompts have in common (a document, a conversation), type {group}: splits and "
            "intervals go by it then."
        )
    if rows.near:
        found.append(
            f"Groups that were joined, as a prompt of one differs from another's in one character alone: {rows.near}. "
            "For splits, folds and intervals the two are one document."
        )
    if codes := rows.codes_text():
        found.append(f"Languages are read by what their codes mean: {codes}.")
    if named := {name: code for name, code in rows.named_after.items() if name.partition(".")[0] != code}:
        files = listed((f"{name} is {code}" for name, code in named.items()), 10)
        found.append(f"Languages are those that files are named after: {files}.")
    if rows.alone:
        found.append(rows.alone_text())
    for name, n in sorted(rows.written.items()):
        found.append(f"`{name}`: {n} chats that were written as text are read as chats.")
    for (name, mark), n in sorted(rows.marked.items()):
        found.append(
            f"`{name}`: {n} texts have {shown(mark)}, a mark of chats: they are read as text, marks and all. For a "
            "chat give a list of {role, content}."
        )
    if note := _named_after_splits(rows):
        found.append(note)
    for role, name, other in rows.similar:
        found.append(
            f"`{role}` has {shown(name)} and {shown(other)}, which differ in case or spaces alone: they are read "
            "as two."
        )
    if any(one.numbers for one in rows.unrated):
        found.append(rows.unrated_text(config.rating_field))
    found += [note for note in (_translations(config, rows, by_lang), _shared(rows, by_lang)) if note]
    return [*found, *(sentence for lang, one in by_lang.items() for sentence in _of_language(config, rows, lang, one))]


def _of_language(config: Settings, rows: Rows, lang: str, one: LanguageSummary) -> list[str]:
    found = list[str]()

    def noted(what: Noted, sentence: str) -> None:
        if places := rows.noted.get((what, lang)):
            found.append(f"{lang}: {sentence.format(n=len(places), rows=rows.named(places))}")

    how = "normalised by rater and averaged" if config.raters == "z" else "averaged"
    noted("again", "further ratings of the same response: {n} ({rows}), " + how + ".")
    if flat := rows.one_note.get(lang):
        found.append(
            f"{lang}: {flat} raters gave one rating alone, or the same to all: by task.raters=z that says nothing, and "
            "counts 0, their mean."
        )
    if one.undecided:
        found.append(
            f"{lang}: none of the {one.prompts} prompts that two systems answered has responses that are rated "
            "differently: compared by these ratings, all are ties."
        )
    if one.one_system and one.prompts:
        found.append(
            f"{lang}: prompts that one system alone answered cannot be compared by policy=recorded: "
            f"{len(one.one_system)} ({rows.named(one.one_system)})."
        )
    noted(
        "alike",
        "prompts that are another's text in another Unicode form, case or spacing: {n} ({rows}). They are read as they "
        "are, and are of one group.",
    )
    split = f"the column `{config.columns.split}`".replace("{", "{{").replace("}", "}}")
    noted("crossing", split + " has prompts of one group in two splits: {n} ({rows}). What is tested was trained on.")
    group, n, prompts = one.largest
    if prompts > 1 and 2 * n > (total := sum(one.rows.values())):
        found.append(
            f"{lang}: the group {shown(group)} holds {n} of {total} rows ({prompts} prompts). Splits and intervals "
            "go by groups, and this one is in one split as a whole: is task.columns.group="
            f"{config.columns.group} the document or conversation? task.columns.group=null goes by prompts' text."
        )
    splits = split_groups(rows, config.seed, config.validation, config.test)
    if shared := trained_on(rows.languages[lang], splits):
        asked = sum(row.kind == "prompt" and row.split in ("", "test") for row in rows.languages[lang])
        found.append(
            f"{lang}: {len(shared)} of {asked} prompts that are evaluated on are in the training data, or share a "
            f"group with it ({rows.named([row.place for row in shared])}). Leave them out of one, or read what comes "
            "as a result on data that was seen."
        )
    noted("none", "{n} responses are the text None or null ({rows}).")
    noted("empty", "{n} rated responses are empty ({rows}).")
    return found


def _named_after_splits(rows: Rows) -> str:
    """A sentence if files are named after splits, which decide nothing by their names."""
    found = dict[str, Path]()
    for path in rows.paths:
        names = (path.name.partition(".")[0].partition("-")[0], path.parent.name)
        if split := next((SPLITS[name.lower()] for name in names if name.lower() in SPLITS), None):
            found[split] = path
    if len(found) < 2 or any(row.split for own in rows.languages.values() for row in own):
        return ""
    called = listed(sorted(path.name for path in found.values()))
    return (
        f"Files are named after splits ({called}), and names decide none: all rows are split "
        "anew, by group. To keep yours, put {split} in the place of the name, as in "
        f"\"task.path='{_with_split(found)}'\", or give every row a column `split` (train, validation or test)."
    )


def _with_split(found: dict[str, Path]) -> Path:
    """A pattern by which the files' names say their splits."""
    path = next(iter(found.values()))
    name = path.name.partition(".")[0].partition("-")[0]
    if name.lower() not in SPLITS:
        return path.parent.parent / "{split}" / f"*{path.suffix}"
    rest = path.name.removeprefix(name)
    return path.parent / ("{split}" + (f"-*{path.suffix}" if rest.startswith("-") else rest))


def _translations(config: Settings, rows: Rows, langs: Collection[str]) -> str:
    """A sentence if most ids of a language are another's as well, with other texts, and no column says why."""
    texts = {lang: {row.id: row.group for row in rows.languages.get(lang, ())} for lang in langs}
    for one, other in combinations(sorted(texts), 2):
        shared = texts[one].keys() & texts[other].keys()
        n = sum(
            texts[one][name] != texts[other][name]
            and all(texts[lang][name].startswith(BY_TEXT) for lang in (one, other))
            for name in shared
        )
        if 2 * n > min(len(texts[one]), len(texts[other])):
            group = typed("task.columns.group", config.columns.id)
            return (
                f"{one} and {other} have {n} ids in common, with other texts. If they are translations, type "
                f"{group}: then none is scored or tested by what was trained on another."
            )
    return ""


def _shared(rows: Rows, langs: Collection[str]) -> str:
    """A sentence on documents that stand in several languages."""
    groups = {lang: {row.group for row in rows.languages.get(lang, ())} for lang in langs}
    of = Counter(group for own in groups.values() for group in own)
    if not (n := sum(count > 1 for count in of.values())):
        return ""
    pairs = {(a, b): len(groups[a] & groups[b]) for a, b in combinations(sorted(groups), 2)}
    one, other = max(pairs, key=lambda pair: pairs[pair])
    return (
        f"Documents that stand in several languages: {n} (most: {pairs[one, other]} in {one} and {other}). Each is in "
        "one split and one fold in all of them: none is scored by what was trained on it in another language."
    )


def unread(config: Settings, rows: Rows, splits: bool) -> list[str]:
    """A sentence on settings that are not read where the data is split, or where it is not."""
    of_splits = ("threshold", "validation", "test", *CAPS)
    names, plain = ("folds", "documents") if splits else of_splits, type(config)("", ())
    found = [
        f"task.{name}={value:g}"
        for name in names
        if (value := getattr(config, name) or None) != (getattr(plain, name) or None)
    ]
    if not splits and any(row.split for found_rows in rows.languages.values() for row in found_rows):
        found.append(f"the column `{config.columns.split}`")
    why = (
        "with a language model the data is split, and nothing is cross-fitted"
        if splits
        else "with policy=recorded every row is scored, and reward models learn ratings as they are, cross-fitted"
    )
    return [f"{', '.join(found)}: not read, since {why}."] if found else []


def nothing(config: Settings, lang: str, rows: Sequence[Row], what: Offer) -> str:
    """Why a language has nothing for a use, and what to type."""
    ratings = [row.rating for row in rows if row.kind == "rating"]
    if not ratings:
        return f"{lang} has no {what}."
    if what == "pairs":
        return f"{lang} has no pairs: no two responses to a prompt are rated differently. Leave {lang} out."
    limit = "half of task.rating_scale" if config.threshold is None else f"task.threshold={config.threshold:g}"
    return (
        f"{lang} has no {what}: its ratings lie in {min(ratings):g}..{max(ratings):g}, none of them good by {limit}. "
        f"Leave {lang} out, change task.threshold, or type sft.steps=0 to sample the base as it is."
    )


@lru_cache(maxsize=64)
def summarised(every: Rows, lang: str) -> LanguageSummary:
    """One language's rows, counted once: many questions are asked of it."""
    rows = every.languages[lang]
    everything = answers(rows)
    group, n = min(Counter(row.group for row in rows).items(), key=lambda item: (-item[1], item[0]))
    compared = [(prompt, found) for prompt, found in everything if len(found) > 1]
    return LanguageSummary(
        rows=dict(Counter(row.kind for row in rows)),
        groups=len({row.group for row in rows}),
        prompts=len(compared),
        documents=len({prompt.group for prompt, _ in compared}),
        responses=sum(len(found) for _, found in compared),
        systems=tuple(sorted({answer.system for _, found in compared for answer in found})),
        one_system=tuple(sorted(found[0].row.place for _, found in everything if len(found) == 1)),
        undecided=bool(compared) and all(len({answer.label for answer in found}) == 1 for _, found in compared),
        largest=(group, n, len({row.id for row in rows if row.group == group})),
    )


def unknown_languages(rows: Rows, wanted: Collection[str], known: Collection[str] | None) -> list[tuple[Place, str]]:
    """Rows in wanted languages without facts in conf/lang."""
    if known is None:
        return []
    found = []
    for lang in sorted(set(wanted) & set(rows.languages) - set(known)):
        hint = language_hint(lang, known) or ("" if is_code(lang) else " Languages have codes, as German has de.")
        reason = f"unknown language {lang!r}.{hint}"
        found += [(row.place, reason) for row in rows.languages[lang]]
    return found


def bad_rows_text(config: Settings, rows: Rows, bad: Sequence[tuple[Place, str]], n_bad: int, unknown: bool) -> str:
    """The first bad rows, each with its place and reason, how many there are, and what to do."""
    hint = (
        "\nA language needs a file in conf/lang; rows of others are left out when you name the languages "
        "you want with task.languages=[...]."
        if unknown
        else "\nMend them, or type task.bad_rows=skip to leave them out."
    )
    counted = f"{config.path} has {n_bad} bad rows of {rows.n} (rating field: {config.rating_field!r})"
    return bad_rows(counted, [f"{rows.name(place)}: {reason}" for place, reason in bad], n_bad) + hint
