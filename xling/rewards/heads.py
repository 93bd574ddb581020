"""Linear heads: on feedback with splits, and cross-fitted by document on people's ratings of recorded systems.

Each cross-fitted head is trained on all folds of the source's documents but one. A row whose document (`group`) is
among them is scored by the head that has not seen it: at home, and abroad where documents are parallel. Any other row
is scored by the mean of the same heads. So home and abroad train on the same amount, and no row is scored by a head
that has seen ratings of its document, in whatever language.

What is chosen (penalty, and which features a sentence encoder's head reads) is chosen inside those training folds, by
cross-validation over documents: by ratings of the source that the head may see anyway.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from xling.errors import ConfigError, DataError, StageError
from xling.grid.stage import Context
from xling.jsonfiles import read_json, write_json
from xling.models import encoder, ridge
from xling.models.ridge import Array, Linear, assign_folds, fit, fit_pairwise, in_order, pair_text, read_rows
from xling.rewards import (
    REWARDS,
    EncoderReader,
    FeatureScorer,
    Feedback,
    Fold,
    LanguageReader,
    Request,
    RewardSettings,
    reader_of,
)
from xling.tasks.records import Recorded

Fitted = Callable[[list[Array]], Linear]  # a fit of labels to blocks of features
Rows = np.ndarray[Any, np.dtype[np.intp]]
Names = np.ndarray[Any, np.dtype[np.object_]]


# --- on feedback with splits --------------------------------------------------------------------------------


def fit_features(
    context: Context, feedback: Feedback, permutation: int, best: Callable[[list[Array], Fitted], tuple[Linear, str]]
) -> None:
    """A ridge on what a frozen reader saw of the feedback; writes head.npz and head.json.

    best: from features and a fit of theirs to the head, and the name of those features that it reads.
    """
    blocks, items = feedback.features(), feedback.items("train", permutation)
    groups = [item.prompt.group for item in items]
    if feedback.objective == "pairwise":
        turned = [a.chosen != b.chosen for a, b in zip(items, feedback.items("train", 0), strict=True)]
        sign = np.where(turned, -1.0, 1.0)[:, None]

        def fitted(parts: list[Array]) -> Linear:
            return fit_pairwise([sign * p[0::2] for p in parts], [sign * p[1::2] for p in parts], groups)
    else:
        labels = np.array([2 * rating.label - 1 for rating in items])  # so that 0 parts the two classes

        def fitted(parts: list[Array]) -> Linear:
            return fit(parts, labels, groups)

    head, read = best(blocks, fitted)
    ridge.save(context.out / "head.npz", head)
    write_json(context.out / "head.json", {"features": read, "penalty": head.penalty, "explained": head.explained})


def load_head(context: Context, rm: RewardSettings, request: Request) -> FeatureScorer:
    """Loads what `fit_features` wrote."""
    return FeatureScorer(ridge.load(context.parents["reward"] / "head.npz").predict)


def fit_one(rm: RewardSettings, fold: Fold) -> tuple[Linear, str]:
    """The head on all features."""
    blocks, fitted = fold.fitting()
    return fitted(blocks), "all"


# --- cross-fitted -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitting:
    """How heads are trained on a source. `seeds`: (task.seed, seed); they decide folds, samples and permutations."""

    folds: int = 5
    seeds: tuple[int, int] = (0, 0)
    objective: str = "pointwise"  # pairwise: on differences of responses to one prompt that people rated differently
    documents: int | None = None  # of each source language; None: all


def train_heads(
    sources: Sequence[Recorded], rm: RewardSettings, features: Mapping[str, Path], fitting: Fitting, out: Path
) -> None:
    """Train a head a fold on the sources' ratings; write heads.npz and heads.json.

    `features`: language -> the folder of its embed or features stage, where it has one. Ratings are
    standardised within a language: pooled sources need no common scale. With `documents` a head sees the first so many
    of each source in one fixed order: samples are nested, and folds stay balanced. heads.npz: weight (folds, columns);
    bias, penalty, explained (folds,). DataError if no two ratings of a prompt differ and the objective is pairwise.
    """
    heads = REWARDS.of(rm).heads
    if heads is None:
        raise StageError(f"rm_backbone={rm.name} cannot learn from recorded responses.")
    systems = sorted({system for source in sources for _, system, _, _ in source.flat()})
    groups = named([prompt.group for source in sources for prompt, _, _, _ in source.flat()])
    langs = named([source.lang for source in sources for _ in source.flat()])
    rated = [(prompt.lang, prompt.id) for source in sources for prompt, _, _, _ in source.flat()]
    number = {prompt: place for place, prompt in enumerate(dict.fromkeys(rated))}
    prompts = np.array([number[prompt] for prompt in rated])
    permutation = getattr(rm, "permutation", 0)
    labels = np.concatenate([_labels(source, permutation, fitting.seeds) for source in sources])
    parts = [blocks_of(source, rm, features.get(source.lang), systems) for source in sources]
    blocks = [np.concatenate(part) for part in zip(*parts, strict=True)]
    folds = min(fitting.folds, len(set(groups)))
    fold_of = assign_folds(groups.tolist(), folds, *fitting.seeds)
    fold = np.array([fold_of[group] for group in groups])
    sampled = _sample(sources, fitting)

    def training(seen: Rows) -> Fold:
        """Training data of a head that sees these rows."""
        standardised = _standardised(labels[seen], langs[seen])

        def fitted() -> tuple[list[Array], Fitted]:
            if fitting.objective == "pairwise":  # the better responses, then the worse ones
                better, worse = _ordered_pairs(prompts, labels, seen)
                names, half = groups[better].tolist(), len(better)
                pairs = [np.concatenate([block[better], block[worse]]) for block in blocks]
                return pairs, lambda p: fit_pairwise([x[:half] for x in p], [x[half:] for x in p], names)
            names = groups[seen].tolist()
            return [block[seen] for block in blocks], lambda p: fit(p, standardised, names)

        return Fold([block[seen] for block in blocks], standardised, fitted)

    found = [heads.fit(rm, training(np.flatnonzero((fold != held) & sampled))) for held in range(folds)]
    chosen = [name for _, name in found]
    ridge.save_all(out / "heads.npz", [head for head, _ in found])
    kept = {"langs": [source.lang for source in sources], "folds": fold_of, "systems": systems, "features": chosen}
    write_json(out / "heads.json", kept)


def score_rows(recorded: Recorded, rm: RewardSettings, heads: Path, features: Path | None) -> Array:
    """(rows,) scores: of a document of the sources by the head that has not seen it, of any other by all heads' mean.

    A document is one of the sources' if its `group` is, whatever language its row is in: parallel documents, and the
    same documents in another task, are held out as those at home are.
    """
    kept = read_json(heads / "heads.json")
    blocks = blocks_of(recorded, rm, features, kept["systems"])
    by_head = np.stack([head.predict(blocks) for head in ridge.load_all(heads / "heads.npz")])  # (folds, rows)
    unseen = np.array([kept["folds"].get(prompt.group, -1) for prompt, _, _, _ in recorded.flat()])
    theirs = np.flatnonzero(unseen >= 0)
    out: Array = by_head.mean(axis=0)
    out[theirs] = by_head[unseen[theirs], theirs]
    return level(recorded, out, blocks)


def level(recorded: Recorded, scores: Array, blocks: Sequence[Array] = ()) -> Array:
    """(rows,) scores, of responses with one text to a prompt the first one's, if their features are equal as well.

    By itself a product of matrices sums its last rows in another order, and a batch pads, so that equal texts are told
    apart by a last digit and the order of systems' names picks.
    """
    first: dict[tuple[str, str], int] = {}
    rows = enumerate(recorded.flat())
    same = np.array([first.setdefault((prompt.id, response), row) for row, (prompt, _, response, _) in rows])
    again = np.flatnonzero(same != np.arange(len(same)))
    for block in blocks:
        again = again[(block[again] == block[same[again]]).all(axis=1)]
    out = scores.copy()
    out[again] = scores[same[again]]
    return out


# --- labels and samples -------------------------------------------------------------------------------------


def generator(*names: int | str) -> np.random.Generator:
    """A stream of its own for every combination of names, on any machine."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _labels(recorded: Recorded, permutation: int, seeds: tuple[int, int]) -> Array:
    """(rows,) ratings; for a control shuffled over all rows of the language, whatever the systems are called."""
    rows = list(recorded.flat())
    labels: Array = np.array([rating for _, _, _, rating in rows])
    if permutation:
        order = sorted(range(len(rows)), key=lambda row: (rows[row][0].id, rows[row][2], rows[row][3]))
        labels[order] = generator(*seeds, "labels", permutation, recorded.lang).permutation(labels[order])
    return labels


