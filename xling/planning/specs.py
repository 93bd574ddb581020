"""Builds the stages below a cell. A spec holds only what a stage's result depends on, because its hash is the key.

Functions are cached: the cells of a grid share their stages.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from xling.config.common import Language, Training, pooled
from xling.config.policies import LanguageModel, Policy
from xling.errors import ConfigError
from xling.grid.stage import WHERE, Stage
from xling.models.checkpoints import chat_template
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
    tokenizer_folder,
)
from xling.models.ridge import half_of
from xling.models.weights import converted, names_idle_bos, template_digest
from xling.options import name_of
from xling.planning.aligning import check_parallel
from xling.results.specs import (
    BaseSpec,
    FeaturesSpec,
    ParallelSpec,
    PoolSpec,
    RecordedSpec,
    RewardSpec,
    ScoreSpec,
    SftSpec,
    by_content,
    by_texts,
    by_turns,
    data_spec,
    without_memory,
)
from xling.rewards import (
    REWARDS,
    Base,
    EncoderReader,
    LanguageReader,
    Model,
    Reader,
    RewardSettings,
    alignment_of,
    budget_of,
    objective_of,
    reader_of,
)
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.tasks.defaults import CAP_OF
from xling.tasks.options import Kind, Task, offers, size, task_module
from xling.tasks.records import Half, HasFolds, Use, absent

OWN_CODE = "local"  # of a folder whose own code may run, wherever that lies
LOGITS_OF = {"score": "lm", "features": "lm", "align": "sft"}  # kinds of stages, and the parent whose logits they take
# Whose logits were once taken from its states without UMT5's scale or the `final_logits_bias` of BART and its kin. What
# it said, what it learnt from demonstrations, and its states never were wrong.
_CHANGED = "umt5 bart bigbird_pegasus blenderbot blenderbot-small led marian mbart mvp pegasus plbart"
LOGITS_CHANGED = frozenset(_CHANGED.split())


def make(
    kind: str, label: str, spec: Struct | Mapping[str, Any], parents: Mapping[str, Stage], by_text: bool = False
) -> Stage:
    """A stage of a kind; checkpoints in folders stand in its key as what is in them, settings of memory do not, and of
    data of which texts alone are read these.

    by_text: chats are text to it also where its model has a chat template.
    """
    from xling.planning import KINDS  # whose making imports the judges' modules, and these import this one

    own = msgspec.to_builtins(spec)
    own |= logits_changed(kind, own, parents)
    if not by_text and _reads_by_template(parents):
        own = dict(by_turns(own))
    return Stage.make(kind, KINDS[kind].version, label, by_content(without_memory(by_texts(own))), parents)


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


MODELS = (
    "base",
    "sft",
    "init",
    "lm",
    "reward",
    "policy",
    "reference",
    "checkpoint",
)  # roles of what a stage reads with


def _reads_by_template(parents: Mapping[str, Stage]) -> bool:
    """Whether one of a stage's models is asked by a chat template, so that chats are more to it than their text."""
    models = [parents[role] for role in MODELS if role in parents]
    return any(bool(up.spec.get("template")) if up.kind == "base" else _reads_by_template(up.parents) for up in models)


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


def shared_out(data: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """`data_of` a training, with how several processes share its weights, where that is asked for."""
    if not isinstance(policy, LanguageModel):
        return data
    asked = {name: how for name in ("parallel", "gather") if (how := getattr(policy, name)) != "auto"}
    return data | {WHERE: data.get(WHERE, {}) | asked} if asked else data


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
    spec = BaseSpec(
        checkpoint=checkpoint,
        digest="",
        dtype=policy.dtype,
        attention=policy.attention,
        remote_code=policy.remote_code,
        pad_token=policy.pad_token,
        use="" if use == "policy" else use,
    )
    commit = commit_of(checkpoint, policy.revision, setting) if is_repository(checkpoint) else ""
    if use in ("policy", "classifier") and (template := chat_template(replace(policy, revision=commit or None))):
        spec = replace(spec, template=template_digest(template))
    if checkpoint == "pretrain":
        return make("base", "base", replace(spec, digest=recipe_digest()), {})
    if commit:
        spec = replace(spec, commit=commit, bos=_bos(checkpoint, commit, use))
        return make("base", f"base {checkpoint}@{commit[:7]}", spec, {})
    folder = BASE_FOLDER if checkpoint == "packaged" else Path(checkpoint)
    if checkpoint == "packaged" and not (folder / "config.json").exists():
        raise ConfigError(f"This copy of xling has no micro base in {folder}. Run `make base` to train it.")
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"{setting}={checkpoint} is no folder of a model in Hugging Face format (config.json is missing)."
            + (converted(folder) or f" Use {setting}=packaged, a local folder, or a hub id (owner/name).")
        )
    if checkpoint == "packaged":
        return make("base", "base", replace(spec, digest=folder_digest(folder)), {})
    if policy.remote_code is not None:
        spec = replace(spec, remote_code=OWN_CODE, code=code_of(folder))
    return make("base", "base", replace(spec, digest=checkpoint_digest(folder), bos=_bos(checkpoint, "", use)), {})


