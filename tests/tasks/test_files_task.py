"""task=files: what planning checks, how data is split, and what stages load."""

import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from own_files import Row, jsonl, paired, rated

from xling.errors import ConfigError, DataError
from xling.tasks import files
from xling.tasks.files import Settings as Files
from xling.tasks.options import offers
from xling.tasks.records import turns_of
from xling.tasks.rows import Columns

SPLITS = ("train", "validation", "test")


def rows_of(lang: str, documents: int, systems: str = "ab") -> list[Row]:
    return [
        {
            "id": f"{d:02}",
            "lang": lang,
            "document": f"{lang} {d}",
            "response": f"{s} says {d}",
            "system": s,
            "rating": d + ord(s) / 1000,
        }
        for d in range(documents)
        for s in systems
    ]


def config(path: Path, rows: list[Row], **settings: Any) -> Files:
    return Files(path=str(jsonl(path, rows)), **{"languages": (), **settings})


def tree_config(path: Path, rows: list[Row], **settings: Any) -> Files:
    return config(path, rows, columns=Columns(group="tree"), feedback="pairwise", **settings)


# --- recorded responses -------------------------------------------------------------------------------------


def test_load_gives_prompts_by_id_and_systems_by_name_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = rows_of("de", 12, "cab") + rows_of("tr", 3)
    tidy = files.recorded(config(tmp_path / "tidy.jsonl", rows), "de")
    random.Random(1).shuffle(rows)
    assert files.recorded(config(tmp_path / "mixed.jsonl", rows), "de") == tidy
    assert [p.id for p in tidy.prompts] == [f"{d:02}" for d in range(12)]
    assert tidy.systems == [["a", "b", "c"]] * 12
    assert tidy.responses[3] == ["a says 3", "b says 3", "c says 3"]
    assert tidy.ratings[3] == [3.097, 3.098, 3.099]


def test_long_chats_lose_their_oldest_turns_and_long_documents_their_end(tmp_path: Path) -> None:
    assert files.truncation_side(config(tmp_path / "documents.jsonl", rows_of("de", 3))) == "right"
    assert files.truncation_side(tree_config(tmp_path / "chats.jsonl", paired("de", 3))) == "left"
    chat = [{"role": "user", "content": "Hi"}]
    whole = [{"lang": "de", "chosen": [*chat, {"role": "assistant", "content": text}],
              "rejected": [*chat, {"role": "assistant", "content": "Go"}]} for text in ("Hello", "Yes")]  # fmt: skip
    assert files.truncation_side(tree_config(tmp_path / "whole.jsonl", whole)) == "left"


def test_pairs_are_recorded_responses_whose_order_says_nothing(tmp_path: Path) -> None:
    found = files.recorded(tree_config(tmp_path / "f.jsonl", paired("de", 40)), "de")
    assert found.systems == [["1", "2"]] * 40
    assert {tuple(ratings) for ratings in found.ratings} == {(1.0, 0.0), (0.0, 1.0)}
    assert all(
        response.startswith("good") == (rating == 1.0)
        for responses, ratings in zip(found.responses, found.ratings, strict=True)
        for response, rating in zip(responses, ratings, strict=True)
    )
    assert len({p.group for p in found.prompts}) == 20


def test_several_pairs_of_a_prompt_and_responses_without_a_system(tmp_path: Path) -> None:
    rows = paired("de", 2)
    rows.append(rows[0] | {"rejected": "another bad answer"})
    assert len(files.recorded(tree_config(tmp_path / "f.jsonl", rows), "de").prompts) == 3
    plain = [{k: v for k, v in row.items() if k != "system"} for row in rated("de", 3)]
    assert files.recorded(config(tmp_path / "g.jsonl", plain), "de").systems == [["1", "2"]] * 3


# --- splits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["pointwise", "pairwise"])
def test_no_group_is_in_two_splits_and_nothing_is_lost(tmp_path: Path, feedback: str) -> None:
    pointwise = feedback == "pointwise"
    path = tmp_path / "f.jsonl"
    settings = config(path, rated("de", 60)) if pointwise else tree_config(path, paired("de", 60))
    load = files.ratings if pointwise else files.pairs
    groups = {split: {item.prompt.group for item in load(settings, "de", split)} for split in SPLITS}
    assert not groups["train"] & groups["test"] and not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    assert sum(map(len, groups.values())) == (60 if pointwise else 30)
    assert all(len(groups[split]) >= 2 for split in ("validation", "test"))
    assert sum(len(load(settings, "de", split)) for split in SPLITS) == (120 if pointwise else 60)
    assert {p.group for p in files.prompts(settings, "de", "test")} == groups["test"]


def test_splits_follow_the_seed_and_not_the_order_of_rows(tmp_path: Path) -> None:
    rows = rated("de", 40)
    first = config(tmp_path / "f.jsonl", rows)
    wanted = {p.id for p in files.prompts(first, "de", "test")}
    random.Random(3).shuffle(rows)
    assert {p.id for p in files.prompts(config(tmp_path / "g.jsonl", rows), "de", "test")} == wanted
    other = config(tmp_path / "f.jsonl", rows, seed=1)
    assert {p.id for p in files.prompts(other, "de", "test")} != wanted


