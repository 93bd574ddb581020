"""The paper's published tables: matrices as entries, and what the others say (translated data, pooled sources, no SFT
data in the target, accuracy, people against language models). xling/analysis/paper/csv has the numbers.

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

from xling.analysis.statistics.bootstrap import RESAMPLES, SEED, Floats
from xling.analysis.statistics.draws import Small, centred, percentile, spanning, spearman
from xling.analysis.tidy.entries import EVERY, Entries, Square
from xling.analysis.tidy.finding import Finding, Row, place_of, spread, with_ends
from xling.errors import ConfigError
from xling.optimizers import best_of_n

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
            bound = best_of_n.kl_bound(best_of_n.Settings(), N) if one.optimizer == "best_of_n" else math.nan
            row: Row = {"source_lang": source, "target_lang": target}
            row |= with_ends("win_rate", value, percentile(value + win[-1]))
            row |= {"n": sum(n), "seeds": 1, "status": "done", "reason": ""}
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


# --- findings ------------------------------------------------------------------------------------------------


_MAIN = TABLES["win_rate_summarization_palm_bon"]
_RULES = ("Majority", "Length", "length")


def translate_train() -> Finding:
    """Transfer against reward models from translated data, over the off-diagonal cells."""
    one, other = paper_entries([_MAIN]).square(), paper_entries([TRANSLATE_TRAIN]).square()
    there = ~np.isnan(other.value)
    columns = [(target, there & (np.arange(len(one.targets)) == t)) for t, target in enumerate(one.targets)]
    rows = []
    for target, cells in [*columns, (EVERY, there)]:
        left, right = _drawn(one, cells), _drawn(other, cells)
        difference, drawn = left[0] - right[0], left[1] - right[1]
        better = int((difference > 0).sum())
        row: Row = {"target_lang": target, "cells": int(cells.sum()), "transfer": left[0].mean()}
        row |= {"translate_train": right[0].mean()}
        row |= with_ends("difference", difference.mean(), percentile(drawn.mean(axis=1)))
        rows.append(row | with_ends("better", better, spanning(better, (drawn > 0).sum(axis=1))))
    return Finding(
        "translate_train",
        "Reward models of source data against reward models of its translation",
        pd.DataFrame(rows),
        "Mean win rates over the off-diagonal cells of Table 6 (transfer) and Table 17 (translate_train); difference: "
        f"transfer minus translate-train, points; better: cells in which transfer wins more. Draws: {HOW}.",
    )


def _drawn(square: Square, cells: Floats) -> tuple[Floats, Floats]:
    """((cells,), (draws, cells))"""
    return square.value[cells], square.value[cells] + square.errors[:, cells].astype(np.float64)


def best_sources(entries: Entries) -> Finding:
    """The best source of every target by each judge and algorithm, beside the target's own."""
    rows: list[Row] = []
    for axes, panel in entries.panels(""):
        square = panel.square()
        for target in square.targets:
            sources, value, draws = square.column(target)
            top, home = value.max(), sources.index(target)
            row: Row = {name: axes[name] for name in ("task", "optimizer", "judge")} | {"target_lang": target}
            row |= {"best_source": ", ".join(s for s, v in zip(sources, value, strict=True) if v == top)}
            row |= {"win_rate": top, "home_win_rate": value[home]}
            gained = draws[:, int(value.argmax())] - draws[:, home]
            rows.append(row | with_ends("difference", top - value[home], percentile(gained)))
    return Finding(
        "best_sources",
        "The best source of each target",
        pd.DataFrame(rows),
        "best_source: that of the highest published win rate of the column (several: level there); difference: it "
        "minus the target's own source, points. The best is chosen on the same data, which makes it look better than "
        f"it is. Draws: {HOW}.",
    )