def _sample(sources: Sequence[Recorded], fitting: Fitting) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(rows,) whether a row's document is among those that may train."""
    kept = {
        (source.lang, group)
        for source in sources
        for group in in_order((prompt.group for prompt in source.prompts), *fitting.seeds)[: fitting.documents]
    }
    return np.array([(source.lang, prompt.group) in kept for source in sources for prompt, _, _, _ in source.flat()])


def named(names: Sequence[str]) -> Names:
    """(n,) names as they are: of strings of a fixed width numpy drops NULs at the end, and two names become one."""
    return np.array(names, dtype=object)


def _standardised(labels: Array, langs: Names) -> Array:
    """(rows,) labels with mean 0 and deviation 1 within each language."""
    out = np.empty(len(labels))
    for lang in np.unique(langs):
        own = langs == lang
        out[own] = (labels[own] - labels[own].mean()) / (labels[own].std() or 1.0)
    return out


def _ordered_pairs(prompts: Rows, labels: Array, seen: Rows) -> tuple[Rows, Rows]:
    """Rows of all two responses to one prompt whose labels differ, the higher one first."""
    starts = np.flatnonzero(prompts[seen][1:] != prompts[seen][:-1]) + 1  # a prompt's rows follow each other
    pairs = [
        (a, b) if labels[a] > labels[b] else (b, a)
        for rows in np.split(seen, starts)
        for a, b in combinations(rows, 2)
        if labels[a] != labels[b]
    ]
    if not pairs:
        raise DataError("No prompt has two responses that were rated differently. Type task.feedback=pointwise.")
    better, worse = np.array(pairs).T
    return better, worse