def test_rows_that_are_added_put_no_other_in_another_split(tmp_path: Path) -> None:
    def split_of(rows: list[Row]) -> dict[str, str]:
        settings = config(tmp_path / "f.jsonl", rows)
        return {p.group: split for split in SPLITS for p in files.prompts(settings, "de", split)}  # type: ignore[arg-type]

    before = split_of(rated("de", 400))
    after = split_of(rated("de", 500) + rated("tr", 50))
    assert len(before) == 400 and before.items() <= after.items()
    shares = {split: sum(one == split for one in after.values()) / 500 for split in SPLITS}
    assert abs(shares["test"] - 0.1) < 0.04 and abs(shares["validation"] - 0.1) < 0.04  # 3 standard errors


def test_few_documents_still_give_each_split_its_least(tmp_path: Path) -> None:
    for seed in range(20):
        settings = config(tmp_path / "f.jsonl", rated("de", 20), seed=seed)
        assert all(len(files.prompts(settings, "de", split)) >= 2 for split in ("validation", "test"))  # type: ignore[arg-type]


def test_the_order_of_rows_decides_nothing_in_what_stages_get(tmp_path: Path) -> None:
    rows = rated("de", 40) + [row | {"rating": 1} for row in rated("de", 3)]
    rows = [row | {"group": row["id"][-1], "dataset": row["system"]} for row in rows]
    shuffled = random.Random(5).sample(rows, len(rows))
    one, other = config(tmp_path / "f.jsonl", rows), config(tmp_path / "g.jsonl", shuffled)
    for load in (files.ratings, files.pairs, files.demonstrations, files.prompts):
        assert all(load(one, "de", split) == load(other, "de", split) for split in SPLITS)  # type: ignore[operator]
    assert files.recorded(one, "de") == files.recorded(other, "de")
    ids = [r.prompt.id for r in files.ratings(one, "de", "train")]
    assert ids != sorted(ids)  # a first part of them is one of all


def test_a_document_of_two_languages_is_in_the_same_split_in_both(tmp_path: Path) -> None:
    rows = [row | {"group": row["id"][2:]} for lang in ("de", "tr") for row in rated(lang, 30)]
    settings = config(tmp_path / "f.jsonl", rows)
    for split in SPLITS:
        de, tr = ({p.group for p in files.prompts(settings, lang, split)} for lang in ("de", "tr"))
        assert de == tr and de


def test_a_split_column_decides(tmp_path: Path) -> None:
    rows = rated("de", 9)
    for number, row in enumerate(rows):
        row["split"] = ("train", "val", "Test")[number // 6]
    settings = config(tmp_path / "f.jsonl", rows)
    assert [len(files.prompts(settings, "de", split)) for split in SPLITS] == [3, 3, 3]
    files.require(settings, ["de"], "pointwise")


# --- kinds --------------------------------------------------------------------------------------------------


def test_ratings_become_pairs_and_the_best_good_response_a_demonstration(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rated("de", 40))
    pairs = files.pairs(settings, "de", "train")
    assert len(pairs) == 31 and all(pair.chosen != pair.rejected for pair in pairs)
    shown = files.demonstrations(settings, "de", "train")
    assert len(shown) == 31 and {d.response for d in shown} == {p.chosen for p in pairs}


def test_demonstrations_of_ones_own_come_before_what_people_preferred(tmp_path: Path) -> None:
    jsonl(tmp_path / "pairs.jsonl", paired("de", 20))
    jsonl(tmp_path / "shown.jsonl", [{"lang": "de", "prompt": f"q{n}", "response": f"r{n}"} for n in range(10)])
    settings = Files(path=str(tmp_path), languages=(), columns=Columns(group="tree"))
    shown = [d.response for split in SPLITS for d in files.demonstrations(settings, "de", split)]
    assert sorted(shown) == sorted(f"r{n}" for n in range(10))
    assert sum(len(files.pairs(settings, "de", split)) for split in SPLITS) == 20  # type: ignore[arg-type]
    globbed = Files(path=str(tmp_path / "pair*"), languages=())
    assert {d.response.split()[0] for d in files.demonstrations(globbed, "de", "train")} == {"good"}


def test_the_chosen_of_one_pair_that_another_rejects_is_not_imitated(tmp_path: Path) -> None:
    ranked = [("first", "second"), ("first", "third"), ("second", "third")]
    rows = [{"lang": "de", "prompt": "q", "chosen": a, "rejected": b} for a, b in ranked]
    settings = config(tmp_path / "f.jsonl", rows, validation=0, test=0)
    assert [d.response for d in files.demonstrations(settings, "de", "train")] == ["first"]


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({"threshold": 3}, {0.0, 1.0}),
        ({"rating_scale": (1.0, 5.0)}, {0.0, 0.25, 0.5, 0.75, 1.0}),
    ],
)
def test_labels_by_threshold_or_stated_scale(tmp_path: Path, settings: dict[str, Any], labels: set[float]) -> None:
    rows = [row | {"rating": 1 + n % 5} for n, row in enumerate(rated("de", 40))]
    found = files.ratings(config(tmp_path / "f.jsonl", rows, **settings), "de", "train")
    assert {rating.label for rating in found} == labels


