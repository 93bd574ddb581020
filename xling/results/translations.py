"""Translated demonstrations and feedback: how they are stored, and how stages read them in place of the task's own.

A `translate` stage stores what was said and what it is worth; the prompt around a document is rendered when it is read,
so that another template translates nothing anew.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from xling.grid.stage import Context
from xling.jsonfiles import decode
from xling.tasks.options import Task, speakers, task_module
from xling.tasks.records import Demonstration, Pair, Prompt, Rating, Split
from xling.tasks.render import conversation

What = Literal["demonstrations", "ratings", "pairs"]
Item = Demonstration | Rating | Pair
SPLITS: tuple[Split, ...] = ("train", "validation")  # those that are translated: a target is tested on its own data
DATA = "data_"  # role of a parent that holds translated records: and the language that they were translated from


class Record(Struct, frozen=True, omit_defaults=True):
    """One demonstration, rating or pair without what stands around its document."""

    id: str
    lang: str
    group: str
    document: str
    response: str  # of a pair the chosen one
    rejected: str | None = None
    label: float | None = None
    system: str = ""
    dataset: str = ""
    subset: str = ""


def record_of(task: Task, item: Item) -> Record:
    """The record of an item of a task that was made bare (xling/tasks/render.py)."""
    prompt, said = item.prompt, item.chosen if isinstance(item, Pair) else item.response
    record = Record(prompt.id, prompt.lang, prompt.group, str(task_module(task).document_of(prompt)), said)
    record = msgspec.structs.replace(record, dataset=prompt.dataset, subset=prompt.subset)
    if isinstance(item, Pair):
        return msgspec.structs.replace(record, rejected=item.rejected)
    if isinstance(item, Rating):
        return msgspec.structs.replace(record, label=item.label, system=item.system)
    return record


def item_of(task: Task, what: What, record: Record, names: Sequence[str] = ()) -> Any:
    """The item of a record, its prompt as the task renders those of the record's language.

    names: of a chat's sides, whose turns are told by them.
    """
    document = conversation(record.document, names) if names else record.document
    text, content = task_module(task).prompt_around(task, record.lang, document)
    prompt = Prompt(record.id, record.lang, record.group, text, record.dataset, content, record.subset)
    if what == "pairs":
        return Pair(prompt, record.response, record.rejected or "")
    if what == "ratings":
        return Rating(prompt, record.response, record.label or 0.0, record.system)
    return Demonstration(prompt, record.response)


def write_records(folder: Path, split: Split, records: Iterable[Record]) -> None:
    """<split>.jsonl, a line a record."""
    with (folder / f"{split}.jsonl").open("wb") as file:
        for record in records:
            file.write(msgspec.json.encode(record, order="sorted") + b"\n")


def read_records(folder: Path, split: Split) -> Iterator[Record]:
    """The records of a translate stage's folder."""
    with (folder / f"{split}.jsonl").open("rb") as file:
        for line in file:
            yield decode(line, type=Record)


def translates(context: Context) -> bool:
    """Whether a stage learns from what its parents translated."""
    return any(role.startswith(DATA) for role in context.parents)


def given(context: Context, task: Task, langs: Sequence[str], what: What, split: Split) -> list[list[Any]]:
    """A stage's training data, a list a language: its parents' translations, or else the task's own data."""
    folders = [context.parents[role] for role in sorted(context.parents) if role.startswith(DATA)]
    if folders:
        names = speakers(task)
        return [[item_of(task, what, record, names) for record in read_records(folder, split)] for folder in folders]
    own = getattr(task_module(task), what)
    return [own(task, lang, split) for lang in langs]


def distinct(records: Iterable[Record]) -> list[str]:
    """All texts of the records, each once, in their order; empty ones are not translated."""
    texts: dict[str, None] = {}
    for record in records:
        for text in (record.document, record.response, record.rejected):
            if text and text.strip():
                texts.setdefault(text)
    return list(texts)


def translated(
    records: Sequence[Record], found: Mapping[str, str | None], lang: str
) -> tuple[list[Record], Counter[str]]:
    """The records in `lang` by the translations `found`, and how many were dropped, by reason."""
    kept: list[Record] = []
    dropped: Counter[str] = Counter()
    for record in records:
        document, response = found.get(record.document), found.get(record.response)
        rejected = None if record.rejected is None else found.get(record.rejected)
        if not document:
            dropped["a document without translation"] += 1
        elif not response or (record.rejected is not None and not rejected):
            dropped["a response without translation"] += 1
        elif response == rejected:
            dropped["two responses that became the same"] += 1
        else:
            changes = {"lang": lang, "document": document, "response": response, "rejected": rejected}
            kept.append(msgspec.structs.replace(record, **changes))
    return kept, dropped
