"""judge=llm from planning to matrix: a local judge and an endpoint, keys, kills, caps, and its own accuracy."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from chat_server import ChatServer, longer, texts_of
from small_grid import M, Runner, array, changed, experiment, read

sys.path += [str(Path(__file__).parents[1] / "tasks")]  # small files of real tasks
from oasst_files import tree, write_hub
from own_files import jsonl, rated

from xling.analysis.records import read_record
from xling.config import DPO, BagOfWords, Experiment, Files, LlmJudge, Oasst, Recorded, Untrained
from xling.errors import ConfigError, DataError, StageError
from xling.grid.plan import make_plan
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.judges.local import load_local_judge
from xling.judges.prompts import judge_prompt
from xling.stages.checks import check
from xling.stages.dag import judge_stage
from xling.stages.files import read_samples
from xling.stages.judge import best
from xling.stages.llm import held_out_pairs, pairs_of
from xling.stages.llm_dag import notes
from xling.tasks import task_module
from xling.tasks.records import Prompt, Rating

PROMPTS = 12  # of the small grid


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The tiny model with room for a judge's prompt, of which its tokenizer makes some 700 tokens."""
    folder = tmp_path_factory.mktemp("judge") / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder


@pytest.fixture
def own(tmp_path: Path, runner: Runner) -> Iterator[Runner]:
    """The session's results below the judge, and a store of its own for all that a test asks of a judge."""
    root = tmp_path / "root"
    root.mkdir()
    for kind in ("base", "sft", "pool", "baseline", "reward", "score"):
        (runner.root / kind).mkdir(exist_ok=True)
        (root / kind).symlink_to(runner.root / kind)
    yield Runner(root)


def asked(checkpoint: Path, judge: LlmJudge, source: str = "en", **settings: Any) -> Experiment:
    made = experiment(checkpoint, source, "tr", rm=settings.pop("rm", BagOfWords()), **settings)
    return msgspec.structs.replace(made, judge=judge)


def endpoint(url: str, **settings: Any) -> LlmJudge:
    return LlmJudge(base_url=url, model="judge-1", timeout=2.0, retries=1, backoff=0.01, **settings)


def verdicts_of(runner: Runner, stage: Stage) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = read(runner.folder(stage.parents["verdict"]) / "verdicts.json")
    return found


# --- a cell from end to end ---------------------------------------------------------------------------------


