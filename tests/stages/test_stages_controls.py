"""Controls under judge=target_rm, equal pairs, streams by language, and keys no wider than what is read."""

from pathlib import Path

import msgspec
import pytest
from small_grid import changed, experiment

from xling.config import SameAsPolicy
from xling.errors import ConfigError
from xling.stages.dag import cells_from, judge_stage
from xling.stages.reward_net import distinct
from xling.stages.scorers import hashed_score

AXES = {"rm_backbone": "same_as_policy", "source_lang": "en", "target_lang": "tr", "seed": 0}


def test_controls_are_judged_by_the_targets_own_true_reward_model(no_model: Path) -> None:
    asked = experiment(no_model, "en", "tr", judge="target_rm")
    home = experiment(no_model, "tr", "tr", judge="target_rm")
    own = judge_stage(home).parents["score"].key
    cells = cells_from([(AXES, asked)], controls=True)
    assert {cell.stage.parents["verdict"].key for cell in cells} == {own}
    names = {cell.axes["rm_backbone"] for cell in cells}
    assert {"random", "shuffled_1:same_as_policy", "likelihood_sft"} <= names


def test_a_pointwise_model_does_not_depend_on_the_number_of_pairs(no_model: Path) -> None:
    asked = experiment(no_model)
    more_pairs = changed(asked, "task", pairs=60)
    assert judge_stage(more_pairs).key == judge_stage(asked).key
    pairwise = changed(asked, "rm_backbone", objective="pairwise")
    assert judge_stage(changed(pairwise, "task", pairs=60)).key != judge_stage(pairwise).key
    assert judge_stage(changed(pairwise, "task", ratings=60)).key == judge_stage(pairwise).key


def test_the_whole_pool_is_the_same_by_number_and_by_default(no_model: Path) -> None:
    asked = experiment(no_model)
    assert judge_stage(asked).key == judge_stage(experiment(no_model, n=4)).key
    assert judge_stage(asked).key != judge_stage(experiment(no_model, n=2)).key


def test_less_data_than_one_batch_is_refused(no_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.demonstrations=4 is less than one batch: sft\.batch_size=8"):
        judge_stage(changed(experiment(no_model), "task", demonstrations=4))
    with pytest.raises(ConfigError, match=r"task\.ratings=4 .* rm_backbone\.training\.batch_size=8"):
        judge_stage(changed(experiment(no_model), "task", ratings=4))
    frozen = msgspec.structs.replace(SameAsPolicy(), objective="pairwise")
    with pytest.raises(ConfigError, match=r"task\.pairs=4"):
        judge_stage(changed(experiment(no_model, rm=frozen), "task", pairs=4))


def test_pairs_that_read_the_same_are_dropped_and_counted() -> None:
    rows = [(([1], [5, 2]), ([1], [6, 2]), 1.0), (([1], [5, 2]), ([1], [5, 2]), 1.0), (([1], [7, 2]), None, 0.0)]
    kept, dropped = distinct(rows)
    assert kept == [rows[0], rows[2]] and dropped == 1


def test_the_random_control_draws_anew_for_each_language() -> None:
    assert hashed_score(0, "de/test-0000", 0) != hashed_score(0, "tr/test-0000", 0)
    assert hashed_score(0, "de/test-0000", 0) == hashed_score(0, "de/test-0000", 0)
