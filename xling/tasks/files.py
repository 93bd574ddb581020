"""task=files: your own ratings, pairs and demonstrations; JSONL, CSV or Parquet (xling/tasks/reading.py reads them).

    python launch.py -m sweeps=human_judgements task.path=PATH
    python launch.py task=files task.path=PATH task.feedback=pairwise task.columns.group=tree judge=target_rm

With policy=recorded every row is an evaluation row; reward models are cross-fitted by document
(xling/models/ridge.py). With a language model, a language's documents (or trees: `group`) are split into train,
validation and test, by a `split` column or by seeded shares. Planning calls `check` and `require`; stages the rest.
"""

import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET

from xling.errors import ConfigError, DataError, did_you_mean, listed
from xling.measures.language import code_of_name, is_code, language_hint, language_of_code, standard
from xling.tasks import defaults
from xling.tasks.findings import (
    LanguageSummary,
    Summary,
    bad_rows_text,
    nothing,
    said,
    summarised,
    unknown_languages,
    unread,
)
from xling.tasks.hub import hint, local
from xling.tasks.paths import HELD, Identity, identity, paths_of
from xling.tasks.reading import NEEDED, Labels, Piece, answers, pieces, read_rows, split_groups
from xling.tasks.records import (
    Demonstration,
    HasFolds,
    Offer,
    Pair,
    Prompt,
    Rating,
    Recorded,
    Split,
    Use,
)
from xling.tasks.render import language_of, read_by, rendered
from xling.tasks.rows import Columns, Reading, Row, Rows, Settings
from xling.tasks.tables import SHOWN
from xling.tasks.wmt import is_export, texts_beside

OFFERS: frozenset[Offer] = frozenset({"demonstrations", "ratings", "pairs", "prompts", "recorded"})

# Hooks that need nothing special here.
counted = defaults.counted
digest = defaults.digest
document_of = defaults.document_of
prompt_around = defaults.prompt_around
published = defaults.published
RATING = "rating"  # the rating_field that need not be there

# Which of the settings each use of the data reads, beside those that decide how the files are read.
_SPLIT, _LABELS = ("seed", "validation", "test"), ("threshold",)
READS: dict[Use, tuple[str, ...]] = {
    "demonstrations": (*_SPLIT, *_LABELS),
    "pointwise": (*_SPLIT, *_LABELS),
    "pairwise": _SPLIT,
    "prompts": _SPLIT,
    "held_out_pointwise": (*_SPLIT, *_LABELS),
    "held_out_pairwise": _SPLIT,
    "recorded": (),
    "crossfitted": ("seed", "folds"),
    "texts": (),
}
_READING = ("path", "rating_field", "columns", "rating_scale")
# What a use cannot do without: (what of the data, in which splits).
_SPLITS_OF: dict[Use, tuple[Offer, tuple[Split, ...]]] = {
    "demonstrations": ("demonstrations", ("train", "validation")),
    "pointwise": ("ratings", ("train", "validation")),
    "pairwise": ("pairs", ("train", "validation")),
    "prompts": ("prompts", ("test",)),
    "held_out_pointwise": ("ratings", ("test",)),
    "held_out_pairwise": ("pairs", ("test",)),
}


# --- what planning asks -------------------------------------------------------------------------------------


def summary(config: Settings, known: Collection[str] | None = None) -> Summary:
    """Read everything before anything runs (seconds for 100,000 rows; no torch).

    `known`: codes of the languages that have facts in conf/lang; None skips that test. DataError lists the
    first ten bad rows with their numbers and says how many there are; ConfigError if the settings do not fit.
    """
    rows = _rows(config)
    wanted = _codes(config) or tuple(rows.languages)
    unknown = unknown_languages(rows, wanted, known)
    if config.bad_rows == "refuse" and (rows.bad or unknown):
        bad = sorted([*rows.bad, *unknown])[:SHOWN]
        raise DataError(bad_rows_text(config, rows, bad, rows.n_bad + len(unknown), bool(unknown)))
    if not rows.languages:
        raise DataError(f"{config.path} has no {'good ' if rows.n else ''}rows. Name your data with task.path=PATH.")
    codes = set(wanted) if known is None or config.bad_rows == "refuse" else set(wanted) & set(known)
    by_lang = {lang: _counts(config, lang) for lang in sorted(codes)}
    ignored = {lang: len(found) for lang, found in rows.languages.items() if lang not in codes}
    return Summary(rows.n, by_lang, ignored, tuple(said(config, rows, by_lang)))


