"""judge=target_rm: the reward model that is trained on the target language's own feedback.

It scores the same two sample folders as the cell's reward model. At home, with the cell's own seed and the whole
feedback, it is the very reward model whose reward was optimised, and its verdict is no evidence: `lang`, `seed` and
`half` make another judge (docs/judges.md).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from xling.config.common import Language, Seed
from xling.errors import ConfigError
from xling.grid.plan import Plan
from xling.grid.stage import Kind, Stage
from xling.judges import JudgeSettings, by_scores
from xling.planning.judging import Judged, Verdicts
from xling.rewards import REWARDS, budget_of, has_source, objective_of
from xling.rewards.settings import RewardModel
from xling.tasks.options import Kind as Feedback
from xling.tasks.options import Task, offers, size, task_module

if TYPE_CHECKING:
    from xling.experiment import Experiment

RESPONSES = "sampled"
KINDS: tuple[Kind, ...] = ()  # it decides by a `score` stage


class Settings(JudgeSettings, frozen=True, tag="target_rm"):
    """The target's own reward model; `rm_backbone` judges all rows, None: each row's own kind judges it.

    lang: the language whose reward model judges; None: the target's own. Typed as a code, and its facts stand here.
    seed: the judge is trained with this seed; None: with the cell's own.
    half: reward models learn from one half of the feedback's documents, and the judge from the other.
    """

    lang: Language | None = None
    seed: Seed | None = None
    half: bool = False

    takes_reward_model: ClassVar[bool] = True

    @property
    def by_row(self) -> bool:
        """So it is where no `rm_backbone` is named."""
        return self.rm_backbone is None

    @property
    def langs(self) -> tuple[Language, ...]:
        """The language whose reward model judges, if it is not the target's own."""
        return () if self.lang is None else (self.lang,)

    @property
    def halves(self) -> bool:
        """`half`: the other half is the judge's."""
        return self.half

    @staticmethod
    def label(option: str, settings: Mapping[str, Any], rm_backbone: str, swept: Collection[str]) -> str:
        """target_rm, and in brackets what makes it another judge than the target's own of the row's kind."""
        words = [rm_backbone] if rm_backbone else []
        for name in ("lang", "seed"):
            if settings.get(name) is not None and f"judge.{name}" not in swept:
                words.append(f"{name}={settings[name]}")
        words += ["half"] if settings.get("half") and "judge.half" not in swept else []
        return f"target_rm({', '.join(words)})" if words else "target_rm"


def check(judge: Settings, experiment: "Experiment", judging: RewardModel) -> None:
    """ConfigError unless the judge can be trained on the target's own feedback, as a row's reward model would be."""
    from xling.planning.refusals import check_feedback, check_reward_model

    if not has_source(judging) or REWARDS.of(judging).load is None:
        own = "rm_backbone" if judge.rm_backbone is None else "judge/rm_backbone"
        raise ConfigError(
            f"judge=target_rm judges by the target's reward model, and {own}={judging.name} has none: it is not "
            "trained. Name one that judges all rows, references and published models too: judge/rm_backbone="
            "bag_of_words, sentence_encoder, xlm_roberta or same_as_policy."
        )
    known = task_module(experiment.task).languages(experiment.task)
    if judge.lang is not None and judge.lang.code not in known:
        raise ConfigError(
            f"judge.lang={judge.lang.code}: the task has no '{judge.lang.code}'. It has {', '.join(known)}. "
            "Type judge.lang=null for the target's own."
        )
    if judge.seed is not None and budget_of(judging) is None:
        raise ConfigError(
            f"judge.seed={judge.seed} would make the same judge again: rm_backbone={judging.name} is a linear "
            "head, which no seed decides. Type judge.half=true, and it is trained on other documents."
        )
    if judge.rm_backbone is not None:
        with _named_as_typed(judge):
            check_feedback("task", experiment.task, judging)
            check_reward_model(experiment, judging)


def _check_taught(lang: str, task: Task, judging: RewardModel) -> None:
    """ConfigError where there is no feedback at all in the judge's language."""
    what: Feedback = "pairs" if objective_of(task, judging) == "pairwise" else "ratings"
    if what not in offers(task) or size(task, lang, what, "train") != 0:
        return
    raise ConfigError(
        f"judge=target_rm judges by a reward model of {lang}'s own feedback, and {lang} has no {what} to train on. "
        f"Type judge.lang=LANG for the reward model of a language that has some, judge=llm, or leave {lang} out."
    )


def verdicts(judge: Settings, cell: Judged) -> Verdicts:
    """Scores of the pool and of its opponents by the judging reward model."""
    from xling.planning.dag import score

    lang = judge.lang or cell.experiment.target_lang
    _check_taught(lang.code, cell.experiment.feedback_task, cell.judging)
    home = msgspec.structs.replace(
        cell.experiment,
        source_langs=(lang,),
        rm_backbone=cell.judging,
        reward_data="organic",
        seed=cell.experiment.seed if judge.seed is None else judge.seed,
    )
    with _named_as_typed(judge):
        return Verdicts({"verdict": score(home, cell.pools, judges=True)})


fold = by_scores


def notes(plan: Plan) -> list[str]:
    """A sentence on rows that have learnt from what the judge has: a language's feedback abroad, or its kind of model.

    That a judge is the very reward model whose reward is optimised is said of every judge (xling/launching.py).
    """
    langs, kinds, others = dict[str, None](), dict[str, None](), dict[str, None]()
    for cell in plan.cells:
        scored, verdict = (cell.stage.parents.get(role) for role in ("score", "verdict"))
        row, judge = (stage.parents.get("reward") if stage else None for stage in (scored, verdict))
        if scored is None or verdict is None or verdict.kind != "score" or row is None or judge is None:
            continue
        shared = set(judge.spec["langs"]) & {lang for one in _taught(scored) for lang in one}
        langs |= dict.fromkeys(sorted(shared - {cell.axes["target_lang"]}))
        if not row.spec["rm"].get("permutation"):
            (kinds if row.spec["rm"] == judge.spec["rm"] else others)[str(cell.axes["rm_backbone"])] = None
    said = []
    if langs:
        said.append(
            f"judge.lang={','.join(langs)}: the judge has learnt from the same people's preferences as reward models "
            f"of {', '.join(langs)}, alone or pooled, whose rows it favours. The matrix says so; to compare sources on "
            "equal terms type another judge.lang, or leave these out."
        )
    if kinds and others:
        said.append(
            f"The judge is a reward model of the kind of the rows {', '.join(kinds)}, which it may favour beside "
            f"{', '.join(others)}: judge/rm_backbone= another kind judges all on equal terms."
        )
    return said


def _taught(score: Stage) -> list[list[str]]:
    """Languages that each reward model of a row's scores learnt from: of an ensemble all members'."""
    members = [parent for role, parent in score.parents.items() if role.startswith("member_")] or [score]
    return [one.parents["reward"].spec["langs"] for one in members if "reward" in one.parents]


@contextmanager
def _named_as_typed(judge: Settings) -> Iterator[None]:
    """Errors of the reward model that judges all rows name its settings: judge.rm_backbone.checkpoint=..."""
    try:
        yield
    except ConfigError as error:
        if judge.rm_backbone is None:
            raise
        by_name = re.sub(r"\brm_backbone=", "judge/rm_backbone=", str(error))
        raise ConfigError(re.sub(r"\brm_backbone\.", "judge.rm_backbone.", by_name)) from error
