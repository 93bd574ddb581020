"""What can be used for a target that has no labels: reward models of other languages, or none of them.

Candidates are the entries of a group: one task, policy, optimizer, judge and so on, all reward models and all settings
of the optimizer. A source that holds the target's language is none: its feedback is what the target lacks. What learns
nothing (length, a likelihood, a random pick) are candidates of their own, "none of the sources". Where a grid has no
such row, the target's responses as they are stand for it, which win 50 % by construction. What learns from all
languages but the target (source `others`, reference `system`) is none: at the other targets it has seen this one's
labels.

`learned` is after Chen and Ritter 2021 (arXiv 2010.06127), who score a fine-tuned model for a target by its states on
the target's unlabelled text, bilinear with a vector of the language, by a pairwise ranking loss over other targets.
Here a reward model's states are its behaviour (tidy/unlabelled.py) and what is its own; the loss is the squared one
over all pairs of a target, so that it is solved in closed form: least squares within targets with a ridge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling.analysis.matrix.names import named
from xling.analysis.statistics.bootstrap import Floats, Ints
from xling.analysis.tidy.entries import Entries
from xling.analysis.tidy.finding import place_of, some
from xling.analysis.tidy.unlabelled import Unlabelled
from xling.config.common import SYSTEM, is_foreign
from xling.grid.stage import NO_SOURCE, OTHERS

FEWEST = 3  # targets from which nothing is learnt: another one is left out, and one more to try a rule on
OVER = ("rm_backbone", "optimizer.")  # axes that a choice is over
AS_IS = "as it is"  # what learns nothing where a grid has no such row
_MOST_CELLS = 1_000  # that `learned` is fitted to
_RIDGE = 1.0, 4.0  # in cells: of what is a candidate's own, and of its behaviour

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Offer:
    """The candidates of a group: K of them by T targets; the last target may be a new one, without any value."""

    names: list[str]
    sources: list[str]  # `-`: it learns nothing
    targets: list[str]
    value: Floats  # (K, T) win rates; NaN: hole
    errors: Floats  # (draws, K, T), with tails of t; 0 where there are none
    normal: Floats  # (draws, K, T), without
    home: Floats  # (K,) how good it is at the source alone: accuracy, or the win rate; NaN: not known
    home_errors: Floats  # (draws, K)
    unsure: bool  # some cell has no interval
    likeness: dict[str, Floats]  # rule -> (T, K)
    behaviour: Floats  # (K, T, P); NaN: none
    agreement: dict[str, Floats]  # source -> (K, T) how its reward models and a candidate agree; NaN: not known
    vectors: Floats  # (T, Q)
    missing: tuple[str, ...] = ()

    @cached_property
    def trained(self) -> Bools:
        return np.array([source != NO_SOURCE for source in self.sources])

    @cached_property
    def foreign(self) -> Bools:
        """(K, T) it may be picked: neither home nor pooled with it."""
        return np.array([[is_foreign(source, target) for target in self.targets] for source in self.sources])

    @cached_property
    def there(self) -> Bools:
        return np.asarray(~np.isnan(self.value))

    @cached_property
    def known(self) -> Bools:
        """(T,) targets with a source abroad and something untrained: what a rule can be tried on."""
        trained = self.trained[:, None]
        return np.asarray((self.seen & trained).any(axis=0) & (self.seen & ~trained).any(axis=0))

    @cached_property
    def seen(self) -> Bools:
        """(K, T) cells that rules may learn from: abroad and not holes."""
        return np.asarray(self.there & self.foreign)

    def able(self, t: int, unseen: Sequence[int] = ()) -> Ints:
        """Candidates for a target; of those that hold a language whose labels are not to be seen there are none."""
        kept = np.asarray(self.foreign[:, [t, *unseen]].all(axis=1))
        return np.flatnonzero(kept & (self.there[:, t] | ~self.there[:, t].any()))

    def abroad(self, t: int) -> Ints:
        """Those that have learnt something."""
        able = self.able(t)
        return able[self.trained[able]]

    def learned(self, unseen: Sequence[int]) -> tuple[Floats, Ints, Ints] | None:
        """(K x T, cells), rows and columns of the cells: what the learned scores are of these cells' win rates."""
        key = tuple(sorted(unseen))
        if key not in self._maps:
            self._maps[key] = self._learned(key)
        return self._maps[key]

    @cached_property
    def _maps(self) -> dict[tuple[int, ...], tuple[Floats, Ints, Ints] | None]:
        return {}

    def _features(self, unseen: Sequence[int], kept: Bools) -> Floats:
        """(K, T, D) identity, behaviour and its products with the languages' vectors; 0 where there is none.

        Of behaviour the mean agreement with reward models that hold no unseen language is the first; it is
        standardised over the candidates that hold none, `kept`.
        """
        langs, known = [self.targets[t] for t in unseen], self.behaviour
        heard = [of for source, of in self.agreement.items() if all(is_foreign(source, lang) for lang in langs)]
        if heard:
            there = (~np.isnan(heard)).sum(axis=0)
            mean = np.nansum(heard, axis=0) / np.maximum(there, 1)
            known = np.concatenate([np.where(np.isnan(known[..., :1]), np.nan, mean[..., None]), known], axis=2)
        count, width, parts = known.shape
        told = known - np.nanmean(known[kept].reshape(-1, parts), axis=0)
        deviation = np.nanstd(told[kept].reshape(-1, parts), axis=0)
        told = np.nan_to_num(told / np.where(deviation > 0, deviation, 1.0))
        products = (told[..., None] * self.vectors[None, :, None, :]).reshape(count, width, -1)
        own = np.broadcast_to(np.eye(count)[:, None, :], (count, width, count)) / math.sqrt(_RIDGE[0])
        return np.concatenate([own, np.concatenate([told, products], axis=2) / math.sqrt(_RIDGE[1])], axis=2)

    def _learned(self, unseen: tuple[int, ...]) -> tuple[Floats, Ints, Ints] | None:
        kept = np.asarray(self.foreign[:, list(unseen)].all(axis=1))
        told = np.asarray(self.seen & kept[:, None])
        told[:, list(unseen)] = False
        rows, columns = np.nonzero(told)
        few = len(set(columns.tolist())) < FEWEST or np.isnan(self.behaviour[kept]).all()
        if few or len(rows) > _MOST_CELLS:
            return None
        features = self._features(unseen, kept)
        design = features[rows, columns]
        for t in set(columns.tolist()):
            design[columns == t] -= design[columns == t].mean(axis=0)
        inverse = np.linalg.inv(design.T @ design + np.eye(design.shape[1]))
        return features.reshape(-1, design.shape[1]) @ (inverse @ design.T), rows, columns


