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
from functools import lru_cache

import numpy as np

from xling.config.common import NonNegative
from xling.grid.stage import Context
from xling.models import ridge
from xling.models.ridge import Array
from xling.rewards import Feedback, Heads, Request, RewardSettings, Scorer
from xling.rewards.heads import fit_one
from xling.tasks.records import Prompt, Recorded

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


# --- hooks --------------------------------------------------------------------------------------------------


class Settings(RewardSettings, frozen=True, tag="bag_of_words"):
    """Regularised linear model on counts of pieces; knows nothing of word order or of other languages."""

    permutation: NonNegative = 0


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Least squares on labels, or on differences of features for pairs; writes bag_of_words.npz.

    Documents are kept together when the penalty is chosen.
    """
    items = feedback.items("train", rm.permutation)
    prompts, groups = [item.prompt.reward_text for item in items], [item.prompt.group for item in items]
    if feedback.objective == "pairwise":
        chosen = features(prompts, [pair.chosen for pair in items])
        head = ridge.fit_pairwise(chosen, features(prompts, [pair.rejected for pair in items]), groups)
    else:
        labels = np.array([2 * rating.label - 1 for rating in items], np.float64)  # so that 0 parts the two classes
        head = ridge.fit(features(prompts, [rating.response for rating in items]), labels, groups)
    ridge.save(context.out / "bag_of_words.npz", head)


def load(context: Context, rm: Settings, request: Request) -> Scorer:
    """Reward of each response of each prompt; higher is better, in the labels' unit."""
    head = ridge.load(context.parents["reward"] / "bag_of_words.npz")

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        rows = zip([p.reward_text for p in prompts], responses, strict=True)
        return [head.predict(features([text] * len(row), row)).tolist() if row else [] for text, row in rows]

    return Scorer(score)


def _blocks(recorded: Recorded, systems: Sequence[str]) -> list[Array]:
    rows = [(prompt.reward_text, response) for prompt, _, response, _ in recorded.flat()]
    return features([document for document, _ in rows], [response for _, response in rows])


heads = Heads(fit_one, _blocks)
check = budget = start = reader = scoring = starts_value = None
