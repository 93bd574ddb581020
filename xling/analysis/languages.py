"""Do languages that are alike transfer better (paper, section 6.2)?

Feature by feature as in the paper: win rates of pairs of languages with the same value against those of pairs with
different values, by a one-sided unpaired t-test (same > different) at 0.05, with Bonferroni's and Holm's corrections.
Pairs share languages, so that they are not independent and the p values are too small, corrected or not. The second
table does without that assumption: the correlation of win rates with a distance over all features, against its
distribution when languages are permuted (Mantel 1967).

Features come from WALS in a folder or from the package urielplus:

    wals_features(Path("wals-dataset/cldf"), ["de", "en"])   # the CLDF release: values.csv, languages.csv
    uriel_features(["de", "en"])                             # needs the extra `typology`; binary features

Both give a row a known feature: `lang`, `feature`, `value`. WALS: Dryer and Haspelmath 2013, CC BY 4.0,
https://github.com/cldf-datasets/wals; nothing of it is shipped here. URIEL+: Khan et al. 2025, CC BY-SA 4.0; of it the
syntactic (S_) and phonological (P_) features, 1 where any of its sources says so.
"""

import csv
import importlib.util
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import ttest_ind

from xling.analysis.statistics.bootstrap import SEED, Floats
from xling.analysis.statistics.decisions import holm
from xling.analysis.tidy.finding import Finding, is_home, some
from xling.errors import ConfigError, install

ALPHA = 0.05
LEAST_PAIRS = 2  # on either side of a test
MOST_EXACT = 7  # languages: 5,040 permutations; with more, a sample of them
PERMUTATIONS = 9_999
LEAST_SHARED = 10  # features that both languages of a pair must be known in
TESTS_NOTE = (
    "Win rates (percent) of source -> target pairs, home left out, whose languages have the same value of a feature, "
    "minus those with different values; one-sided unpaired t-test with equal variances. Pairs share languages and are "
    "not independent: these p values are too small and the intervals too narrow. Pooled sources are left out. (Paper: "
    "123 features of WALS, 4 below 0.05, none after Bonferroni.)"
)
DISTANCE_NOTE = (
    "Pearson's r of win rates and distance: the share of features known of both languages that differ. p: share "
    "of the permutations of the languages with an r at least as low (Mantel; all of them up to 7 languages, else "
    "9,999). within_target: of win rates minus their target's mean, for targets differ in level."
)


def language_features(
    transfer: pd.DataFrame, features: pd.DataFrame, axes: Sequence[str] = (), left_out: Sequence[str] = ()
) -> list[Finding]:
    """`language_features`, a row a feature, and `language_distance`; both for each panel (combination of `axes`).

    transfer: a row an entry with `source_lang`, `target_lang`, `win_rate` (percent; NaN for a hole) and the axes.
    features: `lang`, `feature`, `value`, a row a known one (`wals_features`, `uriel_features`).
    """
    tests: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    said = list(left_out)
    values = features.pivot(index="lang", columns="feature", values="value") if len(features) else pd.DataFrame()
    pairs = _pairs(transfer, set(values.index), said)
    groups = pairs.groupby(list(axes), sort=True) if axes and len(pairs) else [((), pairs)] if len(pairs) else []
    for shared, panel in groups:
        same = dict(zip(axes, shared if isinstance(shared, tuple) else (shared,), strict=True))
        tests += [same | row for row in _tests(panel, values)]
        found = _distances(panel, values)
        distances += [same | row for row in found]
        if not found:
            said.append(
                f"{', '.join(map(str, same.values()))}: fewer than three languages with known features.".lstrip(": ")
            )
    table = pd.DataFrame(tests)
    if len(pairs) and table.empty:
        said.append("No feature has two pairs of languages on either side.")
    return [
        Finding("language_features", "Language features and transfer", table, TESTS_NOTE, tuple(said)),
        Finding(
            "language_distance",
            "Distance of languages and transfer",
            pd.DataFrame(distances),
            DISTANCE_NOTE,
            tuple(said),
        ),
    ]


def _pairs(transfer: pd.DataFrame, known: set[str], said: list[str]) -> pd.DataFrame:
    """Finished entries of two different languages whose features are known."""
    if transfer.empty:
        said.append("There are no entries.")
        return transfer
    there = transfer[transfer["win_rate"].notna()]
    if len(there) < len(transfer):
        gone = transfer[transfer["win_rate"].isna()]
        said.append(f"Without a win rate: {some(f'{r.source_lang} -> {r.target_lang}' for r in gone.itertuples())}.")
    pooled = there["source_lang"].str.contains("+", regex=False) | there["source_lang"].isin(["others"])
    there = there[~pooled]
    langs = set(there["source_lang"]) | set(there["target_lang"])
    if langs - known:
        said.append(f"No features are known of {some(sorted(langs - known))}.")
    abroad = np.array(
        [not is_home(s, t) for s, t in zip(there["source_lang"], there["target_lang"], strict=True)], bool
    )
    kept = abroad & there["source_lang"].isin(known).to_numpy() & there["target_lang"].isin(known).to_numpy()
    if not kept.any():
        said.append("There is no pair of two languages to compare.")
    return there[kept]


# --- feature by feature -------------------------------------------------------------------------------------


