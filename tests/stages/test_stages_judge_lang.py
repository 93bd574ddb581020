"""judge=target_rm with judge.lang: whose reward model judges, what that changes in the plan, and what it may not."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_grid import BUDGET, TASK, array, experiment, judged_by, languages

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from own_files import jsonl, paired, rated

from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.judges.gold import Settings as Gold
from xling.judges.target_rm import Settings as TargetRM
from xling.models import ridge
from xling.models.ridge import half_of
from xling.planning.dag import judge_stage
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.stages.features import all_features
from xling.stages.reward import RewardSpec, all_feedback, feedback
from xling.tasks.files import Settings as Files

ROOT = Path(__file__).parents[2]


def by(code, rm_backbone=None):
    return TargetRM(rm_backbone=rm_backbone, lang=languages(code)[0] if code else None)


def test_the_named_languages_reward_model_scores_the_same_samples(no_model):
    own, de = (judge_stage(judged_by(no_model, by(code))) for code in (None, "de"))
    assert own.parents["verdict"].parents["reward"].label.startswith("reward[tr]")
    assert de.parents["verdict"].parents["reward"].label.startswith("reward[de]")
    for role in ("pool", "baseline", "score"):
        assert own.parents[role].key == de.parents[role].key
    assert own.key != de.key


def test_null_and_the_target_itself_are_the_same_cell_as_ever(no_model):
    asked = experiment(no_model, "en", "tr", rm=BagOfWords(), judge="target_rm")
    keys = {judge_stage(one).key for one in (asked, judged_by(no_model, by(None)), judged_by(no_model, by("tr")))}
    assert len(keys) == 1


def test_at_home_the_judge_is_the_cell_of_that_source(no_model):
    """Foreign reward models score what they would score anyway: nothing is trained or scored twice."""
    home = judge_stage(judged_by(no_model, by("en"), source="tr"))
    foreign = judge_stage(judged_by(no_model, by("en"), source="en"))
    assert home.parents["verdict"].key == foreign.parents["score"].key


def test_one_kind_of_reward_model_may_judge_all_rows(no_model):
    judge = judge_stage(judged_by(no_model, by("de", BagOfWords()), rm=BagOfWords()))
    assert judge.parents["verdict"].parents["reward"].label.startswith("reward[de]")


def test_a_language_that_the_task_lacks_is_refused(no_model):
    with pytest.raises(ConfigError, match=r"judge.lang=xx: the task has no 'xx'. It has de, .* judge.lang=null"):
        judge_stage(judged_by(no_model, by("xx")))


def test_another_judge_has_no_such_setting():
    with pytest.raises(msgspec.ValidationError, match="unknown field `lang`"):
        msgspec.convert({"name": "gold", "lang": None}, Gold)


# --- the cell's own reward model, and judges that are not it --------------------------------------------------


@pytest.mark.parametrize("rm", [BagOfWords(), SameAsPolicy(training=BUDGET)])
def test_at_home_the_judge_is_the_very_reward_model_that_picks(no_model, rm):
    home = judge_stage(judged_by(no_model, by(None), source="tr", rm=rm))
    abroad = judge_stage(judged_by(no_model, by(None), source="en", rm=rm))
    assert home.parents["verdict"].key == home.parents["score"].key  # which the fold marks (judges_its_own)
    assert abroad.parents["verdict"].key != abroad.parents["score"].key


@pytest.mark.parametrize("judge", [{"half": True}, {"seed": 7}])
@pytest.mark.parametrize("source", ["tr", "en"])
def test_another_judge_is_another_reward_model_on_the_same_samples(no_model, judge, source):
    rm = SameAsPolicy(training=BUDGET)
    cell = judge_stage(judged_by(no_model, TargetRM(**judge), source=source, rm=rm))
    assert cell.parents["verdict"].parents["reward"].key != cell.parents["score"].parents["reward"].key
    for role in ("pool", "baseline"):
        assert cell.parents["verdict"].parents[role].key == cell.parents["score"].parents[role].key


def test_with_halves_cell_and_judge_learn_from_other_documents(no_model):
    cell = judge_stage(judged_by(no_model, TargetRM(half=True), source="tr"))
    rewards = [cell.parents[role].parents["reward"] for role in ("score", "verdict")]
    assert [stage.spec["half"] for stage in rewards] == ["first", "second"]
    assert [stage.label for stage in rewards] == ["reward[tr] first half", "reward[tr] second half"]
    plain = judge_stage(judged_by(no_model, by(None), source="tr")).parents["score"].parents["reward"]
    assert "half" not in plain.spec


@pytest.mark.parametrize("objective", ["pairwise", "pointwise"])
@pytest.mark.parametrize("kind", ["bag_of_words", "frozen_lm", "same_as_policy"])
def test_halves_share_no_document_and_miss_none(tiny_folder, runner, objective, kind):
    """By the feedback that each training reads; and each half's model is trained, and is another one."""
    rm = {"bag_of_words": BagOfWords(), "frozen_lm": FrozenLM(), "same_as_policy": SameAsPolicy(training=BUDGET)}[kind]
    task = msgspec.structs.replace(TASK, feedback=objective)
    cell = judge_stage(judged_by(tiny_folder, TargetRM(half=True), source="tr", rm=rm, task=task))
    seen, scores = [], []
    for role in ("score", "verdict"):
        stage = cell.parents[role].parents["reward"]
        folder = runner.folder(stage)
        context = Context(
            stage.spec, {name: runner.folder(up) for name, up in stage.parents.items()}, folder, folder, print
        )
        spec = msgspec.convert(stage.spec, RewardSpec)
        seen.append([(item.prompt.group, item) for item in feedback(context, spec, "train", 0)])
        scores.append(array(runner.folder(cell.parents[role]) / "pool.npy"))
    everything = [*seen[0], *seen[1]]
    assert {group for group, _ in seen[0]}.isdisjoint(group for group, _ in seen[1])
    assert len(everything) == getattr(TASK, "pairs" if objective == "pairwise" else "ratings")
    assert min(map(len, seen)) > len(everything) / 4
    assert not np.array_equal(*scores)