def _bos(checkpoint: str, commit: str, use: str) -> Literal["", "idle"]:
    """What tells results of models whose prompts once began with a bos that their tokenizers never put."""
    folder = tokenizer_folder(checkpoint, commit) if use == "policy" else None
    return "idle" if folder is not None and names_idle_bos(folder) else ""


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
    check_batch(task, langs, "demonstrations", training, "sft.batch_size")
    spec = fine_tuning(task, langs, policy, training, seed)
    return make("sft", label_of("sft", langs), spec, {"base": base(policy)})


def fine_tuning(task: Task, langs: tuple[str, ...], policy: LanguageModel, training: Training, seed: int) -> SftSpec:
    """Spec of a fine-tuned policy; its base, and data that was translated for it, are parents."""
    again = training.gradient_checkpointing or policy.gradient_checkpointing
    return SftSpec(
        **shared_out(data_of(task, langs, "demonstrations"), policy),
        **reading(task, policy, langs),
        langs=langs,
        training=replace(training, gradient_checkpointing=again),
        max_new_tokens=policy.max_new_tokens,
        tuning=policy.tuning,
        lora=None if policy.tuning == "full" else policy.lora,
        seed=seed,
    )


def check_batch(
    task: Task, langs: Sequence[str], what: Kind, training: Training, setting: str, half: Half | None = None
) -> None:
    """ConfigError for rows that are fewer than a batch to train on: how many there are, and what to type.

    langs: whose rows they are, also where they are translated into another language; setting: the batch's size; half:
    of the documents that they are about. Rows that a paper states sizes of, and many that would have to be made to be
    halved, are not counted.
    """
    if not training.steps:
        return
    counts = [_count(task, lang, what, half, 4 * training.batch_size) for lang in langs]
    rows = sum(count for count in counts if count is not None)
    if None in counts or not 0 < rows < training.batch_size:  # why there are none the task says
        return
    name = CAP_OF[what] if task_module(task).counted(task, what, "train") is None else what
    most = getattr(task, name, None)
    there = f"task.{name}={most} leaves" if most else "There are"
    of = f"to the {half} half of judge.half=true" if half else "to train on"
    instead = [f"Type {setting}={rows} or less", f"raise task.{name}" if most else "add data"]
    instead += ["type judge.half=false"] * bool(half)
    raise ConfigError(
        f"{there} {rows} {what} of {pooled(langs)} {of}, less than one batch: {setting}={training.batch_size}. "
        f"{', or '.join(instead)}."
    )


def _count(task: Task, lang: str, what: Kind, half: Half | None, few: int) -> int | None:
    """A language's rows to train on, or those of a half; None: not known, or of generated data more than `few`."""
    count = size(task, lang, what, "train")
    if half is None or count is None:
        return count
    if absent(task) or (count > few and task_module(task).counted(task, what, "train") is not None):
        return None
    return sum(half_of(row.prompt.group) == half for row in getattr(task_module(task), what)(task, lang, "train"))


def check_feedback_batch(task: Task, langs: Sequence[str], rm: RewardSettings, half: Half | None) -> None:
    """`check_batch` of a reward model, where it is trained by gradient descent."""
    if (own := budget_of(rm)) is not None:
        what: Kind = "pairs" if objective_of(task, rm) == "pairwise" else "ratings"
        check_batch(task, langs, what, own.training, "rm_backbone.training.batch_size", half)


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
    spec = sampling_of(task, lang, policy, kind, n, seed)
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


def sampling_of(
    task: Task, lang: str, policy: LanguageModel, purpose: str, n: int, seed: int, use: Use = "prompts"
) -> PoolSpec:
    """How a policy is sampled, whoever it is; `use`: of the data whose prompts it answers."""
    data = data_of(task, (lang,), use)
    if policy.sampling_memory is not None:
        data = data | {WHERE: data.get(WHERE, {}) | {"sampling_memory": policy.sampling_memory}}
    return PoolSpec(
        **data,
        **reading(task, policy, (lang,)),
        lang=lang,
        purpose=purpose,
        n=n,
        temperature=policy.temperature,
        top_p=policy.top_p,
        max_new_tokens=policy.max_new_tokens,
        chunk=policy.sampling_chunk,
        by_length=policy.by_length,
        engine=policy.engine,
        seed=seed,
    )


@lru_cache(maxsize=4096)
def recorded(task: Task, lang: str) -> Stage:
    """Recorded responses: pool and opponent at once."""
    spec = RecordedSpec(**data_of(task, (lang,), "recorded"), lang=lang)
    return make("recorded", label_of("recorded", (lang,)), spec, {})


@lru_cache(maxsize=4096)
def embed(task: Task, lang: str, encoder: str) -> Stage:
    """A language's recorded texts under a frozen sentence encoder."""
    spec = ScoreSpec(
        **data_of(task, (lang,), "texts"),
        lang=lang,
        rm=SentenceEncoder(encoder),
        objective="",
        encoder=encoder_identity(encoder),
    )
    return make("embed", label_of("embed", (lang,)), spec, {})