def _tests(panel: pd.DataFrame, values: pd.DataFrame) -> list[dict[str, Any]]:
    rates = panel["win_rate"].to_numpy(dtype=np.float64)
    rows = []
    for feature in values.columns:
        own = values[feature].reindex(panel["source_lang"]).to_numpy()
        other = values[feature].reindex(panel["target_lang"]).to_numpy()
        known = ~(pd.isna(own) | pd.isna(other))
        same = known & (own == other)
        row = _test(rates[same], rates[known & ~same])
        if row is not None:
            rows.append({"feature": feature, **row})
    p_values = [row["p"] for row in rows]
    for row, adjusted in zip(rows, holm(p_values), strict=True):
        row |= {"p_bonferroni": min(1.0, row["p"] * len(rows)), "p_holm": adjusted}
        row |= {"below_0.05": row["p"] < ALPHA, "after_bonferroni": row["p_bonferroni"] < ALPHA}
    return sorted(rows, key=lambda row: (row["p"], row["feature"]))


def _test(same: Floats, different: Floats) -> dict[str, Any] | None:
    """One-sided t-test that pairs of the same value have the higher win rates; None: too few, or all alike."""
    if min(len(same), len(different)) < LEAST_PAIRS or np.ptp(np.concatenate([same, different])) == 0:
        return None
    found = ttest_ind(same, different, alternative="greater")
    if not math.isfinite(found.pvalue):
        return None
    both = ttest_ind(same, different).confidence_interval(0.95)
    return {
        "same": len(same),
        "different": len(different),
        "difference": float(same.mean() - different.mean()),
        "difference_low": float(both.low),
        "difference_high": float(both.high),
        "t": float(found.statistic),
        "p": float(found.pvalue),
    }


# --- all features together ----------------------------------------------------------------------------------


def _distances(panel: pd.DataFrame, values: pd.DataFrame) -> list[dict[str, Any]]:
    langs = sorted(set(panel["source_lang"]) | set(panel["target_lang"]))
    if len(langs) < 3:
        return []
    distance = distances(values.reindex(langs))
    rates = np.full((len(langs), len(langs)), np.nan)
    for source, target, rate in panel[["source_lang", "target_lang", "win_rate"]].itertuples(index=False):
        rates[langs.index(source), langs.index(target)] = rate
    several = (~np.isnan(rates)).any(axis=0)
    centred = np.full_like(rates, np.nan)
    centred[:, several] = rates[:, several] - np.nanmean(rates[:, several], axis=0)
    rows = []
    for name, matrix in (("win_rate", rates), ("within_target", centred)):
        found = mantel(distance, matrix)
        if found is not None:
            r, p, permutations = found
            count = int((~np.isnan(matrix) & ~np.isnan(distance)).sum())
            rows.append(
                {"measure": name, "r": r, "p": p, "permutations": permutations, "languages": len(langs), "n": count}
            )
    return rows


def distances(values: pd.DataFrame) -> Floats:
    """(L, L) share of the features known of both that differ; NaN where there are fewer than LEAST_SHARED."""
    table = values.to_numpy(dtype=object)
    known = ~pd.isna(table)
    found = np.full((len(table), len(table)), np.nan)
    for i, j in itertools.combinations(range(len(table)), 2):
        both = known[i] & known[j]
        if both.sum() >= LEAST_SHARED:
            found[i, j] = found[j, i] = float(np.mean(table[i, both] != table[j, both]))
    return found


def likeness(features: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Of each two languages minus their distance; features as of `language_features`."""
    values = features.pivot(index="lang", columns="feature", values="value") if len(features) else pd.DataFrame()
    apart, langs = distances(values), list(values.index)
    places = np.argwhere(~np.isnan(apart)).tolist()
    return {(str(langs[i]), str(langs[j])): -float(apart[i, j]) for i, j in places}


def mantel(distance: Floats, rates: Floats) -> tuple[float, float, int] | None:
    """(Pearson's r over the cells that both have, one-sided p that it is not so low by chance, permutations).

    The languages of the distances are permuted, rows and columns together; the order as it is counts as one. None where
    there are fewer than three cells or either is constant.
    """
    r = _correlation(distance, rates)
    if r is None:
        return None
    low, count = 0, 0
    for order in _orders(len(distance)):
        permuted = _correlation(distance[np.ix_(order, order)], rates)
        if permuted is not None:
            count += 1
            low += permuted <= r + 1e-12
    return r, low / count, count


def _orders(count: int) -> Iterator[npt.NDArray[np.int64]]:
    if count <= MOST_EXACT:
        yield from (np.array(order) for order in itertools.permutations(range(count)))
        return
    yield np.arange(count)
    random = np.random.default_rng(SEED)
    for _ in range(PERMUTATIONS):
        yield random.permutation(count)


def _correlation(distance: Floats, rates: Floats) -> float | None:
    there = ~np.isnan(distance) & ~np.isnan(rates)
    x, y = distance[there], rates[there]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / math.sqrt((x @ x) * (y @ y)))


# --- features of languages -----------------------------------------------------------------------------------


COLUMNS = ("lang", "feature", "value")
KINDS = ("S_", "P_")  # of URIEL's features: syntax and phonology; its phoneme inventories are another matter
STANDARD = {"ara": "arb", "fas": "pes", "swa": "swh", "zho": "cmn"}  # of macrolanguages, as WALS and URIEL list them


def iso_639_3(lang: str) -> str:
    """The three letters of a language, of a macrolanguage those of its standard variety; an unknown code as it is."""
    import langcodes

    try:
        code = str(langcodes.Language.get(lang).to_alpha3())
    except (ValueError, LookupError):
        return lang
    return STANDARD.get(code, code)


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
