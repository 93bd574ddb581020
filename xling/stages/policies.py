"""A policy to be trained, whole or by adapters, and how the trained one is stored: for sft and for the optimizers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from xling.config.policies import Lora
from xling.models.adapters import load_adapted, merged
from xling.models.load import DTYPES, in_dtype, load_policy, loading, save_policy


def trainable(folder: Path, tuning: str, lora: Lora | None, dropout: float | None) -> tuple[Any, Any]:
    """(model, tokenizer) of a stage's folder: whole and in float32, or frozen with adapters in its own dtype."""
    if lora is not None:
        return load_adapted(folder, tuning, lora, dropout)
    return load_policy(folder, dtype="float32", dropout=dropout)


def store_trained(start: Path, out: Path, model: Any, tokenizer: Any, lora: Lora | None) -> Any:
    """Write the trained model in the dtype of the one it started as, adapters merged, to be loaded as that was."""
    how = loading(start)
    if lora is not None:
        model = merged(start, model)
    model = in_dtype(model, DTYPES[how.dtype]).eval()
    save_policy(out, model, tokenizer, replace(how, folder=".", digest=""))
    return model
