"""docs/gpu.md: its parts run on the CPU with tiny models, go on where they were, and fill in the page."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu as maker  # noqa: E402
import gpu_trainers as trainers  # noqa: E402

STEPS = ("sampling", "scoring", "sft step", "reward step", "ppo step")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    assert maker.main(["--cpu", "--root", str(folder), "--only", "flash_attention", "qlora", "mt5_xl"]) == 0
    return folder


def test_every_step_is_measured_beside_the_plan(root: Path) -> None:
    found = json.loads((root / "mt5_xl.json").read_text("utf-8"))
    assert found["device"] == "CPU" and [row["what"] for row in found["rows"]] == list(STEPS)
    for row in found["rows"]:
        assert row["seconds"] > 0 and row["tokens/s"] > 0 and "said" not in row
        assert ("planned GiB" in row) == (row["what"] != "scoring")
    whole, lora = (found["rows"][i] for i in (2, 4))
    assert whole["trained"] == "whole" and lora["trained"] == "lora"


def test_each_trainer_says_numbers_that_can_be_compared(root: Path) -> None:
    """And a number that is another is found."""
    found = trainers.numbers(root / "models", "float32")
    assert len(found) == 15 and all(len(values) >= 2 for values in found.values())
    off = json.loads(json.dumps(found))
    off["ppo decoder_4b"]["value_loss"] += 0.1
    rows = {row["trainer"]: row for row in trainers.beside(found, off, "float32")}
    assert [name for name, row in rows.items() if row["off"]] == ["ppo decoder_4b"]
    assert rows["ppo decoder_4b"]["differs most"] == "value_loss"


def test_parts_are_not_run_again_and_what_takes_too_long_is_left_out(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "mt5_xl.json").stat().st_mtime_ns
    assert maker.main(["--cpu", "--root", str(root), "--limit", "30", "--only", "mt5_xl", "decoder_8b"]) == 0
    assert (root / "mt5_xl.json").stat().st_mtime_ns == before and not (root / "decoder_8b.json").exists()
    assert "decoder_8b: left out" in capsys.readouterr().out


def test_the_page_has_every_part(root: Path) -> None:
    text = maker.page(root)
    assert all(f"## {name}\n" in text for name in maker.PARTS)
    assert text.count("not run") == len(maker.PARTS) - 3 and "| mt5_xl | ppo step |" in text


def test_processes_meet_before_they_train(tmp_path: Path) -> None:
    assert trainers.launched("one", tmp_path)["loss"] > 0
