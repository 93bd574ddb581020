"""Words of any script, and what is measured by them: ROUGE-L, and how much a text repeats itself.

Words are runs of letters, marks and digits of any script, case-folded; in scripts written without spaces each character
is a word. (The usual default tokenizer of ROUGE keeps a-z and 0-9 alone, which gives Russian 0.)
"""

import itertools
import re
import unicodedata

_SPACELESS = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


def words(text: str) -> list[str]:
    """Words of a text after NFC and case folding."""
    spaced = _SPACELESS.sub(r" \g<0> ", unicodedata.normalize("NFC", text).casefold())
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in spaced).split()


def rouge_l(reference: str, candidate: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, section 3.1, beta = 1), 0 to 1.

    0 where either text has no words.
    """
    a, b = words(reference), words(candidate)
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b))


def repetition(text: str) -> float:
    """Share of word bigrams that have occurred before in the text, 0 to 1: high in policies optimised too far.

    The complement of distinct-2 (Li et al. 2016, section 5) within one text; 0 for fewer than two bigrams.
    """
    pairs = list(itertools.pairwise(words(text)))
    return 1 - len(set(pairs)) / len(pairs) if len(pairs) > 1 else 0.0
