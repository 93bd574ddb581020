"""Judges: which of two responses is better. `JUDGES` is the table of them, one module an option.

Beside the options' modules: wins by scores (below), and what asks a language model (asking.py and below). What planning
and the judge stage want of a module is the Protocol `Judge` of xling/planning/judging.py.
"""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from msgspec import Struct

from xling.config.common import Language
from xling.grid import joined
from xling.grid.stage import Context
from xling.options import Options
from xling.rewards.settings import RewardModel

Array = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.intp]] | list[list[int]]  # (prompts, j); lists: of each prompt as many as tie


class JudgeSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name"):
    """Settings that all judges share. A judge that planning has to treat differently overrides the properties."""

    rm_backbone: RewardModel | None = None  # of a judge with `takes_reward_model`, and refused of others while planning

    takes_reward_model: ClassVar[bool] = False  # judge/rm_backbone=NAME names the reward model that it decides by

    @property
    def name(self) -> str:
        """The judge's name in conf/judge."""
        return str(self.__struct_config__.tag)

    @property
    def by_row(self) -> bool:
        """Whether each row is judged by another reward model, of its own kind: what has none is then judged by all."""
        return False

    @property
    def langs(self) -> tuple[Language, ...]:
        """Languages whose data it needs besides those of the cell."""
        return ()

    @property
    def halves(self) -> bool:
        """Whether the cell's reward models learn from the first half of the feedback's documents alone."""
        return False

    @staticmethod
    def label(option: str, settings: Mapping[str, Any], rm_backbone: str, swept: Collection[str]) -> str:
        """The judge's label in tables, from its option's name with the model that it names.

        settings: as composed; rm_backbone: label of its reward model, or empty; swept: keys that are axes of the grid.
        """
        return option


JUDGES: Options[Any] = Options(
    "judge",
    {
        "gold": "xling.judges.gold",
        "target_rm": "xling.judges.target_rm",
        "human": "xling.judges.human",
        "llm": "xling.judges.llm",
    },
    hooks={
        "RESPONSES": "what it can judge: sampled responses or recorded ones",
        "KINDS": "the kinds of stages that it brings",
        "check": "what planning refuses",
        "verdicts": "the stages that it decides by",
        "fold": "what the judge stage makes of them",
        "notes": "what it has to say of a plan",
    },
    base=JudgeSettings,
)


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


def judges_its_own(stages: Mapping[str, _Keyed]) -> bool:
    """Whether a cell's judge is the very reward model whose reward was optimised: its verdict is no evidence.

    stages: those that the verdict is made from, by role, as stages, as their sheets or as a plan has them.
    """
    return "score" in stages and "verdict" in stages and stages["score"].key == stages["verdict"].key


# --- wins by scores -----------------------------------------------------------------------------------------


class Folded(NamedTuple):
    """A cell's verdicts folded into columns."""

    columns: dict[str, list[Any]]  # of items.json, an entry a prompt that was judged
    wins: Array  # (prompts, n) of all samples; (prompts, 0) where not all were judged


def by_scores(context: Context, reward: Array, answers: Places, items: Mapping[str, list[Any]]) -> Folded:
    """Columns win, quality and baseline_quality from the `verdict` parent's pool.npy (prompts, n) and baseline.npy
    (prompts, m): every judge that gives each response a score folds by this.

    A prompt's win is the mean over the responses that the cell answers with.
    """
    quality = np.load(joined.opened(context.parents["verdict"] / "pool.npy"))[:, : reward.shape[1]]
    opposed = np.load(joined.opened(context.parents["verdict"] / "baseline.npy"))
    wins = win_shares(quality, opposed)
    columns = {
        "win": mean_of(wins, answers),
        "quality": mean_of(quality, answers),
        "baseline_quality": np.nanmean(opposed, axis=1).tolist(),
    }
    return Folded({**items, **columns}, wins)


def tied(reward: Array, picks: Array) -> list[list[int]]:
    """Places of all responses of a prompt whose reward is that of its pick, (prompts, 1): systems have no order, and
    the first of them by name is no better than the others."""
    return [np.flatnonzero(row == row[pick]).tolist() for row, pick in zip(reward, picks[:, 0], strict=True)]


def mean_of(values: Array, answers: Places) -> list[float]:
    """(prompts, n) at `answers` (prompts, j), averaged over j."""
    if isinstance(answers, list):
        return [float(row[places].mean()) for row, places in zip(values, answers, strict=True)]
    return np.take_along_axis(values, answers, axis=1).mean(axis=1).tolist()  # type: ignore[no-any-return]


def win_shares(quality: Array, opponents: Array) -> Array:
    """(prompts, n), (prompts, m) -> (prompts, n): share of the m opponents beaten, ties counting half.

    NaN stands where a prompt has fewer samples than another.
    """
    difference = quality[:, :, None] - opponents[:, None, :]
    points = np.where(np.isnan(difference), np.nan, (np.sign(difference) + 1) / 2)
    present = ~np.isnan(opponents)
    shares: Array = np.nansum(points, axis=2) / present.sum(axis=1)[:, None]
    return np.where(np.isnan(quality), np.nan, shares)