def languages(config: Settings) -> Sequence[str]:
    """Those of task.languages, or all that the data has. Raises what `summary` raises."""
    return tuple(summary(config).languages)


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Bad rows and unknown languages are refused, or said; so are targets without feedback."""
    found, what = summary(config, known), "pairs" if config.feedback == "pairwise" else "ratings"
    kinds = {"rating", "pair"} if what == "pairs" else {"rating"}
    asked = [lang for lang in found.languages if lang in targets and lang not in sources]
    lacking = [lang for lang in asked if not kinds & found.languages[lang].rows.keys()]
    said = (
        f"{', '.join(lacking)}: {config.path} has no {what}, so that how accurate reward models are there is not "
        "measured, and no reward model of such a language can judge (judge.lang=LANG names another's)."
    )
    return [*found.notes(), *([said] if lacking else [])]


def missing(config: Settings) -> dict[Offer, str]:
    """Offers that these files lack, and why: of ratings, pairs or recorded responses."""
    kinds = {row.kind for rows in _rows(config).languages.values() for row in rows}
    by_kind: dict[str, set[Offer]] = {
        "rating": {"demonstrations", "ratings", "pairs", "prompts", "recorded"},
        "pair": {"demonstrations", "pairs", "prompts", "recorded"},
        "demonstration": {"demonstrations", "prompts"},
        "prompt": {"prompts"},
    }
    offered = frozenset[Offer]().union(*(by_kind[kind] for kind in kinds))
    return {what: _why_missing(config, what) for what in OFFERS - offered}


def truncation_side(config: Settings, langs: Collection[str] = ()) -> str:
    """left where a prompt is a chat, whose oldest turns go and whose last question stays; right for documents.

    Decided by the prompts of `langs` alone, so that another language's chats change nothing for them.
    """
    chats = _rows(config).chats
    return "left" if (chats & set(langs) if langs else chats) else "right"


def ignored(config: Settings, splits: bool) -> list[str]:
    """A sentence on settings that decide nothing where the data is split, or where it is not (policy=recorded)."""
    return unread(config, _rows(config), splits)


def _why_missing(config: Settings, what: Offer) -> str:
    rows = _rows(config)
    if what == "prompts" or (what == "demonstrations" and not rows.alone):
        return ""
    return f"{rows.alone_text()} {rows.unrated_text(config.rating_field)}".strip()


def require(config: Settings, langs: Sequence[str], use: Use) -> None:
    """ConfigError where a language has too little for a use: how much there is, and how much is needed."""
    for lang in langs:
        if use in ("recorded", "crossfitted", "texts"):
            _require_recorded(config, lang, use)
            found = _counts(config, lang)
            if use != "texts" and found.undecided:
                raise ConfigError(
                    f"{config.path}: of the {found.prompts} prompts in {lang} that two systems answered none has "
                    "responses that are rated differently, so that every comparison would be a tie. Is "
                    f"task.rating_field={config.rating_field} the column of people's ratings? Else leave {lang} out."
                )
        elif not use.startswith("held_out") or _pieces(config, lang, _SPLITS_OF[use][0]):
            _require_split(config, lang, *_SPLITS_OF[use])  # a target needs no feedback; what there is has to be enough


def check_folds(task: HasFolds, lang: str, documents: int) -> None:
    """ConfigError for so few documents of a source, there or asked for, that a head would be trained on one.

    Of fewer documents than folds each is a fold.
    """
    needed = 4 if task.folds == 2 else 3
    if task.documents is not None and task.documents < needed:
        raise ConfigError(
            f"task.documents={task.documents} is too few: a head learns from two at least, beside those it is kept "
            f"from. Type task.documents={needed} or more, or null for all."
        )
    if documents < needed:
        raise ConfigError(
            f"source_lang={lang} has {documents} documents with two rated responses; with task.folds={task.folds} at "
            f"least {needed} are needed, so that a head learns from two beside those it is kept from. Leave {lang} out "
            "of source_lang."
        )


def _require_recorded(config: Settings, lang: str, use: Use) -> None:
    found, rows = _counts(config, lang), _rows(config)
    if found.rows.keys() <= {"demonstration", "prompt"}:
        raise ConfigError(
            f"{config.path} has no rated responses in {lang!r}, and policy=recorded compares those. "
            f"{_why_missing(config, 'recorded')}"
        )
    if not found.prompts:
        raise ConfigError(
            f"{config.path} has no prompt in {lang!r} that two systems answered, so there is nothing to compare"
            f"{f' ({rows.named(found.one_system)})' if found.one_system else ''}. The id names the prompt and must be "
            "the same for all systems that answered it; task.columns.id=null takes prompts of the same text as one."
        )
    if use == "crossfitted":
        check_folds(config, lang, found.documents)


def _require_split(config: Settings, lang: str, what: Offer, splits: Sequence[Split]) -> None:
    for split in splits:
        found = _pieces(config, lang, what)
        n = len({item.row.group for item in found if item.split == split})
        if n < NEEDED:
            total = len({item.row.group for item in found})
            if not total:
                why = _why_missing(config, what)
                raise ConfigError(f"{config.path}: {nothing(config, lang, _in(config, lang), what)} {why}".rstrip())
            raise ConfigError(
                f"{config.path}: {lang} has {n} documents with {what} in split {split}, of {total}; at least "
                f"{NEEDED} are needed. Leave {lang} out, add data, or change task.validation={config.validation:g} and "
                f"task.test={config.test:g} (or the split column)."
            )
        if what == "ratings" and split == "train" and len({item.label for item in found if item.split == split}) == 1:
            one = found[0]
            shown = f"{one.row.rating:g}" if config.threshold is None else "good" if one.label else "bad"
            raise ConfigError(
                f"{config.path}: all ratings in {lang} that would train are {shown}, so that "
                f"there is nothing to tell apart. Is task.rating_field={config.rating_field} the right column, and "
                f"task.threshold={'null' if config.threshold is None else f'{config.threshold:g}'} the right one? Else "
                f"leave {lang} out, or type task.feedback=pairwise for pairs."
            )


# --- the data -----------------------------------------------------------------------------------------------


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Settings that decide how the files are read and what the use reads; the languages used decide nothing."""
    kept = {name: getattr(config, name) for name in (*_READING, *READS[use])}
    lang = config.languages if _rows(config).without_language else _varieties(config)
    # the plan has refused bad rows or was told to leave them out: the digest is of the others
    named = msgspec.structs.asdict(config.columns)
    unread = () if config.raters == "z" else ("rater",)
    named |= {role: UNSET for role in ("rater", "system_prompt") if role in unread or named[role] is None}
    kept |= {"columns": Columns(**named), "raters": "z" if config.raters == "z" else UNSET}
    kept |= {"encoding": config.encoding or UNSET}
    kept |= {**defaults.caps(config, use), **read_by(use, config.template, config.facts, langs)}
    return Settings(languages=lang, bad_rows="skip", **kept)


