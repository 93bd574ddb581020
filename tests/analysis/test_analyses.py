"""Analyses of a matrix by hand, on matrices with holes, and on those with nothing to say; and in a few sentences."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matrices import both, entries_of, row
from scipy.stats import ttest_1samp
from synthetic import SyntheticGrid, realistic

from xling.analysis.catalogue import OF_ENTRIES, OF_ITEMS, findings_of, grid_findings, paper_findings
from xling.analysis.findings.cells import (
    COMPONENTS,
    SAME_ORDER,
    TWICE,
    accuracy_vs_win,
    decomposition,
    effects,
    kl_vs_win,
)
from xling.analysis.findings.choosing import recommendation
from xling.analysis.findings.in_short import in_short
from xling.analysis.findings.sources import (
    _of_pairs,
    cross_vs_home,
    home_differences,
    judge_ranking,
    power,
    source_ranking,
)
from xling.analysis.statistics.decisions import prompts_needed, seeds_needed
from xling.analysis.tidy.finding import Finding
from xling.errors import ConfigError

VALUE = np.array([[60.0, 50.0, 55.0], [62.0, 58.0, 55.0], [61.0, 52.0, math.nan]])  # de en es by de en es


def numbers(finding):
    """All numbers of a table in one array."""
    return finding.table.select_dtypes("number").to_numpy(dtype=float)


# --- by hand ----------------------------------------------------------------------------------------------


def test_ranks_ties_and_how_sure_the_best_is():
    finding = source_ranking(entries_of(VALUE, se=1.0))
    ranks = {(r.target_lang, r.source_lang): r.rank for r in finding.table.itertuples()}
    assert [ranks["de", s] for s in ("de", "en", "es")] == [3, 1, 2]
    assert [ranks["es", s] for s in ("de", "en")] == [1, 1]
    assert [ranks["all", s] for s in ("de", "en", "es")] == [3, 1, 1]  # of cells abroad: de -1, at the mean target
    rates = [row(finding, target_lang="all", source_lang=s)["win_rate"] for s in ("de", "en", "es")]
    assert rates == pytest.approx([335 / 6 - 2 / 3, 335 / 6 + 1 / 3, 335 / 6 + 1 / 3])
    best = row(finding, target_lang="en", source_lang="en")
    assert best["p_best"] > 0.99 and (best["rank_low"], best["rank_high"]) == (1, 1)
    level = [row(finding, target_lang="es", source_lang=s)["p_best"] for s in ("de", "en")]
    assert sum(level) == pytest.approx(1) and level[0] == pytest.approx(0.5, abs=0.05)
    assert finding.left_out == ("toy, ppo, gold: 1 of 9 entries is a hole: es -> es (failed).",)


def test_a_source_is_not_the_best_for_what_it_does_at_home():
    """By the mean over all targets home's 20 points made de the best source."""
    value = np.array([[80.0, 50.0, 51.0], [60.0, 70.0, 52.0], [61.0, 52.0, 70.0]])
    found = source_ranking(entries_of(value, se=0.1))
    assert row(found, target_lang="all", source_lang="de")["rank"] == 3
    two = source_ranking(entries_of(value[:2, :2], se=0.1, sources=("de", "en"), targets=("de", "en")))
    assert "all" not in set(two.table["target_lang"]) and "compare not all sources" in two.left_out[0]


def test_accuracy_and_win_rate_of_the_same_judgements_are_not_compared():
    entries = entries_of(VALUE, se=1.0, accuracy=VALUE)
    found = accuracy_vs_win(dataclasses.replace(entries, table=entries.table.assign(pairwise=60.0)))
    assert found.table.empty and "25 + accuracy / 2" in found.left_out[0]
    assert len(accuracy_vs_win(entries).table)


