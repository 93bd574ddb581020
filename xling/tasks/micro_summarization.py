"""task=micro_summarization: the embedded world, where the truth is known. All feedback is simulated.

A prompt is a document of three facts and a cue; the policy summarises the main fact in one sentence. Splits
and uses never share a fact, in any language (tasks/micro/writing.py); prompts of the same group are the same
facts in the six languages. Gold quality is exact (tasks/micro/gold.py). Everything follows from `task.seed`.

`task.document_lang` makes it cross-lingual summarisation: the documents of every language are those that this one has,
the cue and the summary are in the target. Facts are of no language, so that quality is as exact as ever.
"""

import hashlib
import json
import random
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from xling.config.common import Fraction, Positive, Seed
from xling.errors import ConfigError
from xling.measures.language import language_hint
from xling.tasks import defaults
from xling.tasks.micro import gold, words, writing
from xling.tasks.micro.writing import FactSet, fact_set, fact_set_of
from xling.tasks.records import Demonstration, DocumentLang, Offer, Pair, Prompt, Rating, Split, TaskSettings, Use


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="micro_summarization"):
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
    # UNSET stands in no spec, so that keys have these two only where they change something
    document_lang: DocumentLang = UNSET  # of all documents; null: each language's own
    feedback_documents: Literal["own", "document_lang"] | UnsetType = UNSET  # with feedback, to train on; UNSET: own

    @property
    def feedback_task(self) -> TaskSettings:
        """With documents in the source's own language, as in a grid without `document_lang`; or in that one."""
        return self if self.feedback_documents == "document_lang" else self.monolingual


WORLD_VERSION = 2  # raise when code changes what the world says or how quality is computed

TOKENS = (50, 14)  # of a prompt and a response, by the packaged base's tokenizer: 46 to 60 and 13 to 15 by language

SIMULATED = "simulated"  # the `system` of every rated response

OFFERS: frozenset[Offer] = frozenset({"demonstrations", "ratings", "pairs", "prompts", "quality"})

# Hooks that need nothing special here.
missing = defaults.missing
published = defaults.published
require = defaults.require
sources = defaults.sources
truncation_side = defaults.truncation_side

# Which of the settings each use of the data reads.
_RATED = ("seed", "validation", "rating_error", "lead_bias", "label_noise")
_PROMPTS = ("seed", "test_prompts")
_HELD_OUT = (*_PROMPTS, "rating_error", "lead_bias", "label_noise")
READS: dict[Use, tuple[str, ...]] = {
    "demonstrations": ("seed", "demonstrations", "validation", "demonstration_error", "lead_bias"),
    "pointwise": (*_RATED, "ratings"),
    "pairwise": (*_RATED, "pairs"),
    "prompts": _PROMPTS,
    "held_out_pointwise": (*_HELD_OUT, "ratings"),  # the length rule is fitted on train ratings
    "held_out_pairwise": _HELD_OUT,
}


def languages(config: Settings) -> Sequence[str]:
    """Those of `task.languages`. ConfigError for documents in a language that the world does not have."""
    if (lang := config.document_lang) and lang not in words.LANGUAGES:
        raise ConfigError(
            f"task.document_lang={lang}: the embedded world has no language {lang!r}; it has "
            f"{', '.join(words.LANGUAGES)}; null: documents are in the language of their summaries."
            f"{language_hint(lang, words.LANGUAGES)}"
        )
    return config.languages


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Generated data: nothing to look at."""
    return []


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Everything else at its default; a `document_lang` that is the only one of `langs` changes nothing."""
    kept = {name: getattr(config, name) for name in READS[use]}
    return Settings(languages=tuple(sorted(langs)), **kept, **defaults.documents_in(config, langs))


def ignored(config: Settings, splits: bool) -> Sequence[str]:
    """Where documents with feedback are said to be in another language, and no other is named."""
    if config.feedback_documents != "document_lang" or config.document_lang:
        return []
    return ["task.feedback_documents=document_lang changes nothing without a language: type task.document_lang=en."]


def _check_language(config: Settings, lang: str) -> None:
    defaults.check_language(config, lang, set(words.LANGUAGES) & set(config.languages))


def _count(config: Settings, split: Split, use: str) -> int:
    if split == "test":
        return config.test_prompts
    if split == "validation":
        return config.validation
    return {
        "demonstrations": config.demonstrations,
        "ratings": config.ratings,
        "pairs": config.pairs,
        "prompts": config.demonstrations,
    }[use]


def counted(config: Settings, what: Offer, split: Split) -> int | None:
    """Rows of one language, without making them."""
    return _count(config, split, what)


def _prompt(config: Settings, lang: str, facts: FactSet) -> Prompt:
    told_in = config.document_lang or lang  # the very document that this language has in its own prompts
    rng = random.Random(f"document/{config.seed}/{told_in}/{facts.group}")
    text = writing.prompt_text(writing.document(facts, told_in, rng), lang)
    return Prompt(id=facts.group, lang=lang, group=facts.group, text=text, dataset="micro_summarization")


def document_of(prompt: Prompt) -> str:
    """A prompt without its cue."""
    return prompt.text.rsplit("\n", 1)[0]


def prompt_around(config: Settings, lang: str, document: str) -> tuple[str, str]:
    """A document with the cue of a language, which the reward model reads too."""
    return writing.prompt_text(document, lang), ""


