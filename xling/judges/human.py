"""judge=human: what people rated, of recorded responses."""

from typing import TYPE_CHECKING

from xling.grid.plan import Plan
from xling.grid.stage import Kind
from xling.judges import JudgeSettings, by_scores
from xling.planning.judging import Judged, Verdicts, known_quality
from xling.rewards.settings import RewardModel

if TYPE_CHECKING:
    from xling.experiment import Experiment

RESPONSES = "recorded"
KINDS: tuple[Kind, ...] = ()


class Settings(JudgeSettings, frozen=True, tag="human"):
    """The recorded human ratings."""


def check(judge: Settings, experiment: "Experiment", judging: RewardModel) -> None:
    """Nothing: whatever has recorded responses has their ratings."""


def verdicts(judge: Settings, cell: Judged) -> Verdicts:
    """The ratings of all recorded responses, once a target."""
    return Verdicts({"verdict": known_quality(cell, "human", "recorded")})


fold = by_scores


def notes(plan: Plan) -> list[str]:
    """Nothing."""
    return []
