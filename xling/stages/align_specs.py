"""The stages of an optimizer that trains the policy: what it learns from, the training, and what it then says."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from xling.config import DPO, LanguageModel, RewardModel, Task, Trained, Training, optimizer_name
from xling.grid.stage import Stage
from xling.stages.specs import data_of, label_of, make, mark, reading, sampling_of, sft, side_of, texts_read


@lru_cache(maxsize=4096)
def training_samples(
    task: Task, lang: str, policy: LanguageModel, training: Training, optimizer: DPO, seed: int
) -> Stage:
    """A pool of training prompts, which does not depend on the source either."""
    spec = {
        **data_of(task, (lang,), "demonstrations"),
        **sampling_of(task, lang, policy, "training pool", optimizer.n, seed),
        "split": "train",
        "prompts": optimizer.prompts,
    }
    return make("pool", label_of("pool", (lang,)) + " train", spec, {"sft": sft(task, (lang,), policy, training, seed)})


def aligned_samples(
    task: Task, lang: str, policy: LanguageModel, training: Training, optimizer: Trained, trained: Stage, seed: int
) -> Stage:
    """aligned[s,t]: test prompts answered by the policy of the stage `trained`, sampled like the baseline."""
    n = optimizer.samples or policy.baseline_samples
    spec = {**data_of(task, (lang,), "prompts"), **sampling_of(task, lang, policy, "aligned", n, seed)}
    parents = {"sft": trained, "reference": sft(task, (lang,), policy, training, seed)}
    return make("aligned", trained.label.replace("align[", "aligned["), spec, parents)


def align(
    task: Task,
    sources: Sequence[str],
    lang: str,
    policy: LanguageModel,
    training: Training,
    rm: RewardModel,
    optimizer: Trained,
    rewarding: Mapping[str, Stage],
    quality: bool,
    seed: int,
) -> Stage:
    """align[s,t]: SFT_t trained against a reward model, whose stages are `rewarding`."""
    start = sft(task, (lang,), policy, training, seed)
    parents = {"sft": start, **rewarding}
    settings = msgspec.structs.replace(optimizer, samples=None)
    if isinstance(settings, DPO):
        parents["pool"] = training_samples(task, lang, policy, training, settings, seed)
        settings = msgspec.structs.replace(settings, n=DPO().n, prompts=None)  # those are the pool's
    spec = {
        **data_of(task, (lang,), "demonstrations"),
        **reading(task, policy),
        "lang": lang,
        "optimizer": msgspec.to_builtins(settings),
        "rm": msgspec.to_builtins(rm),
        "reading": texts_read(task, rm),
        "rm_truncation_side": side_of(task, rm),
        "max_new_tokens": policy.max_new_tokens,
        "tuning": policy.tuning,
        "lora": None if policy.tuning == "full" else msgspec.to_builtins(policy.lora),
        "quality": quality,
        "seed": seed,
    }
    label = f"{label_of('align', sources, (lang,))} {optimizer_name(optimizer)}{mark(rm)}"
    return make("align", label, spec, parents)