def test_a_frozen_head_reads_the_features_of_its_own_half(tiny_folder, runner):
    """The head is the one that is fitted by hand on the rows of that half."""
    cell = judge_stage(judged_by(tiny_folder, TargetRM(half=True), source="tr", rm=FrozenLM()))
    stage = cell.parents["verdict"].parents["reward"]
    spec = msgspec.convert(stage.spec, RewardSpec)
    context = Context(stage.spec, {}, Path(), Path(), print)
    items = all_feedback(context, spec, "train", 0)
    rows = [n for n, item in enumerate(items) if half_of(item.prompt.group) == "second"]
    blocks = [block[rows] for block in all_features([runner.folder(stage.parents["features_tr"]) / "feedback"])]
    labels = np.array([2 * items[n].label - 1 for n in rows])
    groups = [items[n].prompt.group for n in rows]
    head = ridge.fit_whitened(blocks, lambda parts: ridge.fit(parts, labels, groups))
    with np.load(runner.folder(stage) / "head.npz") as stored:
        np.testing.assert_allclose(stored["weight"], head.weight, rtol=1e-6)


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
def test_a_half_with_too_little_is_refused_while_planning(no_model, tmp_path, feedback):
    """Else a judge of one document, or of ratings that are all the same, calls everything a tie."""
    rows = (rated if feedback == "pointwise" else paired)("tr", 80)
    group = "id" if feedback == "pointwise" else "tree"
    named = {name: str(n) for n, name in enumerate(dict.fromkeys(row[group] for row in rows))}
    here = [str(n) for n in range(1000) if half_of(str(n)) == "second"]
    rows = [row | {"group": here[int(named[row[group]])]} for row in rows]
    task = Files(str(jsonl(tmp_path / "few.jsonl", rows)), (), feedback=feedback)
    with pytest.raises(ConfigError, match=r"leaves 0 documents .* in split train of tr to the first half.*half=false"):
        judge_stage(judged_by(no_model, TargetRM(half=True), source="tr", task=task))


def test_a_half_of_equal_ratings_is_refused_while_planning(no_model, tmp_path):
    rows = [row | {"rating": int(half_of(row["id"]) == "first" and row["rating"])} for row in rated("tr", 60)]
    rows = [row | {"group": row["id"]} for row in rows]
    task = Files(str(jsonl(tmp_path / "flat.jsonl", rows)), ())
    with pytest.raises(ConfigError, match="all ratings of tr in split train that the second half has are the same"):
        judge_stage(judged_by(no_model, TargetRM(half=True), source="tr", task=task))


def test_a_seed_that_decides_nothing_makes_no_other_judge(no_model):
    with pytest.raises(ConfigError, match=r"judge.seed=7 would make the same judge again: rm_backbone=bag_of_words"):
        judge_stage(judged_by(no_model, TargetRM(seed=7), source="tr"))


def test_the_plan_says_which_cells_are_no_evidence(tmp_path, capsys):
    """By the real command line: at home, and nowhere with judge.half=true."""
    asked = ["task=micro_tiny", "policy=micro_tiny", "rm_backbone=bag_of_words", "judge=target_rm", "dry_run=true"]
    for half, expected in (("false", True), ("true", False)):
        command = [*asked, f"judge.half={half}", "source_lang=de,en", "target_lang=de,en", f"root={tmp_path}"]
        done = subprocess.run([sys.executable, "launch.py", *command], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert ("2 cells are judged by the very reward model" in said) is expected
