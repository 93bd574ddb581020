"""The stages of machine-translated data, and those that learn from it: silver reward models, SFT without target data.

translate[demonstrations, s->t] -- sft[t, translated from s] -- pool[t, translated from s]
translate[demonstrations, t->s] -- translate[demonstrations, t->s->t] -- sft[t, round trip by s]
translate[ratings, s->t] -- reward[s->t]

What is translated is a use of a task's data, whatever stands around its documents: templates are in no key here.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from xling.config.common import Language, Training
from xling.config.policies import LanguageModel, Policy
from xling.config.rewards import FrozenLM, RewardModel, SentenceEncoder, Tuned, has_source, objective_of
from xling.config.tasks import HasTemplate, absent
from xling.config.translators import RecordedTranslations, Seq2Seq, Translator
from xling.experiment import Experiment
from xling.grid.stage import WHERE, Stage
from xling.planning.specs import (
    base,
    codes,
    data_of,
    fine_tuning,
    frozen_reader,
    frozen_reading,
    halved,
    label_of,
    make,
    mark,
    reader_of,
    side_of,
    start_of,
    texts_read,
    unshuffled,
)
from xling.results.translations import DATA, SPLITS, Record, What, distinct, record_of, translated
from xling.tasks.options import Task, task_module
from xling.tasks.records import Half, Use
from xling.tasks.render import SPEAKERS, bare, read_by
from xling.translators.checks import checkpoint_of
from xling.translators.languages import own_code
from xling.translators.recorded import pair_digest, put_together, translations, units_of

READ_AS: dict[What, Use] = {"demonstrations": "demonstrations", "ratings": "pointwise", "pairs": "pairwise"}
FEEDBACK: dict[str, What] = {"pointwise": "ratings", "pairwise": "pairs"}
# how models are found is their base stage's; whose SFT policy a reward model starts from is its own
NOT_TRANSLATION = ("reward_init", "checkpoint", "revision", "dtype", "path")


def translates_feedback(experiment: Experiment) -> bool:
    """Whether the cell's reward model learns from translations; one that learns nothing does not."""
    return experiment.reward_data == "translated" and has_source(experiment.rm_backbone)


# --- translations -------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def translate(
    task: Task, what: What, source: Language, target: Language, translator: Translator, data: Stage | None = None
) -> Stage:
    """translate[what, source->target]: of the source's own data, or of what a first one (`data`) made of the target's.

    Names of the languages are in no key: codes and scripts are what models are told.
    """
    own = source if data is None else target
    spec = {
        **data_of(bare(task), (own.code,), READ_AS[what]),
        "what": what,
        "source": _spoken(source),
        "target": _spoken(target),
        "speakers": speakers(task),
        "translator": _settings(translator, source.code, target.code),
    }
    parents = {} if data is None else {"data": data}
    if isinstance(translator, Seq2Seq):
        parents["lm"] = model_of(translator, source, target)
        spec["model"] = parents["lm"].key  # for what is remembered of it
    if isinstance(translator, RecordedTranslations):
        units = _units(bare(task), what, source.code, target.code, translator.path, data is not None)
        spec["translations"] = pair_digest(translator.path, source.code, target.code, units)
        spec[WHERE] = {**spec.get(WHERE, {}), "translations": translator.path}
    way = f"{source.code}->{target.code}" if data is None else f"{target.code}->{source.code}->{target.code}"
    return make("translate", label_of("translate", (what,), (way,)), spec, parents)


def speakers(task: Task) -> tuple[str, ...]:
    """How the lines of a chat begin, in every language; nothing where prompts are documents."""
    chats = task_module(task).truncation_side(task) == "left"
    return tuple(getattr(task, "roles", SPEAKERS)) if chats else ()


def _units(task: Task, what: What, source: str, target: str, path: str, back: bool) -> Sequence[str]:
    """The texts that recorded translations are looked up for; `back`: what the first half of a round trip made."""
    if absent(task):
        return ()
    names, records = speakers(task), _records(task, what, target if back else source)
    if back:
        known = translations(path, target, source)
        said = {text: put_together(text, names, known) for text in distinct(records)}
        records, _ = translated(records, said, source)
    return units_of(distinct(records), names)


@lru_cache(maxsize=8)
def _records(task: Task, what: What, lang: str) -> Sequence[Record]:
    read = getattr(task_module(task), what)
    return [record_of(task, item) for split in SPLITS for item in read(task, lang, split)]


