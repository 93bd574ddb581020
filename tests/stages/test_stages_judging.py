"""Reward models as judges: one of the target, of all rows, of another language, seed or half; controls and cues."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import families
import msgspec
import numpy as np
import pytest
from own_files import jsonl, paired, rated
from small_grid import (
    BUDGET,
    FACTS,
    TASK,
    Runner,
    array,
    changed,
    experiment,
    judge_named,
    judged_by,
    languages,
    oasst,
    read,
    refused,
    seahorse,
)

from xling.config.common import Language, Template
from xling.config.policies import Recorded
from xling.grid.plan import make_plan
from xling.grid.stage import Context
from xling.grid.store import Store
from xling.judges import JudgeSettings
from xling.judges.gold import Settings as Gold
from xling.judges.target_rm import Settings as TargetRM
from xling.models import encoder, ridge
from xling.models.load import load_policy
from xling.models.ridge import half_of
from xling.models.states import log_likelihood
from xling.models.text import prompt_ids, response_ids
from xling.planning.controls import SHUFFLES
from xling.planning.dag import cells_from, judge_stage
from xling.planning.datacheck import check_data
from xling.planning.judging import notes
from xling.planning.refusals import check
from xling.results.samples import read_samples
from xling.results.specs import RewardSpec, located
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.encoder import Settings as Encoder
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.settings import RewardModel
from xling.rewards.system import Settings as SystemIdentity
from xling.rewards.untrained import Settings as Untrained
from xling.stages.features import all_features
from xling.stages.reward import all_feedback, feedback
from xling.tasks.files import Settings as Files
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import Task, task_module
from xling.tasks.records import Prompt
from xling.tasks.released import Settings as Released
from xling.tasks.render import cue_of, with_facts
from xling.tasks.seahorse import Settings as Seahorse

BY_BAG = judge_named("target_rm", BagOfWords())
LIKELIHOODS = ["likelihood_base", "likelihood_sft", "likelihood_gain_base", "likelihood_gain_sft"]


def files(folder: Path, **settings: Any) -> Files:
    rows = [row for lang in ("en", "es") for row in rated(lang, 40)]
    return Files(str(jsonl(folder / "own.jsonl", rows)), (), **settings)


TASKS = {"oasst": oasst, "seahorse": seahorse, "files": files}


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.saved_classifier(tmp_path_factory.mktemp("classifier"), "qwen3")


def asked(
    at: Path, task: Task = TASK, rm: RewardModel | None = None, judge: JudgeSettings | str = BY_BAG, **more: Any
) -> Any:
    rm, source = rm or BagOfWords(), "de" if isinstance(task, Seahorse) else "es"
    axes = {"rm_backbone": rm.name, "source_lang": "es", "target_lang": "en", "seed": 0}
    return experiment(at, source, "en", task=task, rm=rm, judge=judge, axes=axes, **more)


# --- controls on tasks without exact quality ----------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_controls_of_real_tasks_are_what_the_task_offers(no_model: Path, tmp_path: Path, name: str) -> None:
    one = asked(no_model, TASKS[name](tmp_path), judge="target_rm")
    found = [cell.axes["rm_backbone"] for cell in cells_from([one], controls=True)]
    shuffled = [f"shuffled_{k}:bag_of_words" for k in range(1, SHUFFLES + 1)]
    likelihoods = LIKELIHOODS[:2] if name == "files" else LIKELIHOODS  # files: the prompt is nothing but the document
    assert found == ["bag_of_words", *shuffled, "random", "length", *likelihoods]


def test_the_embedded_world_keeps_its_ceiling(no_model: Path) -> None:
    cells = cells_from([asked(no_model)], controls=True)
    assert {"gold", *LIKELIHOODS} <= {cell.axes["rm_backbone"] for cell in cells}


# --- one judge for all rows ---------------------------------------------------------------------------------


def test_one_reward_model_judges_backbones_references_and_controls(no_model: Path, classifier: Path) -> None:
    untrained = [Untrained("length"), Untrained("likelihood_sft")]
    kinds: list[RewardModel] = [BagOfWords(), FrozenLM(), *untrained, Classifier(str(classifier))]
    cells = cells_from([asked(no_model, rm=rm) for rm in kinds], controls=True)
    assert len(cells) == len(kinds) + 2 * SHUFFLES + len(("random", "gold", *LIKELIHOODS)) - 1
    home = judge_stage(experiment(no_model, "en", "en", rm=BagOfWords())).parents["score"]
    assert {cell.stage.parents["verdict"].key for cell in cells} == {home.key}


def test_without_one_each_row_is_judged_by_its_own_kind_as_before(no_model: Path) -> None:
    own = [judge_stage(asked(no_model, rm=rm, judge="target_rm")) for rm in (BagOfWords(), FrozenLM())]
    assert own[0].parents["verdict"].key != own[1].parents["verdict"].key
    assert own[0].key == judge_stage(asked(no_model)).key  # the same reward model by name


@pytest.mark.parametrize("name", TASKS)
def test_a_reference_and_a_published_model_fill_cells_of_real_tasks(
    runner: Runner, tiny_folder: Path, classifier: Path, tmp_path: Path, name: str
) -> None:
    task = TASKS[name](tmp_path)
    if isinstance(task, Seahorse | Oasst):
        task = with_facts(task, FACTS.values())
    verdicts = set()
    for rm in (BagOfWords(), Untrained("length"), Untrained("likelihood_base"), Classifier(str(classifier))):
        stage, folder = runner.cell(asked(tiny_folder, task, rm))
        assert all(0 <= win <= 1 for win in read(folder / "items.json")["win"])
        verdicts.add(stage.parents["verdict"].key)
    assert len(verdicts) == 1


def test_what_a_judge_has_in_common_with_rows_is_said(no_model: Path, tmp_path: Path) -> None:
    def said(judge: JudgeSettings, *sources: str, kinds: Sequence[RewardModel] = (BagOfWords(),)) -> list[str]:
        asked_for = [
            experiment(no_model, source, "en", rm=rm, judge=judge, axes={
                "rm_backbone": rm.name, "source_lang": source, "target_lang": "en", "seed": 0})
            for source in sources for rm in kinds
        ]  # fmt: skip
        return notes(make_plan(cells_from(asked_for), Store(tmp_path)))

    spanish = TargetRM(lang=languages("es")[0])
    assert said(spanish, "de", "tr") == [] == said(TargetRM(half=True), "de", "en")
    for sources in (("de", "es"), ("de+es", "tr")):
        (note,) = said(spanish, *sources)
        assert note.startswith("judge.lang=es: the judge has learnt from the same people's preferences")
    (note,) = said(BY_BAG, "de", kinds=(BagOfWords(), FrozenLM()))
    assert "of the kind of the rows bag_of_words, which it may favour beside frozen_lm" in note


def of_target(rm: RewardModel) -> JudgeSettings:
    return judge_named("target_rm", rm)


POINTWISE = msgspec.structs.replace(Encoder("x", training=BUDGET), objective="pointwise")
UNTRAINED = r"has none: it is not trained\. .* judge/rm_backbone=bag_of_words, sentence"
REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"rm": rm, "judge": "target_rm"}, UNTRAINED) for rm in (Untrained("length"), Untrained("likelihood_base"))),
    ({"judge": of_target(Untrained("random"))}, r"and judge/rm_backbone=random has none"),
    ({"judge": of_target(SystemIdentity())}, r"and judge/rm_backbone=system has none"),
    ({"judge": judge_named("gold", BagOfWords())}, r"judge/rm_backbone=bag_of_words is .* Type judge=target_rm, or"),
    ({"judge": judge_named("human", BagOfWords()), "policy": Recorded()}, "and judge=human decides by none"),
    ({"judge": of_target(Encoder("nowhere", training=BUDGET))},
     r"^judge\.rm_backbone\.checkpoint=nowhere is no folder of a model .* Use judge\.rm_backbone\.checkpoint="),
    ({"judge": of_target(SentenceEncoder("nowhere"))}, r"^judge\.rm_backbone\.encoder=nowhere is neither"),
    ({"judge": of_target(POINTWISE), "task": oasst}, r"no ratings to train judge/rm_backbone=encoder on"),
    ({"rm": Untrained("likelihood_gain_sft"), "task": files},
     r"nothing but the document\. Put .* or use rm_backbone=likelihood_sft\."),
    ({"judge": TargetRM(lang=Language("xx", "", "", ""))},
     r"judge.lang=xx: the task has no 'xx'. It has de, .* judge.lang=null"),
    ({"judge": TargetRM(seed=7)}, r"judge.seed=7 would make the same judge again: rm_backbone=bag_of_words"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_what_cannot_judge_is_refused(no_model: Path, tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    task = settings.get("task", lambda folder: TASK)(tmp_path)
    refused(asked(no_model, **settings | {"task": task}), sentence)


# --- references and the encoder -----------------------------------------------------------------------------


def test_the_encoder_of_a_row_is_in_no_reference_but_the_cosine(no_model: Path, tmp_path: Path) -> None:
    folder = str(families.saved_encoder(tmp_path / "encoder", "xlm_roberta"))
    people = asked(no_model, files(tmp_path), SentenceEncoder(folder), "human", policy=Recorded())
    found = {
        cell.axes["rm_backbone"]: located(cell.stage.parents["score"].spec)["rm"].get("encoder")
        for cell in cells_from([people], controls=True)
        if not str(cell.axes["rm_backbone"]).startswith("shuffled")
    }
    assert found.pop("sentence_encoder") == found.pop("cosine") == folder
    assert found.pop("system") is None
    assert found == dict.fromkeys(("random", "length", "shorter", "consensus", "human"), "packaged")


def test_a_reference_is_the_same_whatever_its_encoder(no_model: Path, tmp_path: Path) -> None:
    refused(experiment(no_model, rm=Untrained("human", "elsewhere")), "rm_backbone=human reads recorded responses")
    by_base = asked(no_model, files(tmp_path), Untrained("likelihood_base", "elsewhere"), "human")
    check(msgspec.structs.replace(by_base, task=Released("nowhere", "oasst", ("en", "es"))), by_base.rm_backbone)


# --- the prompt without its document ------------------------------------------------------------------------


def test_a_cue_is_the_template_without_its_document(tmp_path: Path) -> None:
    paper = Template(policy="Summarize the following text in {language}:\n{text}\nSummary:")
    summarize = msgspec.structs.replace(seahorse(tmp_path), template=paper)
    for task, expected in (
        (summarize, "Summarize the following text in English:\n\nSummary:"),
        (files(tmp_path, template=Template(policy="Q: {text}")), "Q: "),
    ):
        filled = with_facts(task, FACTS.values())
        prompt = task_module(filled).prompts(filled, "en", "test")[0]
        assert cue_of(filled, prompt) == expected
    assert cue_of(TASK, Prompt("1", "en", "1", "a document\nthe cue:")) == "the cue:"


def test_a_gain_is_over_an_instruction(no_model: Path, tmp_path: Path) -> None:
    instructed = files(tmp_path, template=Template(policy="Q: {text}"))
    judge_stage(asked(no_model, instructed, Untrained("likelihood_gain_sft")))


def test_gains_are_over_the_instruction(runner: Runner, tiny_folder: Path, tmp_path: Path) -> None:
    """The last line of a document does not stand for its absence."""
    rows = [row for lang in ("en", "es") for row in rated(lang, 40)]
    for row in rows:
        row["prompt"] += "\nThe document's last line."
    task = Files(str(jsonl(tmp_path / "own.jsonl", rows)), (), template=Template(policy="Q: {text}"))
    stage = judge_stage(asked(tiny_folder, task, Untrained("likelihood_gain_base")))
    found = array(runner.folder(stage.parents["score"]) / "pool.npy")
    model, tokenizer = load_policy(tiny_folder)
    samples = read_samples(runner.folder(stage.parents["pool"]))
    said = [response_ids(tokenizer, one.responses) for one in samples]
    texts = {p.id: p.text for p in task_module(task).prompts(task, "en", "test")}
    given, alone = (
        np.array(log_likelihood(model, prompt_ids(tokenizer, asked_for), said, tokenizer.pad_token_id))
        for asked_for in ([texts[one.prompt] for one in samples], ["Q: "] * len(samples))
    )
    np.testing.assert_allclose(found, given - alone, rtol=1e-5, atol=1e-6)


# --- what is cut --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frozen_lm", "sentence_encoder"])
def test_what_a_frozen_model_does_not_read_is_counted(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    rows = [row for lang in ("en", "es") for row in rated(lang, 40)]
    for row in rows:
        row["prompt"] += " " + "word " * (1200 if row["lang"] == "en" else 1)
    folder = families.saved_encoder(tmp_path / "encoder", "xlm_roberta")
    rm: RewardModel = FrozenLM() if kind == "frozen_lm" else SentenceEncoder(str(folder))
    task = Files(str(jsonl(tmp_path / "own.jsonl", rows)), ())
    runner = Runner(tmp_path / "stages")
    runner.root.mkdir()
    score = judge_stage(asked(tiny_folder, task, rm)).parents["score"]
    cut = read(runner.folder(score) / "score.json")
    prompts = len(array(runner.folder(score) / "pool.npy"))
    assert cut["samples"] == {"cut_prompts": prompts, "cut_responses": 0}
    assert cut["heldout"]["cut_prompts"] == prompts
    trained = runner.folder(score.parents["reward"].parents["features_es"]) / "cut.json"
    assert read(trained) == {"feedback": {"cut_prompts": 0, "cut_responses": 0}}
    people = asked(tiny_folder, task, rm, "human", policy=Recorded())
    if kind == "sentence_encoder":
        recorded = runner.folder(judge_stage(people).parents["score"])
        assert read(recorded / "score.json")["recorded"]["cut_prompts"] == 40


def test_the_packaged_encoder_reads_texts_to_their_end() -> None:
    assert encoder.cut_counter("packaged")(["word " * 5000], ["x"]) == {"cut_prompts": 0, "cut_responses": 0}


def test_one_half_is_good_everywhere(runner: Runner, tiny_folder: Path, tmp_path: Path) -> None:
    rows = [row | {"rating": row["rating"] / 2} for lang in ("en", "es") for row in rated(lang, 40)]
    task = Files(str(jsonl(tmp_path / "own.jsonl", rows)), (), rating_scale=(0.0, 1.0))
    module = task_module(task)
    assert all(module.demonstrations(task, "en", "train"))  # a half may be imitated
    score = judge_stage(asked(tiny_folder, task)).parents["score"]
    labels = read(runner.folder(score) / "heldout.json")["label"]
    assert labels == [int(rating.label == 0.5) for rating in module.ratings(task, "en", "test")] and sum(labels) == 4
    parts = {(p.lang, p.use, p.split): p for p in check_data("files", task, list(FACTS.values())).parts}
    assert parts["en", "ratings", "test"].balance == 50


# --- another language's reward model ------------------------------------------------------------------------


def by(code: str | None, rm_backbone: RewardModel | None = None) -> TargetRM:
    return TargetRM(rm_backbone=rm_backbone, lang=languages(code)[0] if code else None)


@pytest.mark.parametrize("rm", [None, BagOfWords()])  # each row's own kind, or one of all rows
def test_the_named_languages_reward_model_scores_the_same_samples(no_model: Path, rm: RewardModel | None) -> None:
    own, de = (judge_stage(judged_by(no_model, by(code, rm))).parents for code in (None, "de"))
    assert own["verdict"].parents["reward"].label == "reward[tr]"
    assert de["verdict"].parents["reward"].label == "reward[de]" and own["verdict"].key != de["verdict"].key
    assert all(own[role].key == de[role].key for role in ("pool", "baseline", "score"))


def test_null_and_the_target_itself_are_the_same_cell_as_ever(no_model: Path) -> None:
    judges = ("target_rm", by(None), by("tr"))
    assert len({judge_stage(experiment(no_model, rm=BagOfWords(), judge=one)).key for one in judges}) == 1


def test_at_home_the_judge_is_the_cell_of_that_source(no_model: Path) -> None:
    """Foreign reward models score what they would score anyway: nothing is trained or scored twice."""
    home, foreign = (judge_stage(judged_by(no_model, by("en"), source=source)).parents for source in ("tr", "en"))
    assert home["verdict"].key == foreign["score"].key


def test_another_judge_has_no_such_setting() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `lang`"):
        msgspec.convert({"name": "gold", "lang": None}, Gold)


# --- the cell's own reward model, and judges that are not it --------------------------------------------------


@pytest.mark.parametrize("rm", [BagOfWords(), SameAsPolicy(training=BUDGET)])
def test_at_home_the_judge_is_the_very_reward_model_that_picks(no_model, rm):
    home = judge_stage(judged_by(no_model, by(None), source="tr", rm=rm))
    abroad = judge_stage(judged_by(no_model, by(None), source="en", rm=rm))
    assert home.parents["verdict"].key == home.parents["score"].key  # which the fold marks (judges_its_own)
    assert abroad.parents["verdict"].key != abroad.parents["score"].key


@pytest.mark.parametrize("judge", [{"half": True}, {"seed": 7}])
@pytest.mark.parametrize("source", ["tr", "en"])
def test_another_judge_is_another_reward_model_on_the_same_samples(no_model, judge, source):
    rm = SameAsPolicy(training=BUDGET)
    cell = judge_stage(judged_by(no_model, TargetRM(**judge), source=source, rm=rm))
    assert cell.parents["verdict"].parents["reward"].key != cell.parents["score"].parents["reward"].key
    for role in ("pool", "baseline"):
        assert cell.parents["verdict"].parents[role].key == cell.parents["score"].parents[role].key


def test_with_halves_cell_and_judge_learn_from_other_documents(no_model):
    cell = judge_stage(judged_by(no_model, TargetRM(half=True), source="tr"))
    rewards = [cell.parents[role].parents["reward"] for role in ("score", "verdict")]
    assert [stage.spec["half"] for stage in rewards] == ["first", "second"]
    assert [stage.label for stage in rewards] == ["reward[tr] first half", "reward[tr] second half"]
    plain = judge_stage(judged_by(no_model, by(None), source="tr")).parents["score"].parents["reward"]
    assert "half" not in plain.spec


@pytest.mark.parametrize("objective", ["pairwise", "pointwise"])
@pytest.mark.parametrize("kind", ["bag_of_words", "frozen_lm", "same_as_policy"])
def test_halves_share_no_document_and_miss_none(tiny_folder, runner, objective, kind):
    """By the feedback that each training reads; and each half's model is trained, and is another one."""
    rm = {"bag_of_words": BagOfWords(), "frozen_lm": FrozenLM(), "same_as_policy": SameAsPolicy(training=BUDGET)}[kind]
    task = msgspec.structs.replace(TASK, feedback=objective)
    cell = judge_stage(judged_by(tiny_folder, TargetRM(half=True), source="tr", rm=rm, task=task))
    seen, scores = [], []
    for role in ("score", "verdict"):
        stage = cell.parents[role].parents["reward"]
        folder = runner.folder(stage)
        context = Context(
            stage.spec, {name: runner.folder(up) for name, up in stage.parents.items()}, folder, folder, print
        )
        spec = msgspec.convert(stage.spec, RewardSpec)
        seen.append([(item.prompt.group, item) for item in feedback(context, spec, "train", 0)])
        scores.append(array(runner.folder(cell.parents[role]) / "pool.npy"))
    everything = [*seen[0], *seen[1]]
    assert {group for group, _ in seen[0]}.isdisjoint(group for group, _ in seen[1])
    assert len(everything) == getattr(TASK, "pairs" if objective == "pairwise" else "ratings")
    assert min(map(len, seen)) > len(everything) / 4
    assert not np.array_equal(*scores)


