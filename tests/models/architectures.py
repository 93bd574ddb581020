"""A tiny random model of each text architecture that transformers offers, made from its config class."""

from typing import Any

import torch
import transformers as hf
from transformers.models.auto import modeling_auto

from xling.models.load import text_config

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
    **dict.fromkeys(("max_source_positions", "max_encoder_position_embeddings", "max_decoder_position_embeddings"), 256),
    **dict.fromkeys(("sliding_window", "attention_window_size"), 6),
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
    "logits_scaling": 8.0,
    "final_logit_softcapping": 1.5,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "router_jitter_noise": 0.0,
    **{name: 0.0 for name in ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout_prob")},
    **{name: 0.0 for name in ("attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop")},
}
# What the table above does not get right, or what would not be looked at otherwise.
OWN: dict[str, dict[str, Any]] = {}


def tiny(kind: type[Any], **more: Any) -> Any:
    """A config of a kind with the sizes above where it has them; lists of a length of the layers are left to it."""
    plain = kind()
    given = {}
    for name, value in plain.to_dict().items():
        inner = getattr(plain, name, None)
        if isinstance(inner, hf.PreTrainedConfig):
            given[name] = tiny(type(inner)).to_dict()
        elif name in TINY and not isinstance(value, dict | list) and (value is not None or name.endswith("token_id")):
            given[name] = TINY[name]
    return kind(**given, **(OWN.get(kind.model_type, {}) | more))
