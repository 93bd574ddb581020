"""The paper's two tasks through every stage: small files in the original layouts, a tiny model, 2 x 2 languages."""

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from oasst_files import tree, write_hub
from seahorse_files import plain_rows, write_corpora, write_mirror, write_ratings
from small_grid import BUDGET, Runner, array, changed, experiment, read
from test_stages_dag import by_kind

from xling.config.common import Language, Template
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.grid.stage import Stage
from xling.judges.human import Settings as Human
from xling.planning.dag import judge_stage
from xling.planning.refusals import check
from xling.planning.specs import reward
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.networks import load_reward
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import task_module
from xling.tasks.render import with_facts
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.seahorse_files import CORPORA

FACTS = {
    "de": Language("de", "German", "Deutsch", "Latn"),
    "en": Language("en", "English", "English", "Latn"),
    "es": Language("es", "Spanish", "español", "Latn"),
}
TEMPLATE = Template(policy="Answer in {language}.\n{text}")


@pytest.fixture(scope="session")
def seahorse_task(tmp_path_factory: pytest.TempPathFactory) -> Seahorse:
    folder = tmp_path_factory.mktemp("seahorse")
    write_ratings(folder / "ratings", plain_rows(("de", "en"), CORPORA))
    write_corpora(folder / "articles", ("de", "en"), CORPORA)
    paths = str(folder / "ratings"), str(folder / "articles")
    return Seahorse(*paths, ("de", "en"), max_prompts=2, template=TEMPLATE)


@pytest.fixture(scope="session")
def oasst_task(tmp_path_factory: pytest.TempPathFactory) -> Oasst:
    roots = [[tree(lang, n) for lang in ("en", "es") for n in numbers] for numbers in (range(6), (6, 7))]
    folder = write_hub(tmp_path_factory.mktemp("oasst") / "hub", *roots)
    return Oasst(str(folder), ("en", "es"), template=TEMPLATE)


@pytest.fixture(params=["seahorse_task", "oasst_task"])
def task(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def cell(checkpoint: Path, task: Any, source: str, target: str, **settings: Any) -> Experiment:
    asked = experiment(checkpoint, judge="target_rm", **settings)
    langs = {"source_langs": (FACTS[source],), "target_lang": FACTS[target]}
    return msgspec.structs.replace(asked, task=task, **langs)


def filled(task: Any) -> Any:
    return with_facts(task, FACTS.values())


def walk(stage: Stage) -> dict[str, Stage]:
    found = {stage.key: stage}
    for parent in stage.parents.values():
        found |= walk(parent)
    return found


def test_a_grid_runs_from_files_to_verdicts(runner: Runner, tiny_folder: Path, task: Any) -> None:
    stages: dict[str, Stage] = {}
    for source, target in itertools.product(task.languages, task.languages):
        stage, folder = runner.cell(cell(tiny_folder, task, source, target))
        stages |= walk(stage)
        items = read(folder / "items.json")
        assert items["prompt"] == [p.id for p in task_module(task).prompts(filled(task), target, "test")]
        assert all(0 <= win <= 1 for win in items["win"])
        heldout = read(runner.folder(stage.parents["score"]) / "heldout.json")
        assert heldout.keys() >= ({"label", "length_rule"} if isinstance(task, Seahorse) else {"chosen", "rejected"})
    kinds = [stage.kind for stage in stages.values()]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"base": 1, "sft": 2, "reward": 2, "pool": 2, "baseline": 2, "score": 4, "judge": 4}


def test_the_policy_reads_the_instruction_and_the_reward_model_does_not(
    runner: Runner, tiny_folder: Path, task: Any
) -> None:
    """What was scored is the score of the bare text."""
    lang = task.languages[0]
    stage, _ = runner.cell(cell(tiny_folder, task, lang, lang))
    score = stage.parents["score"]
    prompts = task_module(task).prompts(filled(task), lang, "test")
    assert all(p.text.startswith(f"Answer in {FACTS[lang].name}.\n") and p.content in p.text for p in prompts)
    drawn = runner.folder(stage.parents["pool"]) / "samples.jsonl"
    responses = [json.loads(line)["responses"] for line in drawn.read_text().splitlines()]
    model = load_reward(runner.folder(score.parents["reward"]))
    expected = model.score([p.reward_text for p in prompts], responses)
    np.testing.assert_array_equal(array(runner.folder(score) / "pool.npy"), expected)


