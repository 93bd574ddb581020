"""task=oasst: open-ended dialog as in the paper. People ranked assistants' replies in OpenAssistant's message trees.

    python launch.py task=oasst task.path=PATH ...

Feedback is pairwise: all pairs of replies to the same message, the higher-ranked one chosen (Table 4 of the paper has
2.5 pairs a prompt, more than best against worst gives). Demonstrations are the top-ranked replies (Table 3), and the
same messages are the prompts. What is evaluated on is the validation split, oasst's own where the files have one, else
drawn by tree; or, with task.evaluate=halves, one half of its trees, and the other chooses checkpoints. How to get the
files: docs/tasks.md. Layouts and what is left out: xling/tasks/oasst_trees.py.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from xling.config.common import Fraction, Language, Positive, Seed, Template
from xling.config.tasks import TaskSettings
from xling.errors import ConfigError
from xling.measures.language import language_hint
from xling.tasks import defaults
from xling.tasks import oasst_trees as trees
from xling.tasks.oasst_trees import Asked
from xling.tasks.records import Demonstration, Offer, Pair, Prompt, Split, Use
from xling.tasks.render import dialog, language_of, read_by, rendered


class Settings(TaskSettings, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="oasst"):
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


OFFERS: frozenset[Offer] = frozenset({"demonstrations", "pairs", "prompts"})

# Hooks that need nothing special here.
counted = defaults.counted
digest = defaults.digest
document_of = defaults.document_of
ignored = defaults.ignored
missing = defaults.missing
prompt_around = defaults.prompt_around
require = defaults.require

DATASET = "oasst"

# Tables 3 and 4: prompts with their best reply, and pairs; train and validation.
TABLE_3 = {"en": (8898, 472), "es": (5681, 311), "ru": (1884, 99)}
TABLE_4 = {"en": (22076, 1026), "es": (13714, 699), "ru": (2627, 135)}


# --- the surface of a task module ---------------------------------------------------------------------------


def languages(config: Settings) -> Sequence[str]:
    """Those of `task.languages`, or all that have pairs in both splits."""
    settings = _settings(config)
    return settings.languages or tuple(lang for lang in sorted(trees.read(settings).asked) if not _lack(settings, lang))


def check(config: Settings, known: Collection[str] | None, sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """ConfigError for a language without pairs or prompts in a split; what was left out is said, by language."""
    settings, notes = _settings(config), []
    found = trees.read(settings)
    for lang in sorted({*sources, *targets}):
        _language(settings, lang)
        if lack := _lack(settings, lang, pairs=lang in sources):
            raise ConfigError(
                f"{settings.path} has no {lack} in {lang!r}, and at least one is needed. Leave {lang} out of "
                f"{'source_lang' if lang in sources else 'target_lang'}."
            )
        left_out = Counter({reason: n for (of, reason), n in found.left_out.items() if of == lang})
        left_out["several replies without ranks, of which none is the best"] = sum(
            len(one.replies) > 1 and one.replies[0][1] is None for one in found.asked[lang]
        )
        if shown := ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()) if count):
            notes.append(f"{lang}: messages of {settings.path} that are left out: {shown}.")
    return notes


def narrowed(config: Settings, langs: Sequence[str], use: Use) -> Settings:
    """Which languages are used decides nothing but what the template names."""
    settings = _settings(config)
    read = read_by(use, settings.template, settings.facts, langs)
    single = "keep" if use in ("pairwise", "pointwise") else settings.single_replies
    return msgspec.structs.replace(settings, languages=(), feedback="pairwise", single_replies=single, **read)


def sources(config: Settings) -> list[Path]:
    """All files: each has all languages."""
    return trees.files(_settings(config))


def demonstrations(config: Settings, lang: str, split: Split) -> list[Demonstration]:
    """The best reply to each message; where several have no ranks there is none."""
    settings = _settings(config)
    return [Demonstration(_prompt(settings, one), one.replies[0][0]) for one in _best(settings, lang, split)]


def prompts(config: Settings, lang: str, split: Split) -> list[Prompt]:
    """The messages of the demonstrations, with the conversation up to them."""
    settings = _settings(config)
    return [_prompt(settings, one) for one in _best(settings, lang, split)]


def pairs(config: Settings, lang: str, split: Split) -> list[Pair]:
    """All k-choose-2 of a message's ranked replies, the lower rank chosen; equal ranks and equal texts make none."""
    settings = _settings(config)
    found: list[Pair] = []
    for one in _asked(settings, lang, split):
        prompt = _prompt(settings, one)
        found += [Pair(prompt, chosen, rejected) for chosen, rejected in _pairs(one)]
    return found


