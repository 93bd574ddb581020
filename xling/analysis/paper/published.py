"""The paper's published matrices as entries: xling/analysis/paper/csv has the numbers, and their table numbers.

No prompts were published, so the errors are drawn from a stated model: a win rate is the mean over its language's
datasets of binomial shares with the sizes that the paper gives (validation sets of its Tables 1 and 3; at most 1,000 a
dataset for GPT-4; 250 instances for people under PPO and 100 under best-of-n), accuracies with those of Tables 2 and 4.
Cells are drawn independently of each other. In truth the cells of a column share their prompts, which makes differences
within a column more certain than these draws say. Seeds are not in them at all: every model was trained once.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from xling.analysis.statistics.bootstrap import RESAMPLES, SEED
from xling.analysis.statistics.draws import Small, percentile
from xling.analysis.tidy.entries import Entries, place_of
from xling.errors import ConfigError

FOLDER = Path(__file__).parent / "csv"
NAME = "paper"  # what stands for it where a grid is named
N = 64  # of best-of-n
HOW = "cells as independent binomials with the paper's sizes (differences within a column are surer than that)"
_CAP = 1000  # instances a dataset that GPT-4 was asked about
_PEOPLE = {"ppo": 250, "best_of_n": 100}
_POLICY = {"summarization": "mt5_xl", "dialog": "palm_2_xxs"}
AXES = ("task", "policy", "rm_backbone", "optimizer", "judge")


@dataclass(frozen=True)
class Published:
    """One matrix of win rates; `name` is its file."""

    name: str
    table: int
    task: str
    judge: str  # palm_2_l, gpt_4, human
    optimizer: str

    @property
    def title(self) -> str:
        return f"{self.name} (Table {self.table}: {self.task}, {self.optimizer}, {self.judge})"


TABLES = {
    one.name: one
    for one in (
        Published("win_rate_summarization_palm_bon", 6, "summarization", "palm_2_l", "best_of_n"),
        Published("win_rate_dialog_palm_bon", 7, "dialog", "palm_2_l", "best_of_n"),
        Published("win_rate_summarization_palm_ppo", 8, "summarization", "palm_2_l", "ppo"),
        Published("win_rate_dialog_palm_ppo", 9, "dialog", "palm_2_l", "ppo"),
        Published("win_rate_summarization_gpt4_bon", 10, "summarization", "gpt_4", "best_of_n"),
        Published("win_rate_dialog_gpt4_bon", 11, "dialog", "gpt_4", "best_of_n"),
        Published("win_rate_summarization_gpt4_ppo", 12, "summarization", "gpt_4", "ppo"),
        Published("win_rate_dialog_gpt4_ppo", 13, "dialog", "gpt_4", "ppo"),
        Published("win_rate_summarization_human_bon", 14, "summarization", "human", "best_of_n"),
        Published("win_rate_summarization_human_ppo", 15, "summarization", "human", "ppo"),
        Published("win_rate_dialog_human_bon", 16, "dialog", "human", "best_of_n"),
    )
}
TRANSLATE_TRAIN = Published(
    "win_rate_summarization_palm_bon_translate_train", 17, "summarization", "palm_2_l", "best_of_n"
)
BILINGUAL = Published("win_rate_summarization_palm_bon_bilingual", 25, "summarization", "palm_2_l", "best_of_n")


def read(name: str) -> pd.DataFrame:
    """A published table in long form; ConfigError lists those that there are."""
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        known = ", ".join(sorted(one.stem for one in FOLDER.glob("*.csv")))
        raise ConfigError(f"The paper has no table '{name}'. There are: {known}.")
    return pd.read_csv(path, dtype={"source_lang": str, "target_lang": str}, keep_default_na=False)


@cache
def sizes(task: str, what: str) -> dict[str, tuple[int, ...]]:
    """Validation instances of each dataset of a language; what: sft, rm."""
    table = read(f"data_sizes_{task}_{what}")
    return {str(lang): tuple(int(n) for n in rows["validation"]) for lang, rows in table.groupby("lang")}


def judged(published: Published, target: str) -> tuple[int, ...]:
    """How many instances of each dataset stand behind a win rate; people's are of all datasets together."""
    if published.judge == "human":
        return (_PEOPLE[published.optimizer],)
    every = sizes(published.task, "sft")[target]
    return tuple(min(n, _CAP) for n in every) if published.judge == "gpt_4" else every


def paper_entries(tables: Sequence[Published] = tuple(TABLES.values())) -> Entries:
    """Published win rates with the accuracy of their reward models, and KL where it was published."""
    rows, win, kl, accuracy, places = [], [], [], [], []
    for one in tables:
        axes = {"task": one.task, "policy": _POLICY[one.task], "rm_backbone": "same_as_policy"}
        axes |= {"optimizer": one.optimizer, "judge": one.judge}
        accuracies, divergences = _lookup(f"rm_accuracy_{one.task}", "accuracy"), _divergences(one)
        for source, target, value in read(one.name).itertuples(index=False):
            place, n = (source, target), judged(one, target)
            win.append(binomial(value, n, (one.name, *place)))
            right = accuracies.get(place, math.nan)
            accuracy.append(binomial(right, sizes(one.task, "rm")[target], (f"rm_accuracy_{one.task}", *place)))
            kl.append(np.full(RESAMPLES, 0.0 if place in divergences else np.nan, dtype=np.float32))
            bound = math.log(N) - (N - 1) / N if one.optimizer == "best_of_n" else math.nan
            low, high = percentile(value + win[-1])
            row = {"source_lang": source, "target_lang": target, "win_rate": value, "win_rate_low": low}
            row |= {"win_rate_high": high, "n": sum(n), "seeds": 1, "status": "done", "reason": ""}
            row |= {"kl": divergences.get(place, math.nan), "kl_bound": bound, "accuracy": right}
            rows.append(axes | row)
            places.append(place_of(axes | {"source_lang": source, "target_lang": target}))
    errors = {"win": np.stack(win, axis=1), "kl": np.stack(kl, axis=1), "accuracy": np.stack(accuracy, axis=1)}
    prompts = tuple(
        ([place], np.array([[float(np.var(drawn))]]), float(row["n"]))
        for place, drawn, row in zip(places, win, rows, strict=True)
    )
    return Entries(pd.DataFrame(rows), AXES, errors, errors["win"], prompts, HOW)


def _lookup(name: str, column: str) -> dict[tuple[str, str], float]:
    table = read(name)
    return {(s, t): float(value) for s, t, value in table[["source_lang", "target_lang", column]].itertuples(False)}


def _divergences(published: Published) -> dict[tuple[str, str], float]:
    trained = (published.task, published.optimizer) == ("summarization", "ppo")
    return _lookup("kl_ppo_summarization", "kl") if trained else {}


def binomial(percent: float, sizes: Sequence[int], name: Sequence[str]) -> Small:
    """(draws,) errors in points of a mean over datasets of shares of `sizes` instances; NaN of NaN."""
    if math.isnan(percent):
        return np.full(RESAMPLES, np.nan, dtype=np.float32)
    digest = int.from_bytes(hashlib.sha256("/".join(name).encode()).digest()[:8], "big")
    random = np.random.Generator(np.random.PCG64([SEED, digest]))
    shares = [random.binomial(n, percent / 100, RESAMPLES) / n for n in sizes]
    return np.asarray(100 * np.mean(shares, axis=0) - percent, dtype=np.float32)
