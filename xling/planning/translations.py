"""The stages of machine-translated data, and those that learn from it: silver reward models, SFT without target data.

translate[demonstrations, s->t] -- sft[t, translated from s] -- pool[t, translated from s]
translate[demonstrations, t->s] -- translate[demonstrations, t->s->t] -- sft[t, round trip by s]
translate[ratings, s->t] -- reward[s->t]

What is translated is a use of a task's data, whatever stands around its documents: templates are in no key here. What
is wanted of a translator's module is the Protocol `Translator`; which choices go together is refused at the end.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from xling.config.common import Language, Objective, Training, pooled
from xling.config.policies import LanguageModel, Policy
from xling.errors import ConfigError
from xling.grid.stage import Context, Json, Stage
from xling.planning.specs import (
    base,
    check_batch,
    check_feedback_batch,
    codes,
    data_of,
    features_stage,
    fine_tuning,
    label_of,
    make,
    mark,
    side_of,
    start_of,
)
from xling.results.specs import DataSpec, FeaturesSpec, RewardSpec
from xling.results.translations import DATA, What
from xling.rewards import Reader, RewardSettings, alignment_of, has_source, objective_of, reader_of
from xling.tasks.options import Task, speakers
from xling.tasks.records import Half, HasTemplate, Use
from xling.tasks.render import bare, read_by
from xling.translators import TRANSLATORS, Direction, Spoken, Translate, TranslatorSettings

if TYPE_CHECKING:
    from xling.experiment import Experiment

READ_AS: dict[What, Use] = {"demonstrations": "demonstrations", "ratings": "pointwise", "pairs": "pairwise"}
FEEDBACK: dict[str, What] = {"pointwise": "ratings", "pairwise": "pairs"}


class Needed(NamedTuple):
    """Data of one language that a pair of languages is translated for."""

    task: Task
    what: What
    source: Language
    target: Language
    back: bool  # the way back of a round trip: what is translated is the target's data, as the way there made it


class Inputs(NamedTuple):
    """Everything that decides translations besides the data. All but `where` is in the key."""

    settings: dict[str, Json]  # the translator's name and settings
    parents: Mapping[str, Stage] = {}  # role -> stage, as the base stage of a model
    spec: Mapping[str, Json] = {}  # further entries of the translate stage's spec
    where: Mapping[str, Json] = {}  # where things lie


class TranslateSpec(DataSpec, frozen=True, kw_only=True):
    """translate: translated data. What else a translator's `inputs` puts into the spec, it reads there itself."""

    what: What
    source: Spoken
    target: Spoken
    speakers: tuple[str, ...]  # how the lines of a chat begin: not to be translated
    translator: dict[str, Any]


class Translator(Protocol):
    """A translator's module. `Settings` are its Struct, from TranslatorSettings, tagged with its name."""

    def check(self, translator: Any, experiment: "Experiment", directions: Sequence[Direction]) -> None:
        """ConfigError for what it cannot translate, with what to type instead."""

    def inputs(self, translator: Any, needed: Needed) -> Inputs:
        """Everything that decides its translations besides the data."""

    def translate(self, context: Context, spec: TranslateSpec, texts: Sequence[str]) -> Translate:
        """A function that translates some of the stage's `texts` at a time. DataError at once if it cannot."""

    def work(self, stage: Stage, tokens: int) -> Mapping[str, float]:
        """Floating-point operations of a translate stage over so many tokens, by sort of work."""


def module_of(translator: TranslatorSettings) -> Translator:
    """The module of a translator by its settings."""
    module: Translator = TRANSLATORS.of(translator)
    return module


def settings_of(translator: TranslatorSettings, *elsewhere: str) -> dict[str, Json]:
    """The settings that decide translations, but for those that other stages' keys have, or none.

    `reward_init` decides what a reward model starts from.
    """
    settings: dict[str, Json] = msgspec.to_builtins(translator)
    return {name: value for name, value in settings.items() if name not in ("reward_init", *elsewhere)}


def translates_feedback(experiment: "Experiment") -> bool:
    """Whether the cell's reward model learns from translations; one that learns nothing does not."""
    return experiment.reward_data == "translated" and has_source(experiment.rm_backbone)


# --- translations -------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def translate(
    task: Task,
    what: What,
    source: Language,
    target: Language,
    translator: TranslatorSettings,
    data: Stage | None = None,
) -> Stage:
    """translate[what, source->target]: of the source's own data, or of what a first one (`data`) made of the target's.

    Names of the languages are in no key: codes and scripts are what models are told.
    """
    own, parents = (source, {}) if data is None else (target, {"data": data})
    needed = Needed(task, what, source, target, data is not None)
    inputs = module_of(translator).inputs(translator, needed)
    spec = TranslateSpec(
        **data_of(bare(task), (own.code,), READ_AS[what]),
        what=what,
        source=Spoken(source.code, source.script),
        target=Spoken(target.code, target.script),
        speakers=speakers(task),
        translator=inputs.settings,
    )
    spec = msgspec.structs.replace(spec, where={**spec.where, **inputs.where})
    way = f"{source.code}->{target.code}" if data is None else f"{target.code}->{source.code}->{target.code}"
    label = label_of("translate", (what,), (way,))
    return make("translate", label, {**msgspec.to_builtins(spec), **inputs.spec}, {**parents, **inputs.parents})


