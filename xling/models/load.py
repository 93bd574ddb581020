"""Loading and saving language models from stages' folders: safetensors only, remote code only where it is named.

A stage's folder says in load.json where its weights are and how they are read: {"folder", "dtype", "attention",
"remote_code", "pad_token"}; a folder without it is a model in Hugging Face format, read in float32. Decoder-only and
encoder-decoder models come through the same doors; `model.config.is_encoder_decoder` tells them apart.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils.logging import disable_progress_bar

from xling.errors import DataError
from xling.jsonfiles import read_json, write_json

disable_progress_bar()

DROPOUTS = (
    "dropout",
    "dropout_rate",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loading:
    """How a stage's model is read. `folder` is relative to the stage's folder, or absolute where it lies elsewhere."""

    folder: str = "."
    dtype: str = "float32"  # a key of DTYPES
    attention: str | None = None  # None: transformers' choice; eager, sdpa, flash_attention_2
    remote_code: str | None = None  # the repository whose code may run; None: none
    pad_token: str | None = None  # where the tokenizer names none


def device() -> torch.device:
    """The GPU if there is one (of several processes each has its own), else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def loading(stage_folder: Path) -> Loading:
    """What load.json says."""
    path = stage_folder / "load.json"
    return Loading(**read_json(path)) if path.exists() else Loading()


def write_loading(stage_folder: Path, how: Loading) -> None:
    """load.json."""
    write_json(stage_folder / "load.json", asdict(how))


def load_policy(
    folder: Path, dtype: str | None = None, dropout: float | None = None, quantized: bool = False
) -> tuple[Any, Any]:
    """(model on `device()` in eval mode, tokenizer) of a stage's folder.

    dtype: in place of the stage's own; dropout: in place of the model's own, for training; quantized: 4-bit weights.
    """
    from xling.models.prefill import check_reading  # which reads models by this module

    model = _read(AutoModelForCausalLM, folder, dtype, dropout, quantized)
    check_architecture(folder, model)
    check_reading(folder, model)
    return model, load_tokenizer(folder)


def load_trunk(folder: Path, dtype: str | None = None, dropout: float | None = None, quantized: bool = False) -> Any:
    """The same without the LM head, for reward models: an AutoModel on `device()` in eval mode."""
    return _read(AutoModel, folder, dtype, dropout, quantized)


def load_classifier(folder: Path) -> Any:
    """A sequence classifier as it was published, on `device()` in eval mode."""
    return _read(AutoModelForSequenceClassification, folder, None, None, False)


def load_tokenizer(folder: Path, needed: Sequence[str] = ("pad", "eos")) -> Any:
    """The folder's tokenizer; one without pad or eos is refused, since padding would be mistaken for text."""
    where, how = _found(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")  # Marian's, which it does not use
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=bool(how.remote_code))
    if tokenizer.pad_token_id is None and how.pad_token in tokenizer.get_vocab():
        tokenizer.pad_token = how.pad_token
    for role in needed:
        if getattr(tokenizer, f"{role}_token_id") is None:
            named = f", nor the piece {how.pad_token!r}" if role == "pad" and how.pad_token else ""
            hint = (
                ", or name a piece of it as policy.pad_token (rm_backbone.pad_token, if that names the model)"
                if role == "pad"
                else ""
            )
            raise DataError(
                f"The tokenizer in {where} has no {role} token{named}. Set `{role}_token` in its "
                f"tokenizer_config.json{hint}."
            )
    return tokenizer


def _found(stage_folder: Path) -> tuple[Path, Loading]:
    how = loading(stage_folder)
    where = stage_folder / how.folder
    if not where.is_dir():
        raise DataError(f"The model in {where} is no longer there. Put it back, or run with mode=force.")
    return where, how


def load_config(folder: Path) -> Any:
    """The transformers config of a stage's model, after a look at the files: weights are not read."""
    where, how = _found(folder)
    check_files(where)
    _check_code(where, how.remote_code)
    return AutoConfig.from_pretrained(where, trust_remote_code=bool(how.remote_code))


