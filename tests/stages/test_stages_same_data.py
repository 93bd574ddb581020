"""Of data in files a key holds the rows that a stage reads, and nothing else of the files."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import oasst_files
import pytest
import seahorse_files
from families import saved_chat
from own_files import Row, jsonl, parquet, rated, separated
from releases import benchmark
from small_grid import BUDGET, Runner, contents, every, experiment

from xling import digests
from xling.config.common import Language, Template
from xling.errors import DataError
from xling.grid.plan import make_plan
from xling.grid.records import Sheet
from xling.grid.stage import Cell, Stage
from xling.grid.store import Store
from xling.planning import translations
from xling.planning.dag import judge_stage
from xling.planning.specs import data_of
from xling.results import specs as prompts
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.same_as_policy import Settings as SameAsPolicy
from xling.tasks.files import Settings as Files
from xling.tasks.m_rewardbench import Settings as MRewardBench
from xling.tasks.oasst import Settings as Oasst
from xling.tasks.options import Task
from xling.tasks.released import Settings as Released
from xling.tasks.seahorse import Settings as Seahorse
from xling.translators import recorded
from xling.translators.recorded import Settings as RecordedTranslations

LANGS = ("de", "en")
WORDS = BagOfWords()
Keys = dict[str, str]  # a stage's label: its key


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SLOW", 0)
    forget()
    return tmp_path / "cache" / "xling" / "made"


def forget() -> None:
    """As another process."""
    data_of.cache_clear()
    prompts._remembered.cache_clear()
    from xling.planning import specs

    for cached in (specs.sft, specs.samples, specs.reward, specs.recorded):
        cached.cache_clear()


def rows() -> list[Row]:
    """Two languages with demonstrations and ratings in every split, which a column names."""
    split = ("train", "train", "validation", "test")
    return [row | {"split": split[int(row["id"][2:]) % 4]} for lang in LANGS for row in rated(lang, 24)]


def stages(checkpoint: Path, task: Task, target: str = "en", rm: Any = WORDS) -> dict[str, Stage]:
    """All stages of a cell of each source, by label."""
    found: dict[str, Stage] = {}
    forget()
    for source in LANGS:
        asked = experiment(checkpoint, source, target, task=task, judge="target_rm", rm=rm, sft=BUDGET)
        found |= {stage.label: stage for stage in every(judge_stage(asked)).values()}
    return found


def keys(checkpoint: Path, task: Task, target: str = "en", rm: Any = WORDS) -> Keys:
    return {label: stage.key for label, stage in stages(checkpoint, task, target, rm).items()}


def own(path: Path, found: list[Row], **settings: Any) -> Files:
    return Files(str(jsonl(path, found)), languages=(), **settings)


def others(before: Keys, after: Keys) -> set[str]:
    assert before.keys() == after.keys()
    return {label for label in before if before[label] != after[label]}


# --- your own files -----------------------------------------------------------------------------------------

NEW: Row = {"id": "new", "prompt": "new document", "response": "a says new", "system": "a", "rating": 1}
CHAT = [{"role": "user", "content": "a question"}]
IN_ENGLISH = {"pool[en]", "baseline[en]", "score[en, en]", "score[de, en]", "judge[en, en]", "judge[de, en]"}
TRAINED = {"sft[en]", "reward[en]"}
OF_GERMAN = {"reward[de]", "score[de, en]", "judge[de, en]"}


@pytest.mark.parametrize(
    ("edit", "again"),
    [
        (lambda found: [*found, NEW | {"lang": "tr", "split": "train"}], set()),
        (lambda found: [*found, NEW | {"lang": "tr", "split": "train", "prompt": CHAT}], set()),
        (lambda found: random.Random(3).sample(found, len(found)), set()),
        (lambda found: [row | {"note": f"seen {n}"} for n, row in enumerate(found)], set()),
        (lambda found: [{name: row[name] for name in sorted(row)} for row in found], set()),
        (lambda found: [*found, NEW | {"lang": "de", "split": "test"}], set()),  # no cell is evaluated on it
        (lambda found: [*found, NEW | {"lang": "en", "split": "test"}], IN_ENGLISH),
        (lambda found: [*found, NEW | {"lang": "de", "split": "train"}], OF_GERMAN),
        (lambda found: [*found, NEW | {"lang": "en", "split": "validation"}], TRAINED | IN_ENGLISH),
    ],
    ids=["another language", "another language's chat", "shuffled", "an unused column", "columns in another order",
         "a test prompt of a source",
         "a test prompt", "a training row of a source", "a validation row"],
)  # fmt: skip
def test_only_stages_that_read_a_row_have_other_keys(
    no_model: Path, tmp_path: Path, edit: Callable[[list[Row]], list[Row]], again: set[str]
) -> None:
    before = keys(no_model, own(tmp_path / "f.jsonl", rows()))
    assert others(before, keys(no_model, own(tmp_path / "f.jsonl", edit(rows())))) == again


def test_a_text_that_is_read_counts_wherever_it_stands(no_model: Path, tmp_path: Path) -> None:
    before = keys(no_model, own(tmp_path / "f.jsonl", rows()))
    for name, value in (("response", "a says it otherwise"), ("prompt", "another document"), ("rating", 0)):
        changed = rows()
        one = next(row for row in changed if row["lang"] == "de" and row["split"] == "train" and row["rating"])
        for row in changed:
            if row is one or (name == "prompt" and row["id"] == one["id"] and row["lang"] == "de"):
                row[name] = value
        assert others(before, keys(no_model, own(tmp_path / "f.jsonl", changed))) >= {"reward[de]", "score[de, en]"}


TOLD = [[("user", "why?"), ("assistant", "so"), ("user", "how?")], [("user", "why?\nAssistant: so\nHuman: how?")]]
READ_BY_TURNS = {"sft[de]", "sft[en]", "pool[en]", "baseline[en]", "reward[de]", "reward[en]",
                 "score[de, en]", "score[en, en]", "judge[de, en]", "judge[en, en]"}  # fmt: skip


def told(number: int) -> list[Row]:
    """Rows whose prompts are chats with one text, whose turns are others by `number`."""
    turns = [{"role": role, "content": text} for role, text in TOLD[number]]
    return [
        row | {"prompt": [{"role": "system", "content": row["prompt"]}, *turns], "group": row["id"]} for row in rows()
    ]


def test_turns_are_data_to_what_reads_by_a_chat_template_and_to_nothing_else(no_model: Path, tmp_path: Path) -> None:
    chatty = saved_chat(tmp_path / "gemma", "gemma")
    one, other = (own(tmp_path / f"{n}.jsonl", told(n)) for n in range(2))
    assert keys(no_model, one) == keys(no_model, other)
    assert others(keys(chatty, one), keys(chatty, other)) == READ_BY_TURNS - {"reward[de]", "reward[en]", "sft[de]"}
    network = SameAsPolicy(BUDGET)
    assert others(keys(chatty, one, rm=network), keys(chatty, other, rm=network)) == READ_BY_TURNS
    texts = own(tmp_path / "texts.jsonl", rows())
    assert stages(chatty, texts)["sft[en]"].spec["digest"] == digest_of(texts, "en", "demonstrations")
    made = stages(chatty, one)["baseline[en]"]
    jsonl(Path(one.path), told(1))
    forget()
    with pytest.raises(DataError, match=r"0\.jsonl has changed since the grid was planned \(en prompts, test\)"):
        prompts.unchanged(prompts.located(made.spec))


def test_ratings_are_no_part_of_the_texts(tmp_path: Path) -> None:
    before = {use: digest_of(own(tmp_path / "f.jsonl", rows()), "de", use) for use in ("texts", "recorded")}
    changed = [row | {"rating": 1 - row["rating"]} for row in rows()]
    after = {use: digest_of(own(tmp_path / "f.jsonl", changed), "de", use) for use in ("texts", "recorded")}
    assert after["texts"] == before["texts"] and after["recorded"] != before["recorded"]


def test_the_same_rows_in_another_format_or_place_are_the_same_data(no_model: Path, tmp_path: Path) -> None:
    before = keys(no_model, own(tmp_path / "f.jsonl", rows()))
    (tmp_path / "other").mkdir()
    (tmp_path / "two").mkdir()
    halves = [
        jsonl(tmp_path / "two" / f"{lang}.jsonl", [row for row in rows() if row["lang"] == lang]) for lang in LANGS
    ]
    os.utime(halves[0], ns=(1, 1))
    for path in (
        jsonl(tmp_path / "other" / "g.jsonl", rows()),
        separated(tmp_path / "f.csv", rows()),
        separated(tmp_path / "f.tsv", rows()),
        parquet(tmp_path / "f.parquet", rows()),
        tmp_path / "two",
        Path(os.path.relpath(tmp_path / "f.jsonl")),
    ):
        assert keys(no_model, Files(str(path), ())) == before, path


def test_rows_of_another_language_that_have_to_be_skipped_retrain_nothing(no_model: Path, tmp_path: Path) -> None:
    before = keys(no_model, own(tmp_path / "f.jsonl", rows()))
    bad = [*rows(), NEW | {"lang": "tr", "split": "train", "rating": "n/a"}]
    assert keys(no_model, own(tmp_path / "f.jsonl", bad, bad_rows="skip")) == before


def test_without_a_split_column_added_rows_move_no_others(no_model: Path, tmp_path: Path) -> None:
    plain = [{name: row[name] for name in row if name != "split"} for lang in LANGS for row in rated(lang, 60)]
    before = keys(no_model, own(tmp_path / "f.jsonl", plain))
    more = plain + [row for row in rated("tr", 60)]
    assert others(before, keys(no_model, own(tmp_path / "f.jsonl", more))) == set()
    added = {NEW["id"]: own(tmp_path / "f.jsonl", [*plain, NEW | {"lang": "en"}])}
    changed = others(before, keys(no_model, added[NEW["id"]]))
    assert changed and (changed >= TRAINED or not changed & TRAINED)


def test_shuffled_files_give_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    folders = []
    for name, found in (("f", rows()), ("g", random.Random(7).sample(rows(), len(rows())))):
        made, runner = stages(tiny_folder, own(tmp_path / f"{name}.jsonl", found)), Runner(tmp_path / name)
        runner.folder(made["judge[de, en]"])
        folders.append({label: contents(runner.folder(stage)) for label, stage in made.items() if stage.kind != "base"})
    assert folders[0].keys() == folders[1].keys() and len(folders[0]) == 9
    for label, files in folders[0].items():
        assert files == folders[1][label], label


def test_a_language_whose_template_names_it_has_one_key_whatever_was_asked_before(tmp_path: Path) -> None:
    facts = tuple(Language(code, code, code, "Latn") for code in LANGS)
    task = own(tmp_path / "f.jsonl", rows(), template=Template(reward="{language}: {text}"), facts=facts)
    first = msgspec.json.encode(data_of(task, ("de",), "pointwise"))
    assert translations._read_in(task, ("de",), "en", "pointwise")["task"].facts[0].code == "en"
    assert msgspec.json.encode(data_of(task, ("de",), "pointwise")) == first


# --- what a run sees, and what a plan says --------------------------------------------------------------------


def test_what_a_stage_reads_may_not_change_while_it_waits_and_all_else_may(tiny_folder: Path, tmp_path: Path) -> None:
    task = own(tmp_path / "f.jsonl", rows())
    made, runner = stages(tiny_folder, task), Runner(tmp_path / "results")
    jsonl(Path(task.path), [*rows(), NEW | {"lang": "de", "split": "train"}])
    runner.folder(made["reward[en]"])
    with pytest.raises(DataError, match=r"f\.jsonl has changed since the grid was planned \(de ratings, train\)"):
        runner.folder(made["reward[de]"])
    jsonl(Path(task.path), random.Random(1).sample(rows(), len(rows())))
    for label in ("reward[de]", "sft[en]"):
        runner.folder(made[label])
    jsonl(Path(task.path), [row | {"prompt": f"{row['prompt']}!"} for row in rows()])
    for label in ("pool[en]", "score[de, en]"):
        with pytest.raises(DataError, match=r"f\.jsonl has changed since the grid was planned"):
            runner.folder(made[label])


def test_a_plan_says_which_rows_have_changed(no_model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    old = stages(no_model, own(tmp_path / "f.jsonl", rows()))["reward[en]"]
    folder = store.folder(old.kind, old.key)
    folder.mkdir(parents=True)
    sheet = Sheet(old.kind, old.version, old.label, dict(old.spec), {})
    (folder / "spec.json").write_bytes(msgspec.json.encode(sheet))
    make_plan([Cell({}, old)], store).write()

    def reason(found: list[Row]) -> str:
        stage = stages(no_model, own(tmp_path / "f.jsonl", found))["reward[en]"]
        return make_plan([Cell({}, stage)], store).steps[stage.key].reason

    new = [
        NEW | {"lang": "en", "split": "train"},
        NEW | {"id": "2", "prompt": "2", "lang": "en", "split": "validation"},
    ]
    assert reason(rows() + new) == ("data changed: en ratings, train: 1 row more; en ratings, validation: 1 row more")
    other = [row | {"response": row["response"] + "!"} if row["lang"] == "en" else row for row in rows()]
    assert reason(other) == ("data changed: en ratings, train: other rows; en ratings, validation: other rows")


def test_what_was_read_is_remembered_by_the_files_bytes(
    no_model: Path, tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = own(tmp_path / "f.jsonl", rows())
    before = keys(no_model, task)
    asked: list[str] = []
    parts = prompts._parts

    def counted(task: Task, lang: str, use: Any) -> Any:
        asked.append(use)
        return parts(task, lang, use)

    monkeypatch.setattr(prompts, "_parts", counted)
    os.utime(task.path, ns=(1, 1))
    assert keys(no_model, task) == before and not asked  # another process, and another time of the same bytes
    for path in memory.glob("*.json"):
        path.write_bytes(b'{"damaged')
    assert keys(no_model, task) == before and asked
    asked.clear()
    monkeypatch.setattr(prompts, "code_digest", lambda task: "another reader")
    assert keys(no_model, task) == before and asked


def test_without_a_place_to_remember_the_keys_are_the_same(
    no_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = own(tmp_path / "f.jsonl", rows())
    before = keys(no_model, task)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert keys(no_model, task) == before


# --- the tasks of the paper -----------------------------------------------------------------------------------


def digest_of(task: Task, lang: str, use: Any) -> str:
    forget()
    return str(data_of(task, (lang,), use)["digest"])


def test_m_rewardbench_is_keyed_by_the_rows_of_its_languages(tmp_path: Path) -> None:
    task = MRewardBench(str(benchmark(tmp_path / "b", "deu_Latn", "tur_Latn")))
    before = {lang: digest_of(task, lang, "recorded") for lang in ("de", "tr")}
    [path] = (tmp_path / "b" / "tur_Latn").glob("test*")
    found = _read_rows(path)
    path.unlink()
    jsonl(path.with_suffix(".jsonl"), random.Random(2).sample(found, len(found)))
    assert {lang: digest_of(task, lang, "recorded") for lang in ("de", "tr")} == before
    found[0] = found[0] | {"chosen": found[0]["rejected"], "rejected": found[0]["chosen"]}
    jsonl(path.with_suffix(".jsonl"), found)
    after = {lang: digest_of(task, lang, "recorded") for lang in ("de", "tr")}
    assert after["de"] == before["de"] and after["tr"] != before["tr"]


def _read_rows(path: Path) -> list[Row]:
    from xling.tasks.tables import open_table

    return [row for _, row in open_table(path).good_rows()]


def test_oasst_is_keyed_by_the_rows_of_its_languages(tmp_path: Path) -> None:
    def task(trees: list[Any], **settings: Any) -> Oasst:
        found = [row for root in trees for row in oasst_files.flat(root)]
        jsonl(tmp_path / "m.messages.jsonl", random.Random(len(trees)).sample(found, len(found)))
        return Oasst(str(tmp_path / "m.messages.jsonl"), validation=0.3, **settings)

    trees = [oasst_files.tree(lang, number) for lang in ("en", "es") for number in range(12)]
    uses = ("demonstrations", "pairwise", "prompts", "held_out_pairwise")
    before = {(lang, use): digest_of(task(trees), lang, use) for lang in ("en", "es") for use in uses}
    more = [*trees, oasst_files.tree("ru", 1)]
    assert {of: digest_of(task(more), *of) for of in before} == before
    more = [*trees, *(oasst_files.tree("es", 100 + number) for number in range(12))]
    after = {of: digest_of(task(more), *of) for of in before}
    assert {of for of in before if before[of] != after[of]} == {("es", use) for use in uses}
    for halves in (task(trees, evaluate="halves"), task(more, evaluate="halves")):
        assert digest_of(halves, "en", "prompts") == digest_of(task(trees, evaluate="halves"), "en", "prompts")


def test_seahorse_is_keyed_by_the_rows_of_its_languages(tmp_path: Path) -> None:
    langs, corpora = ("de", "tr"), {"de": ("mlsum",), "tr": ("xlsum",)}
    rows = seahorse_files.plain_rows(langs, corpora)
    seahorse_files.write_ratings(tmp_path / "ratings", rows)
    seahorse_files.write_corpora(tmp_path / "articles", langs, corpora)
    task = Seahorse(str(tmp_path / "ratings"), str(tmp_path / "articles"), langs, ("mlsum", "xlsum"))
    uses = ("demonstrations", "pointwise", "pairwise", "prompts", "held_out_pointwise")
    before = {(lang, use): digest_of(task, lang, use) for lang in langs for use in uses}

    def changed() -> set[tuple[str, str]]:
        return {of for of, digest in before.items() if digest_of(task, *of) != digest}

    shuffled = {split: random.Random(1).sample(found, len(found)) for split, found in rows.items()}
    seahorse_files.write_ratings(tmp_path / "ratings", shuffled)
    train = tmp_path / "articles" / "mlsum" / "de" / "mlsum-train.jsonl"
    documents = seahorse_files.documents("de", "mlsum", "train")
    seahorse_files.write_table(train, [one | {"topic": "other"} for one in reversed(documents)])
    assert changed() == set()
    rows["train"].append(seahorse_files.rated("de", "mlsum", "validation", 3, "another", True))
    seahorse_files.write_ratings(tmp_path / "ratings", rows)
    assert changed() == {("de", "pointwise"), ("de", "pairwise"), ("de", "held_out_pointwise")}
    seahorse_files.write_ratings(tmp_path / "ratings", shuffled)
    seahorse_files.write_table(train, documents[1:])
    assert changed() == {("de", "demonstrations")}


@pytest.mark.parametrize("use", ["recorded", "texts", "crossfitted"])
def test_a_release_is_keyed_by_the_rows_of_its_languages(tmp_path: Path, use: str) -> None:
    def task(found: list[Row]) -> Released:
        return Released(str(jsonl(tmp_path / "r.jsonl", found)), "multi_summeval", ())

    found = [
        {"lang": lang, "system": system, "document": f"{lang} {n}", "response": f"{system} {n}", "id": f"{lang}{n}"}
        | {"rating": n + ord(system), "focus": n, "coverage": n, "unused": n}
        for lang in LANGS
        for n in range(12)
        for system in "ab"
    ]
    before = {lang: digest_of(task(found), lang, use) for lang in LANGS}
    same = [row | {"unused": 0} for row in random.Random(4).sample(found, len(found))]
    assert {lang: digest_of(task(same), lang, use) for lang in LANGS} == before
    found[0] = found[0] | {"response": "otherwise"}
    after = {lang: digest_of(task(found), lang, use) for lang in LANGS}
    assert after["de"] != before["de"] and after["en"] == before["en"]


# --- recorded translations ------------------------------------------------------------------------------------


def test_translations_are_keyed_by_the_texts_that_a_stage_needs(tmp_path: Path) -> None:
    task = own(tmp_path / "f.jsonl", rows())
    english, german = (Language(code, code, code, "Latn") for code in ("en", "de"))
    needed = list(dict.fromkeys(text for row in rows() for text in (row["prompt"], row["response"])))
    there: list[Row] = [
        {"source_lang": source, "target_lang": target, "text": before + text, "translation": after + text}
        for source, target, before, after in (("de", "en", "", "English: "), ("en", "de", "English: ", "German: "))
        for text in needed
    ]
    there[0] |= {"translation": ""}  # which drops a document: what only its record said is not needed on the way back
    file = jsonl(tmp_path / "t.jsonl", there)

    def halves() -> list[Stage]:
        for cached in (translations.translate, recorded._records, data_of):
            cached.cache_clear()
        translator = RecordedTranslations(path=str(file))
        first = translations.translate(task, "demonstrations", german, english, translator)
        return [first, translations.translate(task, "demonstrations", english, german, translator, first)]

    before = halves()
    runner = Runner(tmp_path / "results")
    assert b"German: de document" in (runner.folder(before[1]) / "train.jsonl").read_bytes()
    new = {"source_lang": "de", "target_lang": "en", "text": "a test prompt", "translation": "unread"}
    jsonl(file, [*random.Random(1).sample(there, len(there)), new, new | {"source_lang": "en", "target_lang": "de"}])
    assert [one.key for one in halves()] == [one.key for one in before]
    again = Runner(tmp_path / "again")
    assert contents(again.folder(before[1])) == contents(runner.folder(before[1]))
    read = next(n for n, row in enumerate(there) if row["text"] == rows()[2]["prompt"])
    there[read] |= {"translation": "otherwise"}
    jsonl(file, there)
    assert not {one.key for one in halves()} & {one.key for one in before}
    with pytest.raises(DataError, match=r"t\.jsonl has changed since the grid was planned"):
        Runner(tmp_path / "third").folder(before[0])
