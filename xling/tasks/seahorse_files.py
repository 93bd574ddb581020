"""task=seahorse: its settings, people's ratings of summaries, and the corpora whose articles were summarised."""

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import UNSET, Meta

from xling.config.common import Language, Positive, Seed, Template
from xling.errors import ConfigError, DataError, expanded, shown
from xling.tasks.paths import Identity, files_in, identity, is_table, split_of
from xling.tasks.records import Cap, DocumentLang, TaskSettings
from xling.tasks.tables import Row, Table, open_table, text_of

Corpus = Literal["xsum", "xlsum", "mlsum", "wikilingua"]


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="seahorse"):
    """Summarization as in the paper: Seahorse's ratings, and the corpora that they were made of."""

    path: str
    articles: str | None = None
    languages: tuple[str, ...] = ("de", "en", "es", "ru", "tr", "vi")
    datasets: tuple[Corpus, ...] = ("xsum", "xlsum", "mlsum", "wikilingua")
    question: Annotated[int, Meta(ge=1, le=6)] = 6
    missing: Literal["drop", "bad"] = "drop"
    mixing: Literal["concatenate", "equal"] = "concatenate"
    evaluate: Literal["validation", "test"] = "validation"
    max_demonstrations: Positive | None = None  # a corpus, language and split
    max_prompts: Positive | None = None
    max_feedback: Cap = UNSET  # ratings or pairs, a language and split
    max_validation: Cap = UNSET  # of demonstrations (a corpus) and feedback that choose checkpoints
    max_characters: Positive | None = None
    seed: Seed = 0
    feedback: Literal["pointwise", "pairwise"] = "pointwise"
    template: Template = Template()
    facts: tuple[Language, ...] = ()  # of the languages that the template names; planning fills them in
    document_lang: DocumentLang = UNSET  # of all articles, WikiLingua's alone; null: each language's own


# --- Seahorse's ratings (Clark et al., EMNLP 2023): who wrote which summary, and was it good ----------------

# The release has train.tsv, validation.tsv and test.tsv: gem_id, worker_lang (de, es-ES, en-US, ru, tr, vi), summary,
# model, question1 ... question6, each Yes or No; where question1 (comprehensible?) is No the others are empty.
# Articles are not in it. The mirror tasksource/seahorse_summarization_evaluation has them in data/SPLIT-*.parquet, a
# row a question: gem_id, worker_lang, model, article, summary, question, answer. Both are read, told apart by their
# columns. `duplicates/` is never read: its items may stand in several splits.

LANGUAGES = ("de", "en", "es", "ru", "tr", "vi")
QUESTIONS = ("comprehensib", "repetition", "grammar", "attribution", "main idea", "concise")
RATING_SPLITS = ("train", "validation", "test")
CORPUS = re.compile(r"(xsum|xlsum|mlsum|wiki_?lingua)", re.IGNORECASE)  # how a gem_id begins
FIELDS = ("gem_id", "worker_lang", "summary", "article")
CELLS = 9  # tabs within one summary: a row swallowed by a quote that is not closed


class Rated(NamedTuple):
    """One rated summary. `label`: 1 good, 0 bad, by the question that is asked for."""

    gem_id: str
    lang: str
    dataset: str
    model: str
    summary: str
    label: float


class Ratings(NamedTuple):
    """One split: its rated summaries, rows left out by (language, reason), articles by id where it has them.

    ids: of all articles that somebody rated, whatever was answered.
    """

    rated: list[Rated]
    left_out: Counter[tuple[str, str]]
    articles: dict[str, str]
    ids: set[str]


class _Row(NamedTuple):
    gem_id: str
    lang: str
    model: str
    summary: str
    answers: dict[int, str]
    where: str


def read(config: Settings, split: str) -> Ratings:
    """All languages of a split; read once for a file's size and time. DataError for what is not as published."""
    found = rating_files(config).get(split, [])
    return _read(identity(found), config.question, config.missing)


