"""The packaged micro model's settings where a pretrained model is trained or sampled: said before they ruin it.

A model of a million weights learns at rates at which one that has read the web unlearns: a pretrained model of 270
million weights went from a loss of 2.9 to 14.4 within four steps of AdamW at 1e-3. So conf/ has options for both, and a
plan says where a pretrained model meets the micro model's.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from xling.config.common import Training
from xling.config.policies import LanguageModel
from xling.experiment import Experiment
from xling.models.checkpoints import positions, text_settings
from xling.models.hub import BASE_FOLDER, settings_of
from xling.optimizers import PolicyTraining
from xling.options import name_of
from xling.planning.refusals import responses_recorded
from xling.rewards import Base
from xling.rewards.implicit import Settings as Implicit
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.rewards.same_as_policy import start
from xling.tasks.options import offers


class Suited(NamedTuple):
    """A setting's value for the micro model, for all weights of a pretrained one, and for adapters on it."""

    micro: float
    full: float
    adapters: float


RATE = Suited(1e-3, 1e-5, 1e-4)  # of sft and rm_backbone=same_as_policy; learning rates are AdamW's
RATES = {"ppo": Suited(5e-4, 1e-5, 1e-4), "rloo": Suited(5e-4, 1e-5, 1e-4), "grpo": Suited(5e-4, 1e-5, 1e-4),
         "dpo": Suited(1e-4, 1e-5, 1e-4)}  # fmt: skip
IMPLICIT_RATE = Suited(4e-4, 1e-5, 1e-4)  # of rm_backbone=implicit
VALUE_RATE = Suited(5e-4, 1e-5, 1e-5)  # of ppo, whose value model has no adapters
SAMPLING = {"max_new_tokens": Suited(32, 512, 512), "temperature": Suited(0.8, 1.0, 1.0), "n": Suited(16, 64, 64)}
OWN = ("packaged", "pretrain")
SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


class Place(NamedTuple):
    """Where a setting was found."""

    model: str  # as it is typed: policy.checkpoint=NAME
    group: str
    option: str  # of the group, with values for all weights of a pretrained model


class Finding(NamedTuple):
    """A setting that is not for the model that it is used on."""

    place: Place
    setting: str
    value: float
    instead: float
    beside: str  # what is to be typed beside the option; empty: nothing


def notes(asked: Sequence[Experiment], typed: Collection[str]) -> list[str]:
    """A sentence on settings of the micro model that pretrained models would get, with what to type.

    typed: names of settings on the command line, which are meant as they are.
    """
    cells = {
        (e.policy, e.sft, e.rm_backbone, e.judge.rm_backbone, e.optimizer, responses_recorded(e)): e for e in asked
    }
    found = dict.fromkeys(one for cell in cells.values() for one in _findings(cell) if one.setting not in typed)
    if not {one.setting for one in found} - {"policy.n"}:  # as good a number as any, if all else is suited
        return []
    models = ", ".join(dict.fromkeys(one.place.model for one in found))
    values = ", ".join(dict.fromkeys(f"{one.setting}={one.value:g} (suited: {one.instead:g})" for one in found))
    groups: dict[str, dict[str, None]] = {}
    for one in found:
        groups.setdefault(one.place.group.replace(".", "/"), {})[one.place.option] = None
    words = [f"{group}={','.join(options)}" for group, options in groups.items()]
    words += dict.fromkeys(one.beside for one in found if one.beside)
    if "policy" in groups and "policy.checkpoint" not in typed:
        words += [one.place.model for one in found if one.place.group == "policy"][:1]
    return [
        f"{models}: these settings do not suit a pretrained model, which learning rates of the micro model ruin: "
        f"{values}. In place of the options that have them type {' '.join(words)}. What is typed by its own name "
        "counts as meant."
    ]


