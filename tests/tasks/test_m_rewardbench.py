"""task=m_rewardbench: its layouts, columns and traps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from own_files import jsonl, separated
from releases import SUBSETS, benchmark
from releases import bench_pairs as pairs

from xling.errors import ConfigError, DataError
from xling.tasks import m_rewardbench as module
from xling.tasks.m_rewardbench import Settings as MRewardBench


def config(folder: Path, **settings: object) -> MRewardBench:
    return MRewardBench(path=str(folder), **settings)  # type: ignore[arg-type]


def test_each_prompt_has_two_responses_in_an_order_that_says_nothing(tmp_path: Path) -> None:
    settings = config(benchmark(tmp_path / "b", "arb_Arab", "eng_Latn", "zho_Hant"))
    assert module.languages(settings) == ("ar", "en", "zh-Hant")
    found = module.recorded(settings, "ar")
    assert len(found.prompts) == 4 * len(SUBSETS) - 1  # chosen == rejected is dropped
    assert {tuple(ratings) for ratings in found.ratings} == {(1.0, 0.0), (0.0, 1.0)}
    for responses, ratings in zip(found.responses, found.ratings, strict=True):
        assert responses[ratings.index(1.0)].startswith("good")
    by_subset = {prompt.subset: prompt.dataset for prompt in found.prompts}
    assert by_subset["math-prm"] == by_subset["hep-python"] == "Reasoning" and by_subset["donotanswer"] == "Safety"
    english = module.recorded(settings, "en")
    assert [p.id for p in english.prompts] == [p.id for p in found.prompts]
    assert [r.index(1.0) for r in english.ratings] == [r.index(1.0) for r in found.ratings]


def test_the_weights_are_those_of_rewardbench() -> None:
    sums: dict[str, float] = {}
    for category, weight in module.SUBSETS.values():
        sums[category] = sums.get(category, 0) + weight
    assert sums == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968} and len(module.SUBSETS) == 23
    assert sum(w for name, w in module.WEIGHTS.items() if name.startswith("hep-")) == module.WEIGHTS["math-prm"]
    assert len(module.CODES) == 24 and sum(module.SIZES.values()) == 2869


def test_local_layouts(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    jsonl(plain / "deu_Latn.jsonl", pairs("deu_Latn"))
    separated(plain / "tur_Latn.csv", pairs("tur_Latn"))
    old = plain / "eng_Latn"
    old.mkdir()
    (old / "filtered.json").write_text(json.dumps([{**row, "category": "chat-hard"} for row in pairs("eng_Latn")]))
    (old / "raw.json").write_text("[]")
    settings = config(plain)
    assert module.languages(settings) == ("de", "en", "tr")
    assert len(module.recorded(settings, "tr").prompts) == len(module.recorded(settings, "de").prompts) == 24
    assert {p.dataset for p in module.recorded(settings, "en").prompts} == {"Chat Hard"}


def test_a_language_is_keyed_by_its_own_files(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "b", "deu_Latn", "tur_Latn")
    settings = config(folder)
    before = {lang: module.sources(module.narrowed(settings, [lang], "recorded")) for lang in ("de", "tr")}
    jsonl(folder / "tur_Latn" / "test-1.jsonl", [pairs("tur_Latn")[0] | {"id": 999}])
    after = {lang: module.sources(module.narrowed(settings, [lang], "recorded")) for lang in ("de", "tr")}
    assert before["de"] == after["de"] and before["tr"] != after["tr"]


def test_another_schema_is_an_error_with_the_columns_found(tmp_path: Path) -> None:
    jsonl(tmp_path / "deu_Latn.jsonl", [{"id": 1, "prompt": "p", "chosen": "c", "reject": "r"}])
    with pytest.raises(
        DataError, match=r"no column rejected, category \(or subset, source\); its columns are id, prompt"
    ):
        module.recorded(config(tmp_path), "de")


def test_ids_that_are_numbered_within_subsets(tmp_path: Path) -> None:
    rows = pairs("deu_Latn")
    for row in rows:
        row["id"] = int(row["id"]) // 10
    jsonl(tmp_path / "deu_Latn.jsonl", rows)
    assert "math-prm/0" in {p.id for p in module.recorded(config(tmp_path), "de").prompts}
    jsonl(tmp_path / "deu_Latn.jsonl", [*rows, rows[0]])
    with pytest.raises(DataError, match="1 ids occur more than once"):
        module.recorded(config(tmp_path), "de")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("no such folder", r"is neither a folder nor the name of a hub repository.*task\.path=FOLDER"),
        ("tests", r"has no language of M-RewardBench"),
    ],
)
def test_a_path_that_is_nothing(path: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        module.languages(MRewardBench(path=path))


def test_english_that_is_not_there_says_where_to_put_it(tmp_path: Path) -> None:
    settings = config(benchmark(tmp_path / "b", "deu_Latn"), languages=("en",))
    with pytest.raises(ConfigError, match=r"no language 'en' in .* put RewardBench beside .* eng_Latn\); it has de"):
        module.languages(settings)


def test_without_a_network_the_way_of_a_local_copy_is_said(tmp_path: Path) -> None:
    code = """
from xling.tasks.m_rewardbench import Settings as MRewardBench
from xling.errors import ConfigError
from xling.tasks import m_rewardbench
try:
    m_rewardbench.languages(MRewardBench(path="nobody/nothing"))
except ConfigError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "cannot be had from the hub" in done.stdout and "task.path=FOLDER" in done.stdout
