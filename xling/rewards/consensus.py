"""How alike a response is to the other samples of its prompt: minimum Bayes risk decoding, a reward without labels.

Each of the n samples of a prompt stands for a reference (Eikema and Aziz 2022, arXiv 2108.04718, section 6): the reward
is the mean similarity to them, a sample's own copy left out, so that samples and opponents are on one scale. Similarity
is chrF of the response against each of them (Popovic 2015; character n-grams up to 6, beta 2, 0 to 100), or the cosine
of both under a sentence encoder.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xling.models.ridge import Array
from xling.rewards import Scores
from xling.tasks.records import Prompt

Similarity = Callable[[Sequence[str], Sequence[str]], Array]  # n and m texts -> (n, m)


def scores(others: Mapping[str, Sequence[str]], similarity: Similarity) -> Scores:
    """Scores of responses by the samples of their prompts; 0 where there are fewer than two, as of held-out feedback.

    others: the samples by prompt. Responses that begin with them are these samples, in their order.
    """

    def score(prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[list[float]]:
        rows = zip(prompts, responses, strict=True)
        return [agreement(row, others.get(prompt.id, ()), similarity) for prompt, row in rows]

    return score


def agreement(responses: Sequence[str], samples: Sequence[str], similarity: Similarity) -> list[float]:
    """The mean similarity of each response to the samples; of these to all but themselves.

    Of two samples the cosine is the same and chrF nearly: it goes by length then, for it counts recall more.
    """
    own = len(samples) if list(responses[: len(samples)]) == list(samples) else 0
    if not responses or len(samples) < 2:
        return [0.0] * len(responses)
    said, known = list(dict.fromkeys(responses)), list(dict.fromkeys(samples))  # many are the same
    found = similarity(said, known)
    column = {text: place for place, text in enumerate(known)}
    every = found[:, [column[text] for text in samples]]  # (said, samples)
    row = {text: place for place, text in enumerate(said)}
    sums = every.sum(axis=1)
    mean = [float(sums[row[text]]) / len(samples) for text in responses[own:]]
    rest = [(sums[row[text]] - every[row[text], place]) / (len(samples) - 1) for place, text in enumerate(samples)]
    return [*map(float, rest[:own]), *mean]


def chrf(responses: Sequence[str], samples: Sequence[str]) -> Array:
    """(responses, samples) chrF, 0 to 100."""
    from fastchrf import pairwise_chrf

    found: Array = np.array(pairwise_chrf([list(responses)], [list(samples)])[0])
    return found


def cosine(encoder: str) -> Similarity:
    """Cosine under a frozen sentence encoder, -1 to 1."""
    from xling.models.encoder import load_encoder

    encode = load_encoder(encoder)

    def similarity(responses: Sequence[str], samples: Sequence[str]) -> Array:
        names = list(dict.fromkeys([*samples, *responses]))
        vectors = dict(zip(names, encode(names).astype(np.float64), strict=True))
        found: Array = np.stack([vectors[text] for text in responses]) @ np.stack([vectors[t] for t in samples]).T
        return found

    return similarity
