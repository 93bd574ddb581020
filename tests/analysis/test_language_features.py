"""Language features against transfer: by hand, where the truth is known, on the paper's matrix, with bad folders."""

import csv
import itertools

import numpy as np
import pandas as pd
import pytest

from xling.analysis.catalogue import paper_findings
from xling.analysis.languages import (
    distances,
    has_uriel,
    iso_639_3,
    language_features,
    mantel,
    uriel_features,
    wals_features,
)
from xling.errors import ConfigError

LANGS = ["de", "en", "es", "ru", "tr", "vi"]


def features(**values):
    rows = [
        (lang, name, value)
        for name, given in values.items()
        for lang, value in zip(LANGS, given, strict=False)
        if value
    ]
    return pd.DataFrame(rows, columns=["lang", "feature", "value"])


def transfer(rate, langs=LANGS):
    rows = [(s, t, rate(s, t)) for s, t in itertools.product(langs, repeat=2)]
    return pd.DataFrame(rows, columns=["source_lang", "target_lang", "win_rate"]).assign(judge="gold")


def test_the_test_by_hand_and_its_corrections():
    rates = {"deen": 60, "ende": 62, "dees": 50, "esde": 52, "enes": 54, "esen": 52}
    table = transfer(lambda s, t: rates.get(s + t, 99), ["de", "en", "es"])
    tests, _ = language_features(table, features(f1="aab", f2="abc", f3="xxx", f4="aba"), ["judge"])
    rows = tests.table.set_index("feature")
    assert sorted(rows.index) == ["f1", "f4"]  # f2 has no pair alike, f3 none that differs
    same, different = [60, 62], [50, 52, 54, 52]
    pooled = np.sqrt((2 + 8) / 4 * (1 / 2 + 1 / 4))  # squared deviations 2 and 8, 4 degrees of freedom
    assert rows.difference["f1"] == np.mean(same) - np.mean(different) == 9
    assert rows.t["f1"] == pytest.approx(9 / pooled)
    assert rows.p["f4"] > 0.5 and rows.p["f1"] < 0.01
    assert rows.p_bonferroni["f1"] == pytest.approx(2 * rows.p["f1"]) == pytest.approx(rows.p_holm["f1"])
    assert (rows.same["f1"], rows.different["f1"], rows.after_bonferroni["f1"]) == (2, 4, True)


def test_distances_count_what_both_are_known_in():
    values = pd.DataFrame([[*"aaaaaaaaaa", None], [*"aaaaabbbbb", "a"], ["a"] + [None] * 10])
    found = distances(values)
    assert found[0, 1] == found[1, 0] == 0.5 and np.isnan(found[0, 2]) and np.isnan(found[0, 0])


def test_the_permutation_test_is_exact_for_few_languages():
    place = np.array([0.0, 1.0, 2.0, 4.0])
    distance = np.abs(place[:, None] - place[None, :])
    np.fill_diagonal(distance, np.nan)
    r, p, permutations = mantel(distance, 70 - distance)
    assert r == pytest.approx(-1) and permutations == 24 and p == pytest.approx(1 / 24)
    assert mantel(distance, np.full((4, 4), 3.0)) is None


def test_p_of_noise_is_about_uniform_under_permutation():
    random, below = np.random.default_rng(0), 0
    for _ in range(60):
        place = random.normal(size=(5, 2))
        distance = np.linalg.norm(place[:, None] - place[None], axis=2)
        np.fill_diagonal(distance, np.nan)
        below += mantel(distance, random.normal(size=(5, 1)) + random.normal(size=(1, 5)))[1] <= 0.25
    assert 5 <= below <= 25  # 15 expected; targets and sources that differ in level do not make it small


