"""translator=recorded: translations made elsewhere, by a service or by people, in a file.

JSONL, CSV, TSV or Parquet (also .gz), a row a text: source_lang, target_lang, text, translation. Texts are looked up as
they are, white space at their ends apart; chats line by line, without the speakers' names. A row without a translation
(null, or an empty cell of CSV) is as if it were not there; an empty one ("" in JSONL and Parquet) says that there is
none, and what needs it is dropped.

`xling translate export` writes the texts that a grid has to have translated, for a service or for people:

    xling translate export --out texts.jsonl sweeps=NAME reward_data=translated
    xling translate export --out rest.csv sweeps=NAME sft_data=round_trip translator=recorded translator.path=done.jsonl

Rows of source_lang, target_lang, text, each text once; of chats every line is a text. With translator=recorded those
are left out that are in its file. The way back of a round trip needs the way there: its texts follow once the first
ones are translated.
"""

import csv
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from xling.errors import ConfigError, DataError, listed, shown
from xling.grid.stage import WHERE, Context, Stage, canonical_json
from xling.measures.language import language_of_code
from xling.planning.translations import (
    FEEDBACK,
    Inputs,
    Needed,
    TranslateSpec,
    settings_of,
    translates_feedback,
)
from xling.results.translations import SPLITS, Record, What, distinct, record_of, translated
from xling.rewards import objective_of
from xling.tasks.options import Task, speakers, task_module
from xling.tasks.paths import Identity, identity, paths_of
from xling.tasks.records import absent
from xling.tasks.render import bare
from xling.tasks.tables import open_table, text_of
from xling.translators import Direction, Segment, Translate, TranslatorSettings, joined, readable, segments_of

if TYPE_CHECKING:
    from xling.experiment import Experiment

COLUMNS = ("source_lang", "target_lang", "text", "translation")

Pair = tuple[str, str]  # codes of source and target


class Settings(TranslatorSettings, frozen=True, kw_only=True, tag="recorded"):
    """Translations made elsewhere: a file of (source_lang, target_lang, text, translation)."""

    path: str


def check(translator: Settings, experiment: "Experiment", directions: Sequence[Direction]) -> None:
    """ConfigError for a file without one of the pairs of languages."""
    known = pairs_of(translator.path)
    for pair in ((source.code, target.code) for source, target in directions):
        if pair not in known:
            there = ", ".join(f"{a} -> {b}" for a, b in known) or "none"
            raise ConfigError(
                f"translator.path={translator.path} has no translations {pair[0]} -> {pair[1]}; it has {there}. "
                "`xling translate export` writes the texts that are needed."
            )


def inputs(translator: Settings, needed: Needed) -> Inputs:
    """The digest of the rows that are needed stands in the key; where the file lies does not."""
    pair = needed.source.code, needed.target.code
    digest = pair_digest(translator.path, *pair, _units(needed, translator.path))
    return Inputs(
        settings_of(translator, "path"), spec={"translations": digest}, where={"translations": translator.path}
    )


def _units(needed: Needed, path: str) -> Sequence[str]:
    """The texts that translations are looked up for; of the way back in a round trip those that the way there made."""
    task, source, target = bare(needed.task), needed.source.code, needed.target.code
    if absent(task):
        return ()
    names, records = speakers(task), _records(task, needed.what, target if needed.back else source)
    if needed.back:
        known = translations(path, target, source)
        made = {text: put_together(text, names, known) for text in distinct(records)}
        records, _ = translated(records, made, source)
    return units_of(distinct(records), names)


@functools.lru_cache(maxsize=8)
def _records(task: Task, what: What, lang: str) -> Sequence[Record]:
    read = getattr(task_module(task), what)
    return [record_of(task, item) for split in SPLITS for item in read(task, lang, split)]


def translate(context: Context, spec: TranslateSpec, texts: Sequence[str]) -> Translate:
    """The file's own words.

    DataError if the rows of what the texts are made of are not those of the plan, or are not there.
    """
    path, source, target = context.spec[WHERE]["translations"], spec.source.code, spec.target.code
    units = units_of(texts, spec.speakers)
    if pair_digest(path, source, target, units) != context.spec["translations"]:
        raise DataError(f"{path} has changed since the grid was planned. Run the same command again.")
    if lacking := missing(path, source, target, units):
        raise DataError(
            f"translator.path={path} has no translation {source} -> {target} of {len(lacking):,} of {len(units):,} "
            f"texts, the first of them {shown(lacking[0], 80)}. Type `xling translate export --out FILE` and the "
            "grid's overrides to write all missing texts, have them translated, and add them."
        )
    known = translations(path, source, target)
    return lambda some: [put_together(text, spec.speakers, known) for text in some]


def work(stage: Stage, tokens: int) -> Mapping[str, float]:
    """Next to nothing: they are looked up."""
    return {}


# --- the file -----------------------------------------------------------------------------------------------


def translations(path: str, source: str, target: str) -> Mapping[str, str]:
    """text -> translation of a pair of languages; read once for a file's size and time.

    A pair that the file does not name so is that of codes which mean it (DE, eng_Latn). ConfigError if there is no such
    file; DataError for one without the columns, or with two translations of a text.
    """
    there = _read(identity(paths_of(path, "translator.path")))
    if (source, target) in there:
        return there[source, target]
    meant = [pair for pair in sorted(there) if tuple(map(language_of_code, pair)) == (source, target)]
    if len(meant) > 1:
        raise DataError(f"{path} has {source} -> {target} under several names: {listed(map(' -> '.join, meant))}.")
    return there[meant[0]] if meant else {}


def pairs_of(path: str) -> list[Pair]:
    """The pairs of languages that a file has."""
    return sorted(_read(identity(paths_of(path, "translator.path"))))