def test_foreign_sources_against_home():
    finding = cross_vs_home(entries_of(VALUE, se=0.1))
    de, en, total = (row(finding, target_lang=t) for t in ("de", "en", "all"))
    assert (de["foreign"], de["better"], de["settled_better"], de["settled_worse"]) == (2, 2, 2, 0)
    assert (en["better"], en["settled_worse"], en["difference"]) == (0, 2, -7)
    assert (total["foreign"], total["better"], total["difference"]) == (4, 2, -2.75)
    assert (total["better_low"], total["better_high"]) == (2, 2)
    assert "toy, ppo, gold: target es has no home source to compare with." in finding.left_out
    each = home_differences(entries_of(VALUE, se=0.1))
    found = row(each, target_lang="de", source_lang="en")
    assert (
        found["difference"] == 2 and found["p"] == pytest.approx(1 / 2000) and found["p_holm"] == pytest.approx(0.002)
    )
    assert row(each, target_lang="all", source_lang="en")["difference"] == 2


def test_a_pooled_source_with_the_target_in_it_is_neither_foreign_nor_home():
    value = np.array([[60.0], [70.0], [65.0]])
    finding = cross_vs_home(entries_of(value, se=1.0, sources=("de", "de+en", "en"), targets=("de",)))
    assert row(finding, target_lang="de")["foreign"] == 1


@pytest.mark.parametrize(
    ("right", "agree", "untied", "exactly"),
    [([3.0, 2.0, 1.0], 100, 100, 100), ([1.0, 2.0, 3.0], 0, 0, 0), ([3.0, 2.0, 2.0], 250 / 3, 100, 200 / 3)],
)
def test_two_judges_and_three_rules_for_ties(right, agree, untied, exactly):
    left = entries_of(np.array([[3.0], [2.0], [1.0]]), se=0.01, judge="gold")
    found = judge_ranking(both(left, entries_of(np.array(right)[:, None], se=0.01, seed=1, judge="llm")))
    total = row(found, target_lang="all")
    assert (total["judge"], total["other_judge"], total["pairs"]) == ("gold", "llm", 3)
    assert [total[name] for name in ("agree", "agree_untied", "agree_exactly")] == pytest.approx(
        [agree, untied, exactly]
    )
    assert total["repeated"] == pytest.approx(100, abs=10)  # hardly any noise


def test_noise_leaves_a_judge_less_agreement_with_itself():
    value = np.linspace(50, 51, 6)[:, None]
    left, right = entries_of(value, se=1.0, judge="gold"), entries_of(value, se=1.0, seed=1, judge="llm")
    total = row(judge_ranking(both(left, right)), target_lang="all")
    assert total["agree"] == 100 and 55 < total["repeated"] < 80


def test_accuracy_and_kl_by_hand():
    accuracy = np.array([[70.0, 60.0, 60.0], [80.0, 65.0, 61.0], [75.0, 66.0, 62.0]])
    finding = accuracy_vs_win(entries_of(VALUE, se=0.01, accuracy=accuracy))
    assert row(finding, target_lang="de")["tau"] == 1
    assert row(finding, target_lang="en")["tau"] == pytest.approx(1 / 3)
    assert row(finding, target_lang="all")["tau"] == pytest.approx(2 / 3)
    assert any("es: fewer than 3 sources" in line for line in finding.left_out)
    value = np.arange(9.0).reshape(3, 3) + 50
    kl = np.array([[1.0], [2.0], [3.0]]) + np.array([0.0, 10.0, 20.0])
    found = row(kl_vs_win(entries_of(value, se=0.01, kl=kl)))
    assert (
        found["pearson_within"] == pytest.approx(1) and found["n"] == 9
    )  # within each target both rise with the source
    assert found["pearson"] == pytest.approx(np.corrcoef(kl.ravel(), value.ravel())[0, 1])


