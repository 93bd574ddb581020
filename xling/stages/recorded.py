"""Recorded systems and people's ratings, for the stages of policy=recorded: features, scores, agreement with people.

Heads are trained in xling/rewards/heads.py. Flat arrays go by `Recorded.flat`: prompts by id, responses by system name.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from xling.jsonfiles import write_json
from xling.models import encoder
from xling.models.ridge import Array, pair_text, write_rows
from xling.models.text import Limits
from xling.rewards import RewardSettings, encoder_of
from xling.tasks.records import Recorded

# --- embed[l] and features[l] -------------------------------------------------------------------------------


def embed_texts(recorded: Recorded, name: str, out: Path) -> None:
    """Write texts.npz: float32 unit rows, one for each text of a language, document or response."""
    texts = {text: None for prompt, _, response, _ in recorded.flat() for text in (prompt.reward_text, response)}
    write_rows(out / "texts.npz", list(texts), [encoder.load_encoder(name)(list(texts))])


def read_texts(recorded: Recorded, model: Any, tokenizer: Any, features: str, limits: Limits, out: Path) -> None:
    """Write recorded.npz: what a frozen language model sees of each (document, response), within the limits."""
    from xling.rewards.frozen_lm import read

    asked: dict[str, list[str]] = {}
    for prompt, _, response, _ in recorded.flat():
        answers = asked.setdefault(prompt.reward_text, [])
        if response not in answers:
            answers.append(response)
    blocks = read(model, tokenizer, list(asked), list(asked.values()), features, limits)
    texts = [pair_text(document, response) for document, answers in asked.items() for response in answers]
    write_rows(out / "recorded.npz", texts, blocks)


# --- score[s,t] and gold[t] ---------------------------------------------------------------------------------


def write_scores(recorded: Recorded, scores: Array, out: Path) -> None:
    """Write (rows,) scores as pool.npy, baseline.npy (prompts, systems; NaN-padded) and heldout.json.

    The baseline is the pool: the opponent is a uniformly random recorded response, itself included. heldout.json has
    all pairs whose ratings differ.
    """
    table = _table(recorded, scores)
    _save_tables(out, table)
    write_json(out / "heldout.json", _held_out_pairs(recorded, table))


def rated_responses(recorded: Recorded, out: Path) -> None:
    """The verdicts of judge=human in the format of a score: people's ratings as pool.npy and baseline.npy."""
    _save_tables(out, _table(recorded, np.array([rating for _, _, _, rating in recorded.flat()])))


def write_notes(rm: RewardSettings, langs: Collection[str], out: Path) -> None:
    """Write notes.json: which of the languages the encoder that the reward model reads with does not know."""
    name = encoder_of(rm)
    unknown = [lang for lang in sorted(langs) if name and encoder.knows(name, lang) is False]
    write_json(out / "notes.json", {"unknown_language": bool(unknown), "unknown_languages": unknown})


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
