"""A small random model built like a checkpoint, to see before anything is trained whether we read such models right.

Its config is the checkpoint's with smaller sizes: heads, scales, caps, kinds of positions, masks and layers are the
same; windows are so short that the texts of the comparison (xling/models/own_forward.py) reach beyond them.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from xling.models.load import load_config, loading
from xling.models.own_forward import check_encoder, check_policy, own_encoded, own_logits, probe_of

TOLERANCE = 0.02  # random weights make more of roundings than trained ones; what is wrong lies 10 % apart and more
LAYERS, HEADS, VOCABULARY = 4, 4, 320
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2, "sep_token_id": 1}
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "emb_dim", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("ffn_hidden_size", "dim_ff", "hidden_dim", "dff", "intermediate_size_mlp", "d_inner"), 64),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "moe_intermediate_size"), 16),
    **dict.fromkeys(("expert_ffn_hidden_size", "expert_intermediate_size", "embedding_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_head_dim"), 16),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "swa_head_dim", "swa_v_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("kv_channels", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "dim_head"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "n_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts", "moe_topk"), 1),
    **dict.fromkeys(("sliding_window", "attention_window_size", "local_attention", "window_size"), 6),
    "rotary_dim": 4,
    "pooler_hidden_size": 32,
    "d_head": 8,
    "hidden_size_per_layer_input": 8,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
PARTS = ("(?<!per_)layer", "head")  # what counts these has it in its name
KEYS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "swa_num_key_value_heads")  # fewer where they are fewer


def check_twin(folder: Path, use: str) -> None:
    """DataError if a small model built like that of a stage's folder is read otherwise than by its own forward pass.

    Nothing is said of models whose twin cannot be built or does not work: those are looked at when they are loaded.
    """
    if use not in ("policy", "encoder") or loading(folder).remote_code is not None:
        return
    try:
        config = smaller(load_config(folder))
        kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        twin = shaken((AutoModel if use == "encoder" else kind).from_config(config, trust_remote_code=False))
        with torch.inference_mode():
            (own_encoded if use == "encoder" else own_logits)(twin, probe_of(twin.config, None))
    except Exception:  # of whatever kind: sizes that do not go together
        return
    if use == "encoder":
        check_encoder(folder, twin, TOKENS["pad_token_id"], TOLERANCE)
    else:
        check_policy(folder, twin, SimpleNamespace(pad_token_id=0, eos_token_id=1), TOLERANCE)


def smaller(config: Any, **settings: Any) -> Any:
    """A config of the same kind with the sizes above where it has them; `settings` come last."""
    left = ("quantization_config", "model_type", "architectures", "per_layer_config")
    plain = {name: value for name, value in config.to_dict().items() if name not in left}
    layers, heads = (
        next((plain[name] for name in SIZES if re.search(part, name) and plain.get(name)), 0) for part in PARTS
    )
    given = dict(plain)
    for name, value in plain.items():
        try:
            inner = getattr(config, name, None)
        except Exception:  # of a kind of its own: it differs by layer
            inner = None
        if isinstance(inner, PreTrainedConfig):
            wide = config.is_encoder_decoder and getattr(inner, "sliding_window", None)  # which are not read of these
            given[name] = smaller(inner, **({"sliding_window": 256} if wide else {})).to_dict()
        elif isinstance(value, dict):  # factors of long rotary scaling, one for each two of a head's numbers
            given[name] = {
                k: v[:4] if str(k).endswith("_factor") and isinstance(v, list) else v for k, v in value.items()
            }
        elif name in TOKENS and value is not None:
            given[name] = TOKENS[name]
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            given[name] = SIZES[name]
        elif name == "num_layers_per_stack":  # HRM's, which follow from num_hidden_layers
            given[name] = None
        elif name == "num_kv_shared_layers" and isinstance(value, int):  # Gemma 3n's last ones
            given[name] = min(value, LAYERS // 2)
        elif name in KEYS and isinstance(value, int):
            given[name] = HEADS if value == heads else min(value, 2)
        elif isinstance(value, list) and layers and len(value) == layers:
            kinds = list(dict.fromkeys(value)) if all(isinstance(one, str | float) for one in value) else value
            kinds = [SIZES[name]] if name in SIZES else kinds
            given[name] = (kinds * LAYERS)[:LAYERS]
    halves = [plain.get(f"qk_{half}_head_dim") or 0 for half in ("nope", "rope")]
    if all(halves) and plain.get("head_dim") == sum(halves):  # of Mistral 4, of whose rotary width it is the base
        given["head_dim"] = SIZES["qk_nope_head_dim"] + SIZES["qk_rope_head_dim"]
    return type(config)(**(given | settings))


def shaken(model: Any) -> Any:
    """The model with random weights of a scale at which what it says depends on all of the text."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                scale = 0.1 if any(part in name for part in ("embed", "shared", "wte")) else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            elif parameter.ndim == 1:  # a bias that is 0, or a norm's weight that is 1, is not told from none
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.float().eval()
