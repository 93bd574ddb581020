"""Reward models for recorded systems and people's ratings: cross-fitted heads, their scores, their agreement.

What the stages of policy=recorded call: `embed_texts`, `train_heads`, `score_responses`, `rated_responses`,
`write_agreement`. Flat arrays go by `Recorded.flat`: prompts by id, responses by system name.

Each head is trained on all folds of the source's documents but one. A row of a source language is scored by
the head that has not seen its document, a row of any other language by the mean of the same heads: home and
abroad train on the same amount, and no row is scored by a head that has seen its document's ratings.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from xling.config import BagOfWords, SentenceEncoder, SystemIdentity, Untrained, encoder_of
from xling.errors import ConfigError
from xling.jsonfiles import read_json, write_json
from xling.models import bag_of_words, encoder
from xling.models.folds import assign_folds
from xling.models.ridge import Array, Linear, fit
from xling.tasks.records import Recorded

Trained = BagOfWords | SentenceEncoder | SystemIdentity


# --- embed[l] -----------------------------------------------------------------------------------------------


def embed_texts(recorded: Recorded, name: str, out: Path) -> None:
    """Write documents.npy (prompts, d) and responses.npy (rows, d): float32 unit rows of one language."""
    encode = encoder.load_encoder(name)
    np.save(out / "documents.npy", encode([prompt.reward_text for prompt in recorded.prompts]))
    np.save(out / "responses.npy", encode([response for _, _, response, _ in recorded.flat()]))


# --- reward[s] ----------------------------------------------------------------------------------------------


def train_heads(
    sources: Sequence[Recorded],
    backbone: Trained,
    embeds: Mapping[str, Path],
    folds: int,
    seeds: tuple[int, int],
    out: Path,
) -> None:
    """Train `folds` heads on the sources' ratings; write heads.npz and heads.json.

    `embeds`: language -> its embed folder (sentence_encoder only). `seeds`: (task.seed, seed); they decide
    the folds and the permutation of labels. A head's ratings are standardised within a language: pooled
    sources need no common scale. heads.npz: weight (folds, columns); bias, penalty, explained (folds,).
    """
    systems = sorted({system for source in sources for _, system, _, _ in source.flat()})
    permutation = 0 if isinstance(backbone, SystemIdentity) else backbone.permutation
    groups = np.array([prompt.group for source in sources for prompt, _, _, _ in source.flat()])
    langs = np.array([source.lang for source in sources for _ in source.flat()])
    labels = np.concatenate([_labels(source, permutation, seeds) for source in sources])
    parts = [_blocks(source, backbone, embeds.get(source.lang), systems) for source in sources]
    blocks = [np.concatenate(part) for part in zip(*parts, strict=True)]
    fold_of = assign_folds(groups.tolist(), folds, *seeds)
    fold = np.array([fold_of[group] for group in groups])
    heads = []
    for held in range(folds):
        seen = fold != held
        train, wanted = [block[seen] for block in blocks], _standardised(labels[seen], langs[seen])
        if isinstance(backbone, SystemIdentity):
            heads.append(_system_means(train[0], wanted))
        else:
            heads.append(fit(train, wanted, groups[seen].tolist()))
    _save_heads(out, heads)
    kept = {"langs": [source.lang for source in sources], "folds": fold_of, "systems": systems}
    write_json(out / "heads.json", kept)


def _labels(recorded: Recorded, permutation: int, seeds: tuple[int, int]) -> Array:
    """(rows,) ratings; for a control shuffled over all rows of the language."""
    labels: Array = np.array([rating for _, _, _, rating in recorded.flat()])
    if permutation:
        return _generator(*seeds, "labels", permutation, recorded.lang).permutation(labels)
    return labels


def _standardised(labels: Array, langs: np.ndarray[Any, np.dtype[np.str_]]) -> Array:
    """(rows,) labels with mean 0 and deviation 1 within each language."""
    out = np.empty(len(labels))
    for lang in np.unique(langs):
        own = langs == lang
        out[own] = (labels[own] - labels[own].mean()) / (labels[own].std() or 1.0)
    return out


def _blocks(recorded: Recorded, backbone: Trained, embed: Path | None, systems: Sequence[str]) -> list[Array]:
    """Feature blocks, each (rows, columns)."""
    if isinstance(backbone, SentenceEncoder):
        return encoder.features(*_embeddings(recorded, embed))
    if isinstance(backbone, BagOfWords):
        rows = [(prompt.reward_text, response) for prompt, _, response, _ in recorded.flat()]
        return bag_of_words.features([document for document, _ in rows], [response for _, response in rows])
    wrote = np.array([system for _, system, _, _ in recorded.flat()])
    return [(wrote[:, None] == np.array(systems)).astype(np.float64)]


def _embeddings(recorded: Recorded, embed: Path | None) -> tuple[Array, Array]:
    """Aligned (rows, d) vectors of documents and responses from the language's embed folder."""
    if embed is None:
        raise ConfigError(f"Scoring {recorded.lang} with a sentence encoder needs its embed stage as a parent.")
    per_prompt = [len(responses) for responses in recorded.responses]
    return np.repeat(np.load(embed / "documents.npy"), per_prompt, axis=0), np.load(embed / "responses.npy")


