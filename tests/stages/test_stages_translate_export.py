"""`xling translate export`: the texts that a grid needs, until a file has all of them."""

import csv
import json
from pathlib import Path

import pytest

from xling.cli import main

GRID = ["source_lang=en,de", "target_lang=tr", "task.demonstrations=6", "task.ratings=5", "task.validation=3"]
COLUMNS = {"source_lang", "target_lang", "text"}


def export(out: Path, *overrides: str) -> list[dict[str, str]]:
    assert main(["translate", "export", "--out", str(out), *GRID, *overrides]) == 0
    if out.suffix == ".csv":
        with out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_each_text_once_by_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = export(tmp_path / "a.jsonl", "reward_data=organic,translated", "rm_backbone=bag_of_words,length")
    assert {tuple(row) for row in rows} == {tuple(sorted(COLUMNS, key=["source_lang", "target_lang", "text"].index))}
    assert len({tuple(row.values()) for row in rows}) == len(rows) == 2 * 2 * (5 + 3)
    assert {(row["source_lang"], row["target_lang"]) for row in rows} == {("en", "tr"), ("de", "tr")}
    said = capsys.readouterr().out
    assert "en -> tr: 16 texts\n" in said and "32 texts (" in said and "round trips" not in said
    assert export(tmp_path / "b.csv", "reward_data=translated") == rows


def test_the_way_back_follows_the_way_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = export(tmp_path / "a.jsonl", "sft_data=round_trip", "source_lang=en")
    assert len(first) == 2 * (6 + 3) and {row["source_lang"] for row in first} == {"tr"}
    assert "18 texts of round trips go back once they have been translated" in capsys.readouterr().out
    done = tmp_path / "done.jsonl"
    translated = [{**row, "translation": f"English of {row['text']}"} for row in first]
    done.write_text("".join(json.dumps(row) + "\n" for row in translated[:-1]), encoding="utf-8")
    given = ("sft_data=round_trip", "source_lang=en", "translator=recorded", f"translator.path={done}")
    second = export(tmp_path / "b.jsonl", *given)
    assert [row["text"] for row in second if row["source_lang"] == "tr"] == [first[-1]["text"]]
    assert sorted(row["text"] for row in second if row["source_lang"] == "en") == sorted(
        row["translation"] for row in translated[:-1]
    )
    both = [*translated, *({**row, "translation": "x"} for row in second if row["source_lang"] == "en")]
    last = {**first[-1], "source_lang": "en", "target_lang": "tr", "text": translated[-1]["translation"]}
    done.write_text("".join(json.dumps(row) + "\n" for row in [*both, {**last, "translation": "y"}]), encoding="utf-8")
    assert export(tmp_path / "c.jsonl", *given) == []


@pytest.mark.parametrize(
    ("out", "overrides", "sentence"),
    [
        ("a.jsonl", [], r"Nothing of this grid is translated\. Type reward_data=translated"),
        ("a.txt", ["reward_data=translated"], r"neither \.jsonl nor \.csv\. Type --out texts\.jsonl"),
        ("old.csv", ["reward_data=translated"], r"old\.csv is there already"),
        ("a.csv", ["reward_data=translatd"], r"reward_data=translatd does not fit: allowed are organic, translated"),
        ("a.csv", ["sweeps=embeded"], r"embeded"),
    ],
)
def test_what_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, overrides: list[str], sentence: str
) -> None:
    import re

    (tmp_path / "old.csv").write_text("")
    assert main(["translate", "export", "--out", str(tmp_path / out), *GRID, *overrides]) == 2
    assert re.search(sentence, capsys.readouterr().err)
