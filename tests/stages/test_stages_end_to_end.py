"""Every stage run for real on a tiny model: its files, their formats, and numbers that follow from one another."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from lid_files import relabelled
from safetensors.torch import load_file
from small_grid import (
    BUDGET,
    NEW_TOKENS,
    TASK,
    M,
    N,
    Runner,
    array,
    changed,
    contents,
    experiment,
    goes_on,
    read,
    refused,
)

from xling.config.common import Lid
from xling.config.policies import LanguageModel
from xling.errors import DataError, StageError
from xling.grid.stage import Stage
from xling.judges import win_shares
from xling.measures.language import in_language
from xling.models import ridge
from xling.models.hub import folder_digest
from xling.models.load import load_policy
from xling.models.states import log_likelihood
from xling.models.text import prompt_ids, response_ids
from xling.optimizers import best_of_n
from xling.planning.controls import SOURCELESS
from xling.planning.dag import judge_stage
from xling.planning.specs import base
from xling.results.items import read_record
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.consensus import chrf
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.networks import load_reward
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.settings import RewardModel
from xling.rewards.untrained import Settings as Untrained
from xling.stages import base as base_stage
from xling.stages.features import all_features
from xling.tasks import micro_summarization as world

pytestmark = [  # the first is peft's own
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning"),
]
BEST = best_of_n.Settings()
MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
POINTWISE = {"group", "score", "label", "length", "length_rule"}
PAIRWISE = {"group", "chosen", "rejected", "chosen_length", "rejected_length"}


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def cell(runner: Runner, tiny_folder: Path) -> tuple[Stage, Path]:
    """en to tr with all defaults."""
    return runner.cell(experiment(tiny_folder))


def parent(runner: Runner, stage: Stage, *roles: str) -> Path:
    for role in roles:
        stage = stage.parents[role]
    return runner.folder(stage)


# --- base and sft -------------------------------------------------------------------------------------------


def test_a_local_base_is_pointed_to_and_not_copied(runner: Runner, cell: tuple[Stage, Path], tiny_folder: Path) -> None:
    folder = parent(runner, cell[0], "pool", "sft", "base")
    assert contents(folder).keys() == {"load.json"}
    assert read(folder / "load.json")["folder"] == str(tiny_folder)


def test_the_packaged_base_is_copied_and_must_be_what_was_planned(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_stage, "BASE_FOLDER", tiny_folder)
    spec = {**base(LanguageModel("packaged")).spec, "digest": folder_digest(tiny_folder)}
    Runner(tmp_path).run(Stage.make("base", 1, "base", spec, {}), {}, tmp_path / "out")
    made = contents(tmp_path / "out")
    assert made.pop("load.json") and made == contents(tiny_folder)
    other = Stage.make("base", 1, "base", spec | {"digest": "0" * 64}, {})
    with pytest.raises(StageError, match="changed after planning"):
        Runner(tmp_path).run(other, {}, tmp_path / "other")
    assert contents(tmp_path / "other") == {}


def test_sft_writes_a_model_its_curve_and_its_rouge(runner: Runner, cell: tuple[Stage, Path]) -> None:
    folder = parent(runner, cell[0], "pool", "sft")
    assert contents(folder).keys() >= MODEL_FILES | {"curve.jsonl", "sft.json"}
    assert not [name for name in contents(folder) if "checkpoint" in name or "training_args" in name]
    record = read(folder / "sft.json")
    assert record["demonstrations"] == TASK.demonstrations and 0 <= record["validation_rouge_l"] <= 1
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    metrics = {row["step"]: row["metric"] for row in curve if "metric" in row}
    assert list(metrics) == [3, 6] and max(metrics.values()) == record["validation_rouge_l"]


def test_sft_trains_all_weights_and_lowers_its_loss(
    runner: Runner, cell: tuple[Stage, Path], tiny_folder: Path
) -> None:
    folder = parent(runner, cell[0], "pool", "sft")
    before, after = load_file(tiny_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    shown = world.demonstrations(TASK, "tr", "train")
    likelihoods = []
    for where in (tiny_folder, folder):
        model, tokenizer = load_policy(where)
        prompts = prompt_ids(tokenizer, [d.prompt.text for d in shown])
        rows = [[ids] for ids in response_ids(tokenizer, [d.response for d in shown])]
        likelihoods.append(np.mean(log_likelihood(model, prompts, rows, tokenizer.pad_token_id)))
    assert likelihoods[1] > likelihoods[0] + 0.3


# --- pool and baseline --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "count"), [("pool", N), ("baseline", M)])
def test_samples_are_in_the_tasks_order_and_in_the_contracts_format(
    runner: Runner, cell: tuple[Stage, Path], role: str, count: int
) -> None:
    rows = samples(parent(runner, cell[0], role))
    prompts = world.prompts(TASK, "tr", "test")
    assert [(r["prompt"], r["group"], r["dataset"]) for r in rows] == [(p.id, p.group, p.dataset) for p in prompts]
    for row in rows:
        assert row.keys() == {"prompt", "group", "dataset", "responses", "lengths", "eos"}
        assert all(len(row[name]) == count for name in ("responses", "lengths", "eos"))
        for text, length, ended in zip(row["responses"], row["lengths"], row["eos"], strict=True):
            assert text == text.strip() and 1 <= length <= NEW_TOKENS and (ended or length == NEW_TOKENS)


def test_the_opponents_samples_are_not_in_the_pool(runner: Runner, cell: tuple[Stage, Path]) -> None:
    pool, baseline = (samples(parent(runner, cell[0], role)) for role in ("pool", "baseline"))
    assert not any(set(a["responses"]) & set(b["responses"]) for a, b in zip(pool, baseline, strict=True))


def test_a_larger_pool_begins_with_the_smaller(runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]) -> None:
    stage, _ = runner.cell(changed(experiment(tiny_folder, rm=Untrained("length")), "policy", n=N + 2))
    larger, small = (samples(parent(runner, one, "pool")) for one in (stage, cell[0]))
    assert [row["responses"][:N] for row in larger] == [row["responses"] for row in small]


# --- frozen language model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
@pytest.mark.parametrize("source", ["en", "de+en"])
def test_a_frozen_language_model_scores_by_its_head(
    runner: Runner, tiny_folder: Path, feedback: str, source: str
) -> None:
    asked = changed(experiment(tiny_folder, source, rm=FrozenLM("both")), "task", feedback=feedback)
    cell, _ = runner.cell(asked)
    head = ridge.load(parent(runner, cell, "score", "reward") / "head.npz")
    features = parent(runner, cell, "score", "features")
    scores = head.predict(all_features([features / "samples"])).reshape(TASK.test_prompts, N + M)
    folder = parent(runner, cell, "score")
    np.testing.assert_array_equal(array(folder / "pool.npy"), scores[:, :N])
    np.testing.assert_array_equal(array(folder / "baseline.npy"), scores[:, N:])
    held_out = read(folder / "heldout.json")
    rows = held_out["score"] if feedback == "pointwise" else [*held_out["chosen"], *held_out["rejected"]]
    assert sorted(rows) == sorted(head.predict(all_features([features / "heldout"])).tolist())


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
def test_shuffled_labels_give_another_head_from_the_same_features(
    runner: Runner, tiny_folder: Path, feedback: str
) -> None:
    heads = []
    for permutation in (0, 1):
        asked = changed(experiment(tiny_folder, rm=FrozenLM("both", permutation)), "task", feedback=feedback)
        cell, _ = runner.cell(asked)
        heads.append(ridge.load(parent(runner, cell, "score", "reward") / "head.npz").weight)
    assert not np.array_equal(*heads)


# --- reward models ------------------------------------------------------------------------------------------

REWARD_MODELS: dict[str, RewardModel] = {
    "full": SameAsPolicy(training=BUDGET),
    "frozen": SameAsPolicy(training=BUDGET, tuning="frozen", pooling="mean"),
    "lora": SameAsPolicy(training=BUDGET, tuning="lora"),
    "from the base": SameAsPolicy(training=BUDGET, tuning="frozen", init="base"),
    "pairwise": SameAsPolicy(training=BUDGET, objective="pairwise", pooling="mean"),
    "shuffled": SameAsPolicy(training=BUDGET, tuning="frozen", permutation=1),
    "shuffled pairs": SameAsPolicy(training=BUDGET, tuning="frozen", objective="pairwise", permutation=2),
}


@pytest.fixture(params=REWARD_MODELS)
def rm(request: pytest.FixtureRequest) -> SameAsPolicy:
    if request.param == "lora":
        pytest.importorskip("peft")
    chosen = REWARD_MODELS[request.param]
    assert isinstance(chosen, SameAsPolicy)
    return chosen


def test_a_reward_model_is_trained_stored_and_scores(runner: Runner, tiny_folder: Path, rm: SameAsPolicy) -> None:
    stage, folder = runner.cell(experiment(tiny_folder, rm=rm))
    trained, scored = parent(runner, stage, "score", "reward"), parent(runner, stage, "score")
    assert contents(trained).keys() >= MODEL_FILES | {"head.safetensors", "reward.json", "curve.jsonl", "training.json"}
    assert not [name for name in contents(trained) if "adapter" in name or "checkpoint" in name]
    assert read(trained / "training.json")["examples"] == TASK.ratings
    assert load_file(trained / "head.safetensors")["weight"].any()
    pairwise = rm.objective == "pairwise"
    held_out = read(scored / "heldout.json")
    assert held_out.keys() == (PAIRWISE if pairwise else POINTWISE)
    check_scores(runner, stage)
    check_verdicts(runner, stage, folder)


def check_scores(runner: Runner, stage: Stage) -> None:
    """Scores in the folder are those of the stored model."""
    scored, model = parent(runner, stage, "score"), load_reward(parent(runner, stage, "score", "reward"))
    prompts = [p.text for p in world.prompts(TASK, "tr", "test")]
    for role, count in (("pool", N), ("baseline", M)):
        rows = [row["responses"] for row in samples(parent(runner, stage, role))]
        scores = array(scored / f"{role}.npy")
        assert scores.shape == (TASK.test_prompts, count)
        assert scores.tolist() == model.score(prompts, rows)
        assert len(np.unique(scores)) > count
    held_out = read(scored / "heldout.json")
    if "label" in held_out:
        ratings = world.ratings(TASK, "tr", "test")
        assert held_out["label"] == [r.label for r in ratings]
        assert held_out["length"] == [len(r.response) for r in ratings]
        expected = model.score([r.prompt.text for r in ratings], [[r.response] for r in ratings])
        assert held_out["score"] == [row[0] for row in expected]
        assert held_out["group"] == [r.prompt.group for r in ratings]
        assert held_out["length_rule"].keys() == {"threshold", "longer_is_better"}
    else:
        pairs = world.pairs(TASK, "tr", "test")
        expected = model.score([p.prompt.text for p in pairs], [[p.chosen, p.rejected] for p in pairs])
        assert [[a, b] for a, b in zip(held_out["chosen"], held_out["rejected"], strict=True)] == expected
        assert held_out["rejected_length"] == [len(p.rejected) for p in pairs]


def check_verdicts(runner: Runner, stage: Stage, folder: Path) -> None:
    """The judge's items follow from the arrays of its parents."""
    rewards = array(parent(runner, stage, "score") / "pool.npy")
    quality = array(parent(runner, stage, "verdict") / "pool.npy")
    opponents = array(parent(runner, stage, "verdict") / "baseline.npy")
    drawn = samples(parent(runner, stage, "pool"))
    items, pick = read(folder / "items.json"), best_of_n.pick(BEST, rewards, ())
    assert contents(folder).keys() == {"items.json", "curve.npy", "summary.json"}
    assert items.keys() == {
        "prompt", "group", "dataset", "index", "win", "in_language", "length", "eos", "repetition", "reward", "quality",
        "baseline_quality", "baseline_reward", "baseline_in_language", "baseline_length", "baseline_eos",
        "baseline_repetition",
    }  # fmt: skip
    assert items["index"] == pick.tolist()
    assert items["prompt"] == [row["prompt"] for row in drawn]
    assert items["length"] == [row["lengths"][i] for row, i in zip(drawn, pick, strict=True)]
    assert items["in_language"] == in_language([row["responses"][i] for row, i in zip(drawn, pick, strict=True)], "tr")
    for row, i in enumerate(pick):
        beaten = [(quality[row, i] > q) + (quality[row, i] == q) / 2 for q in opponents[row]]
        assert items["win"][row] == np.mean(beaten)
        assert items["quality"][row] == quality[row, i] and items["reward"][row] == rewards[row, i]
        assert items["baseline_quality"][row] == pytest.approx(opponents[row].mean())
    curve = array(folder / "curve.npy")
    assert curve.shape == (TASK.test_prompts, N)
    np.testing.assert_allclose(curve, best_of_n.curve(BEST, rewards, win_shares(quality, opponents)))
    assert read(folder / "summary.json") == {"kl_bound": pytest.approx(np.log(N) - (N - 1) / N), "n_samples": N}


