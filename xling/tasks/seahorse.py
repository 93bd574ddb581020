"""task=seahorse: summarization as in the paper. Seahorse's ratings train reward models; its corpora the policies.

    python launch.py task=seahorse task.path=PATH task.articles=PATH ...

Ratings are pointwise and binary (paper, section 2): question 6, which takes in the others. Demonstrations and prompts
are the articles of XSum, XL-Sum, MLSum and WikiLingua, of which Seahorse rated some of the validation and test splits:
the articles of its *training* rows are removed from the splits that are chosen or evaluated on (leakage rule).
How to get the files: docs/tasks.md. Settings and layouts: xling/tasks/seahorse_files.py.
"""

import functools
import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from xling.errors import ConfigError, DataError
from xling.tasks import defaults, wikilingua
from xling.tasks import seahorse_files as source
from xling.tasks.paths import Identity, identity
from xling.tasks.records import (
    Demonstration,
    Offer,
    Pair,
    Prompt,
    Rating,
    Split,
    Use,
    absent,
)
from xling.tasks.render import language_of, read_by, rendered
from xling.tasks.seahorse_files import Settings

OFFERS: frozenset[Offer] = frozenset({"demonstrations", "ratings", "pairs", "prompts"})

# Hooks that need nothing special here.
counted = defaults.counted
digest = defaults.digest
document_of = defaults.document_of
ignored = defaults.ignored
missing = defaults.missing
prompt_around = defaults.prompt_around
require = defaults.require
truncation_side = defaults.truncation_side

RATED = ("validation", "test")  # splits of the corpora whose articles Seahorse rated
UNJOINED = "a gem_id that is not among the articles (WikiLingua's are those of GEM's old release)"

# Which of the settings each use of the data reads, besides where it is.
_PROMPTS = ("evaluate", "max_prompts", "seed")
_LABELS = ("question", "missing")
READS: dict[Use, tuple[str, ...]] = {
    "demonstrations": ("mixing", "max_demonstrations", "seed"),
    "pointwise": _LABELS,
    "pairwise": _LABELS,
    "prompts": _PROMPTS,
    "held_out_pointwise": (*_PROMPTS, *_LABELS),
    "held_out_pairwise": (*_PROMPTS, *_LABELS),
}

# Table 1: demonstrations and prompts, train and validation after the removal.
TABLE_1 = {
    ("de", "mlsum"): (220748, 8932),
    ("de", "wikilingua"): (40839, 3699),
    ("en", "xsum"): (23206, 642),
    ("en", "xlsum"): (306522, 9690),
    ("en", "wikilingua"): (99020, 12021),
    ("es", "xlsum"): (38110, 3170),
    ("es", "mlsum"): (259888, 8374),
    ("es", "wikilingua"): (79212, 9730),
    ("ru", "xlsum"): (62243, 5492),
    ("ru", "wikilingua"): (37028, 3209),
    ("tr", "xlsum"): (27176, 1953),
    ("tr", "wikilingua"): (3148, 194),
    ("vi", "xlsum"): (32111, 2341),
    ("vi", "wikilingua"): (13707, 679),
}
# Table 2: ratings on question 6, train and validation.
TABLE_2 = {
    "de": (8389, 1250),
    "en": (14031, 2071),
    "es": (8741, 1310),
    "ru": (7679, 1112),
    "tr": (7855, 1096),
    "vi": (7844, 1166),
}
# Table 5: pairs of validation summaries of one article whose answers differ.
TABLE_5 = {"de": 306, "en": 1672, "es": 295, "ru": 255, "tr": 720, "vi": 349}


# --- the surface of a task module ---------------------------------------------------------------------------


def languages(config: Settings) -> Sequence[str]:
    """Those of `task.languages`; ConfigError for one that Seahorse has not, or articles that no corpus has."""
    for lang in (*config.languages, *([config.document_lang] if config.document_lang else [])):
        defaults.check_language(config, lang, source.LANGUAGES)
    if config.document_lang and config.datasets != (wikilingua.NAME,):
        raise ConfigError(
            f"task.document_lang={config.document_lang} asks for articles in one language with summaries in others, "
            f"which WikiLingua alone has; task.datasets=[{','.join(config.datasets)}]. Type task=seahorse_wikilingua."
        )
    return config.languages


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Reads the ratings and joins the articles; what was left out is said, language by language."""
    languages(config)
    notes = list[str]()
    for lang in sorted({*sources, *targets}):
        _check_language(config, lang)
        texts, left_out = _articles(config, lang), Counter[str]()
        for rated in (source.read(config, split) for split in ("train", "validation")):
            left_out.update({reason: n for (of, reason), n in rated.left_out.items() if of == lang})
            joined = source.of(rated.rated, lang, source.corpora(config, lang))
            left_out[UNJOINED] += sum(row.gem_id not in texts for row in joined)
        notes += defaults.left_out(lang, "rows of Seahorse", left_out)
    return notes


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Everything else at its default; ConfigError if the use needs files that are not there."""
    languages(config)
    for lang in langs:
        _require(config, lang, use)
    capping = defaults.caps(config, use)
    return Settings(
        path=config.path,
        articles=config.articles,
        languages=tuple(sorted(langs)),
        datasets=config.datasets,
        max_characters=config.max_characters,
        **({} if use in ("pointwise", "pairwise") else defaults.documents_in(config, langs)),
        **{name: getattr(config, name) for name in (*READS[use], *(("seed",) if capping else ()))} | capping,
        **read_by(use, config.template, config.facts, langs),
    )


