"""Your own data and M-RewardBench, end to end on a tiny model: real files, real stages, a matrix at the end."""

import shutil
from pathlib import Path
from typing import Any

import families
import msgspec
import numpy as np
import pytest
from own_files import jsonl, paired, rated
from releases import benchmark
from small_grid import BUDGET, TASK, Runner, array, every, experiment, languages, read, refused

from xling.config.policies import Recorded
from xling.experiment import Experiment
from xling.grid.host import this_process
from xling.grid.records import Ref, Run, Sheet
from xling.grid.stage import Stage
from xling.grid.store import Store
from xling.judges.target_rm import Settings as TargetRM
from xling.models import ridge
from xling.optimizers.best_of_n import Settings as BestOfN
from xling.planning.dag import cells_from, judge_stage
from xling.results.items import read_heldout
from xling.results.reading import CellSamples, SampleReader
from xling.rewards import REWARDS, Fold
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.encoder import Settings as Encoder
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.settings import RewardModel
from xling.rewards.system import Settings as SystemIdentity
from xling.rewards.untrained import Settings as Untrained
from xling.tasks import m_rewardbench
from xling.tasks.files import Settings as Files
from xling.tasks.m_rewardbench import Settings as MRewardBench
from xling.tasks.released import Settings as Released
from xling.tasks.rows import Columns

RELEASED = Released("nowhere", "oasst", ())
SHORT = msgspec.structs.replace(BUDGET, steps=2, eval_every=2, batch_size=4)


def own(folder: Path, feedback: str) -> Files:
    path = folder / f"{feedback}.jsonl"
    rows = [row for lang in ("en", "tr") for row in (rated if feedback == "pointwise" else paired)(lang, 40)]
    columns = Columns() if feedback == "pointwise" else Columns(group="tree")
    return Files(path=str(jsonl(path, rows)), languages=(), feedback=feedback, columns=columns)  # type: ignore[arg-type]


# --- a language model on your own data ----------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
def test_two_by_two_languages_judged_by_the_targets_own_reward_model(
    runner: Runner, tiny_folder: Path, tmp_path: Path, feedback: str
) -> None:
    task, rm = own(tmp_path, feedback), SameAsPolicy(training=SHORT)
    for source in ("en", "tr"):
        for target in ("en", "tr"):
            asked = experiment(tiny_folder, source, target, task=task, judge="target_rm", rm=rm, sft=SHORT)
            stage, folder = runner.cell(asked)
            items = read(folder / "items.json")
            assert len(items["win"]) == 4 and all(0 <= win <= 1 for win in items["win"])
            held_out = read(runner.folder(stage.parents["score"]) / "heldout.json")
            assert len(held_out["group"]) == (8 if feedback == "pointwise" else 4)
            assert ("label" in held_out) == (feedback == "pointwise")


@pytest.mark.parametrize(
    ("feedback", "rm", "tested"),
    [("pointwise", FrozenLM(), 0), ("pairwise", BagOfWords(), 0), ("pointwise", BagOfWords(), 4)],
    ids=["no ratings", "no pairs", "ratings to test on alone"],
)
def test_a_target_without_feedback_is_judged_by_another_languages_reward_model(
    runner: Runner, tiny_folder: Path, tmp_path: Path, feedback: str, rm: RewardModel, tested: int
) -> None:
    own(tmp_path, feedback)
    jsonl(tmp_path / "vi.jsonl", [{"lang": "vi", "prompt": f"asked {n}", "response": f"said {n}"} for n in range(40)])
    if tested:
        jsonl(tmp_path / "vi_rated.jsonl", [row | {"split": "test"} for row in rated("vi", tested)])
    task = Files(path=str(tmp_path / "*.jsonl"), languages=(), feedback=feedback)  # type: ignore[arg-type]
    judge = TargetRM(lang=languages("en")[0], half=True)
    stage, folder = runner.cell(experiment(tiny_folder, "tr", "vi", task=task, judge=judge, rm=rm, sft=SHORT))
    assert all(0 <= win <= 1 for win in read(folder / "items.json")["win"])
    scores = runner.folder(stage.parents["score"])
    assert (read_heldout(scores) is not None) == bool(tested)
    assert "length_rule" not in read(scores / "heldout.json") or not read(scores / "heldout.json")["length_rule"]


