"""Hooks of a judge's module (`JUDGES` in xling/judges), which planning and the judge stage call."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from xling.config.policies import LanguageModel
from xling.grid.plan import Plan
from xling.grid.stage import Context, Json, Kind, Stage
from xling.judges import JUDGES, Array, Folded, JudgeSettings, Places
from xling.optimizers import OPTIMIZERS, picker_in_spec, trains
from xling.planning.specs import data_of, label_of, make
from xling.results.specs import ScoreSpec
from xling.rewards.settings import RewardModel
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.records import Use

if TYPE_CHECKING:
    from xling.experiment import Experiment


class Judged(NamedTuple):
    """A cell as its judge sees it while planning."""

    experiment: "Experiment"
    judging: RewardModel  # the kind of reward model that a judge decides by which trains one: the row's own, or its own
    pools: Mapping[str, Stage]  # `pool` and `baseline`: what the cell answers from, and what it is compared with
    score: Stage  # rewards of both
    sources: tuple[str, ...]  # what labels say of the source


class Verdicts(NamedTuple):
    """The stages that a judge decides by, and settings of the judge stage. Both are in the cell's key."""

    parents: Mapping[str, Stage]  # role -> stage; the role `verdict` is what win rates are made from
    spec: Mapping[str, Json] = {}  # further settings of the judge stage


class Judge(Protocol):
    """A judge's module. `Settings` are its Struct, from JudgeSettings, tagged with the option's name."""

    RESPONSES: Literal["sampled", "recorded"]
    KINDS: tuple[Kind, ...]

    def check(self, judge: Any, experiment: "Experiment", judging: RewardModel) -> None:
        """ConfigError for what the judge cannot judge, with what to type instead."""

    def verdicts(self, judge: Any, cell: Judged) -> Verdicts:
        """The stages that it decides by."""

    def fold(self, context: Context, reward: Array, answers: Places, items: Mapping[str, list[Any]]) -> Folded:
        """Columns of items.json with its verdicts, in the judge stage: `by_scores` of xling/judges, or its own.

        reward: (prompts, n); answers: (prompts, j) places of the responses that the cell gives; items: the columns
        that need no judge.
        """

    def notes(self, plan: Plan) -> list[str]:
        """Sentences on the plan's stages and cells."""


def module_of(judge: JudgeSettings) -> Judge:
    """The module of a judge by its settings."""
    module: Judge = JUDGES.of(judge)
    return module


def notes(plan: Plan) -> list[str]:
    """Notes of a plan's judges."""
    judges = dict.fromkeys(cell.stage.spec.get("judge") for cell in plan.cells)  # None: stages of another catalogue
    return [note for name in judges if name is not None for note in JUDGES[name].notes(plan)]


def answering_spec(experiment: "Experiment", recorded: bool) -> dict[str, Any]:
    """The responses that a cell answers with, as specs of verdicts have them: all of a trained policy's, or picks.

    recorded: the responses are; prompts may then differ in how many there are.
    """
    optimizer = experiment.optimizer
    if trains(optimizer):
        return {"n": None, "trained": True}
    pool = None if recorded or not isinstance(experiment.policy, LanguageModel) else experiment.policy.n
    return {"n": OPTIMIZERS.of(optimizer).picked_from(optimizer, pool), **picker_in_spec(optimizer)}


def known_quality(cell: Judged, score: str, use: Use) -> Stage:
    """Quality that is known rather than learnt, as scores: gold[t] or human[t]."""
    lang = cell.experiment.target_lang.code
    rm = Untrained(score)  # type: ignore[arg-type]  # one of its words
    spec = ScoreSpec(**data_of(cell.experiment.task, (lang,), use), lang=lang, rm=rm, objective="")
    return make("gold", label_of(score, (lang,)), spec, cell.pools)
