"""From an experiment to its stages: what each stage reads decides its key, and what it does not read must not.

base -- sft[l] -- reward[s] ------------ score[s,t] -- judge[s,t]
          |------ pool[t], baseline[t] ------|  |-- gold[t] --|
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from xling.config import (
    BagOfWords,
    Classifier,
    Encoder,
    Experiment,
    Files,
    FrozenLM,
    Language,
    LanguageModel,
    Policy,
    Published,
    Released,
    RewardModel,
    SameAsPolicy,
    SentenceEncoder,
    Task,
    Training,
    Tuned,
    Untrained,
    checkpoints_of,
    encoder_of,
    has_source,
    name_of,
    objective_of,
)
from xling.errors import ConfigError
from xling.grid.stage import Cell, Stage
from xling.models.encoder import encoder_identity
from xling.models.hub import commit_of, is_repository
from xling.models.recipe import BASE_FOLDER, folder_digest, recipe_digest
from xling.stages import KINDS
from xling.stages.checks import check, cross_fitted, responses_recorded
from xling.tasks import require, task_module
from xling.tasks.records import Need, Use
from xling.tasks.render import with_facts

Axes = Mapping[str, Any]
Asked = tuple[dict[str, Any], Experiment, RewardModel]  # axes, experiment, the reward model of judge=target_rm

SHUFFLES = 5  # permutations of the labels: the null band
SOURCELESS = (
    "random",
    "length",
    "gold",
    "likelihood_base",
    "likelihood_sft",
    "likelihood_gain_base",
    "likelihood_gain_sft",
)


def cells_from(experiments: Sequence[tuple[Axes, Experiment]], controls: bool = False) -> list[Cell]:
    """One cell an experiment, then the control cells, each once. What is not trained has no source: `-`."""
    asked = [(dict(axes), experiment, experiment.rm_backbone) for axes, experiment in experiments]
    if controls:
        asked += control_experiments(asked)
    cells: dict[tuple[Any, ...], Cell] = {}
    for axes, experiment, judging in asked:
        if not has_source(experiment.rm_backbone):
            axes["source_lang"] = "-"
        place = tuple((key, str(value)) for key, value in axes.items())
        if place not in cells:
            cells[place] = Cell(axes, judge_stage(experiment, judging))
    return list(cells.values())


def control_experiments(asked: Iterable[Asked]) -> list[Asked]:
    """Controls and references (docs/controls.md): untrained ones once a target, shuffled labels for every source."""
    variants: list[Asked] = []
    for axes, experiment, judging in asked:
        if isinstance(experiment.rm_backbone, Tuned | FrozenLM | BagOfWords | SentenceEncoder):
            for k in range(1, SHUFFLES + 1):
                rm = msgspec.structs.replace(experiment.rm_backbone, permutation=k)
                shuffled = msgspec.structs.replace(experiment, rm_backbone=rm)
                variants.append((axes | {"rm_backbone": f"shuffled_{k}:{axes['rm_backbone']}"}, shuffled, judging))
        for name in _references(experiment):
            plain = {key: value for key, value in axes.items() if not key.startswith("rm_backbone.")}
            rm_reference = Untrained(name, encoder_of(experiment.rm_backbone) or "packaged")  # type: ignore[arg-type]
            reference = msgspec.structs.replace(experiment, rm_backbone=rm_reference)
            variants.append((plain | {"rm_backbone": name}, reference, judging))
    return variants


def _references(experiment: Experiment) -> tuple[str, ...]:
    if responses_recorded(experiment):
        encoder = ("cosine",) if isinstance(experiment.rm_backbone, SentenceEncoder) else ()
        model = ("likelihood_base",) if isinstance(experiment.policy, LanguageModel) else ()
        return ("random", "length", "human", *encoder, *model)
    return SOURCELESS


# --- specs ------------------------------------------------------------------------------------------------


def _stage(kind: str, label: str, spec: Mapping[str, Any], parents: Mapping[str, Stage]) -> Stage:
    return Stage.make(kind, KINDS[kind].version, label, spec, parents)


@lru_cache(maxsize=4096)
def _task(task: Task, langs: tuple[str, ...], use: Use, need: Need | None = None) -> dict[str, Any]:
    """The task as one stage sees it: settings it does not read are at their defaults; and its data's digest.

    ConfigError where the data has too little for it (`need`: if that is more than the use says).
    """
    require(task, langs, need or use)
    module = task_module(task)
    narrowed = module.narrowed(task, langs, use)
    return {"task": msgspec.to_builtins(narrowed), "digest": module.digest(narrowed)}


def _held_out(objective: str) -> Use:
    return "held_out_pairwise" if objective == "pairwise" else "held_out_pointwise"


def _codes(langs: Sequence[Language]) -> tuple[str, ...]:
    return tuple(sorted(lang.code for lang in langs))


def _label(kind: str, *langs: Sequence[str]) -> str:
    return f"{kind}[{', '.join('+'.join(codes) for codes in langs)}]"


# --- stages, each from no more than it depends on -----------------------------------------------------------


@lru_cache(maxsize=256)
def base(policy: LanguageModel, setting: str = "policy.checkpoint", use: str = "policy") -> Stage:
    """The packaged micro base, a base to pretrain, a local folder, or a repository of the hub at one commit.

    `setting` is what people typed; `use` is policy, or of a reward model's own checkpoint encoder or classifier.
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
        return _stage("base", "base", spec | {"digest": recipe_digest()}, {})
    if is_repository(checkpoint):
        commit = commit_of(checkpoint, policy.revision, setting)
        return _stage("base", f"base {checkpoint}@{commit[:7]}", spec | {"commit": commit}, {})
    folder = BASE_FOLDER if checkpoint == "packaged" else Path(checkpoint)
    if checkpoint == "packaged" and not (folder / "config.json").exists():
        raise ConfigError(f"This copy of xling has no micro base in {folder}. Run `make base` to train it.")
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"{setting}={checkpoint} is no folder of a model in Hugging Face format (config.json is missing). "
            f"Use {setting}=packaged, a local folder, or a hub id (owner/name)."
        )
    return _stage("base", "base", spec | {"digest": folder_digest(folder)}, {})


