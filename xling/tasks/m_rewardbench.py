"""task=m_rewardbench: M-RewardBench (Gureja et al., ACL 2025), RewardBench's pairs in 23 languages. Evaluation only.

    python launch.py -m task=m_rewardbench reward_task=seahorse policy=mt5_small source_lang=de,en \
        target_lang='glob(*)' judge=human

Each prompt has a chosen and a rejected response, which are its two recorded responses, rated 1 and 0. `task.path` is
the hub's repository, or a local copy: a folder a language (arb_Arab, ...), or a file (arb_Arab.parquet), as Parquet,
JSONL, JSON or CSV with the columns id, prompt, chosen, rejected and `category` or the subset (`subset`, `source`).
English is not among the 23: put RewardBench's filtered set beside them as eng_Latn. `dataset` is the category,
so that a win rate is the mean over categories, as the authors report; analysis/matrix/categories.py adds the rest.
"""

import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from xling.config.common import Language, Template
from xling.errors import ConfigError, DataError, expanded, listed, shown
from xling.tasks import defaults
from xling.tasks.paths import Identity, identity, is_table
from xling.tasks.reading import in_random_order
from xling.tasks.records import Offer, Prompt, Recorded, TaskSettings, Use
from xling.tasks.render import language_of, read_by, rendered
from xling.tasks.rows import Place, Row
from xling.tasks.tables import open_table, text_of


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="m_rewardbench"):
    """M-RewardBench (Gureja et al. 2025): chosen and rejected responses in 23 languages. For evaluation only."""

    path: str
    languages: tuple[str, ...] = ()
    revision: str | None = None  # of a hub repository: branch, tag or commit
    feedback: Literal["pairwise"] = "pairwise"
    template: Template = Template()
    facts: tuple[Language, ...] = ()


OFFERS: frozenset[Offer] = frozenset({"recorded"})

# Hooks that need nothing special here.
counted = defaults.counted
digest = defaults.digest
document_of = defaults.document_of
ignored = defaults.ignored
missing = defaults.missing
prompt_around = defaults.prompt_around
require = defaults.require
truncation_side = defaults.truncation_side

# The benchmark's names of languages, and ours. English is RewardBench itself.
CODES = {
    "arb_Arab": "ar", "ces_Latn": "cs", "deu_Latn": "de", "ell_Grek": "el", "eng_Latn": "en", "fra_Latn": "fr",
    "heb_Hebr": "he", "hin_Deva": "hi", "ind_Latn": "id", "ita_Latn": "it", "jpn_Jpan": "ja", "kor_Hang": "ko",
    "nld_Latn": "nl", "pes_Arab": "fa", "pol_Latn": "pl", "por_Latn": "pt", "ron_Latn": "ro", "rus_Cyrl": "ru",
    "spa_Latn": "es", "tur_Latn": "tr", "ukr_Cyrl": "uk", "vie_Latn": "vi", "zho_Hans": "zh", "zho_Hant": "zh-Hant",
}  # fmt: skip

# Category of each subset and its weight in the category: RewardBench's number of examples, math-prm counted as often
# as all code together (the authors' analysis/plot_utils.py; a language's score is the plain mean of its categories).
SUBSETS: dict[str, tuple[str, float]] = {
    "alpacaeval-easy": ("Chat", 100), "alpacaeval-length": ("Chat", 95), "alpacaeval-hard": ("Chat", 95),
    "mt-bench-easy": ("Chat", 28), "mt-bench-med": ("Chat", 40),
    "mt-bench-hard": ("Chat Hard", 37), "llmbar-natural": ("Chat Hard", 100),
    "llmbar-adver-neighbor": ("Chat Hard", 134), "llmbar-adver-GPTInst": ("Chat Hard", 92),
    "llmbar-adver-GPTOut": ("Chat Hard", 47), "llmbar-adver-manual": ("Chat Hard", 46),
    "refusals-dangerous": ("Safety", 100), "refusals-offensive": ("Safety", 100),
    "xstest-should-refuse": ("Safety", 154), "xstest-should-respond": ("Safety", 250), "donotanswer": ("Safety", 136),
    "math-prm": ("Reasoning", 984), "hep-cpp": ("Reasoning", 164), "hep-go": ("Reasoning", 164),
    "hep-java": ("Reasoning", 164), "hep-js": ("Reasoning", 164), "hep-python": ("Reasoning", 164),
    "hep-rust": ("Reasoning", 164),
}  # fmt: skip
WEIGHTS = {subset: weight for subset, (_, weight) in SUBSETS.items()}
SIZES = {"Chat": 296, "Chat Hard": 407, "Safety": 736, "Reasoning": 1430}  # of a language: the paper's Table 1
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SUBSET_COLUMNS = ("subset", "source")


