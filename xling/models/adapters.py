"""Models to be trained, whole or by adapters of peft (tuning=lora, qlora), and how a trained policy is stored.

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
    """(model, tokenizer) of a stage's folder: whole and in float32, or frozen with adapters in its own dtype.

    For qlora the frozen weights are in 4 bits.
    """
    if lora is None:
        return load_policy(folder, dtype="float32", dropout=dropout)
    check_gpu(tuning, "policy")
    model, tokenizer = load_policy(folder, dropout=dropout, quantized=tuning == "qlora")
    return adapted(model, tuning, lora, "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"), tokenizer


def store_trained(start: Path, out: Path, model: Any, tokenizer: Any, lora: Lora | None) -> Any:
    """Write the trained model in the dtype of the one it started as, adapters merged, to be loaded as that was."""
    how = loading(start)
    if lora is not None:
        model = merged(load_policy(start)[0], model)
    model = in_dtype(model, DTYPES[how.dtype]).eval()
    save_policy(out, model, tokenizer, replace(how, folder=".", digest=""))
    return model


def check_gpu(tuning: str, group: str) -> None:
    """StageError for 4-bit weights where there is no GPU."""
    if tuning == "qlora" and not torch.cuda.is_available():
        raise StageError(f"{group}.tuning=qlora needs a GPU. Type {group}.tuning=lora, or run it where there is one.")


def adapted(model: Any, tuning: str, lora: Lora, task: str | None = None) -> Any:
    """A peft model in training: the frozen `model` with new adapters. task: its kind in peft's words; None: no LM."""
    from peft import LoraConfig, prepare_model_for_kbit_training

    if tuning == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    names = lora.target_modules
    config = LoraConfig(
        task_type=task,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=names if isinstance(names, str) else list(names),
    )
    return _with_adapters(model, config)


def _with_adapters(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that has been renamed
        return get_peft_model(model, config)


def core(model: Any) -> Any:
    """The transformers model inside, adapters and all."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def merged(fresh: Any, trained: Any) -> Any:
    """The model `fresh` with the adapters of `trained` added to its weights, in eval mode; StageError if any is lost.

    `fresh` is read again from where `trained` began: weights trained on may be in 4 bits, and adding to those would
    lose the adapters.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    adapters = {name: value.detach().cpu() for name, value in get_peft_model_state_dict(trained).items()}
    both = _with_adapters(fresh, trained.peft_config["default"])
    report: Any = set_peft_model_state_dict(both, adapters)
    if lost := report.unexpected_keys:
        raise StageError(f"The model has no place for trained adapters: {some(sorted(lost))}. Nothing was stored.")
    return both.merge_and_unload().eval()
