"""What translated data depends on, who shares it, and what of it is refused: planning alone."""

import json
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_grid import N, changed, experiment, judge_named, own_files
from test_stages_dag import by_kind, stages

sys.path.append(str(Path(__file__).parents[1] / "translators"))
from tiny_translators import saved

from xling.config.common import Template
from xling.config.policies import Recorded
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.grid.plan import make_plan
from xling.grid.stage import Stage
from xling.grid.store import Store
from xling.optimizers.best_of_n import Settings as BestOfN
from xling.planning.dag import SHUFFLES, cells_from, judge_stage
from xling.planning.translations import notes
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.micro.words import LANGUAGES
from xling.translators.micro_exact import Settings as MicroExact
from xling.translators.micro_noisy import Settings as MicroNoisy
from xling.translators.recorded import Settings as RecordedTranslations
from xling.translators.seq2seq import Settings as Seq2Seq


def cell(folder: Path, source: str = "en", target: str = "tr", **settings: Any) -> Experiment:
    return experiment(folder, source, target, **({"translator": MicroExact()} | settings))


def crossed(folder: Path, pairs: Any, **settings: Any) -> list[Experiment]:
    axes = {"rm_backbone": "same_as_policy"} | {k: v for k, v in settings.items() if isinstance(v, str)}
    return [cell(folder, s, t, axes={**axes, "source_lang": s, "target_lang": t}, **settings) for s, t in pairs]


def ancestors(stage: Stage) -> dict[str, Stage]:
    """Every stage that a cell needs, by key."""
    found = {stage.key: stage}
    for parent in stage.parents.values():
        found |= ancestors(parent)
    return found


def labels(stage: Stage) -> set[str]:
    return {one.label for one in ancestors(stage).values()}


# --- what is shared -----------------------------------------------------------------------------------------


def test_translate_train_trains_a_reward_model_a_pair_and_no_further_policy(no_model: Path) -> None:
    """Paper, section 5.1: 30 silver reward models, and the pools of the organic policies."""
    pairs = list(permutations(LANGUAGES, 2))
    silver = stages(cells_from(crossed(no_model, pairs, reward_data="translated")))
    assert silver == {
        "base": 1, "sft": 6, "translate": 30, "reward": 30, "pool": 6, "baseline": 6, "score": 30, "gold": 6,
        "judge": 30,
    }  # fmt: skip
    both = crossed(no_model, pairs, reward_data="translated") + crossed(no_model, pairs, reward_data="organic")
    together = stages(cells_from(both))
    assert together["reward"] == 36 and together["pool"] == 6 and together["score"] == 60 and together["sft"] == 6


@pytest.mark.parametrize("regime", ["translated", "round_trip"])
def test_english_as_a_hub_fine_tunes_ten_policies_a_regime(no_model: Path, regime: str) -> None:
    """Paper, section 5.3: English to each of the others and back."""
    hub = [pair for other in LANGUAGES if other != "en" for pair in (("en", other), (other, "en"))]
    found = stages(cells_from(crossed(no_model, hub, sft_data=regime)))
    assert found["sft"] == 6 + 10 and found["pool"] == 10 and found["baseline"] == 6 and found["reward"] == 6
    assert found["translate"] == (10 if regime == "translated" else 20)


def test_a_round_trip_begins_with_what_translated_data_is_made_of(no_model: Path) -> None:
    hub = [("en", "de"), ("de", "en")]
    grids = [crossed(no_model, hub, sft_data=regime) for regime in ("translated", "round_trip")]
    assert stages(cells_from(grids[0] + grids[1]))["translate"] == 4
    stage = judge_stage(cell(no_model, "en", "de", sft_data="round_trip"))
    assert {"translate[demonstrations, de->en]", "translate[demonstrations, de->en->de]"} <= labels(stage)
    assert "translate[demonstrations, en->de]" not in labels(stage)


