"""Which choices go together: everything that can be refused is refused here, before anything runs."""

from xling.config import (
    Experiment,
    FrozenLM,
    MicroSummarization,
    Recorded,
    RewardModel,
    SameAsPolicy,
    SystemIdentity,
    Untrained,
    encoder_of,
    objective_of,
)
from xling.errors import ConfigError
from xling.tasks import MODULES, task_module
from xling.tasks.records import Offer


def check(experiment: Experiment, judging: RewardModel) -> None:
    """ConfigError for choices that do not go together, with those that do."""
    policy, rm, judge = experiment.policy, experiment.rm_backbone, experiment.judge.name
    n = experiment.optimizer.n
    offers = task_module(experiment.task).OFFERS
    if isinstance(policy, Recorded):
        if "recorded" not in offers:
            raise ConfigError(
                f"policy=recorded needs recorded responses, and {_task(experiment)} has none. "
                f"Use a language model (policy=micro), or one of {_tasks_with('recorded')}."
            )
        _check_recorded(rm, judge)
        return
    _check_offers(experiment, offers)
    if encoder_of(rm) or isinstance(rm, SystemIdentity) or rm == Untrained("human"):
        raise ConfigError(
            f"rm_backbone={_name(rm)} reads recorded responses (task=files policy=recorded). With a language model use "
            "rm_backbone=same_as_policy, bag_of_words, length, random or a likelihood."
        )
    if judge == "human":
        raise ConfigError(
            "judge=human needs recorded ratings (task=files policy=recorded). Use judge=gold or target_rm."
        )
    if judge == "target_rm" and isinstance(judging, Untrained):
        raise ConfigError(f"judge=target_rm judges by the target's reward model, and rm_backbone={_name(rm)} has none.")
    _check_sizes(experiment)
    if n is not None and n > policy.n:
        raise ConfigError(
            f"optimizer.n={n} is larger than the pool: policy.n={policy.n}. Raise policy.n or lower optimizer.n."
        )


def _check_offers(experiment: Experiment, offers: frozenset[Offer]) -> None:
    """What a language model needs of the task."""
    task, rm = _task(experiment), experiment.rm_backbone
    if "prompts" not in offers:
        raise ConfigError(
            f"{task} has recorded responses and goes with policy=recorded judge=human; "
            f"a language model needs prompts, as in {_tasks_with('prompts')}."
        )
    if experiment.sft.steps and "demonstrations" not in offers:
        raise ConfigError(
            f"{task} has no demonstrations to fine-tune on. Type sft.steps=0 to sample the base as it is."
        )
    needed: Offer = "pairs" if objective_of(experiment.task, rm) == "pairwise" else "ratings"
    if not isinstance(rm, Untrained) and needed not in offers:
        raise ConfigError(f"{task} has no {needed} to train rm_backbone={_name(rm)} on.{_other_feedback(offers)}")
    for setting, name in (("judge", experiment.judge.name), ("rm_backbone", _name(rm))):
        if name == "gold" and "quality" not in offers:
            raise ConfigError(
                f"{setting}=gold needs exact quality, which only {_tasks_with('quality')} has. Use judge=target_rm."
            )


def _other_feedback(offers: frozenset[Offer]) -> str:
    kinds = {"ratings": "pointwise", "pairs": "pairwise"}
    found = [f"task.feedback={kinds[name]}" for name in kinds if name in offers]
    return f" Type {found[0]}." if found else ""


def _task(experiment: Experiment) -> str:
    return f"task={experiment.task.__struct_config__.tag}"


def _tasks_with(offer: Offer) -> str:
    return ", ".join(f"task={config.__struct_config__.tag}" for config, one in MODULES.items() if offer in one.OFFERS)


def _check_sizes(experiment: Experiment) -> None:
    task, rm = experiment.task, experiment.rm_backbone
    if not isinstance(task, MicroSummarization):
        return
    budgets = [("sft", experiment.sft, "demonstrations")]
    if isinstance(rm, SameAsPolicy):
        kind = "ratings" if objective_of(task, rm) == "pointwise" else "pairs"
        budgets.append(("rm_backbone.training", rm.training, kind))
    for name, training, kind in budgets:
        if training.steps and getattr(task, kind) < training.batch_size:
            raise ConfigError(
                f"task.{kind}={getattr(task, kind)} is less than one batch: {name}.batch_size={training.batch_size}. "
                f"Raise task.{kind} or lower {name}.batch_size."
            )


def _check_recorded(rm: RewardModel, judge: str) -> None:
    if judge != "human":
        raise ConfigError(f"judge={judge} cannot judge recorded responses. Use judge=human.")
    if isinstance(rm, FrozenLM) and rm.checkpoint is None:
        raise ConfigError(
            "rm_backbone=frozen_lm reads with the policy's base, and policy=recorded has none. "
            "Name a model with rm_backbone.checkpoint=FOLDER, or packaged."
        )
    if isinstance(rm, SameAsPolicy) or (isinstance(rm, Untrained) and rm.score.startswith("likelihood")):
        raise ConfigError(
            f"rm_backbone={_name(rm)} needs a language model and policy=recorded has none. Use rm_backbone="
            "sentence_encoder, frozen_lm, bag_of_words, system, length, random, cosine or human."
        )


def _name(rm: RewardModel) -> str:
    return rm.score if isinstance(rm, Untrained) else str(rm.__struct_config__.tag)