def trunk_change(runner: Runner, stage: Stage) -> dict[str, torch.Tensor]:
    """Weight differences between a reward model's trunk and the model it started from."""
    start = load_file(parent(runner, stage, "score", "reward", "init") / "model.safetensors")
    trunk = load_file(parent(runner, stage, "score", "reward") / "model.safetensors")
    start = {name.removeprefix("model."): value for name, value in start.items()}
    return {name: value - start[name.removeprefix("model.")] for name, value in trunk.items()}


def test_frozen_leaves_the_trunk_as_it_was(runner: Runner, tiny_folder: Path) -> None:
    rm = SameAsPolicy(training=BUDGET, tuning="frozen", pooling="mean")
    stage, _ = runner.cell(experiment(tiny_folder, rm=rm))
    assert not any(difference.any() for difference in trunk_change(runner, stage).values())


def test_full_tuning_changes_every_matrix(runner: Runner, cell: tuple[Stage, Path]) -> None:
    assert all(difference.any() for difference in trunk_change(runner, cell[0]).values())


def test_lora_changes_the_linear_layers_alone_and_by_a_low_rank(runner: Runner, tiny_folder: Path) -> None:
    pytest.importorskip("peft")
    stage, _ = runner.cell(experiment(tiny_folder, rm=SameAsPolicy(training=BUDGET, tuning="lora")))
    touched = {name: d for name, d in trunk_change(runner, stage).items() if d.any()}
    assert touched and all("proj" in name for name in touched)
    assert all(torch.linalg.matrix_rank(d, rtol=1e-4) <= 16 for d in touched.values())