def test_what_the_data_lacks_is_said_before_anything_runs(tiny_folder: Path, tmp_path: Path) -> None:
    def lacking(task: Files, sentence: str, source: str = "en") -> None:
        refused(experiment(tiny_folder, source, "en", task=task, judge="target_rm", rm=BagOfWords()), sentence)

    pairs = msgspec.structs.replace(own(tmp_path, "pairwise"), feedback="pointwise")
    lacking(pairs, r"task=files has no ratings .* Type task\.feedback=pairwise")
    scored = [{("score" if key == "rating" else key): value for key, value in row.items()} for row in rated("en", 40)]
    other = Files(path=str(jsonl(tmp_path / "scored.jsonl", scored)), languages=())
    lacking(other, r"task=files has no ratings .* column `rating`.*task\.rating_field=score")
    few = Files(path=str(jsonl(tmp_path / "few.jsonl", rated("en", 40) + rated("tr", 6))), languages=())
    lacking(few, r"tr has 1 documents with ratings in split validation, of 6", source="tr")


@pytest.mark.parametrize(("feedback", "side"), [("pointwise", "right"), ("pairwise", "left")])
def test_what_is_cut_goes_by_whether_prompts_are_chats(
    tiny_folder: Path, tmp_path: Path, feedback: str, side: str
) -> None:
    task = own(tmp_path, feedback)
    for rm, role in ((SameAsPolicy(training=SHORT), "reward"), (FrozenLM(), "features")):
        score = judge_stage(experiment(tiny_folder, task=task, judge="target_rm", rm=rm)).parents["score"]
        assert score.parents[role].spec["truncation_side"] == score.parents["pool"].spec["truncation_side"] == side


def test_a_frozen_lm_reads_within_its_limits(runner: Runner, tiny_folder: Path, tmp_path: Path) -> None:
    task = own(tmp_path, "pairwise")
    asked = [
        experiment(tiny_folder, task=task, judge="target_rm", rm=FrozenLM(max_prompt_tokens=9, truncation_side=side))
        for side in (None, "left", "right")  # None: the task's, which are chats
    ]
    found = [judge_stage(one).parents["score"].parents["features"] for one in asked]
    assert found[0].spec == found[1].spec and found[0].spec["max_prompt_tokens"] == 9
    rows = [np.load(runner.folder(stage) / "heldout" / "000000.npz") for stage in found[1:]]
    assert not all(np.array_equal(rows[0][name], rows[1][name]) for name in rows[0].files)


