"""Settings of the tasks: one Struct each, told apart by `name`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from xling.config.common import Fraction, Positive


class MicroSummarization(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="micro_summarization"):
    """The embedded world: documents that state several facts, summaries of the main one, exact gold quality.

    Annotators are simulated. Sizes are per language.
    """

    languages: tuple[str, ...]
    seed: int = 0
    demonstrations: Positive = 3000  # SFT training examples
    ratings: Positive = 3000  # pointwise RM training examples
    pairs: Positive = 3000
    validation: Positive = 256  # examples of each kind
    test_prompts: Positive = 512
    demonstration_error: Fraction = 0.4  # share of demonstrations with at least one error
    rating_error: Fraction = 0.25  # the same among rated responses
    lead_bias: Fraction = 0.6  # share of both that tells the document's first fact, main or not
    label_noise: Fraction = 0.1  # share of simulated labels flipped
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


class Files(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="files"):
    """Your own JSONL(.gz): id, lang, document or prompt, response, system, rating. Split by document."""

    path: str
    languages: tuple[str, ...]
    seed: int = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    documents: Positive | None = None  # rated ones of a source that its heads are trained on; None: all
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


class Released(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="released"):
    """People's judgements as their authors released them: a local checkout in its own layout, or JSONL of its rows."""

    path: str
    layout: Literal["multi_summeval", "beyond_ngrams", "oasst"]
    languages: tuple[str, ...]
    seed: int = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    corrupted: Literal["both", "only", "without"] = "both"
    documents: Positive | None = None
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


Task = MicroSummarization | Files | Released