def test_labels_of_several_raters_are_their_mean(tmp_path: Path) -> None:
    rows = rated("de", 40)
    settings = config(tmp_path / "f.jsonl", [*rows, *(row | {"rating": 1} for row in rows)])
    assert {one.label for one in files.ratings(settings, "de", "train")} == {0.5, 1.0}
    assert "de: further ratings of the same response: 80 (lines 81, 82, " in files.summary(settings).notes()[0]


def test_ratings_under_another_name_are_not_silently_demonstrations(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "rating"} | {"score": 1} for row in rated("de", 40)]
    settings = config(tmp_path / "f.jsonl", rows)
    [note] = files.check(settings, None, ["de"], ["de"])
    assert "f.jsonl has no column `rating`" in note and note.endswith("type task.rating_field=score.")
    for need in ("recorded", "pointwise", "pairwise"):
        with pytest.raises(ConfigError, match=r"de has no|no rated responses in 'de'.*task\.rating_field=score"):
            files.require(settings, ["de"], need)  # type: ignore[arg-type]
    plain = [{"lang": "de", "prompt": f"q{n}", "response": "r"} for n in range(3)]
    assert files.check(config(tmp_path / "g.jsonl", plain), None, ["de"], ["de"]) == []
    with pytest.raises(ConfigError, match=r"task\.rating_field=scor: .* has no such column.*Did you mean 'score'\?"):
        files.summary(config(tmp_path / "f.jsonl", rows, rating_field="scor"))


def test_settings_that_decide_nothing_are_said(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in rated("de", 4)]
    settings = config(tmp_path / "f.jsonl", rows, threshold=1, validation=0.2, folds=3, documents=9)
    [note] = files.ignored(settings, splits=False)
    assert note.startswith("task.threshold=1, task.validation=0.2, the column `split`: not read, since with policy=rec")
    [note] = files.ignored(settings, splits=True)
    assert note.startswith("task.folds=3, task.documents=9: not read, since with a language model")
    plain = config(tmp_path / "g.jsonl", rated("de", 4))
    assert files.ignored(plain, splits=False) == files.ignored(plain, splits=True) == []


def test_what_the_data_offers(tmp_path: Path) -> None:
    assert offers(config(tmp_path / "r.jsonl", rated("de", 3))) >= {"ratings", "pairs", "recorded"}
    assert "ratings" not in offers(tree_config(tmp_path / "p.jsonl", paired("de", 3)))
    assert offers(config(tmp_path / "d.jsonl", [{"lang": "de", "prompt": "a", "response": "b"}])) == {
        "demonstrations",
        "prompts",
    }


def test_a_use_reads_only_its_settings(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rated("de", 12), threshold=1, folds=3)
    one = files.narrowed(settings, ["de"], "pairwise")
    assert isinstance(one, Files) and (one.threshold, one.folds) == (None, 5)
    both = (files.narrowed(settings, langs, "recorded") for langs in (["de"], ["tr"]))
    assert len(set(both)) == 1
    other = msgspec.structs.replace(settings, folds=4, seed=7)
    assert files.narrowed(settings, ["de"], "recorded") == files.narrowed(other, ["de"], "recorded")
    assert files.narrowed(settings, ["de"], "crossfitted") != files.narrowed(other, ["de"], "crossfitted")


# --- what planning sees -------------------------------------------------------------------------------------


def test_check_counts_languages(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rows_of("de", 12) + rows_of("tr", 10, "abc"))
    summary = files.summary(settings, known={"de", "tr", "en"})
    assert {lang: (one.prompts, one.documents, one.responses) for lang, one in summary.languages.items()} == {
        "de": (12, 12, 24),
        "tr": (10, 10, 30),
    }
    assert summary.rows == 54 and summary.languages["tr"].systems == ("a", "b", "c")
    [note] = summary.notes()
    assert note.startswith("de and tr have 10 ids in common, with other texts.") and "task.columns.group=id" in note
    assert files.summary(config(tmp_path / "f.jsonl", rated("de", 9) + rated("tr", 9))).notes() == []
    by_id = config(tmp_path / "f.jsonl", rows_of("de", 12) + rows_of("tr", 10, "abc"), columns=Columns(group="id"))
    assert files.summary(by_id).notes() == [shared(10)]


def shared(documents: int) -> str:
    return (
        f"Documents that stand in several languages: {documents} (most: {documents} in de and tr). Each is in one "
        "split and one fold in all of them: none is scored by what was trained on it in another language."
    )


def test_a_target_without_feedback_is_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "labelled.jsonl", rated("de", 40))
    jsonl(tmp_path / "not.jsonl", UNLABELLED)
    settings = Files(path=str(tmp_path / "*.jsonl"), languages=())
    sentence = f"tr: {settings.path} has no ratings, so that how accurate reward models are there is not measured"
    found = files.check(settings, None, ["de"], ["de", "tr"])
    assert sum(note.startswith(sentence) for note in found) == 1
    assert not any("not measured" in note for note in files.check(settings, None, ["de"], ["de"]))