def test_an_additive_matrix_is_decomposed_exactly_with_holes_too():
    source, target = np.array([3.0, 0.0, -3.0]), np.array([1.0, -1.0])
    value = 50 + source[:, None] + target
    value[0, 0] += 4
    for at in (None, (2, 1)):
        holed = value.copy()
        if at:
            holed[at] = math.nan
        holed[0, 0] -= 4
        finding = decomposition(entries_of(holed, se=1e-6))
        shares = {one.component: one.share for one in finding.table.itertuples()}
        assert shares["pair"] == pytest.approx(0, abs=1e-6)
        assert shares["source"] == pytest.approx(100 * 6 / 7) and shares["target"] == pytest.approx(100 / 7)
        told = effects(entries_of(holed, se=1e-6))
        assert row(told, kind="source", of="de")["effect"] == pytest.approx(3)
        assert row(told, kind="mean")["effect"] == pytest.approx(50)
        assert row(told, kind="home")["effect"] == pytest.approx(0, abs=1e-6)


def test_being_at_home_is_told_apart_from_source_and_target():
    value = 50 + np.array([3.0, 0.0, -3.0])[:, None] + np.array([1.0, 0.0, -1.0]) + 5 * np.eye(3)
    found = row(effects(entries_of(value, se=0.1)), kind="home")
    assert found["effect"] == pytest.approx(5) and found["effect_low"] < 5 < found["effect_high"]


def test_a_matrix_of_noise_has_nothing_to_share_out():
    value = 50 + np.random.default_rng(0).normal(0, 1, (6, 6))
    finding = decomposition(entries_of(value, se=1.5))
    assert any("hardly more than by sampling error" in line for line in finding.left_out)
    assert finding.table[finding.table.component.isin(COMPONENTS)]["share"].isna().all()
    order, twice = (row(finding, component=name)["share"] for name in (SAME_ORDER, TWICE))
    assert abs(order - 50) < 15 and twice < 75


def test_a_small_share_of_the_pair_is_no_ranking_that_all_targets_share():
    """Targets far apart, sources in turned order at half of them: the pair has 1 % of the variance."""
    sources, targets = np.array([1.0, 0.5, -0.5, -1.0]), np.array([-20.0, -10.0, 10.0, 20.0])
    for turned, expected in ((1, 100), (-1, 100 / 3)):  # 2 of 6 pairs of targets are of one kind
        value = 50 + targets + np.outer(sources, [1, 1, turned, turned])
        finding = decomposition(entries_of(value, se=0.01, sources=("a", "b", "c", "d"), targets=("w", "x", "y", "z")))
        assert row(finding, component="pair")["share"] < 1
        found = row(finding, component=SAME_ORDER)
        assert found["share"] == pytest.approx(expected)
        assert found["share_low"] <= expected <= found["share_high"] <= found["share_low"] + 1
        assert row(finding, component=TWICE)["share"] == 100


def test_the_same_order_by_hand_from_cells_abroad_alone():
    taus, value = [], np.random.default_rng(3).normal(50, 3, (5, 5)).round(0)  # with ties
    value[4, 1] = math.nan
    for one, other in itertools.combinations(range(5), 2):
        there = [s for s in range(5) if s not in (one, other) and not math.isnan(value[s, [one, other]].sum())]
        for a, b in itertools.combinations(there, 2):
            signs = np.sign(value[a, [one, other]] - value[b, [one, other]])
            taus.append(1 - abs(signs[0] - signs[1]) / 2)
    found = row(decomposition(entries_of(value, se=0.5)), component=SAME_ORDER)
    assert found["share"] == pytest.approx(100 * np.mean(taus))
    assert found["share_low"] < found["share"] < found["share_high"]


def test_the_rules_of_a_recommendation():
    value = 60 + np.array([2.0, 6.0, 0.0])[:, None] + np.array([0.0, 5.0, -5.0])  # en is best everywhere
    finding = recommendation(entries_of(value, se=0.05))
    by = {(one.target_lang, one.rule): one for one in finding.table.itertuples()}
    assert (by["de", "elsewhere"].source_lang, by["en", "elsewhere"].source_lang) == (
        "en",
        "de",
    )  # never the target's own
    assert by["de", "english"].regret == pytest.approx(0, abs=0.05)
    assert by["es", "home"].regret == pytest.approx(6, abs=0.05)
    assert by["es", "random"].regret == pytest.approx(2, abs=0.05)
    assert by["all", "home"].regret == pytest.approx((4 + 0 + 6) / 3, abs=0.05)
    assert by["all", "home"].regret_low < 10 / 3 < by["all", "home"].regret_high


