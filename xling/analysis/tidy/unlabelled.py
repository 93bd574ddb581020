"""What a grid's files tell of targets without anybody's labels: texts as a frozen model sees them, and scores.

    unlabelled(store, "embedded").likeness["states"]["de", "tr"]   # how near the source tr is to the target de

States are rows of what features[l] (rm_backbone=frozen_lm, sentence_encoder) or embed[l] (recorded texts) have written,
at most ROWS of a language, each column standardised over all languages together.

states    minus the distance between the languages' mean states
nn_rank   of the NEIGHBOURS rows nearest to each of the target's rows (cosine, among as many rows of every other
          language), the source's share; after Ebrahimi, Wiemerslage and von der Wense 2025 (arXiv 2510.03202)
vectors   of languages: the first AXES principal components of their mean states

Behaviour is what a reward model's scores of the target's responses look like, within a prompt: its mean correlation
with the reward models of other sources (`consensus`), and with each of what learns nothing; and `between`, the share of
its variance that lies between prompts. Means over seeds. Other sources are all but the target.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xling.analysis.matrix.verdicts import CEILINGS
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.tidy.finding import Place, place_of
from xling.config.common import is_foreign
from xling.errors import StoreError
from xling.grid import joined
from xling.grid.records import Ref, Sheet
from xling.grid.stage import NO_SOURCE
from xling.grid.store import Store
from xling.results.items import read_array, read_json
from xling.results.plan import Plan, Results, planned_entries, read_plan

ROWS, NEIGHBOURS, AXES = 300, 5, 2
Pairs = dict[tuple[str, str], float]  # (target, source) -> the larger the nearer


@dataclass(frozen=True)
class Unlabelled:
    """Of a grid's languages and entries; empty where there is nothing on disk."""

    likeness: Mapping[str, Pairs] = field(default_factory=dict)  # by rule: states, nn_rank, typology
    vectors: Mapping[str, Floats] = field(default_factory=dict)  # language -> (AXES,)
    behaviour: Mapping[Place, Floats] = field(default_factory=dict)  # entry -> (named,)
    named: tuple[str, ...] = ()  # what the numbers of a behaviour are


NOTHING = Unlabelled()


def unlabelled(store: Store, name: str) -> Unlabelled:
    """Read a grid's files; what is gone or does not fit is as if it were not there."""
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    states = _states(plan, results)
    behaviour, named = _behaviour(plan, results)
    if len(states) < 2:
        return Unlabelled(behaviour=behaviour, named=named)
    means = {lang: rows.mean(axis=0) for lang, rows in states.items()}
    near = {(t, s): -float(np.linalg.norm(means[t] - means[s])) for t in states for s in states if s != t}
    likeness = {"states": near, "nn_rank": _nn_rank(states)}
    return Unlabelled(likeness, _components(means), behaviour, named)


# --- states ---------------------------------------------------------------------------------------------------


def _states(plan: Plan, results: Results) -> dict[str, Floats]:
    """Language -> (rows, columns), standardised: of the kind of texts that most languages have."""
    found: dict[tuple[str, str, int], dict[str, Floats]] = {}
    for stage in plan.stages:
        if stage.kind not in ("features", "embed"):
            continue
        try:
            folder = results.folder(Ref(stage.kind, stage.key))
            lang = str(read_json(folder / "spec.json", Sheet).spec["lang"])
            for part in ("texts.npz", "recorded.npz", "samples", "feedback"):
                rows = _rows_in(folder, part)
                if rows is not None:
                    found.setdefault((stage.kind, part, rows.shape[1]), {}).setdefault(lang, rows)
        except (StoreError, KeyError):
            continue
    if not found:
        return {}
    most = max(found.values(), key=len)  # of several the first: in the plan's order
    rows = np.concatenate(list(most.values()))
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread == 0] = 1.0
    return {lang: (rows - centre) / spread for lang, rows in sorted(most.items())}


def _rows_in(folder: Path, part: str) -> Floats | None:
    """(at most ROWS, columns), evenly spaced; None where there is no such file or folder."""
    place = folder / part
    if not joined.exists(place) and not place.is_dir():
        return None
    paths = sorted(place.glob("*.npz")) if place.is_dir() else [place]
    parts = []
    for path in paths:
        try:
            with np.load(joined.opened(path), allow_pickle=False) as stored:
                blocks = [stored[name] for name in stored.files]
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} is no archive of arrays: {error}.") from error
        parts.append(np.hstack([np.asarray(block, dtype=np.float64) for block in blocks if block.ndim == 2]))
    rows = np.concatenate(parts)
    rows = rows[np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int)]
    return rows if len(rows) and np.isfinite(rows).all() else None


