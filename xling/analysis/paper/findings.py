"""The paper's other published tables: translated data, pooled sources, no SFT data in the target, accuracy,
people against language models. Draws are those of published.py.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from xling.analysis.paper.published import BILINGUAL, HOW, TABLES, TRANSLATE_TRAIN, binomial, paper_entries, read, sizes
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.draws import centred, percentile, spanning, spearman
from xling.analysis.tidy.entries import EVERY, Entries, Square
from xling.analysis.tidy.finding import Finding, Row

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
        difference = left[0] - right[0]
        drawn = left[1] - right[1]
        low, high = percentile(drawn.mean(axis=1))
        row: Row = {"target_lang": target, "cells": int(cells.sum()), "transfer": left[0].mean()}
        row |= {"translate_train": right[0].mean(), "difference": difference.mean()}
        row |= {"difference_low": low, "difference_high": high, "better": int((difference > 0).sum())}
        row["better_low"], row["better_high"] = spanning(row["better"], (drawn > 0).sum(axis=1))
        rows.append(row)
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
        low, high = centred(measured[t], gain[:, t])
        row: Row = {"target_lang": target, "de": value[single[0], t], "en": value[single[1], t]}
        row |= {"de+en": value[pooled, t], "difference": measured[t], "difference_low": low, "difference_high": high}
        rows.append(row)
    low, high = centred(float(measured.mean()), gain.mean(axis=1))
    mean: Row = {"target_lang": EVERY, "difference": measured.mean(), "difference_low": low, "difference_high": high}
    rows.append(mean | {square.sources[s]: value[s].mean() for s in range(len(square.sources))})
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
        low, high = percentile(np.mean(drawn, axis=0))
        row: Row = {"optimizer": optimizer, "direction": direction, "sft": regime, "mean": value.mean()}
        row |= {"mean_low": low, "mean_high": high, "cells": len(value), "above_50": int((value > 50).sum())}
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
            low, high = percentile(drawn[cells].mean(axis=0))
            row: Row = {"task": task, "where": where, "cells": int(cells.sum()), "accuracy": value[cells].mean()}
            row |= {"accuracy_low": low, "accuracy_high": high}
            for rule, found in rules.items():
                if found:
                    above = value[cells] > np.array([found[target] for target in trained["target_lang"][cells]])
                    row[f"above_{rule.lower()}"] = int(above.sum())
            rows.append(row)
    columns = ["task", "where", "cells", "accuracy", "accuracy_low", "accuracy_high", "above_majority", "above_length"]
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
        judges = {judge: group.where((group.table["judge"] == judge).to_numpy()) for judge in _judges_of(group)}
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


def _judges_of(group: Entries) -> Iterable[str]:
    return sorted(set(group.table["judge"]))


def _shared(one: Square, other: Square) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Values and draws of the cells that both have, in one order."""
    places = [(s, t) for s in one.sources if s in other.sources for t in one.targets if t in other.targets]
    return _cells(one, places), _cells(other, places)


def _cells(square: Square, places: Sequence[tuple[str, str]]) -> tuple[Floats, Floats]:
    rows, columns = [square.sources.index(s) for s, _ in places], [square.targets.index(t) for _, t in places]
    return square.value[rows, columns], square.draws[:, rows, columns]


def _against(human: tuple[Floats, Floats], model: tuple[Floats, Floats]) -> Row:
    low, high = percentile((model[1] - human[1]).mean(axis=1))
    row: Row = {"cells": len(human[0]), "human": human[0].mean(), "model": model[0].mean()}
    row |= {"difference": (model[0] - human[0]).mean(), "difference_low": low, "difference_high": high}
    value = float(spearman(human[0], model[0]))
    row["spearman"] = value
    row["spearman_low"], row["spearman_high"] = centred(value, spearman(human[1], model[1]), -1, 1)
    return row


def instance_agreement() -> Finding:
    """Share of single verdicts that two judges share, as published."""
    return Finding(
        "instance_agreement",
        "Single verdicts that two judges share, percent",
        read("judge_agreement"),
        "Section 5.1, as published, without intervals. People agree with each other on 63 % (en) and 67 % (es) of "
        "Seahorse's pairs.",
    )
