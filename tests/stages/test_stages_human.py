"""People's judgements through planning and stages: keys of documents, criteria and pooled sources; a frozen LM."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from own_files import jsonl
from releases import rated
from small_grid import Runner, experiment, judge_named

from xling.config.policies import Recorded
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.grid.stage import Stage
from xling.optimizers.best_of_n import Settings as BestOfN
from xling.planning import dag
from xling.planning.dag import judge_stage
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.tasks.released import Settings as Released

WORDS = BagOfWords()


@pytest.fixture
def task(tmp_path: Path) -> Released:
    path = jsonl(tmp_path / "rows.jsonl", rated(["de", "en", "tr"]))
    return Released(path=str(path), layout="multi_summeval", languages=())


def people(task: Released, source: str, target: str, rm: Any = WORDS, **changed: Any) -> Experiment:
    asked = experiment(Path("unused"), source, target, rm=rm)
    task = msgspec.structs.replace(task, **changed)
    return msgspec.structs.replace(asked, task=task, policy=Recorded(), judge=judge_named("human"), optimizer=BestOfN())


def every(stage: Stage) -> dict[str, Stage]:
    """The stage and all above it, by key."""
    found = {stage.key: stage}
    for parent in stage.parents.values():
        found |= every(parent)
    return found


def kinds_that_differ(one: Experiment, other: Experiment) -> set[str]:
    a, b = every(judge_stage(one)), every(judge_stage(other))
    return {(a | b)[key].kind for key in set(a) ^ set(b)}


def test_documents_decide_the_reward_model_and_no_data(task: Released) -> None:
    differ = kinds_that_differ(people(task, "de", "tr"), people(task, "de", "tr", documents=10))
    assert differ == {"reward", "score", "judge"}  # the last two by their parents


def test_folds_decide_the_reward_model_and_no_data(task: Released) -> None:
    for changed in ({"folds": 4}, {"seed": 7}):
        differ = kinds_that_differ(people(task, "de", "tr"), people(task, "de", "tr", **changed))
        assert differ == {"reward", "score", "judge"}  # neither `recorded` nor people's verdicts, `gold`


def test_texts_are_embedded_once_for_all_criteria(task: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag, "encoder_identity", lambda encoder: "an encoder")
    one, other = (people(task, "de", "tr", SentenceEncoder(), rating_field=name) for name in ("focus", "coverage"))
    assert kinds_that_differ(one, other) == {"recorded", "gold", "reward", "score", "judge"}  # not embed


def test_pooled_sources_and_a_cap_end_to_end(task: Released, tmp_path: Path) -> None:
    run = Runner(tmp_path / "stages")
    accuracy = {}
    for source, documents in (("de+en", None), ("de", None), ("de", 10)):
        _, folder = run.cell(people(task, source, "tr", documents=documents))
        pairs = msgspec.json.decode((folder / "pairs.json").read_bytes())
        assert len(pairs["correct"]) == 20
        accuracy[source, documents] = np.mean(pairs["correct"])
    assert min(accuracy.values()) > 0.9  # overlap with the document tells the better one in any language


def test_a_frozen_lm_reads_recorded_responses(task: Released, tmp_path: Path, tiny_folder: Path) -> None:
    run = Runner(tmp_path / "stages")
    for features in ("likelihood", "both"):
        rm = FrozenLM(features=features, checkpoint=str(tiny_folder))  # type: ignore[arg-type]
        stage, folder = run.cell(people(task, "de+en", "tr", rm))
        assert {"base", "features", "reward"} <= {one.kind for one in every(stage).values()}
        assert np.isfinite(np.load(run.folder(stage.parents["score"]) / "pool.npy")).all()
        assert (folder / "spearman.json").exists()
    shuffled = judge_stage(people(task, "de+en", "tr", msgspec.structs.replace(rm, permutation=1)))
    made = {one.key for one in every(stage).values() if one.kind == "features"}
    assert made == {one.key for one in every(shuffled).values() if one.kind == "features"}


def test_a_frozen_lm_has_to_be_named_where_no_policy_is(task: Released) -> None:
    with pytest.raises(ConfigError, match=r"rm_backbone.checkpoint=FOLDER"):
        judge_stage(people(task, "de", "tr", FrozenLM()))