def rating_files(config: Settings) -> dict[str, list[Path]]:
    """split -> files: the TSVs if articles are given apart, else the Parquet files with articles.

    ConfigError if there is no folder, or no training and validation files in it.
    """
    if config.path in ("", "???"):
        raise ConfigError(f"task=seahorse needs the folder of Seahorse's ratings. {_hint(config)}")
    folder = expanded(config.path)
    if not folder.is_dir():
        raise ConfigError(f"task.path={config.path} is no folder. {_hint(config)}")
    found = {split: _files_of(folder, split, config.articles is None) for split in RATING_SPLITS}
    for split in RATING_SPLITS[:2]:
        if not found[split]:
            wanted = f"{split}.tsv" if config.articles is not None else f"{split}*.parquet (with the articles)"
            raise ConfigError(f"task.path={config.path} has no {wanted}; it has {files_in(folder)}. {_hint(config)}")
    return found


def _files_of(folder: Path, split: str, joined: bool) -> list[Path]:
    if joined:
        return sorted([*folder.glob(f"{split}*.parquet"), *folder.glob(f"data/{split}*.parquet")])
    return [path for path in (folder / f"{split}.tsv", folder / f"{split}.tsv.gz") if path.is_file()][:1]


def _hint(config: Settings) -> str:
    if config.articles is None:
        return (
            "Without task.articles it is that of tasksource/seahorse_summarization_evaluation, which has the articles: "
            "task.path=PATH; for the original TSVs type task.articles=PATH as well (docs/tasks.md)."
        )
    return "Unpack seahorse_data.zip and type task.path=PATH (docs/tasks.md)."


# --- reading ratings ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=6)
def _read(found: Identity, question: int, missing: str) -> Ratings:
    out, seen = Ratings([], Counter(), {}, set()), set[tuple[str, ...]]()
    for name, _, _ in found:
        table = open_table(Path(name), strict=False)
        for row in _summaries(table, out.articles):
            key = (row.gem_id, row.lang, row.model, row.summary, *map(str, row.answers.items()))
            reason, label = _label(row, question, missing)
            corpus = CORPUS.match(row.gem_id)
            out.ids.add(row.gem_id)
            if not row.gem_id:
                reason = "no gem_id"
            elif corpus is None:
                reason = "a gem_id of none of the four corpora"
            elif not row.summary:
                reason = "an empty summary"
            elif key in seen:
                reason = "the same row again"
            if reason:
                out.left_out[row.lang, reason] += 1
            elif corpus is not None:
                seen.add(key)
                dataset = corpus[1].lower().replace("_", "")
                out.rated.append(Rated(row.gem_id, row.lang, dataset, row.model, row.summary, label))
    return out


def _label(row: _Row, question: int, missing: str) -> tuple[str, float]:
    """(why it is left out, label): the answer Yes is 1 and No is 0."""
    answer = row.answers.get(question, "").strip().lower()
    if answer in ("yes", "no"):
        return "", float(answer == "yes")
    if answer in ("", "nan", "na", "none", "unsure"):
        return ("", 0.0) if missing == "bad" else (f"no answer to question {question}", 0.0)
    raise DataError(f"{row.where}: question{question} is {shown(row.answers[question])}; Seahorse answers Yes or No.")


def _summaries(table: Table, articles: dict[str, str]) -> Iterator[_Row]:
    """The release has a row a summary with six answers, the mirror a row a question, put together again here.

    An `article` column is taken along.
    """
    by_question = "question" in table.columns and "answer" in table.columns
    asked = ("question", "answer", "article") if by_question else tuple(f"question{k}" for k in range(1, 7))
    columns = ("gem_id", "worker_lang", "summary", "model", *asked)
    table.require(columns)
    whole: dict[tuple[str, ...], _Row] = {}
    for number, row in table.good_rows((*columns, "article")):
        where = table.where(number)
        gem_id, lang, summary, article = (text_of(row.get(name)).strip() for name in FIELDS)
        lang = lang.split("-")[0].lower()
        if lang not in LANGUAGES:
            raise DataError(
                f"{where}: worker_lang is {shown(row['worker_lang'])}; Seahorse has de, en-US, es-ES, ru, tr, vi."
            )
        if summary.count("\t") >= CELLS:
            raise DataError(f"{where}: the summary has swallowed other rows; its quotes are not balanced.")
        one = _Row("" if gem_id.lower() == "nan" else gem_id, lang, text_of(row["model"]), summary, {}, where)
        if article:
            articles.setdefault(one.gem_id, article)
        if by_question:
            one = whole.setdefault(one[:4], one)
            one.answers[_question(where, text_of(row["question"]))] = text_of(row["answer"])
        else:
            one.answers.update({k: text_of(row[f"question{k}"]) for k in range(1, 7)})
            yield one
    yield from whole.values()