def test_the_objectives_train_different_models(runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]) -> None:
    pairwise = changed(experiment(tiny_folder), "task", feedback="pairwise")
    by_task, _ = runner.cell(pairwise)
    by_name, _ = runner.cell(experiment(tiny_folder, rm=SameAsPolicy(training=BUDGET, objective="pairwise")))
    point, pair = (array(parent(runner, stage, "score") / "pool.npy") for stage in (cell[0], by_task))
    assert not np.array_equal(point, pair)
    assert np.array_equal(pair, array(parent(runner, by_name, "score") / "pool.npy"))


def test_pooled_sources_train_on_both(runner: Runner, tiny_folder: Path) -> None:
    stage, folder = runner.cell(experiment(tiny_folder, "de+en", rm=SameAsPolicy(training=BUDGET, tuning="frozen")))
    assert read(parent(runner, stage, "score", "reward") / "training.json")["examples"] == 2 * TASK.ratings
    assert read(parent(runner, stage, "score", "reward", "init") / "sft.json")["demonstrations"] == 2 * 40
    check_verdicts(runner, stage, folder)


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
@pytest.mark.parametrize("permutation", [0, 1])
def test_bag_of_words(runner: Runner, tiny_folder: Path, feedback: str, permutation: int) -> None:
    asked = changed(experiment(tiny_folder, rm=BagOfWords(permutation)), "task", feedback=feedback)
    stage, folder = runner.cell(asked)
    assert stage.parents["score"].parents["reward"].parents == {}
    assert read(parent(runner, stage, "score") / "heldout.json").keys() == (
        POINTWISE if feedback == "pointwise" else PAIRWISE
    )
    check_verdicts(runner, stage, folder)


