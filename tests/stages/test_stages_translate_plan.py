"""Keys of translated data, who shares it, what is refused; and `xling translate export`. No stage is run."""

import csv
import json
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_grid import (
    N,
    by_kind,
    changed,
    counted,
    every,
    experiment,
    judge_named,
    kinds_that_differ,
    own_files,
    refused,
)
from tiny_translators import saved

from xling.cli import main
from xling.config.common import Template
from xling.config.policies import Recorded
from xling.experiment import Experiment
from xling.grid.plan import make_plan
from xling.grid.stage import Stage
from xling.grid.store import Store
from xling.optimizers.best_of_n import Settings as BestOfN
from xling.planning.controls import SHUFFLES
from xling.planning.dag import cells_from, judge_stage
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


def labels(stage: Stage) -> set[str]:
    return {one.label for one in every(stage).values()}


# --- what is shared -----------------------------------------------------------------------------------------


def test_translate_train_trains_a_reward_model_a_pair_and_no_further_policy(no_model: Path) -> None:
    """Paper, section 5.1: 30 silver reward models, and the pools of the organic policies."""
    pairs = list(permutations(LANGUAGES, 2))
    silver = counted(cells_from(crossed(no_model, pairs, reward_data="translated")))
    assert silver == {
        "base": 1, "sft": 6, "translate": 30, "reward": 30, "pool": 6, "baseline": 6, "score": 30, "gold": 6,
        "judge": 30,
    }  # fmt: skip
    both = crossed(no_model, pairs, reward_data="translated") + crossed(no_model, pairs, reward_data="organic")
    together = counted(cells_from(both))
    assert together["reward"] == 36 and together["pool"] == 6 and together["score"] == 60 and together["sft"] == 6


@pytest.mark.parametrize("regime", ["translated", "round_trip"])
def test_english_as_a_hub_fine_tunes_ten_policies_a_regime(no_model: Path, regime: str) -> None:
    """Paper, section 5.3: English to each of the others and back."""
    hub = [pair for other in LANGUAGES if other != "en" for pair in (("en", other), (other, "en"))]
    found = counted(cells_from(crossed(no_model, hub, sft_data=regime)))
    assert found["sft"] == 6 + 10 and found["pool"] == 10 and found["baseline"] == 6 and found["reward"] == 6
    assert found["translate"] == (10 if regime == "translated" else 20)


def test_a_round_trip_begins_with_what_translated_data_is_made_of(no_model: Path) -> None:
    hub = [("en", "de"), ("de", "en")]
    grids = [crossed(no_model, hub, sft_data=regime) for regime in ("translated", "round_trip")]
    assert counted(cells_from(grids[0] + grids[1]))["translate"] == 4
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


@pytest.mark.parametrize(
    ("part", "values", "silver", "policy"),
    CHANGES,
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:30],
)
def test_a_setting_changes_what_reads_it(
    no_model: Path, part: str, values: dict[str, Any], silver: set[str], policy: set[str]
) -> None:
    for settings, expected in (({"reward_data": "translated"}, silver), ({"sft_data": "translated"}, policy)):
        asked = cell(no_model, translator=MicroNoisy(), **settings)
        assert kinds_that_differ(asked, changed(asked, part, **values)) == expected


def test_a_models_codes_of_other_languages_are_in_no_key(no_model: Path, tmp_path: Path) -> None:
    """A code that is added for one language translates no other one anew."""
    folder = saved(tmp_path / "nllb", "nllb")

    def key(*codes: str, batch_size: int = 16) -> str:
        model = Seq2Seq(checkpoint=str(folder), codes=codes, batch_size=batch_size)
        asked = cell(no_model, reward_data="translated", translator=model)
        [stage] = [s for s in every(judge_stage(asked)).values() if s.kind == "translate"]
        return stage.key

    assert key() == key("no:nob_Latn") == key("sw:swh_Latn", "no:nob_Latn")
    assert key("tr:tur_Latn", "en:eng_Latn") == key("en:eng_Latn", "no:nob_Latn", "tr:tur_Latn")
    assert len({key(), key("tr:tur_Latn"), key("tr:deu_Latn"), key("en:deu_Latn"), key(batch_size=8)}) == 5


def test_names_of_languages_and_templates_are_in_no_key_of_a_translation(no_model: Path, tmp_path: Path) -> None:
    task = own_files(tmp_path)
    both = {"reward_data": "translated", "sft_data": "translated", "translator": recorded(tmp_path)}
    asked = cell(no_model, **both, task=task, judge="target_rm")
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
    refused(asked if steps is None else changed(asked, "sft", steps=steps), sentence)


