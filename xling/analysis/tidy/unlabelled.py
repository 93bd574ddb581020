"""What a grid's files tell of targets without anybody's labels: texts as a frozen model sees them, and scores.

    unlabelled(store, "embedded").likeness["states"]["de", "tr"]   # how near the source tr is to the target de

States are rows of what features[l] (rm_backbone=frozen_lm, sentence_encoder) or embed[l] (recorded texts) have written,
at most ROWS of a language, each column standardised over all languages together.

states    minus the distance between the languages' mean states
nn_rank   of the NEIGHBOURS rows nearest to each of the target's rows (cosine, among as many rows of every other
          language), the source's share; after Ebrahimi, Wiemerslage and von der Wense 2025 (arXiv 2510.03202)
vectors   of languages: the first AXES principal components of their mean states

Behaviour is what a reward model's scores of the target's responses look like, within a prompt: its mean correlation
with each of what learns nothing; and `between`, the share of its variance that lies between prompts. `agreement` is
that with the reward models of other sources, source by source, so that one whose labels are not to be seen can be left
out. Means over seeds. Other sources are all but the target; `others`, pooled, is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.tidy.finding import Place, place_of
from xling.config.common import CEILINGS, SYSTEM, is_foreign
from xling.errors import StoreError
from xling.grid import joined
from xling.grid.records import Ref, Sheet
from xling.grid.stage import NO_SOURCE, OTHERS
from xling.grid.store import Store
from xling.results.items import read_array, read_json
from xling.results.plan import Plan, Results, planned_entries, read_plan

ROWS, NEIGHBOURS, AXES = 300, 5, 2
# learn from all languages but the target, and so at every other target from a left-out one's labels; a row of
# rm_backbone=system with a source of its own is another thing than the reference
OF_ALL_OTHERS = (OTHERS, SYSTEM)
Pairs = dict[tuple[str, str], float]  # (target, source) -> the larger the nearer


@dataclass(frozen=True)
class Unlabelled:
    """Of a grid's languages and entries; empty where there is nothing on disk."""

    likeness: Mapping[str, Pairs] = field(default_factory=dict)  # by rule: states, nn_rank, typology
    vectors: Mapping[str, Floats] = field(default_factory=dict)  # language -> (AXES,)
    behaviour: Mapping[Place, Floats] = field(default_factory=dict)  # entry -> (named,)
    named: tuple[str, ...] = ()  # what the numbers of a behaviour are
    agreement: Mapping[Place, Mapping[str, float]] = field(default_factory=dict)  # entry -> other source -> correlation
    waiting: tuple[str, ...] = ()  # labels of stages with states that have no result


NOTHING = Unlabelled()


def unlabelled(store: Store, name: str) -> Unlabelled:
    """Read a grid's files; what is gone or does not fit is as if it were not there."""
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    wanted = {Ref(stage.kind, stage.key): stage.label for stage in plan.stages if stage.kind in ("features", "embed")}
    finished = [ref for ref in wanted if results.there(ref)]
    waiting = dict.fromkeys(label for ref, label in wanted.items() if ref not in finished)
    states = _states(finished, results)
    told = replace(_behaviour(plan, results), waiting=tuple(waiting))
    if len(states) < 2:
        return told
    means = {lang: rows.mean(axis=0) for lang, rows in states.items()}
    near = {(t, s): -float(np.linalg.norm(means[t] - means[s])) for t in states for s in states if s != t}
    likeness = {"states": near, "nn_rank": _nn_rank(states)}
    return replace(told, likeness=likeness, vectors=_components(means))


# --- states ---------------------------------------------------------------------------------------------------


def _states(finished: Sequence[Ref], results: Results) -> dict[str, Floats]:
    """Language -> (rows, columns), standardised: of the kind of texts that most languages have."""
    found: dict[tuple[str, str, int], dict[str, Floats]] = {}
    for stage in finished:
        try:
            folder = results.folder(stage)
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


def _behaviour(plan: Plan, results: Results) -> Unlabelled:
    pools: dict[Ref, dict[Ref, _Scored]] = {}
    entries: dict[Place, list[tuple[Ref, Ref, str]]] = {}  # pool, score and target of each seed
    for entry in planned_entries(plan, results):
        source, backbone = entry.axes["source_lang"], entry.axes["rm_backbone"]
        learnt = backbone if source == NO_SOURCE else source
        if backbone.startswith("shuffled_") or backbone in CEILINGS or learnt in OF_ALL_OTHERS:
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
    found, agreement = dict[Place, Floats](), dict[Place, dict[str, float]]()
    for place, of in entries.items():
        found[place] = np.mean([_told(pools[pool], score, named) for pool, score, _ in of], axis=0)
        seeds = [_agreement(pools[pool], score, target) for pool, score, target in of]
        others = sorted(set[str]().union(*seeds))
        agreement[place] = {one: float(np.mean([seed[one] for seed in seeds if one in seed])) for one in others}
    return Unlabelled(behaviour=found, named=("between", *named), agreement=agreement)


def _scored(name: str, source: str, scores: Floats) -> _Scored:
    there = ~np.isnan(scores)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = np.where(there, scores, 0.0).sum(axis=1, keepdims=True) / count
    within = np.where(there, scores - mean, 0.0)
    total = float(np.nanvar(scores)) if there.any() else 0.0
    between = float(mean[there.any(axis=1)].var()) / total if total > 0 else 0.0
    length = np.linalg.norm(within, axis=1, keepdims=True)
    return _Scored(name, source, np.divide(within, length, out=np.zeros_like(within), where=length > 0), between)


def _told(pool: Mapping[Ref, _Scored], score: Ref, named: Sequence[str]) -> Floats:
    own = pool[score]
    alike = [_alike(own, (one for one in pool.values() if one.name == name)) for name in named]
    return np.array([own.between, *(0.0 if one is None else one for one in alike)])


def _agreement(pool: Mapping[Ref, _Scored], score: Ref, target: str) -> dict[str, float]:
    own = pool[score]
    abroad = [o for o in pool.values() if not o.name and o.source != own.source and is_foreign(o.source, target)]
    found = {source: _alike(own, (o for o in abroad if o.source == source)) for source in {o.source for o in abroad}}
    return {source: alike for source, alike in found.items() if alike is not None}


def _alike(own: _Scored, others: Iterable[_Scored]) -> float | None:
    """The mean correlation within a prompt, over those of the same responses; None where there are none."""
    same = [one for one in others if one.within.shape == own.within.shape]
    return float(np.mean([(own.within * one.within).sum() / len(one.within) for one in same])) if same else None