# --- references and controls --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SOURCELESS, "consensus"])
def test_a_reference_has_all_files(runner: Runner, tiny_folder: Path, name: str) -> None:
    stage, folder = runner.cell(experiment(tiny_folder, rm=Untrained(name)))  # type: ignore[arg-type]
    assert read(parent(runner, stage, "score") / "heldout.json").keys() == POINTWISE
    assert np.isfinite(array(parent(runner, stage, "score") / "pool.npy")).all()
    check_verdicts(runner, stage, folder)


def scores_of(runner: Runner, tiny_folder: Path, name: str, **settings: Any) -> np.ndarray[Any, Any]:
    stage, _ = runner.cell(experiment(tiny_folder, rm=Untrained(name), **settings))  # type: ignore[arg-type]
    return array(parent(runner, stage, "score") / "pool.npy")


def test_gold_is_the_exact_quality_and_the_ceiling(runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]) -> None:
    verdict = parent(runner, cell[0], "verdict")
    assert contents(verdict).keys() == {"pool.npy", "baseline.npy"}
    rows = [row["responses"] for row in samples(parent(runner, cell[0], "pool"))]
    exact = world.quality(TASK, world.prompts(TASK, "tr", "test"), rows)
    assert array(verdict / "pool.npy").tolist() == exact
    assert np.array_equal(scores_of(runner, tiny_folder, "gold"), exact)
    _, folder = runner.cell(experiment(tiny_folder, rm=Untrained("gold")))
    ceiling = np.array(read(folder / "items.json")["win"])
    assert (ceiling >= np.array(read(cell[1] / "items.json")["win"])).all()