def _spoken(language: Language) -> dict[str, str]:
    return {"code": language.code, "script": language.script}


def _settings(translator: Translator, *pair: str) -> dict[str, Any]:
    """What decides a pair's translations, besides the model and the file that are named elsewhere."""
    settings: dict[str, Any] = msgspec.to_builtins(translator)
    if isinstance(translator, Seq2Seq):
        named = {code: own_code(translator.codes, code) for code in sorted(pair)}
        settings["codes"] = [f"{code}:{theirs}" for code, theirs in named.items() if theirs]
    return {name: value for name, value in settings.items() if name not in NOT_TRANSLATION}


def model_of(translator: Seq2Seq, source: Language, target: Language) -> Stage:
    """The base stage of a pair's model; of one that knows many languages the same for all."""
    checkpoint = checkpoint_of(translator, source.code, target.code)
    model = LanguageModel(checkpoint, revision=translator.revision, dtype=translator.dtype)
    return base(model, "translator.checkpoint", "translator")


def _read_in(task: Task, sources: tuple[str, ...], target: str, use: Use) -> dict[str, Any]:
    """The sources' data in a spec, rendered as the target's prompts are."""
    spec = dict(data_of(task, sources, use))  # which others read too
    if isinstance(task, HasTemplate):
        read = read_by(use, task.template, task.facts, (target,))
        spec["task"] = {**spec["task"], **msgspec.to_builtins(read)}
    return spec


# --- what learns from them ----------------------------------------------------------------------------------


def regime_of(experiment: Experiment) -> tuple[str, ...]:
    """What labels say of an SFT policy that learnt from translations; nothing of an organic one."""
    if experiment.sft_data == "organic":
        return ()
    way = "translated from" if experiment.sft_data == "translated" else "round trip by"
    return (f"{way} {'+'.join(codes(experiment.source_langs))}",)


def policy_of(experiment: Experiment) -> Stage:
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


def silver(experiment: Experiment, half: Half | None = None) -> Stage:
    """reward[s->t]: the reward model of one source, or of several pooled, on feedback translated into the target."""
    task, rm, translator = experiment.task, experiment.rm_backbone, experiment.translator
    assert translator is not None
    what = FEEDBACK[objective_of(task, rm)]
    data = {
        DATA + source.code: translate(task, what, source, experiment.target_lang, translator)
        for source in experiment.source_langs
    }
    sources, target = codes(experiment.source_langs), experiment.target_lang.code
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
    rm: RewardModel,
    seed: int,
    data: tuple[tuple[str, Stage], ...],
    half: Half | None,
) -> Stage:
    objective = objective_of(task, rm)
    spec = {
        **_read_in(task, sources, target, objective),
        "langs": sources,
        "rm": msgspec.to_builtins(rm),
        "objective": objective,
        "seed": seed,
        **halved(half),
    }
    parents = dict(data)
    if isinstance(rm, Tuned):
        spec["truncation_side"] = side_of(task, rm, sources)
        parents["init"] = start_of(task, start, policy, training, rm, seed)
    elif isinstance(rm, FrozenLM | SentenceEncoder):
        reader, plain = reader_of(rm, policy), unshuffled(rm)
        for source in sources:
            parents[f"features_{source}"] = _features(task, source, target, reader, plain, parents[DATA + source])
    return make("reward", label_of("reward", heard(sources, target)) + mark(rm, half), spec, parents)


@lru_cache(maxsize=4096)
def _features(task: Task, source: str, target: str, policy: LanguageModel, rm: RewardModel, data: Stage) -> Stage:
    """What a frozen model sees of translated feedback."""
    objective = objective_of(task, rm)
    spec = {**_read_in(task, (source,), target, objective), "lang": source, "objective": objective}
    parents = {DATA + source: data}
    if isinstance(rm, FrozenLM):
        spec |= frozen_reading(task, rm, (source,))
        parents["lm"] = frozen_reader(rm, policy)
    else:
        spec |= texts_read(task, rm, (source,))
    return make("features", label_of("features", heard((source,), target)), spec, parents)


def heard(sources: tuple[str, ...], target: str) -> tuple[str, ...]:
    """What labels say of a reward model on translated feedback: en->tr, de+en->tr."""
    return (f"{'+'.join(sources)}->{target}",)