def own_checkpoint(rm: RewardModel, setting: str, policy: Policy, use: str = "policy") -> Stage:
    """A model that the reward model names itself, by a setting of checkpoints_of; else read as the policy is."""
    checkpoint, revision = checkpoints_of(rm)[setting]
    like = policy if isinstance(rm, SameAsPolicy) and isinstance(policy, LanguageModel) else None
    model = LanguageModel(
        checkpoint,
        revision=revision,
        dtype=like.dtype if like else rm.dtype,  # type: ignore[union-attr]  # all others with checkpoints have it
        attention=like.attention if like else None,
        remote_code=getattr(rm, "remote_code", None),
    )
    return base(model, f"rm_backbone.{setting}", use)


def _side(task: Task, rm: RewardModel) -> str:
    """On which side a reward model cuts too long a prompt."""
    return str(getattr(rm, "truncation_side", None) or getattr(task_module(task), "TRUNCATION_SIDE", "right"))


def _reading(task: Task, policy: LanguageModel) -> dict[str, Any]:
    """How the policy reads prompts."""
    side = policy.truncation_side or getattr(task_module(task), "TRUNCATION_SIDE", "right")
    return {"max_prompt_tokens": policy.max_prompt_tokens, "truncation_side": side}


@lru_cache(maxsize=4096)
def sft(task: Task, langs: tuple[str, ...], policy: LanguageModel, training: Training, seed: int) -> Stage:
    """The policy of one language, or of several with their demonstrations pooled."""
    spec = {
        **_task(task, langs, "demonstrations"),
        **_reading(task, policy),
        "langs": langs,
        "training": msgspec.to_builtins(training),
        "max_new_tokens": policy.max_new_tokens,
        "tuning": policy.tuning,
        "lora": None if policy.tuning == "full" else msgspec.to_builtins(policy.lora),
        "seed": seed,
    }
    return _stage("sft", _label("sft", langs), spec, {"base": base(policy)})


