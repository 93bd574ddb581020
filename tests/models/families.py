"""Tiny random models of real architectures, each with its own kind of tokenizer: policies, encoders, classifiers."""

import json
import math
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers as hf
import trl
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from xling.config.common import Language, Training
from xling.config.policies import LanguageModel
from xling.models.load import save_policy
from xling.rewards import REWARDS, Choices, RewardSettings
from xling.tasks.micro.writing import pretraining_texts
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.translators import seq2seq

VOCABULARY = 700
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
IDLE = ("smollm3",)  # whose tokenizer names a bos and never puts it, as those of GPT-2 and SmolLM2
WINDOW = 6  # of sliding-window layers: shorter than the prompts of the tests
FAMILIES: dict[str, Any] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(tie_word_embeddings=True, **SHAPE)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(tie_word_embeddings=True, **SHAPE)),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(tie_word_embeddings=True, **SHAPE)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(sliding_window=WINDOW, **SHAPE)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(sliding_window=WINDOW, **SHAPE)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"] * 2, **SHAPE)
    ),
    "mt5": lambda: hf.MT5ForConditionalGeneration(
        hf.MT5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=3,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            dropout_rate=0.1,
        )
    ),
}
SIGHT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}
SEEING: dict[str, Any] = {  # models of texts and images, whose settings of texts are nested
    "llava": lambda: hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            text_config=hf.LlamaConfig(max_position_embeddings=64, **SHAPE),
            vision_config=hf.CLIPVisionConfig(patch_size=8, **SIGHT),
            image_token_index=5,
        )
    ),
    "qwen2_5_vl": lambda: hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            text_config=SHAPE | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
            | {"out_hidden_size": 32, "patch_size": 8, "fullatt_block_indexes": [0]},
        )
    ),
}
SMALL = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
ENCODER = SMALL | {"intermediate_size": 64, "pad_token_id": 0}
DECODER = SHAPE | {"num_hidden_layers": 2}
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


