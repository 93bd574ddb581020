"""Cells whose data was translated, from the plan to the verdict; and the translate stage by itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small_grid import BUDGET, TASK, Runner, changed, contents, experiment, labelled, own_files, read
from tiny_translators import saved

from xling.config.common import Template
from xling.errors import DataError, StageError
from xling.experiment import Experiment
from xling.grid.stage import Interrupted, Stage
from xling.optimizers.ppo import Settings as PPO
from xling.planning import KINDS
from xling.planning.dag import judge_stage
from xling.results.translations import Record, distinct, item_of, read_records, translated
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.stages import translate as stage_module
from xling.tasks import micro_summarization
from xling.tasks.files import Settings as Files
from xling.tasks.micro import gold
from xling.tasks.micro.writing import fact_set_of
from xling.tasks.records import Pair, Rating, turns_of
from xling.tasks.render import SPEAKERS, dialog
from xling.translators import seq2seq
from xling.translators.micro_exact import Settings as MicroExact
from xling.translators.micro_noisy import Settings as MicroNoisy
from xling.translators.recorded import Settings as RecordedTranslations
from xling.translators.seq2seq import Settings as Seq2Seq

PACKAGED = Path("packaged")
FEW = PPO(steps=2, batch_size=8, eval_every=2, eval_prompts=4, reward_samples=8, value_only_steps=1)


def cell(folder: Path, source: str = "en", target: str = "tr", **settings: Any) -> Experiment:
    return experiment(folder, source, target, **({"translator": MicroExact(), "rm": BagOfWords()} | settings))


# --- cells --------------------------------------------------------------------------------------------------

CELLS: dict[str, dict[str, Any]] = {
    "silver bag of words": {"reward_data": "translated"},
    "silver network": {"reward_data": "translated", "rm": SameAsPolicy(training=BUDGET)},
    "silver frozen": {"reward_data": "translated", "rm": FrozenLM()},
    "silver pairs": {"reward_data": "translated", "rm": SameAsPolicy(training=BUDGET, objective="pairwise")},
    "silver pooled": {"reward_data": "translated", "source": "de+en", "rm": FrozenLM()},
    "translated": {"sft_data": "translated"},
    "translated pooled": {"sft_data": "translated", "source": "de+en"},
    "round trip": {"sft_data": "round_trip", "translator": MicroNoisy(wrong=0.1, dropped=0.0)},
    "both": {"sft_data": "translated", "reward_data": "translated"},
    "trained": {"sft_data": "translated", "optimizer": FEW},
    "shuffled": {"reward_data": "translated", "rm": BagOfWords(permutation=1)},
    "target_rm": {"sft_data": "translated", "judge": "target_rm"},
}


@pytest.mark.parametrize("name", CELLS)
def test_translated_data_fills_a_cell(name: str, tiny_folder: Path, runner: Runner) -> None:
    stage, out = runner.cell(cell(tiny_folder, **CELLS[name]))
    items = read(out / "items.json")
    assert len(items["win"]) == TASK.test_prompts and all(0 <= win <= 1 for win in items["win"])
    assert runner.folder(stage.parents["baseline"]) == runner.folder(_organic(tiny_folder).parents["baseline"])


def _organic(folder: Path) -> Stage:
    return judge_stage(cell(folder))


def test_a_translated_policy_chooses_by_translations_and_is_measured_by_the_target_too(runner: Runner) -> None:
    stage = labelled(judge_stage(cell(PACKAGED, sft_data="translated")), "sft[tr, translated from en]")
    report = read(runner.folder(stage) / "sft.json")
    lines = (runner.folder(stage) / "curve.jsonl").read_text().splitlines()
    best = max(row["metric"] for row in map(json.loads, lines) if "metric" in row)
    assert report["demonstrations"] == TASK.demonstrations and report["validation_rouge_l"] == pytest.approx(best)
    assert 0 < report["organic_rouge_l"] < 1 and report["organic_rouge_l"] != report["validation_rouge_l"]
    organic = labelled(judge_stage(cell(PACKAGED)), "sft[tr]")
    assert "organic_rouge_l" not in read(runner.folder(organic) / "sft.json")


def test_the_targets_own_demonstrations_change_no_weight(runner: Runner) -> None:
    """They are for a number in sft.json."""
    first = labelled(judge_stage(cell(PACKAGED, sft_data="translated")), "sft[tr, translated from en]")
    spec = {**first.spec, "task": {**first.spec["task"], "demonstration_error": 1.0}}
    other = Stage.make(first.kind, first.version, first.label, spec, first.parents)
    one, two = (contents(runner.folder(stage)) for stage in (first, other))
    assert one["model.safetensors"] == two["model.safetensors"] and one["sft.json"] != two["sft.json"]


# --- the stage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["ratings", "pairs", "demonstrations"])
def test_records_are_the_tasks_own_in_the_other_language(what: Any, tiny_folder: Path, runner: Runner) -> None:
    settings = {"sft_data": "translated"} if what == "demonstrations" else {"reward_data": "translated"}
    rm = SameAsPolicy(training=BUDGET, objective="pairwise" if what == "pairs" else "pointwise")
    stage = labelled(judge_stage(cell(tiny_folder, rm=rm, **settings)), f"translate[{what}, en->tr]")
    folder = runner.folder(stage)
    for split in ("train", "validation"):
        own = getattr(micro_summarization, what)(TASK, "en", split)
        records = list(read_records(folder, split))
        items = [item_of(TASK, what, record) for record in records]
        assert len(items) == len(own)
        for item, before in zip(items, own, strict=True):
            _check_item(item, before)
    counts = read(folder / "translate.json")
    assert counts["train"] == {"dropped": {}, "kept": TASK.ratings, "records": TASK.ratings}
    assert counts["untranslated"] == 0 and counts["texts"] > TASK.ratings


def _check_item(item: Any, before: Any) -> None:
    facts = fact_set_of(TASK.seed, before.prompt.group)
    assert (item.prompt.id, item.prompt.group, item.prompt.lang) == (before.prompt.id, before.prompt.group, "tr")
    document, cue = item.prompt.text.rsplit("\n", 1)
    assert cue == "Türkçe özet:" and document != before.prompt.text.rsplit("\n", 1)[0]
    said = [(item.chosen, before.chosen), (item.rejected, before.rejected)] if isinstance(item, Pair) else []
    if not isinstance(item, Pair):
        said = [(item.response, before.response)]
    for after, first in said:
        good = gold.assess(facts, "tr", after).quality >= gold.GOOD
        assert good == (gold.assess(facts, "en", first).quality >= gold.GOOD)
    if isinstance(item, Rating):
        assert (item.label, item.system) == (before.label, before.system)


def test_what_is_not_translated_is_dropped_and_counted() -> None:
    records = [
        Record("1", "en", "g", "doc", "yes"),
        Record("2", "en", "g", "lost", "yes"),
        Record("3", "en", "g", "doc", "empty"),
        Record("4", "en", "g", "doc", "yes", rejected="ja"),
        Record("5", "en", "g", "doc", "yes", rejected="lost"),
        Record("6", "en", "g", "doc", " ", rejected="no"),
        Record("7", "en", "g", "doc", "yes", rejected="no", label=0.5, system="s", dataset="d"),
    ]
    texts = {"doc": "Dok", "yes": "Ja", "ja": "Ja", "no": "Nein", "lost": None, "empty": ""}
    assert distinct(iter(records)) == ["doc", "yes", "lost", "empty", "ja", "no"]
    kept, dropped = translated(records, texts, "de")
    assert [record.id for record in kept] == ["1", "7"]
    assert kept[1] == Record("7", "de", "g", "Dok", "Ja", rejected="Nein", label=0.5, system="s", dataset="d")
    assert dropped == {
        "a document without translation": 1,
        "a response without translation": 3,
        "two responses that became the same": 1,
    }


def test_a_killed_stage_goes_on_and_gives_the_same_bytes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "BLOCK", 16)
    asked = cell(tiny_folder, reward_data="translated", translator=MicroNoisy())
    stage = labelled(judge_stage(asked), "translate[ratings, en->tr]")
    whole, killed = Runner(tmp_path / "whole"), Runner(tmp_path / "killed")
    expected = contents(whole.folder(stage))
    seen: list[int] = []

    def stopping() -> bool:
        return bool(seen) and seen[-1] >= 48

    out = tmp_path / "out"
    with pytest.raises(Interrupted, match=r"after 48 of 1\d\d items, which are kept"):
        killed.run(stage, {}, out, lambda done, total: seen.append(done), stopping)
    kept = sorted(
        (tmp_path / "killed" / "scratch" / stage.key / "texts").glob("*.jsonl")
    )  # each with its checksum beside it
    assert len(kept) == 3
    times = [path.stat().st_mtime_ns for path in kept]
    killed.run(stage, {}, out)
    assert contents(out) == expected and [path.stat().st_mtime_ns for path in kept] == times


def test_a_model_is_asked_once_by_whatever_stage(tiny_folder: Path, tmp_path: Path) -> None:
    """Of more demonstrations of the same data only the new ones go to the model."""
    folder = saved(tmp_path / "madlad", "madlad", tendency=600)
    model = Seq2Seq(checkpoint=str(folder), beams=1, max_tokens=64, batch_size=8, segments="lines")
    small = changed(cell(tiny_folder, sft_data="translated", translator=model), "task", demonstrations=8, validation=4)
    small = changed(small, "sft", batch_size=4)
    runs, label = Runner(tmp_path / "runs"), "translate[demonstrations, en->tr]"
    first = labelled(judge_stage(small), label)
    counts = read(runs.folder(first) / "translate.json")
    assert counts["texts"] == _remembered(runs) == 24 and counts["train"]["kept"] > 0
    runs.folder(Stage.make("translate", 99, label, first.spec, first.parents))
    assert _remembered(runs) == 24
    more = labelled(judge_stage(changed(small, "task", demonstrations=10)), label)
    assert more.key != first.key and more.parents["lm"].key == first.parents["lm"].key
    runs.folder(more)
    assert _remembered(runs) == 28
    trip = judge_stage(msgspec.structs.replace(small, sft_data="round_trip"))
    there_and_back = labelled(trip, "translate[demonstrations, tr->en->tr]")
    assert read(runs.folder(there_and_back) / "translate.json")["train"]["records"] <= 8


def test_what_other_code_translated_is_not_remembered(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raised version of the stage, or another package that cuts sentences, translates anew."""
    folder = saved(tmp_path / "marian", "marian")
    model = Seq2Seq(checkpoint=str(folder), beams=1, max_tokens=64, batch_size=8, segments="lines")
    asked = changed(cell(tiny_folder, sft_data="translated", translator=model), "task", demonstrations=8, validation=4)
    stage = labelled(judge_stage(changed(asked, "sft", batch_size=4)), "translate[demonstrations, en->tr]")
    runs = Runner(tmp_path / "runs")
    runs.folder(stage)
    made = list((runs.root / "cache" / "translations").iterdir())
    assert len(made) == 1
    monkeypatch.setitem(KINDS, "translate", replace(KINDS["translate"], version=99))
    runs.folder(Stage.make("translate", 99, stage.label, stage.spec, stage.parents))
    assert len(list((runs.root / "cache" / "translations").iterdir())) == 2
    monkeypatch.setattr(seq2seq, "version", lambda name: "another")
    runs.folder(Stage.make("translate", 100, stage.label, stage.spec, stage.parents))
    assert len(list((runs.root / "cache" / "translations").iterdir())) == 3


