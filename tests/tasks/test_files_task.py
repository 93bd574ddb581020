"""task=files: what planning checks, and what stages load."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xling.config import Files
from xling.errors import ConfigError, DataError
from xling.tasks import files

Row = dict[str, Any]


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
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Files(path=str(path), **{"languages": (), **settings})


def test_load_gives_prompts_by_id_and_systems_by_name_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = rows_of("de", 12, "cab") + rows_of("tr", 3)
    tidy = files.recorded(config(tmp_path / "tidy.jsonl", rows), "de")
    random.Random(1).shuffle(rows)
    assert files.recorded(config(tmp_path / "mixed.jsonl", rows), "de") == tidy
    assert [p.id for p in tidy.prompts] == [f"{d:02}" for d in range(12)]
    assert tidy.systems == [["a", "b", "c"]] * 12
    assert tidy.responses[3] == ["a says 3", "b says 3", "c says 3"]
    assert tidy.ratings[3] == [3.097, 3.098, 3.099]


def test_prompts_with_the_same_text_are_one_group(tmp_path: Path) -> None:
    rows = rows_of("de", 3)
    for row in rows[4:]:
        row["document"] = "de 0"
    assert [p.group for p in files.recorded(config(tmp_path / "f", rows), "de").prompts] == ["00", "01", "00"]


def test_check_counts_languages_and_loads_no_torch(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rows_of("de", 12) + rows_of("tr", 10, "abc"))
    summary = files.summary(settings, known={"de", "tr", "en"})
    assert summary.rows == 54
    assert summary.languages["tr"] == files.LanguageSummary(10, 10, 30, ("a", "b", "c"), ())
    assert summary.notes() == []
    code = f"""
import sys
from xling.config import Files
from xling.tasks import files
files.summary(Files(path={settings.path!r}, languages=()))
assert not {{"torch", "transformers", "scipy", "omegaconf"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


def test_bad_rows_stop_everything_and_are_listed(tmp_path: Path) -> None:
    rows = rows_of("de", 20)
    for number in range(5, 18):
        rows[number - 1]["rating"] = "n/a"
    settings = config(tmp_path / "f.jsonl", rows)
    with pytest.raises(DataError) as error:
        files.summary(settings)
    text = str(error.value)
    assert "has 13 bad rows of 40 (rating field: 'rating')" in text
    assert [f"line {n}: Expected `float`" in text for n in range(4, 19)] == [
        False,
        *[True] * 10,
        *[False] * 4,
    ]
    assert "and 3 more" in text
    for use in (files.languages, lambda config: files.recorded(config, "de")):
        with pytest.raises(DataError, match="13 bad rows"):
            use(settings)


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


def test_nothing_but_one_system_prompts_is_an_error_that_says_what_id_means(tmp_path: Path) -> None:
    rows = [{**row, "id": f"{row['id']}-{row['system']}"} for row in rows_of("de", 3)]
    with pytest.raises(DataError, match="must be the same for all systems"):
        files.summary(config(tmp_path / "f.jsonl", rows))


def test_a_language_without_pairs_is_not_among_the_languages(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rows_of("de", 3) + rows_of("tr", 3, "a"))
    assert files.languages(settings) == ("de",)
    with pytest.raises(ConfigError, match="no prompt in 'tr' that two systems answered"):
        files.recorded(settings, "tr")


def test_a_language_the_file_lacks_is_an_error_with_what_it_has(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rows_of("de", 3) + rows_of("tr", 3), languages=("de", "tk"))
    with pytest.raises(ConfigError, match=r"no rows in 'tk'; it has de, tr.*task.languages=\[de,tr\]"):
        files.summary(settings)


def test_a_source_needs_documents_for_its_folds(tmp_path: Path) -> None:
    settings = config(tmp_path / "f.jsonl", rows_of("de", 10) + rows_of("tr", 9))
    summary = files.summary(settings)
    files.check_sources(settings, summary, ["de"])
    with pytest.raises(ConfigError, match=r"source_lang=tr has 9 documents.*task.folds=5"):
        files.check_sources(settings, summary, ["de", "tr"])


@pytest.mark.parametrize("path", ["", "???", "absent.jsonl", "."])
def test_a_missing_path_says_what_to_type(path: str) -> None:
    with pytest.raises(ConfigError, match=r"task\.path=PATH"):
        files.summary(Files(path=path, languages=()))


def test_an_empty_file_and_a_taken_rating_field_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        files.summary(config(tmp_path / "empty.jsonl", []))
    with pytest.raises(ConfigError, match=r"task\.rating_field=system names another field"):
        files.summary(config(tmp_path / "f.jsonl", rows_of("de", 2), rating_field="system"))


def test_a_changed_file_has_another_digest_and_is_not_loaded_for_the_old_plan(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    before = files.digest(config(path, rows_of("de", 3)))
    settings = config(path, rows_of("de", 4))
    assert files.digest(settings) != before
    assert len(files.recorded(settings, "de", files.digest(settings)).prompts) == 4
    with pytest.raises(DataError, match="has changed since the grid was planned"):
        files.recorded(settings, "de", before)
