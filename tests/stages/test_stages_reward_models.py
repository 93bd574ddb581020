"""Every kind of reward model through its stages: conf/rm_backbone on tiny models of real architectures."""

import json
from pathlib import Path
from typing import Any

import families
import msgspec
import numpy as np
import pytest
import torch
from small_grid import BUDGET, M, N, Runner, array, changed, contents, experiment, goes_on, labelled, read, refused

from xling.compose.composer import Composer
from xling.errors import DataError, StageError
from xling.experiment import Experiment, experiment_from
from xling.grid.stage import Context, Stage
from xling.planning import aligning
from xling.planning.dag import judge_stage
from xling.results.specs import RewardSpec
from xling.rewards import Alignment, networks
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.encoder import Settings as Encoder
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.implicit import Settings as Implicit
from xling.rewards.log_ratio import Settings as LogRatio
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.settings import RewardModel
from xling.rewards.untrained import Settings as Untrained
from xling.stages import blocks, reward
from xling.stages.features import all_features
from xling.tasks.files import Settings as Files
from xling.tasks.options import task_module
from xling.translators.micro_exact import Settings as MicroExact

pytestmark = [  # peft's own
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning"),
]
CONF = Path(__file__).parents[2] / "conf"
OPTIONS = sorted(path.stem for path in (CONF / "rm_backbone").glob("*.yaml"))
OF_PEOPLE = {"human", "system"}  # of recorded responses alone: tests/models/test_recorded_heads.py
MADE = {
    "xlm_roberta": lambda folder: families.saved_encoder(folder, "xlm_roberta"),
    "mdeberta": lambda folder: families.saved_encoder(folder, "deberta_v2"),
    "classifier": lambda folder: families.saved_classifier(folder, "qwen3"),
    "chat": lambda folder: families.saved_classifier(folder, "llama"),
    "mt5": lambda folder: families.saved(folder, "mt5"),
    "qwen3": lambda folder: families.saved(folder, "qwen3"),
    "llama": lambda folder: families.saved(folder, "llama"),
    "smollm3": lambda folder: families.saved(folder, "smollm3"),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As from the hub, by name."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MADE.items()}


def scores(runner: Runner, asked: Experiment) -> tuple[Stage, Path]:
    """The score stage of a cell, run."""
    stage = judge_stage(asked).parents["score"]
    return stage, runner.folder(stage)


def check_folder(folder: Path, asked: Experiment) -> None:
    for role, count in (("pool", N), ("baseline", M)):
        found = array(folder / f"{role}.npy")
        assert found.shape == (asked.task.test_prompts, count)  # type: ignore[union-attr]
        assert np.isfinite(found).all() and len(np.unique(found)) > count
    held_out = read(folder / "heldout.json")
    if asked.rm_backbone.compares:  # with samples, of which held-out feedback has none
        assert set(held_out["score"]) == {0.0}
        return
    assert len(set(held_out["chosen" if "chosen" in held_out else "score"])) > 8


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_runs_from_reward_to_score(
    option: str, composer: Composer, runner: Runner, tiny_folder: Path, checkpoints: dict[str, Path]
) -> None:
    if option in OF_PEOPLE:
        pytest.skip("of recorded responses")
    own = {
        "xlm_roberta": [f"rm_backbone.checkpoint={checkpoints['xlm_roberta']}", "rm_backbone.revision=null"],
        "mdeberta": [f"rm_backbone.checkpoint={checkpoints['mdeberta']}", "rm_backbone.revision=null"],
        "classifier": [f"rm_backbone.checkpoint={checkpoints['classifier']}"],
        "log_ratio": [f"rm_backbone.policy={checkpoints['qwen3']}", f"rm_backbone.reference={checkpoints['smollm3']}"],
        "likelihood": [f"rm_backbone.checkpoint={checkpoints['qwen3']}"],
        "sentence_encoder": [f"rm_backbone.encoder={checkpoints['xlm_roberta']}"],
        "cosine": [f"rm_backbone.encoder={checkpoints['xlm_roberta']}"],
        "consensus_cosine": [f"rm_backbone.encoder={checkpoints['xlm_roberta']}"],
    }.get(option, [])
    rm = composer.compose([f"rm_backbone={option}", *own]).container["rm_backbone"]
    if "training" in rm:
        rm["training"] |= {"steps": 6, "batch_size": 8, "warmup_steps": 1, "eval_every": 3}
    container = msgspec.to_builtins(experiment(tiny_folder)) | {"rm_backbone": rm}
    asked = experiment_from(container)
    stage, folder = scores(runner, asked)
    if option != "gold":  # which the tiny model's nonsense does not reach
        check_folder(folder, asked)
    assert ("reward" in stage.parents) == (stage.label.startswith("score[en"))


ALIGNED = Alignment(4.0, ("en", "tr"))
CASES: dict[str, tuple[str, Any]] = {
    "mt5": ("mt5", lambda c: SameAsPolicy(training=BUDGET)),
    "mt5, lora, pairwise, aligned": ("mt5", lambda c: SameAsPolicy(BUDGET, "lora", objective="pairwise",
                                                                    alignment=ALIGNED)),
    "mt5, frozen base, mean": ("mt5", lambda c: SameAsPolicy(BUDGET, tuning="frozen", init="base", pooling="mean")),
    "mt5, likelihood": ("mt5", lambda c: Untrained("likelihood_gain_sft")),
    "mt5, frozen_lm": ("mt5", lambda c: FrozenLM("both")),
    "qwen3 for an mt5 policy": ("mt5", lambda c: SameAsPolicy(training=BUDGET, init=str(c["qwen3"]))),
    "xlm_roberta, pairwise, aligned": ("micro", lambda c: Encoder(str(c["xlm_roberta"]), training=BUDGET,
                                       objective="pairwise", max_prompt_tokens=352, max_response_tokens=156,
                                       alignment=ALIGNED)),
    "mdeberta, lora": ("micro", lambda c: Encoder(str(c["mdeberta"]), training=BUDGET, tuning="lora", pooling="mean")),
    "xlm_roberta, frozen, bfloat16": ("micro", lambda c: Encoder(str(c["xlm_roberta"]), None, "bfloat16", BUDGET,
                                      "frozen", max_prompt_tokens=352, max_response_tokens=156)),
    "sentence encoder": ("micro", lambda c: SentenceEncoder(str(c["xlm_roberta"]))),
    "chat classifier": ("micro", lambda c: Classifier(str(c["chat"]))),
    "mt5, implicit, lora, pairwise, mean": ("mt5", lambda c: Implicit(BUDGET, "lora", pooling="mean")),
    "qwen3 for an mt5 policy, implicit, pairs of ratings": ("mt5", lambda c: Implicit(BUDGET, init=str(c["qwen3"]),
                                                                                       ratings="pairs")),
    "log-ratio": ("micro", lambda c: LogRatio(str(c["qwen3"]), str(c["smollm3"]))),  # of the same vocabulary
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_kinds_of_reward_models_of_two_pooled_sources(
    case: str, runner: Runner, tiny_folder: Path, checkpoints: dict[str, Path]
) -> None:
    policy, make = CASES[case]
    asked = experiment(checkpoints["mt5"] if policy == "mt5" else tiny_folder, "de+en", rm=make(checkpoints))
    if "pairwise" in case:
        asked = changed(asked, "task", feedback="pairwise")
    stage, folder = scores(runner, asked)
    check_folder(folder, asked)
    assert read(folder / "score.json").get("samples", {"cut_prompts": 0})["cut_prompts"] == 0
    if "reward" not in stage.parents:
        return
    trained = runner.folder(stage.parents["reward"])
    assert stage.parents["reward"].label.startswith("reward[de+en]")
    if isinstance(asked.rm_backbone, SameAsPolicy | Encoder | Implicit):
        report = read(trained / "training.json")
        if "pairs of ratings" in case:
            assert 40 <= report["examples"] < 80  # as many as the more frequent kind has
            return
        assert report["examples"] + report["dropped_equal_pairs"] == 2 * 40
        assert report["cut_prompts"] == report["cut_responses"] == 0
        if "aligned" in case:  # the documents of 40 demonstrations: de and en with each other, and with tr
            assert report["parallel_texts"] == 40 * 4 and 0 < report["nearer_before"] != report["nearer"]


def test_what_is_cut_is_counted_and_pairs_that_become_equal_are_dropped(runner: Runner, tiny_folder: Path) -> None:
    rm = SameAsPolicy(BUDGET, tuning="frozen", max_prompt_tokens=30, max_response_tokens=4)
    asked = changed(experiment(tiny_folder, rm=rm), "task", feedback="pairwise", pairs=60)
    stage, folder = scores(runner, asked)
    report = read(runner.folder(stage.parents["reward"]) / "training.json")
    assert report["dropped_equal_pairs"] > 0 and report["examples"] + report["dropped_equal_pairs"] == 60
    assert report["cut_prompts"] > 40 and report["cut_responses"] > 60
    assert read(folder / "score.json")["samples"]["cut_prompts"] == 12
    assert read(folder / "score.json")["heldout"]["cut_responses"] > 10


@pytest.mark.parametrize("kind", ["score", "features"])
def test_a_killed_stage_goes_on_where_it_was(
    kind: str, runner: Runner, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rm: RewardModel = SameAsPolicy(BUDGET, tuning="frozen") if kind == "score" else FrozenLM()
    stage = judge_stage(experiment(tiny_folder, rm=rm)).parents["score"]
    stage = stage if kind == "score" else stage.parents["features"]
    runner.folder(stage)  # in blocks of another size
    for module in ("xling.stages.score", "xling.stages.features"):
        monkeypatch.setattr(f"{module}.PROMPTS", 5)
        monkeypatch.setattr(f"{module}.FEEDBACK", 7)
    made: list[Path] = []
    write = blocks._write
    monkeypatch.setattr(blocks, "_write", lambda path, *rest: (made.append(path), write(path, *rest)))

    def features(folder: Path) -> list[bytes]:
        return [block.tobytes() for name in ("samples", "heldout") for block in all_features([folder / name])]

    goes_on(runner, stage, tmp_path, lambda done: len(made) == 4, None if kind == "score" else features)
    assert len(set(made)) == len(made) == 3 + 2  # blocks of 12 prompts and of 12 ratings


@pytest.mark.parametrize("rm", [SameAsPolicy(training=BUDGET, alignment=ALIGNED), Implicit(training=BUDGET)])
def test_a_killed_training_of_an_encoder_decoder_goes_on(
    rm: RewardModel, runner: Runner, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    asked = experiment(checkpoints["mt5"], "de+en", rm=rm)
    stage = judge_stage(asked).parents["score"].parents["reward"]
    assert goes_on(runner, stage, tmp_path, lambda done: done == 5)[0] == 4


def test_a_repository_without_a_network_says_what_to_do(no_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sentence = refusal(no_model, Classifier("owner/not-on-this-machine"))
    assert "rm_backbone.checkpoint=owner/not-on-this-machine is no folder, the hub cannot be reached" in sentence
    assert "then here rm_backbone.checkpoint=FOLDER" in sentence


# --- what is refused while planning -------------------------------------------------------------------------


def refusal(folder: Path, rm: RewardModel) -> str:
    return refused(experiment(folder, rm=rm))


def test_pickles_are_refused(no_model: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoints["xlm_roberta"] / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    for rm in (Encoder(str(tmp_path)), Classifier(str(tmp_path)), SameAsPolicy(init=str(tmp_path))):
        assert "pickle format (pytorch_model.bin), which can run code" in refusal(no_model, rm)


def test_a_tokenizer_without_pad_is_refused_and_a_piece_may_stand_for_it(
    no_model: Path, checkpoints: dict[str, Path], runner: Runner, tiny_folder: Path, tmp_path: Path
) -> None:
    """While planning; in the score padding says nothing: the same as with the tokenizer's own."""
    llama, head = checkpoints["llama"], checkpoints["chat"]
    bare, classifier = families.without("pad", llama, tmp_path / "lm"), families.without("pad", head, tmp_path / "head")
    for rm, setting in (
        (SameAsPolicy(init=str(bare), training=BUDGET), "init"),
        (LogRatio(str(llama), str(bare)), "reference"),
        (FrozenLM(checkpoint=str(bare)), "checkpoint"),
        (Classifier(str(classifier)), "checkpoint"),
    ):
        sentence = refusal(no_model, rm)
        assert f"rm_backbone.{setting}={tmp_path}" in sentence and "has no pad token" in sentence
        assert "rm_backbone.pad_token='</s>'" in sentence
        judge_stage(experiment(no_model, rm=msgspec.structs.replace(rm, pad_token="</s>")))
    for whole, padded in (
        (Classifier(str(head)), Classifier(str(classifier), pad_token="</s>")),
        (FrozenLM("both", checkpoint=str(llama)), FrozenLM("both", checkpoint=str(bare), pad_token="</s>")),
    ):
        own, other = (scores(runner, experiment(tiny_folder, rm=rm))[1] for rm in (whole, padded))
        assert contents(own) == contents(other)


def test_no_error_of_a_base_names_a_setting_that_was_not_typed(
    checkpoints: dict[str, Path], runner: Runner, tmp_path: Path, no_model: Path
) -> None:
    folder = families.without("", checkpoints["llama"], tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    score = judge_stage(experiment(no_model, rm=LogRatio(str(folder), str(checkpoints["llama"])))).parents["score"]
    with pytest.raises(DataError, match="cannot be used as a language model") as error:
        runner.folder(score.parents["policy"])
    assert str(folder) in str(error.value) and "policy.checkpoint" not in str(error.value)


def test_what_says_nothing_before_it_is_trained_is_trained(no_model: Path) -> None:
    sentence = refusal(no_model, Implicit(training=msgspec.structs.replace(BUDGET, steps=0)))
    assert "every response has the same reward" in sentence and "rm_backbone=likelihood_sft" in sentence


def test_too_few_positions_are_refused_with_the_limit_that_fits(no_model: Path, checkpoints: dict[str, Path]) -> None:
    sentence = refusal(no_model, Encoder(str(checkpoints["xlm_roberta"]), max_response_tokens=156))
    assert "an xlm-roberta" not in sentence and "with 512 positions cannot read 1024 tokens of a prompt" in sentence
    assert "Set rm_backbone.max_prompt_tokens=352." in sentence
    judge_stage(experiment(no_model, rm=Encoder(str(checkpoints["mdeberta"]))))  # its positions are relative


def test_what_is_no_encoder_is_refused(no_model: Path, checkpoints: dict[str, Path]) -> None:
    for name in ("mt5", "llama"):
        assert "is no encoder" in refusal(no_model, Encoder(str(checkpoints[name])))


@pytest.mark.parametrize(
    ("labels", "label", "sentence"), [(3, None, "has 3 labels"), (2, None, "the good one"), (1, 1, "has 1 labels")]
)
def test_other_heads_are_refused(no_model: Path, tmp_path: Path, labels: int, label: int | None, sentence: str) -> None:
    folder = families.saved_classifier(tmp_path, "xlm_roberta", labels)
    assert sentence in refusal(no_model, Classifier(str(folder), label=label))


def test_two_tokenizers_or_one_model_are_refused(no_model: Path, checkpoints: dict[str, Path]) -> None:
    rm = LogRatio(str(checkpoints["llama"]), str(checkpoints["qwen3"]))
    assert "have different tokenizers" in refusal(no_model, rm)
    itself = LogRatio(str(checkpoints["llama"]), str(checkpoints["llama"]))
    assert "are the same model: every response's log-ratio is 0" in refusal(no_model, itself)


def test_a_folder_that_is_no_model_is_named_by_its_setting(no_model: Path, tmp_path: Path) -> None:
    for rm, setting in ((Encoder(str(tmp_path)), "checkpoint"), (SameAsPolicy(init=str(tmp_path)), "init")):
        assert f"rm_backbone.{setting}={tmp_path} is no folder of a model" in refusal(no_model, rm)
    sentence = refusal(no_model, LogRatio(str(tmp_path), "packaged"))
    assert f"rm_backbone.policy={tmp_path} is no folder of a model" in sentence


def test_what_is_aligned_is_in_the_plan_and_nothing_where_its_weight_is_0(no_model: Path) -> None:
    plain, none = SameAsPolicy(training=BUDGET), SameAsPolicy(training=BUDGET, alignment=Alignment(0.0, ("tr",)))
    assert judge_stage(experiment(no_model, rm=plain)).key == judge_stage(experiment(no_model, rm=none)).key
    aligned = SameAsPolicy(training=BUDGET, alignment=Alignment(0.5))
    reward = judge_stage(experiment(no_model, rm=aligned)).parents["score"].parents["reward"]
    assert reward.parents["parallel"].label == "parallel[de, en, es, ru, tr, vi]"
    assert Alignment(0.5, ("tr", "de", "tr")) == Alignment(0.5, ("de", "tr"))  # one reward model, however it is typed
    assert set(reward.parents["parallel"].spec) == {"task", "digest", "langs"}
    other_ratings = changed(experiment(no_model, rm=aligned), "task", ratings=80, rating_error=0.5)
    again = judge_stage(other_ratings).parents["score"].parents["reward"]
    assert (
        again.key != reward.key and again.parents["parallel"].key == reward.parents["parallel"].key
    )  # reads no labels

    def said(**settings: Any) -> str:
        return refusal(no_model, SameAsPolicy(**{"training": BUDGET, "alignment": Alignment(0.5)} | settings))

    assert "with rm_backbone.tuning=frozen they stay as they are" in said(tuning="frozen")
    assert "no language to align source_lang=en to" in said(alignment=Alignment(1.0, ("en",)))
    assert "langs names xx, and task=micro_summarization has de, en" in said(alignment=Alignment(1.0, ("xx",)))
    few = changed(changed(experiment(no_model, rm=aligned), "task", demonstrations=1), "sft", steps=0)
    refused(few, r"has 1 for training\. Type task\.demonstrations=2 or more")
    one_text = {"document_lang": "en", "feedback_documents": "document_lang"}
    asked = changed(experiment(no_model, rm=aligned), "task", **one_text)
    refused(asked, r"with task.document_lang=en reward models read documents in one language")
    translated = {"reward_data": "translated", "translator": MicroExact()}
    refused(experiment(no_model, rm=aligned, **translated), r"with reward_data=translated all is learnt in the target")


def test_only_documents_with_a_translation_are_aligned(no_model: Path, runner: Runner, tmp_path: Path) -> None:
    rows = [
        {"id": f"{'own' if lang == 'tr' else 'shared'}{d}", "lang": lang, "chosen": "a", "rejected": "b",
         "messages": [{"role": "user", "content": f"{lang} {d}"}]}
        for lang in ("de", "en", "tr") for d in range(40)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    langs, rm = ("de", "en", "tr"), SameAsPolicy(training=BUDGET, alignment=Alignment(1.0))
    task = Files(str(tmp_path / "rows.jsonl"), langs, feedback="pairwise", validation=0.2, test=0.2)
    asked = experiment(no_model, task=task, judge="target_rm", rm=rm)
    refused(asked, r"task=files have one id in en and in tr, .* type rm_backbone\.alignment\.langs=\[de\]")
    pooled = experiment(no_model, "en+tr", task=task, judge="target_rm", rm=rm)
    refused(pooled, r"in en and in tr, .* type rm_backbone\.alignment\.weight=0")  # tr has none with de either
    kept = judge_stage(changed(asked, "rm_backbone", alignment=Alignment(1.0, ("de",))))  # its judge is not aligned
    found = kept.parents["score"].parents["reward"]
    parents = {"parallel": runner.folder(labelled(kept, "parallel[de, en]"))}
    context = Context(found.spec, parents, tmp_path, tmp_path, lambda done, total: None, lambda: False, tmp_path)
    texts = reward._parallel(context, msgspec.convert(found.spec, RewardSpec))
    said = [[prompt.turns[0][1] for prompt, _ in sides] for sides in texts]  # type: ignore[attr-defined]  # chats
    assert len(said) > 8 and {answer for sides in texts for _, answer in sides} == {""}
    for number, (here, there, other) in enumerate(said):
        assert here == there.replace("de", "en") and other == said[number - 1][1] != there


def test_documents_that_are_no_translations_of_those_with_their_id_are_told_of(no_model: Path, tmp_path: Path) -> None:
    """Ids that count from 0 in each language: Monday's news in one, in another whatever comes first."""
    rng = np.random.default_rng(0)
    told = [f"{rng.integers(10**6)} {'word ' * rng.integers(3, 40)}" for _ in range(60)]

    def asked(name: str, turned: int) -> Experiment:
        rows = [
            {"id": str(d), "lang": lang, "chosen": "a", "rejected": "b",
             "prompt": f"{lang} {told[(d + turned * (lang == 'tr')) % len(told)]}"}
            for lang in ("de", "en", "tr") for d in range(len(told))
        ]  # fmt: skip
        (tmp_path / name).write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        task = Files(str(tmp_path / name), ("de", "en", "tr"), feedback="pairwise", validation=0.2, test=0.2)
        rm = SameAsPolicy(training=BUDGET, alignment=Alignment(1.0))
        return experiment(no_model, task=task, judge="target_rm", rm=rm)

    assert aligning.notes([asked("same.jsonl", 0)], ()) == []
    [said] = aligning.notes([asked("others.jsonl", 1)], ())
    assert "they do not look like it in en and tr (" in said and "en and de" not in said
    elsewhere = msgspec.structs.replace(asked("same.jsonl", 0), reward_task=asked("others.jsonl", 1).task)
    assert aligning.notes([elsewhere], ()) == [said]  # what is learnt from is read
    plain = experiment(no_model, rm=SameAsPolicy(training=BUDGET, alignment=Alignment(0.0, ("tr",))))
    [said] = aligning.notes([plain], ["rm_backbone.alignment.langs"])
    assert "changes nothing without a weight" in said and aligning.notes([plain], ["rm_backbone"]) == []


def test_published_models_have_no_source_and_cannot_judge(no_model: Path, checkpoints: dict[str, Path]) -> None:
    rm = Classifier(str(checkpoints["classifier"]))
    stages = [judge_stage(experiment(no_model, source, rm=rm)) for source in ("de", "en")]
    assert stages[0].key == stages[1].key and stages[0].label == "judge[-, tr]"
    refused(experiment(no_model, rm=rm, judge="target_rm"), "judge=target_rm judges by the target's reward model")


def test_a_reward_models_own_checkpoint_keeps_it_apart_from_the_policys(
    no_model: Path, checkpoints: dict[str, Path]
) -> None:
    by_encoder = [judge_stage(experiment(no_model, rm=Encoder(str(checkpoints["mdeberta"])), sft=sft)) for sft in
                  (BUDGET, msgspec.structs.replace(BUDGET, steps=7))]  # fmt: skip
    rewards = [stage.parents["score"].parents["reward"].key for stage in by_encoder]
    assert rewards[0] == rewards[1]
    assert json.dumps(by_encoder[0].parents["score"].parents["reward"].parents["init"].spec)


@pytest.mark.parametrize("family", ["llama", "mt5"])
def test_a_reward_model_in_bfloat16_is_stored_as_it_was_trained(
    family: str, runner: Runner, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """By the stage, which trains all of it and compares what it has stored; another model is refused."""
    rm = SameAsPolicy(msgspec.structs.replace(BUDGET, steps=2, eval_every=2), init="base")
    asked = changed(experiment(checkpoints[family], rm=rm), "policy", dtype="bfloat16")
    trained = runner.folder(judge_stage(asked).parents["score"].parents["reward"])
    net = networks.load_reward(trained)
    assert {p.dtype for p in net.trunk.parameters()} == {torch.bfloat16} and net.head.weight.dtype == torch.float32
    context = Context({}, {}, trained, tmp_path)
    probe = task_module(asked.task).ratings(asked.task, "en", "validation")[:8]
    networks.check_stored(context, net, probe)
    with torch.no_grad():
        next(net.trunk.get_input_embeddings().parameters()).mul_(1.05)
    with pytest.raises(StageError, match="The stored reward model scores differently from the trained one"):
        networks.check_stored(context, net, probe)