def test_without_steps_no_demonstrations_are_asked_for(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [row | {"rating": 1 + n % 3} for n, row in enumerate(rated("en", 40) + rated("tr", 40))]
    rows = [row if row["lang"] == "en" else row | {"rating": 1 + row["rating"] % 2} for row in rows]
    task = Files(path=str(jsonl(tmp_path / "f.jsonl", rows)), languages=(), rating_scale=(1.0, 5.0))
    asked = {"task": task, "judge": "target_rm", "rm": SameAsPolicy(training=SHORT)}
    refused(experiment(tiny_folder, "en", "tr", **asked, sft=SHORT), r"tr has no demonstrations: .*type sft\.steps=0")
    stage = judge_stage(experiment(tiny_folder, "en", "tr", **asked, sft=msgspec.structs.replace(SHORT, steps=0)))
    assert "sft" not in {one.kind for one in every(stage).values()}


# --- recorded systems -----------------------------------------------------------------------------------------


def in_a_store(root: Path, cell: Stage) -> CellSamples:
    """The cell's samples, from a store that has been given what the runner made."""
    runner, store, who = Runner(root.parents[1] / "stages" / root.name), Store(root), this_process()
    run = Run(1.0, 1.0, "2026-01-01T00:00:00+00:00", 1, who, 1, "cpu", None, {})
    for stage in (cell, *cell.parents.values()):
        folder = store.begin(stage.kind, stage.key, who)
        shutil.copytree(runner.folder(stage), folder, dirs_exist_ok=True)
        store.publish(Sheet.of(stage), stage.key, folder, run)
    refs = {role: Ref(stage.kind, stage.key) for role, stage in cell.parents.items()}
    return SampleReader(store).cell(Ref(cell.kind, cell.key), refs)


@pytest.mark.parametrize(
    "rm",
    [Untrained("length"), BagOfWords(), Untrained("random"), BagOfWords(permutation=1), Untrained("human")],
    ids=["length", "bag_of_words", "random", "permuted", "human"],
)
def test_names_of_systems_decide_nothing(tmp_path: Path, rm: RewardModel) -> None:
    """Ties went to the first system by name, so that renaming moved win rates by up to 2.3 points."""
    random, folded, shown = np.random.default_rng(0), [], []
    facts = random.integers(0, 3, (60, 5, 2)).tolist()  # many responses of one length, few of them alike
    for names in ("abcde", "edcba", "cdeab"):
        rows = [
            {"id": f"{d:03}", "lang": lang, "prompt": f"document {d}", "system": name}
            | {"response": " ".join(["word", *["more"] * length]), "rating": rating}
            for lang in ("en", "tr")
            for d, responses in enumerate(facts)
            for name, (length, rating) in zip(names, responses, strict=True)
        ]
        task = Files(path=str(jsonl(tmp_path / f"{names}.jsonl", rows)), languages=(), feedback="pointwise")
        asked = experiment(tmp_path, "en", "tr", task=task, judge="human", rm=rm, policy=Recorded())
        stage, folder = Runner(tmp_path / "stages" / names).cell(asked)
        assert stage.spec["ties"] == "mean"
        items = read(folder / "items.json")
        columns = [items[name] for name in ("win", "quality", "reward", "length")]
        folded.append(np.vstack([*columns, array(folder / "curve.npy").T]))
        if rm.name == "human":  # the ceiling, also where people rated one text of two systems differently
            assert items["quality"] == [max(rating for _, rating in responses) for responses in facts]
        judged = in_a_store(tmp_path / "store" / names, stage)
        assert max(map(len, judged.all().places)) > 1  # what measures of one's own are of
        for number, prompt in enumerate(items["prompt"][:9]):  # and what people are shown of them
            points = [point for one in judged.each(prompt) for point in (one.points or {}).values()]
            assert np.mean(points) == pytest.approx(items["win"][number])
        shown.append([(one.response, round(one.rewards[0] or 0, 9)) for one in map(judged.read, items["prompt"])])
    assert len(set(folded[0][0])) > 3  # not all of them level
    few = experiment(tmp_path, "en", "tr", task=task, judge="human", rm=rm, policy=Recorded(), optimizer=BestOfN(2))
    refused(few, r"optimizer\.n=2 would pick among the first 2 systems by name")
    assert shown[0] == shown[1] == shown[2]  # on sheets one of those that tie
    for renamed in folded[1:]:
        np.testing.assert_allclose(renamed, folded[0], atol=1e-9)


def test_systems_with_the_same_ratings_tie_in_whatever_order_they_are(tmp_path: Path) -> None:
    """Sums of the same numbers in another order differ in a float's last digit, and there systems were told apart."""
    random = np.random.default_rng(1)
    ratings = random.permuted(np.tile(random.uniform(size=40), (4, 1)), axis=1).T  # (40 prompts, 4 systems)
    heads = REWARDS.of(SystemIdentity()).heads
    assert heads is not None
    fold = Fold([np.tile(np.eye(4), (40, 1))], ratings.ravel(), lambda: ([], lambda blocks: ridge.Linear(blocks[0])))
    head, _ = heads.fit(SystemIdentity(), fold)
    assert len(set(head.weight.tolist())) == 1 and head.weight[0] == pytest.approx(ratings[:, 0].mean())


# --- a reward model of one task on another's responses ------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> MRewardBench:
    folder = tmp_path_factory.mktemp("bench")
    return MRewardBench(path=str(benchmark(folder, "eng_Latn", "tur_Latn", "deu_Latn")))


def elsewhere(checkpoint: Path, bench: MRewardBench, learned: Any, rm: RewardModel, **changed: Any) -> Experiment:
    sft = changed.pop("sft", SHORT)
    return experiment(checkpoint, **changed, task=bench, reward_task=learned, judge="human", rm=rm, sft=sft)


@pytest.mark.parametrize(
    ("rm", "kinds"),
    [
        (BagOfWords(), {"recorded", "reward", "score", "gold", "judge"}),
        (FrozenLM(), {"recorded", "base", "features", "reward", "score", "gold", "judge"}),
        (SameAsPolicy(training=SHORT), {"recorded", "base", "sft", "reward", "score", "gold", "judge"}),
    ],
    ids=["bag_of_words", "frozen_lm", "same_as_policy"],
)
def test_every_backbone_scores_recorded_responses_of_another_task(
    runner: Runner, tiny_folder: Path, tmp_path: Path, bench: MRewardBench, rm: RewardModel, kinds: set[str]
) -> None:
    learned = own(tmp_path, "pointwise")
    stage, folder = runner.cell(elsewhere(tiny_folder, bench, learned, rm, source="en", target="tr"))
    assert {one.kind for one in every(stage).values()} == kinds
    scores = array(runner.folder(stage.parents["score"]) / "pool.npy")
    assert scores.shape == (23, 2) and np.isfinite(scores).all()
    assert len(read(runner.folder(stage.parents["score"]) / "heldout.json")["chosen"]) == 23
    assert len(read(folder / "pairs.json")["correct"]) == 23
    subsets = read(runner.folder(stage.parents["pool"]) / "subsets.json")
    assert set(subsets["category"]) == {"Chat", "Chat Hard", "Safety", "Reasoning"}


def test_encoders_and_published_models_score_them_without_a_policy(
    runner: Runner, tmp_path: Path, bench: MRewardBench
) -> None:
    encoder = str(families.saved_encoder(tmp_path / "xlm", "xlm_roberta"))
    published = str(families.saved_classifier(tmp_path / "classifier", "qwen3"))
    limits = {"max_prompt_tokens": 352, "max_response_tokens": 156}
    backbones: list[RewardModel] = [
        Encoder(encoder, training=SHORT, **limits),
        SentenceEncoder(encoder),
        FrozenLM(checkpoint="packaged"),
        Classifier(published),
    ]
    learned = own(tmp_path, "pairwise")
    for rm in backbones:
        asked = elsewhere(tmp_path, bench, learned, rm, source="en+tr", target="de", policy=Recorded())
        stage, _ = runner.cell(asked)
        scores = array(runner.folder(stage.parents["score"]) / "pool.npy")
        assert scores.shape == (23, 2) and np.isfinite(scores).all() and np.ptp(scores) > 0
        assert ("reward" in stage.parents["score"].parents) == (not isinstance(rm, Classifier))


def test_a_reward_model_of_the_embedded_world_scores_your_own_files(
    runner: Runner, tiny_folder: Path, tmp_path: Path
) -> None:
    task = own(tmp_path, "pointwise")
    learned = {"reward_task": TASK, "rm": BagOfWords(), "policy": Recorded()}
    stage, folder = runner.cell(experiment(tiny_folder, "en", "tr", task=task, judge="human", **learned))
    assert len(read(folder / "items.json")["win"]) == 40
    assert "folds" not in stage.parents["score"].parents["reward"].spec


def test_the_reward_model_is_trained_once_for_all_targets_and_knows_nothing_of_the_benchmark(
    tiny_folder: Path, tmp_path: Path, bench: MRewardBench
) -> None:
    learned = own(tmp_path, "pointwise")
    axes = {"rm_backbone": "bag_of_words", "source_lang": "en"}
    asked = [
        elsewhere(tiny_folder, bench, learned, BagOfWords(), source="en", target=to, axes=axes | {"target_lang": to})
        for to in ("en", "tr", "de")
    ]
    cells = cells_from(asked, controls=True)
    rewards = {one.key: one for cell in cells for one in every(cell.stage).values() if one.kind == "reward"}
    assert len(rewards) == 6  # the true labels and five permutations
    assert all(one.spec["task"]["name"] == "files" for one in rewards.values())
    names = {str(cell.axes["rm_backbone"]) for cell in cells}
    assert {"random", "length", "human", "likelihood_base"} < names


@pytest.mark.parametrize(
    ("rm", "learned", "sentence"),
    [
        (Untrained("likelihood_sft"), TASK, r"does not go with recorded responses\. Use likelihood_base"),
        (SystemIdentity(), TASK, r"rm_backbone=system knows the systems of one task only\. Leave reward_task out"),
        (SameAsPolicy(), RELEASED, r"same_as_policy cannot learn from reward_task=released: it has neither"),
        (BagOfWords(), None, r"m_rewardbench is for evaluation only.*reward_task=NAME \(reward_task=micro"),
    ],
)
def test_what_cannot_be_learned_elsewhere_is_refused(
    tiny_folder: Path, bench: MRewardBench, rm: RewardModel, learned: Any, sentence: str
) -> None:
    refused(elsewhere(tiny_folder, bench, learned, rm, source="en", target="tr"), sentence)


def test_dropped_pairs_are_said(bench: MRewardBench) -> None:
    notes = m_rewardbench.check(bench, None, [], ["en", "tr"])
    assert notes == [f"{lang}: 1 pairs dropped, chosen == rejected (row 24)." for lang in ("en", "tr")]
