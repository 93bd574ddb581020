"""Rows of one's own: every format reads the same, and every kind of bad row is named with its number."""

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from own_files import jsonl, paired, parquet, rated, separated

from xling.errors import ConfigError
from xling.tasks.files import Settings as Files
from xling.tasks.findings import said as said_of
from xling.tasks.reading import read_rows
from xling.tasks.records import turns_of
from xling.tasks.rows import Columns, Reading, Row, Rows
from xling.tasks.tables import SHOWN
from xling.tasks.texts import INVISIBLE, matched, plain

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
        (line(rating=-1e101), "`rating` is -1e+101, a number too large to be averaged"),
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
        (line(rating=5.5), "`rating` is 5.5, outside task.rating_scale=[-5,5]"),
        (line(response="a\0b"), "`response` has a NUL character: 'a\\x00b'"),
        (line(document="a\0"), "`document` has a NUL character"),
        (line(id="d1\0"), "`id` has a NUL character"),
        (line(system="a\0"), "`system` has a NUL character"),
        (line(group="g\0"), "`group` has a NUL character"),
        (line(dataset="g\0"), "`dataset` has a NUL character"),
        (line(lang="de\0"), "`lang` has a NUL character"),
        (line(document="\u200b\ufeff \u2060"), "`document` is empty"),
        (line(id="\u200b"), "`id` is empty"),
        (line(id="nan"), "`id` is 'nan', which stands for a missing value"),
        (line(group="None"), "`group` is 'None', which stands for a missing value"),
        (line(document="NaN"), "`document` is 'NaN', which stands for a missing value"),
        (line(response="nan"), "`response` is 'nan', which stands for a missing value"),
        (line(response=True), "`response` is True, not text"),
        (line(id=1.5), "`id` is 1.5, neither text nor a whole number"),
        (line(id=float("nan")), "`id` is missing"),
        (line(id=1e17), "`id` is 1e+17, a number that has lost digits"),
        (line(lang=float("nan")), "`lang` is missing"),
        (line(response=float("nan")), "`response` is missing"),
        (line(rating="1_0"), "`rating` is '1_0', not a number"),
        (line(rating="\u0663"), "`rating` is '\u0663', not a number"),
        (line(rating="3/5"), "not a number. Write 3, and say the scale once: task.rating_scale=[LOWEST,5]"),
        (line(rating="4,5 out of 5"), "Write 4.5, and say the scale once: task.rating_scale=[LOWEST,5]"),
        (line(rating="80 %"), "not a number. Write 80 without the sign; the scale is task.rating_scale=[0,100]"),
        (line(rating="five"), "not a number. Write numbers, as in 1 for the worst and 5 for the best"),
        (line(rating="2\u20134"), "not a number. Of a range write one number, as its middle: 3"),
        (line(rating="\u22123 points"), "not a number. Write -3 alone"),
        (line(rating="1 000"), "not a number. Write one number, with no marks"),
        (line(rating="N/A"), "not a number. Where nobody rated leave the row out (task.bad_rows=skip)"),
        (line(rating=[1, 2]), "not a number. Write one number; of several people a row each"),
        (line(rating="4,5"), "`rating` is '4,5': write a point, as in 4.5"),
        (line(rating="1,000"), "`rating` is '1,000': write a point"),
        (line(rating=10**400), "`rating` is 1000"),
        (line(id="x" * 300_000, document="other", lang=7), "`lang` is"),
        (line(document={"a": "x" * 300_000}), "`document` is {'a': 'xxx"),
        (line(lang="d" * 300_000 + "\0"), "`lang` has a NUL character"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad: bytes, reason: str) -> None:
    split = {"split": "train"} if b"split" in bad else {}
    good = [line(**split), line(id="d2", **split), bad, line(id="d3", **split)]
    rows = read(write(tmp_path / "rows.jsonl", *good), rating_scale=(-5.0, 5.0))
    [(place, found)] = rows.bad
    assert rows.name(place) == "line 3" and rows.n == 4
    assert reason in found and len(found) < 300
    assert [row.id for row in rows.languages["de"]] == ["d1", "d2", "d3"]


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
    assert rows.named(rows.noted["again", "de"]) == "lines 3, 4"
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
    assert rows.named(rows.noted["empty", "de"]) == "line 1"


