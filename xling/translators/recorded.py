"""translator=recorded: translations made elsewhere, by a service or by people, in a file.

JSONL, CSV, TSV or Parquet (also .gz), a row a text: source_lang, target_lang, text, translation. Texts are looked up as
they are, white space at their ends apart; chats line by line, without the speakers' names. A row without a translation
(null, or an empty cell of CSV) is as if it were not there; an empty one ("" in JSONL and Parquet) says that there is
none, and what needs it is dropped.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xling.errors import DataError, listed
from xling.grid.stage import canonical_json
from xling.measures.language import language_of_code
from xling.tasks.tables import Identity, identity, open_table, paths_of, text_of
from xling.translators.segments import Segment, joined, readable, segments_of
from xling.translators.translator import Spoken, Translate

COLUMNS = ("source_lang", "target_lang", "text", "translation")

Pair = tuple[str, str]  # codes of source and target


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


def missing_text(path: str, source: str, target: str, lacking: list[str], of: int) -> str:
    """The sentence on texts that are not there."""
    first = lacking[0] if len(lacking[0]) <= 80 else lacking[0][:80] + "..."
    return (
        f"translator.path={path} has no translation {source} -> {target} of {len(lacking):,} of {of:,} texts, the "
        f"first of them {first!r}. Type `xling translate export --out FILE` and the grid's overrides to write all "
        "missing texts, have them translated, and add them."
    )


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


def recorded_translator(
    path: str, source: Spoken, target: Spoken, speakers: Sequence[str], expected: str, needed: Sequence[str]
) -> Translate:
    """The file's own words.

    DataError if the rows of what the `needed` texts are made of are not those of the plan (`expected`), or are not
    there.
    """
    units = units_of(needed, speakers)
    if pair_digest(path, source.code, target.code, units) != expected:
        raise DataError(f"{path} has changed since the grid was planned. Run the same command again.")
    if lacking := missing(path, source.code, target.code, units):
        raise DataError(missing_text(path, source.code, target.code, lacking, len(units)))
    known = translations(path, source.code, target.code)
    return lambda texts: [put_together(text, speakers, known) for text in texts]


def units_of(texts: Iterable[str], speakers: Sequence[str]) -> list[str]:
    """What is looked up, each once: whole texts; of chats, which have `speakers`, line by line what they say."""
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
