"""Settings of the policies."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from xling.config.common import IN_BFLOAT16, Fraction, Positive, PositiveFloat
from xling.errors import ConfigError


class Lora(Struct, frozen=True, forbid_unknown_fields=True):
    """Low-rank adapters (Hu et al. 2021); they are merged into the weights before the policy is stored."""

    r: Positive = 16
    alpha: Positive = 32  # the update is scaled by alpha / r
    dropout: Fraction = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"  # or names of layers, e.g. [q_proj, v_proj]


class LanguageModel(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="language_model"):
    """A decoder-only or encoder-decoder LM.

    `checkpoint` is `packaged` (the micro base that ships with xling), `pretrain`, a local folder, or a hub id.
    """

    checkpoint: str
    revision: str | None = None  # of a hub id: commit, tag or branch; None: main, as it is when the grid is planned
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None  # None: what transformers chooses
    remote_code: str | None = None  # the repository whose code may run
    pad_token: str | None = None  # a piece to pad with where the tokenizer names none; what is padded is never read
    template: Literal["tokenizer", "plain"] | None = None  # of chats; None: the tokenizer's where it has one
    tuning: Literal["full", "lora", "qlora"] = "full"
    lora: Lora = Lora()
    gradient_checkpointing: bool = False  # less memory for more time, wherever the policy is trained; in no key
    max_prompt_tokens: Positive = 1024
    truncation_side: Literal["left", "right"] | None = None  # of the document in too long a prompt; None: the task's
    n: Positive = 16  # samples a prompt in the pool
    baseline_samples: Positive = 4  # fresh samples a prompt: the opponent
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: Positive = 32
    sampling_chunk: Positive = 32  # prompts decoded together at most; in no key
    sampling_memory: PositiveFloat | None = None  # GiB for what is decoded together, in no key; None: by the device
    by_length: bool = False  # prompts of like length are decoded together
    engine: Literal["torch", "vllm"] = "torch"
    # of several processes that train it, or a reward model like it, together: each has all weights, or its share; in
    # no key, as their number
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    gather: Literal["auto", "whole", "layers"] = "auto"  # of shared out weights, while they are sampled; in no key


class Recorded(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="recorded"):
    """No model: a prompt's pool is what the recorded systems answered."""


Policy = LanguageModel | Recorded


def check_following(setting: str, optimizer: str, dtype: tuple[str, str], tuning: str, parallel: str) -> None:
    """ConfigError for an optimizer that takes less memory (`Following`) where it cannot, or spares nothing.

    setting, dtype: the optimizer's setting, and that of the model's dtype with its value; tuning: full, lora, ...
    """
    if optimizer in ("adamw", "adafactor"):
        return
    typed = f"{setting}={optimizer}"
    if tuning != "full":
        raise ConfigError(
            f"{typed} spares memory of weights that are trained whole, and with tuning={tuning} few learn. Type "
            f"{setting}=adamw."
        )
    if parallel == "fsdp":
        raise ConfigError(
            f"policy.parallel=fsdp does not share out what {typed} holds. Type {setting}=adamw, or "
            "policy.parallel=ddp, where each process has all weights."
        )
    if optimizer in IN_BFLOAT16 and dtype[1] != "bfloat16":
        raise ConfigError(
            f"{typed} trains weights in bfloat16, and {dtype[0]}={dtype[1]}. Type {dtype[0]}=bfloat16, or "
            f"{setting}=adamw."
        )
