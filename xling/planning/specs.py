"""The stages below a cell, each from no more than it depends on: that is what its key is made of.

Every function is cached: the cells of a grid share their stages.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from xling.config.common import Language, Training, pooled
from xling.config.policies import LanguageModel, Policy
from xling.config.tasks import HasFolds
from xling.errors import ConfigError
from xling.grid.stage import Stage
from xling.models.encoder import encoder_identity
from xling.models.hub import (
    BASE_FOLDER,
    checkpoint_digest,
    code_of,
    commit_of,
    folder_digest,
    is_repository,
    recipe_digest,
    settings_of,
)
from xling.results.prompts import by_content, data_spec
from xling.rewards import (
    REWARDS,
    Base,
    EncoderReader,
    LanguageReader,
    Model,
    Reader,
    RewardSettings,
    objective_of,
    reader_of,
)
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.tasks.options import Task, task_module
from xling.tasks.records import Half, Use

OWN_CODE = "local"  # of a folder whose own code may run, wherever that lies
LOGITS_OF = {"score": "lm", "features": "lm", "align": "sft"}  # kinds of stages, and the parent whose logits they take
# Whose logits were once taken from its states without UMT5's scale or the `final_logits_bias` of BART and its kin. What
# it said, what it learnt from demonstrations, and its states never were wrong.
_CHANGED = "umt5 bart bigbird_pegasus blenderbot blenderbot-small led marian mbart mvp pegasus plbart"
LOGITS_CHANGED = frozenset(_CHANGED.split())


def make(kind: str, label: str, spec: Mapping[str, Any], parents: Mapping[str, Stage]) -> Stage:
    """A stage of a kind; checkpoints in folders stand in its key as what is in them."""
    from xling.planning import KINDS  # whose making imports the judges' modules, and these import this one

    own = {**spec, **logits_changed(kind, spec, parents)}
    return Stage.make(kind, KINDS[kind].version, label, by_content(own), parents)


def logits_changed(kind: str, spec: Mapping[str, Any], parents: Mapping[str, Stage]) -> dict[str, Any]:
    """Of a stage whose numbers were others before logits were those of a model's own forward pass: that they are now.

    Of all other stages nothing, so that their keys are what they were. A version would change the keys of all models.
    Checkpoints in folders have other keys than then anyway; what a repository has is in its config.json.
    """
    model = parents.get(LOGITS_OF.get(kind, ""))
    if model is None or spec.get("features") == "states":
        return {}
    while model.kind != "base":
        model = model.parents["base"]
    commit = model.spec.get("commit")
    changed = commit is not None and _architecture(model.spec["checkpoint"], commit) in LOGITS_CHANGED
    return {"logits": "own forward"} if changed else {}


@lru_cache(maxsize=64)
def _architecture(repository: str, commit: str) -> str | None:
    """None where nobody can be asked, as in a dry run without a network: nothing can be computed there either."""
    return settings_of(repository, commit).get("model_type")


@lru_cache(maxsize=4096)
def data_of(task: Task, langs: tuple[str, ...], use: Use) -> dict[str, Any]:
    """The task as one stage sees it: settings it does not read are at their defaults; and its data's digest.

    ConfigError where the data has too little for it.
    """
    module = task_module(task)
    module.require(task, langs, use)
    return data_spec(module.narrowed(task, langs, use), langs, use)


def held_out(objective: str) -> Use:
    return "held_out_pairwise" if objective == "pairwise" else "held_out_pointwise"


def codes(langs: Sequence[Language]) -> tuple[str, ...]:
    return tuple(sorted(lang.code for lang in langs))


def label_of(kind: str, *langs: Sequence[str]) -> str:
    return f"{kind}[{', '.join(map(pooled, langs))}]"


# --- stages, each from no more than it depends on -----------------------------------------------------------


@lru_cache(maxsize=256)
def base(policy: LanguageModel, setting: str = "policy.checkpoint", use: str = "policy") -> Stage:
    """The packaged micro base, a base to pretrain, a local folder, or a repository of the hub at one commit.

    `setting` is what people typed; `use` is policy, of a reward model's own checkpoint encoder or classifier, or
    translator.
    """
    checkpoint = policy.checkpoint
    spec = {
        "checkpoint": checkpoint,
        "digest": "",
        "dtype": policy.dtype,
        "attention": policy.attention,
        "remote_code": policy.remote_code,
        "pad_token": policy.pad_token,
        **({} if use == "policy" else {"use": use}),
    }
    if checkpoint == "pretrain":
        return make("base", "base", spec | {"digest": recipe_digest()}, {})
    if is_repository(checkpoint):
        commit = commit_of(checkpoint, policy.revision, setting)
        return make("base", f"base {checkpoint}@{commit[:7]}", spec | {"commit": commit}, {})
    folder = BASE_FOLDER if checkpoint == "packaged" else Path(checkpoint)
    if checkpoint == "packaged" and not (folder / "config.json").exists():
        raise ConfigError(f"This copy of xling has no micro base in {folder}. Run `make base` to train it.")
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"{setting}={checkpoint} is no folder of a model in Hugging Face format (config.json is missing). "
            f"Use {setting}=packaged, a local folder, or a hub id (owner/name)."
        )
    if checkpoint == "packaged":
        return make("base", "base", spec | {"digest": folder_digest(folder)}, {})
    code = {"remote_code": OWN_CODE, "code": code_of(folder)} if policy.remote_code is not None else {}
    return make("base", "base", spec | {"digest": checkpoint_digest(folder)} | code, {})


def stage_of(model: Model, task: Task, langs: tuple[str, ...], policy: Policy, training: Training, seed: int) -> Stage:
    """The stage of a model that a reward model needs; an SFT policy learns from these languages' demonstrations."""
    if isinstance(model, Base):
        return base(model.model, model.setting, model.use)
    assert isinstance(policy, LanguageModel)
    return sft(task, langs, policy, training, seed)


