"""Which optimizers that train the policy go with what: refused here, before anything runs."""

from xling.config.optimizers import DPO, GRPO, PPO, RLOO, Trained, optimizer_name
from xling.config.policies import LanguageModel
from xling.config.rewards import SameAsPolicy, name_of
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.models.hub import settings_of
from xling.tasks.options import offers

BOTH = "ppo, rloo, dpo and best_of_n"  # those that take encoder-decoders too


def check_trained(experiment: Experiment, policy: LanguageModel, optimizer: Trained) -> None:
    """ConfigError for an optimizer that does not go with the policy, the task or the reward model."""
    name = optimizer_name(optimizer)
    encoder = bool(settings_of(policy.checkpoint, policy.revision).get("is_encoder_decoder"))
    _check_architecture(optimizer, encoder)
    by_trl = isinstance(optimizer, GRPO) or (isinstance(optimizer, RLOO) and optimizer.by_trl(encoder))
    if by_trl and policy.tuning == "qlora":
        raise ConfigError(
            f"optimizer={name} is trl's trainer, which does not take our 4-bit policies (policy.tuning=qlora). Type "
            "policy.tuning=lora, optimizer=ppo or dpo, or optimizer=rloo optimizer.trainer=own."
        )
    if "demonstrations" not in offers(experiment.task):
        task = experiment.task.__struct_config__.tag
        raise ConfigError(
            f"optimizer={name} learns on the prompts of training demonstrations, and task={task} has none. Use "
            "optimizer=best_of_n, which trains nothing."
        )
    _check_sizes(optimizer)
    rm = experiment.rm_backbone
    if isinstance(optimizer, PPO) and optimizer.value_init == "reward":
        if not isinstance(rm, SameAsPolicy) or rm.init not in ("sft", "base"):
            raise ConfigError(
                "optimizer.value_init=reward starts the value model from the reward model, and "
                f"rm_backbone={name_of(rm)} is no network like the policy. Type optimizer.value_init=sft, or "
                "rm_backbone=same_as_policy."
            )
        if optimizer.value == "shared":
            raise ConfigError(
                "optimizer.value_init=reward needs a trunk of its own. Type optimizer.value=own, or "
                "optimizer.value_init=sft."
            )


def _check_architecture(optimizer: Trained, encoder: bool) -> None:
    if encoder and isinstance(optimizer, GRPO):
        raise ConfigError(
            f"optimizer=grpo takes decoder-only policies, and this one is an encoder-decoder. Use one of {BOTH}."
        )
    if encoder and isinstance(optimizer, RLOO) and optimizer.trainer == "trl":
        raise ConfigError(
            "optimizer.trainer=trl takes decoder-only policies, and this one is an encoder-decoder. Type "
            "optimizer.trainer=own."
        )


def _check_sizes(optimizer: Trained) -> None:
    size = optimizer.batch_size
    if isinstance(optimizer, PPO) and size % optimizer.minibatches:
        raise ConfigError(
            f"optimizer.minibatches={optimizer.minibatches} does not divide optimizer.batch_size={size}. Use a divisor."
        )
    inside = isinstance(optimizer, PPO) and optimizer.value_only == "inside"
    if isinstance(optimizer, PPO) and inside and optimizer.value_only_steps >= optimizer.steps:
        raise ConfigError(
            f"optimizer.value_only_steps={optimizer.value_only_steps} leaves none of optimizer.steps={optimizer.steps} "
            "to the policy. Lower it, or type optimizer.value_only=outside."
        )
    if isinstance(optimizer, RLOO | GRPO) and size % optimizer.k:
        raise ConfigError(
            f"optimizer.k={optimizer.k} responses a prompt do not divide optimizer.batch_size={size}. Use a divisor."
        )
    if isinstance(optimizer, DPO) and optimizer.prompts is not None:
        each = 1 if optimizer.pairs == "extremes" else optimizer.n * (optimizer.n - 1) // 2
        if optimizer.prompts * each < size:
            raise ConfigError(
                f"optimizer.prompts={optimizer.prompts} give at most {optimizer.prompts * each} pairs, and a batch has "
                f"optimizer.batch_size={size}. Raise optimizer.prompts or lower optimizer.batch_size."
            )