@lru_cache(maxsize=4096)
def samples(kind: str, task: Task, lang: str, policy: LanguageModel, training: Training, seed: int) -> Stage:
    """pool[t] or baseline[t]."""
    spec = {
        **_task(task, (lang,), "prompts"),
        **_reading(task, policy),
        "lang": lang,
        "purpose": kind,
        "n": policy.n if kind == "pool" else policy.baseline_samples,
        "temperature": policy.temperature,
        "top_p": policy.top_p,
        "max_new_tokens": policy.max_new_tokens,
        "chunk": policy.sampling_chunk,
        "by_length": policy.by_length,
        "engine": policy.engine,
        "seed": seed,
    }
    return _stage(kind, _label(kind, (lang,)), spec, {"sft": sft(task, (lang,), policy, training, seed)})


@lru_cache(maxsize=4096)
def recorded(task: Task, lang: str) -> Stage:
    """Recorded responses: pool and opponent at once."""
    return _stage("recorded", _label("recorded", (lang,)), {**_task(task, (lang,), "recorded"), "lang": lang}, {})


@lru_cache(maxsize=4096)
def embed(task: Task, lang: str, encoder: str) -> Stage:
    """A language's recorded texts under a frozen sentence encoder."""
    spec = {
        **_task(task, (lang,), "texts"),
        "lang": lang,
        "rm": msgspec.to_builtins(SentenceEncoder(encoder)),
        "objective": "",
        "encoder": encoder_identity(encoder),
    }
    return _stage("embed", _label("embed", (lang,)), spec, {})


@lru_cache(maxsize=4096)
def features(
    task: Task, lang: str, policy: LanguageModel, rm: RewardModel, pools: tuple[tuple[str, Stage], ...]
) -> Stage:
    """What a frozen model sees of a language's feedback, or of its samples and held-out feedback."""
    objective = objective_of(task, rm)
    spec = {
        **_task(task, (lang,), _held_out(objective) if pools else objective),
        "lang": lang,
        "objective": objective,
    }
    parents = dict(pools)
    if isinstance(rm, FrozenLM):
        spec["features"] = rm.features
        parents["lm"] = base(_reader(rm, policy))
    else:
        spec |= {"encoder": encoder_of(rm), "identity": encoder_identity(encoder_of(rm))}
    return _stage("features", _label("features", (lang,)) + (" samples" if pools else ""), spec, parents)


@lru_cache(maxsize=4096)
def recorded_features(task: Task, lang: str, policy: LanguageModel, rm: RewardModel) -> Stage:
    """What a frozen language model sees of a language's recorded responses."""
    spec = {
        **_task(task, (lang,), "texts"),
        "lang": lang,
        "features": rm.features if isinstance(rm, FrozenLM) else "",
        "objective": "",
        "recorded": True,
    }
    return _stage("features", _label("features", (lang,)) + " recorded", spec, {"lm": base(policy)})