def sources(config: Settings) -> list[Path]:
    """All files: each may hold rows of any language and use."""
    paths = _paths(config)
    return [*paths, *dict.fromkeys(text for path in _exports(identity(paths)) for text in texts_beside(path))]


def demonstrations(config: Settings, lang: str, split: Split) -> list[Demonstration]:
    """Those of the data; without any, a pair's chosen responses, or the best-rated one of each prompt if it is good."""
    found = _of(config, lang, "demonstrations", split)
    rows = [Demonstration(prompt, item.response) for prompt, item in found]
    return defaults.capped(config, rows, "demonstrations", split)


def ratings(config: Settings, lang: str, split: Split) -> list[Rating]:
    """Rated responses with labels in 0..1."""
    found = _of(config, lang, "ratings", split)
    rows = [Rating(prompt, item.response, item.label, item.system) for prompt, item in found]
    return defaults.capped(config, rows, "ratings", split)


def pairs(config: Settings, lang: str, split: Split) -> list[Pair]:
    """Those of the data, and each two responses to a prompt that are rated differently."""
    found = _of(config, lang, "pairs", split)
    rows = [Pair(prompt, item.response, item.other) for prompt, item in found]
    return defaults.capped(config, rows, "pairs", split)


def prompts(config: Settings, lang: str, split: Split) -> list[Prompt]:
    """The prompts of a split, by id."""
    return defaults.capped(config, [prompt for prompt, _ in _of(config, lang, "prompts", split)], "prompts", split)