def _nn_rank(states: Mapping[str, Floats]) -> Pairs:
    """Shares of neighbours; every language has as many rows among which they are looked for."""
    few = min(len(rows) for rows in states.values())
    unit = {
        lang: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for lang, rows in states.items()
    }
    shares: Pairs = {}
    for target, rows in unit.items():
        others = [lang for lang in unit if lang != target]
        among = np.concatenate([unit[lang][np.linspace(0, len(unit[lang]) - 1, few).astype(int)] for lang in others])
        nearest = np.argsort(-(rows @ among.T), axis=1, kind="stable")[:, :NEIGHBOURS] // few
        shares |= {(target, lang): float((nearest == place).mean()) for place, lang in enumerate(others)}
    return shares


def _components(means: Mapping[str, Floats]) -> dict[str, Floats]:
    table = np.stack(list(means.values()))
    table = table - table.mean(axis=0)
    left, size, _ = np.linalg.svd(table, full_matrices=False)
    scores = (left * size)[:, :AXES]
    scores = scores / np.maximum(scores.std(axis=0), 1e-12)
    return dict(zip(means, scores, strict=True))


# --- behaviour --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scored:
    """One reward model's scores of a target's responses."""

    name: str  # of what learns nothing; else empty
    source: str
    within: Floats  # (prompts, responses): each prompt's centred and of length 1; 0 for what is not there
    between: float


def _behaviour(plan: Plan, results: Results) -> tuple[dict[Place, Floats], tuple[str, ...]]:
    pools: dict[Ref, dict[Ref, _Scored]] = {}
    entries: dict[Place, list[tuple[Ref, Ref, str]]] = {}  # pool, score and target of each seed
    for entry in planned_entries(plan, results):
        source, backbone = entry.axes["source_lang"], entry.axes["rm_backbone"]
        if backbone.startswith("shuffled_") or backbone in CEILINGS:
            continue
        for cell in entry.cells:
            pool, score = cell.stages.get("pool"), cell.stages.get("score")
            if cell.status != "done" or pool is None or score is None or pool.kind == "aligned":
                continue
            name = backbone if source == NO_SOURCE else ""
            if score not in pools.setdefault(pool, {}):
                try:
                    pools[pool][score] = _scored(name, source, read_array(results.folder(score) / "pool.npy"))
                except StoreError:
                    continue
            if not name:
                entries.setdefault(place_of(entry.axes), []).append((pool, score, entry.axes["target_lang"]))
    untrained = {one.name for scored in pools.values() for one in scored.values() if one.name}
    named = tuple(sorted(untrained - {"random"}))
    found: dict[Place, Floats] = {}
    for place, of in entries.items():
        seeds = [_told(pools[pool], score, target, named) for pool, score, target in of]
        found[place] = np.mean(seeds, axis=0)
    return found, ("consensus", "between", *named)


def _scored(name: str, source: str, scores: Floats) -> _Scored:
    there = ~np.isnan(scores)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = np.where(there, scores, 0.0).sum(axis=1, keepdims=True) / count
    within = np.where(there, scores - mean, 0.0)
    total = float(np.nanvar(scores)) if there.any() else 0.0
    between = float(mean[there.any(axis=1)].var()) / total if total > 0 else 0.0
    length = np.linalg.norm(within, axis=1, keepdims=True)
    return _Scored(name, source, np.divide(within, length, out=np.zeros_like(within), where=length > 0), between)


def _told(pool: Mapping[Ref, _Scored], score: Ref, target: str, named: Sequence[str]) -> Floats:
    own = pool[score]

    def with_(others: Iterator[_Scored]) -> float:
        """The mean correlation within a prompt, over those of the same responses; 0 where there are none."""
        found = [
            (own.within * one.within).sum() / len(one.within) for one in others if one.within.shape == own.within.shape
        ]
        return float(np.mean(found)) if found else 0.0

    abroad = (o for o in pool.values() if not o.name and o.source != own.source and is_foreign(o.source, target))
    of_untrained = [with_(one for one in pool.values() if one.name == name) for name in named]
    return np.array([with_(abroad), own.between, *of_untrained])
