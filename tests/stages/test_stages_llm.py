"""Cells of judge=llm: by a local judge and by an endpoint, kills, caps, what is not answered, its own accuracy."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pytest
from chat_server import ChatServer, longer, texts_of
from small_grid import M, Runner, array, experiment, judged_by, read

from xling.errors import StageError
from xling.grid.plan import make_plan
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.judges.asking import judge_prompt
from xling.judges.llm import Settings as LlmJudge
from xling.judges.local import load_local_judge
from xling.optimizers import best_of_n
from xling.optimizers.dpo import Settings as DPO
from xling.planning.dag import judge_stage
from xling.planning.judging import notes
from xling.results.items import read_record
from xling.results.reading import held_out_pairs, pairs_of
from xling.results.samples import read_samples
from xling.stages import llm_judge
from xling.stages.llm_judge import by_prompt as fold
from xling.tasks.options import task_module
from xling.tasks.records import Prompt, Rating

BEST = best_of_n.Settings()
PROMPTS = 12  # of the small grid


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The tiny model with room for a judge's prompt, of which its tokenizer makes more than 512 tokens."""
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


def endpoint(url: str, **settings: Any) -> LlmJudge:
    return LlmJudge(base_url=url, model="judge-1", timeout=2.0, retries=1, backoff=0.01, **settings)


class Ask(Protocol):
    def __call__(self, source: str = "en", server: ChatServer | None = None, **settings: Any) -> tuple[Stage, Path]: ...


@pytest.fixture
def ask(tiny_folder: Path, own: Runner) -> Ask:
    """Runs the cell of a source by an endpoint; a server of its own answers, which prefers the longer text."""

    def asked(source: str = "en", server: ChatServer | None = None, **settings: Any) -> tuple[Stage, Path]:
        with (server or ChatServer()).running() as url:
            return own.cell(judged_by(tiny_folder, endpoint(url, **settings), source))

    return asked


def verdicts_of(runner: Runner, stage: Stage) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = read(runner.folder(stage.parents["verdict"]) / "verdicts.json")
    return found


# --- a cell from end to end ---------------------------------------------------------------------------------


def test_a_cell_by_a_local_judge(tiny_folder: Path, judge_folder: Path, own: Runner) -> None:
    one = judged_by(tiny_folder, LlmJudge(checkpoint=str(judge_folder), opponents=2, min_mass=0.0))
    stage, folder = own.cell(one)
    pools = {role: read_samples(own.folder(stage.parents[role])) for role in ("pool", "baseline")}
    picks = best_of_n.pick(BEST, array(own.folder(stage.parents["score"]) / "pool.npy"), ()).tolist()
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
    hard = np.where(both == 0.5, 0.5, both > 0.5)
    assert items["win_soft"] == items["win"] and items["win_hard"] == hard.reshape(-1, 2).mean(axis=1).tolist()
    asked = ~np.array(columns["identical"])
    disagree = (np.array(columns["p_first"]) > 0.5) != (np.array(columns["p_second"]) > 0.5)
    for row, (own, turned) in enumerate(zip(asked.reshape(-1, 2), disagree.reshape(-1, 2), strict=True)):
        assert items["inconsistent"][row] == (turned[own].mean() if own.any() else None)
        assert items["unanswered"][row] == (0.0 if own.any() else None)
    masses = [columns["mass_first"], columns["mass_second"]]
    assert all(0 < mass < 0.1 for some in masses for mass, out in zip(some, asked, strict=True) if out)
    for row, mass in enumerate(items["mass"]):
        own = [m for some in masses for m in some[2 * row : 2 * row + 2] if m is not None]
        assert mass == (pytest.approx(sum(own) / len(own)) if own else None)
    assert items["index"] == picks
    record = read_record(folder)
    assert record.items.win_hard == items["win_hard"]
    assert record.curve.shape == (PROMPTS, 0) and record.summary.n_samples == 4


def test_two_sources_by_an_endpoint_ask_everything_once(tiny_folder: Path, own: Runner) -> None:
    server = ChatServer()
    with server.running() as url:
        cells = [own.cell(judged_by(tiny_folder, endpoint(url), source)) for source in ("en", "de")]
        pairs = held_out_pairs(experiment(tiny_folder).task, "tr")
        distinct = {json.dumps(body) for body in server.seen}
        assert len(server.seen) == len(distinct) == len(server.answered)
        compared = {(row["prompt"], row["sample"]) for stage, _ in cells for row in rows(verdicts_of(own, stage))}
        assert len(distinct) <= 2 * (len(compared) + len(pairs)) and len(compared) < 2 * PROMPTS
        before = len(server.seen)
        shutil.rmtree(own.root / "llm")
        shutil.rmtree(own.root / "judge")
        again = [own.cell(judged_by(tiny_folder, endpoint(url), source)) for source in ("en", "de")]
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
        one = msgspec.structs.replace(judged_by(tiny_folder, endpoint(url, opponents=2)), optimizer=optimizer)
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