def recorded(config: Settings, lang: str) -> Recorded:
    """One language's prompts by id, with responses by system name, whatever the order of rows in the files.

    Of a pair, the chosen response is rated 1 and the rejected 0. DataError for bad rows, unless they are skipped.
    """
    rows = _rows(config)
    if rows.bad and config.bad_rows == "refuse":
        raise DataError(bad_rows_text(config, rows, rows.bad, rows.n_bad, False))
    _require_recorded(config, lang, "recorded")
    found = Recorded(lang)
    for row, by_system in answers(_in(config, lang)):
        if len(by_system) > 1:
            found.add(_prompt(config, lang, row), ((one.system, one.response, one.label) for one in by_system))
    return found


def several_raters(config: Settings, lang: str) -> list[tuple[str, list[float]]]:
    """(group, ratings as they are in the files) of each response in the language that several people rated."""
    _in(config, lang)
    return _rows(config).several[lang]


def _of(config: Settings, lang: str, what: Offer, split: Split) -> list[tuple[Prompt, Piece]]:
    """The pieces of a split, each with its prompt: equal prompts are one object."""
    made: dict[str, Prompt] = {}
    found = []
    for item in _pieces(config, lang, what):
        if item.split == split:
            if item.row.id not in made:
                made[item.row.id] = _prompt(config, lang, item.row)
            found.append((made[item.row.id], item))
    return found


def _prompt(config: Settings, lang: str, row: Row) -> Prompt:
    text, content = rendered(config.template, row.prompt, language_of(config.facts, lang))
    return Prompt(row.id, lang, row.group, text, row.dataset, content)


# --- inside -------------------------------------------------------------------------------------------------


def _rows(config: Settings) -> Rows:
    if config.rating_field in config.columns.names().values():
        raise ConfigError(
            f"task.rating_field={config.rating_field} names another column. Name the one that holds the rating, "
            "as in task.rating_field=rating."
        )
    if config.rating_scale is not None and not config.rating_scale[0] < config.rating_scale[1]:
        raise ConfigError(f"task.rating_scale={list(config.rating_scale)} must be [lowest, highest], as in [1,5].")
    if config.threshold is not None and config.rating_scale is not None and config.raters != "z":
        low, high = config.rating_scale
        if not low < config.threshold <= high:
            raise ConfigError(
                f"task.threshold={config.threshold:g} parts nothing of task.rating_scale=[{low:g},{high:g}]. Type a "
                f"number above {low:g} and up to {high:g}."
            )
    if config.validation + config.test >= 1:
        raise ConfigError(
            f"task.validation={config.validation:g} and task.test={config.test:g} leave nothing to train on. "
            "Type task.validation=0.1 task.test=0.1."
        )
    lang = _codes(config)[0] if len(config.languages) == 1 else ""
    raters: Literal["mean", "z"] = "z" if config.raters == "z" else "mean"
    reading = Reading(config.columns, config.rating_field, config.rating_scale, raters, lang)
    reading = msgspec.structs.replace(reading, varieties=_varieties(config))
    if config.encoding:
        reading = msgspec.structs.replace(reading, encoding=_encoding(config.encoding))
    if HELD.search(path := local(config.path)) and not Path(path).exists():
        reading = msgspec.structs.replace(reading, pattern=path)
    rows = _read(identity(_paths(config)), identity(sources(config)), reading)
    if rows.n and not rows.rated and config.rating_field != RATING:
        there = sorted({column for one in rows.unrated for column in one.columns})
        raise ConfigError(
            f"task.rating_field={config.rating_field}: {config.path} has no such column; unrated files have "
            f"{listed(there)}.{did_you_mean(config.rating_field, there)} Type task.rating_field=NAME."
        )
    return rows


def _encoding(name: str) -> str:
    try:
        "ü".encode(name, errors="replace")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"task.encoding={name} is no encoding of text that Python knows. Type its name, as in "
            "task.encoding=windows-1252 (latin-1, iso-8859-9, gb18030, shift_jis, ...), or null for UTF-8."
        ) from error
    return name


def _paths(config: Settings) -> list[Path]:
    try:
        return paths_of(local(config.path))
    except ConfigError as error:
        if not (more := hint(config.path)):
            raise
        raise ConfigError(f"{error}{more}") from error


def _codes(config: Settings) -> tuple[str, ...]:
    """task.languages as the data's are read."""
    varieties = _varieties(config)
    return tuple(code if code in varieties else language_of_code(code) for code in config.languages)


def _varieties(config: Settings) -> tuple[str, ...]:
    """Those of task.languages that say more than a language, as pt-BR does: they are kept apart from it."""
    return tuple(code for code in config.languages if standard(code) != language_of_code(code))


@functools.lru_cache(maxsize=16)
def _exports(files: Identity) -> list[Path]:
    return [path for name, _, _ in files if is_export(path := Path(name))]


@functools.lru_cache(maxsize=2)  # a task and the one its reward models learn from
def _read(files: Identity, everything: Identity, reading: Reading) -> Rows:
    return read_rows([Path(path) for path, _, _ in files], reading)


def _in(config: Settings, lang: str) -> list[Row]:
    """The language's rows; ConfigError if there are none."""
    found = _rows(config).languages
    if lang not in found:
        what = f"Name languages of the data with task.languages=[{','.join(sorted(found)[:20])}]."
        if uncoded := [one for one in sorted(found) if not is_code(one)]:
            named = [f"{one} ({code})" if (code := code_of_name(one)) else one for one in uncoded[:20]]
            what = f"Write codes in the data, as de is German's, in the place of {listed(named)}."
        kept = f" To keep {lang} apart from it type task.languages=[{lang}]." if language_of_code(lang) in found else ""
        raise ConfigError(
            f"{config.path} has no rows in {lang!r}; it has {listed(sorted(found))}.{language_hint(lang, found)}{kept} "
            f"{what}"
        )
    return found[lang]


def _counts(config: Settings, lang: str) -> LanguageSummary:
    _in(config, lang)
    return summarised(_rows(config), lang)


def _pieces(config: Settings, lang: str, what: Offer) -> list[Piece]:
    """A language's records for a use, in all splits; ConfigError for a threshold that separates nothing."""
    _in(config, lang)
    scale = None if config.raters == "z" else config.rating_scale
    labels = Labels(config.path, config.threshold, scale, _rows(config).binary)
    return _made(_rows(config), lang, what, labels, (config.seed, config.validation, config.test))


@functools.lru_cache(maxsize=64)
def _made(rows: Rows, lang: str, what: Offer, labels: Labels, shares: tuple[int, float, float]) -> list[Piece]:
    if labels.threshold is not None and what in ("ratings", "demonstrations"):
        rated = [row.rating for own in rows.languages.values() for row in own if row.kind == "rating"]
        low, high = min(rated, default=0), max(rated, default=0)
        none, every = labels.threshold > high, what == "ratings" and labels.threshold <= low
        if rated and (none or every):
            raise ConfigError(
                f"task.threshold={labels.threshold:g}: the ratings in {labels.path} lie in {low:g}..{high:g}, so that "
                f"{'none is' if none else 'all are'} good. Type a number above {low:g} and up to {high:g}."
            )
    return pieces(rows.languages[lang], split_groups(rows, *shares), what, labels)
