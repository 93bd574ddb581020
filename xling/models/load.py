"""Loading and saving language models from stages' folders: safetensors only, remote code only where it is named.

A stage's folder says in load.json where its weights are and how they are read: {"folder", "dtype", "attention",
"remote_code"}; a folder without it is a model in Hugging Face format, read in float32. Decoder-only models and
encoder-decoder models come through the same doors; `model.config.is_encoder_decoder` tells them apart.
"""

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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loading:
    """How a stage's model is read. `folder` is relative to the stage's folder, or absolute where it lies elsewhere."""

    folder: str = "."
    dtype: str = "float32"  # a key of DTYPES
    attention: str | None = None  # None: transformers' choice; eager, sdpa, flash_attention_2
    remote_code: str | None = None  # the repository whose code may run; None: none


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def loading(stage_folder: Path) -> Loading:
    """What load.json says."""
    path = stage_folder / "load.json"
    return Loading(**read_json(path)) if path.exists() else Loading()


def write_loading(stage_folder: Path, how: Loading) -> None:
    """load.json."""
    write_json(stage_folder / "load.json", asdict(how))


def load_policy(folder: Path, dtype: str | None = None) -> tuple[Any, Any]:
    """(model on `device()` in eval mode, tokenizer) of a stage's folder; `dtype` in place of the stage's own."""
    where, how = _found(folder)
    check_files(where)
    config = AutoConfig.from_pretrained(where, trust_remote_code=bool(how.remote_code))
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = _read(kind, where, how, dtype)
    check_architecture(folder, model)
    return model, load_tokenizer(folder)


def load_trunk(folder: Path, dtype: str | None = None) -> Any:
    """The same without the LM head, for reward models: an AutoModel on `device()` in eval mode."""
    where, how = _found(folder)
    check_files(where)
    return _read(AutoModel, where, how, dtype)


def load_classifier(folder: Path) -> Any:
    """A sequence classifier as it was published, on `device()` in eval mode."""
    where, how = _found(folder)
    check_files(where)
    return _read(AutoModelForSequenceClassification, where, how, None)


def load_tokenizer(folder: Path, needed: Sequence[str] = ("pad", "eos")) -> Any:
    """The folder's tokenizer; one without pad or eos is refused, since padding would be mistaken for text."""
    where, how = _found(folder)
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=bool(how.remote_code))
    for role in needed:
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise DataError(
                f"The tokenizer in {where} has no {role} token. Set `{role}_token` in its tokenizer_config.json."
            )
    return tokenizer


def _found(stage_folder: Path) -> tuple[Path, Loading]:
    how = loading(stage_folder)
    where = stage_folder / how.folder
    if not where.is_dir():
        raise DataError(f"The model in {where} is no longer there. Put it back, or run with mode=force.")
    return where, how


def _read(kind: Any, where: Path, how: Loading, dtype: str | None) -> Any:
    model = kind.from_pretrained(
        where,
        dtype=DTYPES[dtype or how.dtype],
        use_safetensors=True,
        trust_remote_code=bool(how.remote_code),
        **({"attn_implementation": how.attention} if how.attention else {}),
    )
    return model.to(device()).eval()


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
    """What reads tokens and gives hidden states: the decoder of a decoder-only LM, all of an encoder-decoder."""
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