# --- what a value is ----------------------------------------------------------------------------------------


def test_names_are_the_same_whatever_their_type_spaces_and_unicode_form(tmp_path: Path) -> None:
    """1, "1", 1.0 and " 1 " are one id; texts stay as they are."""
    ids = [1, "1", 1.0, " 1 ", "1.0", "1\u200b", "\ufeff1"]
    systems = [f" syst\u00e8me {n}" if n % 2 else f"syste\u0300me {n}\u200d " for n in range(len(ids))]
    given = [
        line(id=name, system=system, group="\u00e9" if n else "e\u0301 ")
        for n, (name, system) in enumerate(zip(ids, systems, strict=True))
    ]
    rows = read(write(tmp_path / "f.jsonl", *given))
    found = rows.languages["de"]
    assert not rows.bad and {(row.id, row.group) for row in found} == {("1", "\u00e9")}
    assert {row.system for row in found} == {f"syst\u00e8me {n}" for n in range(len(ids))}
    path = tmp_path / "f.csv"
    path.write_text("id,lang,prompt,response,rating\n1.0,de, p ,e\u0301 \u200b,True\n2.0,de,q,r,false\n")
    first, second = sorted(read(path).languages["de"], key=lambda row: row.id)
    assert (first.id, first.prompt, first.response, first.rating) == ("1", " p ", "e\u0301 \u200b", 1.0)
    assert (second.id, second.rating) == ("2", 0.0)


def test_names_that_differ_in_case_alone_are_two_and_said(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "f.jsonl", line(system="GPT"), line(system="gpt"), line(id="D1", document="Zwei.")))
    assert not rows.bad and sorted(rows.similar) == [("id", "D1", "d1"), ("system", "GPT", "gpt")]


def test_raters_that_differ_in_case_or_spaces_alone_are_two_and_said(tmp_path: Path) -> None:
    """Also where a response has several ratings and is one row; who differs in spaces around the name is the same."""
    raters = ["Ann", "ann ", " Ann", "Bob", "Bob  B", "bob B", 7, "7.0"]
    given = [line(rater=name, rating=n % 5) for n, name in enumerate(raters)]
    rows = read(write(tmp_path / "f.jsonl", *given))
    assert rows.similar == [("rater", "Ann", "ann"), ("rater", "Bob  B", "bob B")]