def test_bad_rows_stop_everything_and_are_listed_or_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = rows_of("de", 20)
    for number in range(5, 18):
        rows[number - 1]["rating"] = "n/a"
    settings = config(tmp_path / "f.jsonl", rows)
    with pytest.raises(DataError) as error:
        files.summary(settings)
    text = str(error.value)
    assert "has 13 bad rows of 40 (rating field: 'rating')" in text
    assert [f"line {n}: `rating` is 'n/a'" in text for n in range(4, 19)] == [False, *[True] * 10, *[False] * 4]
    assert "and 3 more" in text and "task.bad_rows=skip" in text
    for use in (files.languages, lambda config: files.recorded(config, "de")):
        with pytest.raises(DataError, match="13 bad rows"):
            use(settings)
    skipping = config(tmp_path / "f.jsonl", rows, bad_rows="skip")
    notes = files.check(skipping, {"de"}, ["de"], ["de"])
    assert "13 bad rows of 40 are left out (line 5: `rating` is 'n/a'" in notes[0]
    assert len(files.recorded(skipping, "de").prompts) == 13


def test_unknown_languages_are_named_with_their_lines(tmp_path: Path) -> None:
    rows = rows_of("de", 2) + rows_of("dee", 1)
    with pytest.raises(DataError) as error:
        files.summary(config(tmp_path / "f.jsonl", rows), known={"de", "tr"})
    text = str(error.value)
    assert "2 bad rows of 6" in text
    assert "line 5: unknown language 'dee'. Did you mean 'de'?" in text
    assert "conf/lang" in text and "task.languages" in text
    summary = files.summary(config(tmp_path / "g.jsonl", rows, languages=("de",)), known={"de", "tr"})
    assert summary.ignored == {"dee": 2}
    assert summary.notes() == ["Rows of languages outside task.languages are left out: dee 2."]


def test_one_system_prompts_are_left_out_counted_and_named(tmp_path: Path) -> None:
    rows = rows_of("de", 4)
    del rows[3], rows[0]  # line 1 is now 00 by b alone, line 2 is 01 by a alone
    settings = config(tmp_path / "f.jsonl", rows)
    [note] = files.summary(settings).notes()
    assert note.startswith("de: prompts that one system alone answered") and note.endswith("2 (lines 1, 2).")
    assert [p.id for p in files.recorded(settings, "de").prompts] == ["02", "03"]


# --- what planning says, and refuses ------------------------------------------------------------------------

GOOD, SHORT = rated("de", 60), rated("tr", 8)
SCALED = [row | {"rating": 1 + n % 5} for n, row in enumerate(rated("de", 40) + rated("tr", 40))]
LOW = [row | {"rating": row["rating"] if row["lang"] == "de" else 1} for row in SCALED]
EQUAL = [row | {"rating": 1} for row in rated("de", 40)]
BY_PROMPT = [row | {"rating": int(row["id"][2:]) % 2} for row in rated("de", 40)]  # a rating a prompt: all are ties
UNLABELLED = [{"lang": "tr", "prompt": f"asked {n}", "response": "said"} for n in range(40)]
ONE = [row | {"split": "test"} for row in rated("tr", 1)]
UNSCALED, UNEVEN = rows_of("de", 40), rows_of("de", 10) + rows_of("tr", 3) + rows_of("en", 2)
OWN_IDS = [{**row, "id": f"{row['id']}-{row['system']}"} for row in rows_of("de", 3)]
TIES = "none has responses that are rated differently, so that every comparison"