def side_of(task: Task, rm: RewardSettings, langs: Sequence[str]) -> str:
    """On which side a reward model cuts too long a prompt."""
    return str(getattr(rm, "truncation_side", None) or task_module(task).truncation_side(task, langs))


def reading(task: Task, policy: LanguageModel, langs: Sequence[str]) -> dict[str, Any]:
    """How the policy reads prompts."""
    side = policy.truncation_side or task_module(task).truncation_side(task, langs)
    return {"max_prompt_tokens": policy.max_prompt_tokens, "truncation_side": side}


@lru_cache(maxsize=4096)
def sft(task: Task, langs: tuple[str, ...], policy: LanguageModel, training: Training, seed: int) -> Stage:
    """The policy of one language, or of several with their demonstrations pooled; without steps the base itself."""
    if not training.steps:
        return base(policy)
    spec = fine_tuning(task, langs, policy, training, seed)
    return make("sft", label_of("sft", langs), spec, {"base": base(policy)})


def fine_tuning(
    task: Task, langs: tuple[str, ...], policy: LanguageModel, training: Training, seed: int
) -> dict[str, Any]:
    """Spec of a fine-tuned policy, without its base and without translated data, which are parents."""
    return {
        **data_of(task, langs, "demonstrations"),
        **reading(task, policy, langs),
        "langs": langs,
        "training": msgspec.to_builtins(training),
        "max_new_tokens": policy.max_new_tokens,
        "tuning": policy.tuning,
        "lora": None if policy.tuning == "full" else msgspec.to_builtins(policy.lora),
        "seed": seed,
    }


@lru_cache(maxsize=4096)
def samples(
    kind: Literal["pool", "baseline"],
    task: Task,
    lang: str,
    policy: LanguageModel,
    start: Stage,
    seed: int,
    regime: tuple[str, ...] = (),
) -> Stage:
    """pool[t] or baseline[t] of an SFT policy; `regime`: which one, if its demonstrations were translated."""
    n = policy.n if kind == "pool" else policy.baseline_samples
    spec = {**data_of(task, (lang,), "prompts"), **sampling_of(task, lang, policy, kind, n, seed)}
    return make(kind, label_of(kind, (lang,), *((one,) for one in regime)), spec, {"sft": start})


def texts_read(reader: Reader | None) -> dict[str, Any]:
    """Limits of texts that the frozen model of a linear head reads; empty where a reward model reads texts itself."""
    match reader:
        case LanguageReader():
            return dict(msgspec.to_builtins(reader.read))
        case EncoderReader():
            return {"encoder": reader.encoder, "identity": encoder_identity(reader.encoder)}
        case None:
            return {}


def reading_model(reader: Reader) -> dict[str, Stage]:
    """The language model that reads, as a parent; a sentence encoder is none."""
    if not isinstance(reader, LanguageReader):
        return {}
    return {"lm": base(reader.base.model, reader.base.setting, reader.base.use)}


def sampling_of(task: Task, lang: str, policy: LanguageModel, purpose: str, n: int, seed: int) -> dict[str, Any]:
    """How a policy is sampled, whoever it is."""
    return {
        **reading(task, policy, (lang,)),
        "lang": lang,
        "purpose": purpose,
        "n": n,
        "temperature": policy.temperature,
        "top_p": policy.top_p,
        "max_new_tokens": policy.max_new_tokens,
        "chunk": policy.sampling_chunk,
        "by_length": policy.by_length,
        "engine": policy.engine,
        "seed": seed,
    }


