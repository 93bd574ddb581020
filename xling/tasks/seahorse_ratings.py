"""Seahorse's ratings (Clark et al., EMNLP 2023) in their own layouts: who wrote which summary, and was it good.

The release has train.tsv, validation.tsv and test.tsv: gem_id, worker_lang (de, es-ES, en-US, ru, tr, vi), summary,
model, question1 ... question6, each Yes or No; where question1 (comprehensible?) is No the others are empty. Articles
are not in it. The mirror tasksource/seahorse_summarization_evaluation has them in data/SPLIT-*.parquet, a row a
question: gem_id, worker_lang, model, article, summary, question, answer. Both are read, told apart by their columns.
`duplicates/` is never read: its items may stand in several splits.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xling.errors import ConfigError, DataError, shown
from xling.tasks.tables import Identity, Row, Table, identity, open_table, text_of

if TYPE_CHECKING:
    from xling.tasks.seahorse import Settings

LANGUAGES = ("de", "en", "es", "ru", "tr", "vi")
QUESTIONS = ("comprehensib", "repetition", "grammar", "attribution", "main idea", "concise")
SPLITS = ("train", "validation", "test")
CORPUS = re.compile(r"(xsum|xlsum|mlsum|wiki_?lingua)", re.IGNORECASE)  # how a gem_id begins
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


def read(config: "Settings", split: str) -> Ratings:
    """All languages of a split; read once for a file's size and time. DataError for what is not as published."""
    found = files(config).get(split, [])
    return _read(identity(found), config.question, config.missing)


def files(config: "Settings") -> dict[str, list[Path]]:
    """split -> files: the TSVs if articles are given apart, else the Parquet files with articles.

    ConfigError if there is no folder, or no training and validation files in it.
    """
    if config.path in ("", "???"):
        raise ConfigError(f"task=seahorse needs the folder of Seahorse's ratings. {_hint(config)}")
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"task.path={config.path} is no folder. {_hint(config)}")
    found = {split: _files_of(folder, split, config.articles is None) for split in SPLITS}
    for split in SPLITS[:2]:
        if not found[split]:
            wanted = f"{split}.tsv" if config.articles is not None else f"{split}*.parquet (with the articles)"
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise ConfigError(f"task.path={config.path} has no {wanted}; it has {there}. {_hint(config)}")
    return found


def _files_of(folder: Path, split: str, joined: bool) -> list[Path]:
    if joined:
        return sorted([*folder.glob(f"{split}*.parquet"), *folder.glob(f"data/{split}*.parquet")])
    return [path for path in (folder / f"{split}.tsv", folder / f"{split}.tsv.gz") if path.is_file()][:1]


def _hint(config: "Settings") -> str:
    if config.articles is None:
        return (
            "Without task.articles it is that of tasksource/seahorse_summarization_evaluation, which has the articles: "
            "task.path=PATH; for the original TSVs type task.articles=PATH as well (docs/tasks.md)."
        )
    return "Unpack seahorse_data.zip and type task.path=PATH (docs/tasks.md)."


# --- reading ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=6)
def _read(found: Identity, question: int, missing: str) -> Ratings:
    out, seen = Ratings([], Counter(), {}, set()), set[tuple[str, ...]]()
    for name, _, _ in found:
        table = open_table(Path(name), strict=False)
        by_question = "question" in table.columns and "answer" in table.columns
        for row in (_by_question if by_question else _by_summary)(table, out.articles):
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


def _by_summary(table: Table, articles: dict[str, str]) -> Iterator[_Row]:
    """The release's layout: a row a summary, six columns of answers; an `article` column is taken along."""
    table.require(("gem_id", "worker_lang", "summary", "model", *(f"question{k}" for k in range(1, 7))))
    for number, row in table.good_rows():
        answers = {k: text_of(row[f"question{k}"]) for k in range(1, 7)}
        made = _row(table.where(number), row, answers)
        if article := text_of(row.get("article")).strip():
            articles[made.gem_id] = article
        yield made


def _by_question(table: Table, articles: dict[str, str]) -> Iterator[_Row]:
    """The mirror's layout: a row a question, put together again to a row a summary."""
    columns = ("gem_id", "worker_lang", "summary", "model", "article", "question", "answer")
    table.require(columns)
    made: dict[tuple[str, str, str, str], _Row] = {}
    for number, row in table.good_rows(columns):
        one = _row(table.where(number), row, {})
        article = text_of(row["article"]).strip()
        if article and one.gem_id not in articles:
            articles[one.gem_id] = article
        kept = made.setdefault((one.gem_id, one.lang, one.model, one.summary), one)
        kept.answers[_question(one.where, text_of(row["question"]))] = text_of(row["answer"])
    yield from made.values()


def _row(where: str, row: Row, answers: dict[int, str]) -> _Row:
    gem_id, summary = (text_of(row[name]).strip() for name in ("gem_id", "summary"))
    lang = text_of(row["worker_lang"]).strip().split("-")[0].lower()
    if lang not in LANGUAGES:
        raise DataError(
            f"{where}: worker_lang is {shown(row['worker_lang'])}; Seahorse has de, en-US, es-ES, ru, tr, vi."
        )
    if summary.count("\t") >= CELLS:
        raise DataError(f"{where}: the summary has swallowed other rows; its quotes are not balanced.")
    return _Row("" if gem_id.lower() == "nan" else gem_id, lang, text_of(row["model"]), summary, answers, where)


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
