"""Tasks: what each dataset family gives per language, in one record format."""

from collections.abc import Collection, Sequence
from typing import cast

from xling.config.tasks import Files, MicroSummarization, MRewardBench, Oasst, Released, Seahorse, Task
from xling.errors import ConfigError
from xling.tasks import files, m_rewardbench, micro_summarization, oasst, released, seahorse
from xling.tasks.absent import AbsentTask, absent
from xling.tasks.records import Offer, Prompt, TaskModule, Use
from xling.tasks.render import SPEAKERS, language_of, rendered

MODULES: dict[type[Task], TaskModule] = {
    MicroSummarization: cast(TaskModule, micro_summarization),
    Files: cast(TaskModule, files),
    MRewardBench: cast(TaskModule, m_rewardbench),
    Seahorse: cast(TaskModule, seahorse),
    Released: cast(TaskModule, released),
    Oasst: cast(TaskModule, oasst),
}


def task_module(config: Task) -> TaskModule:
    """The module that knows the task of a config. ConfigError where neither data nor published sizes are there."""
    module = MODULES[type(config)]
    if not absent(config):
        return module
    if not hasattr(module, "published"):
        raise ConfigError("task.path must be given: the paper states no sizes of this task. Type task.path=PATH.")
    return cast(TaskModule, AbsentTask(module))


def offers(config: Task) -> frozenset[Offer]:
    """What the task offers: of your own data what is there."""
    module = task_module(config)
    found: frozenset[Offer] = module.offers(config) if hasattr(module, "offers") else module.OFFERS
    return found


def truncation_side(config: Task, langs: Collection[str] = ()) -> str:
    """Where too long a prompt is cut if no setting says it: right (a document's end); left (a chat's oldest turns).

    langs: whose prompts are read; none named: of all languages of the task.
    """
    module = task_module(config)
    if hasattr(module, "truncation_side"):
        return str(module.truncation_side(config, langs))
    return str(getattr(module, "TRUNCATION_SIDE", "right"))


def lacking(config: Task, what: Offer) -> str:
    """Why your own data may not have what is needed, as a sentence after another; or nothing."""
    module = task_module(config)
    return f" {module.lacking(config, what)}".rstrip() if hasattr(module, "lacking") else ""


def ignored(config: Task, splits: bool) -> list[str]:
    """Sentences on settings of your own data that decide nothing: `splits` are read, or every row is."""
    module = task_module(config)
    found: list[str] = module.ignored(config, splits) if hasattr(module, "ignored") else []
    return found


def require(config: Task, langs: Sequence[str], use: Use) -> None:
    """ConfigError where your own data has too little for a use."""
    module = task_module(config)
    if hasattr(module, "require"):
        module.require(config, langs, use)


def document_of(config: Task, prompt: Prompt) -> str:
    """The document or chat of a prompt of a task that was made `bare` (xling/tasks/render.py)."""
    module = task_module(config)
    return str(module.document_of(prompt)) if hasattr(module, "document_of") else prompt.text


def prompt_around(config: Task, lang: str, document: str) -> tuple[str, str]:
    """(`Prompt.text`, `Prompt.content`) of a document in a language, as the task's own prompts are rendered."""
    module = task_module(config)
    if hasattr(module, "prompt_around"):
        return str(module.prompt_around(document, lang)), ""
    return rendered(config.template, document, language_of(config.facts, lang))  # type: ignore[union-attr]  # with one


def speakers(config: Task) -> tuple[str, ...]:
    """How the lines of a chat begin, in every language; nothing where prompts are documents."""
    return tuple(getattr(config, "roles", SPEAKERS)) if truncation_side(config) == "left" else ()