@lru_cache(maxsize=4096)
def reward(
    task: Task,
    langs: tuple[str, ...],
    policy: Policy,
    training: Training,
    rm: RewardModel,
    seed: int,
    crossfitted: bool = False,
) -> Stage:
    """The reward model of one source, or of several pooled; or heads cross-fitted on recorded responses."""
    data = _task(task, langs, "recorded", "crossfitted") if crossfitted else _task(task, langs, objective_of(task, rm))
    spec = {
        **data,
        "langs": langs,
        "rm": msgspec.to_builtins(rm),
        "objective": objective_of(task, rm),
        "seed": seed,
    }
    parents: dict[str, Stage] = {}
    if crossfitted:
        assert isinstance(task, Files | Released)  # the tasks with recorded responses and folds
        spec |= {"folds": task.folds, "documents": task.documents}
    if isinstance(rm, FrozenLM) and crossfitted:
        reader, plain = _reader(rm, policy), _unshuffled(rm)
        parents = {f"features_{lang}": recorded_features(task, lang, reader, plain) for lang in langs}
    elif isinstance(rm, SentenceEncoder) and crossfitted:
        parents = {f"embed_{lang}": embed(task, lang, rm.encoder) for lang in langs}
        spec["encoder"] = encoder_identity(rm.encoder)
    elif isinstance(rm, Tuned):
        spec["truncation_side"] = _side(task, rm)
        parents = {"init": _start(task, langs, policy, training, rm, seed)}
    elif isinstance(rm, FrozenLM | SentenceEncoder):
        reader, plain = _reader(rm, policy), _unshuffled(rm)
        parents = {f"features_{lang}": features(task, lang, reader, plain, ()) for lang in langs}
    return _stage("reward", _label("reward", langs) + _mark(rm), spec, parents)


def _reader(rm: RewardModel, policy: Policy) -> LanguageModel:
    """The model that reads: the reward model's own, else the policy's base."""
    own = rm.checkpoint if isinstance(rm, FrozenLM) else None
    if own is None and isinstance(policy, LanguageModel):
        return policy
    return LanguageModel(checkpoint=own or "packaged")


def _start(task: Task, langs: tuple[str, ...], policy: Policy, training: Training, rm: Tuned, seed: int) -> Stage:
    """The model that a network's training starts from."""
    if isinstance(rm, Encoder):
        return own_checkpoint(rm, "checkpoint", policy, "encoder")
    assert isinstance(policy, LanguageModel)
    if rm.init == "sft":
        return sft(task, langs, policy, training, seed)
    return base(policy) if rm.init == "base" else own_checkpoint(rm, "init", policy)


def _unshuffled(rm: RewardModel) -> RewardModel:
    """Shuffled controls read the same features."""
    return msgspec.structs.replace(rm, permutation=0) if hasattr(rm, "permutation") else rm


def _mark(rm: RewardModel) -> str:
    permutation = getattr(rm, "permutation", 0)
    return f" shuffled {permutation}" if permutation else ""


def judge_stage(experiment: Experiment, judging: RewardModel | None = None) -> Stage:
    """The cell's last stage, and with it all that it needs; `judging` is the kind of the target's own RM."""
    judging = judging or experiment.rm_backbone
    check(experiment, judging)
    experiment = _with_facts(experiment)
    task, lang = experiment.task, experiment.target_lang.code
    pools = _samples(experiment, lang)
    parents = {"score": _score(experiment, pools), "verdict": _verdict(experiment, judging, pools), **pools}
    spec: dict[str, Any] = {"judge": experiment.judge.name, "n": _samples_picked_from(experiment)}
    if responses_recorded(experiment):
        spec |= {**_task(task, (lang,), "recorded"), "lang": lang}
    sources = _codes(experiment.source_langs) if has_source(experiment.rm_backbone) else ("-",)
    return _stage("judge", _label("judge", sources, (lang,)), spec, parents)


def _with_facts(experiment: Experiment) -> Experiment:
    """The experiment with the facts of its languages in its tasks."""
    langs = (*experiment.source_langs, experiment.target_lang)
    other = experiment.reward_task
    return msgspec.structs.replace(
        experiment,
        task=with_facts(experiment.task, langs),
        reward_task=None if other is None else with_facts(other, langs),
    )


def _samples(experiment: Experiment, lang: str) -> dict[str, Stage]:
    if responses_recorded(experiment):
        stage = recorded(experiment.task, lang)
        return {"pool": stage, "baseline": stage}
    shared = (experiment.task, lang, experiment.policy, experiment.sft, experiment.seed)
    return {"pool": samples("pool", *shared), "baseline": samples("baseline", *shared)}


