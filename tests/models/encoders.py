"""Tiny random encoders and sequence classifiers of real architectures, with their own kind of tokenizer."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from families import unigram_pieces
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from xling.tasks.micro.writing import pretraining_texts

VOCABULARY = 700
SMALL = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
ENCODER = SMALL | {"intermediate_size": 64, "pad_token_id": 0}
DECODER = SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
DECODER |= {"bos_token_id": 2, "eos_token_id": 1}
DEBERTA = ENCODER | {
    "position_buckets": 8,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "max_relative_positions": -1,
    "type_vocab_size": 0,
}
XLM_R = ENCODER | {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1}
ENCODERS: dict[str, Any] = {
    "xlm_roberta": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**XLM_R)),
    "deberta_v2": lambda: hf.DebertaV2Model(hf.DebertaV2Config(**DEBERTA)),
    "bert": lambda: hf.BertModel(hf.BertConfig(**ENCODER)),
}
CLASSIFIERS: dict[str, Any] = {
    "llama": lambda labels: hf.LlamaForSequenceClassification(hf.LlamaConfig(num_labels=labels, **DECODER)),
    "qwen3": lambda labels: hf.Qwen3ForSequenceClassification(hf.Qwen3Config(num_labels=labels, **DECODER)),
    "deberta_v2": lambda labels: hf.DebertaV2ForSequenceClassification(
        hf.DebertaV2Config(num_labels=labels, **DEBERTA)
    ),
    "xlm_roberta": lambda labels: hf.XLMRobertaForSequenceClassification(
        hf.XLMRobertaConfig(num_labels=labels, **XLM_R)
    ),
}
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def shaken(model: Any) -> Any:
    """Random weights of a scale at which scores depend on the text."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tokenizer(family: str) -> Any:
    """XLM-R's <s> A </s></s> B </s>; [CLS] A [SEP] B [SEP] with token types; a decoder's with a chat template."""
    if family == "xlm_roberta":
        return hf.XLMRobertaTokenizer(unigram_pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
    if family in ("deberta_v2", "bert"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        return hf.DebertaV2Tokenizer(unigram_pieces(special), unk_id=1)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 50,
        special_tokens=["<pad>", "</s>", "<s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(pretraining_texts(0, 150), trainer)
    named = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    whole = hf.PreTrainedTokenizerFast(tokenizer_object=made, **named)
    whole.chat_template = CHAT if family == "llama" else None
    return whole


def saved_encoder(folder: Path, family: str) -> Path:
    """A checkpoint as it would come from the hub."""
    shaken(ENCODERS[family]()).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def saved_classifier(folder: Path, family: str, labels: int = 1) -> Path:
    """The same with a classification head."""
    shaken(CLASSIFIERS[family](labels)).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder
