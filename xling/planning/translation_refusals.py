"""Which choices of reward_data, sft_data and translator go together: refused here, before anything runs."""

from collections.abc import Sequence

from xling.config.common import Language
from xling.config.rewards import has_source, name_of
from xling.config.translators import MicroNoisy, OfMicroWorld, RecordedTranslations, Seq2Seq, Translator
from xling.errors import ConfigError
from xling.experiment import Experiment
from xling.planning.translations import translates_feedback
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.translators.checks import check_model
from xling.translators.recorded import pairs_of


def check_translation(experiment: Experiment, recorded: bool) -> None:
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
    _check_languages(experiment, setting)
    if demonstrations:
        _check_demonstrations(experiment)
    _check_translator(experiment, experiment.translator)


def _check_languages(experiment: Experiment, setting: str) -> None:
    target = experiment.target_lang.code
    sources = [lang.code for lang in experiment.source_langs]
    if target in sources:
        shown = "+".join(sources)
        raise ConfigError(
            f"{setting} translates from source_lang={shown} into target_lang={target}, and that is one language. Type "
            "pairs=cross to leave out the cells at home, or reward_data=organic sft_data=organic for them."
        )


def _check_demonstrations(experiment: Experiment) -> None:
    setting, rm = f"sft_data={experiment.sft_data}", experiment.rm_backbone
    if not experiment.sft.steps:
        raise ConfigError(f"{setting} is data to fine-tune on, and sft.steps=0 fine-tunes nothing. Type sft.steps=300.")
    if experiment.sft_data == "round_trip" and len(experiment.source_langs) > 1:
        shown = "+".join(lang.code for lang in experiment.source_langs)
        raise ConfigError(
            f"sft_data=round_trip goes through one language and back, and source_lang={shown} are several. Type one, "
            "or sft_data=translated, which pools them."
        )
    if not has_source(rm):
        raise ConfigError(
            f"{setting} goes by the source language, and rm_backbone={name_of(rm)} has none: it is not trained. Use "
            "rm_backbone=same_as_policy, frozen_lm, xlm_roberta or bag_of_words, or sft_data=organic."
        )


def _check_translator(experiment: Experiment, translator: Translator) -> None:
    if isinstance(translator, OfMicroWorld) and not isinstance(experiment.task, MicroSummarization):
        task = experiment.task.__struct_config__.tag
        raise ConfigError(
            f"translator={translator.name} knows the embedded world alone, and task={task} is another. Type "
            "translator=nllb_600m, or translator=recorded translator.path=FILE."
        )
    if isinstance(translator, MicroNoisy) and translator.wrong + translator.dropped > 1:
        raise ConfigError(
            f"translator.wrong={translator.wrong:g} and translator.dropped={translator.dropped:g} are shares of the "
            "same words and add up to more than 1. Lower one of them."
        )
    if isinstance(translator, RecordedTranslations):
        _check_recorded(experiment, translator)
    if isinstance(translator, Seq2Seq):
        check_model(translator, directions(experiment))


def directions(experiment: Experiment) -> list[tuple[Language, Language]]:
    """(from, to): the languages that the cell's data is translated between."""
    target, found = experiment.target_lang, list[tuple[Language, Language]]()
    for source in experiment.source_langs:
        found.append((source, target))
        if experiment.sft_data == "round_trip":
            found.append((target, source))
    return found


def _check_recorded(experiment: Experiment, translator: RecordedTranslations) -> None:
    there = pairs_of(translator.path)
    for source, target in directions(experiment):
        pair = (source.code, target.code)
        if pair not in there:
            shown = ", ".join(f"{a} -> {b}" for a, b in there) or "none"
            raise ConfigError(
                f"translator.path={translator.path} has no translations {pair[0]} -> {pair[1]}; it has {shown}. "
                "`xling translate export` writes the texts that are needed."
            )


def notes(asked: Sequence[Experiment]) -> list[str]:
    """A sentence where a translator is named, or translated feedback asked for, and nothing is translated."""
    if any(e.sft_data != "organic" or translates_feedback(e) for e in asked):
        return []
    if untrained := sorted({name_of(e.rm_backbone) for e in asked if e.reward_data == "translated"}):
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