@pytest.mark.parametrize(
    ("rows", "changed", "lang", "use", "sentence"),
    [
        (GOOD + SHORT, {}, "de", "prompts", ""),
        (GOOD + SHORT, {}, "tr", "prompts", "tr has 1 documents with prompts in split test, of 8; at least 2 are"),
        (rated("de", 60, "a"), {}, "de", "pairwise", "de has no pairs: no two responses to a prompt are rated differe"),
        (SCALED, {"threshold": 10}, "de", "pointwise", r"=10: the ratings in .* lie in 1\.\.5, so that none is good"),
        (SCALED, {"threshold": 10}, "de", "demonstrations", r"=10: the ratings .* lie in 1\.\.5, so that none is good"),
        (SCALED, {"threshold": 10}, "de", "pairwise", ""),  # which reads none
        (SCALED, {"threshold": 1}, "de", "pointwise", r"so that all are good\. Type a number above 1 and up to 5"),
        (SCALED, {"threshold": 1}, "de", "demonstrations", ""),  # good responses alone may be imitated
        (LOW, {"threshold": 3}, "tr", "demonstrations", r"tr has no .*: its ratings lie in 1\.\.1, .*sft\.steps=0"),
        (UNSCALED, {}, "de", "pointwise", r"lie in 0\.\.1\. Type task\.threshold=NUMBER .*task\.rating_scale"),
        (UNSCALED, {}, "de", "pairwise", ""),
        (UNSCALED, {}, "de", "recorded", ""),
        (EQUAL, {}, "de", "recorded", TIES),
        (EQUAL, {}, "de", "crossfitted", TIES),
        (EQUAL, {}, "de", "texts", ""),
        (EQUAL, {}, "de", "pointwise", r"all ratings in de that would train are 1.*task\.rating_field=rating"),
        (EQUAL, {"threshold": 1.0}, "de", "pointwise", "all are good"),
        (BY_PROMPT, {}, "de", "recorded", TIES),
        (BY_PROMPT, {}, "de", "pointwise", ""),
        (UNEVEN, {}, "de", "crossfitted", ""),
        (UNEVEN, {}, "tr", "crossfitted", ""),
        (UNEVEN, {}, "en", "crossfitted", "source_lang=en has 2 documents.*task.folds=5"),
        (UNLABELLED, {}, "tr", "held_out_pointwise", ""),
        (UNLABELLED, {}, "tr", "held_out_pairwise", ""),
        (UNLABELLED, {}, "tr", "pairwise", "tr has no pairs"),
        (ONE, {}, "tr", "held_out_pointwise", "tr has 1 documents with ratings in split test, of 1"),
        (OWN_IDS, {}, "de", "recorded", r"must be the same for all systems.*task\.columns\.id=null"),
        (OWN_IDS, {"columns": Columns(id=None)}, "de", "recorded", ""),
    ],
)
def test_a_use_that_the_data_is_not_enough_for_is_refused_with_what_to_type(
    tmp_path: Path, rows: list[Row], changed: dict[str, Any], lang: str, use: Any, sentence: str
) -> None:
    settings = config(tmp_path / "f.jsonl", rows, **changed)
    with pytest.raises(ConfigError, match=sentence) if sentence else nullcontext():
        files.require(settings, [lang], use)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"path": ""}, r"task\.path=PATH"),
        ({"path": "???"}, r"task\.path=PATH"),
        ({"path": "absent.jsonl"}, r"task\.path=PATH"),
        ({"path": "tests/*.parquet"}, r"task\.path=PATH"),
        ({"languages": ("de", "tk")}, r"no rows in 'tk'; it has de, tr.*task.languages=\[de,tr\]"),
        ({"rating_field": "system"}, r"task\.rating_field=system names another column"),
        ({"rating_scale": (5.0, 1.0)}, r"task\.rating_scale=\[5\.0, 1\.0\] must be \[lowest, highest\]"),
        ({"threshold": 9, "rating_scale": (1.0, 5.0)}, r"task\.threshold=9 parts nothing of .*rating_scale=\[1,5\]"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
    ],
)
def test_settings_that_contradict_each_other_or_the_data_are_refused(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        files.summary(msgspec.structs.replace(config(tmp_path / "f.jsonl", SCALED), **changed))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="has no rows"):
        files.summary(Files(path=str(tmp_path / "empty.jsonl"), languages=()))


def test_ratings_that_are_all_equal_are_said(tmp_path: Path) -> None:
    notes = files.summary(config(tmp_path / "f.jsonl", EQUAL)).notes()
    assert any("none of the 40 prompts" in note and "all are ties" in note for note in notes)


def test_a_group_that_holds_most_rows_is_said(tmp_path: Path) -> None:
    rows = [row | {"group": "all" if n < 60 else f"g{n // 2}"} for n, row in enumerate(rated("de", 40))]
    [note] = files.summary(config(tmp_path / "f.jsonl", rows)).notes()
    assert (
        note.startswith("de: the group 'all' holds 60 of 80 rows (30 prompts).") and "task.columns.group=null" in note
    )
    assert files.summary(config(tmp_path / "f.jsonl", rows, columns=Columns(group=None))).notes() == []


def test_languages_of_any_code_are_found_and_varieties_are_kept_apart_where_they_are_named(tmp_path: Path) -> None:
    codes = ["DE", "de-AT", "pt-BR", "pt"]
    rows = [row | {"lang": code, "id": f"{code} {row['id']}"} for code in codes for row in rated(code, 6)]
    plain = config(tmp_path / "f.jsonl", rows)
    assert files.languages(plain) == ("de", "pt") and len(files.recorded(plain, "pt").prompts) == 12
    assert any(
        "Languages are read by what their codes mean: 'DE' as de" in note for note in files.summary(plain).notes()
    )
    assert files.languages(config(tmp_path / "f.jsonl", rows, languages=("deu",))) == ("de",)
    with pytest.raises(ConfigError, match=r"no rows in 'pt-BR'; it has de, pt\. Did you mean 'pt'\?.*\[pt-BR\]"):
        files.recorded(plain, "pt-BR")
    apart = config(tmp_path / "f.jsonl", rows, languages=("pt-BR", "pt"))
    assert files.languages(apart) == ("pt", "pt-BR") and len(files.recorded(apart, "pt").prompts) == 6
    stage = files.narrowed(apart, ["pt-BR"], "recorded")
    assert len(files.recorded(stage, "pt-BR").prompts) == 6
    with pytest.raises(DataError, match=r"unknown language 'pt-BR'\. Did you mean 'pt'\? Type pt"):
        files.summary(apart, known=["de", "pt"])


def test_names_of_languages_are_answered_with_codes(tmp_path: Path) -> None:
    named = config(tmp_path / "f.jsonl", [row | {"lang": "german"} for row in rated("x", 6)])
    with pytest.raises(
        DataError, match=r"unknown language 'german'\. Languages have codes, and 'german' is de\. Type de"
    ):
        files.summary(named, known=["de", "tr"])
    with pytest.raises(
        ConfigError, match=r"no rows in 'de'; it has german\. Write codes in the data.* place of german \(de\)"
    ):
        files.recorded(named, "de")