def test_a_known_effect_of_distance_is_found_within_targets():
    names = {f"f{k}": "".join("ab"[(k * place) % 7 % 2] for place in range(6)) for k in range(1, 25)}
    known = features(**names)
    wide = known.pivot(index="lang", columns="feature", values="value").reindex(LANGS)
    apart = pd.DataFrame(distances(wide), LANGS, LANGS)
    level = dict(zip(LANGS, [50, 60, 70, 80, 90, 40], strict=True))
    _, distance = language_features(transfer(lambda s, t: level[t] - 5 * apart.loc[s, t]), known, ["judge"])
    rows = distance.table.set_index("measure")
    assert abs(rows.r["within_target"]) > abs(rows.r["win_rate"]) and rows.p["within_target"] < 0.05
    assert rows.permutations["within_target"] == 720 and rows.n["within_target"] == 30


def test_holes_pooled_sources_and_unknown_languages_are_said():
    table = transfer(lambda s, t: np.nan if (s, t) == ("de", "en") else 50.0, ["de", "en"])
    table.loc[len(table)] = ["de+en", "de", 60.0, "gold"]
    table.loc[len(table)] = ["xx", "de", 60.0, "gold"]
    tests, distance = language_features(table, features(f1="ab"), ["judge"])
    assert tests.table.empty and distance.table.empty
    said = " ".join(tests.left_out)
    assert "de -> en" in said and "No features are known of xx." in said and "fewer than three languages" in said
    nothing, _ = language_features(pd.DataFrame(), features(f1="ab"))
    assert nothing.left_out == ("There are no entries.",)


def release(folder, values):
    """A small release in WALS's own columns."""
    folder.mkdir(parents=True)
    with (folder / "languages.csv").open("w", newline="") as file:
        rows = [("ger", "German", "deu"), ("grz", "German (Zurich)", "deu"), ("eng", "English", "eng"), ("x", "X", "")]
        csv.writer(file).writerows([("ID", "Name", "ISO639P3code"), *rows])
    with (folder / "values.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("ID", "Language_ID", "Parameter_ID", "Value"), *values])
    return folder


def test_a_release_of_wals_is_read(tmp_path):
    values = [("1A-ger", "ger", "1A", "3"), ("2A-ger", "ger", "2A", "1"), ("1A-grz", "grz", "1A", "2"),
              ("1A-eng", "eng", "1A", "3"), ("1A-x", "x", "1A", "1")]  # fmt: skip
    release(tmp_path / "wals" / "cldf", values)
    for folder in (tmp_path / "wals", tmp_path / "wals" / "cldf"):
        table = wals_features(folder, ["de", "en", "tr"])
        assert table.to_numpy().tolist() == [["de", "1A", "3"], ["de", "2A", "1"], ["en", "1A", "3"]]


def test_what_is_no_release_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has no values.csv. Type --wals FOLDER"):
        wals_features(tmp_path, ["de"])
    folder = release(tmp_path / "wals", [])
    (folder / "languages.csv").write_text("ID,Name\nger,German\n")
    with pytest.raises(ConfigError, match="no column 'ISO639P3code'"):
        wals_features(folder, ["de"])


def test_the_papers_matrices_against_a_folder(tmp_path):
    codes = [("deu", "a"), ("eng", "a"), ("spa", "a"), ("rus", "b"), ("tur", "b"), ("vie", "b")]
    folder = release(tmp_path / "wals", [(f"{f}-{c}", c, f, v) for f in ("1A", "2A") for c, v in codes])
    with (folder / "languages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("ID", "Name", "ISO639P3code"), *[(c, c, c) for c, _ in codes]])
    tests, distance = paper_findings(["language_features"], folder)
    summarization = tests.table[(tests.table.optimizer == "best_of_n") & (tests.table.same == 12)]
    assert len(summarization) and (summarization.different == 18).all()
    assert distance.name == "language_distance"


def test_languages_by_their_three_letters():
    assert (iso_639_3("de"), iso_639_3("zh"), iso_639_3("deu")) == ("deu", "cmn", "deu")


@pytest.mark.skipif(has_uriel(), reason="urielplus is installed")
def test_without_the_package_the_command_says_what_to_install():
    with pytest.raises(ConfigError, match=r"pip install -e '.*\[typology\]'; or type --wals FOLDER"):
        uriel_features(["de"])