def sources(config: Settings) -> list[Path]:
    """The ratings' files, and those of the languages' articles."""
    langs = languages(config)
    paths = [path for found in source.rating_files(config).values() for path in found]
    if config.articles is not None:
        for lang in langs:
            for dataset in source.corpora(config, lang):
                paths += [path for found in source.corpus_files(config, lang, dataset).values() for path in found]
            for found in wikilingua.files(config, lang) if wikilingua.across(config, lang) else []:
                paths += [path for several in found.values() for path in several]
    return list(dict.fromkeys(paths))


def demonstrations(config: Settings, lang: str, split: Split) -> list[Demonstration]:
    """Articles with their reference summaries, the corpora in turns; in training mixed as `task.mixing` says."""
    mixed = _mixed(config, lang, split, defaults.cap(config, "demonstrations", split))
    if config.mixing == "equal" and split == "train":
        longest = max(map(len, mixed))
        mixed = [list(itertools.islice(itertools.cycle(found), longest)) for found in mixed]
    return _in_turns(mixed)


def prompts(config: Settings, lang: str, split: Split) -> list[Prompt]:
    """Articles without their summaries; "test" is the split of `task.evaluate`."""
    return [one.prompt for one in _in_turns(_mixed(config, lang, split, config.max_prompts))]


def ratings(config: Settings, lang: str, split: Split) -> list[Rating]:
    """Rated summaries whose article is known; label 1 for Yes. "test" is the split of `task.evaluate`."""
    return defaults.capped(config, _rated(config, lang, split), "ratings", split)


def _rated(config: Settings, lang: str, split: Split) -> list[Rating]:
    _check_language(config, lang)
    texts = _articles(config, lang)
    found = source.of(source.read(config, _split(config, split)).rated, lang, source.corpora(config, lang))
    found.sort(key=lambda row: (hashlib.sha256(row.gem_id.encode()).digest(), row))
    asked = {row.gem_id: _prompt(config, lang, row.dataset, row.gem_id, texts.get(row.gem_id, "")) for row in found}
    kept = [Rating(asked[r.gem_id], r.summary, r.label, r.model) for r in found if r.gem_id in texts]
    if found and not kept:
        raise DataError(
            f"None of the {len(found)} rated summaries in {lang!r} has its article, for example {found[0].gem_id}. "
            "Name a folder with the GEM release's files and their gem_id: task.articles=PATH (docs/tasks.md)."
        )
    return kept


def pairs(config: Settings, lang: str, split: Split) -> list[Pair]:
    """All pairs of a good and a bad summary of the same article (paper, appendix C)."""
    by_article: dict[str, list[Rating]] = {}
    for rating in _rated(config, lang, split):
        by_article.setdefault(rating.prompt.id, []).append(rating)
    made = [
        Pair(good.prompt, good.response, bad.response)
        for found in by_article.values()
        for good, bad in itertools.product(found, found)
        if good.label > bad.label and good.response != bad.response
    ]
    return defaults.capped(config, made, "pairs", split)


def published(config: Settings) -> dict[tuple[str, str, str, str], int]:
    """Sizes of the paper's Tables 1, 2 and 5: (language, corpus or "", what, split) -> count.

    "test" is there while `task.evaluate` is validation, as in the paper; ratings are those of question 6.
    """
    languages(config)
    sizes = dict[tuple[str, str, str, str], int]()
    splits = {"train": 0, "validation": 1, **({"test": 1} if config.evaluate == "validation" else {})}
    for split, column in splits.items():
        for (lang, dataset), both in TABLE_1.items():
            if wikilingua.across(config, lang):
                continue
            sizes[lang, dataset, "prompts", split] = sizes[lang, dataset, "demonstrations", split] = both[column]
        for lang, both in TABLE_2.items() if config.question == 6 else ():
            sizes[lang, "", "ratings", split] = both[column]
            if split != "train":
                sizes[lang, "", "pairs", split] = TABLE_5[lang]
    return sizes