def test_a_judge_that_dies_in_mid_run_and_comes_back(tiny_folder: Path, ask: Ask, own: Runner) -> None:
    dying, back = ChatServer(fault=lambda number, body: "drop" if number >= 9 else None), ChatServer()
    with pytest.raises(StageError, match="cannot be reached"):
        ask(server=dying)
    assert sum(dying.answered.values()) == 9
    stage, folder = ask(server=back)  # another URL, the same key
    every = dying.answered + back.answered
    assert set(every.values()) == {1} and not set(dying.answered) & set(back.answered)
    with ChatServer().running() as url:
        fresh = Runner(own.root.with_name("fresh"))
        _, undisturbed = fresh.cell(judged_by(tiny_folder, endpoint(url)))
    assert (folder / "items.json").read_bytes() == (undisturbed / "items.json").read_bytes()
    assert (own.folder(stage.parents["accuracy"]) / "accuracy.json").exists()


def test_what_is_not_answered_is_counted_and_left_out(ask: Ask, own: Runner) -> None:
    def text(body: dict[str, Any]) -> str:
        first, second = texts_of(body)
        return "Neither." if min(first, second) < "b" and first != second else "1" if longer(body) > 0.5 else "2"

    server = ChatServer(text=text)
    stage, folder = ask(server=server, win="hard", max_unanswered=1.0)
    columns, items = verdicts_of(own, stage), read(folder / "items.json")
    pool, baseline = (read_samples(own.folder(stage.parents[role])) for role in ("pool", "baseline"))
    for i, row in enumerate(rows(columns)):
        mine, theirs = pool[i].responses[row["sample"]], baseline[i].responses[0]
        silent = min(mine, theirs) < "b" and mine != theirs
        assert row["unanswered_first"] is row["unanswered_second"] is silent
        assert (row["p_first"] is None) == silent
        assert row["identical"] == (mine == theirs) and (items["win"][i] is None) == silent
        assert items["unanswered"][i] == (None if mine == theirs else float(silent))
        assert (items["inconsistent"][i] is None) == (silent or mine == theirs)
        if not silent:
            assert items["win"][i] in (0.0, 0.5, 1.0)
    assert items["win_hard"] == items["win"]
    assert 0 < items["unanswered"].count(1.0) < PROMPTS
    assert len(read_record(folder).items.win) == PROMPTS


def test_more_than_the_stated_share_unanswered_is_a_hole(ask: Ask) -> None:
    """The share is the cell's last stage's alone: another one asks nothing again."""

    def text(body: dict[str, Any]) -> str:
        return "Neither." if longer(body) > 0.5 else "1"  # in one of both orders, unless they are as long

    server = ChatServer(text=text)
    sentence = r"left \d+ of \d+ pairs unanswered \(\d+ %; judge.max_unanswered=0.5\): \d+ neither 1 nor 2\.$"
    with pytest.raises(StageError, match=sentence):
        ask(server=server)
    before = len(server.seen)
    _, folder = ask(server=server, max_unanswered=1.0)
    assert len(server.seen) == before
    shares = [share for share in read(folder / "items.json")["unanswered"] if share is not None]
    assert np.mean(shares) > 0.5


def test_a_judge_that_answers_nothing_is_a_hole_whatever_share_is_allowed(ask: Ask) -> None:
    with pytest.raises(StageError, match=r"left (\d+) of \1 pairs unanswered .*: \1 cut off"):
        ask(server=ChatServer(text=lambda body: "<think>\nOkay, let"), max_unanswered=1.0)


def test_a_judge_without_a_single_answer_is_not_asked_to_the_end(
    tiny_folder: Path, own: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_judge, "HOPELESS", 4)
    monkeypatch.setattr(llm_judge, "PAIRS", 5)
    server = ChatServer(text=lambda body: "")
    with server.running() as url:
        stage = judge_stage(judged_by(tiny_folder, endpoint(url))).parents["accuracy"]
        with pytest.raises(StageError, match=r"left 5 of 5 first pairs unanswered .* type judge.max_tokens=4096"):
            own.folder(stage)
    assert len(server.seen) == 10


def test_a_local_judge_that_would_hardly_say_a_digit_is_a_hole(
    tiny_folder: Path, judge_folder: Path, own: Runner
) -> None:
    with pytest.raises(StageError, match=r"less than 0.1 of the probability on 1 and 2\. .* lower judge.min_mass"):
        own.cell(judged_by(tiny_folder, LlmJudge(checkpoint=str(judge_folder))))


