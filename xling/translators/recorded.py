"""translator=recorded: translations made elsewhere, by a service or by people, in a file.

JSONL, CSV, TSV or Parquet (also .gz), a row a text: source_lang, target_lang, text, translation. Texts are looked up as
they are, white space at their ends apart. An empty translation says that there is none.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xling.errors import DataError
from xling.grid.stage import canonical_json
from xling.tasks.tables import Identity, identity, open_table, paths_of, text_of
from xling.translators.translator import Spoken, Translate

COLUMNS = ("source_lang", "target_lang", "text", "translation")

Pair = tuple[str, str]  # codes of source and target


def translations(path: str, source: str, target: str) -> Mapping[str, str]:
    """text -> translation of a pair of languages; read once for a file's size and time.

    ConfigError if there is no such file; DataError for one without the columns, or with two translations of a text.
    """
    return _read(identity(paths_of(path, "translator.path"))).get((source, target), {})


def pairs_of(path: str) -> list[Pair]:
    """The pairs of languages that a file has."""
    return sorted(_read(identity(paths_of(path, "translator.path"))))


def pair_digest(path: str, source: str, target: str) -> str:
    """sha256 over a pair's translations, in any order: another pair's rows change nothing."""
    return hashlib.sha256(canonical_json(sorted(translations(path, source, target).items()))).hexdigest()


def missing(path: str, source: str, target: str, texts: Iterable[str]) -> list[str]:
    """Texts that the file has no row for, each once, in their order."""
    known = translations(path, source, target)
    return [text for text in dict.fromkeys(text.strip() for text in texts) if text and text not in known]


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
            source, target, text, translation = (text_of(row[column]).strip() for column in COLUMNS)
            known = found.setdefault((source, target), {}).setdefault(text, translation)
            if known != translation:
                raise DataError(
                    f"{table.where(number)}: a second translation {source} -> {target} of {text[:60]!r}, other than "
                    "the first. Leave one of them out."
                )
    return found


def recorded_translator(path: str, source: Spoken, target: Spoken, expected: str) -> Translate:
    """The file's own words. DataError if the pair's rows are not those of the plan, or if a text is not there."""
    if pair_digest(path, source.code, target.code) != expected:
        raise DataError(f"{path} has changed since the grid was planned. Run the same command again.")
    known = translations(path, source.code, target.code)

    def translate(texts: Sequence[str]) -> list[str | None]:
        if lacking := missing(path, source.code, target.code, texts):
            raise DataError(missing_text(path, source.code, target.code, lacking, len(texts)))
        return [known[text.strip()] or None for text in texts]

    return translate