def test_seahorse_as_pairs_with_a_bag_of_words(runner: Runner, tiny_folder: Path, seahorse_task: Seahorse) -> None:
    asked = changed(cell(tiny_folder, seahorse_task, "en", "de", rm=BagOfWords()), "task", feedback="pairwise")
    stage, _ = runner.cell(asked)
    assert "chosen" in read(runner.folder(stage.parents["score"]) / "heldout.json")


# --- keys ---------------------------------------------------------------------------------------------------


def test_the_policys_instruction_is_in_no_key_of_what_only_reward_models_read(no_model: Path, task: Any) -> None:
    source, target = task.languages
    asked = cell(no_model, task, source, target, rm=BagOfWords())
    other = changed(asked, "task", template=Template(policy="Reply in {native_language}: {text}"))
    plain, instructed = by_kind(asked), by_kind(other)
    assert plain["reward"] == instructed["reward"]
    assert not plain["sft"] & instructed["sft"] and not plain["pool"] & instructed["pool"]


def test_a_languages_facts_are_in_the_keys_of_what_reads_that_language(no_model: Path, task: Any) -> None:
    source, target = task.languages
    asked = cell(no_model, task, source, target)
    renamed = msgspec.structs.replace(FACTS[source], name="Renamed")
    other = msgspec.structs.replace(asked, source_langs=(renamed,))
    stage, changed_stage = judge_stage(asked), judge_stage(other)
    assert stage.parents["pool"].key == changed_stage.parents["pool"].key
    trained, other_trained = (one.parents["score"].parents["reward"] for one in (stage, changed_stage))
    assert trained.parents["init"].key != other_trained.parents["init"].key
    assert trained.spec == other_trained.spec  # its own data names no language


def test_a_frozen_model_cuts_too_long_a_prompt_where_the_task_says(no_model: Path, task: Any) -> None:
    stage = judge_stage(cell(no_model, task, *task.languages, rm=FrozenLM()))
    found = [one.spec["truncation_side"] for one in walk(stage).values() if one.kind == "features"]
    assert set(found) == {task_module(task).truncation_side(task)}


def test_a_template_that_is_none_is_refused_while_planning(no_model: Path, task: Any) -> None:
    asked = changed(cell(no_model, task, *task.languages), "task", template=Template(policy="{document}"))
    with pytest.raises(ConfigError, match=r"task\.template\.policy has the unknown placeholder \{document\}"):
        judge_stage(asked)


def test_what_the_tasks_do_not_have_is_refused(no_model: Path, seahorse_task: Seahorse, oasst_task: Oasst) -> None:
    gold = msgspec.structs.replace(cell(no_model, seahorse_task, "de", "en"), judge=experiment(no_model).judge)
    with pytest.raises(ConfigError, match="judge=gold needs exact quality"):
        check(gold, gold.rm_backbone)
    people = msgspec.structs.replace(gold, judge=Human())
    with pytest.raises(ConfigError, match=r"judge=human needs recorded ratings .* Use judge=target_rm"):
        check(people, people.rm_backbone)
    rated = changed(cell(no_model, oasst_task, "en", "es"), "rm_backbone", objective="pointwise")
    with pytest.raises(ConfigError, match=r"task=oasst has no ratings .*Type task.feedback=pairwise"):
        check(rated, rated.rm_backbone)


def test_the_mirror_alone_trains_reward_models_and_asks_for_articles(
    no_model: Path, tmp_path: Path, runner: Runner, tiny_folder: Path
) -> None:
    write_mirror(tmp_path, ("de", "en"), plain_rows(("de", "en"), CORPORA))
    mirror = Seahorse(str(tmp_path), languages=("de", "en"))
    with pytest.raises(ConfigError, match=r"type task\.articles=PATH"):
        judge_stage(cell(no_model, mirror, "de", "en", sft=BUDGET, rm=BagOfWords()))
    policy = experiment(tiny_folder).policy
    runner.folder(reward(mirror, ("de",), policy, BUDGET, BagOfWords(), 0))