def _remembered(runs: Runner) -> int:
    """Texts that a model has translated for any stage, each of them once."""
    lines = [line for path in (runs.root / "cache").rglob("*.jsonl") for line in path.read_text().splitlines()]
    names = [json.loads(line)[0] for line in lines]
    assert len(set(names)) == len(names)
    return len(names)


# --- other tasks --------------------------------------------------------------------------------------------


TEMPLATE = Template(policy="{native_language}: {text}", reward="<{text}>")


def by_rule(text: str) -> str:
    return text.replace("en ", "tr ").replace("document", "belge").replace("says", "diyor")


def test_recorded_translations_of_ones_own_files(tiny_folder: Path, tmp_path: Path) -> None:
    """Prompts are rendered with the target's template; a text that the file lacks stops the stage."""
    texts = [f"en document {d}" for d in range(40)] + [f"en says {d} {k}" for d in range(40) for k in range(2)]
    rows = [{"source_lang": "en", "target_lang": "tr", "text": t, "translation": by_rule(t)} for t in texts]
    path = tmp_path / "translations.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    both = {"reward_data": "translated", "sft_data": "translated", "translator": RecordedTranslations(path=str(path))}
    asked = cell(tiny_folder, **both, task=own_files(tmp_path, template=TEMPLATE), judge="target_rm")
    asked = changed(asked, "target_lang", native_name="Türkçe")
    runs = Runner(tmp_path / "runs")
    stage, out = runs.cell(asked)
    assert read(out / "items.json")["win"]
    reward = labelled(stage, "reward[en->tr]")
    folder = runs.folder(labelled(stage, "translate[ratings, en->tr]"))
    task = msgspec.convert(reward.spec["task"], Files)
    first = item_of(task, "ratings", next(read_records(folder, "train")))
    assert (first.prompt.text, first.prompt.content) == (f"tr belge {first.prompt.id[2:]}", f"<{first.prompt.text}>")
    sft = msgspec.convert(labelled(stage, "sft[tr, translated from en]").spec["task"], Files)
    shown = item_of(sft, "demonstrations", next(read_records(folder, "train"))).prompt
    assert shown.text == f"Türkçe: tr belge {shown.id[2:]}"
    fewer = tmp_path / "fewer.jsonl"
    needed = f"en document {first.prompt.id[2:]}"
    fewer.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows if row["text"] != needed))
    asked = msgspec.structs.replace(asked, translator=RecordedTranslations(path=str(fewer)))
    lacking = labelled(judge_stage(asked), "translate[ratings, en->tr]")
    with pytest.raises(DataError, match=rf"no translation en -> tr of 1 of \d+ texts, the first of them '{needed}'"):
        runs.folder(lacking)