@dataclass(frozen=True, slots=True)
class Pairs:
    """One language's pairs that differ, by id, and the rows that were dropped because they do not, or are empty."""

    rows: list[tuple[Row, str]]  # with the subset
    equal: list[str]
    empty: list[str]


# --- the surface of a task module ---------------------------------------------------------------------------


def languages(config: Settings) -> Sequence[str]:
    """Those that are there, of task.languages."""
    there = _files(config)
    return tuple(sorted(set(there) & set(config.languages) if config.languages else there))


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """DataError for wrong columns; says how many pairs were dropped."""
    notes = []
    for lang in targets:
        found = _pairs(config, lang)
        if found.equal:
            notes.append(f"{lang}: {len(found.equal)} pairs dropped, chosen == rejected ({_first(found.equal)}).")
        if found.empty:
            notes.append(f"{lang}: {len(found.empty)} pairs dropped, a text is empty ({_first(found.empty)}).")
    return notes


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Only the files of the languages count."""
    kept = read_by(use, config.template, config.facts, langs)
    return Settings(path=config.path, revision=config.revision, languages=tuple(sorted(langs)), **kept)


def sources(config: Settings) -> list[Path]:
    """The languages' files."""
    there = _files(config)
    wanted = config.languages or tuple(sorted(there))
    return [path for lang in wanted for path in there.get(lang, [])]


def recorded(config: Settings, lang: str) -> Recorded:
    """One language's prompts by id, each with its two responses in an order that says nothing."""
    facts, found = language_of(config.facts, lang), Recorded(lang)
    for row, subset in _pairs(config, lang).rows:
        text, content = rendered(config.template, row.prompt, facts)
        both = in_random_order(row, row.response, row.other)
        prompt = Prompt(row.id, lang, row.id, text, row.dataset, content, subset)
        found.add(prompt, ((one.system, one.response, one.label) for one in both))
    return found


def published(config: Settings) -> Mapping[tuple[str, str, str, str], int]:
    """Instances of a language by category (the paper's Table 1)."""
    langs = set(CODES.values())
    return {(lang, category, "recorded", ""): size for lang in langs for category, size in SIZES.items()}


# --- files --------------------------------------------------------------------------------------------------


def _files(config: Settings) -> dict[str, list[Path]]:
    """Language -> its files; ConfigError if there are none."""
    folder = _folder(config.path, config.revision)
    found = {}
    for name, code in CODES.items():
        below, beside = folder / name, sorted(folder.glob(f"{name}.*"))
        there = [path for path in (sorted(below.glob("*")) if below.is_dir() else beside) if is_table(path)]
        named = [path for path in there if path.name.startswith("test")]
        filtered = [path for path in there if path.name.startswith("filtered")]
        if chosen := named or filtered or there:
            found[code] = chosen
    if not found:
        raise ConfigError(
            f"task.path={config.path} has no language of M-RewardBench: a folder or file a language, named arb_Arab, "
            "deu_Latn, eng_Latn and so on, with Parquet, JSONL, JSON or CSV."
        )
    for lang in sorted(config.languages):
        _check_language(config, lang, found)
    return found