def _question(where: str, name: str) -> int:
    """1 to 6, from `question6`, `6` or what the question is about."""
    if match := re.fullmatch(r"(?:q|question)?[ _]?([1-6])", name.strip().lower()):
        return int(match[1])
    about = [k for k, word in enumerate(QUESTIONS, start=1) if word in name.lower().replace("_", " ")]
    if len(about) == 1:
        return about[0]
    raise DataError(f"{where}: question is {shown(name)}; it should name one of question1 to question6.")


def of(rated: Iterable[Rated], lang: str, datasets: Iterable[str]) -> list[Rated]:
    """Those of a language and of some of the corpora."""
    wanted = set(datasets)
    return [row for row in rated if row.lang == lang and row.dataset in wanted]


# --- the four corpora under Seahorse, in the fields of their GEM release ------------------------------------

#     ARTICLES/DATASET/LANGUAGE/...SPLIT....parquet      also .jsonl, .json, .csv, .tsv, plain or .gz
#
# DATASET is xsum, xlsum, mlsum or wikilingua; LANGUAGE a code or a name (de, german, wiki_lingua_german_de), and may
# be left out for xsum; SPLIT (train, validation, test; val and dev are validation) stands in the name of the file or
# of its folder: train/0000.parquet, mlsum-train-00000-of-00003.parquet. Files of GEM's challenge sets and samples are
# left out.
#
# Fields: gem_id; document, text or source; target (or references). In the old GEM release of WikiLingua, to which
# Seahorse's ids belong, `source` is in the language and `target` in English: the language's own texts stand in
# source_aligned and target_aligned, which are taken where they are.

# Table 1 of the paper: the corpora of each language.
CORPORA: dict[str, tuple[str, ...]] = {
    "de": ("mlsum", "wikilingua"),
    "en": ("xsum", "xlsum", "wikilingua"),
    "es": ("xlsum", "mlsum", "wikilingua"),
    "ru": ("xlsum", "wikilingua"),
    "tr": ("xlsum", "wikilingua"),
    "vi": ("xlsum", "wikilingua"),
}
ENGLISH_NAMES = {
    "de": "german",
    "en": "english",
    "es": "spanish",
    "ru": "russian",
    "tr": "turkish",
    "vi": "vietnamese",
}
LEFT_OUT = re.compile(r"challenge|sampled|partial-")  # the last: half of a large split, as the hub converts it
TEXTS = ("document", "text", "source", "article")
SUMMARIES = ("target", "summary")
ALIGNED = ("source_aligned", "target_aligned")


class Document(NamedTuple):
    """An article with its reference summary."""

    gem_id: str
    text: str
    summary: str


def corpora(config: Settings, lang: str) -> tuple[str, ...]:
    """The corpora of a language that `task.datasets` asks for; ConfigError if there is none."""
    found = tuple(name for name in CORPORA.get(lang, ()) if name in config.datasets)
    if not found:
        raise ConfigError(
            f"task.datasets=[{','.join(config.datasets)}] has none of the corpora of {lang!r}: "
            f"{', '.join(CORPORA.get(lang, ())) or 'Seahorse has no such language'}."
        )
    return found


