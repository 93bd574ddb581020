"""judge=llm while planning: what is in keys, which prompt a task gets, what is refused, what a plan says."""

import json
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest
from own_files import jsonl, rated
from small_grid import M, Runner, changed, experiment, judged_by, oasst

from xling.config.policies import Recorded
from xling.errors import ConfigError, DataError
from xling.grid.plan import make_plan
from xling.grid.stage import Cell
from xling.grid.store import Store
from xling.judges.llm import Settings as LlmJudge
from xling.planning.dag import judge_stage
from xling.planning.judging import notes
from xling.planning.refusals import check
from xling.results.reading import held_out_pairs
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.files import Settings as Files

PROMPTS = 12  # of the small grid


# --- keys ---------------------------------------------------------------------------------------------------


def keys(checkpoint: Path, **settings: Any) -> dict[str, str]:
    stage = judge_stage(judged_by(checkpoint, LlmJudge(**{"base_url": "http://a/v1", "model": "m", **settings})))
    return {"judge": stage.key} | {role: stage.parents[role].key for role in ("verdict", "accuracy")}


WHERE_AND_HOW = [
    {"base_url": "https://b/v1"},
    {"requests_per_minute": 3.0},
    {"concurrency": 9},
    {"timeout": 1.0},
    {"retries": 0},
    {"backoff": 0.1},
    {"max_tokens_name": "max_completion_tokens"},
]


@pytest.mark.parametrize("settings", WHERE_AND_HOW)
def test_how_an_endpoint_is_asked_is_in_no_key(no_model: Path, settings: dict[str, Any]) -> None:
    assert keys(no_model, **settings) == keys(no_model)


