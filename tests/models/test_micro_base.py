"""The recipe that makes the base: tokenizer, packing, loss, pretraining; and the record that goes with the weights."""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from xling.jsonfiles import read_json
from xling.models import pretrain
from xling.models.hub import BASE_FOLDER, Recipe, corpus_digest, folder_digest, recipe_digest
from xling.models.load import load_policy
from xling.models.pretrain import (
    attribution,
    build_model,
    encode_text,
    endless,
    held_out_loss,
    learning_rate_scale,
    make_base,
    newline_id,
    packed_batches,
    packed_loss,
    train_tokenizer,
)
from xling.tasks import micro_summarization as world
from xling.tasks.micro.words import LANGUAGES
from xling.tasks.micro.writing import pretraining_texts
from xling.tasks.micro_summarization import Settings as MicroSummarization

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import alignment

SMALL = Recipe(
    vocab_size=600,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    steps=100,
    learning_rate=3e-3,
    tokens_per_batch=1536,
    row_length=384,
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(pretraining_texts(0, 120))


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Any:
    return train_tokenizer(texts, SMALL.vocab_size)


@pytest.fixture(scope="module")
def batch(texts: list[str], tokenizer: Any) -> Any:
    return next(packed_batches([encode_text(tokenizer, t) for t in texts], newline_id(tokenizer), SMALL))


def test_numbers_are_pieces_of_their_own(tokenizer: Any) -> None:
    for text in ("130 Häuser", "vor 130.", "130-mal", "(130)"):
        pieces = [tokenizer.decode([i]).strip() for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert all(not any(c.isdigit() for c in p) or p.isdigit() for p in pieces), pieces


def test_special_tokens_have_the_ids_that_the_model_expects(tokenizer: Any) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    config = build_model(SMALL, len(tokenizer)).config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


def test_packing_cuts_no_text_and_loses_none(texts: list[str], tokenizer: Any, batch: Any) -> None:
    ids, positions, owners, _ = batch
    encoded = {tuple(encode_text(tokenizer, text)) for text in texts}
    packed = []
    for row in range(len(ids)):
        for owner in range(int(owners[row].max()) + 1):
            here = owners[row] == owner
            packed.append(tuple(ids[row][here].tolist()))
            assert positions[row][here].tolist() == list(range(int(here.sum())))
    assert len(packed) > 4 and set(packed) <= encoded
    assert len(set(packed)) == len(packed)


def test_the_packed_loss_is_that_of_each_text_by_itself(texts: list[str], tokenizer: Any) -> None:
    """With all tokens weighing the same, packing changes nothing: no text sees another."""
    plain = msgspec.structs.replace(SMALL, first_line_weight=1.0)
    ids, positions, owners, weights = next(
        packed_batches([encode_text(tokenizer, t) for t in texts], newline_id(tokenizer), plain)
    )
    model = build_model(SMALL, len(tokenizer)).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    total, count = 0.0, 0
    with torch.inference_mode():
        packed = float(packed_loss(model, (ids, positions, owners, weights)))
        for row in range(len(ids)):
            for owner in range(int(owners[row].max()) + 1):
                one = ids[row][owners[row] == owner][None]
                total += float(model(input_ids=one, labels=one).loss) * (one.shape[1] - 1)
                count += one.shape[1] - 1
    assert packed == pytest.approx(total / count, abs=1e-4)


def test_first_lines_weigh_less(tokenizer: Any, batch: Any) -> None:
    ids, _, owners, weights = batch
    newline = newline_id(tokenizer)
    assert set(weights[owners < 0].tolist()) <= {0.0}
    assert weights[owners >= 0].unique().tolist() == pytest.approx([SMALL.first_line_weight, 1.0])
    for row in range(len(ids)):
        for owner in range(int(owners[row].max()) + 1):
            here = owners[row] == owner
            text, weight = ids[row][here].tolist(), weights[row][here].tolist()
            first = text.index(newline) if newline in text else 0
            assert weight == pytest.approx([SMALL.first_line_weight] * first + [1.0] * (len(text) - first))


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    scales = [learning_rate_scale(step, 1000) for step in range(1000)]
    assert scales[0] == 0.01 and scales[99] == scales[600] == 1.0
    assert 0 < scales[999] < 0.01 and scales[800] == pytest.approx(0.5)


def test_training_text_never_repeats() -> None:
    assert len(set(islice(endless(Recipe(lessons=100)), 400))) > 390


def test_make_base_writes_weights_that_match_their_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "TOKENIZER_TEXTS", 200)
    monkeypatch.setattr(pretrain, "HELD_OUT_TEXTS", 120)
    steps: list[tuple[int, int]] = []
    make_base(tmp_path, lambda done, total: steps.append((done, total)), SMALL)
    record = read_json(tmp_path / "recipe.json")
    assert record["recipe"] == msgspec.to_builtins(SMALL)
    assert record["corpus_digest"] == corpus_digest(0)
    assert steps and steps[-1][1] == SMALL.steps
    model, tokenizer = load_policy(tmp_path)
    assert held_out_loss(model, tokenizer, SMALL) == pytest.approx(record["held_out_loss"], abs=1e-3)
    assert record["held_out_loss"] < torch.tensor(float(len(tokenizer))).log().item() - 0.5


def test_digests_tell_recipes_and_folders_apart(tmp_path: Path) -> None:
    assert recipe_digest(SMALL) != recipe_digest() != recipe_digest(Recipe(seed=1))
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text(content)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_text("x")
    found = [folder_digest(tmp_path / name) for name in "abcd"]
    assert found[0] == found[1] and len(set(found)) == 3


# --- the weights that ship: what the recipe's record says, small, and able to copy facts --------------------

RECORD = BASE_FOLDER / "recipe.json"
MAX_BYTES = 5_000_000
packaged = pytest.mark.skipif(
    not RECORD.exists(), reason=f"no packaged base: {RECORD} is missing (make it with `make base`)"
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = read_json(RECORD)
    return found


@pytest.fixture(scope="module")
def base() -> tuple[Any, Any]:
    return load_policy(BASE_FOLDER)


@packaged
def test_recipe_corpus_and_held_out_loss_are_those_of_the_record(record: dict[str, Any], base: tuple[Any, Any]) -> None:
    assert msgspec.convert(record["recipe"], Recipe) == Recipe()
    assert record["corpus_digest"] == corpus_digest(record["recipe"]["seed"])
    assert held_out_loss(*base, Recipe()) == pytest.approx(record["held_out_loss"], abs=0.01)
    assert sum(path.stat().st_size for path in BASE_FOLDER.rglob("*") if path.is_file()) < MAX_BYTES


@packaged
def test_it_reads_and_writes_all_six_languages(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    task = MicroSummarization(languages=LANGUAGES, validation=8)
    for lang in LANGUAGES:
        for shown in world.demonstrations(task, lang, "validation"):
            pieces = tokenizer(shown.response, add_special_tokens=False)["input_ids"]
            assert len(pieces) <= 2.5 * len(shown.response.split()), shown.response


@packaged
def test_it_copies_facts_from_the_document(record: dict[str, Any], base: tuple[Any, Any]) -> None:
    """Without this nothing here means anything: an attentionless model has hardly any value right."""
    assert attribution(*base) > record["attribution"] - 0.05


@packaged
def test_retrieval_tells_aligned_states_from_others(base: tuple[Any, Any]) -> None:
    """docs/results.md: documents lie together in the middle layers, and the state of eos knows nothing of its text."""
    pairs = alignment.retrieval(*base, "documents", 64)
    middle, last = pairs["mean"]["de", "vi"][2], pairs["last"]["de", "vi"][-1]
    assert middle > 85 and last < 10
    states = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert alignment.found(states, states + 3) == 100 and alignment.found(states, states.flip(0)) == 0


def test_copying_any_fact_of_the_document_is_attributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's second sentence states a fact, more often than not another than the main one."""
    monkeypatch.setattr(pretrain, "greedy", lambda model, tokenizer, prompts, most: prompts)
    monkeypatch.setattr(pretrain, "decode_response", lambda tokenizer, text: text.split(". ")[1] + ".")
    assert attribution(None, None) == 1.0
    monkeypatch.setattr(pretrain, "decode_response", lambda tokenizer, text: "")
    assert attribution(None, None) == 0.0