@lru_cache(maxsize=4096)
def recorded(task: Task, lang: str) -> Stage:
    """Recorded responses: pool and opponent at once."""
    return make("recorded", label_of("recorded", (lang,)), {**data_of(task, (lang,), "recorded"), "lang": lang}, {})


@lru_cache(maxsize=4096)
def embed(task: Task, lang: str, encoder: str) -> Stage:
    """A language's recorded texts under a frozen sentence encoder."""
    spec = {
        **data_of(task, (lang,), "texts"),
        "lang": lang,
        "rm": msgspec.to_builtins(SentenceEncoder(encoder)),
        "objective": "",
        "encoder": encoder_identity(encoder),
    }
    return make("embed", label_of("embed", (lang,)), spec, {})


@lru_cache(maxsize=4096)
def features(task: Task, lang: str, objective: str, reader: Reader, pools: tuple[tuple[str, Stage], ...]) -> Stage:
    """Stage with a frozen model's features of a language's feedback, or of its samples and held-out feedback."""
    spec = {
        **data_of(task, (lang,), held_out(objective) if pools else objective),
        "lang": lang,
        "objective": objective,
        **texts_read(reader),
    }
    label = label_of("features", (lang,)) + (" samples" if pools else "")
    return make("features", label, spec, {**dict(pools), **reading_model(reader)})


@lru_cache(maxsize=4096)
def recorded_features(task: Task, lang: str, reader: Reader) -> Stage:
    """Stage with a frozen model's features of a language's recorded responses."""
    if isinstance(reader, EncoderReader):
        return embed(task, lang, reader.encoder)
    spec = {**data_of(task, (lang,), "texts"), **texts_read(reader), "lang": lang, "objective": "", "recorded": True}
    return make("features", label_of("features", (lang,)) + " recorded", spec, reading_model(reader))


def recorded_role(reader: Reader) -> str:
    """The role of that stage as a parent, and its kind."""
    return "embed" if isinstance(reader, EncoderReader) else "features"


@lru_cache(maxsize=4096)
def reward(
    task: Task,
    langs: tuple[str, ...],
    policy: Policy,
    training: Training,
    rm: RewardSettings,
    seed: int,
    crossfitted: bool = False,
    half: Half | None = None,
) -> Stage:
    """The reward model of one source, or of several pooled; or heads cross-fitted on recorded responses."""
    objective, reader = objective_of(task, rm), reader_of(rm, policy, side_of(task, rm, langs))
    spec = {
        **data_of(task, langs, "crossfitted" if crossfitted else objective),
        "langs": langs,
        "rm": msgspec.to_builtins(rm),
        "objective": objective,
        "seed": seed,
        **halved(half),
    }
    parents: dict[str, Stage] = {}
    if crossfitted:
        assert isinstance(task, HasFolds)  # others are refused (xling/planning/refusals.py)
        spec |= {"folds": task.folds, "documents": task.documents}
    else:
        start, of_start = started(task, langs, langs, policy, training, rm, seed)
        spec |= of_start
        parents |= start
    for lang in langs if reader is not None else ():
        own = reader_of(rm, policy, side_of(task, rm, (lang,)))
        assert own is not None
        if crossfitted:
            parents[f"{recorded_role(own)}_{lang}"] = recorded_features(task, lang, own)
        else:
            parents[f"features_{lang}"] = features(task, lang, objective, own, ())
    if crossfitted and isinstance(reader, EncoderReader):
        spec["encoder"] = encoder_identity(reader.encoder)
    return make("reward", label_of("reward", langs) + mark(rm, half), spec, parents)


def started(
    task: Task,
    langs: tuple[str, ...],
    start_langs: tuple[str, ...],
    policy: Policy,
    training: Training,
    rm: RewardSettings,
    seed: int,
) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Parent and spec of what starts from a model: an SFT policy is that of `start_langs`. Empty for all others."""
    start = REWARDS.of(rm).start
    if start is None:
        return {}, {}
    model = start(rm, policy)
    return (
        {"init": stage_of(model, task, start_langs, policy, training, seed)},
        {"truncation_side": side_of(task, rm, langs)},
    )


def halved(half: Half | None) -> dict[str, Any]:
    """Of a reward model that learns from half of the documents; nothing of those that learn from all."""
    return {} if half is None else {"half": half}


def mark(rm: RewardSettings, half: Half | None = None) -> str:
    permutation = getattr(rm, "permutation", 0)
    return (f" shuffled {permutation}" if permutation else "") + (f" {half} half" if half else "")