def test_consensus_compares_with_the_pool(runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]) -> None:
    stage, _ = runner.cell(experiment(tiny_folder, rm=Untrained("consensus")))
    rows, against = (
        [row["responses"] for row in samples(parent(runner, stage, role))] for role in ("pool", "baseline")
    )
    found = {role: array(parent(runner, stage, "score") / f"{role}.npy") for role in ("pool", "baseline")}
    others = rows[3][1:]
    assert found["pool"][3, 0] == pytest.approx(np.mean([chrf([rows[3][0]], [other]) for other in others]))
    assert found["baseline"][3, 1] == pytest.approx(np.mean([chrf([against[3][1]], [other]) for other in rows[3]]))
    assert np.ptp(found["pool"], axis=1).min() >= 0 and set(
        read(parent(runner, stage, "score") / "heldout.json")["score"]
    ) == {0.0}


def test_length_counts_characters(runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]) -> None:
    rows = samples(parent(runner, cell[0], "pool"))
    assert scores_of(runner, tiny_folder, "length").tolist() == [[len(t) for t in row["responses"]] for row in rows]


def test_random_depends_on_the_seed_alone(runner: Runner, tiny_folder: Path) -> None:
    first = scores_of(runner, tiny_folder, "random")
    assert ((first >= 0) & (first < 1)).all() and len(np.unique(first)) == first.size
    assert not np.array_equal(first, scores_of(runner, tiny_folder, "random", seed=1))


def test_likelihoods_are_those_of_the_base_and_of_the_targets_policy(
    runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]
) -> None:
    """And the gain is the likelihood given the prompt minus that given its last line alone."""
    prompts = world.prompts(TASK, "tr", "test")
    rows = [row["responses"] for row in samples(parent(runner, cell[0], "pool"))]
    for name, folder in (("base", tiny_folder), ("sft", parent(runner, cell[0], "pool", "sft"))):
        model, tokenizer = load_policy(folder)
        encoded = [response_ids(tokenizer, row) for row in rows]
        given, alone = (
            np.array(log_likelihood(model, prompt_ids(tokenizer, texts), encoded, tokenizer.pad_token_id))
            for texts in ([p.text for p in prompts], [p.text.split("\n")[-1] for p in prompts])
        )
        assert np.array_equal(scores_of(runner, tiny_folder, f"likelihood_{name}"), given)
        assert np.array_equal(scores_of(runner, tiny_folder, f"likelihood_gain_{name}"), given - alone)


# --- judges -------------------------------------------------------------------------------------------------


def test_the_targets_reward_model_as_judge(runner: Runner, tiny_folder: Path) -> None:
    stage, folder = runner.cell(experiment(tiny_folder, judge="target_rm"))
    check_verdicts(runner, stage, folder)
    at_home, home = runner.cell(experiment(tiny_folder, "tr", "tr", judge="target_rm"))
    assert at_home.parents["verdict"].key == at_home.parents["score"].key == stage.parents["verdict"].key
    assert np.mean(read(home / "items.json")["win"]) >= 0.5  # the pick is the best of the pool by the judge's own score
    check_verdicts(runner, at_home, home)