def truncation_side(config: Settings, langs: Collection[str] = ()) -> str:
    """left: of a conversation that is too long for a model the oldest turns go."""
    return "left"


def published(config: Settings) -> dict[tuple[str, str, str, str], int]:
    """Sizes of the paper's Tables 3 and 4: (language, DATASET, what, split) -> count.

    "test" is "validation", as in the paper; of halves it gives none.
    """
    whole = (("validation", 1), ("test", 1)) if _settings(config).evaluate == "validation" else ()
    sizes: dict[tuple[str, str, str, str], int] = {}
    for split, column in (("train", 0), *whole):
        for lang in TABLE_3:
            sizes[lang, DATASET, "prompts", split] = sizes[lang, DATASET, "demonstrations", split] = TABLE_3[lang][
                column
            ]
            sizes[lang, DATASET, "pairs", split] = TABLE_4[lang][column]
    return sizes


# --- inside -------------------------------------------------------------------------------------------------


def _settings(config: Settings) -> Settings:
    return config


def _language(settings: Settings, lang: str) -> list[Asked]:
    """The conversations of a language; ConfigError if there is none."""
    found = trees.read(settings).asked
    have = [one for one in sorted(found) if one in settings.languages or not settings.languages]
    if lang not in have:
        raise ConfigError(
            f"The task oasst has no language {lang!r}; it has {', '.join(have) or 'none'}.{language_hint(lang, have)}"
        )
    return found[lang]


def _asked(settings: Settings, lang: str, split: Split) -> list[Asked]:
    wanted = "train" if split == "train" else "validation"
    found = [one for one in _language(settings, lang) if one.split == wanted]
    if split == "train" or settings.evaluate == "validation":
        return found
    half = _first_half(settings.seed, {one.tree for one in found})
    return [one for one in found if (one.tree in half) == (split == "validation")]


def _first_half(seed: int, trees: Collection[str]) -> set[str]:
    """By a fair coin for each tree, so that one that is added moves no other; of two or more, neither has all."""
    coins = sorted((hashlib.sha256(f"halves\0{seed}\0{tree}".encode()).digest(), tree) for tree in trees)
    heads = sum(coin[0] < 128 for coin, _ in coins)
    return {tree for _, tree in coins[: min(max(heads, 1), len(coins) - 1)]}


def _best(settings: Settings, lang: str, split: Split) -> list[Asked]:
    """Those whose first reply is the best there is."""
    alone = settings.single_replies == "keep"
    return [
        one
        for one in _asked(settings, lang, split)
        if (len(one.replies) == 1 and alone) or (len(one.replies) > 1 and one.replies[0][1] is not None)
    ]


def _pairs(one: Asked) -> list[tuple[str, str]]:
    ranked = [(text, rank) for text, rank in one.replies if rank is not None]
    return [(a, b) for (a, i), (b, j) in itertools.combinations(ranked, 2) if i < j and a != b]


def _lack(settings: Settings, lang: str, pairs: bool = True) -> str:
    """What a language has nothing of."""
    splits: dict[Split, str] = {"train": "train split", "validation": "validation split"}
    if settings.evaluate == "halves":
        splits |= {"validation": "half of the validation split that chooses checkpoints", "test": "other half"}
    for split, name in splits.items():
        if not _best(settings, lang, split):
            return f"prompt with a best reply in the {name}"
        if pairs and not any(map(_pairs, _asked(settings, lang, split))):
            return f"pair of ranked replies in the {name}"
    return ""


def _prompt(settings: Settings, one: Asked) -> Prompt:
    text = dialog(one.turns, settings.roles, settings.max_characters)
    shown, content = rendered(settings.template, text, language_of(settings.facts, one.lang))
    return Prompt(id=one.message_id, lang=one.lang, group=one.tree, text=shown, dataset=DATASET, content=content)
