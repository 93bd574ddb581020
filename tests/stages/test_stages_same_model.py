"""A checkpoint in a folder is what is in it, wherever that lies, however it is named, and whatever lies beside it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import families
import pytest
from huggingface_hub import constants
from small_grid import BUDGET, TASK, Runner, changed, every, experiment, judged_by

from xling.config.common import Training
from xling.errors import DataError
from xling.experiment import Experiment
from xling.grid.plan import Plan, make_plan
from xling.grid.records import Sheet
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.judges.llm import Settings as LlmJudge
from xling.optimizers.dpo import Settings as DPO
from xling.optimizers.ppo import Settings as PPO
from xling.optimizers.rloo import Settings as RLOO
from xling.planning import KINDS, specs, translations
from xling.planning.dag import judge_stage
from xling.results import specs as results
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.classifier import Settings as Classifier
from xling.rewards.encoder import Settings as Encoder
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.likelihood import Settings as Likelihood
from xling.rewards.log_ratio import Settings as LogRatio
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.untrained import Settings as Untrained
from xling.runners.execute import Executor, Job
from xling.translators import seq2seq
from xling.translators.seq2seq import Settings as Seq2Seq

CHEAP: dict[str, Any] = {"rm": BagOfWords(), "sft": Training(steps=0)}


def forget() -> None:
    """As another process."""
    results._content_of.cache_clear()
    for module in (specs, translations):
        for name in vars(module).values():
            if hasattr(name, "cache_clear"):
                name.cache_clear()


def key(asked: Experiment) -> str:
    forget()
    return judge_stage(asked).key


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Tiny models, each in a folder by what it is."""
    folder = tmp_path_factory.mktemp("models")
    families.saved_encoder(folder / "encoder", "xlm_roberta")
    families.saved_classifier(folder / "classifier", "qwen3")
    for name in ("lm", "reference"):
        shutil.copytree(tiny_folder, folder / name)
    config = json.loads((folder / "reference" / "config.json").read_text())
    (folder / "reference" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    return folder


@pytest.fixture
def copied(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "models"))


LIMITS: dict[str, Any] = {"max_prompt_tokens": 300, "max_response_tokens": 100}
DOORS: dict[str, tuple[str, Callable[[Path], Experiment]]] = {
    "policy": ("lm", lambda at: experiment(at / "lm", **CHEAP)),
    "init": ("lm", lambda at: with_rm(at, SameAsPolicy(training=BUDGET, init=str(at / "lm")))),
    "encoder": ("encoder", lambda at: with_rm(at, Encoder(str(at / "encoder"), training=BUDGET, **LIMITS))),
    "classifier": ("classifier", lambda at: with_rm(at, Classifier(str(at / "classifier"), **LIMITS))),
    "log_ratio policy": ("lm", lambda at: with_rm(at, LogRatio(str(at / "lm"), str(at / "reference")))),
    "log_ratio reference": ("reference", lambda at: with_rm(at, LogRatio(str(at / "lm"), str(at / "reference")))),
    "frozen_lm": ("lm", lambda at: with_rm(at, FrozenLM(checkpoint=str(at / "lm")))),
    "likelihood": ("lm", lambda at: with_rm(at, Likelihood(str(at / "lm")))),
    "sentence_encoder": ("encoder", lambda at: with_rm(at, SentenceEncoder(str(at / "encoder")))),
    "judge": ("lm", lambda at: judged_by(Path("packaged"), LlmJudge(checkpoint=str(at / "lm")))),
}


def with_rm(at: Path, rm: Any) -> Experiment:
    return experiment(Path("packaged"), rm=rm, sft=BUDGET)


@pytest.mark.parametrize("door", DOORS)
def test_the_content_of_a_checkpoint_is_in_the_key_and_its_path_is_not(models: Path, copied: Path, door: str) -> None:
    name, asked = DOORS[door]
    before = key(asked(models))
    moved = asked(copied)
    assert key(moved) == before
    for stage in every(judge_stage(moved)).values():
        what = {part: value for part, value in stage.spec.items() if part != "where"}
        assert str(copied) not in json.dumps(what), stage.label  # and in no part of any key
    weights = copied / name / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert key(asked(copied)) != before