def test_the_opponent_and_the_reward_model_are_always_the_organic_ones(no_model: Path) -> None:
    organic = judge_stage(cell(no_model))
    for regime in ("translated", "round_trip"):
        stage = judge_stage(cell(no_model, sft_data=regime))
        assert stage.parents["baseline"].key == organic.parents["baseline"].key
        assert stage.parents["score"].parents["reward"].key == organic.parents["score"].parents["reward"].key
        assert stage.parents["pool"].key != organic.parents["pool"].key
    silver = judge_stage(cell(no_model, reward_data="translated"))
    assert silver.parents["pool"].key == organic.parents["pool"].key
    home = judge_stage(cell(no_model, "tr", "tr"))
    judged = judge_stage(cell(no_model, reward_data="translated", judge="target_rm"))
    assert judged.parents["verdict"].parents["reward"].key == home.parents["score"].parents["reward"].key


def test_what_is_organic_knows_nothing_of_translators(no_model: Path) -> None:
    plain = judge_stage(experiment(no_model))
    assert judge_stage(cell(no_model)).key == plain.key
    assert judge_stage(cell(no_model, translator=MicroNoisy(seed=3))).key == plain.key


def test_what_a_silver_reward_model_starts_from(no_model: Path) -> None:
    target, source = (
        judge_stage(cell(no_model, reward_data="translated", translator=MicroExact(reward_init=init)))
        for init in ("target", "source")
    )
    inits = [stage.parents["score"].parents["reward"].parents["init"].label for stage in (target, source)]
    assert inits == ["sft[tr]", "sft[en]"]
    data = [stage.parents["score"].parents["reward"].parents["data_en"].key for stage in (target, source)]
    assert data[0] == data[1]  # it is not translated anew
    base = judge_stage(cell(no_model, reward_data="translated", rm=SameAsPolicy(init="base")))
    assert base.parents["score"].parents["reward"].parents["init"].kind == "base"


def test_labels_say_what_was_translated(no_model: Path) -> None:
    silver, sft, trip = (
        judge_stage(cell(no_model, **{key: value}))
        for key, value in (("reward_data", "translated"), ("sft_data", "translated"), ("sft_data", "round_trip"))
    )
    assert silver.label == "judge[en->tr, tr]"
    assert {"reward[en->tr]", "score[en->tr, tr]", "translate[ratings, en->tr]", "pool[tr]"} <= labels(silver)
    assert sft.label == "judge[en, tr, translated from en]"
    assert {"sft[tr, translated from en]", "pool[tr, translated from en]", "baseline[tr]", "sft[tr]"} <= labels(sft)
    assert {"sft[tr, round trip by en]", "translate[demonstrations, tr->en->tr]"} <= labels(trip)
    frozen = judge_stage(cell(no_model, reward_data="translated", rm=FrozenLM()))
    assert "features[en->tr]" in labels(frozen)
    pooled = judge_stage(cell(no_model, "de+en", reward_data="translated", sft_data="translated"))
    assert {"reward[de+en->tr]", "sft[tr, translated from de+en]", "translate[ratings, de->tr]"} <= labels(pooled)


# --- keys ---------------------------------------------------------------------------------------------------

SILVER = {"translate", "reward", "score", "judge"}
POLICY = {"sft", "pool", "score", "gold", "judge"}
CHANGES: list[tuple[str, dict[str, Any], set[str], set[str]]] = [  # what changes below a silver RM, a translated SFT
    ("translator", {"wrong": 0.1}, SILVER, {"translate"} | POLICY),
    ("translator", {"seed": 1}, SILVER, {"translate"} | POLICY),
    ("task", {"label_noise": 0.2}, SILVER, {"reward", "score", "judge"}),
    ("task", {"demonstrations": 41}, {"sft", "reward", "pool", "baseline", "score", "gold", "judge"},
     {"translate", "sft", "reward", "pool", "baseline", "score", "gold", "judge"}),
    ("policy", {"n": 5}, {"pool", "score", "gold", "judge"}, {"pool", "score", "gold", "judge"}),
]  # fmt: skip