def bilingual() -> Finding:
    """The reward model of two pooled sources against the better of the two."""
    square = paper_entries([BILINGUAL]).square()
    value, draws = square.value, square.draws
    pooled = square.sources.index("de+en")
    single = [s for s in range(len(square.sources)) if s != pooled]
    rows = []
    gain = draws[:, pooled] - draws[:, single].max(axis=1)  # (draws, T)
    measured = value[pooled] - value[single].max(axis=0)
    for t, target in enumerate(square.targets):
        row: Row = {"target_lang": target, "de": value[single[0], t], "en": value[single[1], t]}
        row |= {"de+en": value[pooled, t]}
        rows.append(row | with_ends("difference", measured[t], centred(measured[t], gain[:, t])))
    mean = with_ends("difference", measured.mean(), centred(float(measured.mean()), gain.mean(axis=1)))
    over_sources = {square.sources[s]: value[s].mean() for s in range(len(square.sources))}
    rows.append({"target_lang": EVERY} | mean | over_sources)
    return Finding(
        "bilingual",
        "One reward model of two pooled sources against the better single one",
        pd.DataFrame(rows),
        "Table 25, best-of-64. difference: de+en minus the better of de and en, points. The better one is chosen "
        f"on the same data, which makes it look better than it is. Draws: {HOW}.",
    )


def no_target_sft() -> Finding:
    """Win rates where the policy has no SFT data of its target language, by regime and direction."""
    table = read("no_target_sft")
    rows = []
    for (optimizer, setting), cells in table.groupby(["optimizer", "setting"], sort=False):
        regime, direction = _setting(str(setting))
        value = cells["win_rate"].to_numpy(dtype=np.float64)
        targets = ["en" if direction.endswith("en") else lang for lang in cells["other_lang"]]
        names = [(str(optimizer), str(setting), str(lang)) for lang in cells["other_lang"]]
        drawn = [value[k] + binomial(value[k], _sizes(str(optimizer), targets[k]), names[k]) for k in range(len(value))]
        row: Row = {"optimizer": optimizer, "direction": direction, "sft": regime}
        row |= with_ends("mean", value.mean(), percentile(np.mean(drawn, axis=0)))
        row |= {"cells": len(value), "above_50": int((value > 50).sum())}
        rows.append(row | {"lowest": value.min(), "highest": value.max()})
    return Finding(
        "no_target_sft",
        "Without SFT data of the target language",
        pd.DataFrame(rows),
        "Tables 22 to 24, judge PaLM-2-L: mean win rate over five languages xx with English, against the organic SFT "
        "model of the target, so that below 50 is possible. sft: organic, translated from the source, or the target's "
        "data translated to the source and back (round trip). How many instances stand behind the WikiLingua-only "
        f"numbers is not stated: WikiLingua's validation set is taken. Draws: {HOW}.",
    )


def _setting(setting: str) -> tuple[str, str]:
    """`translated SFT / Lg->En` -> (translated, xx->en); a round trip ends where it started."""
    words = setting.replace("Lg", "xx").replace("En", "en")
    if "round trip" in words:
        return "round_trip", words.replace("round trip", "").strip(" /")
    regime, _, direction = words.partition(" SFT / ")
    return regime, direction


def _sizes(optimizer: str, target: str) -> tuple[int, ...]:
    if "wikilingua" not in optimizer:
        return sizes("summarization", "sft")[target]
    table = read("data_sizes_summarization_sft")
    return (int(table[(table["lang"] == target) & (table["dataset"] == "WikiLingua")]["validation"].iloc[0]),)