def test_a_translator_is_its_content_too(tmp_path: Path) -> None:
    from xling.config.common import Language

    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "m2m_100", "is_encoder_decoder": true}')
    english, turkish = (Language(code, code, code, "Latn") for code in ("en", "tr"))
    needed = translations.Needed(TASK, "ratings", english, turkish, back=False)
    one, other = (seq2seq.inputs(Seq2Seq(checkpoint=str(at)), needed).parents["lm"] for at in folders)
    assert one.key == other.key and one.spec["where"] != other.spec["where"]


def test_every_way_to_name_a_folder_is_the_same_model(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(DOORS["policy"][1](copied))
    monkeypatch.chdir(copied)
    (tmp_path / "link").symlink_to(copied / "lm")
    for named in ("lm", "./lm", f"{copied}/lm/", str(tmp_path / "link"), "../models/lm", f"{copied}/encoder/../lm"):
        assert key(changed(experiment(Path("x"), **CHEAP), "policy", checkpoint=named)) == before, named


def test_what_lies_beside_a_model_decides_nothing(copied: Path) -> None:
    folder, asked = copied / "lm", DOORS["policy"][1](copied)
    before = key(asked)
    for name in (
        *("README.md", "README.txt", "LICENSE.txt", ".gitattributes", "optimizer.pt", "training_args.bin"),
        *("trainer_state.json", "all_results.json", "rng_state.pth", "events.out.tfevents.1", "done.json", "spec.json"),
        *(".git/config", "checkpoint-500/model.safetensors", "checkpoint-500/config.json", "runs/log.txt"),
    ):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"another {name}")
    for path in folder.iterdir():
        os.utime(path, ns=(1, 1))
    assert key(asked) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("tokenizer.json", None),
        ("tokenizer_config.json", None),
        ("chat_template.jinja", "{{ messages }}"),
        ("additional_chat_templates/tool.jinja", "{{ messages }}"),
        ("generation_config.json", None),
    ],
)
def test_every_file_that_is_read_counts(copied: Path, name: str, content: str | None) -> None:
    asked = DOORS["policy"][1](copied)
    before, path = key(asked), copied / "lm" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content or path.read_text().rstrip() + "\n\n")
    assert key(asked) != before


# --- stored results -------------------------------------------------------------------------------------------


def planned(asked: Experiment, store: Store) -> tuple[Stage, Plan]:
    forget()
    stage = judge_stage(asked)
    return stage, make_plan([Cell({}, stage)], store, kinds=KINDS)


def ran(plan: Plan, store: Store) -> list[str]:
    plan.clear_lost()
    executor, done = Executor(store, KINDS), []
    for stage in plan.to_run:
        report = executor.execute(Job(stage.key, Sheet.of(stage)))
        assert report.event == "done", report
        done.append(stage.label)
    return done


def test_a_moved_model_is_found_again_and_nothing_is_trained_anew(copied: Path, tmp_path: Path) -> None:
    store, moved = Store(tmp_path / "results"), tmp_path / "moved"
    stage, plan = planned(experiment(copied / "lm", **CHEAP), store)
    ran(plan, store)
    _, plan = planned(experiment(copied / "lm", **CHEAP), store)
    assert plan.to_run == []
    (copied / "lm").rename(moved)
    same, plan = planned(experiment(moved, **CHEAP), store)
    assert same.key == stage.key and [one.label for one in plan.to_run] == ["base"]
    assert plan.steps[plan.to_run[0].key].reason == f"its model is no longer in {copied / 'lm'}"
    assert ran(plan, store) == ["base"]
    # what comes new is computed with the model where it lies now
    other, plan = planned(experiment(moved, target="de", **CHEAP), store)
    assert "pool[de]" in ran(plan, store) and store.state(other.kind, other.key) == "done"


def test_a_model_that_is_swapped_after_planning_gives_no_result(copied: Path, tmp_path: Path) -> None:
    runner, folder = Runner(tmp_path / "results"), copied / "lm"
    forget()
    stage = judge_stage(experiment(folder, **CHEAP))
    base = next(one for one in every(stage).values() if one.kind == "base")
    runner.folder(base)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(DataError, match="is another one than was planned with"):
        runner.folder(stage.parents["pool"])
    with pytest.raises(DataError, match="has changed since the grid was planned"):
        Runner(tmp_path / "again").folder(base)
    (folder / "model.safetensors").write_bytes(weights)
    runner.folder(stage.parents["pool"])