# --- inside -------------------------------------------------------------------------------------------------


def _check_language(config: Settings, lang: str) -> None:
    defaults.check_language(config, lang, config.languages)


def _require(config: Settings, lang: str, use: Use) -> None:
    """ConfigError for files that a use of the data would miss when it runs."""
    if absent(config):
        return
    if use.startswith("held_out") and config.evaluate == "test" and not source.rating_files(config)["test"]:
        raise ConfigError(
            f"task.evaluate=test needs Seahorse's test split, and task.path={config.path} has none. "
            "Type task.evaluate=validation."
        )
    if use not in ("demonstrations", "prompts"):
        return
    if config.articles is None:
        raise ConfigError(
            "task=seahorse has demonstrations and prompts from the articles of its corpora alone: type "
            "task.articles=PATH (docs/tasks.md). Without it, there are ratings and pairs to train reward models on."
        )
    splits = ("train", "validation") if use == "demonstrations" else (config.evaluate,)
    for split in splits:
        (wikilingua if wikilingua.across(config, lang) else source).require(config, lang, split)


def _split(config: Settings, split: Split) -> str:
    return config.evaluate if split == "test" else split


def _prompt(config: Settings, lang: str, dataset: str, gem_id: str, text: str) -> Prompt:
    shown, content = rendered(config.template, text[: config.max_characters], language_of(config.facts, lang))
    return Prompt(id=gem_id, lang=lang, group=gem_id, text=shown, dataset=dataset, content=content)


def _mixed(config: Settings, lang: str, split: Split, most: int | None) -> list[list[Demonstration]]:
    """Each corpus's documents with a summary, each once, without those that Seahorse trains on.

    By their hashed ids, whatever the order of the files; of more than `most` the first ones.
    """
    _check_language(config, lang)
    _require(config, lang, "prompts")
    read = _split(config, split)
    seen = set(source.read(config, "train").ids) if read != "train" else set[str]()
    mixed: list[list[Demonstration]] = []
    for dataset in source.corpora(config, lang):
        if told_in := wikilingua.across(config, lang):
            found = _once(wikilingua.documents(config, lang, read), seen)
        else:
            found = _once(source.documents(config, lang, dataset, (read,)), seen)
        kept = (sorted if most is None else functools.partial(heapq.nsmallest, most))(
            found, key=lambda one: defaults.hashed(config.seed, one.gem_id)
        )
        if not kept:
            how = f"in {told_in!r} with summaries in {lang!r}" if told_in else f"in {lang!r}"
            raise DataError(f"{dataset} has no {read} documents {how} below task.articles={config.articles}.")
        asked = (_prompt(config, lang, dataset, one.gem_id, one.text) for one in kept)
        mixed.append([Demonstration(prompt, one.summary) for prompt, one in zip(asked, kept, strict=True)])
    return mixed


def _once(documents: Iterable[source.Document], seen: set[str]) -> Iterator[source.Document]:
    """Documents with a summary whose id has not been seen."""
    for one in documents:
        if one.summary and one.gem_id not in seen:
            seen.add(one.gem_id)
            yield one


def _in_turns(lists: Iterable[list[Demonstration]]) -> list[Demonstration]:
    """One of each list after the other, so that a first part has something of all."""
    return [one for turn in itertools.zip_longest(*lists) for one in turn if one is not None]


def _articles(config: Settings, lang: str) -> dict[str, str]:
    """gem_id -> article of all rated summaries in a language."""
    splits = [source.read(config, split) for split in source.RATING_SPLITS]
    if config.articles is None:
        return {gem_id: text for ratings in splits for gem_id, text in ratings.articles.items()}
    asked = {name: source.corpus_files(config, lang, name) for name in source.corpora(config, lang)}
    paths = [path for found in asked.values() for split in RATED for path in found.get(split, [])]
    wanted = frozenset(row.gem_id for ratings in splits for row in ratings.rated if row.lang == lang)
    place = Settings(config.path, config.articles, (lang,), config.datasets)
    return _joined(place, lang, wanted, identity(paths))


@functools.lru_cache(maxsize=4)
def _joined(place: Settings, lang: str, wanted: frozenset[str], files: Identity) -> dict[str, str]:
    """The wanted articles out of the corpora's validation and test splits, of which Seahorse was made."""
    return {
        one.gem_id: one.text
        for dataset in source.corpora(place, lang)
        for one in source.documents(place, lang, dataset, RATED, wanted)
    }
