"""Releases of people's judgements: their own layouts with their traps, the same rows as JSONL, and the task of both."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from own_files import jsonl
from releases import beyond_ngrams, message, multi_summeval, rated

from xling.errors import ConfigError, DataError
from xling.tasks import released
from xling.tasks.layouts import read_release
from xling.tasks.released import Settings as Released


def config(layout: str, path: Path, **settings: Any) -> Released:
    return Released(path=str(path), layout=layout, **{"languages": (), **settings})  # type: ignore[arg-type]


def replies(path: Path, lang: str) -> dict[str, list[tuple[str, float]]]:
    """Prompt text -> its replies and ratings, best first."""
    data = released.recorded(config("oasst", path), lang)
    found = zip(data.prompts, data.responses, data.ratings, strict=True)
    return {p.text: sorted(zip(said, ratings, strict=True), key=lambda r: -r[1]) for p, said, ratings in found}


# --- Multi_SummEval -----------------------------------------------------------------------------------------


def test_multi_summeval_of_a_checkout_is_that_of_the_jsonl(tmp_path: Path) -> None:
    checkout = multi_summeval(tmp_path / "Multi_SummEval")
    assert released.languages(config("multi_summeval", checkout)) == ("de", "en")
    rows = []
    for row in read_release("multi_summeval", checkout).rows:
        common = {"lang": row.lang, "id": row.prompt, "document": row.text, "response": row.response}
        rows.append({**common, "system": row.system, **row.ratings, "document_kind": "reference_summary"})
    assert rows[0] == {
        "lang": "de",
        "id": "DE-0",
        "document": "DE reference 0 , as tokenised",
        "response": "DE BERT 0 .",
        "system": "bert-sum",
        "rating": 0.1867,  # of the scores as they are, not of the rounded ones
        "focus": 0.1235,
        "coverage": 0.25,
        "document_kind": "reference_summary",
    }
    file = jsonl(tmp_path / "multi_summeval.jsonl.gz", rows)
    for criterion in ("rating", "focus", "coverage"):
        one, two = (config("multi_summeval", path, rating_field=criterion) for path in (checkout, file))
        assert released.recorded(one, "de") == released.recorded(two, "de")
    inside = config("multi_summeval", checkout / "resulting_data")
    assert released.recorded(inside, "en") == released.recorded(config("multi_summeval", file), "en")


def test_multi_summeval_names_what_is_missing(tmp_path: Path) -> None:
    checkout = multi_summeval(tmp_path)
    folder = checkout / "resulting_data" / "DE"
    (folder / "pred_PG" / "7").unlink()
    with (folder / "score.csv").open("a") as file:
        file.write("14,T5,1.0,1.0\n0,PG,n/a,1.0\n")
    with pytest.raises(DataError) as caught:
        read_release("multi_summeval", checkout)
    assert "3 bad rows" in str(caught.value) and "there is no pred_PG/7" in str(caught.value)
    assert "DE/score.csv line 5" in str(caught.value) and "focus 'n/a'" in str(caught.value)
    (folder / "score.csv").write_text("id,model,focus\n1,PG,0\n")
    with pytest.raises(DataError, match=r"no column 'coverage'; it has id, model, focus"):
        read_release("multi_summeval", checkout)


# --- Beyond N-Grams -----------------------------------------------------------------------------------------


def test_beyond_ngrams_joins_two_tables_and_tells_degraded_rows_apart(tmp_path: Path) -> None:
    plain = {"index": 3, "gemini": "['2', '3']", "gpt": "['4']"}
    corrupted = {"index": "18.0", "gemini": "['1']", "gpt": "['2']", "orig": "as it was"}
    checkout = beyond_ngrams(
        tmp_path,
        {
            "coherence/turkish": [plain, corrupted],
            "consistency/turkish": [{**plain, "gemini": "['3']", "gpt": ""}, {**corrupted, "index": 18}],
            "coherence/yoruba": [{**plain, "gemini": "[]", "gpt": "nan"}],
        },
    )
    rows = {(row.prompt, row.system): row for row in read_release("beyond_ngrams", checkout).rows}
    assert set(rows) == {(p, s) for p in ("tr-3", "tr-18") for s in ("gemini", "gpt")}  # Yoruba has no scores
    first = rows["tr-3", "gemini"]
    assert first.ratings == {"rating": 2.75, "coherence": 2.5, "consistency": 3.0} and first.response == "gemini"
    assert first.text == 'article 3, "quoted"\nin two lines' and not first.corrupted
    assert rows["tr-3", "gpt"].ratings == {"rating": 4.0, "coherence": 4.0} and rows["tr-18", "gpt"].corrupted
    for kind, prompts in (("both", ["tr-18", "tr-3"]), ("only", ["tr-18"]), ("without", ["tr-3"])):
        data = released.recorded(config("beyond_ngrams", checkout, corrupted=kind), "tr")
        assert [prompt.id for prompt in data.prompts] == prompts
    one_rated = config("beyond_ngrams", checkout, rating_field="consistency", corrupted="without")
    assert released.languages(one_rated) == ()  # gpt has no consistency there: nothing to compare


def test_one_rating_of_two_texts_is_of_neither(tmp_path: Path) -> None:
    """Hebrew: two versions of a document's summaries, and one list of scores."""
    scores = {"gemini": "['1']", "gpt": "['3']"}
    twice = [{"index": 7, **scores, "gemini_text": text} for text in ("version 1", "version 2")]
    others = [{"index": d, **scores, "text": f"article {d}"} for d in range(20)]
    checkout = beyond_ngrams(tmp_path, {"coherence/hebrew": [*twice, *[one for one in others if one["index"] != 7]]})
    release = read_release("beyond_ngrams", checkout)
    assert dict(release.notes) == {("he", "responses whose rating may be that of another text of the same system"): 2}
    notes = released.check(config("beyond_ngrams", checkout), None, ["he"], ["he"])
    assert notes[0].startswith("he: 2 responses whose rating") and notes[1].endswith("left out: he 1.")