def test_decimal_commas_where_semicolons_separate(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(
        "lang;prompt;response;rating\nde;a;b;4,5\nde;c;d;-0,25\nde;e;f;3\nde;g;h;1.000\nde;i;j;1,0,0\nde;k;l;4,5/5,5\n"
    )
    rows = read(path)
    assert [row.rating for row in sorted(rows.languages["de"], key=lambda row: row.place)] == [4.5, -0.25, 3.0]
    assert [why for _, why in rows.bad] == [
        "`rating` is '1.000', and before it numbers have a comma",
        "`rating` is '1,0,0', not a number. Write one number, with no marks but that of its decimals",
        "`rating` is '4,5/5,5', not a number. Write 4,5, and say the scale once: task.rating_scale=[LOWEST,5.5]",
    ]


def test_a_column_that_begins_after_those_that_are_looked_at_is_not_lost(tmp_path: Path) -> None:
    """Columns of JSON lines are told by the first rows; a rating further down would be silently ignored."""
    rows = [line(id=f"d{n}", document=f"t{n}", rating=None) for n in range(1000)]
    found = read(write(tmp_path / "f.jsonl", *rows, line(id="last", document="t")))
    [(place, why)] = found.bad
    assert place.number == 1001 and why.startswith("`rating` is here and in none of the first 1000 rows")


# --- the same text ------------------------------------------------------------------------------------------

SAME = [
    "Was f\u00fcr eine Gr\u00f6\u00dfe?",
    "Was fu\u0308r eine Gro\u0308\u00dfe?",
    " Was f\u00fcr  eine\nGr\u00f6\u00dfe? ",
    "was F\u00dcR eine gr\u00f6\u00dfe?",
    "\ufeffWas f\u00fcr\u00a0eine Gr\u00f6\u200b\u00dfe?",
    "Was f\u00fcr eine Gr\u00f6\u00dfe\uff1f",
]
OTHER = "Was f\u00fcr eine Gro\u00dfe?"


@pytest.mark.parametrize("group", [False, True])
def test_one_text_in_another_unicode_form_case_or_spacing_is_of_one_group(tmp_path: Path, group: bool) -> None:
    given = [line(id=f"d{n}", document=text, group=f"g{9 - n}" if group else None) for n, text in enumerate(SAME)]
    other = line(id="other", document=OTHER, group="h" if group else None)
    rows = read(write(tmp_path / "f.jsonl", *given, other)).languages["de"]
    assert {row.prompt for row in rows} == {*SAME, OTHER}  # as they are
    assert len({row.group for row in rows}) == 2
    assert {row.id for row in rows if row.group == next(r.group for r in rows if r.id == "other")} == {"other"}
    backwards = read(write(tmp_path / "g.jsonl", other, *given[::-1])).languages["de"]
    assert {row.id: row.group for row in backwards} == {row.id: row.group for row in rows}
    other = read(write(tmp_path / "h.jsonl", *given, line(id="t", lang="tr", document=SAME[0]))).languages
    assert {row.group for row in other["tr"]} == {row.group for row in other["de"]}  # in any language


def test_one_text_in_two_forms_is_said_and_is_not_in_two_splits(tmp_path: Path) -> None:
    given = [line(id=f"d{n}", document=text, split="train") for n, text in enumerate(SAME[:2])]
    rows = read(write(tmp_path / "f.jsonl", *given, line(id="d9", document=SAME[2], split="test")))
    [(place, why)] = rows.bad
    assert place.number == 3 and why == "split test, and line 1 of the same group is in train"
    assert rows.named(rows.noted["alike", "de"]) in ("line 1", "line 2")
    [(_, why)] = read(
        write(tmp_path / "g.jsonl", given[0], line(id="d0", document=SAME[1], system="b", split="train"))
    ).bad
    assert why == "the prompt of id 'd0' differs from the one in line 1 in Unicode form, case or spaces alone"
    apart = [
        line(id=f"d{n}", document=text, split=split, group=split)
        for n, (text, split) in enumerate(zip(SAME, ("train", "dev"), strict=False))
    ]
    assert len(read(write(tmp_path / "h.jsonl", *apart)).noted["crossing", "de"]) == 1


# --- conversations ------------------------------------------------------------------------------------------

HI = "Human: Hi\nAssistant:"
USER, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}


def answered(*turns: dict[str, str], answer: str = "Hello") -> list[dict[str, str]]:
    return [*turns, {"role": "assistant", "content": answer}]


