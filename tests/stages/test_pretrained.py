"""Settings for pretrained models, and the warning where one meets the packaged micro model's."""

import shutil
from pathlib import Path

import pytest
from families import saved

import xling
from xling.jsonfiles import read_json
from xling.models.hub import BASE_FOLDER
from xling.planning.pretrained import is_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that is not the micro model's."""
    return str(saved(tmp_path_factory.mktemp("qwen3"), "qwen3"))


def said(*overrides: str) -> str:
    """What the plan of a command warns of about settings."""
    return " ".join(one for one in xling.plan(*overrides).warnings if "do not suit" in one)


def test_a_pretrained_model_with_the_micro_models_settings_is_said_with_what_to_type(folder: str) -> None:
    own = f"policy.checkpoint={folder}"
    text = said(own, "optimizer=best_of_n,ppo,dpo")
    assert text.startswith(f"{own}: ")
    assert "policy.max_new_tokens=32 (suited: 512)" in text and "optimizer.value_learning_rate=0.0005" in text
    line = (
        "type policy=pretrained sft=pretrained rm_backbone=same_as_policy_pretrained "
        "optimizer=ppo_pretrained,dpo_pretrained."
    )
    assert line in text
    assert said(own, "optimizer=ppo_pretrained,dpo_pretrained", *line.split()[1:4]) == ""
    assert said(own, "experiment=pretrained", "optimizer=best_of_n,grpo_pretrained") == ""


def test_adapters_take_larger_steps_than_all_weights(folder: str) -> None:
    asked = (f"policy.checkpoint={folder}", "experiment=pretrained", "policy.tuning=lora", "optimizer=rloo_pretrained")
    text = said(*asked)
    assert "sft.learning_rate=1e-05 (suited: 0.0001)" in text and "rm_backbone" not in text
    assert text.endswith("counts as meant.") and "sft.learning_rate=0.0001 optimizer.learning_rate=0.0001. " in text
    assert said(*asked, "sft.learning_rate=0.0001", "optimizer.learning_rate=0.0001") == ""


def test_what_is_typed_by_its_name_is_meant(folder: str) -> None:
    asked = (f"policy.checkpoint={folder}", "rm_backbone=frozen_lm", "sft.steps=0", "policy.temperature=0.8")
    assert "policy.max_new_tokens" in said(*asked) and "temperature" not in said(*asked)
    assert said(*asked, "policy.max_new_tokens=32") == ""


def test_reward_models_of_their_own_checkpoint(folder: str) -> None:
    """The policy is the micro model, and a reward model starts elsewhere; a head on a frozen trunk is a new one."""
    own = f"rm_backbone.init={folder}"
    assert said(own).startswith(f"{own}: ") and "sft" not in said(own)
    assert said(own, "rm_backbone.tuning=frozen") == said(own, "rm_backbone=same_as_policy_paper") == said() == ""
    judging = said(f"policy.checkpoint={folder}", "experiment=pretrained", "judge=target_rm", "judge.half=true",
                   "judge/rm_backbone=same_as_policy")  # fmt: skip
    assert "judge/rm_backbone=same_as_policy_pretrained" in judging


def test_the_papers_settings_are_no_micro_models(folder: str) -> None:
    chosen = ("policy=mt5_xl", "sft=paper", "rm_backbone=same_as_policy_paper", "optimizer=best_of_n,ppo_paper")
    assert said(f"policy.checkpoint={folder}", *chosen) == ""


def test_a_model_trained_from_the_micro_model_is_none_that_can_be_ruined(tmp_path: Path) -> None:
    shutil.copytree(BASE_FOLDER, tmp_path / "trained")
    assert not is_pretrained(str(tmp_path / "trained"), None)
    assert said(f"policy.checkpoint={tmp_path / 'trained'}") == ""


def test_more_tokens_than_a_model_was_trained_on_are_said(folder: str, tmp_path: Path) -> None:
    def past(checkpoint: str, *more: str) -> list[str]:
        asked = (f"policy.checkpoint={checkpoint}", "rm_backbone=bag_of_words", "sft.steps=0", *more)
        return [one for one in xling.plan(*asked).warnings if "was trained on" in one]

    most = read_json(Path(folder) / "config.json")["max_position_embeddings"]
    assert past(folder, f"policy.max_prompt_tokens={most - 32}") == []
    [text] = past(folder, f"policy.max_prompt_tokens={most - 31}")
    assert text.startswith(f"policy.checkpoint={folder}: it was trained on {most} tokens")
    assert text.endswith(f"Type policy.max_prompt_tokens={most - 32}.")
    [text] = past(folder, f"policy.max_new_tokens={most}")
    assert text.endswith(f"policy.max_prompt_tokens={most // 2} policy.max_new_tokens={most - most // 2}.")
    assert past(str(saved(tmp_path, "mt5")), "policy.max_prompt_tokens=9000") == past("packaged") == []


def test_the_packaged_model_answers_in_its_own_world_alone(folder: str) -> None:
    def strange(*asked: str) -> list[str]:
        return [one for one in xling.plan(*asked).warnings if "the embedded world" in one]

    real = ("task=oasst", "judge=target_rm", "judge.half=true", "source_lang=en", "target_lang=es")
    [text] = strange(*real)
    assert text.startswith("task=oasst: ") and "type experiment=pretrained policy.checkpoint=FOLDER" in text
    assert strange() == strange(*real, "experiment=pretrained", f"policy.checkpoint={folder}") == []
