"""Does a foreign reward model like what was aligned at home (paper, appendix E, Figure 10)?

RM_t picks from pool[t], the best of n. RM_s scores these picks, minus its mean on the baseline's responses to the same
prompt, in standard deviations of RM_s over all of the baseline. An increase above 0 says that RM_s, which has picked
nothing and was trained on another language, sees the improvement too. A reward model that only fitted noise of its own
training data would not be followed by the others.

Of policies that an optimizer has trained, judge=target_rm with judge.lang says the same (docs/judges.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from xling.analysis.items.scored import (
    Finished,
    Measured,
    Scored,
    by_model,
    by_panel,
    columns_in,
    drawn,
    finished_cells,
    once,
    prompts_of,
    readable,
    table_of,
    without,
)
from xling.analysis.matrix.across import over_columns
from xling.analysis.matrix.types import PERCENT
from xling.analysis.statistics.bootstrap import Floats, Ints, Sample, resample
from xling.analysis.tidy.finding import Finding, Row, columns_of, is_home, some
from xling.config.common import is_foreign
from xling.errors import StoreError
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.results.items import Summary, read_array, read_json

ITEMS = ("prompt", "group", "dataset")
NOTE = (
    "Score of RM_s on what RM_t picked (best of n), minus its mean on the baseline's responses to the same prompt, in "
    "standard deviations of RM_s over the baseline; macro-average over datasets. 95 % intervals by document, or over "
    "seeds (paper, appendix E: above 0 in most cases)."
)
SHARE_NOTE = (
    "Percent of the (source, target) pairs with an increase above 0, the same for those whose 95 % interval lies above "
    "0, and the mean increase. foreign: the source has nothing of the target's. 95 % intervals by document, or over "
    "seeds; that of a share is pulled towards 50 by pairs near 0."
)


def generalisation(store: Store, name: str) -> list[Finding]:
    """Of a grid's best-of-n cells; what could not be read is in `left_out`."""
    finished = finished_cells(store, name, lambda entry: entry.axes["optimizer"] == "best_of_n")
    if not finished.cells and not finished.holes:
        reason = "No cell of best_of_n; of trained policies judge=target_rm with judge.lang=SOURCE shows it."
        return home_picks(pd.DataFrame(), [reason])
    table, left_out = increases(finished)
    return home_picks(table, (*finished.holes, *left_out))


def increases(finished: Finished) -> tuple[pd.DataFrame, list[str]]:
    """A row a reward model and prompt: axes but the judge's, `seed`, `prompt`, `group`, `dataset`, `increase`."""
    cells = once(finished.cells, "judge")
    homes = {_column(cell): cell for cell in cells if is_home(cell.axes["source_lang"], cell.axes["target_lang"])}
    picks, left_out = readable(homes.values(), lambda cell: _picks(finished, cell))
    picked = {_column(cell): found for cell, found in picks}
    lacking = [cell.axes["target_lang"] for cell in cells if _column(cell) not in homes]
    if lacking:
        left_out.append(f"No finished reward model of the target's own for {some(lacking)}.")
    prompts: dict[Ref, dict[str, Any]] = {}
    constant: list[str] = []

    def read(cell: Scored) -> dict[str, Any] | None:
        ref = cell.stages["baseline"]
        if ref not in prompts:
            rows = prompts_of(finished.results, ref)
            prompts[ref] = {name: rows[name].to_numpy(dtype=object) for name in ITEMS}
        increase = _increase(finished, cell, picked[_column(cell)])
        if increase is None:
            constant.append(f"{cell.axes['source_lang']} on {cell.axes['target_lang']}")
            return None
        return {**prompts[ref], "increase": increase}

    table, misfits = table_of((cell for cell in cells if _column(cell) in picked), read, "judge")
    if constant:
        misfits.append(f"Scores all alike on the baseline, so that there is no unit: {some(constant)}.")
    return table, left_out + misfits


def _column(cell: Scored) -> tuple[Any, ...]:
    axes = without(cell.axes, "judge", "source_lang")
    return (*sorted(axes.items()), cell.seeds)


def _picks(finished: Finished, cell: Scored) -> Ints:
    """(prompts,) places of RM_t's best responses in the pool, as best-of-n picks them."""
    n = read_json(finished.results.folder(cell.judge) / "summary.json", Summary).n_samples
    return picks(read_array(finished.results.folder(cell.stages["score"]) / "pool.npy")[:, :n])


