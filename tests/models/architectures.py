"""A tiny random model of each text architecture that transformers offers, made from its config class."""

import functools
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from xling.models.twins import shaken, smaller

# What makes a reading wrong that does not know of it, and what is drawn at random or wide for nothing.
TOLD = {
    "logit_scale": 0.25,
    "logits_scaling": 3.0,
    "final_logit_softcapping": 1.5,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "router_jitter_noise": 0.0,
    "max_position_embeddings": 256,
}
# What a config class does not say by itself, or what would not be looked at otherwise.
OWN: dict[str, dict[str, Any]] = {
    **{name: {"decoder_start_token_id": 0} for name in ("t5", "switch_transformers", "longt5")},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "phi3": {"sliding_window": 6},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    **{name: {"mamba_n_heads": 8, "mamba_d_head": 8} for name in ("bamba", "granitemoehybrid")},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "led": {"attention_window": 8, "max_encoder_position_embeddings": 1024},
    "deepseek_v2": {"num_experts_per_tok": 2},
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma4_text": {
        "per_layer_config": {3: {"head_dim": 16}},
        "layer_types": [*["sliding_attention"] * 3, "full_attention"],
    },
    "mpnet": {"relative_attention_num_buckets": 32},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {"is_decoder": True},
}

AUTO = {
    "decoder": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, hf.AutoModelForCausalLM),
    "encoder-decoder": (modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, hf.AutoModelForSeq2SeqLM),
    "classifier": (
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        hf.AutoModelForSequenceClassification,
    ),
    "encoder": (modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, hf.AutoModel),
}
OF_KIND = {kind: list(names) for kind, (names, _) in AUTO.items()}
LAYERS = r"has layers of .*, whose state cannot be shared"
AHEAD = "it reads texts in both directions"
POSITIONS = "gives other logits"  # positions count the padding, or a head is more than its embeddings
NO_CACHE = "cannot be read"  # no cache that can be shared, or one of its own
PADDED = "gives other encoded states"  # what is padded reaches the text: convolutions, Fourier transforms, landmarks
NO_TEXT_MODEL = "Unrecognized configuration class"
SIZES = "sizes of this kind do not follow from each other: it is left out"


def table(*rows: tuple[str, str]) -> dict[str, str]:
    """Architecture -> reason, from rows of (reason, names)."""
    return {name: reason for reason, names in rows for name in names.split()}


REFUSED: dict[str, dict[str, str]] = {  # what the refusal says
    "decoder": table(
        (
            LAYERS,
            "axk2 bailing_hybrid bamba deepseek_v32 deepseek_v4 falcon_h1 falcon_mamba glm_moe_dsa gpt_neo "
            "granitemoehybrid hy_v4 inkling2_text inkling_text jamba kimi_linear lfm3 llama4 llama4_text "
            "mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text "
            "qwen3_next recurrent_gemma dots3_note_text zaya",
        ),
        (
            AHEAD,
            "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert "
            "roberta roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl",
        ),
        (
            POSITIONS,
            "bart bigbird_pegasus blenderbot blenderbot-small marian mbart modernbert-decoder moshi mpt mvp "
            "pegasus plbart prophetnet trocr",
        ),
        (NO_CACHE, "blt cpmant openai-gpt rwkv xlm xlnet xlstm xmod"),
        ("lacks weights|would leave out", "fuyu whisper"),  # for reward models
        (NO_TEXT_MODEL, "emu3 mllama"),
        (POSITIONS, "hrm_text"),  # not so: with random weights its loops make 0.4 % of the spread of roundings
    ),
    "encoder-decoder": table(
        ("has no decoder_start_token_id", "encoder-decoder"),
        (POSITIONS, "t5gemma2"),
        ("lacks weights", "seamless_m4t seamless_m4t_v2"),  # for reward models
        (NO_CACHE, "switch_transformers fsmt led longt5 mvp pegasus_x prophetnet"),
        (
            NO_TEXT_MODEL,
            "audioflamingo3 glmasr granite_speech granite_speech_plus musicflamingo qwen2_audio qwen3_asr "
            "vibevoice_asr voxtral voxtral_realtime",
        ),
    ),
    "classifier": {},
    "encoder": table((PADDED, "convbert fnet mobilebert nystromformer yoso"), (NO_CACHE, "perceiver xmod")),
}
UNBUILT: dict[str, dict[str, str]] = {  # why there is no tiny one here
    "decoder": table(
        ("needs timm", "gemma3n"),
        (
            SIZES,
            "cohere_compass_text dbrx dots1 dots3_note gemma3n_text gemma4 gemma4_assistant "
            "gemma4_unified gemma4_unified_assistant lfm2_moe longcat_flash "
            "musicgen musicgen_melody qwen4_exp qwen4_exp_text reformer zamba zamba2",
        ),
    ),
    "encoder-decoder": table((SIZES, "nemo_speechlm")),
    "classifier": table(
        (SIZES, "canine esm esmc jamba mistral4 mra reformer squeezebert zamba zamba2"),
        ("reads more than token ids: boxes, bytes, or a language", "layoutlmv2 layoutlmv3 lilt perceiver xmod"),
    ),
    "encoder": table((SIZES, "esm esmc funnel layoutlm mra neomme reformer squeezebert")),
}


def checkpoint(kind: str, name: str, folder: Path) -> Path:
    """A tiny model saved as it would come from the hub."""
    plain = CONFIG_MAPPING[name]()
    told = {setting: value for setting, value in TOLD.items() if plain.to_dict().get(setting) is not None}
    told |= OWN.get(name, {}) | ({"num_labels": 1} if kind == "classifier" else {})
    config = smaller(plain, **told)
    shaken(AUTO[kind][1].from_config(config)).save_pretrained(folder)
    pieces().save_pretrained(folder)
    return folder


@functools.cache
def pieces() -> Any:
    """Bytes, with the special tokens that the configs name."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