def rm_accuracy() -> Finding:
    """Accuracy of the reward models at home and abroad, and how often they beat rules without a model."""
    rows = []
    for task in ("summarization", "dialog"):
        table = read(f"rm_accuracy_{task}")
        trained = table[~table["source_lang"].isin(_RULES)].reset_index(drop=True)
        home = (trained["source_lang"] == trained["target_lang"]).to_numpy()
        value = trained["accuracy"].to_numpy(dtype=np.float64)
        names = [(task, *place) for place in zip(trained["source_lang"], trained["target_lang"], strict=True)]
        drawn = np.stack(
            [value[k] + binomial(value[k], sizes(task, "rm")[name[2]], name) for k, name in enumerate(names)]
        )
        rules = {rule: _of_rule(table, rule) for rule in ("Majority", "Length")}
        for where, cells in (("home", home), ("abroad", ~home)):
            row: Row = {"task": task, "where": where, "cells": int(cells.sum())}
            row |= with_ends("accuracy", value[cells].mean(), percentile(drawn[cells].mean(axis=0)))
            for rule, found in rules.items():
                if found:
                    above = value[cells] > np.array([found[target] for target in trained["target_lang"][cells]])
                    row[f"above_{rule.lower()}"] = int(above.sum())
            rows.append(row)
    columns = ["task", "where", "cells", *spread("accuracy"), "above_majority", "above_length"]
    return Finding(
        "rm_accuracy",
        "Accuracy of the reward models at home and abroad",
        pd.DataFrame(rows, columns=columns),
        "Tables 18 and 19: mean over cells, percent; above: cells more accurate than always calling the majority label "
        "and than the length rule (dialog has pairs, so no majority; a random choice has 50). Cells as independent "
        "binomials with the validation sizes of Tables 2 and 4.",
    )


def _of_rule(table: pd.DataFrame, rule: str) -> dict[str, float]:
    rows = table[table["source_lang"].str.lower() == rule.lower()]
    return dict(zip(rows["target_lang"], rows["accuracy"], strict=True))


def people_and_models(entries: Entries) -> Finding:
    """Win rates of the same cells by people and by a language model."""
    rows = []
    for axes, group in entries.panels("judge"):
        names = sorted(set(group.table["judge"]))
        judges = {judge: group.where((group.table["judge"] == judge).to_numpy()) for judge in names}
        for judge in [name for name in judges if name != "human" and "human" in judges]:
            left, right = _shared(judges["human"].square(), judges[judge].square())
            rows.append({"task": axes["task"], "optimizer": axes["optimizer"], "judge": judge} | _against(left, right))
    return Finding(
        "people_and_models",
        "Win rates by people and by language models, over the same cells",
        pd.DataFrame(rows),
        "human, model: mean win rate over the cells that people judged (targets en and es); difference: model minus "
        "human, points. spearman: over cells, as measured with so few judgements (few cells, so read it with care). "
        f"Draws: {HOW}.",
    )


def _shared(one: Square, other: Square) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Values and draws of the cells that both have, in one order."""
    places = [(s, t) for s in one.sources if s in other.sources for t in one.targets if t in other.targets]
    return _cells(one, places), _cells(other, places)


def _cells(square: Square, places: Sequence[tuple[str, str]]) -> tuple[Floats, Floats]:
    rows, columns = [square.sources.index(s) for s, _ in places], [square.targets.index(t) for _, t in places]
    return square.value[rows, columns], square.draws[:, rows, columns]


def _against(human: tuple[Floats, Floats], model: tuple[Floats, Floats]) -> Row:
    row: Row = {"cells": len(human[0]), "human": human[0].mean(), "model": model[0].mean()}
    mean = (model[0] - human[0]).mean()
    row |= with_ends("difference", mean, percentile((model[1] - human[1]).mean(axis=1)))
    value = float(spearman(human[0], model[0]))
    return row | with_ends("spearman", value, centred(value, spearman(human[1], model[1]), -1, 1))


def instance_agreement() -> Finding:
    """Share of single verdicts that two judges share, as published."""
    return Finding(
        "instance_agreement",
        "Single verdicts that two judges share, percent",
        read("judge_agreement"),
        "Section 5.1, as published, without intervals. People agree with each other on 63 % (en) and 67 % (es) of "
        "Seahorse's pairs.",
    )
