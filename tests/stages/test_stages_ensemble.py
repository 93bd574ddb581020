"""ensemble: several rewards as one, by hand, as a stage, and as cells of a grid."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from small_grid import Runner, changed, contents, experiment, read, refused

from xling.config.common import Ensemble
from xling.errors import ConfigError
from xling.grid import joined
from xling.optimizers.ppo import Settings as PPO
from xling.planning.dag import cells_from, ensemble_seeds, idle_ensembles, judge_stage
from xling.results.specs import EnsembleSpec
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.settings import RewardModel
from xling.rewards.untrained import Settings as Untrained
from xling.stages.ensemble import combined, scaled

NAN = float("nan")


def array(path: Path) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.load(path)
    return found


# --- by hand ------------------------------------------------------------------------------------------------


def test_rewards_are_centred_and_scaled_within_a_prompt() -> None:
    pool = np.array([[1.0, 3.0, 5.0, 7.0], [2.0, 4.0, NAN, NAN], [5.0, 5.0, 5.0, NAN]])  # deviations: root 5, 1, 0
    expected = np.array([[-3.0, -1.0, 1.0, 3.0], [-1.0, 1.0, NAN, NAN], [0.0, 0.0, 0.0, NAN]])
    expected[0] /= np.sqrt(5.0)
    assert np.allclose(scaled(pool, pool), expected, equal_nan=True)
    opposed = scaled(pool, np.array([[4.0, 14.0], [5.0, 3.0], [9.0, 5.0]]))
    assert np.allclose(opposed, [[0.0, 10.0 / np.sqrt(5.0)], [2.0, 0.0], [0.0, 0.0]])
    one = np.sqrt((5.0 + 1.0 + 0.0) / 3)  # root of the mean squared deviation within the three prompts
    centred = [[-3.0, -1.0, 1.0, 3.0], [-1.0, 1.0, NAN, NAN], [0.0, 0.0, 0.0, NAN]]
    assert np.allclose(scaled(pool, pool, "pool"), np.array(centred) / one, equal_nan=True)
    assert scaled(pool, pool, "none") is pool


@pytest.mark.parametrize(("scale", "picked"), [(UNSET, 1), ("pool", 0), ("none", 2)])
def test_the_scale_decides_what_two_rewards_pick(scale: Any, picked: int) -> None:
    """Of a prompt whose samples the second reward, in large numbers, hardly tells apart beside those of another one."""
    members = np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), np.array([[0.0, 16.0, 20.0], [0.0, 1000.0, 500.0]])
    spec = EnsembleSpec(combine="mean", models=2, references=0, weight=1.0, scale=scale)
    joint = combined([scaled(pool, pool, scale) for pool in members], spec)
    assert joint.argmax(axis=1).tolist() == [picked, 1]


@pytest.mark.parametrize(("combine", "joint"), [("mean", [2.0, -1.0]), ("min", [1.0, -3.0])])
def test_models_are_combined_and_references_added(combine: str, joint: list[float]) -> None:
    members = [np.array([[1.0, -3.0]]), np.array([[3.0, 1.0]]), np.array([[10.0, 20.0]])]
    spec = EnsembleSpec(combine=combine, models=2, references=1, weight=0.5)
    assert combined(members, spec).tolist() == [[joint[0] + 5.0, joint[1] + 10.0]]


def test_no_two_ensembles_of_a_grid_share_a_seed() -> None:
    seeds = [seed for first in range(4) for seed in ensemble_seeds(first, 3)]
    assert seeds == list(range(12)) and list(ensemble_seeds(2, 1)) == [2]


# --- as stages ----------------------------------------------------------------------------------------------


def test_two_sources_apart_and_a_reference(runner: Runner, tiny_folder: Path, tmp_path: Path) -> None:
    """Equal to what its members' scores make by hand; worst-of-k on the same members."""
    asked = experiment(tiny_folder, "de+en", rm=BagOfWords())
    stage, _ = runner.cell(changed(asked, "ensemble", sources="apart", also=("length",), weight=0.25))
    joint = stage.parents["score"]
    assert (joint.kind, joint.label) == ("ensemble", "ensemble[de+en, tr]")
    members = [joint.parents[f"member_{number}"] for number in range(3)]
    assert [member.label for member in members] == ["score[de, tr]", "score[en, tr]", "score[length, tr]"]
    alone = judge_stage(experiment(tiny_folder, "en", rm=BagOfWords())).parents["score"]
    assert members[1].key == alone.key and joint.parents["reward"].key == members[0].parents["reward"].key
    pools = [array(runner.folder(member) / "pool.npy") for member in members]
    for name in ("pool.npy", "baseline.npy"):
        de, en, length = (
            (array(runner.folder(member) / name) - pool.mean(axis=1, keepdims=True)) / pool.std(axis=1, keepdims=True)
            for member, pool in zip(members, pools, strict=True)
        )
        assert np.allclose(array(runner.folder(joint) / name), (de + en) / 2 + length / 4)
    apart = {role: tmp_path / role for role in joint.parents}
    for role, parent in joint.parents.items():  # as they stand in a store
        shutil.copytree(runner.folder(parent), apart[role])
        joined.join(str(apart[role]))
    runner.run(joint, apart, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(runner.folder(joint))
    worst, _ = runner.cell(changed(asked, "ensemble", sources="apart", combine="min"))
    found = array(runner.folder(worst.parents["score"]) / "pool.npy")
    assert np.allclose(found, np.minimum(*(scaled(pool, pool) for pool in pools[:2])))
    raw, _ = runner.cell(changed(asked, "ensemble", sources="apart", scale="none", also=("length",), weight=0.25))
    for name in ("pool.npy", "baseline.npy"):
        de, en, length = (array(runner.folder(member) / name) for member in members)
        assert np.array_equal(array(runner.folder(raw.parents["score"]) / name), (de + en) / 2 + length / 4)
    kept, parts = (read(runner.folder(one) / "heldout.json") for one in (raw.parents["score"], members[0]))
    de, en, length = (np.array(read(runner.folder(member) / "heldout.json")["score"]) for member in members)
    assert parts.keys() == kept.keys() and np.allclose(kept["score"], (de + en) / 2 + (length - length.mean()) / 4)


def test_seeds_of_a_trained_model_and_its_controls(no_model: Path) -> None:
    """Shuffled labels are an ensemble too; references stand alone, and what is not trained is itself once."""
    axes = {"rm_backbone": "same_as_policy", "rm_backbone.ensemble.seeds": 3, "source_lang": "en", "target_lang": "tr"}
    cells = cells_from([experiment(no_model, ensemble=Ensemble(seeds=3), axes=axes)], controls=True)
    stages = {str(cell.axes["rm_backbone"]): cell.stage.parents["score"] for cell in cells}
    members = [stages["same_as_policy"].parents[f"member_{number}"] for number in range(3)]
    assert [member.parents["reward"].spec["seed"] for member in members] == [0, 1, 2]
    assert len({member.parents["pool"].key for member in members}) == 1  # the cell's own
    shuffled = stages["shuffled_1:same_as_policy"]
    assert shuffled.kind == "ensemble" and shuffled.label.endswith("shuffled 1")
    assert stages["length"].kind == "score"
    once = experiment(no_model, rm=Untrained("consensus"), ensemble=Ensemble(seeds=3))
    assert judge_stage(once).parents["score"].kind == "score"


def test_without_an_ensemble_nothing_changes(no_model: Path) -> None:
    plain = judge_stage(experiment(no_model))
    assert (
        judge_stage(changed(experiment(no_model), "ensemble", combine="min", sources="apart", scale="none")).key
        == plain.key
    )


def test_what_decides_nothing_is_in_no_key_and_is_said(no_model: Path) -> None:
    def key(rm: RewardModel, source: str = "en", **settings: object) -> str:
        return judge_stage(changed(experiment(no_model, source, rm=rm), "ensemble", **settings)).key

    tuned, linear, two = SameAsPolicy(), BagOfWords(), ("length", "consensus")
    assert key(tuned, also=two) == key(tuned, also=two[::-1]) == key(tuned, also=two, combine="min", sources="apart")
    assert key(tuned, "de+en", sources="apart") == key(tuned, "de+en", sources="apart", weight=2.0)
    assert key(linear, seeds=3) == key(linear) and key(tuned, seeds=3) != key(tuned)
    wanted = Ensemble(seeds=3, combine="min", weight=0.5)
    asked = [experiment(no_model, rm=rm, ensemble=wanted) for rm in (tuned, linear, Untrained("length"))]
    said = idle_ensembles(asked)
    assert [one.partition(":")[0] for one in said] == [
        "ensemble.seeds=3 changes nothing for rm_backbone=bag_of_words, length",
        "ensemble.combine=min changes nothing for rm_backbone=bag_of_words, length",
        "ensemble.weight=0.5 changes nothing for rm_backbone=same_as_policy, bag_of_words, length",
    ]
    also = [changed(one, "ensemble", also=also) for one in asked[:1] for also in ((), ("length",))]
    assert idle_ensembles(also) == [] == idle_ensembles([experiment(no_model)])


def test_what_cannot_be_combined_is_refused(no_model: Path) -> None:
    ceiling = changed(experiment(no_model), "ensemble", also=("length", "gold"))
    refused(ceiling, r"ensemble\.also=length,gold makes .* ceiling, and stands alone: rm_backbone=gold, .* length, ")
    alone = changed(experiment(no_model, rm=Untrained("gold")), "ensemble", also=("length",))
    refused(alone, r"ensemble\.also=length with gold makes a row of the truth")
    refused(experiment(no_model, ensemble=Ensemble(2), optimizer=PPO()), r"ensemble combines .*=ppo learns .*best_of_n")
    unknown = Ensemble(also=("likelihood",))
    refused(experiment(no_model, ensemble=unknown), r"ensemble\.also=likelihood is no untrained .*likelihood_sft")
    with pytest.raises(ConfigError, match=r"would judge its own picks\. Type judge\.half=true"):
        judge_stage(experiment(no_model, "tr", "tr", judge="target_rm", ensemble=Ensemble(2)))
    other_seeds = msgspec.structs.replace(
        experiment(no_model, "tr", "tr", judge="target_rm", ensemble=Ensemble(2)), seed=1
    )
    with pytest.raises(ConfigError, match=r"learns from what one that ensemble combines"):
        judge_stage(other_seeds)
    with pytest.raises(ConfigError, match=r"seed=4000000000 with ensemble\.seeds=3 .* Type seed=1431655764 or less"):
        ensemble_seeds(4_000_000_000, 3)