def test_files_named_after_languages(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "lang"} for row in rated("x", 10)]
    (tmp_path / "all").mkdir()
    for lang in ("de", "tr"):
        jsonl(tmp_path / "all" / f"{lang}.jsonl", rows)
    settings = Files(path=str(tmp_path / "all"), languages=())
    assert files.languages(settings) == ("de", "tr")
    assert files.summary(settings).notes() == [shared(10)]
    assert len(files.recorded(files.narrowed(settings, ["tr"], "recorded"), "tr").prompts) == 10
    for lang in ("de", "tr"):
        (tmp_path / "all" / f"{lang}.jsonl").rename(tmp_path / "all" / f"own_{lang}.jsonl")
    assert any("own_de.jsonl is de, own_tr.jsonl is tr" in note for note in files.summary(settings).notes())


def test_files_named_after_splits_are_said_to_decide_none(tmp_path: Path) -> None:
    rows = rated("de", 20)
    for name, own in (("train", rows[:30]), ("test", rows[30:])):
        jsonl(tmp_path / f"{name}-00000.jsonl", own)
    [note] = files.summary(Files(path=str(tmp_path), languages=())).notes()
    assert note.startswith("Files are named after splits (test-00000.jsonl, train-00000.jsonl)") and "`split`" in note


def test_prompts_alone_are_prompts_and_what_else_is_needed_is_said(tmp_path: Path) -> None:
    rows = [{"lang": "de", "prompt": f"question {n}"} for n in range(40)]
    settings = config(tmp_path / "f.jsonl", rows)
    assert offers(settings) == {"prompts"}
    assert sum(len(files.prompts(settings, "de", split)) for split in SPLITS) == 40
    files.require(settings, ["de"], "prompts")
    for use in ("pointwise", "pairwise", "recorded", "demonstrations"):
        with pytest.raises(ConfigError, match=r"f\.jsonl holds prompts alone.*task\.columns\.response=NAME"):
            files.require(settings, ["de"], use)
    both = jsonl(tmp_path / "g.jsonl", rated("de", 40))
    more = Files(path=str(tmp_path / "[fg].jsonl"), languages=())
    assert both.exists() and "ratings" in offers(more)
    assert files.summary(more).notes() == [
        "f.jsonl holds prompts alone, which are what is evaluated on (with a split column, its test split)."
    ]
    assert [len(files.prompts(more, "de", split)) for split in SPLITS] == [0, 0, 40]


def test_no_error_shows_more_than_a_line_of_a_value(tmp_path: Path) -> None:
    """Cells of 200 kB in every column, and a first row that names 5,000 columns."""
    long = "x" * 200_000
    for name in ("id", "lang", "prompt", "response", "system", "rating", "group", "split", "dataset"):
        for value in (long, {long: long}, [long], 10**4000):
            row = rated("de", 1)[0] | {"split": "train", name: value}
            try:
                files.summary(config(tmp_path / "f.jsonl", [row, row]), known=["de"])
            except (ConfigError, DataError) as error:
                assert len(str(error)) < 2000, (name, type(value))
    for columns in (",".join(f"column {n}" for n in range(5000)), long, f"{long},{long}", "a\n" + long):
        (tmp_path / "f.csv").write_text(columns + "\n1\n")
        with pytest.raises((ConfigError, DataError)) as caught:
            files.summary(Files(path=str(tmp_path / "f.csv"), languages=()), known=["de"])
        assert len(str(caught.value)) < 2000


# --- prompts that come alone --------------------------------------------------------------------------------


def test_prompts_that_come_alone_are_all_that_is_evaluated_on(tmp_path: Path) -> None:
    jsonl(tmp_path / "ratings.jsonl", rated("de", 40) + rated("tr", 40))
    alone = [{"lang": "de", "prompt": f"asked {n}", "topic": "any"} for n in range(6)]
    settings = Files(path=str(tmp_path), languages=(), threshold=1)
    before = {lang: files.pairs(settings, lang, "train") for lang in ("de", "tr")}
    with pytest.raises(ConfigError, match=r"questions\.jsonl has no column `response`.*call the file prompts\.jsonl"):
        files.summary(Files(path=str(jsonl(tmp_path / "questions.jsonl", alone)), languages=()))
    (tmp_path / "questions.jsonl").rename(tmp_path / "prompts_de.jsonl")
    assert sorted(p.text for p in files.prompts(settings, "de", "test")) == [f"asked {n}" for n in range(6)]
    assert not files.prompts(settings, "de", "train") and not files.prompts(settings, "de", "validation")
    assert len(files.prompts(settings, "tr", "test")) == 4  # a language without any: as before
    assert {lang: files.pairs(settings, lang, "train") for lang in ("de", "tr")} == before
    assert any("prompts alone, which are what is evaluated on" in note for note in files.summary(settings).notes())
    by_split = [row | {"split": "test" if n < 2 else "train"} for n, row in enumerate(alone)]
    jsonl(tmp_path / "prompts_de.jsonl", by_split)
    assert [p.text for p in files.prompts(settings, "de", "test")] == ["asked 0", "asked 1"]


