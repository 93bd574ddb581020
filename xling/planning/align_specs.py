"""The stages of an optimizer that trains the policy: what it learns from, the training, and what it then says."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from xling.config.optimizers import DPO, Trained, optimizer_name
from xling.config.policies import LanguageModel
from xling.config.rewards import RewardModel
from xling.grid.stage import Stage
from xling.planning.specs import data_of, label_of, make, mark, reading, sampling_of, side_of, texts_read
from xling.tasks.options import Task


@lru_cache(maxsize=4096)
def training_samples(
    task: Task, lang: str, policy: LanguageModel, start: Stage, optimizer: DPO, seed: int, regime: tuple[str, ...]
) -> Stage:
    """A pool of training prompts, which does not depend on the source either."""
    spec = {
        **data_of(task, (lang,), "demonstrations"),
        **sampling_of(task, lang, policy, "training pool", optimizer.n, seed),
        "split": "train",
        "prompts": optimizer.prompts,
    }
    label = label_of("pool", (lang,), *((one,) for one in regime)) + " train"
    return make("pool", label, spec, {"sft": start})


def aligned_samples(
    task: Task, lang: str, policy: LanguageModel, start: Stage, optimizer: Trained, trained: Stage, seed: int
) -> Stage:
    """aligned[s,t]: test prompts answered by the policy of the stage `trained`, sampled like the baseline."""
    n = optimizer.samples or policy.baseline_samples
    spec = {**data_of(task, (lang,), "prompts"), **sampling_of(task, lang, policy, "aligned", n, seed)}
    parents = {"sft": trained, "reference": start}
    return make("aligned", trained.label.replace("align[", "aligned["), spec, parents)


def align(
    task: Task,
    sources: Sequence[str],
    lang: str,
    policy: LanguageModel,
    start: Stage,
    rm: RewardModel,
    optimizer: Trained,
    rewarding: Mapping[str, Stage],
    quality: bool,
    seed: int,
    regime: tuple[str, ...] = (),
) -> Stage:
    """align[s,t]: an SFT policy (`start`) trained against a reward model, whose stages are `rewarding`.

    sources: what the label says of the reward model; regime: and of the SFT policy, if it was translated for.
    """
    parents = {"sft": start, **rewarding}
    settings = msgspec.structs.replace(optimizer, samples=None)
    if isinstance(settings, DPO):
        parents["pool"] = training_samples(task, lang, policy, start, settings, seed, regime)
        settings = msgspec.structs.replace(settings, n=DPO().n, prompts=None)  # those are the pool's
    spec = {
        **data_of(task, (lang,), "demonstrations"),
        **reading(task, policy, (lang,)),
        "lang": lang,
        "optimizer": msgspec.to_builtins(settings),
        "rm": msgspec.to_builtins(rm),
        "reading": texts_read(task, rm, (lang,)),
        "rm_truncation_side": side_of(task, rm, (lang,)),
        "max_new_tokens": policy.max_new_tokens,
        "tuning": policy.tuning,
        "lora": None if policy.tuning == "full" else msgspec.to_builtins(policy.lora),
        "quality": quality,
        "seed": seed,
    }
    label = f"{label_of('align', sources, (lang,), *((one,) for one in regime))} {optimizer_name(optimizer)}{mark(rm)}"
    return make("align", label, spec, parents)