def _items(config: Settings, lang: str, split: Split, use: str) -> Iterator[tuple[FactSet, Prompt, random.Random]]:
    """Fact set, prompt and a random generator of its own for each item of a use."""
    for index in range(_count(config, split, use)):
        facts = fact_set(config.seed, f"{split}-{use}", index)
        rng = random.Random(f"response/{config.seed}/{lang}/{facts.group}")
        yield facts, _prompt(config, lang, facts), rng


def prompts(config: Settings, lang: str, split: Split) -> list[Prompt]:
    """Prompts of a split; their ids and facts are the same in every language."""
    _check_language(config, lang)
    return [prompt for _, prompt, _ in _items(config, lang, split, "prompts")]


def demonstrations(config: Settings, lang: str, split: Split) -> list[Demonstration]:
    """Summaries as scraped in the wild: a share `demonstration_error` of them has one or two errors.

    Besides, a share `lead_bias` tells the document's first fact, whether it is the main one or not.
    """
    _check_language(config, lang)
    return [
        Demonstration(prompt, _drawn(config, facts, lang, config.demonstration_error, rng))
        for facts, prompt, rng in _items(config, lang, split, "demonstrations")
    ]


def ratings(config: Settings, lang: str, split: Split) -> list[Rating]:
    """Simulated annotators' binary labels (as Seahorse's question 6: is it a good summary?).

    1 from gold quality GOOD on, else 0; flipped at the rate `label_noise`. The rated responses come from
    simulated systems, a share `rating_error` of them has one or two errors, and the same lead bias as demonstrations.
    """
    _check_language(config, lang)
    found: list[Rating] = []
    for facts, prompt, rng in _items(config, lang, split, "ratings"):
        response = _drawn(config, facts, lang, config.rating_error, rng)
        good = gold.assess(facts, lang, response).quality >= gold.GOOD
        flipped = rng.random() < config.label_noise
        found.append(Rating(prompt, response, float(good != flipped), SIMULATED))
    return found


def pairs(config: Settings, lang: str, split: Split) -> list[Pair]:
    """Simulated annotators' choices: the response of higher gold quality, flipped at `label_noise`."""
    _check_language(config, lang)
    found: list[Pair] = []
    for facts, prompt, rng in _items(config, lang, split, "pairs"):
        better, worse = _unequal(config, facts, lang, rng)
        if rng.random() < config.label_noise:
            better, worse = worse, better
        found.append(Pair(prompt, better, worse))
    return found


def _drawn(config: Settings, facts: FactSet, lang: str, error: float, rng: random.Random) -> str:
    return writing.drawn_summary(facts, lang, error, config.lead_bias, rng)[0]


def _unequal(config: Settings, facts: FactSet, lang: str, rng: random.Random) -> tuple[str, str]:
    """Two responses of simulated systems, the better one first."""
    error = config.rating_error
    while True:
        a, b = (_drawn(config, facts, lang, share, rng) for share in (error, max(error, 0.5)))
        quality_a, quality_b = (gold.assess(facts, lang, text).quality for text in (a, b))
        if quality_a != quality_b:
            return (a, b) if quality_a > quality_b else (b, a)


@lru_cache(maxsize=100_000)
def _assessed(seed: int, group: str, lang: str, text: str) -> gold.Scores:
    return gold.assess(fact_set_of(seed, group), lang, text)


def _all_scores(
    config: Settings, asked: Sequence[Prompt], responses: Sequence[Sequence[str]]
) -> Iterator[list[gold.Scores]]:
    for prompt, texts in zip(asked, responses, strict=True):
        _check_language(config, prompt.lang)
        yield [_assessed(config.seed, prompt.group, prompt.lang, text) for text in texts]


def quality(config: Settings, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
    """Gold quality in [0, 1] of each response, exact; a correct summary has 1."""
    return [[scores.quality for scores in row] for row in _all_scores(config, prompts, responses)]


def quality_by_dimension(
    config: Settings, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]
) -> list[list[gold.Scores]]:
    """The same with the seven dimensions."""
    return list(_all_scores(config, prompts, responses))


def _world() -> dict[str, Any]:
    """All tables, with the names that the installed CLDR gives: another CLDR is another world."""
    names = {lang: {slot: list(words.names(lang, slot)) for slot in words.SLOTS} for lang in words.LANGUAGES}
    plurals = {lang: [words.plural(lang, number) for number in words.NUMBERS] for lang in words.LANGUAGES}
    tables = {name: getattr(words, name) for name in ("CUE", "SUBJECT", "DOCUMENT", "SUMMARY", "FILLERS", "ADDITIONS")}
    quality = {"cost": gold.COST, "truth": gold.TRUTH, "good": gold.GOOD}
    return {
        "version": WORLD_VERSION,
        "names": names,
        "plurals": plurals,
        "frames": tables,
        "quality": quality,
    }


def digest(config: Settings) -> str:
    """sha256 of what generates the data: tables, resolved CLDR names, WORLD_VERSION, `seed`.

    Sizes and shares are not in it: they are in the configuration that a stage's key holds anyway.
    """
    _check_language(config, config.languages[0])
    return _digest(config.seed)


@lru_cache(maxsize=64)
def _digest(seed: int) -> str:
    content = {"world": _world(), "seed": seed}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
