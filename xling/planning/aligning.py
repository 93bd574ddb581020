"""Whether what rm_backbone.alignment pulls together is parallel: refusals, and what the plan says of it."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from xling.errors import ConfigError, listed
from xling.options import name_of
from xling.rewards import alignment_of
from xling.tasks.options import Task, offers, task_module
from xling.tasks.records import absent
from xling.tasks.translated import nearer_to_its_own, strangers

if TYPE_CHECKING:
    from xling.experiment import Experiment

SETTING = "rm_backbone.alignment"


def check_parallel(task: Task, sources: tuple[str, ...], others: tuple[str, ...]) -> None:
    """ConfigError where a source has fewer than two documents with a translation: each is told apart from another."""
    if task_module(task).digest(task):  # generated, or not here: all documents stand in all languages
        if (count := getattr(task, "demonstrations", None)) is not None and count < 2:
            raise ConfigError(
                f"{SETTING} tells the translation of a document from another document, and task={name_of(task)} has "
                f"{count} for training. Type task.demonstrations=2 or more, or {SETTING}.weight=0."
            )
        return
    documents = {lang: _documents(task, lang) for lang in (*sources, *others)}
    for source in sources:
        shared = {lang: len(documents[source].keys() & documents[lang].keys()) for lang in others if lang != source}
        if all(count > 1 for count in shared.values()):
            continue
        alone = ", ".join(lang for lang, count in shared.items() if count < 2)
        kept = ",".join(
            lang for lang in others if all(len(documents[one].keys() & documents[lang].keys()) > 1 for one in sources)
        )
        raise ConfigError(
            f"{SETTING}: no two documents of task={name_of(task)} have one id in {source} and in {alone}, so that "
            "there are no parallel texts. Give translations of a document its id, or type "
            f"{SETTING}.{f'langs=[{kept}]' if kept else 'weight=0'}."
        )


def notes(asked: Sequence["Experiment"], typed: Collection[str]) -> list[str]:
    """Sentences where documents of one id do not look like translations, and where no weight makes use of settings.

    typed: the names of settings that the user gave.
    """
    aligned = [(one, own) for one in asked if (own := alignment_of(one.rm_backbone)) is not None]
    if not aligned and f"{SETTING}.langs" in typed:
        return [f"{SETTING}.langs changes nothing without a weight: type {SETTING}.weight=1 too."]
    found = dict[str, None]()
    for one, own in aligned:
        task = one.feedback_task
        if absent(task) or "demonstrations" not in offers(task) or task_module(task).digest(task):
            continue
        langs = own.langs or tuple(task_module(task).languages(task))
        if sentence := _strangers(task, tuple(lang.code for lang in one.source_langs), langs):
            found[sentence] = None
    return list(found)


@lru_cache(maxsize=4096)
def _strangers(task: Task, sources: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Pairs of languages whose documents of one id are hardly more alike than those of different ids."""
    documents, found = {lang: _documents(task, lang) for lang in (*sources, *others)}, list[str]()
    for source, other in product(sources, others):
        shared = sorted(documents[source].keys() & documents[other].keys())
        if source != other and len(shared) > 1:
            here, there = ([documents[lang][name] for name in shared] for lang in (source, other))
            if strangers(share := nearer_to_its_own(here, there), len(shared)):
                found.append(f"{source} and {other} ({100 * share:.0f} % of {len(shared)} documents)")
    if not found:
        return ""
    return (
        f"{SETTING} takes documents of one id for translations, and they do not look like it in {listed(found)}: in "
        "numbers, names and length they are nearer to their own than to another's no more often than by chance, 50 %. "
        f"Give ids to translations alone, or type {SETTING}.weight=0."
    )


@lru_cache(maxsize=256)
def _documents(task: Task, lang: str) -> Mapping[str, str]:
    """The text of each document of a language's training demonstrations by its id."""
    return {row.prompt.id: row.prompt.reward_text for row in task_module(task).demonstrations(task, lang, "train")}