# --- features and fits --------------------------------------------------------------------------------------


def blocks_of(
    recorded: Recorded, rm: RewardSettings, features: Path | None, systems: Sequence[str] = ()
) -> list[Array]:
    """Feature blocks of the responses, each (rows, columns); `features`: the language's embed or features folder."""
    heads = REWARDS.of(rm).heads
    if heads is not None and heads.blocks is not None:
        return heads.blocks(recorded, systems)
    match reader_of(rm):
        case EncoderReader():
            return encoder.features(*_embeddings(recorded, features))
        case LanguageReader():
            texts = [pair_text(prompt.reward_text, response) for prompt, _, response, _ in recorded.flat()]
            return read_rows(_needed(features, recorded) / "recorded.npz", texts)
        case None:
            raise StageError(f"rm_backbone={rm.name} has no features of recorded responses.")


def _embeddings(recorded: Recorded, embed: Path | None) -> tuple[Array, Array]:
    """Aligned (rows, d) vectors of documents and responses from the language's embed folder."""
    texts = [text for prompt, _, response, _ in recorded.flat() for text in (prompt.reward_text, response)]
    [vectors] = read_rows(_needed(embed, recorded) / "texts.npz", texts)
    return vectors[0::2], vectors[1::2]


def _needed(folder: Path | None, recorded: Recorded) -> Path:
    if folder is None:
        raise ConfigError(f"Scoring {recorded.lang} with a frozen encoder or model needs its embed stage as a parent.")
    return folder


def best_head(train: Sequence[Array], families: Mapping[str, tuple[int, ...]], fitted: Fitted) -> tuple[Linear, str]:
    """The head with the least cross-validated error on the source, over penalties and families of features.

    families: which blocks a head may read, by name.
    """
    found: dict[str, Linear] = {}
    for name, members in families.items():
        head = fitted([train[member] for member in members])
        found[name] = _spread(head, members, [block.shape[1] for block in train])
    best = max(found, key=lambda name: found[name].explained)
    return found[best], best


def _spread(head: Linear, members: Sequence[int], widths: Sequence[int]) -> Linear:
    """A head on some blocks as a head on all of them."""
    weight, ends = np.zeros(sum(widths)), np.cumsum(widths)
    pieces = np.split(head.weight, np.cumsum([widths[member] for member in members])[:-1])
    for member, piece in zip(members, pieces, strict=True):
        weight[ends[member] - widths[member] : ends[member]] = piece
    return replace(head, weight=weight)