BYE = {"role": "user", "content": "Bye"}
OTHER_PROMPT = "a response is to another conversation than the prompt"
CHAT_AS_TEXT = "\n\nHuman: Was ist das?\n\nAssistant: "


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"chosen": "bad", "rejected": "bad"}, "chosen and rejected are the same"),
        *(({"chosen": "an answer", "rejected": other}, "same but for spaces, invisible characters or Unicode form")
          for other in ("an  answer", "an answer\u200b", " an answer\n")),
        ({"chosen": " "}, "`chosen` is empty"),
        ({"rejected": ""}, "`rejected` is empty"),
        ({"prompt": []}, "`prompt` is [], not a list of {role, content}"),
        ({"prompt": [{"role": "user"}]}, "`prompt` has a turn without role or content"),
        ({"prompt": [{"from": "human", "value": "x"}]}, "Call `from` role and `value` content"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "Write the content as one text"),
        ({"prompt": "Bye", "chosen": answered(USER), "rejected": answered(USER, answer="Go")}, OTHER_PROMPT),
        ({"prompt": [BYE], "chosen": answered(USER), "rejected": "Go"}, OTHER_PROMPT),
    ],
)  # fmt: skip
def test_a_bad_pair_is_named_with_its_line(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    rows = paired("de", 3)
    rows[1] |= changed
    [(place, why)] = read(jsonl(tmp_path / "pairs.jsonl", rows)).bad
    assert place.number == 2 and reason in why


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": answered(USER), "rejected": answered(BYE, answer="Go")}, OTHER_PROMPT),
        ({"chosen": answered(USER), "rejected": answered(SYSTEM, BYE, answer="Go")}, OTHER_PROMPT),
        ({"chosen": answered(USER), "rejected": answered(*answered(USER), USER, answer="Go")}, OTHER_PROMPT),
        ({"chosen": answered(SYSTEM, USER), "rejected": answered(USER, answer="Go")}, OTHER_PROMPT),
        ({"prompt": "Hi", "chosen": answered(USER), "rejected": answered(SYSTEM, USER, answer="Go")}, OTHER_PROMPT),
        ({"prompt": "Bye", "response": answered(USER)}, OTHER_PROMPT),
        ({"prompt": "Bye", "response": answered(USER), "rating": 1}, OTHER_PROMPT),
        ({"chosen": answered(USER), "rejected": [*answered(USER), USER]}, "`rejected` does not end with the assistant"),
        ({"chosen": f"{CHAT_AS_TEXT}gut", "rejected": f"{CHAT_AS_TEXT}schlecht"},  # the prompt would come from them
         "not a list of {role, content}. A chat in one text cannot be told apart: give what comes before the response"),
        # chats written as text
        ({"prompt": "Hi", "response": "[{'role': 'user', 'content': 'Hi'}\n {'role': 'assistant', 'content': 'x'}]"},
         "`response`"),  # as numpy shows an array
        ({"prompt": "Hi", "response": "[{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'x'}]"}, "`from`"),
        ({"prompt": "Hi", "response": '[{"role": "user", "role": "system", "content": "x"}]'}, "`response`"),
        ({"prompt": "Hi", "response": "[{'role': 'assistant', 'content': '\\ud800'}]"}, "`response`"),
        ({"prompt": "Hi", "response": "[{'role': 'user', 'content': " + "(" * 5000 + ")" * 5000 + "}]"}, "`response`"),
        ({"prompt": "Hi", "response": "[{'role': __import__('os').getcwd(), 'content': 'x'}]"}, "`response`"),
    ],
)  # fmt: skip
def test_a_bad_conversation_is_not_read(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    rows = read(jsonl(tmp_path / "f.jsonl", [{"lang": "en", **row}]))
    [(_, why)] = rows.bad
    assert reason in why and not rows.languages


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi", "chosen": answered(USER), "rejected": answered(USER, answer="Go")}, "Hi"),
        ({"prompt": "Hi", "chosen": answered(SYSTEM, USER), "rejected": "Go"}, f"Be kind.\n{HI}"),
        ({"prompt": [USER], "chosen": answered(SYSTEM, USER), "rejected": "Go"}, f"Be kind.\n{HI}"),
        ({"prompt": [SYSTEM, USER], "chosen": answered(USER), "rejected": "Go"}, f"Be kind.\n{HI}"),
        ({"prompt": "How?", "chosen": answered(*answered(USER), {"role": "user", "content": "How?"}), "rejected": "Go"},
         "Human: Hi\nAssistant: Hello\nHuman: How?\nAssistant:"),
        ({"prompt": f" {HI}", "chosen": answered(USER), "rejected": "Go"}, f" {HI}"),
        ({"prompt": "Hi", "chosen": answered(), "rejected": answered(answer="Go")}, "Hi"),
        ({"prompt": "Hi", "chosen": answered()[0], "rejected": answered(answer="Go")[0]}, "Hi"),
        ({"chosen": answered(USER | {"role": "prompter"}), "rejected": answered(USER, answer="Go")}, HI),
        ({"chosen": answered(SYSTEM | {"content": " "}, USER), "rejected": answered(USER, answer="Go")}, HI),
    ],
)  # fmt: skip
def test_a_conversation_that_says_more_than_the_prompt_is_the_prompt(
    tmp_path: Path, row: dict[str, Any], prompt: str
) -> None:
    found = read(jsonl(tmp_path / "f.jsonl", [{"lang": "en", **row}]))
    assert not found.bad
    [one] = found.languages["en"]
    assert (one.prompt, one.response, one.other) == (prompt, "Hello", "Go")


