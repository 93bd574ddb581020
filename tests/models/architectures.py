"""A tiny random model of each text architecture that transformers offers, made from its config class."""

import functools
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from xling.models.own_forward import shaken, smaller

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
    "reformer": {
        "axial_pos_shape": (16, 16),
        "axial_pos_embds_dim": (16, 16),
        "attention_head_size": 8,
        "attn_layers": ["local", "local"],
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zamba2": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
        "hybrid_layer_ids": [1, 3],
        "chunk_size": 16,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "gemma3n_text": {"laurel_rank": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("sliding_attention", "full_attention")
        },
    },
    "qwen4_exp_text": {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "hc_lowrank": 8,
        "ple_embed_dim": 32,
    },
    "hrm_text": {"num_hidden_layers": 2, "L_cycles": 1},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"embedding_dim": 32, "num_blocks": 4, "num_heads": 4},
    "xmod": {"default_language": "en_XX"},  # without one it is refused, as test_own_forward.py has it
    "squeezebert": {"embedding_size": 32},
    "esm": {"vocab_size": 320, "pad_token_id": 0, "mask_token_id": 4, "emb_layer_norm_before": False},
    "lilt": {"hidden_size": 48},
    "layoutlmv3": {"hidden_size": 48, "coordinate_size": 8, "shape_size": 8},
    "neomme": {"head_dim": 16},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
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
POSITIONS = "gives other logits .* takes no position_ids"
HEAD = "gives other logits .*its head does more than its output embeddings"
OTHER = "gives other logits"  # caches of layers of several kinds, of a kind of their own
KEYS = "takes no cache of keys and values"
NO_CACHE = "cannot be read"  # a mask or a cache of one prompt is not taken for several responses
PADDED = "gives other encoded states"  # what is padded reaches the text: convolutions, Fourier transforms, landmarks
BLIND = "its attention does nothing here"  # MRA's is a kernel of a GPU, in whose absence it gives zeros
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
            "lfm2_moe mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text "
            "qwen3_5_text qwen3_next qwen4_exp_text recurrent_gemma dots3_note_text zamba zamba2 zaya",
        ),
        (
            AHEAD,
            "bert bert-generation big_bird camembert cpmant data2vec-text electra ernie megatron-bert rembert "
            "roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod",
        ),
        (
            POSITIONS,
            "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mpt mvp pegasus plbart trocr",
        ),
        (HEAD, "modernbert-decoder"),
        (OTHER, "moshi prophetnet"),
        (KEYS, "openai-gpt reformer rwkv xlstm"),
        ("lacks weights|would leave out", "whisper"),  # for reward models
        (NO_TEXT_MODEL, "emu3 mllama"),
    ),
    "encoder-decoder": table(
        ("has no decoder_start_token_id", "encoder-decoder"),
        (OTHER, "t5gemma2"),
        ("lacks weights", "seamless_m4t seamless_m4t_v2"),  # for reward models
        (NO_CACHE, "switch_transformers fsmt led longt5 mvp pegasus_x prophetnet"),
        (
            NO_TEXT_MODEL,
            "audioflamingo3 glmasr granite_speech granite_speech_plus musicflamingo qwen2_audio qwen3_asr "
            "vibevoice_asr voxtral voxtral_realtime",
        ),
    ),
    "classifier": table((BLIND, "mra")),
    "encoder": table(
        (PADDED, "convbert fnet mobilebert nystromformer yoso"),
        ("missing 1 required positional argument: 'inputs'", "perceiver"),
        (BLIND, "mra"),
        ("gives states of 64 numbers where its config says hidden_size=32", "reformer"),
    ),
}
UNBUILT: dict[str, dict[str, str]] = {  # why there is no tiny one here
    "decoder": table(
        ("its images need timm", "gemma3n"),
        ("writes music, from the states of another model", "musicgen musicgen_melody"),
        ("transformers' own model fails: DbrxAttentionConfig lacks rope_theta", "dbrx"),
        ("drafts for a larger model, whose states it reads", "gemma4_assistant gemma4_unified_assistant"),
        (SIZES, "blt dots3_note longcat_flash qwen4_exp"),
    ),
    "encoder-decoder": table(("hears: sizes of its parts for audio do not follow from each other", "nemo_speechlm")),
    "classifier": table(("needs detectron2, and images", "layoutlmv2")),
    "encoder": table(("transformers' AutoModel finds no class for its config", "funnel")),
}


def checkpoint(kind: str, name: str, folder: Path) -> Path:
    """A tiny model saved as it would come from the hub."""
    plain = CONFIG_MAPPING[name]()
    told = {setting: value for setting, value in TOLD.items() if plain.to_dict().get(setting) is not None}
    told |= OWN.get(name, {}) | ({"num_labels": 1} if kind == "classifier" else {})
    if name == "reformer" and kind == "decoder":
        told["is_decoder"] = True
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