def test_a_frozen_head_reads_the_features_of_its_own_half(tiny_folder, runner):
    """The head is the one that is fitted by hand on the rows of that half."""
    cell = judge_stage(judged_by(tiny_folder, TargetRM(half=True), source="tr", rm=FrozenLM()))
    stage = cell.parents["verdict"].parents["reward"]
    spec = msgspec.convert(stage.spec, RewardSpec)
    context = Context(stage.spec, {}, Path(), Path(), print)
    items = all_feedback(context, spec, "train", 0)
    rows = [n for n, item in enumerate(items) if half_of(item.prompt.group) == "second"]
    blocks = [block[rows] for block in all_features([runner.folder(stage.parents["features_tr"]) / "feedback"])]
    labels = np.array([2 * items[n].label - 1 for n in rows])
    groups = [items[n].prompt.group for n in rows]
    head = ridge.fit_whitened(blocks, lambda parts: ridge.fit(parts, labels, groups))
    with np.load(runner.folder(stage) / "head.npz") as stored:
        np.testing.assert_allclose(stored["weight"], head.weight, rtol=1e-6)


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
def test_a_half_with_too_little_is_refused_while_planning(no_model, tmp_path, feedback):
    """Else a judge of one document, or of ratings that are all the same, calls everything a tie."""
    rows = (rated if feedback == "pointwise" else paired)("tr", 80)
    group = "id" if feedback == "pointwise" else "tree"
    named = {name: str(n) for n, name in enumerate(dict.fromkeys(row[group] for row in rows))}
    here = [str(n) for n in range(1000) if half_of(str(n)) == "second"]
    rows = [row | {"group": here[int(named[row[group]])]} for row in rows]
    task = Files(str(jsonl(tmp_path / "few.jsonl", rows)), (), feedback=feedback)
    refused(
        judged_by(no_model, TargetRM(half=True), source="tr", task=task),
        r"leaves 0 documents .* in split train of tr to the first half.*half=false",
    )