def _system_means(wrote: Array, labels: Array) -> Linear:
    """Mean label per system from one-hot rows; 0, the mean of all, for a system that was not seen."""
    seen = wrote.sum(axis=0)
    return Linear((labels @ wrote) / np.maximum(seen, 1.0), 0.0, 0.0, float("nan"))


# --- score[s,t] and gold[t] ---------------------------------------------------------------------------------


def score_responses(
    recorded: Recorded,
    backbone: Trained | Untrained,
    source_langs: Sequence[str],
    heads: Path | None,
    embed: Path | None,
    seed: int,
    out: Path,
    elsewhere: bool = False,
) -> None:
    """Score the target: pool.npy, baseline.npy (prompts, systems; NaN-padded), heldout.json and notes.json.

    `heads`: the reward stage's folder, None for untrained scores; `embed`: the target's embed folder, for
    sentence_encoder and cosine; `elsewhere`: the heads come from another task. The baseline is the pool: the opponent is a uniformly random recorded
    response, itself included. heldout.json has all pairs whose ratings differ; notes.json marks languages
    that the encoder does not know.
    """
    if isinstance(backbone, Untrained):
        scores = _untrained(recorded, backbone, embed, seed)
    elif heads is None:
        raise ConfigError("Scoring with trained heads needs a reward stage as a parent.")
    else:
        scores = _trained(recorded, backbone, heads, embed, elsewhere)
    write_scores(recorded, scores, out)
    name = encoder_of(backbone)
    langs = sorted({recorded.lang, *source_langs}) if name else []
    unknown = [lang for lang in langs if encoder.knows(name, lang) is False]
    write_json(out / "notes.json", {"unknown_language": bool(unknown), "unknown_languages": unknown})


def write_scores(recorded: Recorded, scores: Array, out: Path) -> None:
    """Write (rows,) scores as pool.npy, baseline.npy and heldout.json."""
    table = _table(recorded, scores)
    _save_tables(out, table)
    write_json(out / "heldout.json", _held_out_pairs(recorded, table))


def rated_responses(recorded: Recorded, out: Path) -> None:
    """The verdicts of judge=human in the format of a score: people's ratings as pool.npy and baseline.npy."""
    _save_tables(out, _table(recorded, np.array([rating for _, _, _, rating in recorded.flat()])))


def _trained(recorded: Recorded, backbone: Trained, folder: Path, embed: Path | None, elsewhere: bool) -> Array:
    """(rows,) cross-fitted scores at home, mean scores abroad or on another task."""
    kept = read_json(folder / "heads.json")
    blocks = _blocks(recorded, backbone, embed, kept["systems"])
    by_head = np.stack([head.predict(blocks) for head in _load_heads(folder)])  # (folds, rows)
    if recorded.lang in kept["langs"] and not elsewhere:
        unseen = [kept["folds"][prompt.group] for prompt, _, _, _ in recorded.flat()]
        scores: Array = by_head[unseen, np.arange(by_head.shape[1])]
    else:
        scores = by_head.mean(axis=0)
    return scores


