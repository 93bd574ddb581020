"""One reward model of the target that judges all rows; controls, cues and counts of what is cut on real tasks."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from small_grid import BUDGET, TASK, Runner, array, experiment, judge_named, read

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("tasks", "models")]  # small files, tiny models
import families
from oasst_files import tree, write_hub
from own_files import jsonl, rated
from seahorse_files import plain_rows, write_corpora, write_ratings

from xling.config.common import Language, Template
from xling.config.policies import Recorded
from xling.errors import ConfigError
from xling.judges import JudgeSettings
from xling.models import encoder
from xling.models.load import load_policy
from xling.models.states import log_likelihood
from xling.models.text import prompt_ids, response_ids
from xling.planning.dag import SHUFFLES, cells_from, judge_stage
from xling.planning.datacheck import check_data
from xling.planning.refusals import check
from xling.results.prompts import located
from xling.results.samples import read_samples
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.encoder import Settings as Encoder
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.log_ratio import Settings as LogRatio
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.settings import RewardModel
from xling.rewards.system import Settings as SystemIdentity
from xling.rewards.untrained import Settings as Untrained
from xling.stages.score import length_rule
from xling.tasks.files import Settings as Files
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import Task, task_module
from xling.tasks.records import Prompt, Rating
from xling.tasks.released import Settings as Released
from xling.tasks.render import cue_of, with_facts
from xling.tasks.seahorse import Settings as Seahorse
from xling.tasks.seahorse_files import CORPORA

BY_BAG = judge_named("target_rm", BagOfWords())
INSTRUCTED = Template(policy="Answer in {language}.\n{text}")
NAMES = {"de": ("German", "Deutsch"), "en": ("English", "English"), "es": ("Spanish", "español")}
FACTS = [Language(code, *names, "Latn") for code, names in NAMES.items()]
LIKELIHOODS = ["likelihood_base", "likelihood_sft", "likelihood_gain_base", "likelihood_gain_sft"]


def oasst(folder: Path) -> Oasst:
    roots = [[tree(lang, n) for lang in ("en", "es") for n in numbers] for numbers in (range(6), (6, 7))]
    return Oasst(str(write_hub(folder / "hub", *roots)), ("en", "es"), template=INSTRUCTED)


def seahorse(folder: Path) -> Seahorse:
    write_ratings(folder / "ratings", plain_rows(("de", "en"), CORPORA))
    write_corpora(folder / "articles", ("de", "en"), CORPORA)
    return Seahorse(str(folder / "ratings"), str(folder / "articles"), ("de", "en"), max_prompts=2, template=INSTRUCTED)


def files(folder: Path, **settings: Any) -> Files:
    rows = [row for lang in ("en", "es") for row in rated(lang, 40)]
    return Files(str(jsonl(folder / "own.jsonl", rows)), (), **settings)


TASKS = {"oasst": oasst, "seahorse": seahorse, "files": files}


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.saved_classifier(tmp_path_factory.mktemp("classifier"), "qwen3")


def asked(checkpoint: Path, task: Task = TASK, rm: RewardModel | None = None, judge: JudgeSettings = BY_BAG) -> Any:
    rm = rm or BagOfWords()
    made = experiment(checkpoint, "de" if isinstance(task, Seahorse) else "es", "en", task=task, rm=rm)
    axes = {"rm_backbone": rm.name, "source_lang": "es", "target_lang": "en", "seed": 0}
    return msgspec.structs.replace(made, judge=judge, axes=axes)


# --- controls on tasks without exact quality ----------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_controls_of_real_tasks_are_what_the_task_offers(no_model: Path, tmp_path: Path, name: str) -> None:
    one = asked(no_model, TASKS[name](tmp_path), judge=judge_named("target_rm"))
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
    own = [judge_stage(asked(no_model, rm=rm, judge=judge_named("target_rm"))) for rm in (BagOfWords(), FrozenLM())]
    assert own[0].parents["verdict"].key != own[1].parents["verdict"].key
    assert own[0].key == judge_stage(asked(no_model)).key  # the same reward model by name


@pytest.mark.parametrize("name", TASKS)
def test_a_reference_and_a_published_model_fill_cells_of_real_tasks(
    runner: Runner, tiny_folder: Path, classifier: Path, tmp_path: Path, name: str
) -> None:
    task = TASKS[name](tmp_path)
    if isinstance(task, Seahorse | Oasst):
        task = with_facts(task, FACTS)
    verdicts = set()
    for rm in (BagOfWords(), Untrained("length"), Untrained("likelihood_base"), Classifier(str(classifier))):
        stage, folder = runner.cell(asked(tiny_folder, task, rm))
        assert all(0 <= win <= 1 for win in read(folder / "items.json")["win"])
        verdicts.add(stage.parents["verdict"].key)
    assert len(verdicts) == 1


@pytest.mark.parametrize("rm", [Untrained("length"), Untrained("likelihood_base"), LogRatio("a", "b")])
def test_what_cannot_judge_itself_is_told_what_to_type(no_model: Path, rm: RewardModel) -> None:
    with pytest.raises(ConfigError, match=r"has none: it is not trained\. .* judge/rm_backbone=bag_of_words, sentence"):
        check(asked(no_model, rm=rm, judge=judge_named("target_rm")), rm)


REFUSED: list[tuple[JudgeSettings, str]] = [
    (judge_named("target_rm", Untrained("random")), r"and judge/rm_backbone=random has none"),
    (judge_named("target_rm", SystemIdentity()), r"and judge/rm_backbone=system has none"),
    (judge_named("gold", BagOfWords()), r"judge/rm_backbone=bag_of_words is the .* Type judge=target_rm, or leave"),
    (
        judge_named("target_rm", Encoder("nowhere", training=BUDGET)),
        r"^judge\.rm_backbone\.checkpoint=nowhere is no folder of a model .* Use judge\.rm_backbone\.checkpoint=",
    ),
    (judge_named("target_rm", SentenceEncoder("nowhere")), r"^judge\.rm_backbone\.encoder=nowhere is neither"),
]


@pytest.mark.parametrize(("judge", "sentence"), REFUSED)
def test_a_judge_that_cannot_be_is_refused_by_its_own_settings(
    no_model: Path, judge: JudgeSettings, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        judge_stage(asked(no_model, judge=judge))


def test_a_judge_needs_feedback_of_the_target(no_model: Path, tmp_path: Path) -> None:
    pointwise = msgspec.structs.replace(Encoder("x", training=BUDGET), objective="pointwise")
    with pytest.raises(ConfigError, match=r"no ratings to train judge/rm_backbone=encoder on"):
        judge_stage(asked(no_model, oasst(tmp_path), Untrained("length"), judge_named("target_rm", pointwise)))


def test_people_need_no_reward_model_to_judge(tmp_path: Path) -> None:
    people = msgspec.structs.replace(
        asked(tmp_path, files(tmp_path), judge=judge_named("human", BagOfWords())), policy=Recorded()
    )
    with pytest.raises(ConfigError, match="and judge=human decides by none"):
        judge_stage(people)


# --- references and the encoder -----------------------------------------------------------------------------


def test_the_encoder_of_a_row_is_in_no_reference_but_the_cosine(no_model: Path, tmp_path: Path) -> None:
    folder = str(families.saved_encoder(tmp_path / "encoder", "xlm_roberta"))
    people = msgspec.structs.replace(
        asked(no_model, files(tmp_path), SentenceEncoder(folder), judge_named("human")), policy=Recorded()
    )
    found = {
        cell.axes["rm_backbone"]: located(cell.stage.parents["score"].spec)["rm"]["encoder"]
        for cell in cells_from([people], controls=True)
        if not str(cell.axes["rm_backbone"]).startswith("shuffled")
    }
    assert found.pop("sentence_encoder") == found.pop("cosine") == folder
    assert found == {"random": "packaged", "length": "packaged", "human": "packaged"}


def test_a_reference_is_the_same_whatever_its_encoder(no_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rm_backbone=human reads recorded responses"):
        judge_stage(experiment(no_model, rm=Untrained("human", "elsewhere")))
    by_base = asked(no_model, files(tmp_path), Untrained("likelihood_base", "elsewhere"), judge_named("human"))
    check(msgspec.structs.replace(by_base, task=Released("nowhere", "oasst", ("en", "es"))), by_base.rm_backbone)


# --- the prompt without its document ------------------------------------------------------------------------


def test_a_cue_is_the_template_without_its_document(tmp_path: Path) -> None:
    paper = Template(policy="Summarize the following text in {language}:\n{text}\nSummary:")
    summarize = msgspec.structs.replace(seahorse(tmp_path), template=paper)
    for task, expected in (
        (summarize, "Summarize the following text in English:\n\nSummary:"),
        (files(tmp_path, template=Template(policy="Q: {text}")), "Q: "),
    ):
        filled = with_facts(task, FACTS)
        prompt = task_module(filled).prompts(filled, "en", "test")[0]
        assert cue_of(filled, prompt) == expected
    assert cue_of(TASK, Prompt("1", "en", "1", "a document\nthe cue:")) == "the cue:"


def test_a_gain_over_nothing_is_refused(no_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing but the document\. Put .* or use rm_backbone=likelihood_sft\."):
        judge_stage(asked(no_model, files(tmp_path), Untrained("likelihood_gain_sft")))
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
    people = msgspec.structs.replace(asked(tiny_folder, task, rm, judge_named("human")), policy=Recorded())
    if kind == "sentence_encoder":
        recorded = runner.folder(judge_stage(people).parents["score"])
        assert read(recorded / "score.json")["recorded"]["cut_prompts"] == 40


def test_the_packaged_encoder_reads_texts_to_their_end() -> None:
    assert encoder.cut_counter("packaged")(["word " * 5000], ["x"]) == {"cut_prompts": 0, "cut_responses": 0}


# --- small things -------------------------------------------------------------------------------------------


def test_a_policy_that_is_its_own_reference_is_refused(no_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"are the same model: every response's log-ratio is 0"):
        judge_stage(experiment(no_model, rm=LogRatio(str(no_model), str(no_model))))


def test_one_half_is_good_everywhere(runner: Runner, tiny_folder: Path, tmp_path: Path) -> None:
    assert length_rule(
        [Rating(Prompt("1", "en", "1", "x"), text, label) for text, label in (("long", 0.5), ("s", 0.2))]
    )["longer_is_better"]
    rows = [row | {"rating": row["rating"] / 2} for lang in ("en", "es") for row in rated(lang, 40)]
    task = Files(str(jsonl(tmp_path / "own.jsonl", rows)), (), rating_scale=(0.0, 1.0))
    module = task_module(task)
    assert all(module.demonstrations(task, "en", "train"))  # a half may be imitated
    score = judge_stage(asked(tiny_folder, task)).parents["score"]
    labels = read(runner.folder(score) / "heldout.json")["label"]
    assert labels == [int(rating.label == 0.5) for rating in module.ratings(task, "en", "test")] and sum(labels) == 4
    [part] = [
        p for p in check_data("files", task, FACTS).parts if (p.lang, p.use, p.split) == ("en", "ratings", "test")
    ]
    assert part.balance == 50
