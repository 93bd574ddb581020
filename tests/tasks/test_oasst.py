"""task=oasst on files written as the originals are, with the originals' traps."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from oasst_files import ANSWERS, QUESTIONS, ask, flat, reply, tree, write_flat, write_hub, write_nested

from xling.config.common import Language, Template
from xling.errors import ConfigError, DataError
from xling.tasks import oasst
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.records import turns_of

LANGS = ("en", "es", "ru")
TRAIN = [tree(lang, number) for lang in (*LANGS, "pt-BR") for number in range(6)]
VALIDATION = [tree(lang, number) for lang in LANGS for number in (6, 7)]


@pytest.fixture
def hub(tmp_path: Path) -> Oasst:
    return Oasst(str(write_hub(tmp_path / "hub", TRAIN, VALIDATION)))


def one_file(tmp_path: Path, *roots: dict[str, Any], **changed: Any) -> Oasst:
    return Oasst(str(write_flat(tmp_path / "m.messages.jsonl", list(roots))), **{"validation": 0.0, **changed})


def left_out(settings: Oasst, lang: str = "en") -> dict[str, int]:
    from xling.tasks.oasst import read

    return {reason: count for (of, reason), count in read(settings).left_out.items() if of == lang}


# --- groups -------------------------------------------------------------------------------------------------


def test_the_hubs_own_split_is_kept(hub: Oasst) -> None:
    assert Counter(p.prompt.group for p in oasst.pairs(hub, "en", "train")) == {f"en-{n}": 3 for n in range(6)}
    for split in ("validation", "test"):
        assert {p.group for p in oasst.prompts(hub, "en", split)} == {"en-6", "en-7"}  # type: ignore[arg-type]
    assert oasst.check(hub, None, LANGS, LANGS) == []


def test_pairs_are_all_of_a_sibling_group_and_the_lower_rank_is_chosen(hub: Oasst) -> None:
    pairs = [p for p in oasst.pairs(hub, "es", "train") if p.prompt.id == "es-2"]
    reply_of = {rank: f"{ANSWERS['es']} 2" + " !" * rank for rank in range(3)}
    assert [(p.chosen, p.rejected) for p in pairs] == [(reply_of[i], reply_of[j]) for i, j in ((0, 1), (0, 2), (1, 2))]


def test_demonstrations_are_the_best_replies_and_a_reply_alone_makes_no_pair(hub: Oasst) -> None:
    found = {d.prompt.id: d.response for d in oasst.demonstrations(hub, "en", "train")}
    assert found["en-3"] == f"{ANSWERS['en']} 3" and found["en-3-f"] == f"{ANSWERS['en']} 3."
    assert [p.id for p in oasst.prompts(hub, "en", "train")] == list(found) and len(found) == 12
    assert not any(p.prompt.id.endswith("-f") for p in oasst.pairs(hub, "en", "train"))
    strict = msgspec.structs.replace(hub, single_replies="drop")
    assert {d.prompt.id for d in oasst.demonstrations(strict, "en", "train")} == {f"en-{n}" for n in range(6)}


def test_a_prompt_is_the_conversation_up_to_it(hub: Oasst) -> None:
    prompts = {p.id: p for p in oasst.prompts(hub, "ru", "train")}
    expected = f"Human: {QUESTIONS['ru']} 4?\nAssistant: {ANSWERS['ru']} 4\nHuman: {QUESTIONS['ru']} 5?\nAssistant:"
    assert prompts["ru-4-f"].text == prompts["ru-4-f"].reward_text == expected
    asked = [("user", f"{QUESTIONS['ru']} {n}?") for n in (4, 5)]
    assert turns_of(prompts["ru-4-f"].text) == (asked[0], ("assistant", f"{ANSWERS['ru']} 4"), asked[1])
    assert prompts["ru-4"].text == f"Human: {QUESTIONS['ru']} 4?\nAssistant:"
    assert prompts["ru-4"].group == prompts["ru-4-f"].group == "ru-4" and prompts["ru-4"].dataset == "oasst"


Writer = Callable[[Path, list[Any]], Path]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_flat, "a.messages.jsonl"),
        (write_flat, "a.messages.jsonl.gz"),
        (write_nested, "a.trees.jsonl"),
        (write_nested, "a.trees.jsonl.gz"),
    ],
)
def test_every_layout_gives_the_same_pairs(hub: Oasst, tmp_path: Path, write: Writer, name: str) -> None:
    settings = Oasst(str(write(tmp_path / name, json.loads(json.dumps(TRAIN)))), validation=0.0)
    for lang in LANGS:
        assert oasst.pairs(settings, lang, "train") == oasst.pairs(hub, lang, "train")
        assert oasst.demonstrations(settings, lang, "train") == oasst.demonstrations(hub, lang, "train")


def test_languages_are_mapped_to_those_of_conf_lang(hub: Oasst, tmp_path: Path) -> None:
    assert {p.lang for p in oasst.prompts(hub, "pt", "train")} == {"pt"}
    assert oasst.languages(hub) == ("en", "es", "ru")  # of pt there is nothing to validate on
    with pytest.raises(ConfigError, match=r"no prompt with a best reply in the validation split in 'pt'"):
        oasst.check(hub, None, ["pt"], [])
    with pytest.raises(ConfigError, match="no language 'fr'; it has en, es, pt, ru"):
        oasst.prompts(hub, "fr", "train")
    norwegian = ask("a", "Hei?", "nb-NO", reply("b", "Hei.", "nb-NO"))
    assert len(oasst.prompts(one_file(tmp_path, norwegian), "no", "train")) == 1


# --- what is left out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"deleted": True}, "deleted"),
        ({"review_result": False}, "rejected by its reviewers"),
        ({"review_result": None}, "not reviewed"),
        ({"spam": 0.8}, "labelled as spam"),
        ({"lang_mismatch": 0.8}, "labelled as in another language"),
        ({"text": " \n"}, "empty"),
        ({"lang": "es"}, "in another language than what it answers"),
    ],
)
def test_a_flawed_reply_is_left_out_with_what_is_below_it(tmp_path: Path, flaw: dict[str, Any], reason: str) -> None:
    below = ask("c", "And then?", "en", reply("d", "Nothing.", "en"))
    flawed = reply("b0", "Best.", "en", 0, below) | {
        key: v for key, v in flaw.items() if key not in ("spam", "lang_mismatch")
    }
    flawed["labels"] = {**flawed["labels"], **{k: v for k, v in flaw.items() if k in flawed["labels"]}}
    root = ask("a", "What?", "en", flawed, reply("b1", "Good.", "en", 1), reply("b2", "Bad.", "en", 2))
    settings = one_file(tmp_path, root)
    assert [(p.chosen, p.rejected) for p in oasst.pairs(settings, "en", "train")] == [("Good.", "Bad.")]
    assert [d.response for d in oasst.demonstrations(settings, "en", "train")] == ["Good."]
    lang = flaw.get("lang", "en")
    expected = Counter({(lang, reason): 1}) + Counter({("en", "below a message that is left out"): 2})
    for of in {"en", lang}:
        assert left_out(settings, of) == {why: count for (one, why), count in expected.items() if one == of}


def test_choices_keep_what_is_left_out_else(tmp_path: Path) -> None:
    root = ask(
        "a",
        "What?",
        "en",
        *(
            reply(f"b{k}", f"{k}", "en", k, **f)
            for k, f in enumerate(({"review_result": None}, {"synthetic": True}, {"spam": 0.4}))
        ),
    )
    settings = one_file(tmp_path, root)
    counts = {
        name: len(oasst.pairs(msgspec.structs.replace(settings, **changed), "en", "train"))
        for name, changed in {
            "default": {},
            "unreviewed": {"unreviewed": "keep"},
            "synthetic": {"synthetic": "drop"},
            "spam": {"unreviewed": "keep", "max_spam": 0.3},
        }.items()
    }
    assert counts == {"default": 1, "unreviewed": 3, "synthetic": 0, "spam": 1}


def test_trees_that_are_not_ready_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    path = write_nested(tmp_path / "all.trees.jsonl", [tree("en", 0)], state="aborted_low_grade")
    with pytest.raises(ConfigError, match="no language 'en'; it has none"):
        oasst.pairs(Oasst(str(path), validation=0.0), "en", "train")
    assert len(oasst.pairs(Oasst(str(path), validation=0.0, states=()), "en", "train")) == 3


def test_ranks_that_do_not_decide(tmp_path: Path) -> None:
    """Equal ranks and equal texts make no pair; several replies without a rank have no best."""
    tied = ask(
        "a", "What?", "en", reply("b", "One.", "en", 0), reply("c", "Two.", "en", 0), reply("d", "One.", "en", 1)
    )
    unranked = ask("e", "Who?", "en", reply("f", "He.", "en"), reply("g", "She.", "en"))
    half = ask("h", "Why?", "en", reply("i", "So.", "en"), reply("j", "Because.", "en", 1))
    settings = one_file(tmp_path, tied, unranked, half)
    assert [(p.chosen, p.rejected) for p in oasst.pairs(settings, "en", "train")] == [("Two.", "One.")]
    assert {d.prompt.id: d.response for d in oasst.demonstrations(settings, "en", "train")} == {
        "a": "One.",
        "h": "Because.",
    }


def test_the_note_says_what_was_left_out(hub: Oasst, tmp_path: Path) -> None:
    unranked = ask("e", "Who?", "en", reply("f", "He.", "en"), reply("g", "She.", "en"))
    spam = ask("h", "Buy!", "en", reply("i", "No.", "en"), review_result=False)
    settings = Oasst(str(write_hub(tmp_path / "more", [*TRAIN, unranked, spam], VALIDATION)))
    [note] = oasst.check(settings, None, ["en"], ["en"])
    assert note.startswith("en: messages of ") and "rejected by its reviewers 1" in note
    assert "below a message that is left out 1" in note and "several replies without ranks" in note


def test_duplicates_orphans_and_wrong_roles_are_counted(tmp_path: Path) -> None:
    rows = [row for root in (tree("en", 0), tree("en", 1)) for row in flat(root)]
    orphan = {**rows[1], "message_id": "x", "parent_id": "gone"}
    same_side = {**rows[1], "message_id": "y", "parent_id": rows[1]["message_id"]}
    answer_first = {**rows[1], "message_id": "z", "parent_id": None}
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[::-1], rows[2], orphan, same_side, answer_first]))
    settings = Oasst(str(path), validation=0.0)
    assert left_out(settings) == {
        "the same message again": 1,
        "a reply to a message that is not there": 1,
        "a reply to its own side": 1,
        "a reply to nothing": 1,
    }
    assert len(oasst.pairs(settings, "en", "train")) == 6  # children stood before their parents


# --- splits -------------------------------------------------------------------------------------------------


def test_without_a_split_whole_trees_are_drawn(tmp_path: Path) -> None:
    roots = [tree("en", number) for number in range(60)]
    settings = one_file(tmp_path, *roots, validation=0.3)
    parts = {split: oasst.prompts(settings, "en", split) for split in ("train", "validation")}  # type: ignore[arg-type]
    groups = {split: {p.group for p in found} for split, found in parts.items()}
    assert not groups["train"] & groups["validation"] and len(groups["train"] | groups["validation"]) == 60
    assert 8 <= len(groups["validation"]) <= 28
    assert all(len(found) == 2 * len(groups[split]) for split, found in parts.items())
    again = oasst.prompts(msgspec.structs.replace(settings, seed=1), "en", "validation")
    assert {p.group for p in again} != groups["validation"]


def test_a_tree_in_both_splits_is_refused(tmp_path: Path) -> None:
    settings = Oasst(str(write_hub(tmp_path / "hub", TRAIN, [*VALIDATION, tree("en", 0)])))
    with pytest.raises(DataError, match="has the tree en-0, which is in the train files too"):
        oasst.languages(settings)


def test_halves_keep_apart_what_chooses_and_what_is_evaluated_on(tmp_path: Path) -> None:
    validation = [tree(lang, number) for lang in LANGS for number in range(6, 13)]
    hub = str(write_hub(tmp_path / "hub", TRAIN, validation))
    whole, halves = Oasst(hub), Oasst(hub, evaluate="halves")
    for use in (oasst.prompts, oasst.pairs):
        parts = {s: [getattr(one, "prompt", one).id for one in use(halves, "en", s)] for s in ("validation", "test")}  # type: ignore[operator]
        ids = [getattr(one, "prompt", one).id for one in use(whole, "en", "test")]  # type: ignore[operator]
        assert sorted(parts["validation"] + parts["test"]) == sorted(ids)
        assert use(halves, "en", "train") == use(whole, "en", "train")  # type: ignore[operator]
    groups = {s: {p.group for p in oasst.prompts(halves, "en", s)} for s in ("validation", "test")}  # type: ignore[arg-type]
    assert (len(groups["validation"]), len(groups["test"])) == (3, 4) and not groups["validation"] & groups["test"]
    again = msgspec.structs.replace(halves, seed=1)
    assert {p.group for p in oasst.prompts(again, "en", "test")} != groups["test"]
    assert oasst.prompts(whole, "en", "validation") == oasst.prompts(whole, "en", "test")
    assert {split for *_, split in oasst.published(halves)} == {"train"}
    assert oasst.narrowed(halves, ("en",), "pairwise") != oasst.narrowed(whole, ("en",), "pairwise")


def test_one_tree_cannot_be_cut_in_two(tmp_path: Path) -> None:
    hub = str(write_hub(tmp_path / "hub", TRAIN, [tree("en", 6)]))
    oasst.check(Oasst(hub), None, ["en"], ["en"])
    with pytest.raises(ConfigError, match="no prompt with a best reply in the half of the validation split that"):
        oasst.check(Oasst(hub, evaluate="halves"), None, ["en"], ["en"])


# --- files and keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("???", r"needs the message trees\. Type task\.path=PATH"),
        ("nowhere.jsonl", r"task\.path=nowhere\.jsonl is not there\. Type task\.path=PATH"),
        (".", r"task\.path=\. has no train and no validation files; it has "),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, sentence: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(ConfigError, match=sentence):
        oasst.languages(Oasst(path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: row.pop("role"), "no column 'role'; it has parent_id, message_id"),
        (lambda row: row.update(role="system"), "with role 'system'; roles are prompter, assistant"),
        (lambda row: row.update(message_id=""), "message_id '' with role"),
    ],
)
def test_messages_that_are_not_as_published(tmp_path: Path, change: Callable[[Any], None], sentence: str) -> None:
    rows = list(flat(tree("en", 0)))
    for row in rows:
        change(row)
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=sentence):
        oasst.languages(Oasst(str(path)))


def test_a_use_keeps_what_it_reads(hub: Oasst) -> None:
    facts = tuple(Language(code, code, code, "Latn") for code in LANGS)
    settings = msgspec.structs.replace(hub, template=Template("{language}: {text}"), facts=facts, languages=LANGS)
    pairs, demonstrations = (oasst.narrowed(settings, ("es",), use) for use in ("pairwise", "demonstrations"))  # type: ignore[arg-type]
    assert pairs.template == Template() and pairs.facts == ()  # type: ignore[union-attr]
    assert demonstrations.facts == (facts[1],)  # type: ignore[union-attr]
    assert pairs == oasst.narrowed(msgspec.structs.replace(settings, single_replies="drop"), ("es",), "pairwise")
    assert oasst.sources(pairs) == oasst.sources(settings)