def test_scores_outside_the_scale_are_bad_rows(tmp_path: Path) -> None:
    wrong = {"index": 1, "gemini": "['7']", "gpt": "four"}
    checkout = beyond_ngrams(tmp_path, {"consistency/arabic": [wrong]})
    with pytest.raises(DataError) as caught:
        read_release("beyond_ngrams", checkout)
    assert "consistency/arabic.csv line 2: gemini_grade is \"['7']\"" in str(caught.value)
    assert "gpt_grade is 'four', which is no list of scores from 1 to 4" in str(caught.value)
    row = {"lang": "ar", "system": "gpt", "document": "d", "response": "r", "inner_index": "1", "rating": 5}
    with pytest.raises(DataError, match=r"line 1: rating=5 is outside the scale 1 to 4"):
        read_release("beyond_ngrams", jsonl(tmp_path / "rows.jsonl", [row]))


# --- Open Assistant -----------------------------------------------------------------------------------------


def test_messages_and_trees_give_ranked_replies(tmp_path: Path) -> None:
    rows = [
        message("p", None, "Question?"),
        message("a", "p", "best", rank=0),
        message("b", "p", "worse", rank=1),
        message("c", "p", "deleted", rank=2, deleted=True),
        message("d", "p", "unreviewed", rank=3, review_result=False),
        message("e", "p", "not ranked"),
        message("f", "p", "auf Deutsch", rank=4, lang="de"),
        message("q", "a", "And then?", role="prompter"),
        message("g", "q", "one", rank=0),
        message("h", "q", "two", rank=1),
        message("z", "gone", "reply to nothing", rank=0),
    ]
    flat = jsonl(tmp_path / "messages.jsonl", rows)
    expected = {
        "Question?": [("best", 0), ("worse", -1)],
        "user: Question?\n\nassistant: best\n\nuser: And then?": [("one", 0), ("two", -1)],
    }
    assert replies(flat, "en") == expected
    assert {p.group for p in released.recorded(config("oasst", flat), "en").prompts} == {"t1"}
    nested = {row["message_id"]: {**row, "replies": []} for row in rows}
    for row in rows:
        if row["parent_id"] in nested:
            nested[row["parent_id"]]["replies"].append(nested[row["message_id"]])
    for row in nested.values():
        del row["parent_id"], row["message_tree_id"]  # as in the trees that oasst2 was published as
    trees = jsonl(tmp_path / "trees.jsonl.gz", [{"message_tree_id": "t1", "tree_state": "x", "prompt": nested["p"]}])
    assert replies(trees, "en") == expected


