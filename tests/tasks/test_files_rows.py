"""Rows of one's own: every format reads the same, and every kind of bad row is named with its number."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from own_files import jsonl, paired, parquet, rated, separated

from xling.config import Columns
from xling.errors import ConfigError, DataError
from xling.tasks.reading import read_rows
from xling.tasks.rows import SHOWN, Reading, Row, Rows

GOOD: dict[str, Any] = {
    "id": "d1",
    "lang": "de",
    "document": "Ein Text.",
    "response": "Kurz.",
    "system": "a",
    "rating": 0.5,
}


def line(**changed: Any) -> bytes:
    """A good row with some fields changed, or left out where they are None."""
    return json.dumps({k: v for k, v in {**GOOD, **changed}.items() if v is not None}).encode()


def write(path: Path, *lines: bytes) -> Path:
    return jsonl(path, lines)


def read(*paths: Path, **settings: Any) -> Rows:
    return read_rows(list(paths), Reading(**settings))


def said(rows: Rows) -> list[tuple[Any, ...]]:
    """What the rows say, without where they are."""
    return [
        (row.kind, row.lang, row.id, row.prompt, row.response, row.other, row.rating, row.system)
        for found in rows.languages.values()
        for row in found
    ]


# --- bad rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(system=None), "`system` is missing"),
        (line(lang=None), "`lang` is missing"),
        (line(response=None), "`response` is missing"),
        (line(rating=None), "`rating` is missing"),
        (line(document=None), "`document` is missing"),
        (line(rating="good"), "`rating` is 'good', not a number"),
        (line(rating=[1]), "`rating` is [1], not a number"),
        (line().replace(b"0.5", b"null"), "`rating` is missing"),
        (line(rating=float("nan")), "`rating` is nan, not a finite number"),
        (line(rating=float("-inf")), "`rating` is -inf, not a finite number"),
        (line(rating="nan"), "`rating` is nan, not a finite number"),
        (line().replace(b"0.5", b"1e999"), "out of range"),
        (line(system=7), "`system` is 7, not text"),
        (line(response=3), "`response` is 3, not text"),
        (line(id=True), "`id` is True, neither text nor a whole number"),
        (line(id=" "), "`id` is empty"),
        (line(lang=" "), "`lang` is empty"),
        (line(document=""), "`document` is empty"),
        (line().replace(b"Kurz", b"K\xffrz"), "not UTF-8"),
        (line()[:-4], "not JSON"),
        (b"[1, 2]", "Expected `object`, got `array`"),
        (line(response="Lang."), "duplicate of line 1: id 'd1', lang 'de', system 'a', another response"),
        (line(system="b", document="Another text."), "the prompt of id 'd1' differs from the one in line 1"),
        (line(id="d9", split="trian"), "`split` is 'trian'; allowed are train, validation and test"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad: bytes, reason: str) -> None:
    split = {"split": "train"} if b"split" in bad else {}
    good = [line(**split), line(id="d2", **split), bad, line(id="d3", **split)]
    rows = read(write(tmp_path / "rows.jsonl", *good))
    [(place, found)] = rows.bad
    assert rows.name(place) == "line 3"
    assert reason in found
    assert rows.n == 4
    assert [row.id for row in rows.languages["de"]] == ["d1", "d2", "d3"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rejected": "good answer 1"}, "chosen and rejected are the same"),
        ({"chosen": " "}, "`chosen` is empty"),
        ({"rejected": ""}, "`rejected` is empty"),
        ({"prompt": []}, "`prompt` is [], not a list of {role, content}"),
        ({"prompt": [{"role": "user"}]}, "`prompt` has a turn without role or content"),
    ],
)
def test_a_bad_pair_is_named_with_its_line(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    rows = paired("de", 3)
    rows[1] |= changed
    found = read(jsonl(tmp_path / "pairs.jsonl", rows))
    [(place, why)] = found.bad
    assert place.number == 2 and reason in why


def test_the_same_pair_twice_is_a_duplicate_and_other_pairs_of_a_prompt_are_not(tmp_path: Path) -> None:
    first = paired("de", 1)[0]
    rows = read(jsonl(tmp_path / "pairs.jsonl", [first, first, first | {"rejected": "worse"}]))
    assert [(rows.name(place), why.split(":")[0]) for place, why in rows.bad] == [("line 2", "duplicate of line 1")]
    assert len(rows.languages["de"]) == 2


@pytest.mark.parametrize("system", ["a", None])
def test_several_raters_of_a_response_are_averaged_and_counted(tmp_path: Path, system: str | None) -> None:
    given = [line(rating=rating, system=system) for rating in (0, 1, 1)]
    rows = read(write(tmp_path / "f.jsonl", given[0], line(id="d2", system=system), *given[1:]))
    assert not rows.bad and rows.n == 4
    assert [(row.id, row.rating) for row in rows.languages["de"]] == [("d1", 2 / 3), ("d2", 0.5)]
    assert rows.named(rows.again["de"]) == "lines 3, 4"
    assert read(write(tmp_path / "g.jsonl", *given)).binary and not rows.binary  # what was given, not the mean
    other = read(write(tmp_path / "h.jsonl", *given, line(rating=1, response="L", system=system)))
    assert len(other.bad) == int(system is not None)  # two texts of one system; without systems both are read


def test_a_file_without_the_column_of_ratings_says_what_it_has(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "rating"} | {"score": 1} for row in rated("de", 2)]
    found = read(jsonl(tmp_path / "f.jsonl", rows), separated(tmp_path / "g.csv", rows))
    assert [one.numbers for one in found.unrated] == [("score",), ("score",)] and not found.rated
    assert found.unrated_text("rating") == (
        "f.jsonl has no column `rating`, so that its rows are demonstrations; its columns are id, lang, prompt, "
        "response, system, score. If one of them is a rating, type task.rating_field=score."
    )
    assert read(jsonl(tmp_path / "h.jsonl", rated("de", 2))).unrated_text("rating") == ""


def test_a_rating_outside_its_stated_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", line(rating=5), line(id="d2", rating=5.5), line(id="d3", rating=1))
    [(place, why)] = read(path, rating_scale=(1.0, 5.0)).bad
    assert place.number == 2 and why == "`rating` is 5.5, outside task.rating_scale=[1,5]"


def test_a_group_in_two_splits_is_a_bad_row(tmp_path: Path) -> None:
    rows = [
        line(id=f"d{n}", document=f"t{n}", group="g", split=split) for n, split in enumerate(["train", "train", "dev"])
    ]
    [(place, why)] = read(write(tmp_path / "rows.jsonl", *rows)).bad
    assert place.number == 3 and why == "split validation, and line 1 of the same group is in train"


def test_only_the_first_bad_rows_are_kept_but_all_are_counted(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", line(), *[b"{}"] * 25))
    assert rows.n_bad == 25
    assert [place.number for place, _ in rows.bad] == list(range(2, SHOWN + 2))


# --- columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": 1, "lang": "de", "promt": "x", "response": "y"}, r"f\.jsonl has no column `prompt` \(or `document`,"
         r".*its columns are id, lang, promt, response\. Did you mean 'promt'\? Type task\.columns\.prompt=NAME"),
        ({"id": 1, "prompt": "x", "response": "y"}, r"no column `lang` \(or `language`\).*task\.languages=\[de\]"),
        ({"lang": "de", "prompt": "x", "rating": 1}, r"no column `response`.*task\.columns\.response=NAME"),
        ({"lang": "de", "prompt": "x", "chosen": "y"}, r"no column `rejected`.*task\.columns\.rejected=NAME"),
    ],
)  # fmt: skip
def test_a_missing_column_is_named_with_those_found(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(jsonl(tmp_path / "f.jsonl", [row]))


def test_columns_of_any_name(tmp_path: Path) -> None:
    row = {"key": 4, "code": "de", "artikel": "Text", "zusammenfassung": "T", "wer": "a", "note": 2, "id": "not read"}
    columns = Columns(id="key", lang="code", prompt="artikel", response="zusammenfassung", system="wer")
    rows = read(jsonl(tmp_path / "f.jsonl", [row]), columns=columns, rating_field="note")
    assert said(rows) == [("rating", "de", "4", "Text", "T", "", 2.0, "a")]


def test_a_column_may_be_put_aside(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", line(id="row-1"), line(id="row-2", system="b"))
    found = read(path, columns=Columns(id=None)).languages["de"]
    assert len({row.id for row in found}) == 1  # prompts of the same text


def test_a_file_without_a_language_column_is_in_the_one_that_is_named(tmp_path: Path) -> None:
    rows = read(jsonl(tmp_path / "f.jsonl", [{"prompt": "x", "response": "y"}]), lang="tr")
    assert said(rows)[0][:2] == ("demonstration", "tr") and rows.without_language


# --- chats --------------------------------------------------------------------------------------------------


def test_messages_that_end_with_the_assistant_are_demonstrations(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    more = [*chat, {"role": "user", "content": "How?"}, {"role": "assistant", "content": "Well."}]
    rows = read(jsonl(tmp_path / "f.jsonl", [{"lang": "en", "messages": m} for m in (chat, more, more[:3])]))
    first, second = rows.languages["en"]
    assert (first.kind, first.response, second.response) == ("demonstration", "Hello", "Well.")
    assert "How?" in second.prompt and "Well." not in second.prompt
    assert first.group == second.group  # the chat's first turn: a later one must not be tested on an earlier one
    assert "does not end with the assistant" in rows.bad[0][1]


def test_pairs_of_whole_chats(tmp_path: Path) -> None:
    def chat(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]

    rows = read(jsonl(tmp_path / "f.jsonl", [{"lang": "en", "chosen": chat("Hello"), "rejected": chat("Go")}]))
    [row] = rows.languages["en"]
    assert (row.response, row.other) == ("Hello", "Go") and "Hi" in row.prompt


# --- formats ------------------------------------------------------------------------------------------------


def test_every_format_reads_the_same(tmp_path: Path) -> None:
    rows = rated("de", 4)
    rows[0]["response"] = 'A "quoted", text\nof two lines; with\ttab'
    rows[1]["prompt"] = rows[0]["prompt"] = "  spaces, \u4e2d\u6587 and \u0627\u0644\u0639\u0631\u0628\u064a\u0629 "
    paths = [
        jsonl(tmp_path / "f.jsonl", rows),
        separated(tmp_path / "f.csv", rows),
        separated(tmp_path / "f.tsv", rows, "\n"),
        parquet(tmp_path / "f.parquet", rows),
        tmp_path / "f.json",
        tmp_path / "f.csv.gz",
        tmp_path / "named_as_it_likes.txt",
    ]
    paths[4].write_text(json.dumps(rows, indent=1))
    paths[5].write_bytes(gzip.compress(paths[1].read_bytes()))
    paths[6].write_bytes(gzip.compress(paths[0].read_bytes()))
    wanted = said(read(paths[0]))
    for path in paths:
        found = read(path)
        assert not found.bad and said(found) == wanted, path.name
    chats = paired("de", 2)
    assert said(read(parquet(tmp_path / "p.parquet", chats))) == said(read(jsonl(tmp_path / "p.jsonl", chats)))


def test_byte_order_mark_windows_line_ends_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line() + b"\r\n\r\n  \n" + line(system="b") + b"\r\n")
    rows = read(path)
    assert not rows.bad
    assert rows.n == 2
    assert rows.languages["de"][1].place.number == 4
    table = separated(tmp_path / "rows.csv", rated("de", 1))
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert len(read(table).languages["de"]) == 2


def test_bad_lines_of_a_csv_are_named_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(
        b'lang,prompt,response,rating\r\nde,a,"two\r\nlines",1\r\nde,b,c\r\nde,d,\xff,1\r\nde,e,f,NaN\r\nde,g,,1\r\nde,h,i,0\r\n'
    )
    rows = read(path)
    assert [(place.number, why.split(". If")[0]) for place, why in rows.bad] == [
        (4, "3 cells, and the first row names 4"),
        (5, "not UTF-8 (byte 5: 0xff)"),
        (6, "`rating` is nan, not a finite number"),
        (7, "`response` is missing"),
    ]
    assert [row.prompt for row in rows.languages["de"]] == ["a", "h"]


def test_several_files_are_one_and_bad_rows_name_theirs(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", rated("de", 1))
    second = parquet(tmp_path / "b.parquet", [*rated("tr", 1), {**rated("tr", 2)[-1], "lang": ""}])
    rows = read(first, second)
    assert {lang: len(found) for lang, found in rows.languages.items()} == {"de": 2, "tr": 2}
    assert [(rows.name(place), why) for place, why in rows.bad] == [("b.parquet row 3", "`lang` is empty")]


def test_numeric_ids_and_empty_rated_responses_are_fine_but_said(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", line(id=17, response="")))
    [row] = rows.languages["de"]
    assert isinstance(row, Row) and (row.id, row.response) == ("17", "")
    assert rows.named(rows.empty["de"]) == "line 1"


def test_damaged_files_are_data_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(line(id=str(i)) for i in range(5000)))[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        read(path)
    table = parquet(tmp_path / "f.parquet", rated("de", 2))
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged Parquet"):
        read(table)
    twice = tmp_path / "f.csv"
    twice.write_text("lang,prompt,prompt\nde,a,b\n")
    with pytest.raises(DataError, match="several columns of the same name: prompt"):
        read(twice)


def test_a_file_that_cannot_be_read_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.path=PATH"):
        read(tmp_path / "absent.jsonl")