def test_a_translated_chat_has_its_turns_again(tmp_path: Path) -> None:
    task = Files(str(tmp_path), ("tr",), template=Template(policy="Q: {text}"))
    chat = dialog([("user", "a"), ("assistant", "b"), ("user", "c")])
    record = Record("1", "tr", "1", str(chat), "d", rejected="e")
    asked = item_of(task, "pairs", record, SPEAKERS).prompt
    assert turns_of(asked.content) == turns_of(chat) and turns_of(asked.text) == (("system", "Q:"), *turns_of(chat))
    assert turns_of(item_of(task, "pairs", record).prompt.content) == (("user", str(chat)),)


def test_nothing_left_is_an_error_that_says_why(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"source_lang": "en", "target_lang": "tr", "text": text, "translation": ""}
        for d in range(40) for text in (f"en document {d}", f"en says {d} 0", f"en says {d} 1")
    ]  # fmt: skip
    path = tmp_path / "translations.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    silver = {"reward_data": "translated", "translator": RecordedTranslations(path=str(path))}
    asked = cell(tiny_folder, **silver, task=own_files(tmp_path, template=TEMPLATE), judge="target_rm")
    stage = labelled(judge_stage(asked), "translate[ratings, en->tr]")
    with pytest.raises(StageError, match=r"Nothing is left of \d+ train ratings: en -> tr gave a document without"):
        Runner(tmp_path / "runs").folder(stage)
