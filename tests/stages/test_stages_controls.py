"""Controls under judge=target_rm, equal pairs, streams by language, and keys no wider than what is read."""

import sys
from pathlib import Path

import msgspec
import pytest
from small_grid import changed, experiment

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("tasks", "models")]  # small files, tiny models
import families
from own_files import jsonl, rated

from xling.config.policies import Recorded
from xling.errors import ConfigError
from xling.judges.target_rm import Settings as TargetRM
from xling.planning.dag import cells_from, judge_stage
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.networks import distinct
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.untrained import hashed_score
from xling.tasks.files import Settings as Files

AXES = {"rm_backbone": "same_as_policy", "source_lang": "en", "target_lang": "tr", "seed": 0}


def test_controls_are_judged_by_the_targets_own_true_reward_model(no_model: Path) -> None:
    asked = experiment(no_model, "en", "tr", judge="target_rm", axes=AXES)
    home = experiment(no_model, "tr", "tr", judge="target_rm")
    own = judge_stage(home).parents["score"].key
    cells = cells_from([asked], controls=True)
    assert {cell.stage.parents["verdict"].key for cell in cells} == {own}
    names = {cell.axes["rm_backbone"] for cell in cells}
    assert {"random", "shuffled_1:same_as_policy", "likelihood_sft"} <= names


def test_references_that_two_judges_would_judge_are_refused(no_model: Path) -> None:
    """They stood once in the matrix, judged by the kind of whichever row was typed first."""
    kinds = {"bag_of_words": BagOfWords(), "same_as_policy": SameAsPolicy()}
    asked = [
        experiment(no_model, judge="target_rm", rm=rm, axes=AXES | {"rm_backbone": name}) for name, rm in kinds.items()
    ]
    with pytest.raises(ConfigError, match=r"random in tr .* judge/rm_backbone=bag_of_words"):
        cells_from(asked, controls=True)
    by_one = [msgspec.structs.replace(one, judge=TargetRM(BagOfWords())) for one in asked]
    assert len({cell.stage.parents["verdict"].key for cell in cells_from(by_one, controls=True)}) == 1


def test_each_encoder_has_its_own_cosine(tmp_path: Path) -> None:
    """One stood for all that are swept: the first one's."""
    task = Files(str(jsonl(tmp_path / "own.jsonl", rated("en", 20) + rated("tr", 20))), ())
    asked = []
    for name in ("one", "two"):
        folder = families.saved_encoder(tmp_path / name, "bert")
        (folder / "note.json").write_text(f'"{name}"')  # which makes it another one
        rm = SentenceEncoder(str(folder))
        axes = AXES | {"rm_backbone": "sentence_encoder", "rm_backbone.encoder": name}
        asked.append(experiment(tmp_path, judge="human", rm=rm, task=task, policy=Recorded(), axes=axes))
    found = [cell for cell in cells_from(asked, controls=True) if cell.axes["rm_backbone"] == "cosine"]
    assert len({cell.axes["rm_backbone.encoder"] for cell in found}) == len({cell.stage.key for cell in found}) == 2
    randoms = [cell for cell in cells_from(asked, controls=True) if cell.axes["rm_backbone"] == "random"]
    assert len(randoms) == 1 and "rm_backbone.encoder" not in randoms[0].axes


def test_permuted_labels_asked_for_alone_are_judged_by_true_ones(no_model: Path) -> None:
    """The judge was the very model of permuted labels, at home and abroad."""
    permuted = judge_stage(experiment(no_model, judge="target_rm", rm=BagOfWords(permutation=1)))
    plain = judge_stage(experiment(no_model, judge="target_rm", rm=BagOfWords()))
    assert permuted.parents["verdict"].key == plain.parents["verdict"].key
    assert permuted.parents["score"].key != plain.parents["score"].key


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