def beyond(asked: Sequence[Experiment]) -> list[str]:
    """A sentence on each policy that is to read and say more tokens than the texts had that it was trained on.

    Models that look places up in a table cannot, and are refused; positions of these have no end.
    """
    sentences = list[str]()
    for policy in dict.fromkeys(e.policy for e in asked if isinstance(e.policy, LanguageModel)):
        config = settings_of(policy.checkpoint, policy.revision) if policy.checkpoint not in OWN else {}
        most = None if config.get("is_encoder_decoder") else positions(config)
        if most is None or policy.max_prompt_tokens + policy.max_new_tokens <= most:
            continue
        prompt = max(most - policy.max_new_tokens, most // 2)
        words = [f"policy.max_prompt_tokens={prompt}"]
        if policy.max_new_tokens > most - prompt:
            words.append(f"policy.max_new_tokens={most - prompt}")
        sentences.append(
            f"policy.checkpoint={policy.checkpoint}: it was trained on {most} tokens (max_position_embeddings), "
            f"and is given up to {policy.max_prompt_tokens} of a prompt and {policy.max_new_tokens} of a response: "
            f"what it says beyond is worth little. Type {' '.join(words)}."
        )
    return list(dict.fromkeys(sentences))


def strange(asked: Sequence[Experiment]) -> list[str]:
    """A sentence where the packaged model is to answer other texts than those of the world that it has read."""
    ours = (e for e in asked if isinstance(e.policy, LanguageModel) and e.policy.checkpoint in OWN)
    tasks = dict.fromkeys(e.task for e in ours if not responses_recorded(e))
    names = dict.fromkeys(f"task={name_of(one)}" for one in tasks if "quality" not in offers(one))  # that world's alone
    if not names:
        return []
    return [
        f"{', '.join(names)}: the policy is the packaged model, which has a million weights and has read the embedded "
        "world alone. It shows that a grid runs; what it answers to other texts says nothing. For results type "
        "experiment=pretrained policy.checkpoint=FOLDER, or a hub id in place of the folder."
    ]


def _findings(experiment: Experiment) -> Iterator[Finding]:
    policy = experiment.policy
    if not isinstance(policy, LanguageModel):
        return
    if is_pretrained(policy.checkpoint, policy.revision) and not responses_recorded(experiment):
        yield from _of_policy(policy, experiment.sft, experiment.optimizer)
    for group, rm in (("rm_backbone", experiment.rm_backbone), ("judge.rm_backbone", experiment.judge.rm_backbone)):
        if not isinstance(rm, SameAsPolicy | Implicit) or rm.tuning == "frozen":  # a head alone is a new one
            continue
        if rm.training.steps:
            begins = start(rm, policy)
            own = begins if isinstance(begins, Base) else Base(policy)
            if is_pretrained(own.model.checkpoint, own.model.revision):
                place = Place(f"{own.setting}={own.model.checkpoint}", group, f"{rm.name}_pretrained")
                suited = IMPLICIT_RATE if isinstance(rm, Implicit) else RATE
                yield from _rate(place, f"{group}.training", rm.training, suited, rm.tuning != "full")


def _of_policy(policy: LanguageModel, sft: Training, optimizer: Struct) -> Iterator[Finding]:
    model, adapters = f"policy.checkpoint={policy.checkpoint}", policy.tuning != "full"
    for name, suited in SAMPLING.items():
        place = Place(model, "policy", "pretrained")
        yield from _unsuited(place, f"policy.{name}", getattr(policy, name), suited, adapters)
    if sft.steps:
        yield from _rate(Place(model, "sft", "pretrained"), "sft", sft, RATE, adapters)
    if isinstance(optimizer, PolicyTraining) and (name := name_of(optimizer)) in RATES:
        place = Place(model, "optimizer", f"{name}_pretrained")
        yield from _rate(place, "optimizer", optimizer, RATES[name], adapters)
        value = getattr(optimizer, "value_learning_rate", None)
        if value is not None and optimizer.optimizer != "adafactor":
            yield from _unsuited(place, "optimizer.value_learning_rate", value, VALUE_RATE, adapters)


def _rate(
    place: Place, group: str, training: Training | PolicyTraining, suited: Suited, adapters: bool
) -> Iterator[Finding]:
    if training.optimizer != "adafactor":  # Adafactor's rates, as the paper's, are on another scale
        yield from _unsuited(place, f"{group}.learning_rate", training.learning_rate, suited, adapters)


def _unsuited(place: Place, setting: str, value: float, suited: Suited, adapters: bool) -> Iterator[Finding]:
    instead = suited.adapters if adapters else suited.full
    if value != instead and value in ((suited.micro, suited.full) if adapters else (suited.micro,)):
        beside = f"{setting}={instead:g}" if instead != suited.full else ""
        yield Finding(place, setting, value, instead, beside)


@lru_cache(maxsize=64)
def is_pretrained(checkpoint: str, revision: str | None) -> bool:
    """Whether a checkpoint is another model than the packaged micro base, or one that was trained from it."""
    if checkpoint in OWN:
        return False
    own, micro = (text_settings(settings_of(*one)) for one in ((checkpoint, revision), (str(BASE_FOLDER), None)))
    return any(own.get(name) != micro.get(name) for name in SIZES)