def _samples_picked_from(experiment: Experiment) -> int | None:
    """n of best-of-n; None for recorded systems, whose prompts may differ in it."""
    if responses_recorded(experiment):
        return experiment.optimizer.n
    assert isinstance(experiment.policy, LanguageModel)
    return experiment.optimizer.n or experiment.policy.n


def _verdict(experiment: Experiment, judging: RewardModel, pools: Mapping[str, Stage]) -> Stage:
    """What the judge decides by: scores of the same two sample folders."""
    if experiment.judge.name == "target_rm":
        home = msgspec.structs.replace(experiment, source_langs=(experiment.target_lang,), rm_backbone=judging)
        return _score(home, pools)
    name = "human" if experiment.judge.name == "human" else "gold"
    lang = experiment.target_lang.code
    spec = {
        **_task(experiment.task, (lang,), "recorded" if name == "human" else "prompts"),
        "lang": lang,
        "rm": msgspec.to_builtins(Untrained(name)),  # type: ignore[arg-type]
        "objective": "",
    }
    return _stage("gold", _label(name, (lang,)), spec, pools)


def _score(experiment: Experiment, pools: Mapping[str, Stage]) -> Stage:
    task, rm, lang = experiment.task, experiment.rm_backbone, experiment.target_lang.code
    sources, people = _codes(experiment.source_langs), responses_recorded(experiment)
    parents, learned, objective = dict(pools), experiment.feedback_task, objective_of(experiment.feedback_task, rm)
    if has_source(rm):
        folds = cross_fitted(experiment)
        parents["reward"] = reward(learned, sources, experiment.policy, experiment.sft, rm, experiment.seed, folds)
    spec = {
        **_task(task, (lang,), "recorded" if people else _held_out(objective)),
        "lang": lang,
        "rm": msgspec.to_builtins(rm),
        "objective": objective,
    }
    if people:
        spec["recorded"], spec["source_langs"] = True, sources if has_source(rm) else ()
        if has_source(rm) and experiment.reward_task is not None:
            spec["elsewhere"] = True
    reader, plain = _reader(rm, experiment.policy), _unshuffled(rm)
    if isinstance(rm, FrozenLM) and people:
        parents["features"] = recorded_features(task, lang, reader, plain)
    elif isinstance(rm, FrozenLM) or (encoder_of(rm) and not people):
        parents["features"] = features(task, lang, reader, plain, tuple(pools.items()))
    elif encoder := encoder_of(rm):
        parents["embed"] = embed(task, lang, encoder)
        spec["encoder"] = encoder_identity(encoder)
    if isinstance(rm, Published):
        spec["truncation_side"] = _side(task, rm)
        use = "classifier" if isinstance(rm, Classifier) else "policy"
        parents |= {name: own_checkpoint(rm, name, experiment.policy, use) for name in checkpoints_of(rm)}
    if isinstance(rm, Untrained):
        if lm := _language_model_of(experiment, rm):
            parents |= lm
            spec |= _reading(task, experiment.policy)  # type: ignore[arg-type]  # which is a language model
        spec["seed"] = experiment.seed if rm.score == "random" else 0
    label = _label("score", sources if has_source(rm) else (name_of(rm),), (lang,))
    return _stage("score", label + _mark(rm), spec, parents)


def _language_model_of(experiment: Experiment, rm: Untrained) -> dict[str, Stage]:
    if not rm.score.startswith("likelihood") or not isinstance(experiment.policy, LanguageModel):
        return {}
    if rm.score.endswith("base"):
        return {"lm": base(experiment.policy)}
    lang = experiment.target_lang.code
    return {"lm": sft(experiment.task, (lang,), experiment.policy, experiment.sft, experiment.seed)}
