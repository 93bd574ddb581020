"""translator=micro_exact and micro_noisy: the embedded world's own translators, which need no model.

The exact one is the world's (xling/tasks/micro/translation.py). The noisy one then loses words and mistakes some for
others of the same kind, by a random generator named by the text itself: the same text always fails the same way.
"""

import random
from collections.abc import Sequence
from functools import cache

from xling.config.translators import MicroExact, MicroNoisy
from xling.tasks.micro.edits import Part
from xling.tasks.micro.frames import text_of
from xling.tasks.micro.lexicon import bit, is_slot, is_word, vocabulary
from xling.tasks.micro.translation import exactly, parts
from xling.tasks.micro.words import names
from xling.translators.translator import Translate


def micro_translator(settings: MicroExact | MicroNoisy, source: str, target: str) -> Translate:
    """The translator of a pair of languages of the embedded world."""

    def translate(texts: Sequence[str]) -> list[str | None]:
        if isinstance(settings, MicroExact):
            return [exactly(text, source, target) for text in texts]
        return [noisily(text, source, target, settings) for text in texts]

    return translate


def noisily(text: str, source: str, target: str, settings: MicroNoisy) -> str:
    """The exact translation with words and names lost and mistaken."""
    rng = random.Random(f"{settings.seed}/{source}/{target}/{text}")
    heard = [_heard(part, target, settings, rng) for part in parts(text, source, target)]
    return text_of([word for word in heard if word])


def _heard(part: Part, lang: str, settings: MicroNoisy, rng: random.Random) -> str:
    """A part as it comes through; nothing if it is lost. Marks always do."""
    if not (is_slot(part.symbol) or is_word(part.symbol)):
        return part.text
    fate = rng.random()
    if fate < settings.dropped:
        return ""
    if fate < settings.dropped + settings.wrong:
        return rng.choice([other for other in _others(part.symbol, lang) if other != part.text])
    return part.text


@cache
def _others(symbol: str, lang: str) -> list[str]:
    """What it may be mistaken for: names of the same kind, or the words of the language."""
    if is_slot(symbol):
        return list(names(lang, symbol[1]))
    return sorted(word for word, langs in vocabulary().items() if langs & bit(lang))
