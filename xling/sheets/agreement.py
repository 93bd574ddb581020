"""How far annotators agree beyond chance, with bootstrap intervals over prompts.

Verdicts are nominal: 1 (the aligned policy's response is better), 0.5 (a tie), 0. Intervals come from
xling/analysis/statistics/intervals.py, clusters drawn together.
"""

import numpy as np

from xling.analysis.statistics.bootstrap import ONE, SHARE, Clusters, Floats, Sample, cluster_sums, resample
from xling.analysis.statistics.intervals import Estimate, fold

VERDICTS = (0.0, 0.5, 1.0)


def verdict(points: Floats) -> Floats:
    """(N,) points 0..1 -> (N,) verdicts: the side of 0.5 that they are on."""
    return np.asarray((np.sign(points - 0.5) + 1) / 2)


def counts_of(table: Floats) -> Floats:
    """(N, annotators) verdicts, NaN where one did not judge -> (N, 3) how many said each."""
    return np.stack([(table == value).sum(axis=1) for value in VERDICTS], axis=1).astype(np.float64)


def raw_agreement(counts: Floats) -> Floats:
    """(N, 3) -> (N,) share of an item's pairs of annotators that said the same; at least two a row."""
    m = counts.sum(axis=1)
    return np.asarray((counts * (counts - 1)).sum(axis=1) / (m * (m - 1)))


def share_estimate(clusters: Clusters, values: Floats) -> Estimate | None:
    """The mean of (N,) values in 0..1, in percent."""
    [estimate] = fold([resample(clusters, values[:, None] * 100.0, span=SHARE)])
    return estimate


def coincidences(counts: Floats) -> Floats:
    """(N, 3) -> (N, 9) an item's part of the coincidence matrix, row by row.

    o_ck = n_uc n_uk / (m_u - 1) for c != k and n_uc (n_uc - 1) / (m_u - 1) for c = k (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability", section C); items with fewer than two verdicts have none.
    """
    m = counts.sum(axis=1)
    products = counts[:, :, None] * counts[:, None, :]
    products[:, range(3), range(3)] -= counts
    parts = products / np.maximum(m - 1, 1)[:, None, None]
    return np.asarray(np.where((m >= 2)[:, None, None], parts, 0.0).reshape(len(counts), 9))


def alpha(matrices: Floats) -> Floats:
    """(R, 9) coincidence matrices -> (R,) nominal alpha = 1 - (n - 1) D_o / D_e; NaN where all verdicts are one.

    With n_c the row sums and n their sum: D_o = sum of o_ck over c != k, D_e = sum of n_c n_k over c != k.
    """
    square = matrices.reshape(-1, 3, 3)
    totals = square.sum(axis=2)
    n = totals.sum(axis=1)
    observed = n - np.trace(square, axis1=1, axis2=2)
    expected = n**2 - (totals**2).sum(axis=1)
    known = expected > 1e-9
    return np.where(known, 1 - (n - 1) * observed / np.where(known, expected, 1.0), np.nan)


def alpha_estimate(clusters: Clusters, counts: Floats) -> Estimate | None:
    """Alpha of (N, 3) counts with its bootstrap; None where it is not defined."""
    parts = coincidences(counts)
    point = alpha(parts.sum(axis=0)[None])
    resamples = alpha(clusters.weights.astype(np.float64) @ cluster_sums(clusters, parts))
    kept = np.where(np.isnan(resamples), point, resamples)  # a resample in which all verdicts are one
    [estimate] = fold([Sample(point, kept[:, None], len(counts), clusters.groups, span=ONE[:, None])])
    return estimate