@lru_cache(maxsize=4096)
def features(task: Task, lang: str, objective: str, reader: Reader, pools: tuple[tuple[str, Stage], ...]) -> Stage:
    """Stage with a frozen model's features of a language's feedback, or of its samples and held-out feedback."""
    data = data_of(task, (lang,), held_out(objective) if pools else objective)
    label = label_of("features", (lang,)) + (" samples" if pools else "")
    return features_stage(label, FeaturesSpec(**data, lang=lang, objective=objective), reader, dict(pools))


def features_stage(label: str, spec: FeaturesSpec, reader: Reader, parents: Mapping[str, Stage]) -> Stage:
    """A features stage; its spec says what the reader reads too."""
    return make("features", label, msgspec.to_builtins(spec) | texts_read(reader), {**parents, **reading_model(reader)})


@lru_cache(maxsize=4096)
def recorded_features(task: Task, lang: str, reader: Reader) -> Stage:
    """Stage with a frozen model's features of a language's recorded responses."""
    if isinstance(reader, EncoderReader):
        return embed(task, lang, reader.encoder)
    spec = FeaturesSpec(**data_of(task, (lang,), "texts"), lang=lang, objective="", recorded=True)
    return features_stage(label_of("features", (lang,)) + " recorded", spec, reader, {})


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
    data = shared_out(data_of(task, langs, "crossfitted" if crossfitted else objective), policy)
    if not crossfitted:
        check_feedback_batch(task, langs, rm, half)
    spec = RewardSpec(**data, langs=langs, rm=rm, objective=objective, seed=seed, half=half)
    parents: dict[str, Stage] = {}
    if crossfitted:
        assert isinstance(task, HasFolds)  # others are refused (xling/planning/refusals.py)
        permuted = bool(getattr(rm, "permutation", 0))
        spec = replace(spec, folds=task.folds, documents=task.documents, by_text=permuted)
    elif (init := start_of(task, langs, policy, training, rm, seed)) is not None:
        spec, parents["init"] = replace(spec, truncation_side=side_of(task, rm, langs)), init
    if (aligned := alignment_of(rm)) is not None:
        parents["parallel"] = parallel(task, langs, aligned.langs)
    for lang in langs if reader is not None else ():
        own = reader_of(rm, policy, side_of(task, rm, (lang,)))
        assert own is not None
        if crossfitted:
            parents[f"{recorded_role(own)}_{lang}"] = recorded_features(task, lang, own)
        else:
            parents[f"features_{lang}"] = features(task, lang, objective, own, ())
    if crossfitted and isinstance(reader, EncoderReader):
        spec = replace(spec, encoder=encoder_identity(reader.encoder))
    return make("reward", label_of("reward", langs) + mark(rm, half), spec, parents)


@lru_cache(maxsize=4096)
def parallel(task: Task, sources: tuple[str, ...], named: tuple[str, ...]) -> Stage:
    """parallel[l, ...]: unlabelled documents of the sources and of other languages, `named` or all of the task.

    ConfigError where a source has none in common with one of them.
    """
    module, setting = task_module(task), "rm_backbone.alignment"
    there = tuple(module.languages(task))
    others = tuple(lang for lang in named or there if lang not in sources or len(sources) > 1)
    if unknown := [lang for lang in named if lang not in there]:
        raise ConfigError(
            f"{setting}.langs names {', '.join(unknown)}, and task={name_of(task)} has {', '.join(there)}. Type some "
            f"of these, or {setting}.langs=[] for all."
        )
    if not others:
        raise ConfigError(
            f"{setting} has no language to align source_lang={pooled(sources)} to. Name others: "
            f"{setting}.langs=[{','.join(lang for lang in there if lang not in sources)}]."
        )
    if "demonstrations" not in offers(task):
        raise ConfigError(
            f"{setting} reads the documents of training demonstrations in several languages, and task={name_of(task)} "
            f"has no demonstrations. Type {setting}.weight=0."
        )
    if one := task.document_lang:
        raise ConfigError(
            f"{setting} pulls a document and its translation together, and with task.document_lang={one} reward models "
            f"read documents in one language. Type task.document_lang=null, or {setting}.weight=0."
        )
    check_parallel(task, sources, others)
    langs = tuple(sorted({*sources, *others}))
    spec = msgspec.to_builtins(ParallelSpec(**data_of(task, langs, "demonstrations"), langs=langs))
    return make("parallel", label_of("parallel", *((lang,) for lang in langs)), by_turns(spec), {})


def start_of(
    task: Task, langs: tuple[str, ...], policy: Policy, training: Training, rm: RewardSettings, seed: int
) -> Stage | None:
    """The model that a reward model starts from, where that is an SFT policy the one of `langs`. None: of no model."""
    start = REWARDS.of(rm).start
    return None if start is None else stage_of(start(rm, policy), task, langs, policy, training, seed)


def mark(rm: RewardSettings, half: Half | None = None) -> str:
    permutation = getattr(rm, "permutation", 0)
    return (f" shuffled {permutation}" if permutation else "") + (f" {half} half" if half else "")