def test_texts_with_marks_of_a_chat_template_are_said(tmp_path: Path) -> None:
    marked = line(prompt="<|im_start|>user\nEin Text.<|im_end|>", document=None, response="Kurz.<|im_end|>")
    plain = line(id="d2", prompt="Ein anderer <Text>: a < b | c", document=None)
    found = read(write(tmp_path / "f.jsonl", marked, plain))
    assert found.marked == {("prompt", "<|im_start|>"): 1, ("response", "<|im_end|>"): 1}
    assert [row.response for row in found.languages["de"]] == ["Kurz.<|im_end|>", "Kurz."]
    notes = said_of(Files(str(tmp_path), ("de",)), found, {})
    assert "`prompt`: 1 texts have '<|im_start|>', a mark of chats: they are read as text" in notes[0]


@pytest.mark.parametrize("written", [json.dumps, repr, lambda chat: f" {chat!r}\n", lambda chat: f"array({chat!r})"])
def test_chats_that_a_program_wrote_as_text_are_read_as_chats(tmp_path: Path, written: Any) -> None:
    row = {"lang": "en", "chosen": answered(SYSTEM, USER), "rejected": answered(SYSTEM, USER, answer='"Go", it\'s')}
    text = row | {name: written(row[name]) for name in ("chosen", "rejected")}
    plain = read(jsonl(tmp_path / "f.jsonl", [row]))
    for path in (jsonl(tmp_path / "g.jsonl", [text]), separated(tmp_path / "g.csv", [text])):
        found = read(path)
        if written({}) == "array({})":
            assert "is a chat that was written as text and cannot be read: write it as JSON" in found.bad[0][1]
        else:
            assert said(found) == said(plain) and not found.bad
            assert dict(found.written) == {"chosen": 1, "rejected": 1}
    messages = {"lang": "en", "messages": written(answered(USER))}
    assert bool(read(jsonl(tmp_path / "h.jsonl", [messages])).bad) == (written({}) == "array({})")


def test_text_that_only_quotes_a_chat_is_text(tmp_path: Path) -> None:
    asked = "[{'role': 'user'}] What is wrong with this?"
    [row] = read(jsonl(tmp_path / "f.jsonl", [{"lang": "en", "prompt": asked, "response": "[1, 2]"}])).languages["en"]
    assert (row.prompt, row.response) == (asked, "[1, 2]")


def test_chats_with_the_same_system_turn_are_groups_of_their_own(tmp_path: Path) -> None:
    chats = [[SYSTEM, {"role": "user", "content": f"Question {n // 2}"}] for n in range(8)]
    rows = [{"lang": "en", "id": n, "prompt": chat, "response": f"{n}"} for n, chat in enumerate(chats)]
    rows[0]["prompt"] = rows[0]["prompt"][1:]  # the same question without the system
    found = read(jsonl(tmp_path / "f.jsonl", rows)).languages["en"]
    assert len({row.group for row in found}) == 4
    told = {row.id: turns_of(row.prompt) for row in found}
    assert told["0"] == (("user", "Question 0"),) and told["7"] == (("system", "Be kind."), ("user", "Question 3"))
    assert {row.id: row.group for row in found}["0"] == {row.id: row.group for row in found}["1"]


# --- languages ----------------------------------------------------------------------------------------------


def test_codes_are_read_as_what_they_mean_and_said(tmp_path: Path) -> None:
    codes = ["de", "DE", "deu", "de-AT", "eng_Latn", "zh-CN", "zh-TW", "pt-BR", "iw", "nb", "xx", "de-easy"]
    rows = read(
        write(tmp_path / "f.jsonl", *(line(id=f"d{n}", document=f"t{n}", lang=code) for n, code in enumerate(codes)))
    )
    assert {lang: len(found) for lang, found in rows.languages.items()} == {
        "de": 4,
        **dict.fromkeys(("en", "zh", "zh-Hant", "pt", "he", "no"), 1),
        **dict.fromkeys(("xx", "de-easy"), 1),  # no codes: as they are
    }
    assert rows.codes_text().startswith("'DE' as de, 'de-AT' as de, 'deu' as de, 'eng_Latn' as en, 'iw' as he")
    apart = read(tmp_path / "f.jsonl", varieties=("pt-BR", "zh_tw"))
    assert {"pt-BR", "zh_tw", "zh", "de"} <= apart.languages.keys() and "pt" not in apart.languages


