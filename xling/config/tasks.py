"""Settings of the tasks: one Struct each, told apart by `name`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from xling.config.common import Fraction, Language, Positive, Seed, Template

PUBLISHED = "published"  # a task's path in a dry run: its data is not here, its sizes are those that the paper states


class MicroSummarization(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="micro_summarization"):
    """The embedded world: documents that state several facts, summaries of the main one, exact gold quality.

    Annotators are simulated. Sizes are per language.
    """

    languages: tuple[str, ...]
    seed: Seed = 0
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


class Columns(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of a file's columns by what they hold; None: there is none, whatever the file has."""

    id: str | None = "id"
    lang: str | None = "lang"  # or `language`
    prompt: str | None = "prompt"  # or `document` or `messages`; text, or a chat: a list of {role, content}
    response: str | None = "response"
    system: str | None = "system"
    chosen: str | None = "chosen"
    rejected: str | None = "rejected"
    group: str | None = "group"
    split: str | None = "split"
    dataset: str | None = "dataset"


class Files(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="files"):
    """Your own JSONL(.gz), CSV, TSV or Parquet: ratings, pairs, demonstrations. Split by document or tree."""

    path: str
    languages: tuple[str, ...]
    seed: Seed = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    documents: Positive | None = None  # rated ones of a source that its heads are trained on; None: all
    feedback: Literal["pointwise", "pairwise"] = "pointwise"
    columns: Columns = Columns()
    rating_scale: tuple[float, float] | None = None  # lowest and highest rating that there can be
    threshold: float | None = None  # ratings from here on are good
    bad_rows: Literal["refuse", "skip"] = "refuse"
    validation: Fraction = 0.1  # share of the documents of a language
    test: Fraction = 0.1
    template: Template = Template()
    facts: tuple[Language, ...] = ()


class MRewardBench(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="m_rewardbench"):
    """M-RewardBench (Gureja et al. 2025): chosen and rejected responses in 23 languages. For evaluation only."""

    path: str
    languages: tuple[str, ...] = ()
    revision: str | None = None  # of a hub repository: branch, tag or commit
    feedback: Literal["pairwise"] = "pairwise"
    template: Template = Template()
    facts: tuple[Language, ...] = ()


Corpus = Literal["xsum", "xlsum", "mlsum", "wikilingua"]


class Seahorse(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="seahorse"):
    """Summarization as in the paper: Seahorse's ratings, and the corpora that they were made of."""

    path: str
    articles: str | None = None
    languages: tuple[str, ...] = ("de", "en", "es", "ru", "tr", "vi")
    datasets: tuple[Corpus, ...] = ("xsum", "xlsum", "mlsum", "wikilingua")
    question: Annotated[int, Meta(ge=1, le=6)] = 6
    missing: Literal["drop", "bad"] = "drop"
    mixing: Literal["concatenate", "equal"] = "concatenate"
    evaluate: Literal["validation", "test"] = "validation"
    max_demonstrations: Positive | None = None  # a corpus, language and split
    max_prompts: Positive | None = None
    max_characters: Positive | None = None
    seed: Seed = 0
    feedback: Literal["pointwise", "pairwise"] = "pointwise"
    template: Template = Template()
    facts: tuple[Language, ...] = ()  # of the languages that the template names; planning fills them in


class Released(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="released"):
    """People's judgements as their authors released them: a local checkout in its own layout, or JSONL of its rows."""

    path: str
    layout: Literal["multi_summeval", "beyond_ngrams", "oasst"]
    languages: tuple[str, ...]
    seed: Seed = 0
    folds: Annotated[int, Meta(ge=2)] = 5
    rating_field: str = "rating"
    corrupted: Literal["both", "only", "without"] = "both"
    documents: Positive | None = None
    feedback: Literal["pointwise", "pairwise"] = "pointwise"


class Oasst(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="oasst"):
    """Open-ended dialog as in the paper: OpenAssistant's message trees with people's rankings."""

    path: str
    languages: tuple[str, ...] = ()
    seed: Seed = 0
    validation: Fraction = 0.05  # share of the trees, where the files have no split
    evaluate: Literal["validation", "halves"] = "validation"
    states: tuple[str, ...] = ("ready_for_export",)
    unreviewed: Literal["drop", "keep"] = "drop"
    synthetic: Literal["keep", "drop"] = "keep"
    max_spam: Fraction = 0.5
    max_lang_mismatch: Fraction = 0.5
    single_replies: Literal["keep", "drop"] = "keep"
    max_characters: Positive | None = None
    roles: tuple[str, str] = ("Human", "Assistant")
    feedback: Literal["pairwise"] = "pairwise"
    template: Template = Template()
    facts: tuple[Language, ...] = ()  # of the languages that the template names; planning fills them in


Task = MicroSummarization | Files | MRewardBench | Seahorse | Oasst | Released
