"""translator=micro_noisy: the embedded world's exact translations with words lost and mistaken, at stated rates.

Words become others of the same kind by a random generator named by the text itself: the same text always fails the same
way.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from xling.config.common import Fraction, NonNegative
from xling.errors import ConfigError
from xling.grid.stage import Context
from xling.planning.translations import TranslateSpec
from xling.tasks.micro.translation import Part, parts
from xling.tasks.micro.words import bit, is_mark, is_slot, names, text_of, vocabulary
from xling.translators import Direction, Translate, TranslatorSettings, micro_exact

if TYPE_CHECKING:
    from xling.experiment import Experiment


class Settings(TranslatorSettings, frozen=True, kw_only=True, tag="micro_noisy"):
    """The exact translator's with words lost and words mistaken."""

    wrong: Fraction = 0.05  # share of words and names that become others of the language
    dropped: Fraction = 0.05  # share of those that are left out
    seed: NonNegative = 0


def check(translator: Settings, experiment: "Experiment", directions: Sequence[Direction]) -> None:
    """ConfigError for texts of another world, and for shares that are more than all words."""
    micro_exact.check(translator, experiment, directions)
    if translator.wrong + translator.dropped > 1:
        raise ConfigError(
            f"translator.wrong={translator.wrong:g} and translator.dropped={translator.dropped:g} are shares of the "
            "same words and add up to more than 1. Lower one of them."
        )


def translate(context: Context, spec: TranslateSpec, texts: Sequence[str]) -> Translate:
    """Translations with errors."""
    settings = msgspec.convert(spec.translator, Settings)
    return lambda some: [noisily(text, spec.source.code, spec.target.code, settings) for text in some]


inputs, work = micro_exact.inputs, micro_exact.work


def noisily(text: str, source: str, target: str, settings: Settings) -> str:
    """The exact translation with words and names lost and mistaken."""
    rng = random.Random(f"{settings.seed}/{source}/{target}/{text}")
    heard = [_heard(part, target, settings, rng) for part in parts(text, source, target)]
    return text_of([word for word in heard if word])


def _heard(part: Part, lang: str, settings: Settings, rng: random.Random) -> str:
    """A part as it comes through; nothing if it is lost. Marks always do."""
    if is_mark(part.symbol):
        return part.text
    fate = rng.random()
    if fate < settings.dropped:
        return ""
    if fate < settings.dropped + settings.wrong:
        return rng.choice([other for other in _others(part.symbol, lang) if other != part.text])
    return part.text


@cache
def _others(symbol: str, lang: str) -> list[str]:
    """Symbols that it may be mistaken for: names of the same kind, or the words of the language."""
    if is_slot(symbol):
        return list(names(lang, symbol[1]))
    return sorted(word for word, langs in vocabulary().items() if langs & bit(lang))
