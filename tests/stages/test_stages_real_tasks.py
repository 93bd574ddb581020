"""The paper's tasks and people's judgements through every stage: small files in the original layouts, a tiny model."""

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from own_files import jsonl
from releases import rated
from seahorse_files import plain_rows, write_mirror
from small_grid import (
    BUDGET,
    FACTS,
    Runner,
    array,
    by_kind,
    changed,
    contents,
    every,
    experiment,
    kinds_that_differ,
    oasst,
    read,
    refused,
    seahorse,
)

from xling.config.common import Template
from xling.config.policies import Recorded
from xling.errors import ConfigError, DataError
from xling.experiment import Experiment
from xling.grid.stage import Stage
from xling.judges.human import Settings as Human
from xling.planning import dag
from xling.planning.dag import cells_from, judge_stage
from xling.planning.refusals import check
from xling.planning.specs import reward
from xling.results.specs import located, unchanged
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.likelihood import Settings as Likelihood
from xling.rewards.networks import load_reward
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.files import Settings as Files
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import task_module
from xling.tasks.released import Settings as Released
from xling.tasks.render import with_facts
from xling.tasks.rows import Columns
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.seahorse_files import CORPORA


@pytest.fixture(scope="session")
def seahorse_task(tmp_path_factory: pytest.TempPathFactory) -> Seahorse:
    return seahorse(tmp_path_factory.mktemp("seahorse"))


@pytest.fixture(scope="session")
def oasst_task(tmp_path_factory: pytest.TempPathFactory) -> Oasst:
    return oasst(tmp_path_factory.mktemp("oasst"))


