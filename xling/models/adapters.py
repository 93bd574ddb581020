"""policy.tuning=lora and qlora: adapters by peft while training, merged into the weights before anything is stored.

What is published is a model like any other, so that sampling, reward models and likelihoods have one path.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from xling.config.policies import Lora
from xling.errors import StageError
from xling.models.load import load_policy
from xling.models.weights import some


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