def test_no_english_source_no_english_rule():
    finding = recommendation(entries_of(VALUE[:2, :2], se=0.1, sources=("de", "es"), targets=("de", "es")))
    assert set(finding.table["rule"]) == {"elsewhere", "home", "random", "none"}


def test_power_by_its_formulas():
    # sd of a difference per prompt: sqrt(2) se sqrt(n) = 28.28 points; (1.96 + 0.8416)^2 * 800 / 4
    found = row(power(entries_of(VALUE, se=1.0, n=400)), target_lang="all", unit="prompts", difference="2 points")
    assert found["sd"] == pytest.approx(math.sqrt(800)) and found["needed"] == math.ceil(7.8489 * 800 / 4)
    assert math.isnan(prompts_needed(800.0, 0.0))
    assert math.isnan(seeds_needed(math.nan, 1.0)) and seeds_needed(0.0, 1.0) == 2


def test_rounding_makes_no_variance_below_0_of_sources_that_are_equal_on_every_prompt():
    covariance = np.full((2, 2), 1.0 + 2**-52) - 2**-52 * np.eye(2)
    assert _of_pairs(covariance, [0], [1]).tolist() == [0.0]


def test_power_counts_the_prompts_of_one_seed(tmp_path):
    """With data seeds the matrix's n is over all of them; a draw of one seed's prompts is over its own."""
    random, needed = np.random.default_rng(0), []
    for seeds in (1, 3):
        grid = SyntheticGrid(tmp_path / str(seeds))
        for seed in range(seeds):
            for source in ("de", "en"):
                groups = [f"{seed}-{i}" for i in range(100)]
                grid.cell(source, "de", list(random.random(100).round()), groups=groups, **{"task.seed": seed})
        entries = grid.entries()
        assert entries.table["n"].tolist() == [100 * seeds] * 2
        found = row(power(entries), target_lang="all", unit="prompts", difference="5 points")
        assert found["have"] == 100
        needed.append(found["needed"])
    assert needed[1] == pytest.approx(needed[0], rel=0.3)  # and not three times as many


@pytest.mark.parametrize("points", [1.0, 2.0])
def test_so_many_seeds_give_80_percent(points):
    random = np.random.default_rng(0)
    seeds = int(seeds_needed(1.5, points))

    def found(k):
        return (ttest_1samp(random.normal(points, 1.5, (4000, k)), 0, axis=1).pvalue < 0.05).mean()

    assert found(seeds) > 0.78 and found(seeds - 1) < 0.82


# --- bad input --------------------------------------------------------------------------------------------

HOLED = np.where(np.eye(3, dtype=bool), math.nan, VALUE)
SPLIT = np.array([[50.0, math.nan], [math.nan, 60.0]])
CASES = {
    "one source": VALUE[:1],
    "one target": VALUE[:, :1],
    "one cell": VALUE[:1, :1],
    "constant": np.full((3, 3), 50.0),
    "only holes": np.full((3, 3), math.nan),
    "no home": HOLED,
    "split": SPLIT,
}


@pytest.mark.parametrize(("case", "analysis"), list(itertools.product(CASES, OF_ENTRIES)))
def test_whatever_the_matrix_there_is_a_sentence_and_no_error(case, analysis):
    finding = OF_ENTRIES[analysis](entries_of(CASES[case], se=1.0, kl=CASES[case], accuracy=CASES[case]))
    assert finding.name == analysis
    if finding.table.empty:
        assert finding.left_out and all(line.endswith(".") for line in finding.left_out)
    assert not np.isinf(numbers(finding)).any()