def _check_language(config: Settings, lang: str, have: Collection[str]) -> None:
    english = " (for English put RewardBench beside the others as eng_Latn)" * (lang == "en")
    defaults.check_language(config, lang, have, f"task.path={config.path}{english}")


@functools.lru_cache(maxsize=4)
def _folder(path: str, revision: str | None) -> Path:
    """The local folder, or the hub's files of the evaluated sets, in its cache."""
    folder = expanded(path)
    if folder.is_dir():
        return folder
    hint = "Name a local copy with task.path=FOLDER (a folder a language: arb_Arab, deu_Latn, ...)."
    if not HUB_ID.fullmatch(path):
        raise ConfigError(f"task.path={path} is neither a folder nor the name of a hub repository. {hint}")
    import huggingface_hub

    wanted = ["*/test-*", "eng_Latn/*filtered*"]
    try:
        return Path(
            huggingface_hub.snapshot_download(path, repo_type="dataset", revision=revision, allow_patterns=wanted)
        )
    except Exception as error:  # the hub's client raises errors of three libraries
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"task.path={path} cannot be had from the hub: {reason} {hint}") from error


def _pairs(config: Settings, lang: str) -> Pairs:
    there = _files(config)
    _check_language(config, lang, there)
    return _read(identity(there[lang]), lang)


@functools.lru_cache(maxsize=32)
def _read(files: Identity, lang: str) -> Pairs:
    found, equal, empty = list[tuple[Row, str]](), list[str](), list[str]()
    for number, (path, _, _) in enumerate(files):
        table = open_table(Path(path))
        subset_column = next((name for name in SUBSET_COLUMNS if name in table.columns), None)
        _check_columns(table.path.name, table.columns, subset_column)
        for at, row in table.good_rows():
            where = f"{table.unit} {at}"
            texts = [row.get(name) for name in ("prompt", "chosen", "rejected")]
            if wrong := next((text for text in texts if text is not None and not isinstance(text, str)), None):
                raise DataError(f"{table.where(at)}: {wrong!r:.60} is not text.")
            prompt, chosen, rejected = (text or "" for text in texts)
            if not (prompt.strip() and chosen.strip() and rejected.strip()):
                empty.append(where)
            elif chosen == rejected:
                equal.append(where)
            else:
                subset = str(row.get(subset_column or "") or "")
                made = Row(Place(number, at), "pair", lang, text_of(row.get("id")), prompt, chosen, "", rejected)
                found.append((msgspec.structs.replace(made, dataset=_category(row, subset)), subset))
    return Pairs(_identified(found, lang), equal, empty)


def _check_columns(name: str, columns: Sequence[str], subset_column: str | None) -> None:
    missing = [column for column in ("id", "prompt", "chosen", "rejected") if column not in columns]
    if not subset_column and "category" not in columns:
        missing.append("category (or subset, source)")
    if missing:
        raise DataError(
            f"{name} is not M-RewardBench as it is published: no column {', '.join(missing)}; its columns are "
            f"{listed(columns)}."
        )


def _category(row: Mapping[str, Any], subset: str) -> str:
    own = str(row.get("category") or "").replace("-", " ").replace("_", " ").strip()
    return own.title() or SUBSETS.get(subset, (subset, 0))[0]


def _identified(found: list[tuple[Row, str]], lang: str) -> list[tuple[Row, str]]:
    """By id; where ids are numbered within subsets, the subset is part of the name."""
    named = found
    if max(Counter(row.id for row, _ in found).values(), default=0) > 1:
        named = [(msgspec.structs.replace(row, id=f"{subset}/{row.id}"), subset) for row, subset in found]
    counts = Counter(row.id for row, _ in named)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{lang}: {len(twice)} ids occur more than once, the first is {shown(twice[0])}.")
    return sorted(named, key=lambda one: one[0].id)


def _first(places: Sequence[str]) -> str:
    return ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