@pytest.mark.parametrize(("part", "values", "silver", "policy"), CHANGES, ids=lambda value: str(value)[:30])
def test_a_setting_changes_what_reads_it(
    no_model: Path, part: str, values: dict[str, Any], silver: set[str], policy: set[str]
) -> None:
    for settings, expected in (({"reward_data": "translated"}, silver), ({"sft_data": "translated"}, policy)):
        asked = cell(no_model, translator=MicroNoisy(), **settings)
        before, after = by_kind(asked), by_kind(changed(asked, part, **values))
        assert {kind for kind in before if not after[kind] <= before[kind]} == expected


def test_a_models_codes_of_other_languages_are_in_no_key(no_model: Path, tmp_path: Path) -> None:
    """A code that is added for one language translates no other one anew."""
    folder = saved(tmp_path / "nllb", "nllb")

    def key(*codes: str, batch_size: int = 16) -> str:
        model = Seq2Seq(checkpoint=str(folder), codes=codes, batch_size=batch_size)
        asked = cell(no_model, reward_data="translated", translator=model)
        [stage] = [s for s in ancestors(judge_stage(asked)).values() if s.kind == "translate"]
        return stage.key

    assert key() == key("no:nob_Latn") == key("sw:swh_Latn", "no:nob_Latn")
    assert key("tr:tur_Latn", "en:eng_Latn") == key("en:eng_Latn", "no:nob_Latn", "tr:tur_Latn")
    assert len({key(), key("tr:tur_Latn"), key("tr:deu_Latn"), key("en:deu_Latn"), key(batch_size=8)}) == 5


def test_names_of_languages_and_templates_are_in_no_key_of_a_translation(no_model: Path, tmp_path: Path) -> None:
    task = own_files(tmp_path)
    asked = msgspec.structs.replace(
        cell(no_model, reward_data="translated", sft_data="translated", translator=recorded(tmp_path)), task=task,
        judge=judge_named("target_rm"),
    )  # fmt: skip
    renamed = changed(asked, "target_lang", name="Turkish", native_name="Türkçe")
    assert judge_stage(renamed).key == judge_stage(asked).key
    other = changed(asked, "task", template=Template(policy="Sum up in {language}: {text}"))
    first, second = (by_kind(one) for one in (asked, msgspec.structs.replace(other, target_lang=renamed.target_lang)))
    assert first["translate"] == second["translate"] and not first["sft"] & second["sft"]


def recorded(folder: Path) -> RecordedTranslations:
    rows = [
        {"source_lang": s, "target_lang": t, "text": "a", "translation": "b"} for s, t in (("en", "tr"), ("tr", "en"))
    ]
    path = folder / "translations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RecordedTranslations(path=str(path))


def test_a_plan_says_where_the_stages_of_a_cell_are(no_model: Path, tmp_path: Path) -> None:
    cells = cells_from(crossed(no_model, [("en", "tr")], sft_data="translated", reward_data="translated"))
    plan = make_plan(cells, Store(tmp_path), name="g")
    plan.write()
    content = json.loads((tmp_path / "grids" / "g" / "plan.json").read_text(encoding="utf-8"))
    by_key = {stage["key"]: stage["label"] for stage in content["stages"]}
    found = {role: by_key[ref["key"]] for role, ref in content["cells"][0]["stages"].items()}
    assert found["reward"] == "reward[en->tr]" and found["sft"] == "sft[tr, translated from en]"
    assert found["pool"] == "pool[tr, translated from en]" and found["baseline"] == "baseline[tr]"


# --- controls -----------------------------------------------------------------------------------------------