def _read(kind: Any, folder: Path, dtype: str | None, dropout: float | None, quantized: bool) -> Any:
    config, (where, how) = load_config(folder), _found(folder)
    if kind is AutoModelForCausalLM and config.is_encoder_decoder:
        kind = AutoModelForSeq2SeqLM
    if dropout is not None:
        _set_dropout(config, dropout)
    chosen = DTYPES[dtype or how.dtype]
    extra: dict[str, Any] = {"attn_implementation": how.attention} if how.attention else {}
    if quantized:
        extra |= {"quantization_config": _four_bits(chosen), "device_map": {"": device()}}
    model = kind.from_pretrained(
        where, config=config, dtype=chosen, use_safetensors=True, trust_remote_code=bool(how.remote_code), **extra
    )
    return model.eval() if quantized else model.to(device()).eval()


def empty_policy(folder: Path) -> Any:
    """The model of a stage's folder without weights (on torch's meta device), to look at how it is built."""
    config, how = load_config(folder), loading(folder)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    extra = {"attn_implementation": how.attention} if how.attention else {}
    with torch.device("meta"):
        return kind.from_config(config, trust_remote_code=bool(how.remote_code), **extra)


def _four_bits(compute: torch.dtype) -> Any:
    """The quantisation of QLoRA (Dettmers et al. 2023): 4-bit normal floats, their scales quantised too."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _set_dropout(config: Any, rate: float) -> None:
    """Every dropout that the architecture has; its config says which those are."""
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for name in DROPOUTS:
            if hasattr(part, name):
                setattr(part, name, rate)


def _check_code(where: Path, allowed: str | None) -> None:
    """DataError for a model whose code comes from elsewhere than the repository that was named."""
    if not (where / "config.json").exists():
        return
    classes = read_json(where / "config.json").get("auto_map", {}).values()
    origins = {str(name).partition("--")[0] for name in classes if "--" in str(name)}
    if allowed and origins - {allowed}:
        raise DataError(
            f"The model in {where} runs code of {', '.join(sorted(origins))}, and policy.remote_code={allowed}. "
            "Name that repository outright if you trust it, or use another model."
        )


def check_files(folder: Path) -> None:
    """DataError for a folder that is no model, or whose weights are pickles: those can run code when they are read."""
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            raise DataError(f"{folder} holds adapters alone. Merge them into their base (peft's merge_and_unload).")
        raise DataError(f"No model in {folder}: config.json is missing.")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for kind in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(kind))]
        if pickles:
            raise DataError(
                f"The weights in {folder} are in pickle format ({', '.join(pickles[:3])}), which can run code when "
                "it is read. Use safetensors: a revision of the repository that has them (refs/pr/N, as the hub's "
                "conversion bot makes them), or convert them and name the local folder."
            )
        raise DataError(f"No weights in {folder}: it has no .safetensors file.")


def layer_windows(config: Any) -> dict[str, int | None]:
    """How far back each kind of layer attends, in tokens; None: to all. The kinds are those of `config.layer_types`."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"]
    return {kind: window if kind == "sliding_attention" else None for kind in dict.fromkeys(kinds)}


def trunk_of(model: Any) -> Any:
    """What reads tokens and gives hidden states: a decoder-only LM's decoder, both halves of an encoder-decoder."""
    return model.get_decoder() if not model.config.is_encoder_decoder else model


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """(..., hidden_size) last hidden states of a decoder-only LM -> (..., vocabulary), as its own forward has them."""
    logits: Tensor = model.get_output_embeddings()(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
    return logits if cap is None else (logits / cap).tanh() * cap


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
    if model.get_decoder() is model:
        raise DataError(f"{name} in {folder} is not built of a decoder and a head. Use a decoder-only LM like Llama.")
    strange = set(layer_windows(model.config)) - {"full_attention", "sliding_attention"}
    if strange:
        raise DataError(
            f"{name} in {folder} has layers of {', '.join(sorted(strange))}, whose state cannot be shared by the "
            "samples of a prompt. Use a model with full or sliding-window attention."
        )


def save_policy(folder: Path, model: Any, tokenizer: Any, how: Loading | None = None) -> None:
    """Write weights and tokenizer in Hugging Face format, and `how` they are read back."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if how is not None:
        write_loading(folder, how)
