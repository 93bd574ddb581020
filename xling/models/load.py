"""Loading and saving causal LMs: every folder is in Hugging Face format; safetensors only, no remote code."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from xling.errors import DataError

disable_progress_bar()

LONGEST = 1024 + 512  # tokens of a prompt and a response (models/text.py)


def load_policy(folder: Path) -> tuple[Any, Any]:
    """(model in float32 and eval mode, tokenizer) of a stage's folder."""
    if not (folder / "config.json").exists():
        raise DataError(f"No model in {folder}: config.json is missing.")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    _check_architecture(folder, model)
    return model.eval(), load_tokenizer(folder)


def _check_architecture(folder: Path, model: Any) -> None:
    """DataError for models that sampling and scoring would read wrongly."""
    name = type(model).__name__
    if not hasattr(model, "model") or not hasattr(model, "lm_head"):
        raise DataError(f"{name} in {folder} has no `model` and `lm_head`. Use a decoder-only LM built like Llama's.")
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < LONGEST:
        raise DataError(
            f"{name} in {folder} attends to the last {window} tokens alone (sliding_window), and texts may have "
            f"{LONGEST}. Use a model with full attention."
        )


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; one without pad or eos is refused, since padding would be mistaken for text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for role in ("pad", "eos"):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise DataError(
                f"The tokenizer in {folder} has no {role} token. Set `{role}_token` in its tokenizer_config.json."
            )
    return tokenizer


def save_policy(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write weights and tokenizer in Hugging Face format."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