def offer_of(panel: Entries, new: str = "") -> Offer | str:
    """The candidates of a group: its entries, and what learns nothing beside it; or why there is no choice."""
    panel, rivals, out = _honest(panel)
    table, errors, normal = panel.table, panel.errors["win"], panel.normal
    if rivals is not None:
        size = min(len(errors), len(rivals.normal))
        table = pd.concat([table, rivals.table], ignore_index=True)
        errors, normal = (
            np.hstack([one[:size], other[:size]])
            for one, other in ((errors, rivals.errors["win"]), (normal, rivals.normal))
        )
    targets = sorted(set(table["target_lang"]))
    told = _named(panel, table)
    names = list(dict.fromkeys(told))
    rows, columns = np.array([names.index(one) for one in told]), table["target_lang"].map(targets.index).to_numpy()
    sources = [str(table["source_lang"].iloc[told.index(name)]) for name in names]
    if len(targets) < 2 or len({source for source in sources if source != NO_SOURCE}) < 2:
        return "one source or one target only: there is nothing to choose by."
    if rivals is None:
        names, sources = [*names, AS_IS], [*sources, NO_SOURCE]
    targets += [new] if new and new not in targets else []
    shape = len(names), len(targets)
    value = np.full(shape, np.nan)
    drawn = np.zeros((2, len(errors), *shape))
    value[rows, columns] = table["win_rate"].to_numpy(dtype=float)
    drawn[0][:, rows, columns], drawn[1][:, rows, columns] = errors, normal
    if rivals is None:
        value[-1, : len(targets) - (targets[-1] == new)] = 50.0
    unsure = bool(np.isnan(drawn[0][:, ~np.isnan(value)]).any())
    home, home_errors = _at_home(panel, names, told, value, drawn[0], sources, targets)
    missing = list[str]()
    if rivals is None:
        missing.append(f"nothing untrained is beside it: the responses as they are ('{AS_IS}', 50 %) stand for that.")
    if out:
        missing.append(
            f"{' and '.join(out)} {'is no candidate' if len(out) == 1 else 'are no candidates'}: what learns from all "
            "languages but the target has learnt, at the other targets, from the labels of the one that is left out. "
            "The matrix shows how it does."
        )
    if waiting := panel.unlabelled.waiting:
        missing.append(
            f"{some(waiting)} {'has' if len(waiting) == 1 else 'have'} not run, so that `states` and `nn_rank` know "
            "less. Type the grid's command again; `xling status` says what is left of it."
        )
    offer = Offer(
        names, sources, targets, value, np.nan_to_num(drawn[0]), np.nan_to_num(drawn[1]), home, home_errors, unsure,
        *_without_labels(panel, told, names, sources, targets), tuple(missing),
    )  # fmt: skip
    if not any(len(offer.abroad(t)) for t in range(len(targets))):
        return "no target has a source that is foreign to it."
    return offer


