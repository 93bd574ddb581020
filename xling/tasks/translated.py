"""Whether texts that have one id in two languages look like translations of each other; no model reads them.

What translation keeps: numbers, names and other words of both languages, and whether a text is long or short.
"""

import math
import re
from collections.abc import Sequence
from statistics import median

SHIFTS = 8  # other texts that each is compared with
FEW = 8  # below so many texts even translations look like strangers now and then (13 % of five, by length alone)
LEAST = 0.6  # of texts that have nothing to do with each other half; of translations nearly all
_WORDS = re.compile(r"\w+")


def nearer_to_its_own(texts: Sequence[str], others: Sequence[str]) -> float:
    """Share, 0 to 1, of comparisons in which a text is more like the other of its place than one of another place.

    Alike in words (Jaccard), and where that is equal in length; ties count half, so that chance is 0.5. Where each
    language has one text, nothing can be compared: 0.5.
    """
    words = [[set(_WORDS.findall(text.casefold())) for text in side] for side in (texts, others)]
    lengths = [[math.log(1 + len(text)) for text in side] for side in (texts, others)]
    usual = median(a - b for a, b in zip(*lengths, strict=True))

    def likeness(i: int, j: int) -> tuple[float, float]:
        here, there = words[0][i], words[1][j]
        return len(here & there) / max(1, len(here | there)), -abs(lengths[0][i] - lengths[1][j] - usual)

    count = len(texts)
    places = [(i, (i + shift) % count) for i in range(count) for shift in range(1, min(SHIFTS, count - 1) + 1)]
    won = [(likeness(i, i) > likeness(i, j)) + (likeness(i, i) == likeness(i, j)) / 2 for i, j in places]
    return sum(won) / len(won) if won else 0.5


def strangers(share: float, count: int) -> bool:
    """Whether a share of `nearer_to_its_own` of so many texts says that they are no translations of each other.

    At FEW or more, where it is less than two standard errors above chance, as if each text were one uniform draw, or
    less than LEAST.
    """
    return count >= FEW and share < max(LEAST, 0.5 + 2.0 / math.sqrt(12.0 * count))
