"""Where own data may lie: files that say language and split by their names, save_to_disk, and data sets of the hub."""

import codecs
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from own_files import Row, jsonl, parquet, rated

from xling.compose.composer import composed_task
from xling.errors import ConfigError, DataError
from xling.tasks import files, hub
from xling.tasks.files import Settings as Files
from xling.tasks.paths import paths_of, told_by

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def bare(lang: str, documents: int) -> list[Row]:
    """Rated rows without a column of languages."""
    return [{name: value for name, value in row.items() if name != "lang"} for row in rated(lang, documents)]


def count(settings: Files) -> dict[tuple[str, str], int]:
    """(language, split) -> prompts."""
    splits = ("train", "validation", "test")
    return {
        (lang, split): n
        for lang in files.languages(settings)
        for split in splits
        if (n := len(files.prompts(settings, lang, split)))  # type: ignore[arg-type]
    }


# --- names of files -----------------------------------------------------------------------------------------


def test_a_pattern_says_language_and_split(tmp_path: Path) -> None:
    for lang, code in (("de", "deu_Latn"), ("tr", "tur_Latn"), ("zh", "zh-Hans")):
        for split, n in (("train", 5), ("dev", 3), ("test", 2)):
            jsonl(
                tmp_path / code / f"own_{split}_v2.jsonl",
                [{**row, "id": split + row["id"], "prompt": split + row["prompt"]} for row in bare(lang, n)],
            )
    jsonl(tmp_path / "deu_Latn" / "other.jsonl", bare("de", 1))
    settings = Files(path=f"{tmp_path}/{{lang}}/own_{{split}}_v2.jsonl", languages=())
    sizes = {"train": 5, "validation": 3, "test": 2}
    assert count(settings) == {(lang, split): n for lang in ("de", "tr", "zh") for split, n in sizes.items()}
    [told] = [note for note in files.summary(settings).notes() if "named after" in note]
    assert "deu_Latn/own_dev_v2.jsonl is de" in told and "zh-Hans/own_dev_v2.jsonl is zh" in told
    assert told_by("~/{lang}/**/x_{lang}*.csv", Path("~/de/a/b/x_de_1.csv").expanduser()) == {"lang": "de"}
    assert not told_by("~/{lang}/**/x_{lang}*.csv", Path("~/de/a/b/x_tr_1.csv").expanduser())
    assert told_by("a[12]/{lang}_[!x-z]/**", Path("a2/de_b/c/d.csv")) == {"lang": "de"}
    assert not told_by("a[12]/{lang}_[!x-z]/**", Path("a2/de_y/c/d.csv"))
    jsonl(tmp_path / "v2" / "de_a1.jsonl", bare("de", 3))  # sets of characters, as any glob has them
    assert files.languages(Files(path=f"{tmp_path}/v[12]/{{lang}}_a[!02].jsonl", languages=())) == ("de",)
    with pytest.raises(
        ConfigError, match=r"own_\{part\}_v2\.jsonl: \{part\} stands for nothing; \{lang\} and \{split\}"
    ):
        paths_of(f"{tmp_path}/deu_Latn/own_{{part}}_v2.jsonl")
    with pytest.raises(ConfigError, match=r"'own_dev' of own_dev_v2\.jsonl is no split; \{split\} is train"):
        files.summary(Files(path=f"{tmp_path}/{{lang}}/{{split}}_v2.jsonl", languages=()))


def test_paths_are_typed_as_they_are(tmp_path: Path) -> None:
    for path in ("data/{lang}_ü.jsonl", "data/{split}/*.arrow", f"hf://datasets/me/own@{COMMIT}/tur_Latn"):
        task = composed_task(["task=files", f"task.path={path}"])[1]
        assert isinstance(task, Files) and task.path == path


