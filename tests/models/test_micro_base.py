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
from xling.models.hub import BASE_FOLDER, Recipe, Surprise, corpus_digest, folder_digest, recipe_digest, written
from xling.models.load import load_policy
from xling.models.pretrain import (
    SURPRISE,
    Telling,
    attribution,
    build_model,
    deeper,
    encode_text,
    endless,
    exchanged,
    held_out_loss,
    learning_rate_scale,
    make_base,
    newline_id,
    packed_batches,
    packed_loss,
    telling_loss,
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
    recipe = msgspec.structs.replace(SMALL, surprise=Surprise(layers=1, steps=10))
    make_base(tmp_path, lambda done, total: steps.append((done, total)), recipe)
    record = read_json(tmp_path / "recipe.json")
    assert msgspec.convert(record["recipe"], Recipe) == recipe
    assert record["corpus_digest"] == corpus_digest(0)
    assert steps[-1] == (100, 110)
    model, tokenizer = load_policy(tmp_path)
    assert model.config.num_hidden_layers == 3
    assert held_out_loss(model, tokenizer, SMALL) == pytest.approx(record["held_out_loss"], abs=1e-3)
    assert record["held_out_loss"] < torch.tensor(float(len(tokenizer))).log().item() - 0.5


def test_new_layers_leave_the_model_nearly_as_it_was(batch: Any) -> None:
    model = build_model(SMALL, SMALL.vocab_size)
    taller = deeper(model, 2, 0)
    assert [m.config.num_hidden_layers for m in (model, taller)] == [2, 4]
    losses = [float(packed_loss(m, batch).detach()) for m in (model, taller)]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)


def test_words_are_exchanged_behind_first_lines_alone(tokenizer: Any, batch: Any) -> None:
    newline, how = newline_id(tokenizer), Surprise(noisy=1.0, rate=0.5)
    ids, _, owners, weights = exchanged(batch, newline, how, torch.Generator().manual_seed(0))
    other = ids != batch[0]
    assert 0.3 < float(other[batch[3] == 1.0].float().mean()) < 0.5
    assert set(batch[3][other].tolist()) == {1.0} and set(weights[other].tolist()) == {0.0}
    assert torch.equal(weights[~other], batch[3][~other]) and torch.equal(owners, batch[2])
    for end in (0, 1, 2, newline):
        assert not (batch[0][other] == end).any() and not (ids[other] == end).any()
    assert all(set(ids[row].tolist()) <= set(batch[0][row].tolist()) for row in range(len(ids)))
    calm = exchanged(batch, newline, Surprise(noisy=0.0), torch.Generator().manual_seed(0))
    assert torch.equal(calm[0], batch[0])


def test_surprise_is_told_of_each_token_and_of_each_line(tokenizer: Any, batch: Any) -> None:
    """By hand: -log p of every token behind the first line, cut at `most`, and at eos the mean over the last line."""
    newline, how = newline_id(tokenizer), Surprise(weight=1.0, most=6.5)
    telling = Telling(build_model(SMALL, SMALL.vocab_size))
    torch.nn.init.normal_(telling.model.lm_head.weight, std=0.1)
    noisy = exchanged(batch, newline, how, torch.Generator().manual_seed(0))
    tokens, lines = list[float](), list[float]()
    with torch.no_grad():
        for row in range(len(noisy[0])):
            for owner in range(int(noisy[2][row].max()) + 1):
                text = noisy[0][row][noisy[2][row] == owner]
                read = batch[3][row][noisy[2][row] == owner] == 1.0
                hidden = telling.model.model(input_ids=text[None])[0][0]
                says, line = telling.says(hidden), list[float]()
                logs = telling.model.lm_head(hidden).log_softmax(-1)
                for place in range(1, len(text)):
                    token = int(text[place])
                    surprise = min(float(-logs[place - 1, token]), how.most)
                    if token == newline:
                        line = []
                    elif token == 2 and line:
                        lines.append((float(says[place, 1]) - sum(line) / len(line)) ** 2)
                    elif read[place]:
                        tokens.append((float(says[place, 0]) - surprise / 2) ** 2)
                        line.append(surprise)
        expected = sum(tokens) / len(tokens) + sum(lines) / len(lines)
        found = float(telling_loss(telling, noisy, batch, newline, how) - packed_loss(telling.model, noisy))
    assert len(lines) > 4 and found == pytest.approx(expected, rel=1e-3)


def test_digests_tell_recipes_and_folders_apart(tmp_path: Path) -> None:
    assert len({recipe_digest(r) for r in (SMALL, Recipe(), Recipe(seed=1), SURPRISE)}) == 4
    assert "surprise" not in written(Recipe()) and written(SURPRISE)["surprise"]["layers"] == 2
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