def test_one_filtered_prompt_is_one_unanswered_pair(ask: Ask, own: Runner) -> None:
    body = json.dumps({"error": {"message": "filtered", "code": "content_filter"}}).encode()
    server = ChatServer(fault=lambda number, _: (400, {}, body) if number == 0 else None)
    stage, _ = ask(server=server, concurrency=1)
    columns = [verdicts_of(own, stage), read(own.folder(stage.parents["accuracy"]) / "accuracy.json")]
    silent = [why for column in columns for side in ("first", "second") for why in column[f"why_{side}"] if why]
    assert silent == ["filtered by the server"]


def test_a_changed_answer_in_the_cache_changes_no_number(ask: Ask, own: Runner) -> None:
    before = (ask()[1] / "items.json").read_bytes()
    for path in (own.root / "cache" / "judges").glob("*/*.json"):
        path.write_text(path.read_text().replace('"first":0.', '"first":0.9'))
    for kind in ("llm", "judge"):
        shutil.rmtree(own.root / kind)
    assert (ask()[1] / "items.json").read_bytes() == before


def test_equal_texts_are_ties_in_win_and_in_no_share(tmp_path: Path) -> None:
    """One prompt: a tie of equal texts, a pair whose orders disagree, one that was not answered; another: a tie."""
    folder = tmp_path / "llm"
    folder.mkdir()
    columns = {
        "prompt": ["p", "p", "p", "q"],
        "sample": [0] * 4,
        "opponent": [0, 1, 2, 0],
        "p_first": [0.5, 0.9, None, 0.5],
        "p_second": [0.5, 0.3, 1.0, 0.5],
        "unanswered_first": [False, False, True, False],
        "unanswered_second": [False] * 4,
        "identical": [True, False, False, True],
    }
    (folder / "verdicts.json").write_text(json.dumps(columns))
    found = fold(folder, ["q", "other", "p"], "hard")
    assert found["row"] == [0, 2] and found["win"] == found["win_hard"] == [0.5, 0.75]
    assert found["win_soft"] == [0.5, pytest.approx(0.55)]
    assert found["inconsistent"] == [None, 1.0] and found["unanswered"] == [None, 0.5]


def test_one_random_order_is_one_request_and_the_same_for_all_sources(ask: Ask, own: Runner) -> None:
    cells = [ask(source, orders="random") for source in ("en", "de")]
    first = [[p is None for p in verdicts_of(own, stage)["p_first"]] for stage, _ in cells]
    second = [[p is None for p in verdicts_of(own, stage)["p_second"]] for stage, _ in cells]
    assert first[0] == first[1] and second[0] == [not gone for gone in first[0]]
    assert 0 < sum(first[0]) < PROMPTS
    items = read(cells[0][1] / "items.json")
    assert items["inconsistent"] == [None] * PROMPTS
    identical = verdicts_of(own, cells[0][0])["identical"]
    assert items["unanswered"] == [None if same else 0.0 for same in identical]
    accuracy = read(own.folder(cells[0][0].parents["accuracy"]) / "accuracy.json")
    assert None not in accuracy["p_first"] and None not in accuracy["p_second"]


def test_a_cap_is_the_same_for_all_cells(ask: Ask, own: Runner) -> None:
    cells = [ask(source, max_instances=5) for source in ("en", "de")]
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
        stage = judge_stage(judged_by(tiny_folder, endpoint(url))).parents["verdict"]
        parents = {role: own.folder(parent) for role, parent in stage.parents.items()}
        own.run(stage, parents, own.root / "out")
        before = len(server.seen)
        shutil.rmtree(own.root / "cache")
        own.run(stage, parents, own.root / "out")
    assert len(server.seen) == before > 0


# --- accuracy -----------------------------------------------------------------------------------------------


def test_the_judge_is_checked_on_peoples_preferences(tiny_folder: Path, own: Runner) -> None:
    with ChatServer().running() as url:
        stage = judge_stage(judged_by(tiny_folder, endpoint(url))).parents["accuracy"]
        accuracy = read(own.folder(stage) / "accuracy.json")
    task = experiment(tiny_folder).task
    pairs = task_module(task).pairs(task, "tr", "test")
    longer_wins = [0.5 if len(p.chosen) == len(p.rejected) else float(len(p.chosen) > len(p.rejected)) for p in pairs]
    assert accuracy["correct"] == longer_wins and 0 < sum(longer_wins) < len(pairs)
    assert accuracy["group"] == [p.prompt.group for p in pairs]
    assert set(accuracy["dataset"]) == {"micro_summarization"} and accuracy["inconsistent"] == [False] * len(pairs)
    assert not any(accuracy["unanswered_first"] + accuracy["unanswered_second"])


def test_a_judge_with_a_favourite_place_is_inconsistent_and_right_half_the_time(ask: Ask, own: Runner) -> None:
    stage, folder = ask(server=ChatServer(prefers=lambda body: 0.9))
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
