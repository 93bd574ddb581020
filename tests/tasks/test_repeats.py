"""Prompts that one character tells apart: all of them are found, and they are one document."""

import random
import shlex
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import msgspec
import pytest
from own_files import jsonl, rated

from xling.tasks import files, repeats
from xling.tasks.files import Settings as Files
from xling.tasks.repeats import nearly_same


def one_apart(one: str, other: str) -> bool:
    """The slow way: each change of a character, by hand."""
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) == len(longer):
        return sum(a != b for a, b in zip(shorter, longer, strict=True)) == 1
    return shorter in {longer[:place] + longer[place + 1 :] for place in range(len(longer))}


def test_all_that_one_character_tells_apart_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "SHORTEST", 1)
    draw = random.Random(3)
    texts = {"".join(draw.choices("ab", k=draw.randint(1, 7))) for _ in range(40)}
    for _ in range(60):  # around the sizes at which texts are halved, and those that share a half
        text = "".join(draw.choices("abc", k=draw.choice((15, 16, 17, 18, 33, 34, 35, 70))))
        texts.add(text)
        for _ in range(3):
            place = draw.randrange(len(text))
            texts.add(text[:place] + draw.choice(("", "a", "bb")) + text[place + 1 :])
    found = set(nearly_same(texts))
    assert found == {pair for pair in combinations(sorted(texts), 2) if one_apart(*pair)} and len(found) > 150


def test_of_prompts_of_one_template_each_two_are_compared_once() -> None:
    """Each way to halve them told the same pairs again: 4,000 prompts that a number told apart took a minute."""
    template = "Sum up what is said below. " * 20

    def compared(names: Iterable[object]) -> list[tuple[int, int]]:
        texts = [f"{template} document {name} {template}" for name in names]
        return sorted(repeats._candidates(texts, [(number, 0, len(text)) for number, text in enumerate(texts)]))

    assert not compared(range(200))  # digits alone tell them apart
    assert compared("abcdefghijklmnopqrstuvwxyz") == list(combinations(range(26), 2))


@pytest.mark.parametrize(
    "name",
    ["doc-id", "docId", "Doc ID", "article_no", "ArticleNumber", "Dokumentnummer", "id_documento", "message_tree_id",
     "número_de_artículo", "ссылка", "文章编号", "group_id", "parent"],
)  # fmt: skip
def test_a_column_that_names_documents_is_noticed_however_it_is_spelt(tmp_path: Path, name: str) -> None:
    rows = [row | {name: f"d{number // 4}"} for number, row in enumerate(rated("de", 24))]
    rows[0] |= {name: None}  # of few it may say nothing
    for column in ("domain", "source_lang", "prompt_length", "title"):  # which name no documents
        rows = [row | {column: f"{number // 8}"} for number, row in enumerate(rows)]
    notes = files.summary(Files(str(jsonl(tmp_path / "own.jsonl", rows)), ())).notes()
    [note] = [note for note in notes if "nothing reads it" in note]
    assert f"`{name}` has 12 values for 24 prompts" in note
    assert f"type {shlex.quote(f'task.columns.group={name}')}: splits" in note


def test_a_short_prompt_and_one_with_another_digit_are_others() -> None:
    long = "x" * 120
    assert list(nearly_same(["What is a cat?", "What is a bat?"])) == []
    assert list(nearly_same([f"{long} 12 of them", f"{long} 13 of them"])) == []
    assert list(nearly_same([f"{long} of them", f"{long} of then"])) == [(f"{long} of them", f"{long} of then")]


def test_nearly_the_same_document_is_never_on_both_sides_of_a_fold(tmp_path: Path) -> None:
    rows = [row | {"prompt": f"{row['prompt']} {'is long ' * 20}and old"} for row in rated("de", 12)]
    named = [
        row | {"prompt": row["prompt"].replace(" document ", " ") + chr(ord("a") + i // 2)}
        for i, row in enumerate(rows)
    ]
    path = str(jsonl(tmp_path / "own.jsonl", named))
    task = Files(path, ())
    assert len({prompt.group for prompt in files.recorded(task, "de").prompts}) == 12  # digits tell these apart too
    twin = [row | {"id": "twin", "prompt": row["prompt"].replace("old", "odd")} for row in named[:2]]
    both = msgspec.structs.replace(task, path=str(jsonl(tmp_path / "twin.jsonl", [*named, *twin])))
    groups = {prompt.id: prompt.group for prompt in files.recorded(both, "de").prompts}
    assert groups["twin"] == groups[named[0]["id"]] and len(set(groups.values())) == 12
    assert [note for note in files.summary(both).notes() if "one character alone: 1." in note]