def _read_in(task: Task, sources: tuple[str, ...], target: str, use: Use) -> dict[str, Any]:
    """The sources' data in a spec, rendered as the target's prompts are."""
    data = data_of(task, sources, use)
    if not isinstance(task, HasTemplate):
        return data
    read = read_by(use, task.template, task.facts, (target,))
    return {**data, "task": msgspec.structs.replace(data["task"], **read)}


# --- what learns from them ----------------------------------------------------------------------------------


def regime_of(experiment: "Experiment") -> tuple[str, ...]:
    """Words of a label on an SFT policy that learnt from translations; empty for an organic one."""
    if experiment.sft_data == "organic":
        return ()
    way = "translated from" if experiment.sft_data == "translated" else "round trip by"
    return (f"{way} {pooled(codes(experiment.source_langs))}",)


def policy_of(experiment: "Experiment") -> Stage:
    """The SFT policy that the cell samples or aligns where it is not the organic one."""
    task, policy, target, translator = experiment.task, experiment.policy, experiment.target_lang, experiment.translator
    assert isinstance(policy, LanguageModel) and translator is not None
    data: dict[str, Stage] = {}
    for source in experiment.source_langs:
        if experiment.sft_data == "translated":
            stage = translate(task, "demonstrations", source, target, translator)
        else:
            there = translate(task, "demonstrations", target, source, translator)
            stage = translate(task, "demonstrations", source, target, translator, there)
        data[DATA + source.code] = stage
    check_batch(task, codes(experiment.source_langs), "demonstrations", experiment.sft, "sft.batch_size")
    shared = (task, target.code, policy, experiment.sft, experiment.seed)
    return _translated_sft(*shared, tuple(sorted(data.items())), regime_of(experiment))


@lru_cache(maxsize=4096)
def _translated_sft(
    task: Task,
    target: str,
    policy: LanguageModel,
    training: Training,
    seed: int,
    data: tuple[tuple[str, Stage], ...],
    regime: tuple[str, ...],
) -> Stage:
    """sft[t, translated from s]. The target's own demonstrations are named to measure it by: it learns from none."""
    spec = fine_tuning(task, (target,), policy, training, seed)
    label = label_of("sft", (target,), *((one,) for one in regime))
    return make("sft", label, spec, {"base": base(policy), **dict(data)})


def silver(experiment: "Experiment", half: Half | None = None) -> Stage:
    """reward[s->t]: the reward model of one source, or of several pooled, on feedback translated into the target."""
    task, rm, translator = experiment.feedback_task, experiment.rm_backbone, experiment.translator
    assert translator is not None
    what = FEEDBACK[objective_of(task, rm)]
    data = {
        DATA + source.code: translate(task, what, source, experiment.target_lang, translator)
        for source in experiment.source_langs
    }
    sources, target = codes(experiment.source_langs), experiment.target_lang.code
    check_feedback_batch(task, sources, rm, half)
    start = (target,) if translator.reward_init == "target" else sources
    shared = (experiment.policy, experiment.sft, rm, experiment.seed)
    return _silver(task, sources, target, start, *shared, tuple(sorted(data.items())), half)


@lru_cache(maxsize=4096)
def _silver(
    task: Task,
    sources: tuple[str, ...],
    target: str,
    start: tuple[str, ...],
    policy: Policy,
    training: Training,
    rm: RewardSettings,
    seed: int,
    data: tuple[tuple[str, Stage], ...],
    half: Half | None,
) -> Stage:
    objective = objective_of(task, rm)
    spec = RewardSpec(
        **_read_in(task, sources, target, objective), langs=sources, rm=rm, objective=objective, seed=seed, half=half
    )
    parents = dict(data)
    if (init := start_of(task, start, policy, training, rm, seed)) is not None:
        spec = msgspec.structs.replace(spec, truncation_side=side_of(task, rm, sources))
        parents["init"] = init
    for source in sources:
        if (reader := reader_of(rm, policy, side_of(task, rm, (source,)))) is not None:
            parents[f"features_{source}"] = _features(task, source, target, objective, reader, parents[DATA + source])
    return make("reward", label_of("reward", heard(sources, target)) + mark(rm, half), spec, parents)