def test_what_save_to_disk_wrote_keeps_its_splits_where_the_pattern_names_them(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = rated("de", 30)
    parts = DatasetDict({"train": Dataset.from_list(rows[:40]), "test": Dataset.from_list(rows[40:])})
    parts.save_to_disk(str(tmp_path / "saved"))
    whole = Files(path=str(tmp_path / "saved"), languages=())
    [note] = [note for note in files.summary(whole).notes() if "named after splits" in note]
    assert f"\"task.path='{tmp_path}/saved/{{split}}/*.arrow'\"" in note
    assert count(whole).keys() == {("de", "train"), ("de", "validation"), ("de", "test")}
    settings = Files(path=f"{tmp_path}/saved/{{split}}/*.arrow", languages=())
    assert count(settings) == {("de", "train"): 20, ("de", "test"): 10}
    assert not [note for note in files.summary(settings).notes() if "named after splits" in note]


# --- the hub ------------------------------------------------------------------------------------------------

CARD = """---
configs:
- config_name: deu_Latn
  data_files: [{split: train, path: de/train.parquet}, {split: test, path: de/test.parquet}]
- config_name: tur_Latn
  data_files: [{split: train, path: tr/train.parquet}, {split: test, path: tr/test.parquet}]
---
"""


def test_a_data_set_is_streamed_once_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real client, from a folder as the hub has it: there is no hub here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for lang in ("de", "tr"):
        parquet(tmp_path / "own" / lang / "train.parquet", bare(lang, 6))
        parquet(
            tmp_path / "own" / lang / "test.parquet",
            [row | {"id": row["id"] + "t", "prompt": row["prompt"] + "t"} for row in bare(lang, 4)],
        )
    (tmp_path / "own" / "README.md").write_text(CARD)
    folder = tmp_path / "cache" / "xling" / "hub" / f"me--own@{COMMIT}"
    hub.stream(str(tmp_path / "own"), None, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jsonl")) == [
        "deu_Latn/test.jsonl", "deu_Latn/train.jsonl", "tur_Latn/test.jsonl", "tur_Latn/train.jsonl",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    settings = Files(path=f"hf://datasets/me/own@{COMMIT}", languages=())
    assert count(settings) == {
        ("de", "train"): 6, ("de", "test"): 4, ("tr", "train"): 6, ("tr", "test"): 4,
    }  # fmt: skip
    one = Files(path=f"hf://datasets/me/own@{COMMIT}/tur_Latn", languages=("tr",))
    assert count(one) == {("tr", "train"): 6, ("tr", "test"): 4}
    with pytest.raises(ConfigError, match=r"it has the subsets deu_Latn, tur_Latn\. Did you mean 'tur_Latn'\?"):
        files.summary(Files(path=f"hf://datasets/me/own@{COMMIT}/tur_Latm", languages=()))
    (folder / "deu_Latn").rename(folder / "best")
    hub.local.cache_clear()
    with pytest.raises(ConfigError, match=r"has several subsets\. Name one with .*/best; there are best, tur_Latn"):
        files.summary(settings)
    hub.local.cache_clear()


def test_a_file_that_is_not_there_is_named_as_it_could_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    jsonl(tmp_path / "data" / "ratings.jsonl", rated("de", 4))
    monkeypatch.chdir(tmp_path)
    for path, near in (("data/rating.jsonl", "data/ratings.jsonl"), ("dat", "data")):
        with pytest.raises(ConfigError, match=rf"\(\.jsonl, .*\)\. Did you mean '{near}'\? Name a .*=PATH\.$"):
            files.summary(Files(path=path, languages=()))


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("me/own", r"is not a file.* A data set of the hub is task\.path=hf://datasets/me/own@COMMIT"),
        ("hf://me", r"names no data set of the hub\. The form is hf://datasets/OWNER/NAME@COMMIT"),
        (f"hf://datasets/me/own@{COMMIT}", r"cannot be had from the hub: .*hf download me/own --repo-type dataset"),
        ("hf://datasets/me/own@main", r"cannot be had from the hub: .*task\.path=PATH"),
    ],
)
def test_where_there_is_no_network_it_is_refused_at_once(tmp_path: Path, path: str, sentence: str) -> None:
    """In a process of its own: the client reads its settings when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path)}
    code = (
        "from xling.tasks import files\nfrom xling.errors import ConfigError\n"
        f"try:\n    files.summary(files.Settings(path={path!r}, languages=()))\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert re.search(sentence, done.stdout), done.stdout + done.stderr


# --- encodings and codes of languages -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "own.jsonl", "own.json"])
def test_text_in_another_encoding_is_read_where_it_is_named(tmp_path: Path, name: str) -> None:
    rows = [("d1", "a", "Größe – „groß“", "1,5"), ("d1", "b", "Ärger", "0,5")]
    mark = "\t" if name.endswith("tsv") else ";"
    lines = [
        mark.join(("id", "lang", "prompt", "system", "response", "rating")),
        *(mark.join((i, "de", "Ö", s, r, x)) for i, s, r, x in rows),
    ]
    objects = [
        json.dumps(
            {"id": i, "lang": "de", "prompt": "Ö", "system": s, "response": r, "rating": float(x.replace(",", "."))},
            ensure_ascii=False,
        )
        for i, s, r, x in rows
    ]
    text = (
        "\n".join(lines)
        if name[-2:] == "sv"
        else "\n".join(objects)
        if name.endswith("l")
        else f"[{','.join(objects)}]"
    )
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    settings = Files(path=str(tmp_path / name), languages=(), encoding="windows-1252")
    found = files.recorded(settings, "de")
    assert found.responses == [["Größe – „groß“", "Ärger"]] and found.ratings == [[1.5, 0.5]]
    assert msgspec.to_builtins(files.narrowed(settings, ["de"], "recorded"))["encoding"] == "windows-1252"
    unnamed = msgspec.structs.replace(settings, encoding=None)
    with pytest.raises(DataError, match=r"not UTF-8.*task\.encoding=windows-1252"):
        files.summary(unnamed)
    with pytest.raises(DataError, match=r"is not in task\.encoding=ascii"):
        files.summary(msgspec.structs.replace(settings, encoding="ascii"))
    with pytest.raises(ConfigError, match=r"task\.encoding=ebcdic-of-mine is no encoding.*windows-1252"):
        files.summary(msgspec.structs.replace(settings, encoding="ebcdic-of-mine"))
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text.encode())  # a mark says more than a setting
    assert files.recorded(settings, "de") == found


def test_all_usual_codes_of_a_language_are_one_in_one_file(tmp_path: Path) -> None:
    forms = {
        "tr": ("tr", "tur", "tr-TR", "tur_Latn", "TR", "tr_TR.UTF-8"), "zh": ("zh-CN", "zh-Hans", "zho_Hans", "cmn"),
        "zh-Hant": ("zh-TW", "zho_Hant"), "pt": ("pt-BR", "por_Latn"), "no": ("nb", "nob_Latn", "no"),
        "he": ("iw", "heb_Hebr"), "de": ("deu_Latn", "ger", "de-AT"), "fa": ("pes_Arab", "fas"), "id": ("in", "ind"),
        "sw": ("swh_Latn", "swa"),
    }  # fmt: skip
    rows = [
        row | {"lang": form, "id": f"{form} {row['id']}"}
        for codes in forms.values()
        for form in codes
        for row in rated(form, 2)
    ]
    settings = Files(path=str(jsonl(tmp_path / "f.jsonl", rows)), languages=())
    assert {lang: len(files.recorded(settings, lang).prompts) for lang in files.languages(settings)} == {
        lang: 2 * len(codes) for lang, codes in forms.items()
    }
    [note] = [note for note in files.summary(settings).notes() if "what their codes mean" in note]
    assert "'DE'" not in note and "'TR' as tr" in note