def test_prompts_that_are_trained_on_are_counted_and_said(tmp_path: Path) -> None:
    rows = [row | {"split": "train" if n < 20 else "validation"} for n, row in enumerate(rated("de", 20))]
    jsonl(tmp_path / "ratings.jsonl", rows)
    texts = ["DE  document 3", "de document 15", "de document 99"]  # trained on in other spacing; validation; new
    jsonl(tmp_path / "prompts.jsonl", [{"lang": "de", "prompt": text, "split": "test"} for text in texts])
    settings = Files(path=str(tmp_path), languages=(), feedback="pairwise")
    [note] = [note for note in files.summary(settings).notes() if "evaluated on are in" in note]
    assert note.startswith("de: 1 of 3 prompts") and "(prompts.jsonl line 1)" in note
    assert len(files.prompts(settings, "de", "test")) == 3  # said, not left out


# --- several raters, and what the system says ----------------------------------------------------------------


def rated_by(*given: tuple[str, str, float], lang: str = "de") -> list[Row]:
    """(system, rater, rating) of one document."""
    return [
        {"id": "d", "lang": lang, "prompt": "d", "system": s, "response": s, "rater": r, "rating": x}
        for s, r, x in given
    ]


def test_ratings_are_normalised_by_rater_before_they_are_averaged(tmp_path: Path) -> None:
    # Ann gives 1, 2, 3 (mean 2, sd 1), Bob 10, 30 (mean 20, sd 200 ** 0.5), Cyd one alone
    given = [("a", "Ann", 1.0), ("b", "Ann", 2.0), ("c", "Ann", 3.0), ("a", "Bob", 10.0), ("b", "Bob", 30.0)]
    rows = [*rated_by(*given, ("c", "Cyd", 9.0)), *rated_by(("a", "Ann", 100), ("b", "Ann", 200), lang="tr")]
    plain = config(tmp_path / "f.jsonl", rows)
    assert files.recorded(plain, "de").ratings == [[5.5, 16.0, 6.0]]
    z = msgspec.structs.replace(plain, raters="z")
    assert files.recorded(z, "de").ratings == [pytest.approx([(-1 - 0.5**0.5) / 2, 0.5**0.5 / 2, 0.5])]
    assert files.recorded(z, "tr").ratings == [pytest.approx([-(0.5**0.5), 0.5**0.5])]  # a language by itself
    random.Random(2).shuffle(rows)
    assert files.recorded(msgspec.structs.replace(z, path=str(jsonl(tmp_path / "g.jsonl", rows))), "de").ratings == (
        files.recorded(z, "de").ratings
    )
    assert [note[:6] for note in files.summary(z).notes() if "raters gave one rating alone" in note] == ["de: 1 "]
    assert files.several_raters(z, "de") == files.several_raters(plain, "de")
    assert [ratings for _, ratings in files.several_raters(plain, "de")] == [[1, 10], [2, 30], [3, 9]]
    more = [*rows, *rated_by(("a", "Bob", 20.0), ("b", "Ann", 4.0))]  # again, which is no other opinion
    again = msgspec.structs.replace(plain, path=str(jsonl(tmp_path / "again.jsonl", more)))
    assert sorted(sorted(ratings) for _, ratings in files.several_raters(again, "de")) == [[1, 15], [3, 9], [3, 30]]
    told = {"Ann": (1.0, "1"), "Bob": ("Bob ", "Bob"), "Cyd": ("3.0", 3)}  # as tables spell them that lack some
    spelt = [row | {"rater": told[row["rater"]][number % 2]} for number, row in enumerate(more)]
    alike = msgspec.structs.replace(plain, path=str(jsonl(tmp_path / "spelt.jsonl", spelt)))
    assert files.several_raters(alike, "de") == files.several_raters(again, "de")
    with pytest.raises(ConfigError, match=r"lie in 0\.\.1\. Type task\.threshold"):  # z scores are on no stated scale
        files.require(msgspec.structs.replace(z, rating_scale=(0.0, 200.0)), ["de"], "pointwise")


def test_means_that_are_the_same_decimal_are_the_same(tmp_path: Path) -> None:
    """The mean of 0.1, 0.1 and 0.1 as floats is not 0.1, nor that of 0, 0.1 and 0.2: neither response is better."""
    by = [
        ("a", "Ann", 0.1),
        ("a", "Bob", 0.1),
        ("a", "Cyd", 0.1),
        ("b", "Ann", 0.0),
        ("b", "Bob", 0.1),
        ("b", "Cyd", 0.2),
    ]
    rows = rated_by(*by, ("c", "Bob", 0.1), ("d", "Ann", 0.2), ("d", "Ann", 0.1), ("d", "Cyd", 0.1))
    plain = config(tmp_path / "f.jsonl", rows)
    assert files.recorded(plain, "de").ratings == [[0.1, 0.1, 0.1, (0.2 + 0.1 + 0.1) / 3]]
    # so is Bob's, who gives the same to all
    z = files.recorded(msgspec.structs.replace(plain, raters="z"), "de").ratings
    assert z[0][2] == 0 and [
        n for n in files.summary(msgspec.structs.replace(plain, raters="z")).notes() if "de: 1 raters" in n
    ]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"rater": None}, "line 1: `rater` is missing"),
        ({"rater": ""}, "line 1: `rater` is empty"),
        ({"rater": ["Ann"]}, r"line 1: `rater` is \['Ann'\], neither text nor a whole number"),
    ],
)
def test_who_rated_is_asked_for_where_it_counts_alone(tmp_path: Path, changed: Row, sentence: str) -> None:
    rows = rated_by(("a", "Ann", 1.0), ("b", "Ann", 2.0))
    settings = config(tmp_path / "f.jsonl", [rows[0] | changed, rows[1]])
    assert files.recorded(settings, "de").ratings == [[1, 2]]
    with pytest.raises(DataError, match=sentence):
        files.summary(msgspec.structs.replace(settings, raters="z"))
    bare = config(tmp_path / "g.jsonl", rated("de", 4), raters="z")
    with pytest.raises(ConfigError, match=r"no column `rater`.*task\.columns\.rater=NAME.*task\.raters=mean"):
        files.summary(bare)


