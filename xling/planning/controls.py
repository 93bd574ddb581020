"""The control cells of a grid: references that learn nothing, and models of permuted labels (docs/controls.md)."""

from collections.abc import Mapping, Sequence
from typing import get_args

from msgspec.structs import replace

from xling.config.common import Ensemble, Language
from xling.config.policies import LanguageModel
from xling.experiment import Experiment
from xling.grid.records import AxisValue
from xling.grid.stage import NO_SOURCE
from xling.optimizers import trains
from xling.planning.refusals import responses_recorded
from xling.rewards import encoder_of, has_source
from xling.rewards.frozen_lm import Settings as FrozenLM
from xling.rewards.likelihood import Settings as Likelihood
from xling.rewards.settings import RewardModel
from xling.rewards.system import Settings as System
from xling.rewards.untrained import Control
from xling.rewards.untrained import Settings as Untrained
from xling.tasks.options import Task, offers
from xling.tasks.records import HasFolds
from xling.tasks.render import has_cue

Asked = tuple[Experiment, RewardModel]  # with the kind of reward model that may judge it

SHUFFLES = 5  # permutations of the labels: the null band
SHUFFLES_TRAINED = 1  # the same where each trains a policy
REFERENCES_TRAINED = ("random", "gold")  # rewards that a policy is trained against as a control: neither learnt
SOURCELESS: tuple[Control, ...] = get_args(Control)


def control_experiments(asked: Sequence[Asked], permuted: bool = True) -> list[Asked]:
    """Controls and references (docs/controls.md): untrained ones once a target, permuted labels for every source."""
    variants: list[Asked] = []
    for experiment, judging in asked:
        axes = experiment.axes
        if permuted and hasattr(experiment.rm_backbone, "permutation"):
            for k in range(1, (SHUFFLES_TRAINED if trains(experiment.optimizer) else SHUFFLES) + 1):
                rm = replace(experiment.rm_backbone, permutation=k)
                place = {**axes, "rm_backbone": f"shuffled_{k}:{axes['rm_backbone']}"}
                variants.append((replace(experiment, axes=place, rm_backbone=rm), judging))
        for rm_reference, read in _references(experiment):
            place = _place(axes, rm_reference.name, read)
            alone = {"reward_data": "organic", "ensemble": Ensemble()}
            reference = replace(experiment, axes=place, rm_backbone=rm_reference, **alone)
            if trains(reference.optimizer):
                own = reference.optimizer.for_untrained_reward()
                reference = replace(reference, optimizer=own)
            variants.append((reference, judging))
    return variants + _system_identity(asked)


def _place(axes: Mapping[str, AxisValue], name: str, read: str = "") -> dict[str, AxisValue]:
    """Axes of a reference: of the reward model's settings it has `read` alone."""
    kept = {axis: value for axis, value in axes.items() if not axis.startswith("rm_backbone.") or axis == read}
    return kept | {"rm_backbone": name}


def _system_identity(asked: Sequence[Asked]) -> list[Asked]:
    """Of recorded systems, once a target: who wrote it, by that system's mean rating in all other languages asked for.

    It learns from ratings abroad and reads no response: a rival without a source of its own.
    """
    learnt = [one for one in asked if _learns_from_systems(one[0])]
    langs: dict[Task, dict[str, Language]] = {}
    for experiment, _ in learnt:
        langs.setdefault(experiment.task, {}).update((lang.code, lang) for lang in experiment.source_langs)
    found: list[Asked] = []
    for experiment, judging in learnt:
        there = langs[experiment.task]
        sources = tuple(there[code] for code in sorted(there) if code != experiment.target_lang.code)
        if sources:
            place = _place(experiment.axes, "system") | {"source_lang": NO_SOURCE}
            alone = {"rm_backbone": System(), "source_langs": sources, "ensemble": Ensemble()}
            found.append((replace(experiment, axes=place, **alone), judging))
    return found


def _learns_from_systems(experiment: Experiment) -> bool:
    """Whether its heads are cross-fitted on the recorded responses of its own task."""
    own = responses_recorded(experiment) and experiment.reward_task is None
    return own and has_source(experiment.rm_backbone) and isinstance(experiment.task, HasFolds)


def _references(experiment: Experiment) -> list[tuple[RewardModel, str]]:
    """What learns nothing, each with the axis of the reward model's settings that it has in common with the cell."""
    if experiment.sft_data != "organic":  # there the policy goes by the source, and references have none
        return []
    if responses_recorded(experiment):
        return _references_of_people(experiment)
    gold = "quality" in offers(experiment.task)
    bare = has_cue(experiment.task)
    names = REFERENCES_TRAINED if trains(experiment.optimizer) else SOURCELESS
    there = (n for n in names if (gold or n != "gold") and (bare or not n.startswith("likelihood_gain")))
    return [(Untrained(name), "") for name in there]  # type: ignore[arg-type]


def _references_of_people(experiment: Experiment) -> list[tuple[RewardModel, str]]:
    """Of recorded responses: among others what a frozen encoder or language model says that is read anyway."""
    rm, found = experiment.rm_backbone, list[tuple[RewardModel, str]]()
    found += [(Untrained(name), "") for name in ("random", "length", "shorter", "consensus", "human")]
    if has_source(rm) and (encoder := encoder_of(rm)):
        found.append((Untrained("cosine", encoder), "rm_backbone.encoder"))
    if isinstance(experiment.policy, LanguageModel):
        found.append((Untrained("likelihood_base"), ""))
    elif isinstance(rm, FrozenLM) and rm.checkpoint:
        read = ("checkpoint", "max_prompt_tokens", "max_response_tokens", "truncation_side", "pad_token")
        own = Likelihood(**{name: getattr(rm, name) for name in read})
        found.append((own, "rm_backbone.checkpoint"))
    return found
