"""Sentences under a matrix, and the one at its top: every number is of the noun beside it; more means 80 % power."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import SyntheticGrid, five, realistic

from xling.analysis.matrix.verdicts import answers, best_rivals, headline, hindsight_rivals, many, what_settles
from xling.analysis.statistics.decisions import Difference, judged, prompts_needed
from xling.analysis.statistics.intervals import Estimate
from xling.report.tables.table import count_text, needed


def estimate(value, se, **more):
    return Estimate(value, value - 1.96 * se, value + 1.96 * se, se, **({"n": 100, "clusters": 100, "seeds": 1} | more))


def unsettled(more, unit="prompts"):
    return Difference(estimate(1.0, 1.0), False, 0.3, None, more, unit)


def three(tmp_path):
    """Sources de, en and es on targets de (all alike but es, which loses) and en (en alone)."""
    random, grid = np.random.default_rng(0), SyntheticGrid(tmp_path)
    hard = random.random(120) < 0.6
    for source, wins in (
        ("de", hard),
        ("en", np.roll(hard, 7) | (np.arange(120) < 3)),
        ("es", hard & (np.arange(120) < 60)),
    ):
        grid.cell(source, "de", wins)
    grid.cell("en", "en", hard)
    return grid


def test_ties_are_cells_and_best_sources_are_of_targets(tmp_path):
    panel = three(tmp_path).panel()
    home, best = panel.verdicts
    assert home.startswith("Source against home: the difference is settled in 1 of 2 cells (95 % intervals, each by")
    assert "worse than home: de from es. The other cell would be settled by " in home
    assert best.startswith("Best source is settled for 0 of 1 target with two sources or more (de: ")
    assert ". The cell tied with the best of its target would be settled by " in best


def test_more_prompts_give_80_percent_power_and_are_those_of_the_power_table(tmp_path):
    panel = three(tmp_path).panel()
    [entry] = [e for e in panel.entries if e.versus_home and not e.versus_home.settled]
    found = entry.versus_home
    variance = found.estimate.se**2 * 120
    assert found.more == prompts_needed(variance, abs(found.estimate.value)) - 120
    assert found.more == math.ceil((1.959964 + 0.841621) ** 2 * variance / found.estimate.value**2) - 120
    assert f"{found.more:,} more prompts a target with 80 % power" in panel.verdicts[0]
    assert needed(found) == f"+{found.more:,} prompts"


def test_every_kind_of_unsettled_difference_has_its_words():
    level, equal = judged(estimate(0.0, 1.0)), judged(estimate(0.0, 0.0))
    alone = judged(Estimate(2.0, None, None, None, 5, 1, 1))
    tiny = judged(estimate(0.001, 1.0))
    text = what_settles([unsettled(50), unsettled(1200), unsettled(3, "seeds"), level, equal, alone, tiny])
    assert text == (
        "2 would be settled by 50 to 1,200 more prompts a target (median 625), 1 would be settled by 3 more seeds with "
        "80 % power, if they are as large as they look, 1 would need more than 100,000 more prompts a target, "
        "1 is equal on every prompt, 1 is level, 1 is without an interval"
    )
    words = [needed(one) for one in (level, equal, alone, tiny, unsettled(1), unsettled(1, "seeds"))]
    assert words == ["level", "identical", "no interval", "> 100,000 prompts", "+1 prompt", "+1 seed"]
    assert what_settles([unsettled(1)]) == (
        "1 would be settled by 1 more prompt a target with 80 % power, if as large as it looks"
    )


def test_a_source_that_shares_no_seed_with_the_best_is_not_called_worse(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 1.0, 0.5] * 10, seed=0)
    grid.cell("en", "de", [0.0, 1.0, 0.5] * 10, seed=1)
    best = grid.panel().verdicts[-1]
    assert best.startswith(
        "Best source is settled for 0 of 1 target (de: de), 95 % for all of a target. 1 cell has no seed in "
        "common with the best"
    )


def test_one_document_settles_nothing(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 1.0, 1.0], groups=["same"] * 3)
    grid.cell("en", "de", [0.0, 0.0, 0.0], groups=["same"] * 3)
    home, best = grid.panel().verdicts
    assert home.startswith("Source against home: the difference is settled in 0 of 1 cell. ")
    assert home.endswith("The other cell is without an interval.")
    assert best.startswith("Best source is settled for 0 of 1 target (de: de = en)")


def test_a_reward_model_counts_once_a_target_and_they_are_called_cells(tmp_path):
    random, grid = np.random.default_rng(0), SyntheticGrid(tmp_path)
    for target in ("de", "es", "tr"):
        label = random.random(60) < 0.5
        base = {"group": [f"g{i}" for i in range(60)], "label": [int(x) for x in label], "length": [5.0] * 60}
        score = [float(x) for x in np.where(label, 1.0, -1.0)]
        held = base | {"score": score, "length_rule": {"threshold": 8.0, "longer_is_better": True}}
        grid.cell("en", target, [1.0, 0.5] * 10, heldout=held)
    [count] = [c for c in grid.panel().counts if c.name == "accuracy_beats_baselines"]
    assert (count.k, count.of, count.planned) == (3, 3, 3)  # of one reward model
    assert (
        count.text == "cells abroad whose reward model is more accurate than majority and length, by paired difference"
    )


def test_sentences_of_one_cell_and_of_none_abroad(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 1.0, 1.0, 0.5] * 10)
    matrix = grid.folded()
    assert headline(matrix) == (
        "Reward models trained in the target's language beat the baseline in 1 of 1 cell (whole interval above 50 %)."
    )
    [panel] = matrix.blocks[0].panels
    assert panel.verdicts == [] and [c.name for c in panel.counts] == ["home_above_50"]


def test_pooled_sources_with_the_target_are_neither_home_nor_abroad(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de+en", "de", [1.0, 1.0, 1.0, 0.5] * 10)
    assert headline(grid.folded()).startswith(
        "Reward models trained in the target's language and others beat the baseline in "
    )


def test_several_matrices_say_so(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for backbone in ("same_as_policy", "frozen_lm"):
        for source in ("de", "en"):
            grid.cell(source, "de", [1.0, 1.0, 1.0, 0.5] * 10, rm_backbone=backbone)
    text = headline(grid.folded())
    assert "beat the baseline in 2 of 2 cells of 2 matrices" in text
    assert "or tied with it, in 2 of 2 columns of 2 matrices." in text


def test_many():
    assert [many(n, "cell") for n in (0, 1, 2, 1500)] == ["0 cells", "1 cell", "2 cells", "1,500 cells"]


# --- a line a target -----------------------------------------------------------------------------------------


def test_a_target_has_its_line(tmp_path: Path) -> None:
    random, grid = np.random.default_rng(0), SyntheticGrid(tmp_path)
    hard = random.random(120) < 0.8
    for source, wins in (
        ("de", hard),
        ("en", np.roll(hard, 7) | (np.arange(120) < 12)),
        ("es", hard & (np.arange(120) < 60)),
    ):
        grid.cell(source, "de", wins)
    grid.cell("en", "en", hard)
    for_de, for_en = answers(grid.folded())
    [tied] = [entry for entry in grid.panel().entries if entry.tied and not entry.best]
    assert (
        for_de.startswith("For de: en and de are not told apart (") and "; home is not shown to be better; " in for_de
    )
    assert f"; {tied.versus_best.more:,} more prompts would settle it at 80 % power" in for_de
    assert for_en.startswith("For en: en, the only source, beats the baseline (") and for_en.endswith(" %).")


def test_what_is_settled_and_what_is_nothing_is_said(tmp_path: Path) -> None:
    random, grid = np.random.default_rng(1), SyntheticGrid(tmp_path)
    for target, rates in (("de", (0.9, 0.6)), ("tr", (0.5, 0.48))):
        for source, rate in zip(("de", "en"), rates, strict=True):
            grid.cell(source, target, random.random(300) < rate)
    for_de, for_tr = answers(grid.folded())
    assert for_de.startswith("For de: de is the best source (") and "home is better" not in for_de
    assert for_tr.startswith("For tr: none of 2 sources beats the baseline with its whole interval (")
    assert answers(grid.folded(), most=1) == [for_de, "And 1 target more, in matrix.md."]


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (  # equal on every prompt: there is nothing that more of them would settle
            {"de": {}, "en": {}},
            "For de: de and en are not told apart (75.0 %); home is not shown to be better.",
        ),
        (
            {"de": {}, "en": {"seed": 1, "less": 10}},
            "For de: de has most (75.0 %); en cannot be compared with it: no seed in common.",
        ),
        (  # one that has the target's own language in it is no foreign source
            {"de": {"less": 40}, "de+en": {}, "tr": {"less": 60}},
            "For de: de+en is the best source (75.0 %, the next has 41.7 %); home is better than every foreign source.",
        ),
    ],
)
def test_a_line_claims_no_more_than_was_compared(tmp_path: Path, sources: Any, said: str) -> None:
    grid = SyntheticGrid(tmp_path)
    for source, how in sources.items():
        grid.cell(source, "de", np.arange(120) < 90 - how.get("less", 0), seed=how.get("seed", 0))
    assert answers(grid.folded()) == [said]


def test_a_line_names_the_settings_that_tell_matrices_apart(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    for beta in ("0.1", "0.2"):
        grid.cell("en", "de", np.arange(120) < 90, optimizer="ppo", **{"optimizer.beta": beta})
    assert [line.partition(":")[0] for line in answers(grid.folded())] == ["For de (beta=0.1)", "For de (beta=0.2)"]


# --- the headline --------------------------------------------------------------------------------------------


def test_cells_abroad_and_home_are_counted(tmp_path: Path) -> None:
    matrix = realistic(tmp_path, ("de", "en", "tr"), prompts=60, controls=False).folded()
    panel = matrix.blocks[0].panels[0]
    above = sum(e.win is not None and e.win.above(50) for e in panel.entries if e.abroad)
    home = sum(e.best or e.tied for e in panel.entries if e.home)
    assert headline(matrix) == (
        f"Reward models trained in another language beat the baseline in {above} of 6 cells "
        "(whole interval above 50 %). "
        f"The target's own language is the best source, or tied with it, in {home} of 3 targets."
    )


def test_the_best_optimizer_is_named(tmp_path: Path) -> None:
    matrix = five(tmp_path, seeds=(0,), prompts=30).folded()
    text = headline(matrix)
    best = max(matrix.optimizers[0].arms, key=lambda arm: arm.mean.value if arm.mean else 0)
    assert best.mean is not None and best.versus is not None
    assert f"Of 5 optimizers {best.name} wins most, {best.mean.value:.1f} % on average, " in text
    assert f"{best.versus.estimate.value:+.1f} points over best_of_n" in text and "of 30 cells of 5 matrices" in text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", fails="reward")
    assert headline(grid.folded()) == "No cell is finished yet: 1 is planned."
    grid.cell("en", "en", [1.0, 1.0, 1.0, 0.5] * 5)
    assert headline(grid.folded()) == (
        "Reward models trained in the target's language beat the baseline in 1 of 1 cell (whole interval above 50 %). "
        "1 of 2 cells is not there."
    )


def test_references_alone_are_no_matrix(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    grid.untrained("en", "de", [1.0, 0.5], rm_backbone="random")
    assert headline(grid.folded()) == "No cell with a source language was asked for: only references."


def test_people_s_pairs_are_counted(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    right = {"group": [f"g{n}" for n in range(40)], "correct": [1.0] * 30 + [0.0] * 10}
    grid.cell("en", "de", [1.0, 0.5] * 20, pairs=right, rho=0.4)
    assert (
        "Reward models agree with people on pairs within a prompt more often than chance in 1 of 1 cell."
        in headline(grid.folded())
    )


RATES = {"de": (0.9, 0.1), "en": (0.3, 0.6), "tr": (0.3, 0.6)}  # of length and shorter


def with_rivals(grid: SyntheticGrid, rates: Mapping[str, Sequence[float]], *more: str) -> None:
    """Cells of 40 %, in tr of 80; what is named in `more` knows the truth, or has seen ratings, and wins nearly all."""
    own = np.arange(200) / 200
    for target, (length, shorter) in rates.items():
        for name, rate in (("length", length), ("shorter", shorter), *((name, 0.95) for name in more)):
            grid.cell("-", target, own < rate, rm_backbone=name)
        for source in RATES:
            grid.cell(source, target, own < (0.8 if target == "tr" else 0.4))


def test_the_best_rival_is_chosen_on_other_targets(tmp_path):
    """length wins in de alone, where it may not be chosen for it: there the others say shorter."""
    grid = SyntheticGrid(tmp_path)
    with_rivals(grid, RATES, "random", "human", "gold", "system")
    panel, matrix = grid.panel(), grid.folded()
    assert best_rivals(panel, matrix.blocks[0].controls) == {"de": "shorter", "en": "length", "tr": "length"}
    [count] = [count for count in panel.counts if count.name == "beats_best_rival"]
    assert (count.k, count.below, count.of) == (6, 0, 6)  # 40 > 10 in de, 40 > 30 in en, 80 > 30 in tr
    assert "(length; for de shorter)" in count.text
    length = next(count for count in panel.counts if count.name == "beats_length")
    assert (length.k, length.below) == (4, 2) and count_text(length).endswith("(4 by point estimate; 2 below)")
    system = next(count for count in panel.counts if count.name == "beats_system")  # no rival, but a reference
    assert (system.k, system.below) == (0, 6)
    assert (
        "chosen for each target on the others, is length; for de shorter: of 6 cells abroad 6 lie above it, 0 below"
        in (headline(matrix))
    )


def test_the_best_rival_in_hindsight_stands_beside_it_and_is_called_so(tmp_path: Path) -> None:
    """By the rule above cells lie above rivals that are not the strong ones: 40 < 90 in de and 40 < 60 in en."""
    grid = SyntheticGrid(tmp_path)
    with_rivals(grid, RATES, "random", "human", "gold", "system")
    panel, matrix = grid.panel(), grid.folded()
    assert hindsight_rivals(panel, matrix.blocks[0].controls) == {"de": "length", "en": "shorter", "tr": "shorter"}
    [count] = [count for count in panel.counts if count.name == "beats_best_rival_in_hindsight"]
    assert (count.k, count.below, count.of) == (2, 4, 6)
    assert "in hindsight, chosen on the target's own data (shorter; for de length)" in count.text
    assert headline(matrix).count("untrained rival") == 2
    assert (
        "The best untrained rival in hindsight, chosen on each target's own data, is shorter; for de length: of 6 "
        "cells abroad 2 lie above it, 4 below (paired differences)." in headline(matrix)
    )


def test_a_rival_that_is_best_by_both_rules_is_named_once(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    with_rivals(grid, dict.fromkeys(RATES, (0.1, 0.6)))
    said = "on the others, and in hindsight, is shorter: of 6 cells abroad 2 lie above it, 4 below"
    assert said in headline(grid.folded()) and headline(grid.folded()).count("untrained rival") == 1


def test_of_one_target_there_is_a_rival_in_hindsight_alone(tmp_path: Path) -> None:
    grid = SyntheticGrid(tmp_path)
    with_rivals(grid, {"de": RATES["de"]})
    said = headline(grid.folded())
    assert (
        "in hindsight, chosen on each target's own data, is length: of 2 cells abroad 0 lie above it, 2 below" in said
    )
    assert "on the others" not in said