@pytest.fixture(params=["seahorse_task", "oasst_task"])
def task(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def cell(checkpoint: Path, task: Any, source: str, target: str, **settings: Any) -> Experiment:
    asked = experiment(checkpoint, judge="target_rm", **settings)
    langs = {"source_langs": (FACTS[source],), "target_lang": FACTS[target]}
    return msgspec.structs.replace(asked, task=task, **langs)


def filled(task: Any) -> Any:
    return with_facts(task, FACTS.values())


def test_a_grid_runs_from_files_to_verdicts(runner: Runner, tiny_folder: Path, task: Any) -> None:
    stages: dict[str, Stage] = {}
    for source, target in itertools.product(task.languages, task.languages):
        stage, folder = runner.cell(cell(tiny_folder, task, source, target))
        stages |= every(stage)
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
    found = [one.spec["truncation_side"] for one in every(stage).values() if one.kind == "features"]
    assert set(found) == {task_module(task).truncation_side(task)}


def test_a_template_that_is_none_is_refused_while_planning(no_model: Path, task: Any) -> None:
    asked = changed(cell(no_model, task, *task.languages), "task", template=Template(policy="{document}"))
    refused(asked, r"task\.template\.policy has the unknown placeholder \{document\}")


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
    refused(cell(no_model, mirror, "de", "en", sft=BUDGET, rm=BagOfWords()), r"type task\.articles=PATH")
    policy = experiment(tiny_folder).policy
    runner.folder(reward(mirror, ("de",), policy, BUDGET, BagOfWords(), 0))


# --- people's judgements: keys of documents, criteria and pooled sources ------------------------------------


@pytest.fixture
def judgements(tmp_path: Path) -> Released:
    path = jsonl(tmp_path / "rows.jsonl", rated(["de", "en", "tr"]))
    return Released(path=str(path), layout="multi_summeval", languages=())


def people(task: Released, source: str = "de", rm: Any = None, **settings: Any) -> Experiment:
    made = experiment(Path("unused"), source, rm=rm or BagOfWords(), policy=Recorded(), judge="human")
    return msgspec.structs.replace(made, task=msgspec.structs.replace(task, **settings))


@pytest.mark.parametrize("settings", [{"documents": 10}, {"folds": 4}, {"seed": 7}])
def test_what_heads_learn_from_decides_no_data(judgements: Released, settings: dict[str, int]) -> None:
    differ = kinds_that_differ(people(judgements), people(judgements, **settings))
    assert differ == {"reward", "score", "judge"}  # neither `recorded` nor people's verdicts, `gold`


def test_texts_are_embedded_once_for_all_criteria(judgements: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag, "encoder_identity", lambda encoder: "an encoder")
    one, other = (people(judgements, rm=SentenceEncoder(), rating_field=name) for name in ("focus", "coverage"))
    assert kinds_that_differ(one, other) == {"recorded", "gold", "reward", "score", "judge"}  # not embed


def test_the_likelihood_under_a_model_of_yours_is_a_rival_of_recorded_responses(
    judgements: Released, tmp_path: Path, tiny_folder: Path
) -> None:
    """As under a policy with the same weights, and beside a head that reads with this model."""
    refused(
        people(judgements, rm=Untrained("likelihood_base")), r"rm_backbone=likelihood rm_backbone\.checkpoint=FOLDER"
    )
    refused(people(judgements, rm=Likelihood(str(tmp_path))), r"rm_backbone\.checkpoint=.*config\.json is missing")
    model, run = str(tiny_folder), Runner(tmp_path / "stages")
    axes = {"rm_backbone": "frozen_lm", "source_lang": "de", "target_lang": "tr"}
    heads = msgspec.structs.replace(people(judgements, rm=FrozenLM(checkpoint=model)), axes=axes)
    [rival] = [cell for cell in cells_from([heads], "rivals") if cell.axes["rm_backbone"] == "likelihood"]
    assert rival.axes["source_lang"] == "-"
    stage, _ = run.cell(people(judgements, rm=Likelihood(model)))
    assert stage.key == rival.stage.key
    policy = people(judgements, rm=Untrained("likelihood_base"))
    by_policy, _ = run.cell(msgspec.structs.replace(policy, policy=experiment(tiny_folder).policy))
    found, same = (array(run.folder(one.parents["score"]) / "pool.npy") for one in (stage, by_policy))
    assert np.array_equal(found, same) and np.ptp(found) > 0 and (found < 0).all()
    cut, _ = run.cell(people(judgements, rm=Likelihood(model, max_response_tokens=4)))
    assert read(run.folder(cut.parents["score"]) / "score.json")["recorded"]["cut_responses"] > 0


def test_texts_are_read_once_whatever_stands_beside_them(tmp_path: Path, tiny_folder: Path) -> None:
    """Columns and systems, ids, groups and ratings may be others: the same texts are the same data."""
    rows = [row | {"prompt": row["document"]} for row in rated(["de", "tr"], 8)]
    others = [
        {"lang": row["lang"], "text": row["prompt"], "said": row["response"], "who": "ba"["ab".index(row["system"])]}
        | {"nr": row["id"][::-1], "topic": row["id"][-1], "score": 0.1 * n}
        for n, row in enumerate(reversed(rows))
    ]
    columns = Columns(id="nr", prompt="text", response="said", system="who", group="topic")
    plain = Files(str(jsonl(tmp_path / "a.jsonl", rows)), ())
    named = Files(str(jsonl(tmp_path / "b.jsonl", others)), (), columns=columns, rating_field="score")
    rm = FrozenLM(features="both", checkpoint=str(tiny_folder))
    one, two = people(plain, rm=rm), people(named, rm=rm)
    assert kinds_that_differ(one, two) == {"recorded", "gold", "reward", "score", "judge"}  # not features
    run, again = Runner(tmp_path / "one"), Runner(tmp_path / "two")
    run.cell(one)
    read_twice = [stage for stage in every(judge_stage(two)).values() if stage.kind == "features"]
    assert {stage.label for stage in read_twice} == {"features[de] recorded", "features[tr] recorded"}
    for stage in read_twice:
        assert contents(again.folder(stage)) == contents(run.folder(stage))
    _, folder = run.cell(two)
    assert len(read(folder / "pairs.json")["group"]) == 8
    jsonl(tmp_path / "b.jsonl", [row | {"said": f"{row['said']}."} for row in others])
    with pytest.raises(DataError, match=r"b\.jsonl has changed since the grid was planned \(\w\w texts\)"):
        unchanged(located(read_twice[0].spec))


def test_pooled_sources_and_a_cap_end_to_end(judgements: Released, tmp_path: Path) -> None:
    run = Runner(tmp_path / "stages")
    for source, documents in (("de+en", None), ("de", None), ("de", 10)):
        _, folder = run.cell(people(judgements, source, documents=documents))
        correct = read(folder / "pairs.json")["correct"]
        assert len(correct) == 20 and np.mean(correct) > 0.9  # overlap with the document tells, in any language


def test_a_frozen_lm_reads_recorded_responses(judgements: Released, tmp_path: Path, tiny_folder: Path) -> None:
    refused(people(judgements, rm=FrozenLM()), r"rm_backbone.checkpoint=FOLDER")  # where no policy is
    run = Runner(tmp_path / "stages")
    for features in ("likelihood", "both"):
        rm = FrozenLM(features=features, checkpoint=str(tiny_folder))  # type: ignore[arg-type]
        stage, folder = run.cell(people(judgements, "de+en", rm))
        assert np.isfinite(np.load(run.folder(stage.parents["score"]) / "pool.npy")).all()
        assert (folder / "spearman.json").exists()
    permuted = people(judgements, "de+en", msgspec.structs.replace(rm, permutation=1))
    assert {"base", "features", "reward"} <= by_kind(permuted).keys()
    assert by_kind(permuted)["features"] == {one.key for one in every(stage).values() if one.kind == "features"}