def test_an_encoder_that_is_swapped_after_planning_gives_no_result(copied: Path, tmp_path: Path) -> None:
    runner, folder = Runner(tmp_path / "results"), copied / "encoder"
    forget()
    stage = judge_stage(with_rm(copied, SentenceEncoder(str(folder))))
    features = stage.parents["score"].parents["reward"].parents["features_en"]
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(DataError, match="is another one than was planned with"):
        runner.folder(features)


# --- models of the hub, which are named by their commit -----------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
READINGS: dict[str, Callable[[Path], Experiment]] = {
    "samples": lambda at: experiment(at, rm=BagOfWords()),
    "network": lambda at: experiment(at),
    "states": lambda at: experiment(at, rm=FrozenLM(features="states")),
    "features": lambda at: experiment(at, rm=FrozenLM(features="likelihood")),
    "likelihood": lambda at: experiment(at, rm=Untrained("likelihood_sft")),
    "ppo": lambda at: experiment(at, rm=BagOfWords(), optimizer=PPO()),
    "rloo": lambda at: experiment(at, rm=BagOfWords(), optimizer=RLOO()),
    "dpo": lambda at: experiment(at, rm=BagOfWords(), optimizer=DPO()),
}
# First digits of the score stages' keys where logits left out UMT5's scale and the bias of BART's kin, with 32 prompts
# decoded together, which all keys say.
ONCE = {
    "mt5": "ba5e2a86cbf2 ef94ac69d38d 1b076a47ac0b d8347371e2a5 3cf7ed73095c a3edb22e3e78 c3be71a820c4 5923d7b5deb6",
    "umt5": "5a74e223aaf1 c4d6115b2aa8 6dca90060f4f 7efe1cefa2ab 600911d64c62 e06fe6ce6b72 8a58d69f4662 04b7899fcf56",
    "bart": "0f7fc2ee8c9f 85f0f27a44c6 799add05ea50 dc89f463dfb0 300698a50b1a ef9a45da87a8 eec1903218e9 57ae04dfcac6",
}  # in the order of READINGS
FIRST_WRONG = {"features": {"features[en]", "features[tr] samples"}, "likelihood": {"score[likelihood_sft, tr]"}} | {
    name: {f"align[en, tr] {name}"} for name in ("ppo", "rloo", "dpo")
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[Path], object]], Path]]:
    """Puts a model into an empty cache of the hub, with no way to the hub; gives what it is called there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(name: str, make: Callable[[Path], object]) -> Path:
        repository = tmp_path / "hub" / f"models--some--{name}"
        make(repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        return Path("some") / name

    forget()
    yield put
    forget()


@pytest.fixture(scope="module")
def mt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.saved(tmp_path_factory.mktemp("hub") / "mt5", "mt5")


@pytest.mark.parametrize("kind", ONCE)
def test_what_was_made_of_other_logits_is_not_taken_for_todays(hub: Any, mt5: Path, kind: str) -> None:
    def make(folder: Path) -> None:
        shutil.copytree(mt5, folder)
        config = json.loads((folder / "config.json").read_text())
        more = {"max_position_embeddings": 1024} if kind == "bart" else {}
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind} | more))

    model = hub(kind, make)
    for (reading, asked), once in zip(READINGS.items(), ONCE[kind].split(), strict=True):
        stage = judge_stage(asked(model)).parents["score"]
        wrong = {one.label for one in every(stage).values() if "logits" in one.spec}
        assert wrong == (set() if kind == "mt5" else FIRST_WRONG.get(reading, set())), reading
        assert (stage.key[:12] == once) is not bool(wrong), reading


def test_scores_and_verdicts_of_published_models_have_other_keys_than_once(hub: Any, mt5: Path) -> None:
    """Classifiers are read off another token, templates are told another day, and digits need some of the mass."""
    model = hub("classifier", lambda folder: families.saved_classifier(folder, "qwen3"))
    one, other = (str(hub(name, lambda folder: shutil.copytree(mt5, folder))) for name in ("umt5", "mt5"))
    packaged = Path("packaged")
    asked = {
        "fe9ffd0e4860": judge_stage(experiment(packaged, rm=Classifier(str(model), **LIMITS))).parents["score"],
        "31de4079ba01": judge_stage(experiment(packaged, rm=LogRatio(one, other))).parents["score"],
        "07e97811c8e1": judge_stage(judged_by(packaged, LlmJudge(checkpoint=other))).parents["verdict"],
    }
    assert not {once for once, stage in asked.items() if stage.key.startswith(once)}
