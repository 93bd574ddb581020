"""Settings of the policies."""

from typing import Annotated

from msgspec import Meta, Struct

from xling.config.common import Positive, PositiveFloat


class LanguageModel(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="language_model"):
    """A causal LM: `checkpoint` is `packaged` (the micro base that ships with xling), `pretrain` or a folder."""

    checkpoint: str
    n: Positive = 16  # samples a prompt in the pool
    baseline_samples: Positive = 4  # fresh samples a prompt: the opponent
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: Positive = 32
    sampling_chunk: Positive = 32  # prompts decoded together; in the key, since it decides the bits


class Recorded(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="recorded"):
    """No model: a prompt's pool is what the recorded systems answered."""


Policy = LanguageModel | Recorded