def test_controls_of_translated_cells(no_model: Path) -> None:
    """References learn nothing and are those of organic cells; labels of translated feedback are shuffled."""
    silver = cells_from(crossed(no_model, [("en", "tr")], reward_data="translated"), controls=True)
    organic = cells_from(crossed(no_model, [("en", "tr")]), controls=True)
    kinds = Counter(cell.axes["source_lang"] for cell in silver)
    assert kinds["en"] == 1 + SHUFFLES and kinds["-"] == len(organic) - 1 - SHUFFLES
    references = [{c.stage.key for c in cells if c.axes["source_lang"] == "-"} for cells in (silver, organic)]
    assert references[0] == references[1]
    sft = cells_from(crossed(no_model, [("en", "tr"), ("de", "tr")], sft_data="translated"), controls=True)
    assert len(sft) == 2 * (1 + SHUFFLES) and len({c.stage.parents["pool"].key for c in sft}) == 2


# --- refusals -----------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"source": "tr", "reward_data": "translated"}, r"reward_data=translated translates from source_lang=tr into "
     r"target_lang=tr.*Type pairs=cross to leave out the cells at home"),
    ({"source": "tr", "sft_data": "round_trip"}, r"sft_data=round_trip .*pairs=cross"),
    ({"source": "en+tr", "sft_data": "translated"}, r"source_lang=en\+tr into target_lang=tr.*pairs=cross"),
    ({"reward_data": "translated", "translator": None}, r"reward_data=translated needs a translator\. Type translator="
     r"nllb_600m.*translator=micro_exact"),
    ({"source": "de+en", "sft_data": "round_trip"}, r"goes through one language and back, and source_lang=de\+en"),
    ({"sft_data": "translated", "sft": 0}, r"sft\.steps=0 fine-tunes nothing"),
    ({"sft_data": "translated", "rm": Untrained("length")}, r"goes by the source language, and rm_backbone=length has"),
    ({"sft_data": "translated", "translator": MicroNoisy(wrong=0.7, dropped=0.4)}, r"add up to more than 1"),
    ({"reward_data": "translated", "translator": RecordedTranslations(path="nowhere.jsonl")},
     r"translator\.path=nowhere\.jsonl is not a file"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_does_not_go_together_is_refused(no_model: Path, settings: dict[str, Any], sentence: str) -> None:
    settings = dict(settings)
    steps = settings.pop("sft", None)
    asked = cell(no_model, settings.pop("source", "en"), **settings)
    with pytest.raises(ConfigError, match=sentence):
        judge_stage(asked if steps is None else changed(asked, "sft", steps=steps))


def test_other_tasks_and_recorded_responses_are_refused(no_model: Path, tmp_path: Path) -> None:
    task = own_files(tmp_path)
    asked = msgspec.structs.replace(cell(no_model, reward_data="translated"), task=task, judge=judge_named("target_rm"))
    with pytest.raises(ConfigError, match=r"translator=micro_exact knows the embedded world alone, and task=files"):
        judge_stage(asked)
    people = msgspec.structs.replace(asked, policy=Recorded(), rm_backbone=BagOfWords(), judge=judge_named("human"))
    with pytest.raises(ConfigError, match=r"here they are recorded\. Type reward_data=organic"):
        judge_stage(people)
    one_way = recorded(tmp_path)
    Path(one_way.path).write_text(Path(one_way.path).read_text().splitlines()[1] + "\n")
    with pytest.raises(ConfigError, match=r"has no translations en -> tr; it has tr -> en\. `xling translate export`"):
        judge_stage(msgspec.structs.replace(asked, translator=one_way))


def test_a_translator_that_translates_nothing_is_said(no_model: Path) -> None:
    organic, silver = cell(no_model), cell(no_model, reward_data="translated")
    assert notes([organic, silver]) == [] == notes([experiment(no_model)])
    [note] = notes([organic])
    assert note.startswith("translator=micro_exact translates nothing here: type reward_data=translated or sft_data=")
    reference = msgspec.structs.replace(silver, rm_backbone=Untrained("length"), optimizer=BestOfN(N))
    [note] = notes([reference, organic])
    assert note.startswith("reward_data=translated changes nothing here: rm_backbone=length learns from no feedback.")
    assert judge_stage(reference).parents["score"].parents.keys() == {"pool", "baseline"}
