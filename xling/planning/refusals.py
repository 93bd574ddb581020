"""Which choices go together: everything that can be refused is refused here, before anything runs."""

from functools import lru_cache

from xling.config.common import Ensemble, Training, pooled
from xling.config.policies import LanguageModel, Recorded, check_following
from xling.errors import ConfigError, expanded
from xling.experiment import Experiment
from xling.measures.language import labels
from xling.models.checkpoints import check_lengths, check_policy
from xling.models.ridge import half_of
from xling.optimizers import OPTIMIZERS, PolicyTraining, is_encoder_decoder, trains
from xling.options import name_of
from xling.planning import check_kinds
from xling.planning.judging import module_of
from xling.planning.translations import check_translation
from xling.rewards import REWARDS, Choices, has_source, objective_of
from xling.rewards.settings import RewardModel
from xling.tasks.options import Task, offers, task_module, tasks_offering
from xling.tasks.reading import NEEDED
from xling.tasks.records import Half, HasFolds, Offer, Split

OF_RECORDED = (
    "Use rm_backbone=sentence_encoder, bag_of_words, system, length, random, cosine or human; or, with "
    "rm_backbone.checkpoint=FOLDER, frozen_lm or likelihood."
)


def check(experiment: Experiment, judging: RewardModel) -> None:
    """ConfigError for choices that do not go together, with those that do."""
    policy, rm, judge = experiment.policy, experiment.rm_backbone, experiment.judge
    check_kinds(judge.name)
    if judge.rm_backbone is not None and not judge.takes_reward_model:
        raise ConfigError(
            f"judge/rm_backbone={judge.rm_backbone.name} is the reward model that judge=target_rm "
            f"decides by, and judge={judge.name} decides by none. Type judge=target_rm, or leave judge/rm_backbone out."
        )
    if experiment.lid.model is not None:
        labels(str(expanded(experiment.lid.model)))
    check_translation(experiment, responses_recorded(experiment))
    if responses_recorded(experiment):
        if "recorded" not in task_module(experiment.task).OFFERS:
            raise ConfigError(
                f"policy=recorded needs recorded responses, and {_task(experiment.task)} has none. "
                f"Use a language model (policy=micro), or one of {tasks_with('recorded')}."
            )
        if trains(experiment.optimizer):
            raise ConfigError(
                f"optimizer={name_of(experiment.optimizer)} trains a policy, and there is none here: the "
                "responses are recorded. Use optimizer=best_of_n, or a task with prompts and a language model."
            )
        _check_recorded(experiment, rm, judging)
        return
    if experiment.reward_task is not None:
        raise ConfigError(
            "reward_task goes with recorded responses: a reward model of another task scores them. Leave it out, or "
            f"type policy=recorded judge=human, or one of {tasks_with('recorded')}."
        )
    assert isinstance(policy, LanguageModel)
    _check_policy(policy, experiment.sft)
    check_policy(policy)
    _check_offers(experiment, offers(experiment.task))
    if REWARDS.of(rm).load is None:
        raise ConfigError(
            f"rm_backbone={rm.name} reads recorded responses (policy=recorded). With a language model use "
            "rm_backbone=same_as_policy, xlm_roberta, sentence_encoder, bag_of_words, length, random or a likelihood."
        )
    if module_of(judge).RESPONSES != "sampled":
        gold = "gold or " if "quality" in offers(experiment.task) else ""
        raise ConfigError(
            f"judge={judge.name} needs recorded ratings (task=files policy=recorded). Use judge={gold}target_rm."
        )
    module_of(judge).check(judge, experiment, judging)
    check_lengths(policy, (policy.max_prompt_tokens, policy.max_new_tokens), "policy")
    check_reward_model(experiment, rm)
    OPTIMIZERS.of(experiment.optimizer).check(experiment.optimizer, policy, rm)
    if trains(experiment.optimizer):
        _check_trained(experiment, experiment.optimizer, policy, rm)