def test_best_of_two_picks_from_the_first_two(runner: Runner, tiny_folder: Path, cell: tuple[Stage, Path]) -> None:
    stage, folder = runner.cell(experiment(tiny_folder, n=2))
    assert set(read(folder / "items.json")["index"]) == {0, 1}
    assert array(folder / "curve.npy").shape == (TASK.test_prompts, 2)
    assert read(folder / "summary.json")["n_samples"] == 2
    assert stage.parents["score"].key == cell[0].parents["score"].key


# --- the same bytes -----------------------------------------------------------------------------------------


def test_every_stage_gives_the_same_bytes_again(
    runner: Runner, cell: tuple[Stage, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    again = Runner(tmp_path)
    again.folder(cell[0])
    compared = 0
    for folder in tmp_path.glob("*/*"):
        if folder.parent.name != "scratch":
            assert contents(folder) == contents(runner.root / folder.parent.name / folder.name), folder.parent.name
            compared += 1
    assert compared == 9  # base, 2 sft, reward, pool, baseline, score, gold, judge


@pytest.mark.parametrize("kind", ["sft", "full", "lora"])
def test_a_killed_training_goes_on_at_its_checkpoint(
    runner: Runner, tiny_folder: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "lora":
        pytest.importorskip("peft")
    rm = SameAsPolicy(training=BUDGET, tuning="full" if kind == "sft" else kind)  # type: ignore[arg-type]
    reward = judge_stage(experiment(tiny_folder, rm=rm)).parents["score"].parents["reward"]
    stage = reward.parents["init"] if kind == "sft" else reward
    assert goes_on(runner, stage, tmp_path, lambda done: done == 5)[0] == 4


def test_no_steps_leave_the_policy_as_the_base_is(runner: Runner, tiny_folder: Path) -> None:
    none = msgspec.structs.replace(BUDGET, steps=0)
    stage, _ = runner.cell(experiment(tiny_folder, sft=none, rm=Untrained("length")))
    assert stage.parents["pool"].parents["sft"].kind == "base"  # nothing is trained, copied or read


# --- languages ----------------------------------------------------------------------------------------------


def test_another_model_that_tells_languages_is_read_by_the_last_stage_alone(
    tiny_folder: Path, tmp_path: Path, runner: Runner, cell: tuple[Stage, Path]
) -> None:
    """In the key by its content, wherever it lies; a language that it has no label for is blank, and nothing else."""
    path = relabelled(tmp_path / "lid.bin", {"__label__tr": "__label__tur_Latn", "__label__az": "__label__azj_Latn"})
    blind = relabelled(tmp_path / "blind.bin", {"__label__tr": "__label__crh_Latn"})
    copy = relabelled(tmp_path / "copy.bin", {"__label__tr": "__label__tur_Latn", "__label__az": "__label__azj_Latn"})
    asked = experiment(tiny_folder)
    named, unknown, moved = (
        judge_stage(msgspec.structs.replace(asked, lid=Lid(model))) for model in (path, blind, copy)
    )
    assert named.key == moved.key and len({named.key, unknown.key, cell[0].key}) == 3
    assert {role: up.key for role, up in named.parents.items()} == {r: up.key for r, up in cell[0].parents.items()}
    default, other, blank = (read(runner.folder(stage) / "items.json") for stage in (cell[0], named, unknown))
    assert other == default
    for part in ("in_language", "baseline_in_language"):
        assert blank[part] == [None] * len(default[part]) and None not in default[part]
    assert {k: v for k, v in blank.items() if "lang" not in k} == {k: v for k, v in default.items() if "lang" not in k}
    assert read_record(runner.folder(unknown)).items.column("in_language") is None

    Path(blind).write_bytes(Path(path).read_bytes())
    parents = {role: runner.folder(up) for role, up in unknown.parents.items()}
    with pytest.raises(DataError, match=r"lid\.model=.*blind\.bin has changed since the grid was planned"):
        runner.run(unknown, parents, tmp_path / "out")
    refused(msgspec.structs.replace(asked, lid=Lid("nowhere")), r"lid\.model=nowhere cannot be read")