def shaken(model: Any, embeddings: float = 0.3) -> Any:
    """Random weights of a scale at which replies and scores depend on the text."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                scale = embeddings if "embed" in name else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def build(family: str) -> Any:
    """A policy."""
    return shaken(FAMILIES[family](), 0.03)


def unigram_pieces(special: list[str]) -> list[tuple[str, float]]:
    """(piece, log frequency): special ones, all characters, then the most frequent parts of words.

    Counted rather than trained: the unigram trainer of `tokenizers` gives other pieces each time, and a test that holds
    for some tokenizers fails now and then.
    """
    counts: Counter[str] = Counter()
    for text in pretraining_texts(0, 150):
        for word in unicodedata.normalize("NFKC", text).split():
            whole = "\u2581" + word
            spans = ((i, j) for i in range(len(whole)) for j in range(i + 1, len(whole) + 1) if j - i <= 4 or i == 0)
            counts.update(whole[i:j] for i, j in spans)
    ranked = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))
    pieces = ranked[: VOCABULARY - 50 - len(special)]
    total = sum(counts[piece] for piece in pieces)
    return [(piece, 0.0) for piece in special] + [(piece, math.log(counts[piece] / total)) for piece in pieces]


def tokenizer(family: str, chat_template: str | None = None) -> Any:
    """Byte-level BPE for the decoders, with a bos that the tokenizer puts itself where there is one; for mT5 and Llama
    pieces that begin with SentencePiece's space.

    XLM-R's <s> A </s></s> B </s>; DeBERTa's and BERT's [CLS] A [SEP] B [SEP] with token types.
    """
    if family == "xlm_roberta":
        return hf.XLMRobertaTokenizer(unigram_pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
    if family in ("deberta_v2", "bert"):
        return hf.DebertaV2Tokenizer(unigram_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), unk_id=1)
    pieces = ["<pad>", "</s>", "<s>", "<unk>"]
    if family == "mt5":
        made = Tokenizer(models.Unigram(unigram_pieces(pieces), unk_id=pieces.index("<unk>")))
    else:
        made = Tokenizer(models.BPE(byte_fallback=family == "llama"))
    if family in ("mt5", "llama"):
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "\u2581")])
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    if family == "mt5":
        made.add_special_tokens(pieces)
    else:
        alphabet = pre_tokenizers.ByteLevel.alphabet() if family != "llama" else []
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY - 50, special_tokens=pieces, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(pretraining_texts(0, 150), trainer)
    bos = {} if family in ("mt5", "qwen2", "qwen3") else {"bos_token": "<s>"}
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | bos
    whole = hf.PreTrainedTokenizerFast(tokenizer_object=made, **named)
    if family not in IDLE and bos:
        around = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 2)])
        whole.backend_tokenizer.post_processor = around
    whole.chat_template = chat_template
    return whole


def saved(folder: Path, family: str) -> Path:
    """A checkpoint as it would come from the hub."""
    save_policy(folder, build(family), tokenizer(family))
    return folder


# --- models that were made for chats: their tokenizers' templates and tokens ---------------------------------

SMOLLM3 = (
    "{%- set said = messages[0].content if messages[0].role == 'system' else 'You are a helpful AI assistant.' -%}"
    "{{- '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now('%d %B %Y') + '\nReasoning Mode: ' -}}"
    "{%- set quick = enable_thinking is defined and not enable_thinking -%}"
    "{{- ('/no_think' if quick else '/think') + '\n\n## Custom Instructions\n\n' + said + '\n\n<|im_end|>\n' -}}"
    "{%- set empty = '<think>\n\n</think>\n' if quick else '' -%}"
    "{%- for m in messages if m.role != 'system' -%}"
    "{{- '<|im_start|>' + m.role + '\n' + (empty if m.role == 'assistant' else '') + m.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' + empty -}}{%- endif -%}"
)
MISTRAL = (
    "{{- bos_token }}{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{- raise_exception('Conversation roles must alternate user/assistant.') -}}{%- endif -%}"
    "{%- if m.role == 'user' -%}{{- '[INST] ' + m.content + '[/INST]' -}}"
    "{%- else -%}{{- ' ' + m.content + eos_token -}}{%- endif -%}{%- endfor -%}"
)
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# name: (architecture, template, special tokens, named ones, other tokens that `generate` ends at)
CHATS: dict[str, tuple[str, str, tuple[str, ...], dict[str, str], tuple[str, ...]]] = {
    "qwen3": ("qwen3", "qwen3.jinja", CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, CHATML[:1]),
    "smollm3": ("smollm3", SMOLLM3, CHATML, {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, ()),
    "llama3": (
        "qwen2",  # byte-level pieces
        "llama3.jinja",
        HEADERS,
        {"bos_token": HEADERS[0], "eos_token": "<|eot_id|>", "pad_token": HEADERS[1]},
        HEADERS[1:2],
    ),
    "gemma": (
        "llama",  # SentencePiece's
        "gemma.jinja",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>"},
        (),
    ),
    "mistral": ("llama", MISTRAL, ("[INST]", "[/INST]"), {}, ()),
}


def chat_tokenizer(name: str) -> Any:
    """A tokenizer of CHATS. Those with bos put it before every text, as theirs do."""
    family, template, special, named, _ = CHATS[name]
    if template.endswith(".jinja"):
        template = (Path(trl.__file__).parent / "chat_templates" / template).read_text()
    made = tokenizer(family, template)
    made.add_special_tokens({"additional_special_tokens": list(special)} | named)
    if family in ("qwen3", "smollm3"):
        made.add_tokens(["<think>", "</think>"])
    if name == "gemma":
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.backend_tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")]
        )
    if bos := made.bos_token:
        pair = [(bos, made.bos_token_id)]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=pair)
    return made


def saved_chat(folder: Path, name: str) -> Path:
    """A checkpoint of CHATS."""
    pieces, model = chat_tokenizer(name), build(CHATS[name][0])
    ends = [pieces.eos_token_id, *pieces.convert_tokens_to_ids(list(CHATS[name][4]))]
    model.generation_config = hf.GenerationConfig(eos_token_id=ends)
    save_policy(folder, model, pieces)
    return folder


def saved_encoder(folder: Path, family: str) -> Path:
    """The same with a bidirectional encoder."""
    save_policy(folder, shaken(ENCODERS[family]()), tokenizer(family))
    return folder


def saved_classifier(folder: Path, family: str, labels: int = 1) -> Path:
    """The same with a classification head; Llama's has a chat template."""
    save_policy(folder, shaken(CLASSIFIERS[family](labels)), tokenizer(family, CHAT if family == "llama" else None))
    return folder


def without(role: str, folder: Path, copy: Path) -> Path:
    """A copy of a saved model whose tokenizer names no token for a role (pad, eos)."""
    shutil.copytree(folder, copy)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (copy / name).exists():
            named = json.loads((copy / name).read_text())
            named.pop(f"{role}_token", None)
            (copy / name).write_text(json.dumps(named))
    return copy


# --- what planning refuses of them --------------------------------------------------------------------------

PACKAGED = LanguageModel("packaged")


def check_reward(rm: RewardSettings, policy: LanguageModel = PACKAGED) -> None:
    """What planning refuses of a reward model that names its own checkpoint."""
    check = REWARDS.of(rm).check
    assert check is not None
    check(rm, Choices(MicroSummarization(("de",)), policy, Training(), recorded=False))


def check_translator(folder: Path) -> None:
    """What planning refuses of a translator, from German into English."""
    german, english = (Language(code, code, code, "Latn") for code in ("de", "en"))
    seq2seq.check(seq2seq.Settings(checkpoint=str(folder), family="madlad"), None, [(german, english)])