def corpus_files(config: Settings, lang: str, dataset: str) -> dict[str, list[Path]]:
    """split -> files of a corpus in a language; ConfigError that says where it was looked for."""
    root = expanded(config.articles or "")
    if not root.is_dir():
        raise ConfigError(
            f"task.articles={config.articles} is no folder. Type task.articles=PATH, "
            "a folder of DATASET/LANGUAGE files (docs/tasks.md)."
        )
    names = _folder_names(dataset, lang)
    for folder in (root / dataset / name for name in names):
        found = files_by_split(folder) if folder.is_dir() else {}
        if found:
            return found
    places = ", ".join(f"{dataset}/{name}".rstrip("/") for name in names[:3])
    raise ConfigError(
        f"task.articles={config.articles} has no files of {dataset} in {lang!r}; looked in {places} and the like. "
        f"Put them there, or leave the corpus out: task.datasets=[...] (docs/tasks.md)."
    )


def require(config: Settings, lang: str, split: str) -> None:
    """ConfigError unless each corpus of the language has files of the split."""
    for dataset in corpora(config, lang):
        if split not in (found := corpus_files(config, lang, dataset)):
            raise ConfigError(
                f"task.articles={config.articles} has no {split} files of {dataset} in {lang!r}, only of "
                f"{', '.join(sorted(found))}. Put them beside those (docs/tasks.md)."
            )


def documents(
    config: Settings, lang: str, dataset: str, splits: Collection[str], wanted: Collection[str] | None = None
) -> Iterator[Document]:
    """A corpus's documents, streamed; only those `wanted` by gem_id, if given. Rows without text are left out."""
    found = corpus_files(config, lang, dataset)
    for path in (path for split in splits for path in found.get(split, [])):
        table = open_table(path, strict=False)
        text_column, summary_column = _columns(table, lang)
        also = ("gem_id", "references", "source_language", "target_language")
        for _, row in table.good_rows((text_column, summary_column, *also)):
            gem_id = text_of(row.get("gem_id")).strip()
            # where the row says in which language text and summary are (the new GEM release of WikiLingua)
            said = (text_of(row.get(name)).split("_")[0].lower() for name in ("source_language", "target_language"))
            if not gem_id or (wanted is not None and gem_id not in wanted) or not {*said} <= {"", lang}:
                continue
            text, summary = _text(row, text_column, lang), _text(row, summary_column, lang)
            if text:
                references = row.get("references")
                reference = text_of(references[0]).strip() if isinstance(references, list) and references else ""
                yield Document(gem_id, text, summary or reference)


# --- reading corpora -------------------------------------------------------------------------------------------------


def _folder_names(dataset: str, lang: str) -> tuple[str, ...]:
    name = ENGLISH_NAMES[lang]
    old = (f"wiki_lingua_{name}_{lang}",) if dataset == "wikilingua" else ()
    names = (lang, name, *old, f"{name}_{lang}", f"{dataset}_{lang}", f"{dataset}_{name}")
    alone = sum(dataset in found for found in CORPORA.values()) == 1
    return (*names, "default", dataset, "") if alone else names


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """split -> files below a corpus's folder; ConfigError for a split that is there in two forms."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix().lower()
        split = split_of(name)
        if split and path.is_file() and is_table(path) and not LEFT_OUT.search(name):
            found.setdefault(split, []).append(path)
    for split, paths in found.items():
        kinds = sorted({path.name.removesuffix(".gz").rpartition(".")[2] for path in paths})
        if len(kinds) > 1:
            raise ConfigError(f"{folder} has its {split} files twice, as {' and '.join(kinds)}. Leave one of them.")
    return found


def _columns(table: Table, lang: str) -> tuple[str, str]:
    """Names of text and summary in a file."""
    found = table.columns
    if not found:
        return TEXTS[0], SUMMARIES[0]
    table.require(["gem_id"])
    source, target = ALIGNED
    text = next((name for name in (source, f"{source}/{lang}", *TEXTS) if name in found), None)
    summary = next((name for name in (target, f"{target}/{lang}", *SUMMARIES) if name in found), None)
    if text is None or summary is None:
        needed = TEXTS if text is None else SUMMARIES
        raise DataError(
            f"{table.path} has no column '{needed[0]}' (or {', '.join(needed[1:])}); it has {', '.join(found)}."
        )
    return text, summary


def _text(row: Row, column: str, lang: str) -> str:
    value = row.get(column)
    return text_of(value.get(lang) if isinstance(value, Mapping) else value).strip()
