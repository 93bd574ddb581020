"""Which system wrote it: its mean rating in the source language. A control for recorded responses alone."""

from collections.abc import Sequence

import numpy as np

from xling.errors import StageError
from xling.grid.stage import Context
from xling.models.ridge import Array, Linear
from xling.rewards import Feedback, Fold, Heads, RewardSettings
from xling.rewards.heads import named
from xling.tasks.records import Recorded

DIGITS = 12  # of a mean, so that systems with the same ratings tie, in whatever order they are summed up


class Settings(RewardSettings, frozen=True, tag="system"):
    """There is nothing to set."""


def fit(context: Context, rm: Settings, feedback: Feedback) -> None:
    """Feedback with splits says of no response which system wrote it."""
    raise StageError("rm_backbone=system learns from recorded responses alone.")


check = budget = start = reader = scoring = starts_value = None
load = None  # heads alone: planning refuses it where there are no recorded responses to learn from


def _written_by(recorded: Recorded, systems: Sequence[str]) -> list[Array]:
    """(rows, systems): 1 where the system wrote the response."""
    wrote = named([system for _, system, _, _ in recorded.flat()])
    return [(wrote[:, None] == named(systems)).astype(np.float64)]


def _means(rm: Settings, fold: Fold) -> tuple[Linear, str]:
    """Mean label of each system; 0, the mean of all, for a system that the fold lacks."""
    [wrote] = fold.rows
    means = (fold.labels @ wrote) / np.maximum(wrote.sum(axis=0), 1.0)
    return Linear(means.round(DIGITS), 0.0, 0.0, float("nan")), ""


heads = Heads(_means, _written_by)
