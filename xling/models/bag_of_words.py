"""rm_backbone=bag_of_words: a ridge on hashed counts of the response's pieces and overlap with the prompt.

Knows nothing of word order or of other languages: what it scores abroad rests on overlap, names and numbers.
Pieces are words between spaces, without punctuation and case; single characters in scripts without spaces.
"""

import re
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from xling.models import ridge
from xling.models.ridge import Array, Linear

HASHED = 1024  # columns of hashed counts
SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@lru_cache(maxsize=1)
def _punctuation() -> str:
    return "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] in "PS")


def pieces(text: str) -> list[str]:
    """Case-folded words, or characters where words are written together."""
    spaced = SPACELESS.sub(r" \g<0> ", unicodedata.normalize("NFKC", text).casefold())
    words = (word if word.isalnum() else word.strip(_punctuation()) for word in spaced.split())  # strip is slow
    return [word for word in words if word]


def features(documents: Sequence[str], responses: Sequence[str]) -> list[Array]:
    """Blocks of aligned rows: (rows, HASHED) counts of unit length, and (rows, 4) of overlap.

    Overlap, counting repeated pieces as often as both have them: share of the response found in the document,
    share of the document found in the response, log(1 + pieces found), log(1 + pieces not found).
    """
    counts = np.zeros((len(responses), HASHED))
    overlap = np.zeros((len(responses), 4))
    known: dict[str, Counter[str]] = {}  # rows of a document follow each other: count its pieces once
    for row, (document, response) in enumerate(zip(documents, responses, strict=True)):
        if document not in known:
            known[document] = Counter(pieces(document))
        read, said = known[document], Counter(pieces(response))
        for piece, count in said.items():
            counts[row, zlib.crc32(piece.encode()) % HASHED] += count
        found, n_said, n_read = (said & read).total(), said.total(), read.total()
        overlap[row] = (
            found / max(n_said, 1),
            found / max(n_read, 1),
            np.log1p(found),
            np.log1p(n_said - found),
        )
    counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-12)
    return [counts, overlap]


@dataclass(frozen=True, slots=True)
class BagOfWordsModel:
    """A fitted model with the interface of every reward model."""

    head: Linear

    def score(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        """Reward of each response of each prompt; higher is better, in the labels' unit."""
        scores = []
        for prompt, answers in zip(prompts, responses, strict=True):
            rows = self.head.predict(features([prompt] * len(answers), answers)) if answers else np.zeros(0)
            scores.append([float(value) for value in rows])
        return scores


def fit_pointwise(
    prompts: Sequence[str], responses: Sequence[str], labels: Sequence[float], groups: Sequence[str]
) -> BagOfWordsModel:
    """Least squares on labels; `groups` (documents) are kept together when the penalty is chosen."""
    return BagOfWordsModel(ridge.fit(features(prompts, responses), np.asarray(labels, dtype=np.float64), groups))


def fit_pairwise(
    prompts: Sequence[str], chosen: Sequence[str], rejected: Sequence[str], groups: Sequence[str]
) -> BagOfWordsModel:
    """Least squares on differences of features, chosen minus rejected."""
    return BagOfWordsModel(ridge.fit_pairwise(features(prompts, chosen), features(prompts, rejected), groups))


def save_bag_of_words(folder: Path, model: BagOfWordsModel) -> None:
    """`bag_of_words.npz` in the folder."""
    ridge.save(folder / "bag_of_words.npz", model.head)


def load_bag_of_words(folder: Path) -> BagOfWordsModel:
    """A model from its stage's folder."""
    return BagOfWordsModel(ridge.load(folder / "bag_of_words.npz"))