def _honest(panel: Entries) -> tuple[Entries, Entries | None, list[str]]:
    """The entries and what learns nothing, but for what learns from all languages but the target; its names."""
    own, rivals = (panel.table["source_lang"] != OTHERS).to_numpy(), _beside(panel)
    out = [] if own.all() else [OTHERS]
    if rivals is not None and not (apart := (rivals.table["rm_backbone"] != SYSTEM).to_numpy()).all():
        rivals, out = rivals.where(apart) if apart.any() else None, [*out, SYSTEM]
    return panel.where(own), rivals, out


def _beside(panel: Entries) -> Entries | None:
    """What learns nothing, of the panel's own task, policy, optimizer, judge and so on."""
    if panel.untrained is None or panel.table.empty:
        return None
    shared = [axis for axis in panel.axes if axis.split(".")[0] != "rm_backbone" and not axis.startswith("optimizer.")]
    own = panel.table[shared].iloc[0]
    beside = panel.untrained.table
    same = ((beside[shared] == own).all(axis=1) & beside["win_rate"].notna()).to_numpy()
    return panel.untrained.where(same) if same.any() else None


def _named(panel: Entries, table: pd.DataFrame) -> list[str]:
    """Of each row what it is, apart from its target: the source, and reward model and settings where they differ."""
    axes = [axis for axis in panel.axes if axis.split(".")[0] == "rm_backbone"]
    settings = [axis for axis in panel.axes if axis.startswith("optimizer.")]
    varying = [axis for axis in axes if panel.table[axis].nunique() > 1]
    several = [axis for axis in settings if panel.table[axis].nunique() > 1]
    akin = table["akin"] if "akin" in table else pd.Series("", table.index)
    abroad = [is_foreign(*pair) for pair in zip(table["source_lang"], table["target_lang"], strict=True)]
    judged = set(table["source_lang"][(akin != "") & np.array(abroad)])  # the judge has learnt from them, too
    found = []
    for row in table[["source_lang", *axes, *settings]].to_dict("records"):
        words = [f"{axis.partition('.')[2]}={row[axis]}" for axis in several if row[axis]]
        if row["source_lang"] == NO_SOURCE:
            told = [named({axis: str(row[axis]) for axis in axes}, "rm_backbone"), *words]
        else:
            own = [f"{axis.partition('.')[2]}={row[axis]}".lstrip("=") for axis in varying]
            told = [f"{row['source_lang']}{' (as the judge)' * (row['source_lang'] in judged)}", *own, *words]
        found.append(", ".join(word for word in told if not word.endswith("=")))
    return found


def _at_home(
    panel: Entries, names: Sequence[str], told: Sequence[str], value: Floats, errors: Floats, sources: Sequence[str],
    targets: Sequence[str],
) -> tuple[Floats, Floats]:  # fmt: skip
    """Accuracy on the source's own held-out feedback; win rates there, if some candidate has no accuracy."""
    home, drawn = np.full(len(names), np.nan), np.zeros((len(errors), len(names)))
    single = [k for k, source in enumerate(sources) if source in targets]
    table = panel.table
    at = np.flatnonzero((table["source_lang"] == table["target_lang"]).to_numpy())
    for row in at.tolist():
        k = names.index(told[row])
        home[k], drawn[:, k] = table["accuracy"].iloc[row], np.nan_to_num(panel.errors["accuracy"][: len(drawn), row])
    if np.isnan(home[single]).any():
        for k in single:
            t = list(targets).index(sources[k])
            home[k], drawn[:, k] = value[k, t], np.nan_to_num(errors[:, k, t])
    return home, drawn


def _without_labels(
    panel: Entries, told: Sequence[str], names: Sequence[str], sources: Sequence[str], targets: Sequence[str]
) -> tuple[dict[str, Floats], Floats, dict[str, Floats], Floats]:
    """likeness, behaviour, agreement and vectors of the candidates and targets."""
    known: Unlabelled = panel.unlabelled
    likeness = {
        rule: np.array([[pairs.get((target, source), np.nan) for source in sources] for target in targets])
        for rule, pairs in known.likeness.items()
    }
    behaviour = np.full((len(names), len(targets), len(known.named)), np.nan)
    agreement = dict[str, Floats]()
    axes = [*panel.axes, "source_lang", "target_lang"]
    for name, row in zip(told, panel.table[axes].to_dict("records"), strict=False):
        entry, at = place_of({str(axis): str(text) for axis, text in row.items()}), targets.index(row["target_lang"])
        if (own := known.behaviour.get(entry)) is not None:
            behaviour[names.index(name), at] = own
        for source, alike in known.agreement.get(entry, {}).items():
            of = agreement.setdefault(source, np.full(behaviour.shape[:2], np.nan))
            of[names.index(name), at] = alike
    width = len(next(iter(known.vectors.values()), np.zeros(0)))
    vectors = np.array([known.vectors.get(target, np.zeros(width)) for target in targets]).reshape(len(targets), width)
    return likeness, behaviour, agreement, vectors
