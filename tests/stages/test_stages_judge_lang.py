"""judge=target_rm with judge.lang: whose reward model judges, what that changes in the plan, and what it may not."""

import msgspec
import pytest
from small_grid import experiment, judged_by, languages

from xling.config import BagOfWords, Gold, TargetRM
from xling.errors import ConfigError
from xling.stages.dag import judge_stage


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
