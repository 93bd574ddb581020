"""translator=micro_exact: the embedded world's own (xling/tasks/micro/translation.py), which needs no model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xling.errors import ConfigError
from xling.grid.stage import Context, Stage
from xling.planning.translations import Inputs, Needed, TranslateSpec, settings_of
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.translators import Direction, Translate, TranslatorSettings

if TYPE_CHECKING:
    from xling.experiment import Experiment


class Settings(TranslatorSettings, frozen=True, kw_only=True, tag="micro_exact"):
    """The embedded world's own: what is said is read, and said again in the other language, errors included."""


def check(translator: TranslatorSettings, experiment: "Experiment", directions: Sequence[Direction]) -> None:
    """ConfigError for texts of another world."""
    if not isinstance(experiment.task, MicroSummarization):
        task = experiment.task.__struct_config__.tag
        raise ConfigError(
            f"translator={translator.name} knows the embedded world alone, and task={task} is another. Type "
            "translator=nllb_600m, or translator=recorded translator.path=FILE."
        )


def inputs(translator: Settings, needed: Needed) -> Inputs:
    """Nothing but its settings."""
    return Inputs(settings_of(translator))


def translate(context: Context, spec: TranslateSpec, texts: Sequence[str]) -> Translate:
    """Exact translations."""
    from xling.tasks.micro.translation import exactly

    return lambda some: [exactly(text, spec.source.code, spec.target.code) for text in some]


def work(stage: Stage, tokens: int) -> Mapping[str, float]:
    """Next to nothing."""
    return {}