def test_nor_is_the_name_of_a_variable(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    assert keys(no_model, api_key_env="JUDGE_KEY") == keys(no_model)
    stage = judge_stage(judged_by(no_model, LlmJudge(base_url="http://a/v1", model="m", api_key_env="JUDGE_KEY")))
    assert "s3cret" not in json.dumps(dict(stage.parents["verdict"].spec))


@pytest.mark.parametrize(
    ("settings", "differ"),
    [
        ({"model": "other"}, {"judge", "verdict", "accuracy"}),
        ({"prompt": "dialog"}, {"judge", "verdict", "accuracy"}),
        ({"max_instances": 3}, {"judge", "verdict", "accuracy"}),
        ({"orders": "random"}, {"judge", "verdict"}),
        ({"opponents": 2}, {"judge", "verdict"}),
        ({"win": "hard"}, {"judge"}),
        ({"max_unanswered": 0.1}, {"judge"}),
        ({"min_mass": 0.9}, {"judge", "verdict", "accuracy"}),
        ({"max_tokens": None}, {"judge", "verdict", "accuracy"}),
        ({"temperature": None}, {"judge", "verdict", "accuracy"}),
        ({"extra_body": {"reasoning_effort": "low"}}, {"judge", "verdict", "accuracy"}),
    ],
)
def test_what_decides_a_verdict_is_in_the_key(no_model: Path, settings: dict[str, Any], differ: set[str]) -> None:
    before, after = keys(no_model), keys(no_model, **settings)
    assert {name for name in before if before[name] != after[name]} == differ


@pytest.mark.parametrize(
    ("drawn", "differ"),
    [
        ({}, set()),
        ({"orders": "random"}, {"judge", "verdict"}),
        ({"max_instances": 3}, {"judge", "verdict", "accuracy"}),
    ],
)
def test_a_seed_that_decides_nothing_is_in_no_key(no_model: Path, drawn: dict[str, Any], differ: set[str]) -> None:
    before, after = keys(no_model, **drawn), keys(no_model, seed=1, **drawn)
    assert {name for name in before if before[name] != after[name]} == differ


def test_the_day_that_templates_are_told_is_in_the_key_of_what_reads_them(no_model: Path) -> None:
    days = [{}, {"template_date": "2024-07-26"}, {"template_date": "2025-01-02"}]
    found = [judge_stage(judged_by(no_model, LlmJudge(checkpoint="packaged", **day))).parents for day in days]
    for role in ("verdict", "accuracy"):
        assert found[0][role].key == found[1][role].key != found[2][role].key
    assert found[0]["verdict"].spec["template_date"] == "2024-07-26"


def test_the_accuracy_is_one_a_target_and_judge(no_model: Path) -> None:
    cells = [judge_stage(judged_by(no_model, LlmJudge(checkpoint="packaged"), source)) for source in ("en", "de")]
    assert cells[0].parents["accuracy"].key == cells[1].parents["accuracy"].key
    assert cells[0].parents["verdict"].key != cells[1].parents["verdict"].key
    assert (cells[0].parents["verdict"].label, cells[0].parents["accuracy"].label) == (
        "llm[en, tr]",
        "judge_accuracy[tr]",
    )
    other = judge_stage(judged_by(no_model, LlmJudge(checkpoint="packaged", dtype="bfloat16")))
    assert other.parents["accuracy"].key != cells[0].parents["accuracy"].key


# --- prompts by task ----------------------------------------------------------------------------------------


def test_chats_get_the_dialog_prompt(no_model: Path, tmp_path: Path) -> None:
    judge = LlmJudge(base_url="http://a/v1", model="m", max_characters=500)
    made = experiment(no_model, "es", "en", task=oasst(tmp_path), rm=BagOfWords(), judge=judge)
    stage = judge_stage(made)
    whole = judge_stage(changed(made, "judge", max_characters=None)).parents["verdict"].spec
    assert (whole["prompt"], whole["truncation_side"]) == ("dialog", "right")  # nothing is cut
    spec = stage.parents["verdict"].spec
    assert (spec["prompt"], spec["truncation_side"], spec["language"]) == ("dialog", "left", "en")
    assert spec["where"]["path"] == str(tmp_path / "hub") and spec["where"]["endpoint"]["base_url"] == "http://a/v1"
    assert judge_stage(judged_by(no_model, judge)).parents["verdict"].spec["prompt"] == "summarization"
    elsewhere = shutil.copytree(tmp_path / "hub", tmp_path / "copy")
    moved = changed(made, "task", path=str(elsewhere))
    assert judge_stage(moved).key == stage.key


def test_a_task_whose_data_has_moved_on_is_noticed(tiny_folder: Path, tmp_path: Path, runner: Runner) -> None:
    """Paths and endpoint share a place in the spec; the data's digest is still compared."""
    task = Files(str(jsonl(tmp_path / "own.jsonl", [row for lang in ("en", "es") for row in rated(lang, 40)])), ())
    judge = LlmJudge(base_url="http://127.0.0.1:9/v1", model="m", retries=0, timeout=0.2)
    rm = Untrained("length")
    made = experiment(tiny_folder, "es", "en", task=task, rm=rm, judge=judge)
    stage = judge_stage(changed(made, "sft", steps=0)).parents["verdict"]
    (tmp_path / "own.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"own\.jsonl has changed since the grid was planned"):
        runner.run(stage, {}, tmp_path / "out")


# --- what is refused, what is said --------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, r"judge=llm needs a model or a server, and neither is named\. Type judge\.checkpoint=FOLDER"),
    ({"checkpoint": "packaged", "base_url": "http://a/v1", "model": "m"}, r"and both is named"),
    ({"base_url": "http://a/v1"}, r"judge\.base_url=http://a/v1 needs the name of a model there\. Type judge\.model="),
    ({"base_url": "localhost:8000", "model": "m"}, r"judge\.base_url=localhost:8000 is no URL of a server"),
    ({"base_url": "http://[::1/v1", "model": "m"}, r"judge\.base_url=http://\[::1/v1 is no URL of a server"),
    ({"base_url": "http://localhost:abc/v1", "model": "m"}, r"localhost:abc/v1 is no URL of a server"),
    ({"base_url": "http://localhost:99999/v1", "model": "m"}, r"localhost:99999/v1 is no URL of a server"),
    ({"base_url": "http://me:pw@a:b/v1", "model": "m"}, r"judge\.base_url is no URL of a server"),
    ({"base_url": "http://a/v1", "model": "m", "revision": "main"}, r"judge\.revision=main is of a local model"),
    ({"base_url": "http://a/v1", "model": "m", "dtype": "bfloat16"}, r"judge\.dtype=bfloat16 is of a local model"),
    ({"base_url": "http://a/v1", "model": "m", "pad_token": "eos"}, r"judge\.pad_token=eos is of a local model"),
    ({"base_url": "http://me:pw@a/v1", "model": "m"}, r"would be stored with the results"),
    ({"base_url": "http://a/v1", "model": "m", "api_key_env": "NO_SUCH"}, r"api_key_env=NO_SUCH names an .* not set"),
    ({"checkpoint": "packaged", "model": "m"}, r"judge\.model=m is of an endpoint"),
    ({"checkpoint": "packaged", "max_tokens": 9}, r"judge\.max_tokens=9 is of an endpoint"),
    ({"checkpoint": "packaged", "template_date": "2024-02-30"}, r"template_date=2024-02-30 is no day\. Type one like"),
    ({"base_url": "http://a/v1", "model": "m", "template_date": "2024-02-03"}, r"template_date=.* is of a local model"),
    ({"base_url": "http://a/v1", "model": "m", "extra_body": {"stream": True}}, r"extra_body may not set stream"),
    ({"base_url": "http://a/v1", "model": "m", "extra_body": {"x": float("nan")}}, r"judge\.extra_body is no JSON"),
    ({"checkpoint": "packaged", "opponents": M + 1}, r"judge\.opponents=3 is more than .* policy\.baseline_samples=2"),
    ({"checkpoint": "nowhere"}, r"^judge\.checkpoint=nowhere is no folder of a model"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_a_judge_that_cannot_be_asked_is_refused(no_model: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        judge_stage(judged_by(no_model, LlmJudge(**settings)))
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("key", ["k\r", "k\n", "k k", "k\u00e9"])
def test_a_key_that_cannot_be_sent_is_refused(no_model: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"s3cret{key}")
    judge = LlmJudge(base_url="http://a/v1", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(ConfigError, match=r"api_key_env=JUDGE_KEY names .* that holds no key: .*ASCII") as caught:
        judge_stage(judged_by(no_model, judge))
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_recorded_responses_are_left_to_people(tmp_path: Path) -> None:
    task = Files(str(jsonl(tmp_path / "own.jsonl", rated("tr", 40))), ("tr",))
    made = judged_by(tmp_path, LlmJudge(checkpoint="packaged"), task=task, policy=Recorded())
    with pytest.raises(ConfigError, match=r"judge=llm cannot judge recorded responses\. Use judge=human"):
        check(made, BagOfWords())


def test_a_plan_says_how_many_requests_at_most(no_model: Path, tmp_path: Path) -> None:
    judge = LlmJudge(base_url="http://a/v1", model="m", opponents=2)
    cells = [
        Cell({"target_lang": "tr", "source_lang": s}, judge_stage(judged_by(no_model, judge, s))) for s in ("en", "de")
    ]
    (note,) = notes(make_plan(cells, Store(tmp_path)))
    pairs = len(held_out_pairs(experiment(no_model).task, "tr"))
    assert f"judge=llm asks m at most {2 * PROMPTS * 2 * 2 + 2 * pairs} times (3 stages)" in note
    assert notes(make_plan(cells, Store(tmp_path), mode="read-only")) == []


def test_a_target_without_held_out_feedback_is_named(no_model: Path, tmp_path: Path) -> None:
    """One rated response a document: nothing to compare."""
    rows_of = [{"lang": "tr", "prompt": f"soru {i}", "response": f"cevap {i}", "rating": i % 2} for i in range(60)]
    task = Files(str(jsonl(tmp_path / "own.jsonl", rows_of)), ())
    judge = LlmJudge(base_url="http://a/v1", model="m", max_instances=3)
    made = judged_by(no_model, judge, "tr", task=task, rm=Untrained("length"))
    stage = judge_stage(made)
    assert "accuracy" not in stage.parents
    found = notes(make_plan([Cell({"target_lang": "tr"}, stage)], Store(tmp_path)))
    assert found[-1].startswith("judge=llm is not checked in tr: the task has no two held-out responses there, to one")
    assert "at most 6 times (1 stages)" in found[0]