def _untrained(recorded: Recorded, backbone: Untrained, embed: Path | None, seed: int) -> Array:
    """(rows,) scores that learn nothing."""
    if backbone.score == "cosine":
        return encoder.cosine(*_embeddings(recorded, embed))
    if backbone.score == "length":
        return np.array([float(len(response)) for _, _, response, _ in recorded.flat()])
    if backbone.score in ("human", "gold"):
        return np.array([rating for _, _, _, rating in recorded.flat()])
    if backbone.score == "random":
        return np.array(
            [_generator(seed, "random", recorded.lang, p.id, system).random() for p, system, _, _ in recorded.flat()]
        )
    raise ConfigError(
        f"rm_backbone={backbone.score} needs a language model and policy=recorded has none. "
        "Use one of random, length, cosine, human."
    )


# --- agreement with people ----------------------------------------------------------------------------------


def write_agreement(recorded: Recorded, score: Path, out: Path) -> None:
    """Write pairs.json and spearman.json from a score folder's pool.npy.

    pairs.json: for each two responses to a prompt whose ratings differ, 1 if the reward orders them as people
    did, 0.5 if it ties them, 0 if not. With two systems a prompt and no ties the win rate is 25 + 50 x their
    mean: its floor is 25, its ceiling 75.
    spearman.json: rank correlation of reward and rating over all n responses; null for a constant reward.
    """
    table = np.load(score / "pool.npy")
    pairs = _held_out_pairs(recorded, table)
    margin = np.array(pairs["chosen"]) - np.array(pairs["rejected"])
    correct = ((np.sign(margin) + 1) / 2).tolist()
    write_json(out / "pairs.json", {"group": pairs["group"], "correct": correct})
    rewards = table[~np.isnan(table)]
    ratings = np.array([rating for _, _, _, rating in recorded.flat()])
    varies = np.ptp(rewards) > 0 and np.ptp(ratings) > 0
    rho = float(spearmanr(rewards, ratings).statistic) if varies else None
    write_json(out / "spearman.json", {"rho": rho, "n": len(ratings)})


def _held_out_pairs(recorded: Recorded, table: Array) -> dict[str, list[Any]]:
    """Columns of all pairs of responses to a prompt whose ratings differ, the better rated one as chosen."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("group", "chosen", "rejected", "chosen_length", "rejected_length")
    }
    for row, prompt in enumerate(recorded.prompts):
        ratings, responses = recorded.ratings[row], recorded.responses[row]
        for better in range(len(ratings)):
            for worse in range(len(ratings)):
                if ratings[better] > ratings[worse]:
                    columns["group"].append(prompt.group)
                    columns["chosen"].append(float(table[row, better]))
                    columns["rejected"].append(float(table[row, worse]))
                    columns["chosen_length"].append(len(responses[better]))
                    columns["rejected_length"].append(len(responses[worse]))
    return columns


# --- files --------------------------------------------------------------------------------------------------


def _table(recorded: Recorded, scores: Array) -> Array:
    """(rows,) -> (prompts, most systems), NaN where a prompt has fewer."""
    per_prompt = np.array([len(responses) for responses in recorded.responses])
    table = np.full((len(per_prompt), per_prompt.max()), np.nan)
    table[np.arange(table.shape[1]) < per_prompt[:, None]] = scores
    return table


def _save_tables(out: Path, table: Array) -> None:
    np.save(out / "pool.npy", table)
    np.save(out / "baseline.npy", table)


def _save_heads(out: Path, heads: Sequence[Linear]) -> None:
    np.savez(
        out / "heads.npz",
        weight=np.stack([head.weight for head in heads]),
        bias=np.array([head.bias for head in heads]),
        penalty=np.array([head.penalty for head in heads]),
        explained=np.array([head.explained for head in heads]),
    )


def _load_heads(folder: Path) -> list[Linear]:
    with np.load(folder / "heads.npz") as stored:
        columns = (stored["bias"], stored["penalty"], stored["explained"])
        return [
            Linear(weight, float(bias), float(penalty), float(explained))
            for weight, bias, penalty, explained in zip(stored["weight"], *columns, strict=True)
        ]


def _generator(*names: int | str) -> np.random.Generator:
    """A stream of its own for every combination of names, on any machine."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