def test_holes_are_named_with_their_number():
    value = np.full((6, 6), 50.0) + np.arange(6)
    value[0] = math.nan
    (line,) = source_ranking(entries_of(value, se=1.0)).left_out
    assert line == (
        "toy, ppo, gold: 6 of 36 entries are holes: de -> de (failed), de -> en (failed), de -> es (failed), "
        "de -> ru (failed) and 2 more."
    )
    (line,) = decomposition(entries_of(value, se=1.0)).left_out
    assert "6 of 36" in line


def test_parts_of_a_matrix_that_share_nothing_cannot_be_decomposed():
    finding = decomposition(entries_of(SPLIT, se=1.0))
    assert any("holes split the matrix" in line for line in finding.left_out)


# --- of grids ---------------------------------------------------------------------------------------------


def test_a_grid_with_controls_and_a_hole_says_all(tmp_path):
    grid = realistic(tmp_path, ("de", "en", "tr"), prompts=40)
    grid.cell("fr", "de", fails="reward")
    findings = {finding.name: finding for finding in grid_findings(grid.write().store, grid.name)}
    assert list(findings)[: len(OF_ENTRIES)] == [*OF_ENTRIES] and {*OF_ITEMS} <= set(findings)
    sources = set(findings["source_ranking"].table["source_lang"])
    assert sources == {"de", "en", "tr"}  # no control is a source, and a hole has no rank
    assert any("fr -> de (blocked)" in line for line in findings["source_ranking"].left_out)
    assert findings["power"].table["needed"].notna().all()
    every = grid_findings(grid.store, grid.name, ["power", "source_ranking"])
    assert [finding.name for finding in every] == ["source_ranking", "power"]


def test_a_grid_with_nothing_finished(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de")
    for finding in grid_findings(grid.write().store, grid.name):
        assert finding.left_out, finding.name


def test_only_references(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.untrained("-", "de", [1.0, 0.0], rm_backbone="random")
    for finding in grid_findings(grid.write().store, grid.name):
        assert finding.table.empty and finding.left_out, finding.name


def test_unknown_names_are_refused_with_those_there_are():
    for found in (lambda: findings_of(entries_of(VALUE), ["nope"]), lambda: paper_findings(["nope"])):
        with pytest.raises(ConfigError, match=r"no analysis 'nope' here.*source_ranking"):
            found()


# --- in a few sentences --------------------------------------------------------------------------------------


CLEAR = 60 + np.array([4.0, 0.0, -4.0])[:, None] + np.array([1.0, 0.0, -1.0])


def test_one_matrix_with_a_clear_winner():
    (line,) = in_short(findings_of(entries_of(CLEAR, se=0.5)))
    assert line.startswith("de is the best source over all targets (in 100% of draws). Foreign sources beat home in ")
    assert (
        "beat home in 3 of 6 cells (3 settled and 3 the other way, each by itself; 6 of these after Holm's correction)."
        in line
    )
    assert "What picking a source costs, in points: what does best elsewhere" in line and "home +4.1" in line
    assert line.endswith(
        "Telling two sources apart that differ by 2 points takes, with 80 % power, 393 prompts a target (here 400)."
    )  # 7.849 * 200 / 4


def test_no_winner_and_several_matrices():
    entries = both(entries_of(CLEAR * 0 + 60, se=1.0), entries_of(CLEAR, se=0.5, seed=1, judge="llm"))
    gold, llm = in_short(findings_of(entries))
    assert gold.startswith("gold: No source is surely the best over all targets (best in so many draws: ")
    assert all(f"{lang} 3" in gold for lang in ("de", "en", "es"))  # a third each
    assert llm.startswith("llm: de is the best source")


def test_nothing_to_say():
    assert in_short([]) == []
    assert in_short([Finding("source_ranking", "another", pd.DataFrame({"source_lang": ["de"]}))]) == []
    assert in_short(findings_of(entries_of(CLEAR[:1, :1], se=1.0))) == []
    assert in_short(findings_of(entries_of(CLEAR * np.nan, se=1.0))) == []


def test_of_many_matrices_the_first_ones():
    lines = in_short(paper_findings(["source_ranking"]))
    assert len(lines) == 7 and lines[-1] == "And 5 matrices more."