def picks(reward: Floats) -> Ints:
    """(prompts, n) -> (prompts,) places of the highest rewards; ties go to the lower place (stages/judge.py)."""
    return np.asarray(np.nanargmax(reward, axis=1), dtype=np.int64)


def _increase(finished: Finished, cell: Scored, place: Ints) -> Floats | None:
    folder = finished.results.folder(cell.stages["score"])
    pool, baseline = read_array(folder / "pool.npy"), read_array(folder / "baseline.npy")
    if len(pool) != len(place) or len(baseline) != len(place):
        raise StoreError("its prompts are not those of the target's own reward model")
    return standardised_increase(pool, baseline, place)


def standardised_increase(pool: Floats, baseline: Floats, place: Ints) -> Floats | None:
    """(prompts,) score of the picks minus the baseline's mean, in the baseline's deviation; None: it has none."""
    spread = float(np.nanstd(baseline))
    if not spread > 0:
        return None
    said = np.take_along_axis(pool, place[:, None], axis=1)[:, 0]
    return (said - np.nanmean(baseline, axis=1)) / spread  # type: ignore[no-any-return]


# --- the analysis -------------------------------------------------------------------------------------------


def home_picks(table: pd.DataFrame, left_out: Sequence[str] = ()) -> list[Finding]:
    """`generalisation`, a row a (source, target); `generalisation_shares`, over those from abroad and those at home.

    table: a row a reward model and prompt with `source_lang`, `target_lang`, any other axes, `seed`, `prompt`, `group`,
    `dataset`, and the `increase`.
    """
    misfits = list(left_out)

    def rows_of(part: pd.DataFrame) -> tuple[list[Row], list[Row]]:
        columns, fresh = drawn(columns_in(part, "increase", ITEMS, "prompts", misfits))
        samples = [(one, resample(clusters, one.values, one.seed, fresh=fresh)) for one, clusters in columns]
        pairs = by_model(samples, ["increase"])
        return pairs, _shares(samples, pairs)

    inner = ("target_lang", "source_lang", "seed", *ITEMS, "increase")
    rows, shares = by_panel(table, inner, rows_of)
    titles = "Reward models on picks of the target's own", "Reward models that follow the target's own"
    return [
        Finding("generalisation", titles[0], rows, NOTE, tuple(misfits)),
        Finding("generalisation_shares", titles[1], shares, SHARE_NOTE, tuple(misfits)),
    ]


def _shares(columns: Sequence[Measured], pairs: Sequence[Row]) -> list[Row]:
    rows: list[Row] = []
    for models, belongs in (("foreign", is_foreign), ("home", is_home)):
        samples = []
        for seed in dict.fromkeys(column.seed for column, _ in columns):
            of_seed = [(sample, column.members(belongs)) for column, sample in columns if column.seed == seed]
            of_seed = [(sample, members) for sample, members in of_seed if members]
            if of_seed:
                samples.append(_share(of_seed))
        own = [pair for pair in pairs if belongs(str(pair["source_lang"]), str(pair["target_lang"]))]
        if samples and own:
            share, mean = over_columns(samples)
            settled = PERCENT * float(np.mean([pair["increase_low"] > 0 for pair in own]))
            shares = {name: np.clip(value, 0, PERCENT) for name, value in columns_of("share_above_0", share).items()}
            row: Row = {"models": models, "pairs": len(own), **shares, "share_settled": settled}
            rows.append(row | columns_of("increase", mean) | {"n": share.n if share else 0})
    return rows


def _share(of_seed: Sequence[tuple[Sample, list[int]]]) -> Sample:
    """(share above 0 in percent, mean increase) over all pairs of a seed, in every resample."""
    means = np.concatenate([sample.means[members] for sample, members in of_seed])
    resamples = np.hstack([sample.resamples[:, members] for sample, members in of_seed])
    return replace(
        of_seed[0][0],
        means=np.array([PERCENT * (means > 0).mean(), means.mean()]),
        resamples=np.stack([PERCENT * (resamples > 0).mean(axis=1), resamples.mean(axis=1)], axis=1),
        prompts=sum(sample.prompts for sample, _ in of_seed),
        present=None,
    )