def test_files_named_after_languages(tmp_path: Path) -> None:
    row = {"prompt": "x", "response": "y"}
    one, other = jsonl(tmp_path / "pairs.en.jsonl", [row]), jsonl(tmp_path / "de.jsonl", [row])
    assert read(one).languages.keys() == {"en"} and not read(one).without_language
    found = read(other, one)
    assert found.languages.keys() == {"de", "en"} and found.named_after == {"de.jsonl": "de", "pairs.en.jsonl": "en"}
    assert read(other, one, lang="tr").languages.keys() == {"de", "en"}
    assert read(one, lang="tr").languages.keys() == {"tr"}  # one name may be a coincidence
    loose = [jsonl(tmp_path / f"pairs_{code}.jsonl", [row]) for code in ("deu_Latn", "tr", "pt")]
    assert read(*loose[1:]).languages.keys() == {"tr", "pt"}
    folders = [tmp_path / code / "train.jsonl" for code in ("arb_Arab", "zho_Hant")]
    for path in folders:
        path.parent.mkdir()
        jsonl(path, [row])
    assert read(*folders).languages.keys() == {"ar", "zh-Hant"}
    for name in ("dev.jsonl", "all.jsonl", "data.jsonl"):
        with pytest.raises(ConfigError, match="no column `lang`"):
            read(jsonl(tmp_path / name, [row]))
    jsonl(tmp_path / "tr.jsonl", [row | {"lang": "DE"}])
    assert read(tmp_path / "tr.jsonl", one).languages.keys() == {"de", "en"}  # a column wins


# --- prompts alone ------------------------------------------------------------------------------------------


def test_prompts_alone(tmp_path: Path) -> None:
    [row] = read(jsonl(tmp_path / "f.jsonl", [{"id": 1, "lang": "de", "prompt": "x"}])).languages["de"]
    assert (row.kind, row.prompt, row.response) == ("prompt", "x", "")
    path = jsonl(tmp_path / "g.jsonl", [{"id": 1, "lang": "de", "prompt": "x", "output": "y"}])
    with pytest.raises(ConfigError, match=r"no column `response`.*output.*task\.columns\.response=NAME.*=null"):
        read(path)
    found = read(path, columns=Columns(response=None))
    assert [row.kind for row in found.languages["de"]] == ["prompt"] and "output" in found.alone_text()
    path = jsonl(tmp_path / "chats.jsonl", [{"lang": "de", "messages": [{"role": "user", "content": "x"}]}])
    [(_, bad)] = read(path).bad
    assert "no response (of prompts alone type task.columns.response=null)" in bad
    [row] = read(path, columns=Columns(response=None)).languages["de"]
    assert (row.kind, row.chat) == ("prompt", True)


def test_texts_that_need_no_change_are_those_that_the_definition_leaves_as_they_are() -> None:
    odd = [chr(code) for code in range(0x10000) if chr(code).isspace() or INVISIBLE.match(chr(code))]
    letters = ("a", "ä", "İ", "ß", "ς", "e\u0301", "\u0301", "ﬁ", "\u1100\u1161", "Å", "\uf900", "😀", "  ", "")
    assert len(odd) > 60
    for one in (*odd, *letters):
        for text in (one, f"a{one}b", f"ж{one}b", f"ж {one} b", f"{one}ж", f"ж{one}", f"{one}\u0301ä"):
            composed = unicodedata.normalize("NFC", text)
            defined = " ".join(INVISIBLE.sub("", composed).split())
            assert plain(text) == defined, ascii(text)
            assert matched(text) == unicodedata.normalize("NFKC", defined).casefold(), ascii(text)