def test_other_tasks_and_recorded_responses_are_refused(no_model: Path, tmp_path: Path) -> None:
    task = own_files(tmp_path)
    asked = cell(no_model, reward_data="translated", task=task, judge="target_rm")
    refused(asked, r"translator=micro_exact knows the embedded world alone, and task=files")
    people = msgspec.structs.replace(asked, policy=Recorded(), rm_backbone=BagOfWords(), judge=judge_named("human"))
    refused(people, r"here they are recorded\. Type reward_data=organic")
    one_way = recorded(tmp_path)
    Path(one_way.path).write_text(Path(one_way.path).read_text().splitlines()[1] + "\n")
    refused(
        msgspec.structs.replace(asked, translator=one_way),
        r"has no translations en -> tr; it has tr -> en\. `xling translate export`",
    )


def test_a_translator_that_translates_nothing_is_said(no_model: Path) -> None:
    organic, silver = cell(no_model), cell(no_model, reward_data="translated")
    assert notes([organic, silver]) == [] == notes([experiment(no_model)])
    [note] = notes([organic])
    assert note.startswith("translator=micro_exact translates nothing here: type reward_data=translated or sft_data=")
    reference = msgspec.structs.replace(silver, rm_backbone=Untrained("length"), optimizer=BestOfN(N))
    [note] = notes([reference, organic])
    assert note.startswith("reward_data=translated changes nothing here: rm_backbone=length learns from no feedback.")
    assert judge_stage(reference).parents["score"].parents.keys() == {"pool", "baseline"}


GRID = ["source_lang=en,de", "target_lang=tr", "task.demonstrations=6", "task.ratings=5", "task.validation=3"]
COLUMNS = {"source_lang", "target_lang", "text"}


def export(out: Path, *overrides: str) -> list[dict[str, str]]:
    assert main(["translate", "export", "--out", str(out), *GRID, *overrides]) == 0
    if out.suffix == ".csv":
        with out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_each_text_once_by_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = export(tmp_path / "a.jsonl", "reward_data=organic,translated", "rm_backbone=bag_of_words,length")
    assert {tuple(row) for row in rows} == {tuple(sorted(COLUMNS, key=["source_lang", "target_lang", "text"].index))}
    assert len({tuple(row.values()) for row in rows}) == len(rows) == 2 * 2 * (5 + 3)
    assert {(row["source_lang"], row["target_lang"]) for row in rows} == {("en", "tr"), ("de", "tr")}
    said = capsys.readouterr().out
    assert "en -> tr: 16 texts\n" in said and "32 texts (" in said and "round trips" not in said
    assert export(tmp_path / "b.csv", "reward_data=translated") == rows


def test_the_way_back_follows_the_way_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = export(tmp_path / "a.jsonl", "sft_data=round_trip", "source_lang=en")
    assert len(first) == 2 * (6 + 3) and {row["source_lang"] for row in first} == {"tr"}
    assert "18 texts of round trips go back once they have been translated" in capsys.readouterr().out
    done = tmp_path / "done.jsonl"
    translated = [{**row, "translation": f"English of {row['text']}"} for row in first]
    done.write_text("".join(json.dumps(row) + "\n" for row in translated[:-1]), encoding="utf-8")
    given = ("sft_data=round_trip", "source_lang=en", "translator=recorded", f"translator.path={done}")
    second = export(tmp_path / "b.jsonl", *given)
    assert [row["text"] for row in second if row["source_lang"] == "tr"] == [first[-1]["text"]]
    assert sorted(row["text"] for row in second if row["source_lang"] == "en") == sorted(
        row["translation"] for row in translated[:-1]
    )
    both = [*translated, *({**row, "translation": "x"} for row in second if row["source_lang"] == "en")]
    last = {**first[-1], "source_lang": "en", "target_lang": "tr", "text": translated[-1]["translation"]}
    done.write_text("".join(json.dumps(row) + "\n" for row in [*both, {**last, "translation": "y"}]), encoding="utf-8")
    assert export(tmp_path / "c.jsonl", *given) == []


@pytest.mark.parametrize(
    ("out", "overrides", "sentence"),
    [
        ("a.jsonl", [], r"Nothing of this grid is translated\. Type reward_data=translated"),
        ("a.txt", ["reward_data=translated"], r"neither \.jsonl nor \.csv\. Type --out texts\.jsonl"),
        ("old.csv", ["reward_data=translated"], r"old\.csv is there already"),
        ("a.csv", ["reward_data=translatd"], r"reward_data=translatd does not fit: allowed are organic, translated"),
        ("a.csv", ["sweeps=embeded"], r"embeded"),
    ],
)
def test_what_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, overrides: list[str], sentence: str
) -> None:
    import re

    (tmp_path / "old.csv").write_text("")
    assert main(["translate", "export", "--out", str(tmp_path / out), *GRID, *overrides]) == 2
    assert re.search(sentence, capsys.readouterr().err)