def test_pairs_are_joined_to_replies_and_no_name_tells_the_rank(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}]
    common = {"source": "s", "lang": "zh", "tree": "zh0", "prompt": turns}
    ranks = [("x", 0, "y", 1), ("x", 0, "z", 2), ("y", 1, "z", 2), ("y", 3, "w", 4)]
    rows = [{**common, "chosen": a, "rank_chosen": m, "rejected": b, "rank_rejected": n} for a, m, b, n in ranks]
    path = jsonl(tmp_path / "pairs.jsonl", rows)
    assert replies(path, "zh") == {"Why?": [("x", 0), ("z", -2), ("w", -4)]}  # y was ranked 1 and 3
    data = released.recorded(config("oasst", path), "zh")
    assert all(name.startswith("reply-") for name in data.systems[0]) and data.prompts[0].group == "zh0"
    notes = released.check(config("oasst", path, folds=2), None, [], ["zh"])
    assert notes == ["zh: 1 replies that were ranked twice, differently, left out."]


def test_lists_in_rank_order_have_their_language_in_the_file_s_name(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "Q1", "input": "", "output": ["a", "b", ""], "history": []},
        {"instruction": "Q2", "input": "more", "output": ["c", "d"], "history": [["Q1", "a"]]},
    ]
    (tmp_path / "oaast_rm_zh.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text("{}")  # of another kind
    found = replies(tmp_path, "zh")
    assert found == {"Q1": [("a", 0), ("b", -1)], "user: Q1\n\nassistant: a\n\nuser: Q2\nmore": [("c", 0), ("d", -1)]}
    assert len({prompt.group for prompt in released.recorded(config("oasst", tmp_path), "zh").prompts}) == 1


# --- the task -----------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", rated(["de"]))
    for settings, words in (
        ({"rating_field": "focuss"}, "no criterion of multi_summeval.*Did you mean 'focus'"),
        ({"corrupted": "only"}, "only beyond_ngrams has rows that were degraded"),
        ({"languages": ("tr",)}, "no language 'tr' in .*rows.jsonl; it has de"),
        ({"path": str(tmp_path / "nowhere")}, "neither a file nor a folder with resulting_data/LANG/score.csv"),
        ({"path": "???"}, "needs a local checkout or its JSONL"),
    ):
        with pytest.raises(ConfigError, match=words):
            released.languages(msgspec.structs.replace(config("multi_summeval", file), **settings))
    fine = config("multi_summeval", file)
    released.check(msgspec.structs.replace(fine, folds=50), None, ["de"], ["de"])  # of 20 documents each is a fold
    with pytest.raises(ConfigError, match=r"source_lang=de has 2 documents .* at least 3 are needed"):
        few = config("multi_summeval", jsonl(tmp_path / "few.jsonl", rated(["de"])[:4]))
        released.check(few, None, ["de"], ["de"])
    with pytest.raises(ConfigError, match=r"task.documents=3 is too few.*task.documents=4"):
        released.check(msgspec.structs.replace(fine, documents=3, folds=2), None, ["de"], ["de"])
    file.write_bytes(b'{"lang": "de"}\n\xff\n[]\n')
    with pytest.raises(DataError, match="3 bad rows"):
        released.languages(fine)


def test_texts_do_not_depend_on_what_was_asked_about_them(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", rated(["de", "tr"]))
    one = config("multi_summeval", file, rating_field="focus", documents=10, seed=3, languages=("de",))
    other = config("multi_summeval", file)
    assert released.narrowed(one, ("de",), "texts") == released.narrowed(other, ("de",), "texts")
    assert released.narrowed(one, ("de",), "recorded") != released.narrowed(other, ("de",), "recorded")
    for settings in ({"documents": None}, {"seed": 4}, {"folds": 3}, {"feedback": "pairwise"}):
        changed = msgspec.structs.replace(one, **settings)
        assert released.narrowed(one, ("de",), "recorded") == released.narrowed(changed, ("de",), "recorded")
        same = released.narrowed(one, ("de",), "crossfitted") == released.narrowed(changed, ("de",), "crossfitted")
        assert same == ("documents" in settings)