def test_a_cell_by_a_local_judge(tiny_folder: Path, judge_folder: Path, own: Runner) -> None:
    one = asked(tiny_folder, LlmJudge(checkpoint=str(judge_folder), opponents=2))
    stage, folder = own.cell(one)
    pools = {role: read_samples(own.folder(stage.parents[role])) for role in ("pool", "baseline")}
    picks = best(array(own.folder(stage.parents["score"]) / "pool.npy")).tolist()
    texts = {p.id: p.reward_text for p in task_module(one.task).prompts(one.task, "tr", "test")}
    columns = verdicts_of(own, stage)
    assert columns["prompt"] == [s.prompt for s in pools["pool"] for _ in range(2)]
    assert columns["sample"] == [pick for pick in picks for _ in range(2)]
    assert columns["opponent"] == [0, 1] * PROMPTS
    judge = load_local_judge(judge_folder)
    for row in (0, 7, 23):
        mine = pools["pool"][row // 2].responses[picks[row // 2]]
        theirs = pools["baseline"][row // 2].responses[row % 2]
        shown = [
            judge_prompt("summarization", "tr", texts[columns["prompt"][row]], *pair)
            for pair in ((mine, theirs), (theirs, mine))
        ]
        assert [columns["p_first"][row], 1 - columns["p_second"][row]] == pytest.approx(judge.first(shown))
    items = read(folder / "items.json")
    both = (np.array(columns["p_first"]) + np.array(columns["p_second"])) / 2
    np.testing.assert_allclose(items["win"], both.reshape(-1, 2).mean(axis=1))
    disagree = (np.array(columns["p_first"]) > 0.5) != (np.array(columns["p_second"]) > 0.5)
    assert items["inconsistent"] == disagree.reshape(-1, 2).mean(axis=1).tolist()
    assert items["unanswered"] == [0.0] * PROMPTS and items["index"] == picks
    record = read_record(folder)
    assert record.curve.shape == (PROMPTS, 0) and record.summary.n_samples == 4


def test_two_sources_by_an_endpoint_ask_everything_once(tiny_folder: Path, own: Runner) -> None:
    server = ChatServer()
    with server.running() as url:
        cells = [own.cell(asked(tiny_folder, endpoint(url), source)) for source in ("en", "de")]
        pairs = held_out_pairs(experiment(tiny_folder).task, "tr")
        distinct = {json.dumps(body) for body in server.seen}
        assert len(server.seen) == len(distinct) == len(server.answered)
        compared = {(row["prompt"], row["sample"]) for stage, _ in cells for row in rows(verdicts_of(own, stage))}
        assert len(distinct) <= 2 * (len(compared) + len(pairs)) and len(compared) < 2 * PROMPTS
        before = len(server.seen)
        shutil.rmtree(own.root / "llm")
        shutil.rmtree(own.root / "judge")
        again = [own.cell(asked(tiny_folder, endpoint(url), source)) for source in ("en", "de")]
        assert len(server.seen) == before
    for (stage, folder), (_, repeated) in zip(cells, again, strict=True):
        assert (folder / "items.json").read_bytes() == (repeated / "items.json").read_bytes()
        columns = verdicts_of(own, stage)
        pool, baseline = (read_samples(own.folder(stage.parents[role])) for role in ("pool", "baseline"))
        for i, row in enumerate(rows(columns)):
            mine, theirs = pool[i].responses[row["sample"]], baseline[i].responses[0]
            expected = 1 / (1 + np.exp((len(theirs) - len(mine)) / 5))
            assert [row["p_first"], row["p_second"]] == pytest.approx([0.5 if mine == theirs else expected] * 2)


def rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_all_that_a_trained_policy_says_is_judged(tiny_folder: Path, own: Runner) -> None:
    optimizer = DPO(steps=2, batch_size=4, warmup_steps=0, eval_every=2, eval_prompts=4, reward_samples=8, n=2)
    with ChatServer().running() as url:
        one = msgspec.structs.replace(asked(tiny_folder, endpoint(url, opponents=2)), optimizer=optimizer)
        stage, folder = own.cell(one)
    columns, items = verdicts_of(own, stage), read(folder / "items.json")
    aligned = read_samples(own.folder(stage.parents["pool"]))
    assert columns["sample"] == [0, 0, 1, 1] * PROMPTS and columns["opponent"] == [0, 1] * (2 * PROMPTS)
    assert columns["prompt"] == [s.prompt for s in aligned for _ in range(2 * M)]
    np.testing.assert_allclose(items["win"], np.array(columns["p_first"]).reshape(-1, 4).mean(axis=1))
    assert len(items["kl"]) == PROMPTS and "index" not in items
    assert len(read_record(folder).items.win) == PROMPTS
    (note,) = notes(make_plan([Cell({"target_lang": "tr"}, stage)], Store(own.root / "empty")))
    assert f"at most {2 * PROMPTS * 2 * 2 + 2 * len(held_out_pairs(one.task, 'tr'))} times" in note


def test_a_judge_that_dies_in_mid_run_and_comes_back(tiny_folder: Path, own: Runner) -> None:
    dying, back = ChatServer(fault=lambda number, body: "drop" if number >= 9 else None), ChatServer()
    with dying.running() as url, pytest.raises(StageError, match="cannot be reached"):
        own.cell(asked(tiny_folder, endpoint(url)))
    assert sum(dying.answered.values()) == 9
    with back.running() as url:
        stage, folder = own.cell(asked(tiny_folder, endpoint(url)))  # another URL, the same key
    every = dying.answered + back.answered
    assert set(every.values()) == {1} and not set(dying.answered) & set(back.answered)
    with ChatServer().running() as url:
        fresh = Runner(own.root.with_name("fresh"))
        _, undisturbed = fresh.cell(asked(tiny_folder, endpoint(url)))
    assert (folder / "items.json").read_bytes() == (undisturbed / "items.json").read_bytes()
    assert (own.folder(stage.parents["accuracy"]) / "accuracy.json").exists()


def test_what_is_not_answered_is_counted_and_left_out(tiny_folder: Path, own: Runner) -> None:
    def text(body: dict[str, Any]) -> str:
        first, second = texts_of(body)
        return "Neither." if min(first, second) < "b" and first != second else "1" if longer(body) > 0.5 else "2"

    server = ChatServer(text=text)
    with server.running() as url:
        stage, folder = own.cell(asked(tiny_folder, endpoint(url, win="hard")))
    columns, items = verdicts_of(own, stage), read(folder / "items.json")
    pool, baseline = (read_samples(own.folder(stage.parents[role])) for role in ("pool", "baseline"))
    for i, row in enumerate(rows(columns)):
        mine, theirs = pool[i].responses[row["sample"]], baseline[i].responses[0]
        silent = min(mine, theirs) < "b" and mine != theirs
        assert row["unanswered_first"] is row["unanswered_second"] is silent
        assert (row["p_first"] is None) == silent
        assert items["unanswered"][i] == float(silent) and (items["win"][i] is None) == silent
        assert (items["inconsistent"][i] is None) == silent
        if not silent:
            assert items["win"][i] in (0.0, 0.5, 1.0)
    assert 0 < sum(items["unanswered"]) < PROMPTS
    assert len(read_record(folder).items.win) == PROMPTS


def test_one_random_order_is_one_request_and_the_same_for_all_sources(tiny_folder: Path, own: Runner) -> None:
    with ChatServer().running() as url:
        cells = [own.cell(asked(tiny_folder, endpoint(url, orders="random"), source)) for source in ("en", "de")]
    first = [[p is None for p in verdicts_of(own, stage)["p_first"]] for stage, _ in cells]
    second = [[p is None for p in verdicts_of(own, stage)["p_second"]] for stage, _ in cells]
    assert first[0] == first[1] and second[0] == [not gone for gone in first[0]]
    assert 0 < sum(first[0]) < PROMPTS
    items = read(cells[0][1] / "items.json")
    assert items["inconsistent"] == [None] * PROMPTS and items["unanswered"] == [0.0] * PROMPTS
    accuracy = read(own.folder(cells[0][0].parents["accuracy"]) / "accuracy.json")
    assert None not in accuracy["p_first"] and None not in accuracy["p_second"]


def test_a_cap_is_the_same_for_all_cells(tiny_folder: Path, own: Runner) -> None:
    with ChatServer().running() as url:
        cells = [own.cell(asked(tiny_folder, endpoint(url, max_instances=5), source)) for source in ("en", "de")]
    one, other = (read(folder / "items.json") for _, folder in cells)
    assert one["prompt"] == other["prompt"] and len(one["prompt"]) == 5
    record = read_record(cells[0][1])
    assert len(record.curve) == 5
    accuracy = read(own.folder(cells[0][0].parents["accuracy"]) / "accuracy.json")
    assert len(accuracy["group"]) == 5


def test_a_stopped_stage_goes_on_at_its_block(tiny_folder: Path, own: Runner) -> None:
    """Blocks that are done are not even looked up again: the cache is gone, and still nothing is asked."""
    server = ChatServer()
    with server.running() as url:
        stage = judge_stage(asked(tiny_folder, endpoint(url))).parents["verdict"]
        parents = {role: own.folder(parent) for role, parent in stage.parents.items()}
        own.run(stage, parents, own.root / "out")
        before = len(server.seen)
        shutil.rmtree(own.root / "cache")
        own.run(stage, parents, own.root / "out")
    assert len(server.seen) == before > 0


# --- accuracy -----------------------------------------------------------------------------------------------


def test_the_judge_is_checked_on_peoples_preferences(tiny_folder: Path, own: Runner) -> None:
    with ChatServer().running() as url:
        stage = judge_stage(asked(tiny_folder, endpoint(url))).parents["accuracy"]
        accuracy = read(own.folder(stage) / "accuracy.json")
    task = experiment(tiny_folder).task
    pairs = task_module(task).pairs(task, "tr", "test")
    longer_wins = [0.5 if len(p.chosen) == len(p.rejected) else float(len(p.chosen) > len(p.rejected)) for p in pairs]
    assert accuracy["correct"] == longer_wins and 0 < sum(longer_wins) < len(pairs)
    assert accuracy["group"] == [p.prompt.group for p in pairs]
    assert set(accuracy["dataset"]) == {"micro_summarization"} and accuracy["inconsistent"] == [False] * len(pairs)
    assert not any(accuracy["unanswered_first"] + accuracy["unanswered_second"])


def test_a_judge_with_a_favourite_place_is_inconsistent_and_right_half_the_time(tiny_folder: Path, own: Runner) -> None:
    with ChatServer(prefers=lambda body: 0.9).running() as url:
        stage, folder = own.cell(asked(tiny_folder, endpoint(url)))
    accuracy, items = read(own.folder(stage.parents["accuracy"]) / "accuracy.json"), read(folder / "items.json")
    assert set(accuracy["correct"]) == {0.5} and set(accuracy["inconsistent"]) == {True}
    assert items["win"] == pytest.approx([0.5] * PROMPTS)


def test_pairs_of_ratings_are_those_of_one_document_with_different_labels() -> None:
    def rating(document: str, response: str, label: float) -> Rating:
        return Rating(Prompt(f"{document}/{response}", "de", document, document), response, label)

    rated_ones = [
        rating("x", "a", 1),
        rating("x", "b", 0),
        rating("x", "c", 0),
        rating("y", "a", 0),
        rating("y", "d", 0),
    ]
    found = [(pair.prompt.text, pair.chosen, pair.rejected) for pair in pairs_of(rated_ones)]
    assert found == [("x", "a", "b"), ("x", "a", "c")]


# --- keys ---------------------------------------------------------------------------------------------------


def keys(checkpoint: Path, **settings: Any) -> dict[str, str]:
    stage = judge_stage(asked(checkpoint, LlmJudge(**{"base_url": "http://a/v1", "model": "m", **settings})))
    return {"judge": stage.key} | {role: stage.parents[role].key for role in ("verdict", "accuracy")}


WHERE_AND_HOW = [
    {"base_url": "https://b/v1"},
    {"requests_per_minute": 3.0},
    {"concurrency": 9},
    {"timeout": 1.0},
    {"retries": 0},
    {"backoff": 0.1},
]


@pytest.mark.parametrize("settings", WHERE_AND_HOW)
def test_how_an_endpoint_is_asked_is_in_no_key(no_model: Path, settings: dict[str, Any]) -> None:
    assert keys(no_model, **settings) == keys(no_model)


def test_nor_is_the_name_of_a_variable(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    assert keys(no_model, api_key_env="JUDGE_KEY") == keys(no_model)
    stage = judge_stage(asked(no_model, LlmJudge(base_url="http://a/v1", model="m", api_key_env="JUDGE_KEY")))
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
    ],
)
def test_what_decides_a_verdict_is_in_the_key(no_model: Path, settings: dict[str, Any], differ: set[str]) -> None:
    before, after = keys(no_model), keys(no_model, **settings)
    assert {name for name in before if before[name] != after[name]} == differ


def test_the_accuracy_is_one_a_target_and_judge(no_model: Path) -> None:
    cells = [judge_stage(asked(no_model, LlmJudge(checkpoint="packaged"), source)) for source in ("en", "de")]
    assert cells[0].parents["accuracy"].key == cells[1].parents["accuracy"].key
    assert cells[0].parents["verdict"].key != cells[1].parents["verdict"].key
    assert (cells[0].parents["verdict"].label, cells[0].parents["accuracy"].label) == (
        "llm[en, tr]",
        "judge_accuracy[tr]",
    )
    other = judge_stage(asked(no_model, LlmJudge(checkpoint="packaged", dtype="bfloat16")))
    assert other.parents["accuracy"].key != cells[0].parents["accuracy"].key


# --- prompts by task ----------------------------------------------------------------------------------------


def test_chats_get_the_dialog_prompt(no_model: Path, tmp_path: Path) -> None:
    roots = [[tree(lang, n) for lang in ("en", "es") for n in numbers] for numbers in (range(6), (6, 7))]
    task = Oasst(str(write_hub(tmp_path / "hub", *roots)), ("en", "es"))
    judge = LlmJudge(base_url="http://a/v1", model="m")
    made = msgspec.structs.replace(experiment(no_model, "es", "en", task=task, rm=BagOfWords()), judge=judge)
    stage = judge_stage(made)
    spec = stage.parents["verdict"].spec
    assert (spec["prompt"], spec["truncation_side"], spec["language"]) == ("dialog", "left", "en")
    assert spec["where"]["path"] == str(tmp_path / "hub") and spec["where"]["endpoint"]["base_url"] == "http://a/v1"
    assert judge_stage(asked(no_model, judge)).parents["verdict"].spec["prompt"] == "summarization"
    elsewhere = shutil.copytree(tmp_path / "hub", tmp_path / "copy")
    moved = changed(made, "task", path=str(elsewhere))
    assert judge_stage(moved).key == stage.key


def test_a_task_whose_data_has_moved_on_is_noticed(tiny_folder: Path, tmp_path: Path, own: Runner) -> None:
    """Paths and endpoint share a place in the spec; the data's digest is still compared."""
    task = Files(str(jsonl(tmp_path / "own.jsonl", [row for lang in ("en", "es") for row in rated(lang, 40)])), ())
    judge = LlmJudge(base_url="http://127.0.0.1:9/v1", model="m", retries=0, timeout=0.2)
    rm = Untrained("length")
    made = msgspec.structs.replace(experiment(tiny_folder, "es", "en", task=task, rm=rm), judge=judge)
    stage = judge_stage(changed(made, "sft", steps=0)).parents["verdict"]
    (tmp_path / "own.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"own\.jsonl has changed since the grid was planned"):
        own.run(stage, {}, tmp_path / "out")


# --- what is refused, what is said --------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, r"judge=llm needs a model or a server, and neither is named\. Type judge\.checkpoint=FOLDER"),
    ({"checkpoint": "packaged", "base_url": "http://a/v1", "model": "m"}, r"and both is named"),
    ({"base_url": "http://a/v1"}, r"judge\.base_url=http://a/v1 needs the name of a model there\. Type judge\.model="),
    ({"base_url": "localhost:8000", "model": "m"}, r"judge\.base_url=localhost:8000 is no URL of a server"),
    ({"base_url": "http://me:pw@a/v1", "model": "m"}, r"would be stored with the results"),
    ({"base_url": "http://a/v1", "model": "m", "api_key_env": "NO_SUCH"}, r"api_key_env=NO_SUCH names an .* not set"),
    ({"checkpoint": "packaged", "model": "m"}, r"judge\.model=m is of an endpoint"),
    ({"checkpoint": "packaged", "opponents": M + 1}, r"judge\.opponents=3 is more than .* policy\.baseline_samples=2"),
    ({"checkpoint": "nowhere"}, r"^judge\.checkpoint=nowhere is no folder of a model"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_a_judge_that_cannot_be_asked_is_refused(no_model: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        judge_stage(asked(no_model, LlmJudge(**settings)))
    assert "pw" not in str(caught.value)


def test_recorded_responses_are_left_to_people(tmp_path: Path) -> None:
    task = Files(str(jsonl(tmp_path / "own.jsonl", rated("tr", 40))), ("tr",))
    made = msgspec.structs.replace(asked(tmp_path, LlmJudge(checkpoint="packaged"), task=task), policy=Recorded())
    with pytest.raises(ConfigError, match=r"judge=llm cannot judge recorded responses\. Use judge=human"):
        check(made, BagOfWords())


def test_a_plan_says_how_many_requests_at_most(no_model: Path, tmp_path: Path) -> None:
    judge = LlmJudge(base_url="http://a/v1", model="m", opponents=2)
    cells = [
        Cell({"target_lang": "tr", "source_lang": s}, judge_stage(asked(no_model, judge, s))) for s in ("en", "de")
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
    made = asked(no_model, judge, "tr", task=task, rm=Untrained("length"))
    stage = judge_stage(made)
    assert "accuracy" not in stage.parents
    found = notes(make_plan([Cell({"target_lang": "tr"}, stage)], Store(tmp_path)))
    assert found[-1].startswith("judge=llm is not checked in tr: the task has no two held-out responses there, to one")
    assert "at most 6 times (1 stages)" in found[0]
