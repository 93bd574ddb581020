"""How architectures differ for whoever reads their states: trunk and head, windows, masks, positions.

What is known of an architecture is its config and its classes in transformers; nothing here reads weights. That our
reading of it is right is seen by xling/models/own_forward.py.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from xling.errors import DataError
from xling.models.checkpoints import alike_up_to

SCALED_WHERE_TIED = ("umt5", "switch_transformers", "udop")  # as the first T5, whose config says it outright
MULTIPLIED = ("hyperclovax",)  # by what Granite divides by


def text_config(config: Any) -> Any:
    """The settings of what writes texts: of a model of texts and images, or of T5Gemma, they stand in one inside."""
    decoder = getattr(config, "decoder", None)
    return decoder if isinstance(decoder, PreTrainedConfig) else config.get_text_config()


def trunk_of(model: Any) -> Any:
    """The part of a model that turns tokens into hidden states: a decoder-only LM's decoder, both halves of others."""
    if model.config.is_encoder_decoder:
        return model
    decoder = model.get_decoder()
    if decoder is model:  # Llama 4's finds nothing
        return getattr(model, "model", model)
    return decoder if isinstance(decoder, PreTrainedModel) else model.base_model  # ModernBERT's is a part of its head


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """(..., hidden_size) last hidden states -> (..., vocabulary), as the model's own forward has them."""
    config, text = model.config, text_config(model.config)
    tied = config.model_type in SCALED_WHERE_TIED and config.tie_word_embeddings
    if tied or getattr(config, "scale_decoder_outputs", False):  # T5's own
        hidden = hidden * config.d_model**-0.5
    logits: Tensor = model.get_output_embeddings()(hidden)
    bias = getattr(model, "final_logits_bias", None)  # of BART and its kin
    if bias is not None:
        logits = logits + bias
    times, over = getattr(text, "logit_scale", None), getattr(text, "logits_scaling", None)  # Cohere's, Granite's
    if times is not None:
        logits = logits * times
    if over is not None:
        logits = logits * over if text.model_type in MULTIPLIED else logits / over
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma 2
    return logits if cap is None else (logits / cap).tanh() * cap


def layer_windows(config: Any) -> dict[str, int | None]:
    """How far back each kind of layer attends, in tokens; None: to all. The kinds are those of `config.layer_types`."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"]
    return {kind: window if kind == "sliding_attention" else None for kind in dict.fromkeys(kinds)}


def reads_flat_masks(config: Any) -> bool:
    """Whether what is not read must be named by key alone, (R, keys): to flash attention, and where ALiBi counts it."""
    alibi = config.model_type == "bloom" or (config.model_type == "falcon" and config.alibi)
    return bool(alibi or config._attn_implementation == "flash_attention_2")


def check_room(config: Any, longest: int) -> None:
    """DataError for texts (with padding) so long that all their tokens get other positions, by dynamic rotary scaling.

    Such a model reads a prompt in another way once the response is long enough: it cannot be read once for all.
    """
    text = text_config(config)
    window = getattr(text, "sliding_window", None) if config.is_encoder_decoder else None  # T5Gemma's
    if window is not None and longest > window:
        raise DataError(
            f"A text of {longest} tokens is longer than the window of {window} that a {config.model_type} attends to, "
            "which is read of decoder-only models alone. Lower max_prompt_tokens, or use another model."
        )
    names = ("model_type", "rope_parameters", "max_position_embeddings", "original_max_position_embeddings")
    limit = alike_up_to({name: getattr(text, name, None) for name in names})
    if limit is not None and longest > limit[0]:
        raise DataError(
            f"A text of {longest} tokens is longer than the {limit[0]} up to which a {config.model_type} with rotary "
            f"scaling of the kind {limit[1]} reads all texts alike. Lower max_prompt_tokens, or max_new_tokens or "
            "max_response_tokens, or use another model."
        )


def check_architecture(folder: Path, model: Any) -> None:
    """DataError for models that sampling and scoring would read wrongly."""
    name = type(model).__name__
    if model.get_output_embeddings() is None:
        raise DataError(f"{name} in {folder} has no output embeddings. Use a language model.")
    if model.config.is_encoder_decoder:
        if model.config.decoder_start_token_id is None:
            raise DataError(f"{name} in {folder} has no decoder_start_token_id. Set it in config.json.")
        if model.config._attn_implementation == "flash_attention_2":
            raise DataError(
                f"{name} is an encoder-decoder: policy.attention=flash_attention_2 is for others. Type sdpa."
            )
        return
    if trunk_of(model) is model:
        raise DataError(f"{name} in {folder} is not built of a decoder and a head. Use a decoder-only LM like Llama.")
    strange = set(layer_windows(model.config)) - {"full_attention", "sliding_attention"}
    if "local" in getattr(model.config, "attention_layers", ()):  # GPT-Neo's name for a window
        strange.add("local_attention")
    if strange:
        raise DataError(
            f"{name} in {folder} has layers of {', '.join(sorted(strange))}, whose state cannot be shared by the "
            "samples of a prompt. Use a model with full or sliding-window attention."
        )