def _check_trained(experiment: Experiment, how: PolicyTraining, policy: LanguageModel, rm: RewardModel) -> None:
    """What an optimizer that trains the policy on rewards of single responses cannot do."""
    if rm.compares:
        raise ConfigError(
            f"rm_backbone={rm.name} compares a response with the other samples of its prompt, and "
            f"optimizer={name_of(how)} learns from rewards of single ones. Type optimizer=best_of_n."
        )
    if experiment.ensemble != Ensemble():
        raise ConfigError(
            f"ensemble combines rewards of the samples of a pool, and optimizer={name_of(how)} learns "
            "from rewards of single ones. Type optimizer=best_of_n."
        )
    _check_following("optimizer", how.optimizer, policy)
    if "demonstrations" not in offers(experiment.task):
        raise ConfigError(
            f"optimizer={name_of(how)} learns on the prompts of training demonstrations, and "
            f"{_task(experiment.task)} has none. Use optimizer=best_of_n, which trains nothing."
        )


def responses_recorded(experiment: Experiment) -> bool:
    """No policy is sampled: policy=recorded, or a task that has nothing but recorded responses."""
    return isinstance(experiment.policy, Recorded) or "prompts" not in task_module(experiment.task).OFFERS


def cross_fitted(experiment: Experiment) -> bool:
    """Heads are trained on folds of recorded responses: there is nothing else, or no splits."""
    if not responses_recorded(experiment) or experiment.reward_task is None:
        return responses_recorded(experiment)
    return not {"ratings", "pairs"} & task_module(experiment.reward_task).OFFERS


def _check_policy(policy: LanguageModel, sft: Training) -> None:
    """Refuses policy settings that do not fit each other."""
    if policy.remote_code is not None and policy.remote_code != policy.checkpoint:
        raise ConfigError(
            f"policy.remote_code={policy.remote_code} must name the repository of policy.checkpoint="
            f"{policy.checkpoint}: its code runs with your rights. Type policy.remote_code=null to run none."
        )
    if policy.attention == "flash_attention_2" and policy.dtype == "float32":
        raise ConfigError("policy.attention=flash_attention_2 has no float32. Type policy.dtype=bfloat16.")
    if policy.parallel == "fsdp" and (policy.tuning == "qlora" or policy.dtype == "float16"):
        wrong = "policy.tuning=qlora" if policy.tuning == "qlora" else "policy.dtype=float16"
        instead = "policy.tuning=lora" if policy.tuning == "qlora" else "policy.dtype=bfloat16"
        raise ConfigError(
            f"policy.parallel=fsdp does not share out {wrong}. Type {instead}, or policy.parallel=ddp, where each "
            "process has all weights."
        )
    if policy.gather == "layers" and policy.parallel == "ddp":
        raise ConfigError(
            "policy.gather=layers gathers weights that are shared out; with policy.parallel=ddp each process has all "
            "of them. Type policy.parallel=fsdp, or leave out policy.gather."
        )
    if sft.steps:
        _check_following("sft", sft.optimizer, policy)
    micro = sft.micro_batch_size
    if sft.steps and micro is not None and sft.batch_size % micro:
        raise ConfigError(f"sft.micro_batch_size={micro} does not divide sft.batch_size={sft.batch_size}.")
    if policy.engine == "vllm" and is_encoder_decoder(policy):
        raise ConfigError("policy.engine=vllm samples decoder-only models. Type policy.engine=torch.")


def _check_following(group: str, optimizer: str, policy: LanguageModel) -> None:
    check_following(f"{group}.optimizer", optimizer, ("policy.dtype", policy.dtype), policy.tuning, policy.parallel)


def check_reward_model(experiment: Experiment, rm: RewardModel) -> None:
    """Refusals of the reward model's own module."""
    if (check_own := REWARDS.of(rm).check) is not None:
        people, learned = responses_recorded(experiment), experiment.reward_task
        check_own(rm, Choices(experiment.task, experiment.policy, experiment.sft, people, learned))


def _check_offers(experiment: Experiment, there: frozenset[Offer]) -> None:
    """Refuses a task that lacks data which a language model needs."""
    task, rm = _task(experiment.task), experiment.rm_backbone
    if "prompts" not in there:
        raise ConfigError(f"{task} has no prompts; a language model needs them, as in {tasks_with('prompts')}.")
    if experiment.sft.steps and "demonstrations" not in there:
        raise ConfigError(
            f"{task} has no demonstrations to fine-tune on. Type sft.steps=0 to sample the base as it is."
        )
    if has_source(rm):
        check_feedback("task", experiment.task, rm)


