"""Typological features of languages, from WALS in a folder or from the package urielplus.

    wals_features(Path("wals-dataset/cldf"), ["de", "en"])   # the CLDF release: values.csv, languages.csv
    uriel_features(["de", "en"])                             # needs the extra `typology`; binary features

Both give a row a known feature: `lang`, `feature`, `value`. WALS: Dryer and Haspelmath 2013, CC BY 4.0,
https://github.com/cldf-datasets/wals; nothing of it is shipped here. URIEL+: Khan et al. 2025, CC BY-SA 4.0; of it the
syntactic (S_) and phonological (P_) features, 1 where any of its sources says so.
"""

import csv
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from xling.errors import ConfigError, install

COLUMNS = ("lang", "feature", "value")
KINDS = ("S_", "P_")  # of URIEL's features: syntax and phonology; its phoneme inventories are another matter
# ISO 639-3 of the codes in conf/lang; of a macrolanguage its standard variety, as WALS and URIEL list it.
ISO_639_3 = {
    "am": "amh", "ar": "arb", "bg": "bul", "bn": "ben", "ca": "cat", "cs": "ces", "da": "dan", "de": "deu",
    "el": "ell", "en": "eng", "eo": "epo", "es": "spa", "eu": "eus", "fa": "pes", "fi": "fin", "fr": "fra",
    "gl": "glg", "ha": "hau", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind", "it": "ita", "ja": "jpn",
    "ko": "kor", "lt": "lit", "nl": "nld", "no": "nor", "pl": "pol", "pt": "por", "ro": "ron", "ru": "rus",
    "sk": "slk", "sl": "slv", "sr": "srp", "sv": "swe", "sw": "swh", "ta": "tam", "te": "tel", "th": "tha",
    "tr": "tur", "uk": "ukr", "ur": "urd", "vi": "vie", "yo": "yor", "zh": "cmn", "zh-Hant": "cmn",
}  # fmt: skip


def iso_639_3(lang: str) -> str:
    """The three letters of a language; those of another code than in conf/lang are taken as they are."""
    return ISO_639_3.get(lang, lang)


def wals_features(folder: Path, langs: Sequence[str]) -> pd.DataFrame:
    """Values of a CLDF release of WALS: `folder` has values.csv and languages.csv, or a folder cldf with them.

    Of several languages with one ISO code the one with most values stands. ConfigError where there is no such folder.
    """
    place = folder if (folder / "values.csv").exists() else folder / "cldf"
    for name in ("values.csv", "languages.csv"):
        if not (place / name).exists():
            raise ConfigError(
                f"{folder} is no CLDF release of WALS: it has no {name}. Type --wals FOLDER, a folder with values.csv "
                "and languages.csv, from https://github.com/cldf-datasets/wals."
            )
    wanted = {iso_639_3(lang) for lang in langs}
    iso = {
        row["ID"]: row["ISO639P3code"]
        for row in _rows(place / "languages.csv", "ID", "ISO639P3code")
        if row["ISO639P3code"] in wanted
    }
    found: dict[str, dict[str, str]] = {one: {} for one in iso}
    for row in _rows(place / "values.csv", "Language_ID", "Parameter_ID", "Value"):
        if row["Language_ID"] in found:
            found[row["Language_ID"]][row["Parameter_ID"]] = row["Value"]
    best = {
        code: max((one for one in iso if iso[one] == code), key=lambda one: len(found[one])) for code in iso.values()
    }
    rows = [
        (lang, feature, value)
        for lang in langs
        for feature, value in sorted(found.get(best.get(iso_639_3(lang), ""), {}).items())
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in needed if name not in (reader.fieldnames or ())]
        if lacking:
            raise ConfigError(f"{path} has no column '{lacking[0]}': it is not of a CLDF release of WALS.")
        yield from reader


def has_uriel() -> bool:
    return importlib.util.find_spec("urielplus") is not None


def uriel_features(langs: Sequence[str]) -> pd.DataFrame:
    """Binary features of URIEL+. ConfigError where the package is not installed."""
    if not has_uriel():
        raise ConfigError(
            f"Language features need urielplus, which is not installed: {install('typology')}; or type --wals FOLDER."
        )
    with _quiet():
        from urielplus.urielplus import URIELPlus

        uriel = URIELPlus()
    names, data = [str(name) for name in uriel.feats[1]], uriel.data[1]
    place = {str(code): row for row, code in enumerate(uriel.langs[1])}
    kept = [column for column, name in enumerate(names) if name.startswith(KINDS)]
    rows = []
    for lang in langs:
        if iso_639_3(lang) in place:
            values = np.asarray(data[place[iso_639_3(lang)]]).max(axis=1)  # over sources; -1: unknown to all
            rows += [(lang, names[column], str(int(values[column]))) for column in kept if values[column] >= 0]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@contextmanager
def _quiet() -> Iterator[None]:
    """The package sets up the program's logging when it is imported; with a handler in place that does nothing."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