def test_a_half_that_is_less_than_a_batch_and_a_judge_without_feedback_are_refused(no_model, tmp_path):
    """While planning, with what to type: half of 12 ratings is no batch of 8; a language without any has no half."""
    few = changed(experiment(no_model, judge=TargetRM(half=True)), "task", ratings=12)
    refused(few, r"task\.ratings=12 leaves \d ratings of \w+ to the \w+ half .*training\.batch_size=8\. .*half=false")
    path = jsonl(tmp_path / "own.jsonl", rated("en", 80))
    large = SameAsPolicy(training=msgspec.structs.replace(BUDGET, batch_size=500))
    said = r"There are \d+ ratings of en to train on, less than one batch: .*=500\. Type .*=\d+ or less, or add data\."
    refused(experiment(no_model, "en", "en", task=Files(str(path), ()), rm=large, judge=BY_BAG), said)
    jsonl(tmp_path / "prompts_tr.jsonl", [{"lang": "tr", "prompt": f"metin {n}"} for n in range(20)])
    unrated = judged_by(no_model, TargetRM(half=True), task=Files(str(tmp_path), ()))
    refused(changed(unrated, "sft", steps=0), r"tr has no ratings to train on\. Type judge\.lang=LANG .* judge=llm")


def test_a_half_of_equal_ratings_is_refused_while_planning(no_model, tmp_path):
    rows = [row | {"rating": int(half_of(row["id"]) == "first" and row["rating"])} for row in rated("tr", 60)]
    rows = [row | {"group": row["id"]} for row in rows]
    task = Files(str(jsonl(tmp_path / "flat.jsonl", rows)), ())
    refused(
        judged_by(no_model, TargetRM(half=True), source="tr", task=task),
        "all ratings of tr in split train that the second half has are the same",
    )


def test_the_plan_says_which_cells_are_no_evidence(tmp_path, capsys):
    """By the real command line: at home, and nowhere with judge.half=true."""
    asked = ["task=micro_tiny", "policy=micro_tiny", "rm_backbone=bag_of_words", "judge=target_rm", "dry_run=true"]
    for half, expected in (("false", True), ("true", False)):
        command = [*asked, f"judge.half={half}", "source_lang=de,en", "target_lang=de,en", f"root={tmp_path}"]
        done = subprocess.run(
            [sys.executable, "launch.py", *command], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 0, done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert ("2 cells are judged by the very reward model" in said) is expected
