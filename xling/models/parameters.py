"""How many parameters a token passes in a model, from its config.json; for estimates of cost. No torch here.

Where no config.json can be had (a dry run without a network) a table has what those of conf/ and of the paper say.
Biases, norms and embeddings, which are looked up rather than multiplied, are left out.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from xling.models.hub import BASE_FOLDER, settings_of

TRAINING = 3  # forward and backward, in forward passes


class Parameters(NamedTuple):
    """`prompt`: of the layers that read a prompt; `response`: that read or write a response; `head`: of the LM head."""

    prompt: int
    response: int
    head: int

    def forward(self, prompt: float, response: float, head: bool = True) -> float:
        """Floating-point operations of one pass over so many tokens: 2 a parameter and token, attention left out."""
        return 2 * (self.prompt * prompt + (self.response + self.head * head) * response)


def _t5(width: int, key: int, heads: int, inner: int, layers: int, vocabulary: int = 250112) -> dict[str, Any]:
    sizes = {"d_model": width, "d_kv": key, "num_heads": heads, "d_ff": inner, "num_layers": layers}
    return sizes | {"vocab_size": vocabulary, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": True}


def _llama(width: int, layers: int, inner: int, heads: int, groups: int, vocabulary: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "head_dim": 128}
    return sizes | {"num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary}


def _m2m(width: int, layers: int, inner: int) -> dict[str, Any]:
    sizes = {"d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_ffn_dim": inner}
    return sizes | {"decoder_ffn_dim": inner, "vocab_size": 256206, "is_encoder_decoder": True}


# From the config.json of each repository.
KNOWN: dict[str, dict[str, Any]] = {
    "google/mt5-small": _t5(512, 64, 6, 1024, 8),
    "google/mt5-base": _t5(768, 64, 12, 2048, 12),
    "google/mt5-large": _t5(1024, 64, 16, 2816, 24),
    "google/mt5-xl": _t5(2048, 64, 32, 5120, 24),
    "google/madlad400-3b-mt": _t5(1024, 128, 16, 8192, 32, 256000),
    "facebook/nllb-200-distilled-600M": _m2m(1024, 12, 4096),
    "facebook/nllb-200-3.3B": _m2m(2048, 24, 8192),
    "Qwen/Qwen3-0.6B-Base": _llama(1024, 28, 3072, 16, 8, 151936),
    "Qwen/Qwen3-1.7B-Base": _llama(2048, 28, 6144, 16, 8, 151936),
    "Qwen/Qwen3-4B-Base": _llama(2560, 36, 9728, 32, 8, 151936),
    "Qwen/Qwen3-4B-Instruct-2507": _llama(2560, 36, 9728, 32, 8, 151936),
    "Qwen/Qwen3-8B-Base": _llama(4096, 36, 12288, 32, 8, 151936),
    "microsoft/Phi-4-mini-instruct": _llama(3072, 32, 8192, 24, 8, 200064),
    "HuggingFaceTB/SmolLM3-3B-Base": _llama(2048, 36, 11008, 16, 4, 128256),
    "utter-project/EuroLLM-1.7B": _llama(2048, 24, 5632, 16, 8, 128000),
}


@lru_cache(maxsize=64)
def parameters_of(checkpoint: str, revision: str | None) -> Parameters | None:
    """Of a checkpoint as a base stage names it; None where nothing tells."""
    if checkpoint in ("packaged", "pretrain"):
        checkpoint = str(BASE_FOLDER)
    config = KNOWN.get(checkpoint) or settings_of(checkpoint, revision)
    try:
        return _of(config) if config else None
    except KeyError:  # an architecture with other names for its sizes
        return None


def _of(config: Mapping[str, Any]) -> Parameters:
    config = config.get("text_config") or config
    if "d_kv" in config:
        return _of_t5(config)
    if config.get("is_encoder_decoder"):
        width = config["d_model"]
        encoder = config["encoder_layers"] * (4 * width**2 + 2 * width * config["encoder_ffn_dim"])
        decoder = config["decoder_layers"] * (8 * width**2 + 2 * width * config["decoder_ffn_dim"])
        return Parameters(encoder, decoder, width * config["vocab_size"])
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or width // heads
    attention = 2 * width * size * (heads + config.get("num_key_value_heads", heads))
    layers = config["num_hidden_layers"] * (attention + 3 * width * config["intermediate_size"])
    return Parameters(layers, layers, width * config["vocab_size"])


def _of_t5(config: Mapping[str, Any]) -> Parameters:
    width = config["d_model"]
    attention = 4 * width * config["d_kv"] * config["num_heads"]
    inner = (3 if str(config.get("feed_forward_proj", "")).startswith("gated") else 2) * width * config["d_ff"]
    decoders = config.get("num_decoder_layers") or config["num_layers"]
    return Parameters(
        config["num_layers"] * (attention + inner), decoders * (2 * attention + inner), width * config["vocab_size"]
    )
