"""How much a text repeats itself: a symptom of a policy that has been optimised too far."""

import itertools

from xling.measures.rouge import words


def repetition(text: str) -> float:
    """Share of word bigrams that have occurred before in the text, 0 to 1; words are those of ROUGE-L (rouge.py).

    The complement of distinct-2 (Li et al. 2016, section 5) within one text; 0 for fewer than two bigrams.
    """
    said = words(text)
    pairs = list(itertools.pairwise(said))
    return 1 - len(set(pairs)) / len(pairs) if len(pairs) > 1 else 0.0
