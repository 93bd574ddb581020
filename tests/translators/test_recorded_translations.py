"""translator=recorded: a file of translations made elsewhere."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from xling.errors import ConfigError, DataError
from xling.grid.stage import WHERE, Context
from xling.planning.translations import TranslateSpec
from xling.tasks.micro_summarization import Settings as MicroSummarization
from xling.translators import Spoken, Translate
from xling.translators.recorded import (
    missing,
    pair_digest,
    pairs_of,
    translate,
    translations,
    units_of,
)

ROWS = [
    {"source_lang": "en", "target_lang": "de", "text": "a flood", "translation": "eine Überschwemmung"},
    {"source_lang": "en", "target_lang": "de", "text": " two\nlines ", "translation": "zwei\nZeilen"},
    {"source_lang": "en", "target_lang": "de", "text": "nothing", "translation": ""},
    {"source_lang": "en", "target_lang": "de", "text": "unfinished", "translation": None},
    {"source_lang": "de", "target_lang": "en", "text": "ein Feuer", "translation": "a fire"},
]
EN, DE = Spoken("en", "Latn"), Spoken("de", "Latn")


def written(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(ROWS[0]))
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        import pandas

        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def translator(path: str, speakers: tuple[str, ...], digest: str, texts: list[str]) -> Translate:
    """What the translate stage of English to German gets for its texts, of the digest that the plan had."""
    spec = TranslateSpec(
        task=MicroSummarization(languages=()), digest="", what="ratings", source=EN, target=DE, speakers=speakers,
        translator={"name": "recorded"},
    )  # fmt: skip
    where = {"translations": digest, WHERE: {"translations": path}}
    return translate(Context(where, {}, Path(), Path()), spec, texts)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_texts_are_looked_up(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    assert pairs_of(path) == [("de", "en"), ("en", "de")]
    ask = translator(path, (), pair_digest(path, "en", "de", ["a flood"]), ["a flood"])
    assert ask(["a flood", "two\nlines", "a flood "]) == [
        "eine Überschwemmung", "zwei\nZeilen", "eine Überschwemmung",
    ]  # fmt: skip
    none = missing(path, "en", "de", ["nothing", "unfinished"])
    assert none == (["nothing", "unfinished"] if name.endswith("csv") else ["unfinished"])  # CSV has no empty text
    if none == ["unfinished"]:
        assert ask(["nothing"]) == [None]


def test_missing_texts_are_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl")
    with pytest.raises(DataError, match=r"no translation en -> de of 2 of 4 texts, the first of them 'a fire'.*export"):
        needed = ["a flood", "a fire", "a vote", "nothing"]
        translator(path, (), pair_digest(path, "en", "de", needed), needed)
    assert missing(path, "en", "de", units_of(["a fire", "a flood", " ", "a fire ", "42"], ())) == ["a fire"]
    assert missing(path, "en", "tr", ["a"]) == ["a"] and translations(path, "en", "tr") == {}
    with pytest.raises(DataError, match=r"of 1 of 1 texts, the first of them 'x{70,80}\.\.\."):
        translator(path, (), pair_digest(path, "en", "de", ["x" * 300]), ["x" * 300])


def test_rows_of_other_pairs_and_texts_change_nothing_and_its_own_do(tmp_path: Path) -> None:
    plain, more, other = (tmp_path / f"{name}.jsonl" for name in "abc")
    new = {"source_lang": "en", "target_lang": "tr", "text": "a flood", "translation": "sel"}
    unread = {"source_lang": "en", "target_lang": "de", "text": "a new text", "translation": "ein neuer Text"}
    again = [row | {"translation": "ein Hochwasser"} if row["text"] == "a flood" else row for row in ROWS]
    units = ["a flood", "a text that is not there"]
    digests = [
        pair_digest(written(plain), "en", "de", units),
        pair_digest(written(more, [new, unread, *ROWS[::-1]]), "en", "de", units[::-1]),
        pair_digest(written(other, again), "en", "de", units),
    ]
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(DataError, match=r"b\.jsonl has changed since the grid was planned"):
        translator(str(more), (), digests[2], ["a flood"])


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"translator\.path=.*nowhere\.csv is not a file"):
        pairs_of(str(tmp_path / "nowhere.csv"))
    path = tmp_path / "few.jsonl"
    path.write_text('{"text": "a", "translation": "b"}\n')
    with pytest.raises(DataError, match=r"has no column 'source_lang'; it has text, translation"):
        pairs_of(str(path))
    twice = [*ROWS, {**ROWS[0], "translation": "ein Hochwasser"}]
    with pytest.raises(DataError, match=r"line 6: a second translation en -> de of 'a flood', other than the first"):
        pairs_of(written(tmp_path / "twice.jsonl", twice))
    assert len(translations(written(tmp_path / "same.jsonl", [*ROWS, ROWS[0]]), "en", "de")) == 3


def test_chats_are_looked_up_line_by_line(tmp_path: Path) -> None:
    """Who speaks is not translated: the names are the task's, in every language."""
    path, names = written(tmp_path / "t.jsonl"), ("Human", "Assistant")
    chat = "Human: a flood\nAssistant: a flood\n\nHuman: 42\nAssistant:"
    assert units_of([chat, "a flood"], names) == ["a flood"]
    ask = translator(path, names, pair_digest(path, "en", "de", ["a flood"]), [chat])
    assert ask([chat, "a flood\nnothing"]) == [chat.replace("a flood", "eine Überschwemmung"), None]
