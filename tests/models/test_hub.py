"""Hub ids without a hub: from the cache where it has the commit, else a sentence; and how large models are."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from families import saved
from huggingface_hub import constants

from xling.config.policies import LanguageModel
from xling.errors import ConfigError, StageError
from xling.grid.stage import Context
from xling.models.checkpoints import KNOWN, Parameters, parameters_of
from xling.models.hub import commit_of, is_repository, settings_of
from xling.models.load import load_policy, loading
from xling.planning.specs import base
from xling.stages import base as base_stage

NAME, COMMIT = "some/tiny-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no way to the hub, as HF_HUB_OFFLINE=1 has it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    base.cache_clear()
    yield tmp_path / "hub"
    base.cache_clear()


def cached(cache: Path) -> Path:
    """A repository as the hub's own client leaves it in its cache."""
    repository = cache / "models--some--tiny-model"
    folder = saved(repository / "snapshots" / COMMIT, "qwen3")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def test_what_is_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_repository("google/mt5-small") and is_repository("Qwen/Qwen3-0.6B-Base")
    assert not any(map(is_repository, ("packaged", "a/b/c", "/models/x", "./models", str(tmp_path))))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "model").mkdir(parents=True)
    assert not is_repository("my/model"), "a folder of that name comes first"


@pytest.mark.parametrize("revision", [None, COMMIT, "v1"])
def test_without_network_or_copy_a_sentence_says_what_to_do(offline: Path, revision: str | None) -> None:
    asked = f"{NAME}{f' --revision {revision}' if revision else ''}"
    sentence = rf"the hub cannot be reached .*`hf download {asked} --local-dir FOLDER`.*policy\.checkpoint=FOLDER"
    with pytest.raises(ConfigError, match=sentence):
        base(LanguageModel(NAME, revision))
    assert settings_of(NAME, revision) == {}


def test_planning_asks_a_hub_that_does_not_answer_once(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its client would try for half a minute, and say so above the plan."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert settings_of(NAME, None) == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_revision_is_its_commit_and_runs(offline: Path, tmp_path: Path, revision: str | None) -> None:
    folder = cached(offline)
    assert commit_of(NAME, revision) == COMMIT
    stage = base(LanguageModel(NAME, revision))
    assert stage.spec["commit"] == COMMIT and stage.label == f"base {NAME}@{COMMIT[:7]}"
    assert stage.key == base(LanguageModel(NAME, COMMIT)).key
    (tmp_path / "out").mkdir()
    base_stage.run(Context(stage.spec, {}, tmp_path / "out", tmp_path))
    assert Path(loading(tmp_path / "out").folder) == folder
    assert type(load_policy(tmp_path / "out")[0]).__name__ == "Qwen3ForCausalLM"


def test_what_was_planned_and_is_gone_cannot_be_downloaded(offline: Path, tmp_path: Path) -> None:
    cached(offline)
    stage = base(LanguageModel(NAME))
    shutil.rmtree(offline)
    with pytest.raises(
        StageError, match=rf"(?s){NAME} at {COMMIT} cannot be downloaded.*name the folder in place of {NAME}"
    ):
        base_stage.run(Context(stage.spec, {}, tmp_path, tmp_path))


# --- how many parameters a token passes --------------------------------------------------------------------


def test_a_model_that_can_be_counted(tiny: tuple[Any, Any], tiny_folder: Path) -> None:
    model, _ = tiny
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name}
    found = parameters_of(str(tiny_folder), None)
    assert found is not None
    assert found.prompt == found.response == sum(n for name, n in matrices.items() if "lm_head" not in name)
    assert found.head == model.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(
    ("checkpoint", "billions"),
    [("google/mt5-xl", 3.74), ("google/mt5-small", 0.30), ("google/madlad400-3b-mt", 2.9), ("Qwen/Qwen3-8B-Base", 7.57),
     ("facebook/nllb-200-3.3B", 3.3), ("facebook/nllb-200-distilled-600M", 0.61),
     ("microsoft/Phi-4-mini-instruct", 3.8),
     ("HuggingFaceTB/SmolLM3-3B-Base", 3.1), ("utter-project/EuroLLM-1.7B", 1.4)],
)  # fmt: skip
def test_models_of_the_table_are_as_large_as_they_are_said_to_be(checkpoint: str, billions: float) -> None:
    """Embeddings once: mT5 and MADLAD have them and a head, the others a head that is the embeddings, or as large."""
    found = parameters_of(checkpoint, None)
    assert found is not None
    encoder = found.prompt if KNOWN[checkpoint].get("is_encoder_decoder") else 0
    own = found.head if "d_kv" in KNOWN[checkpoint] else 0
    assert (encoder + found.response + found.head + own) / 1e9 == pytest.approx(billions, rel=0.04)


def test_operations_of_a_pass() -> None:
    model = Parameters(prompt=100, response=200, head=50)
    assert model.forward(10, 3) == 2 * (100 * 10 + 250 * 3)
    assert model.forward(10, 3, head=False) == 2 * (100 * 10 + 200 * 3)


def test_what_nothing_is_known_of(tmp_path: Path) -> None:
    assert parameters_of(str(tmp_path), None) is None
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8}')
    assert parameters_of(str(tmp_path), None) is None
