"""Tiny random translation models of the real families, each with its own kind of tokenizer, saved as on the hub."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from xling.tasks.micro.writing import pretraining_texts

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PIECES = 400
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
SMALL |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128}
TENDENCY = {"nllb": 2.2, "m2m100": 2.2, "madlad": 7.0, "marian": 3.0}  # to come to an end


def texts() -> list[str]:
    return [line for text in pretraining_texts(0, 120) for line in text.splitlines()]


def nllb_tokenizer() -> Any:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    made.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=PIECES, special_tokens=SPECIAL, show_progress=False)
    )
    trained = json.loads(made.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    return hf.NllbTokenizer(vocab=trained["vocab"], merges=merges, src_lang="eng_Latn", tgt_lang="deu_Latn")


def sentencepiece_model(folder: Path, name: str) -> Path:
    """A real SentencePiece model of the embedded world's text."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts()), model_prefix=str(folder / name), vocab_size=PIECES, minloglevel=2,
        hard_vocab_limit=False, bos_id=0, eos_id=2, unk_id=1, num_threads=1,
    )  # fmt: skip
    return folder / f"{name}.model"


def vocabulary(folder: Path, model: Path, special: list[str]) -> Path:
    """vocab.json: special tokens, then the model's pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    names = [*special, *(piece for piece in pieces if piece not in ("<s>", "</s>", "<unk>"))]
    path = folder / "vocab.json"
    path.write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    return path


def m2m100_tokenizer(folder: Path) -> Any:
    model = sentencepiece_model(folder, "sentencepiece")
    return hf.M2M100Tokenizer(str(vocabulary(folder, model, SPECIAL)), str(model), src_lang="en", tgt_lang="de")


def marian_tokenizer(folder: Path) -> Any:
    import warnings

    model = sentencepiece_model(folder, "spm")
    vocab = vocabulary(folder, model, ["</s>", "<unk>", "<pad>"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        return hf.MarianTokenizer(str(model), str(model), str(vocab))


def madlad_tokenizer(folder: Path) -> Any:
    """Of SentencePiece's pieces: the trainer of `tokenizers` gives other ones each time."""
    languages = [f"<2{code}>" for code in ("de", "en", "es", "ru", "tr", "vi", "iw")]
    special = ["<pad>", "</s>", "<unk>", *languages]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model(folder, "spiece")))
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    scored = [(name, 0.0) for name in special] + [row for row in pieces if row[0] not in ("<s>", "</s>", "<unk>")]
    made = Tokenizer(models.Unigram(scored, unk_id=special.index("<unk>")))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.add_special_tokens(special)
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def model_of(family: str, tokenizer: Any, tendency: float | None = None) -> Any:
    """Random weights at which translations depend on the text, and come to an end."""
    size = max(tokenizer.get_vocab().values()) + 1
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(5)
    model: Any
    if family == "madlad":
        config = hf.T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **ids,
                             decoder_start_token_id=tokenizer.pad_token_id, feed_forward_proj="gated-gelu")  # fmt: skip
        model = hf.T5ForConditionalGeneration(config)
    elif family == "marian":
        config = hf.MarianConfig(vocab_size=size, decoder_start_token_id=tokenizer.pad_token_id, **SMALL, **ids)
        model = hf.MarianMTModel(config)
    else:
        size = max(size, len(tokenizer) + 8, tokenizer.convert_tokens_to_ids("__zu__") + 9 if family == "m2m100" else 0)
        config = hf.M2M100Config(vocab_size=size, decoder_start_token_id=tokenizer.eos_token_id, **SMALL, **ids)
        model = hf.M2M100ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4 if "embed" in name or "shared" in name else 0.5)
    model.generation_config.min_new_tokens = 4
    return ending(model.eval(), tokenizer, tendency or TENDENCY[family])


def ending(model: Any, tokenizer: Any, tendency: float) -> Any:
    """The model with its end-of-sequence token made likelier: what it is read as is nearer to all states."""
    ids = torch.arange(10, 74).reshape(4, 16)
    with torch.no_grad():
        states = model(input_ids=ids, decoder_input_ids=ids.flip(0), output_hidden_states=True).decoder_hidden_states
        mean = states[-1].mean((0, 1))
        model.get_output_embeddings().weight[tokenizer.eos_token_id] = tendency * mean / mean.norm()
    return model


def saved(folder: Path, family: str, tendency: float | None = None) -> Path:
    """A checkpoint of a family: nllb, m2m100, madlad, marian; `tendency` to come to an end."""
    parts = folder / "parts"
    parts.mkdir(parents=True)
    others = {"m2m100": m2m100_tokenizer, "madlad": madlad_tokenizer, "marian": marian_tokenizer}
    tokenizer = others[family](parts) if family in others else nllb_tokenizer()
    model_of(family, tokenizer, tendency).save_pretrained(folder / family)
    tokenizer.save_pretrained(folder / family)
    return folder / family
