"""People's judgements of translations in the layouts that WMT publishes, as tables of ratings: one a person and text.

    MQM        system, doc, doc_id | docSegId, rater, source, target, category, severity, ...: an error a row
               (google/wmt-mqm-human-evaluation, Freitag et al. 2021; files of Anthea and of the MQM Viewer)
    Appraise   an export of scores without a first row of names (ESA, DA+SQM), in 11 or 12 cells. The texts are read
               from the folder `txt` of the task's systems, beside it or its folder (wmt-conference/wmt24-news-systems)
    ESA        langs, line_id, src, tgt, doc_id, system, annotator, esa_score (JSON lines of the same repository)
    humeval    src_text, tgt_text and scores by system, doc_id (wmt-conference/wmt25-general-mt)
    lp         lp, src, mt, score (as RicardoRei/wmt-mqm-human-evaluation and its like have them)

The prompt is the source, the response a translation, the group its document, the language the translation's: no column
has to be named. Higher is better: a sum of errors has a minus before it. Knows no torch.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xling.errors import ConfigError, DataError, shown
from xling.grid.files import is_plain
from xling.measures.language import is_code, language_of_code
from xling.tasks.tables import APPRAISE, Numbered, Row, Table, open_table, text_of

COLUMNS = ("id", "lang", "group", "prompt", "response", "system", "rating", "rater")
MQM = frozenset(("system", "doc", "rater", "source", "target", "category", "severity"))
ESA = frozenset(("langs", "line_id", "src", "tgt", "doc_id", "system", "annotator", "esa_score"))
HUMEVAL = frozenset(("src_text", "tgt_text", "scores", "doc_id"))
LP = frozenset(("lp", "src", "mt"))
PAIR = re.compile(r"(?<![a-z])(?!data|test)([a-z]{2})-?([a-z]{2})(?![a-z])")  # in a file's name: mqm_ted_ende.tsv
MARK = re.compile(r"</?v>")  # around an error
NOT_JUDGED = re.compile(r"#(bad|dup|incomplete)\b|tutorial")  # quality control, repeats and what fills a batch up
LONGEST = 100  # characters of a system's name
NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
SEVERE = {"major": 5.0, "critical": 5.0, "minor": 1.0, "neutral": 0.0, "no-error": 0.0, "": 0.0}
WEIGHTS = "major 5, minor 1, minor Fluency/Punctuation 0.1, Non-translation 25"


class Published(NamedTuple):
    """A file of a published layout as a table of ratings, and a sentence for the plan."""

    table: Table
    note: str


def published(table: Table, lang: str, rating_field: str) -> Published | None:
    """The table as ratings, if it is of one of the layouts.

    lang: of all rows, where the file does not say it; rating_field: what lp's rating is, else `score`. ConfigError
    where nobody says the language; DataError if an export's texts are not there.
    """
    there = set(table.columns)
    if there >= LP and (score := rating_field if rating_field in there else "score") in there:
        names = dict.fromkeys((*table.columns, "lang", "prompt", "response", "rating"))
        as_ratings = replace(table, columns=tuple(names), read=lambda _: _lp(table, score))
        return Published(as_ratings, f"{table.path.name} is read by lp, src, mt and {score}.")
    if (found := _layout(table)) is None:
        return None
    layout, rows_of = found
    left = Counter[str]()
    rows = list(rows_of(table, lang, left))
    more = "".join(f" {what}: {n}." for what, n in sorted(left.items()) if n)
    as_ratings = replace(table, columns=COLUMNS, read=lambda _: iter(rows), decimal_comma=False)
    return Published(as_ratings, f"{table.path.name} is read as {layout}.{more}")


def _layout(table: Table) -> tuple[str, Callable[[Table, str, Counter[str]], Iterator[Numbered]]] | None:
    there = set(table.columns)
    if there >= MQM and there & {"doc_id", "docSegId"}:
        return f"MQM: minus the sum of its errors ({WEIGHTS}), by `doc`", _mqm
    if table.columns in APPRAISE:
        return f"an export of Appraise, its texts from {_texts(table.path)}", _appraise
    if there >= ESA:
        return "WMT's ESA, by `doc_id`", _esa
    return ("WMT's judgements, by the document of `doc_id`", _humeval) if there >= HUMEVAL else None


def is_export(path: Path) -> bool:
    """Whether a file is an export of Appraise."""
    try:
        return path.name.lower().endswith((".csv", ".csv.gz")) and open_table(path).columns in APPRAISE
    except DataError:  # which whoever reads it says
        return False


def texts_beside(path: Path) -> list[Path]:
    """All files that are read beside an export of Appraise."""
    return sorted(file for file in _texts(path).rglob("*") if file.suffix in (".txt", ".docs") and file.is_file())


def _row(lang: str, doc: str, segment: str, source: Any, target: Any, system: Any, rating: Any, rater: Any) -> Row:
    values = (f"{doc}/{segment}", lang, doc, source, target, system, rating, rater)
    return dict(zip(COLUMNS, values, strict=True))


def _language(table: Table, lang: str) -> str:
    """That of the translations: the second of a file's name, as de in mqm_ted_ende.tsv, or what the settings say.

    Words are taken for pairs, too, as best: then what the settings say, if the name says it as well, else the last.
    """
    pairs = [to for of, to in PAIR.findall(table.path.name) if is_code(of) and is_code(to)]
    if not pairs and not lang:
        raise ConfigError(
            f"{table.path.name} does not say the language of its translations. Name it with task.languages=[de], or in "
            "the file's name, as in mqm_ende.tsv."
        )
    return lang if lang in pairs or not pairs else pairs[-1]


# --- MQM ----------------------------------------------------------------------------------------------------


def weight(category: str, severity: str) -> float | None:
    """The weight of an error (Freitag et al. 2021, Experts, Errors, and Context, section 3.1); None: unknown.

    Errors of the source and reinterpretations cost nothing, as at WMT 2024. Severities are of any case.
    """
    kind, severe = category.casefold(), severity.casefold().replace("_", "-")
    if not SEVERE.get(severe) or kind.startswith(("source issue", "source error")) or "reinterpretation" in kind:
        return 0.0 if severe in SEVERE else None
    if kind.startswith("non-translation"):
        return 25.0
    return 0.1 if severe == "minor" and kind.startswith("fluency/punctuation") else SEVERE[severe]


def _mqm(table: Table, lang: str, left: Counter[str]) -> Iterator[Numbered]:
    lang = _language(table, lang)
    place = "docSegId" if "docSegId" in table.columns else "doc_id"  # either counts segments within `doc`
    judged = dict[tuple[str, str, str, str], list[tuple[int, float]]]()
    sources = dict[tuple[str, str], Counter[str]]()
    targets = dict[tuple[str, str, str], Counter[str]]()
    for number, row in table.rows():
        if isinstance(row, str):
            yield number, row
            continue
        names = ("doc", place, "system", "rater", "severity", "category")
        doc, segment, system, rater, severity, category = (text_of(row.get(name)).strip() for name in names)
        if severity.casefold() == "hotw-test":
            left["Rows of quality control (HOTW-test), left out"] += 1
        elif (cost := weight(category, severity)) is None:
            yield number, f"`severity` is {shown(severity)}; MQM has Major, Minor, Neutral, No-error and Critical"
        else:
            judged.setdefault((doc, segment, system, rater), []).append((number, cost))
            sources.setdefault((doc, segment), Counter())[_unmarked(row.get("source"))] += 1
            targets.setdefault((doc, segment, system), Counter())[_unmarked(row.get("target"))] += 1
    if several := sum(len(texts) > 1 for texts in targets.values()):
        left["Translations that differ from row to row, read as most rows have them"] = several
    for (doc, segment, system, rater), errors in judged.items():
        source, target = _most(sources[doc, segment]), _most(targets[doc, segment, system])
        cost = round(sum(one for _, one in errors), 6)
        yield errors[0][0], _row(lang, doc, segment, source, target, system, -cost if cost else 0.0, rater)


def _unmarked(text: Any) -> str:
    """A text without marks and, where a program quoted the cell (2020's files, of which others are not), its quotes."""
    found = text_of(text).strip()
    inside = found[1:-1]
    if found[:1] == found[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', ""):
        found = inside.replace('""', '"')
    return " ".join(MARK.sub("", found).split())


def _most(texts: Counter[str]) -> str:
    """The most frequent one; of several the least."""
    return min(texts, key=lambda text: (-texts[text], text))


# --- Appraise -----------------------------------------------------------------------------------------------


def _appraise(table: Table, lang: str, left: Counter[str]) -> Iterator[Numbered]:
    last = dict[tuple[str, ...], tuple[float, int, Row]]()
    for number, row in table.rows():
        if isinstance(row, str):
            yield number, row
        elif row["type"] != "TGT" or NOT_JUDGED.search(f"{row['system']} {row['doc_id']}"):
            left["Rows of quality control, repeats and incomplete documents, left out"] += 1
        else:
            key = tuple(text_of(row[name]) for name in ("annotator", "system", "segment", "src_lang", "tgt_lang"))
            left["Scores that the same person changed later, left out"] += key in last
            at = float(row["end"]) if NUMBER.fullmatch(text_of(row["end"])) else 0.0
            last[key] = max(last.get(key, (at, number, row)), (at, number, row), key=lambda one: one[:2])
    texts = _Texts(_texts(table.path))
    for _, number, row in sorted(last.values(), key=lambda one: one[1]):
        languages = [language_of_code(text_of(row[name])) for name in ("src_lang", "tgt_lang")]
        doc, segment, system = (text_of(row[name]) for name in ("doc_id", "segment", "system"))
        try:
            source, target = texts.of("-".join(languages), system, segment, doc)
        except DataError as error:
            yield number, str(error)
        else:
            yield number, _row(languages[1], doc, segment, source, target, system, row["score"], row["annotator"])


def _texts(path: Path) -> Path:
    """The folder with an export's texts; DataError if there is none."""
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        if (folder / "txt" / "sources").is_dir():
            return folder / "txt"
    raise DataError(
        f"{path} is an export of Appraise: scores without texts. Put the folder `txt` of the task's systems beside it "
        "as WMT has it: txt/sources/en-de.txt, txt/documents/en-de.docs, txt/system-outputs/en-de/SYSTEM.txt, ..."
    )


class _Texts:
    """The lines of a folder's files, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, list[str]] = {}

    def of(self, pair: str, system: str, segment: str, doc: str) -> tuple[str, str]:
        """(source, translation) of a segment, counted from 0; DataError if it is not there or of another document."""
        if not is_plain(system) or len(system) > LONGEST:
            raise DataError(f"{shown(system)} cannot be the name of a system: it would be no file of {self._folder}")
        output = self._folder / "system-outputs" / pair / f"{system}.txt"
        if not output.is_file():  # people's own translations
            output = self._folder / "references" / f"{pair}.{system}.txt"
        where = (self._folder / "documents" / f"{pair}.docs", self._folder / "sources" / f"{pair}.txt", output)
        docs, sources, targets = map(self._lines, where)
        number = int(segment) if segment.isdecimal() else -1
        if not 0 <= number < min(map(len, (docs, sources, targets))):
            raise DataError(f"segment {shown(segment)} of {pair} by {shown(system)} is not in {self._folder}")
        if (there := docs[number].rpartition("\t")[2]) != doc:
            raise DataError(f"segment {number} of {pair} is of {shown(there)} in {where[0]}, and not of {shown(doc)}")
        return sources[number], targets[number]

    def _lines(self, path: Path) -> list[str]:
        if path not in self._read:
            try:
                self._read[path] = path.read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} cannot be read: {shown(error)}") from error
        return self._read[path]


# --- tables and JSON lines with the texts in them -----------------------------------------------------------


def _lp(table: Table, score: str) -> Iterator[Numbered]:
    for number, row in table.rows():
        if isinstance(row, str):
            yield number, row
        else:
            lang = text_of(row.get("lp")).partition("-")[2]
            own = {"lang": lang, "prompt": row.get("src"), "response": row.get("mt"), "rating": row.get(score)}
            yield number, row | own


def _esa(table: Table, lang: str, left: Counter[str]) -> Iterator[Numbered]:
    names = ("src", "tgt", "system", "esa_score", "annotator")
    for number, row in table.rows():
        if isinstance(row, str):
            yield number, row
        else:
            doc, segment, pair = (text_of(row.get(name)) for name in ("doc_id", "line_id", "langs"))
            yield number, _row(pair.partition("-")[2], doc, segment, *map(row.get, names))


def _humeval(table: Table, lang: str, left: Counter[str]) -> Iterator[Numbered]:
    """`scores` is by system {human, ...}, or a list of {score, annotator, ...}."""
    for number, row in table.rows():
        if isinstance(row, str):
            yield number, row
            continue
        doc, _, segment = text_of(row.get("doc_id")).rpartition("_#_")
        pair = doc.partition("_#_")[0].partition("-")[2]
        to = pair if is_code(pair.replace("_", "-")) else _language(table, lang)
        scores, texts = row.get("scores"), row.get("tgt_text")
        if not isinstance(scores, dict) or not isinstance(texts, dict):
            yield number, "`scores` and `tgt_text` are no objects of systems"
            continue
        for system, given in scores.items():
            for one in given if isinstance(given, list) else [given]:
                said = one if isinstance(one, dict) else {"score": one}
                score = said.get("score", said.get("human"))
                rater = said.get("annotator")
                yield number, _row(to, doc, segment, row.get("src_text"), texts.get(system), system, score, rater)
