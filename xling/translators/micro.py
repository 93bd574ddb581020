"""translator=micro_exact and micro_noisy: the embedded world's own translators, which need no model.

The exact one is the world's (xling/tasks/micro/translation.py). The noisy one then loses words and mistakes some for
others of the same kind, by a random generator named by the text itself: the same text always fails the same way.
"""

import random
from collections.abc import Sequence

from xling.config import MicroExact, MicroNoisy
from xling.tasks.micro.frames import text_of
from xling.tasks.micro.lexicon import Item, bit, is_slot, is_word, read, vocabulary
from xling.tasks.micro.translation import exactly
from xling.tasks.micro.words import names
from xling.translators.translator import Translate


def micro_translator(settings: MicroExact | MicroNoisy, source: str, target: str) -> Translate:
    """The translator of a pair of languages of the embedded world."""

    def translate(texts: Sequence[str]) -> list[str | None]:
        said = [exactly(text, source, target) for text in texts]
        if isinstance(settings, MicroExact):
            return list(said)
        return [noisy(text, target, settings, f"{settings.seed}/{source}/{target}/{text}") for text in said]

    return translate


def noisy(text: str, lang: str, settings: MicroNoisy, name: str) -> str:
    """The text with words and names lost and mistaken; `name` decides which."""
    rng = random.Random(name)
    return text_of([word for item in read(text) for word in _heard(item, lang, settings, rng)])


def _heard(item: Item, lang: str, settings: MicroNoisy, rng: random.Random) -> list[str]:
    if not (is_slot(item.symbol) or is_word(item.symbol)):
        return [item.text]
    fate = rng.random()
    if fate < settings.dropped:
        return []
    if fate < settings.dropped + settings.wrong * (1 - settings.dropped):
        return [rng.choice(_others(item, lang))]
    return [item.text]


def _others(item: Item, lang: str) -> list[str]:
    """What it may be mistaken for: names of the same kind, or other words of the language."""
    if is_slot(item.symbol):
        return [form for form in names(lang, item.symbol[1]) if form != item.text]
    return sorted(word for word, langs in vocabulary().items() if langs & bit(lang) and word != item.symbol)