def check_feedback(group: str, task: Task, rm: RewardModel) -> None:
    needed: Offer = "pairs" if objective_of(task, rm) == "pairwise" else "ratings"
    there = offers(task)
    if needed not in there:
        kinds = {"ratings": "pointwise", "pairs": "pairwise"}
        found = [f" Type {group}.feedback={kinds[name]}." for name in kinds if name in there]
        hint = found[0] if found else f" {task_module(task).missing(task).get(needed, '')}".rstrip()
        raise ConfigError(f"{_task(task, group)} has no {needed} to train rm_backbone={rm.name} on.{hint}")


@lru_cache(maxsize=4096)
def check_half(task: Task, langs: tuple[str, ...], rm: RewardModel, half: Half) -> None:
    """ConfigError where one half of the documents, as of judge.half=true, has too little to learn from.

    Generated data has enough of everything and takes a while to make: of that the stage says it (stages/reward.py).
    """
    module, what = task_module(task), "pairs" if objective_of(task, rm) == "pairwise" else "ratings"
    if module.digest(task):
        return
    splits: tuple[tuple[Split, int], ...] = (("train", NEEDED), ("validation", 1))
    for split, needed in splits:
        found = [item for lang in langs for item in getattr(module, what)(task, lang, split)]
        kept = [item for item in found if half_of(item.prompt.group) == half]
        documents = len({item.prompt.group for item in kept})
        if documents < needed:
            raise ConfigError(
                f"judge.half=true leaves {documents} documents with {what} in split {split} of {pooled(langs)} to "
                f"the {half} half; at least {needed} are needed. Add data, or type judge.half=false."
            )
        if split == "train" and what == "ratings" and len({item.label for item in kept}) == 1:
            raise ConfigError(
                f"judge.half=true: all ratings of {pooled(langs)} in split train that the {half} half has are the "
                "same, so that there is nothing to tell apart. Add data, or type judge.half=false."
            )


def _task(task: Task, group: str = "task") -> str:
    return f"{group}={task.__struct_config__.tag}"


def tasks_with(offer: Offer, group: str = "task") -> str:
    return ", ".join(f"{group}={name}" for name in tasks_offering(offer))


def _check_recorded(experiment: Experiment, rm: RewardModel, judging: RewardModel) -> None:
    task, learned, judge = experiment.task, experiment.reward_task, experiment.judge
    if module_of(judge).RESPONSES != "recorded":
        raise ConfigError(f"judge={judge.name} cannot judge recorded responses. Use judge=human.")
    module_of(judge).check(judge, experiment, judging)
    if (n := OPTIMIZERS.of(experiment.optimizer).picked_from(experiment.optimizer, None)) is not None:
        raise ConfigError(
            f"optimizer.n={n} would pick among the first {n} systems by name, and their names mean nothing. Leave it "
            "out: every response is picked from, and the curve of a cell has all smaller n."
        )
    if has_source(rm) and learned is None and not isinstance(task, HasFolds):
        raise ConfigError(
            f"{_task(task)} is for evaluation only: nothing of it trains rm_backbone={rm.name}. Name the task that "
            f"does with reward_task=NAME ({tasks_with('ratings', 'reward_task')})."
        )
    check_reward_model(experiment, rm)
    if has_source(rm) and learned is None and REWARDS.of(rm).heads is None:
        raise ConfigError(
            f"rm_backbone={rm.name} is trained on ratings or pairs with splits, not on recorded responses. Name a "
            f"task that has them with reward_task=NAME. {OF_RECORDED}"
        )
    if learned is not None and has_source(rm):
        _check_reward_task(experiment, learned, rm)


def _check_reward_task(experiment: Experiment, learned: Task, rm: RewardModel) -> None:
    """Refuses a reward_task that a reward model cannot learn from."""
    module = REWARDS.of(rm)
    if module.load is None:
        raise ConfigError(f"rm_backbone={rm.name} knows the systems of one task only. Leave reward_task out.")
    if not cross_fitted(experiment):
        check_feedback("reward_task", learned, rm)
    elif not isinstance(learned, HasFolds) or module.heads is None:
        raise ConfigError(
            f"rm_backbone={rm.name} cannot learn from {_task(learned, 'reward_task')}: it has neither ratings nor "
            "pairs with splits. Use rm_backbone=bag_of_words, or reward_task=files."
        )