def test_keys_have_the_rater_only_where_it_counts(tmp_path: Path) -> None:
    named = config(tmp_path / "f.jsonl", rated_by(("a", "Ann", 1), ("b", "Ann", 2)), columns=Columns(rater="rater"))
    before = msgspec.to_builtins(files.narrowed(named, ["de"], "recorded"))
    assert "raters" not in before and before["columns"].keys().isdisjoint({"rater", "system_prompt"})
    after = msgspec.to_builtins(files.narrowed(msgspec.structs.replace(named, raters="z"), ["de"], "recorded"))
    assert after["raters"] == "z" and after["columns"]["rater"] == "rater"


def test_a_column_of_what_the_system_says_makes_chats(tmp_path: Path) -> None:
    rows = [row | {"says": "Be brief." if row["id"] != "de000" else None} for row in rated("de", 4)]
    rows[-1]["prompt"] = rows[-2]["prompt"] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    settings = config(tmp_path / "f.jsonl", rows, columns=Columns(system_prompt="says"))
    turns = {prompt.id: turns_of(prompt.text) for prompt in files.recorded(settings, "de").prompts}
    assert turns["de000"] == (("user", "de document 0"),)
    assert turns["de001"] == (("system", "Be brief."), ("user", "de document 1"))
    assert turns["de003"] == (("system", "Be brief."), ("user", "Hi"))
    assert files.truncation_side(settings) == "left"
    rows[-1]["says"] = "Be long."
    with pytest.raises(DataError, match="line 8: `says` and the chat's own system turn say different things"):
        files.summary(config(tmp_path / "f.jsonl", rows, columns=Columns(system_prompt="says")))
    with pytest.raises(ConfigError, match=r"no column `sais`.*task\.columns\.system_prompt=NAME"):
        files.summary(config(tmp_path / "f.jsonl", rows, columns=Columns(system_prompt="sais")))


# --- documents ----------------------------------------------------------------------------------------------


def test_documents_are_groups_where_a_column_names_them(tmp_path: Path) -> None:
    rows = [row | {"doc_id": f"d{n // 8}", "url": f"u{n // 4}"} for n, row in enumerate(rated("de", 20))]
    settings = config(tmp_path / "f.jsonl", rows)  # two rows a prompt: four prompts a document, two a url
    assert {p.group for p in files.recorded(settings, "de").prompts} == {f"d{n}" for n in range(5)}
    notes = files.summary(settings).notes()
    assert [note for note in notes if "`doc_id` names the documents" in note and "columns.group=null" in note]
    by_text = config(tmp_path / "f.jsonl", rows, columns=Columns(group=None))
    assert len({p.group for p in files.recorded(by_text, "de").prompts}) == 20
    split = config(tmp_path / "g.jsonl", [row | {"split": "test" if n % 4 else "train"} for n, row in enumerate(rows)])
    with pytest.raises(DataError, match="of the same group is in"):  # rows of one prompt, as before
        files.summary(split)
    whole = [row | {"split": "test" if n % 4 > 1 else "train"} for n, row in enumerate(rows)]
    assert len(files.prompts(config(tmp_path / "g.jsonl", whole), "de", "test")) == 10  # its own splits are kept
    counted = config(
        tmp_path / "h.jsonl", [row | {"doc": row["doc_id"], "doc_id": n // 2} for n, row in enumerate(rows)]
    )
    assert len({p.group for p in files.recorded(counted, "de").prompts}) == 20


@pytest.mark.parametrize(
    ("name", "value", "noticed"),
    [
        ("url", lambda n: f"u{n // 4}", True),
        ("thread_id", lambda n: n // 8, True),
        ("url", lambda n: f"u{n // 2}", False),  # a value a prompt
        ("url", lambda n: f"u{n // 3}", False),  # two values of a prompt
        ("url", lambda n: "u", False),  # the same of all
        ("url", lambda n: None if n == 7 else f"u{n // 4}", True),  # of one prompt in twenty it says nothing
        ("url", lambda n: None if n < 4 else f"u{n // 4}", False),
        ("domain", lambda n: f"u{n // 4}", False),
    ],
)
def test_other_columns_that_prompts_share_are_said(tmp_path: Path, name: str, value: Any, noticed: bool) -> None:
    rows = [row | {name: value(n)} for n, row in enumerate(rated("de", 20))]
    notes = files.summary(config(tmp_path / "f.jsonl", rows)).notes()
    found = [note for note in notes if f"task.columns.group={name}" in note]
    assert bool(found) == noticed and (not noticed or "values for 20 prompts" in found[0])
