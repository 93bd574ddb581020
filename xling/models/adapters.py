"""A policy to be trained, whole or by adapters of peft (policy.tuning=lora, qlora), and how the trained one is stored.

Adapters are merged into the weights before anything is stored: what is published is a model like any other, so that
sampling, reward models and likelihoods have one path.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xling.config.policies import Lora
from xling.errors import StageError
from xling.models.load import DTYPES, in_dtype, load_policy, loading, save_policy
from xling.models.weights import some


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


def load_adapted(folder: Path, tuning: str, lora: Lora, dropout: float | None) -> tuple[Any, Any]:
    """(peft model in training, tokenizer) on the frozen weights of a stage's folder; for qlora those are in 4 bits."""
    from peft import prepare_model_for_kbit_training

    if tuning == "qlora" and not torch.cuda.is_available():
        raise StageError("policy.tuning=qlora needs a GPU. Type policy.tuning=lora, or run it where there is one.")
    model, tokenizer = load_policy(folder, dropout=dropout, quantized=tuning == "qlora")
    if tuning == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return _with_adapters(model, _config(model, lora)), tokenizer


def _with_adapters(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that has been renamed
        return get_peft_model(model, config)


def _config(model: Any, lora: Lora) -> Any:
    from peft import LoraConfig

    names = lora.target_modules
    return LoraConfig(
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=names if isinstance(names, str) else list(names),
    )


def core(model: Any) -> Any:
    """The transformers model inside, adapters and all."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def merged(folder: Path, adapted: Any) -> Any:
    """A model in the stage's own dtype with the trained adapters added to its weights, in eval mode.

    The weights are read again: those trained on may be in 4 bits, and adding to those would lose the adapters.
    """
    from peft import get_peft_model_state_dict

    config = adapted.peft_config["default"]
    trained = {name: value.detach().cpu() for name, value in get_peft_model_state_dict(adapted).items()}
    fresh = _with_adapters(load_policy(folder)[0], config)
    put_back(fresh, trained)
    return fresh.merge_and_unload().eval()


def put_back(fresh: Any, trained: dict[str, Any]) -> None:
    """Trained adapters into a model that has new ones; StageError if it would leave some out."""
    from peft import set_peft_model_state_dict

    report: Any = set_peft_model_state_dict(fresh, trained)
    if lost := report.unexpected_keys:
        raise StageError(f"The model has no place for trained adapters: {some(sorted(lost))}. Nothing was stored.")
