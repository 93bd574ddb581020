"""judge=gold: the exact quality, which the embedded world computes from its facts."""

from typing import TYPE_CHECKING

from xling.errors import ConfigError
from xling.grid.plan import Plan
from xling.grid.stage import Kind
from xling.judges import JudgeSettings, by_scores
from xling.planning.judging import Judged, Verdicts, known_quality
from xling.rewards.settings import RewardModel
from xling.tasks.options import offers

if TYPE_CHECKING:
    from xling.experiment import Experiment

RESPONSES = "sampled"
KINDS: tuple[Kind, ...] = ()  # `gold` scores are a kind of planning's own: they are references too


class Settings(JudgeSettings, frozen=True, tag="gold"):
    """The exact quality; embedded world only."""


def check(judge: Settings, experiment: "Experiment", judging: RewardModel) -> None:
    """ConfigError for a task whose responses have no exact quality."""
    from xling.planning.refusals import tasks_with

    if "quality" not in offers(experiment.task):
        raise ConfigError(
            f"judge=gold needs exact quality, which only {tasks_with('quality')} has. "
            "Type judge=target_rm judge.half=true, or another judge of docs/judges.md."
        )


def verdicts(judge: Settings, cell: Judged) -> Verdicts:
    """The quality of the pool's responses and of their opponents, once a target."""
    return Verdicts({"verdict": known_quality(cell, "gold", "prompts")})


fold = by_scores


def notes(plan: Plan) -> list[str]:
    """Nothing."""
    return []