@lru_cache(maxsize=4096)
def _features(task: Task, source: str, target: str, objective: Objective, reader: Reader, data: Stage) -> Stage:
    """Stage with a frozen model's features of translated feedback."""
    spec = FeaturesSpec(**_read_in(task, (source,), target, objective), lang=source, objective=objective)
    return features_stage(label_of("features", heard((source,), target)), spec, reader, {DATA + source: data})


def heard(sources: tuple[str, ...], target: str) -> tuple[str, ...]:
    """Words of a label on a reward model of translated feedback: en->tr, de+en->tr."""
    return (f"{pooled(sources)}->{target}",)


# --- what is refused ----------------------------------------------------------------------------------------


def check_translation(experiment: "Experiment", recorded: bool) -> None:
    """ConfigError for data that cannot be translated; `recorded`: nothing is sampled, responses are recorded."""
    feedback, demonstrations = translates_feedback(experiment), experiment.sft_data != "organic"
    if not (feedback or demonstrations):
        return
    setting = f"sft_data={experiment.sft_data}" if demonstrations else "reward_data=translated"
    if recorded:
        raise ConfigError(
            f"{setting} goes with a language model whose responses are sampled, and here they are recorded. Type "
            f"{setting.partition('=')[0]}=organic."
        )
    if experiment.translator is None:
        raise ConfigError(
            f"{setting} needs a translator. Type translator=nllb_600m (or nllb_3_3b, madlad_3b), translator=recorded "
            "translator.path=FILE for translations made elsewhere, or in the embedded world translator=micro_exact."
        )
    if feedback and (aligned := alignment_of(experiment.rm_backbone)) is not None:
        raise ConfigError(
            f"rm_backbone.alignment.weight={aligned.weight:g} ties what is learnt in the source to others, and "
            "with reward_data=translated all is learnt in the target. Type rm_backbone.alignment.weight=0, or "
            "reward_data=organic."
        )
    _check_languages(experiment, setting)
    if lang := (experiment.task if demonstrations else experiment.feedback_task).document_lang:
        raise ConfigError(
            f"{setting} translates documents with their summaries, and with task.document_lang={lang} these are in two "
            f"languages. Type task.document_lang=null, or {setting.partition('=')[0]}=organic."
        )
    if demonstrations:
        _check_demonstrations(experiment)
    module_of(experiment.translator).check(experiment.translator, experiment, directions(experiment))


def _check_languages(experiment: "Experiment", setting: str) -> None:
    target = experiment.target_lang.code
    sources = [lang.code for lang in experiment.source_langs]
    if target in sources:
        shown = pooled(sources)
        raise ConfigError(
            f"{setting} translates from source_lang={shown} into target_lang={target}, and that is one language. Type "
            "pairs=cross to leave out the cells at home, or reward_data=organic sft_data=organic for them."
        )


def _check_demonstrations(experiment: "Experiment") -> None:
    setting, rm = f"sft_data={experiment.sft_data}", experiment.rm_backbone
    if not experiment.sft.steps:
        raise ConfigError(f"{setting} is data to fine-tune on, and sft.steps=0 fine-tunes nothing. Type sft.steps=300.")
    if experiment.sft_data == "round_trip" and len(experiment.source_langs) > 1:
        shown = pooled(lang.code for lang in experiment.source_langs)
        raise ConfigError(
            f"sft_data=round_trip goes through one language and back, and source_lang={shown} are several. Type one, "
            "or sft_data=translated, which pools them."
        )
    if not has_source(rm):
        raise ConfigError(
            f"{setting} goes by the source language, and rm_backbone={rm.name} has none: it is not trained. Use "
            "rm_backbone=same_as_policy, frozen_lm, xlm_roberta or bag_of_words, or sft_data=organic."
        )


def directions(experiment: "Experiment") -> list[Direction]:
    """(from, to): the languages that the cell's data is translated between."""
    target, found = experiment.target_lang, list[Direction]()
    for source in experiment.source_langs:
        found.append((source, target))
        if experiment.sft_data == "round_trip":
            found.append((target, source))
    return found


def notes(asked: Sequence["Experiment"]) -> list[str]:
    """A sentence where a translator is named, or translated feedback asked for, and nothing is translated."""
    if any(e.sft_data != "organic" or translates_feedback(e) for e in asked):
        return []
    if untrained := sorted({e.rm_backbone.name for e in asked if e.reward_data == "translated"}):
        return [
            f"reward_data=translated changes nothing here: rm_backbone={', '.join(untrained)} learns from no feedback. "
            "Use rm_backbone=same_as_policy, frozen_lm, xlm_roberta or bag_of_words, or reward_data=organic."
        ]
    named = {experiment.translator.name for experiment in asked if experiment.translator is not None}
    return (
        []
        if not named
        else [
            f"translator={', '.join(sorted(named))} translates nothing here: type reward_data=translated or "
            "sft_data=translated, or leave it out."
        ]
    )
