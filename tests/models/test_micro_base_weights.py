"""The weights that ship: they are what the recipe's record says, small, and able to copy facts."""

from typing import Any

import msgspec
import pytest

from xling.jsonfiles import read_json
from xling.models import pretrain
from xling.models.hub import BASE_FOLDER, Recipe, corpus_digest
from xling.models.load import load_policy
from xling.models.pretrain import attribution, held_out_loss
from xling.tasks import micro_summarization as world
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro_summarization import Settings as MicroSummarization

RECORD = BASE_FOLDER / "recipe.json"
MAX_BYTES = 5_000_000
pytestmark = pytest.mark.skipif(
    not RECORD.exists(), reason=f"no packaged base: {RECORD} is missing (make it with `make base`)"
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = read_json(RECORD)
    return found


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    return load_policy(BASE_FOLDER)


def test_the_recipe_is_the_codes(record: dict[str, Any]) -> None:
    assert msgspec.convert(record["recipe"], Recipe) == Recipe()


def test_the_corpus_is_still_the_one_it_was_trained_on(record: dict[str, Any]) -> None:
    assert record["corpus_digest"] == corpus_digest(record["recipe"]["seed"])


def test_the_held_out_loss_is_the_recorded_one(record: dict[str, Any], base: tuple[Any, Any]) -> None:
    assert held_out_loss(*base, Recipe()) == pytest.approx(record["held_out_loss"], abs=0.01)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in BASE_FOLDER.rglob("*") if path.is_file()) < MAX_BYTES


def test_it_reads_and_writes_all_six_languages(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    task = MicroSummarization(languages=LANGUAGES, validation=8)
    for lang in LANGUAGES:
        for shown in world.demonstrations(task, lang, "validation"):
            pieces = tokenizer(shown.response, add_special_tokens=False)["input_ids"]
            assert len(pieces) <= 2.5 * len(shown.response.split()), shown.response


def test_it_copies_facts_from_the_document(record: dict[str, Any], base: tuple[Any, Any]) -> None:
    """Without this nothing here means anything: an attentionless model has hardly any value right."""
    assert attribution(*base) > record["attribution"] - 0.05


def test_copying_any_fact_of_the_document_is_attributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's second sentence states a fact, more often than not another than the main one."""
    monkeypatch.setattr(pretrain, "greedy", lambda model, tokenizer, prompts, most: prompts)
    monkeypatch.setattr(pretrain, "decode_response", lambda tokenizer, text: text.split(". ")[1] + ".")
    assert attribution(None, None) == 1.0
    monkeypatch.setattr(pretrain, "decode_response", lambda tokenizer, text: "")
    assert attribution(None, None) == 0.0
