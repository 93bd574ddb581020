"""A tiny random model of each text architecture that transformers offers, made from its config class."""

import functools
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 320
TINY: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "emb_dim", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 4),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("ffn_hidden_size", "dim_ff", "hidden_dim", "dff", "intermediate_size_mlp", "d_inner"), 64),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("num_encoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size"), 16),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "swa_head_dim", "swa_v_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("kv_channels", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "dim_head"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "n_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "moe_topk"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_target_positions"), 256),
    **dict.fromkeys(
        ("max_source_positions", "max_encoder_position_embeddings", "max_decoder_position_embeddings"), 256
    ),
    **dict.fromkeys(("sliding_window", "attention_window_size", "local_attention", "window_size"), 6),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "embedding_size", "rotary_dim_"), 16),
    "rotary_dim": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 2,
    "use_cache": True,
    "_layers": 4,
    # what makes a reading wrong that does not know of it
    "logit_scale": 0.25,
    "logits_scaling": 3.0,
    "final_logit_softcapping": 1.5,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "router_jitter_noise": 0.0,
    **{name: 0.0 for name in ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout_prob")},
    **{name: 0.0 for name in ("attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop")},
}
# What the table above does not get right, or what would not be looked at otherwise.
LATENT = ("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu", "mistral4")
ALIKE = {"num_key_value_heads": 4}  # latent attention has no fewer heads of keys
OWN: dict[str, dict[str, Any]] = {
    **{name: ALIKE for name in LATENT},
    **{name: {"decoder_start_token_id": 0} for name in ("t5", "switch_transformers", "longt5")},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "phi3": {"sliding_window": 6},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": VOCABULARY, "expansion_ratio": 2},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "t5_gemma_module": {"sliding_window": 256},  # which is not read of encoder-decoders: long texts are refused
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
REFUSED: dict[str, dict[str, str]] = {kind: {} for kind in AUTO}  # what the refusal says
UNBUILT: dict[str, dict[str, str]] = {kind: {} for kind in AUTO}  # why there is no tiny one here


def tiny(kind: type[Any], **more: Any) -> Any:
    """A config of a kind with the sizes above where it has them; lists of a length of the layers are left to it."""
    plain = kind()
    given = {}
    for name, value in plain.to_dict().items():
        try:
            inner = getattr(plain, name, None)
        except AttributeError:  # it differs by layer
            inner = None
        if isinstance(inner, hf.PreTrainedConfig):
            given[name] = tiny(type(inner)).to_dict()
        elif name in TINY and not isinstance(value, dict | list) and (value is not None or name.endswith("token_id")):
            given[name] = TINY[name]
    return kind(**(given | OWN.get(kind.model_type, {}) | more))


def checkpoint(kind: str, name: str, folder: Path) -> Path:
    """A tiny model saved as it would come from the hub."""
    config = tiny(CONFIG_MAPPING[name], **({"num_labels": 1} if kind == "classifier" else {}))
    shaken(AUTO[kind][1].from_config(config)).save_pretrained(folder)
    pieces().save_pretrained(folder)
    return folder


def shaken(model: Any) -> Any:
    """Random weights of a scale at which what is said depends on the text."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                scale = 0.1 if any(part in name for part in ("embed", "shared", "wte")) else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            elif parameter.ndim == 1:  # heads and norms with a bias that is none, or a weight of one, hide what is read
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


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