def pair_digest(path: str, source: str, target: str, units: Iterable[str]) -> str:
    """sha256 over a pair's translations of some texts (`units_of`), in any order: other rows change nothing."""
    known = translations(path, source, target)
    return hashlib.sha256(canonical_json(sorted((unit, known.get(unit)) for unit in set(units)))).hexdigest()


def missing(path: str, source: str, target: str, texts: Iterable[str]) -> list[str]:
    """Texts (units of `units_of`) that the file has no row for."""
    known = translations(path, source, target)
    return [text for text in texts if text not in known]


@functools.lru_cache(maxsize=2)
def _read(files: Identity) -> dict[Pair, dict[str, str]]:
    found: dict[Pair, dict[str, str]] = {}
    for name, _, _ in files:
        table = open_table(Path(name))
        table.require(COLUMNS)
        for number, row in table.good_rows(COLUMNS):
            if row["translation"] is None:
                continue
            source, target, text, translation = (text_of(row[column]).strip() for column in COLUMNS)
            known = found.setdefault((source, target), {}).setdefault(text, translation)
            if known != translation:
                raise DataError(
                    f"{table.where(number)}: a second translation {source} -> {target} of {text[:60]!r}, other than "
                    "the first. Leave one of them out."
                )
    return found


def units_of(texts: Iterable[str], speakers: Sequence[str]) -> list[str]:
    """Texts to look up, each once: whole texts; of chats, which have `speakers`, the lines without their names."""
    lines = (one.text for text in texts for one in _cut(text, speakers) if readable(one.text))
    return list(dict.fromkeys(lines))


def put_together(text: str, speakers: Sequence[str], known: Mapping[str, str]) -> str | None:
    """The translation of a text, of whose units all are in `known`; None if one of them is not, or is empty."""
    cut = _cut(text, speakers)
    said = [known.get(one.text) if readable(one.text) else one.text for one in cut]
    if any(readable(one.text) and not translation for one, translation in zip(cut, said, strict=True)):
        return None
    return joined(cut, [translation or "" for translation in said])


def _cut(text: str, speakers: Sequence[str]) -> list[Segment]:
    return segments_of(text, "", "lines", speakers, "") if speakers else [Segment("", text.strip())]


# --- what is still to be translated -------------------------------------------------------------------------


EXPORTED = COLUMNS[:3]


class Need(NamedTuple):
    """Data of a language to be translated; `back`: and then into that language itself again."""

    task: Task
    what: What
    source: str
    target: str
    back: bool = False


@dataclass
class Exported:
    """Texts by pair of languages, and how many wait for the way there."""

    texts: dict[Pair, list[str]]
    waiting: int

    def sentences(self, path: Path) -> list[str]:
        """Sentences on what was written."""
        total = sum(map(len, self.texts.values()))
        characters = sum(len(text) for some in self.texts.values() for text in some)
        found = [f"{a} -> {b}: {len(some):,} texts" for (a, b), some in sorted(self.texts.items()) if some]
        found.append(f"{total:,} texts ({characters:,} characters) written to {path}.")
        if self.waiting:
            found.append(
                f"{self.waiting:,} texts of round trips go back once they have been translated: type the same command "
                "again, with translator=recorded translator.path=FILE."
            )
        return found


def needs(asked: Iterable["Experiment"]) -> list[Need]:
    """The translations that the cells need, each once."""
    found: dict[Need, None] = {}
    for experiment in asked:
        task, target = bare(experiment.task), experiment.target_lang.code
        for source in (lang.code for lang in experiment.source_langs if lang.code != target):
            if translates_feedback(experiment):
                what = FEEDBACK[objective_of(task, experiment.rm_backbone)]
                found.setdefault(Need(task, what, source, target))
            if experiment.sft_data == "translated":
                found.setdefault(Need(task, "demonstrations", source, target))
            if experiment.sft_data == "round_trip":
                found.setdefault(Need(task, "demonstrations", target, source, back=True))
    return list(found)


def to_translate(asked: Sequence["Experiment"]) -> Exported:
    """The texts that are still to be translated. ConfigError if nothing of the cells is."""
    wanted = needs(asked)
    if not wanted:
        raise ConfigError(
            "Nothing of this grid is translated. Type reward_data=translated, sft_data=translated or "
            "sft_data=round_trip."
        )
    paths = {e.translator.path for e in asked if isinstance(e.translator, Settings)}
    found: dict[Pair, dict[str, None]] = {}

    def add(source: str, target: str, texts: Iterable[str], names: Sequence[str]) -> dict[str, str]:
        known = {text: said for path in paths for text, said in translations(path, source, target).items()}
        units = (unit for unit in units_of(texts, names) if unit not in known)
        found.setdefault((source, target), {}).update(dict.fromkeys(units))
        return known

    waiting = 0
    for need in wanted:
        names, texts = speakers(need.task), distinct(_records(need.task, need.what, need.source))
        there = add(need.source, need.target, texts, names)
        if need.back:
            said = [put_together(text, names, there) for text in texts]
            waiting += said.count(None)
            add(need.target, need.source, [text for text in said if text], names)
    return Exported({pair: list(texts) for pair, texts in found.items()}, waiting)


def write(path: Path, exported: Exported) -> None:
    """A row a text: JSON lines, or CSV by the file's name. ConfigError for a file that is there already."""
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"--out {path} is neither .jsonl nor .csv. Type --out texts.jsonl.")
    if path.exists():
        raise ConfigError(f"--out {path} is there already. Name another file.")
    rows = [(*pair, text) for pair, texts in sorted(exported.texts.items()) for text in texts]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        lines = [msgspec.json.encode(dict(zip(EXPORTED, row, strict=True))) + b"\n" for row in rows]
        path.write_bytes(b"".join(lines))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([EXPORTED, *rows])
