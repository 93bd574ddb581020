"""`xling data check`: what it counts, and the command as people type it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from xling.cli import main
from xling.config.common import Language
from xling.planning.datacheck import Part, Report, check_data
from xling.tasks.files import Settings as Files
from xling.tasks.rows import Columns

sys.path.insert(0, str(Path(__file__).parent / "tasks"))
from lid_files import relabelled
from oasst_files import tree, write_hub
from own_files import jsonl, paired, rated
from releases import benchmark
from seahorse_files import plain_rows, write_corpora, write_ratings

FACTS = [Language(code, code, code, "Latn") for code in ("de", "en", "tr")]
GERMAN = "Das ist ein kurzer deutscher Satz über das Wetter von heute, Nummer {}."


def looked(path: Path, **settings: Any) -> Report:
    return check_data("files", Files(path=str(path), **{"languages": (), **settings}), FACTS)


def part(report: Report, lang: str, use: str, split: str) -> Part:
    [found] = [p for p in report.parts if (p.lang, p.use, p.split) == (lang, use, split)]
    return found


def test_counts_by_use_and_split(tmp_path: Path) -> None:
    report = looked(jsonl(tmp_path / "f.jsonl", rated("de", 40) + rated("tr", 20)))
    uses, splits = ("demonstrations", "ratings", "pairs", "prompts"), ("train", "validation", "test")
    assert {(p.use, p.split) for p in report.parts if p.lang == "de"} == {*product(uses, splits), ("recorded", "")}
    train = part(report, "de", "ratings", "train")
    assert (train.rows, train.prompts, train.groups, train.duplicates) == (62, 31, 31, 0)
    assert train.balance == 50 and train.measure == "good"
    assert part(report, "tr", "recorded", "").rows == 20
    assert [(w.lang, w.leaked_groups, w.leaked_texts) for w in report.languages] == [("de", 0, 0), ("tr", 0, 0)]


def test_those_who_rated_the_same_responses_agree_so_far(tmp_path: Path) -> None:
    rows = rated("de", 20) + rated("tr", 20)
    again = [row | {"rating": 1 - row["rating"] if row["id"] < "de005" else row["rating"]} for row in rows[:40]]
    report = looked(jsonl(tmp_path / "f.jsonl", rows + again))
    de, tr = (whole.raters for whole in report.languages)
    assert tr is None and de is not None and (de.responses, de.ratings, de.groups) == (40, 80, 20)
    assert de.value == pytest.approx(1 - 0.25 / (2 * 40 * 40 / (80 * 79)))  # ten of forty pairs differ
    assert de.low is not None and de.high is not None and de.low < de.value < de.high < 1


def test_what_is_counted_by_documents_is_counted_after_they_are_joined(tmp_path: Path) -> None:
    """Twelve articles, each with a twin that one character tells apart: alpha is over twelve, and splits go by it."""
    articles = [f"{'it is long and old ' * 8} {'abcdefghijkl'[n // 2] * 3} by {'ab'[n % 2]}" for n in range(24)]
    rows = [row | {"prompt": articles[number // 2]} for number, row in enumerate(rated("de", 24))]
    ids = [row | {"article-No": f"{number // 4}"} for number, row in enumerate(rows)]  # which says nothing new
    report = looked(jsonl(tmp_path / "f.jsonl", [*ids, *ids]))
    [whole] = report.languages
    assert whole.raters is not None and (whole.raters.responses, whole.raters.groups) == (48, 12)
    assert not [note for note in report.notes if "article-No" in note]
    cut = [row | {"split": "train" if number // 2 % 2 else "test"} for number, row in enumerate(rows)]
    report = looked(jsonl(tmp_path / "split.jsonl", cut))
    assert report.languages[0].leaked_groups == 12
    assert any("`split` has prompts of one group in two splits: 24 (" in note for note in report.notes)


def test_leaks_duplicates_and_lengths_are_seen(tmp_path: Path) -> None:
    rows = paired("de", 40)
    for row in rows[:20]:
        row["split"], row["tree"] = "train", f"{row['tree']}-train"
    for row in rows[20:]:
        row["split"], row["tree"] = "test", f"{row['tree']}-test"
    rows[20]["prompt"] = rows[0]["prompt"]  # one prompt under two trees, in two splits
    report = looked(jsonl(tmp_path / "f.jsonl", rows), columns=Columns(group="tree"))
    [whole] = report.languages
    assert (whole.leaked_groups, whole.leaked_texts) == (1, 1)
    assert any("`split` has prompts of one group in two splits: 2 (lines 21, 22)" in note for note in report.notes)
    train = part(report, "de", "pairs", "train")
    assert train.balance == 100 and train.measure == "chosen is longer"  # "good" is longer than "bad"
    assert train.response_median == 13 and train.prompt_median == len("Human: de question 10\nAssistant:")


def test_one_prompt_of_two_trees_is_in_one_split_where_splits_are_made_here(tmp_path: Path) -> None:
    rows = paired("de", 40)
    for row in rows[20:]:
        row["prompt"] = rows[rows.index(row) - 20]["prompt"]
        row["chosen"] += " again"
    [whole] = looked(jsonl(tmp_path / "f.jsonl", rows), columns=Columns(group="tree")).languages
    assert (whole.leaked_groups, whole.leaked_texts) == (0, 0)


def test_the_share_in_the_stated_language(tmp_path: Path) -> None:
    rows = [row | {"response": GERMAN.format(n)} for n, row in enumerate(rated("de", 20) + rated("en", 20))]
    by_lang = {w.lang: w.in_language for w in looked(jsonl(tmp_path / "f.jsonl", rows)).languages}
    assert by_lang == {"de": 100.0, "en": 0.0}


def test_misses_and_false_positives_of_the_detector_stand_side_by_side(tmp_path: Path) -> None:
    """All is German: what is called English is a miss there, and a false positive of German; Hausa cannot be told."""
    every = rated("de", 20) + rated("en", 20) + rated("ha", 20)
    rows = [row | {"response": GERMAN.format(n)} for n, row in enumerate(every)]
    path = jsonl(tmp_path / "f.jsonl", rows)
    task, facts = Files(path=str(path), languages=()), [*FACTS, Language("ha", "Hausa", "Hausa", "Latn")]
    found = {
        w.lang: (w.in_language, w.rates.mistaken.value if w.rates.mistaken else None)
        for w in check_data("files", task, facts).languages
    }
    assert found == {"de": (100.0, 100.0), "en": (0.0, 0.0), "ha": (None, None)}
    model = relabelled(tmp_path / "lid.bin", {"__label__de": "__label__hau_Latn"})
    other = check_data("files", task, facts, model)
    again = {w.lang: (w.in_language, w.rates.mistaken.value if w.rates.mistaken else None) for w in other.languages}
    assert again == {"de": (None, None), "en": (0.0, 0.0), "ha": (100.0, 100.0)}


def test_a_use_that_the_settings_do_not_allow_is_a_note(tmp_path: Path) -> None:
    rows = [row | {"rating": n / 7} for n, row in enumerate(rated("de", 40))]
    report = looked(jsonl(tmp_path / "f.jsonl", rows))
    assert {p.use for p in report.parts} == {"pairs", "prompts", "recorded"}
    assert [note.split(":")[0] for note in report.notes] == ["demonstrations, ratings"]  # for one reason, said once


def test_what_a_note_has_said_no_other_says_again(tmp_path: Path) -> None:
    jsonl(tmp_path / "ratings.jsonl", rated("de", 20))
    jsonl(tmp_path / "prompts.tr.jsonl", [{"prompt": f"Soru {n}?"} for n in range(20)])
    notes = looked(tmp_path).notes
    assert len([note for note in notes if "holds prompts alone" in note]) == 1
    assert [note for note in notes if note.startswith("recorded: ") and note.endswith("compares those.")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["data", "check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_in_the_terminal_and_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "f.jsonl", rated("de", 40))
    asked = ("task=files", f"task.path={tmp_path}/f.jsonl", "task.columns.group=null")
    code, out, _ = run(capsys, *asked)
    assert code == 0 and "validation" in out and "50 % good" in out and "in language" in out
    code, out, _ = run(capsys, *asked, "--json")
    found = json.loads(out)
    assert found["task"] == "files" and {p["lang"] for p in found["parts"]} == {"de"}


def test_a_task_of_recorded_responses_beside_the_papers_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = benchmark(tmp_path / "b", "deu_Latn", "eng_Latn")
    code, out, _ = run(capsys, "task=m_rewardbench", f"task.path={folder}")
    assert code == 0 and "paper" in out and "1430" in out and "1 pairs dropped, chosen == rejected" in out


def test_summarization_as_in_the_paper_by_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpora = {"tr": ("xlsum", "wikilingua")}
    write_ratings(tmp_path / "ratings", plain_rows(("tr",), corpora))
    write_corpora(tmp_path / "articles", ("tr",), corpora)
    places = (f"task.path={tmp_path}/ratings", f"task.articles={tmp_path}/articles")
    code, out, err = run(capsys, "task=seahorse", *places, "task.languages=[tr]", "--json")
    assert code == 0, err
    parts = {(p["dataset"], p["use"], p["split"]): p for p in json.loads(out)["parts"]}
    assert parts["xlsum", "demonstrations", "train"]["published"] == 27176
    assert parts["all", "ratings", "train"]["published"] == 7855 and parts["all", "ratings", "train"]["rows"] == 16


def test_what_the_paper_evaluates_on_is_said_and_no_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = [[tree("en", n) for n in numbers] for numbers in (range(6), range(6, 12))]
    for row in trees[1][0]["replies"]:
        row["text"] += " And more."
    folder = write_hub(tmp_path / "hub", *trees)
    asked = ("task=oasst", f"task.path={folder}", "task.languages=[en]")
    found = json.loads(run(capsys, *asked, "--json")[1])
    assert [w["leaked_groups"] for w in found["languages"]] == [0]
    assert any("Type task.evaluate=halves to keep them apart" in note for note in found["notes"])
    apart = json.loads(run(capsys, *asked, "task.evaluate=halves", "--json")[1])
    assert [w["leaked_groups"] for w in apart["languages"]] == [0]
    assert not any("task.evaluate" in note for note in apart["notes"])


def test_the_embedded_world(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [f"task.{name}=20" for name in ("demonstrations", "ratings", "pairs", "validation", "test_prompts")]
    code, out, _ = run(capsys, "task=micro_summarization", "task.languages=[de,tr]", *sizes, "--json")
    assert code == 0 and {w["lang"]: w["leaked_groups"] for w in json.loads(out)["languages"]} == {"de": 0, "tr": 0}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task=fils"], "Unknown option 'fils' for task."),
        (["task=files"], "task.path must be given"),
        (["task=files", "task.path=absent.jsonl"], "is not a file"),
        (["task=files,micro_summarization"], "task has several values; one task is looked at"),
        (["task=files", "task.path=x", "task.rating_scale=0,5"], "task.rating_scale=[0,5] if a list is meant"),
        (["task.sede=1"], "Unknown key 'task.sede'. Did you mean 'task.seed'?"),
    ],
)
def test_what_cannot_be_meant(capsys: pytest.CaptureFixture[str], overrides: Sequence[str], sentence: str) -> None:
    code, out, err = run(capsys, *overrides)
    assert code == 2 and out == "" and sentence in err


def test_it_needs_no_torch(tmp_path: Path) -> None:
    jsonl(tmp_path / "f.jsonl", rated("de", 10))
    code = (
        "import sys; from xling.cli import main; "
        f"main(['data', 'check', 'task=files', 'task.path={tmp_path}/f.jsonl']); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0
