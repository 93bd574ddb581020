"""docs/human_judgements.md: what fills it in, on a small file, and what the page must not hold."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from own_files import jsonl
from releases import rated

from xling.errors import ConfigError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import human_judgements as maker  # noqa: E402

SMALL = ("rm_backbone=bag_of_words", "seed=0,1")
PARTS = {
    "summaries": maker.Part("multi_summeval", "human_judgements", SMALL),
    "controls": maker.Part("multi_summeval", "human_controls", ("rm_backbone=bag_of_words,system",)),
    "curve": maker.Part("multi_summeval", "human_curve", (*SMALL, "task.documents=10,null")),
    "dialog": maker.Part("oasst_excerpts", "human_judgements"),
}


def between(page: str, name: str) -> str:
    return page.partition(f"<!-- {name}:begin -->\n")[2].partition(f"<!-- {name}:end -->")[0]


def section(text: str, name: str) -> str:
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_the_page_is_filled_in_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maker, "PARTS", PARTS)
    jsonl(tmp_path / "multi_summeval.jsonl.gz", rated(["de", "tr"]))
    page = tmp_path / "page.md"
    marks = "<!-- headline:begin -->\nold\n<!-- headline:end -->\n<!-- rivals:begin -->\n<!-- rivals:end -->\n"
    marks += "<!-- together:begin -->\n<!-- together:end -->\n"
    page.write_text(f"# By hand\n{marks}End.\n")
    command = [str(tmp_path), "--root", str(tmp_path / "out"), "--page", str(page)]
    assert maker.main(command) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# By hand\n") and text.endswith("End.\n")
    long = (tmp_path / "out" / maker.LONG).read_text(encoding="utf-8")
    assert "dialog: " in capfd.readouterr().err and not section(long, "dialog")  # no data
    summaries = section(long, "summaries")
    assert [line.split(" | ")[0] for line in summaries.splitlines() if line.startswith("| ")] == [
        "| source",
        "| de",
        "| tr",
        "| others",
        "| consensus",
        "| human",
        "| length",
        "| random",
        "| shorter",
        "| system",
    ]
    assert "Pairs of responses: de 20, tr 20. Seeds: 2." in summaries
    [row] = [line for line in between(text, "headline").splitlines() if line.startswith("| multi_summeval")]
    home, abroad, others = (float(cell.split()[0]) for cell in row.split(" | ")[1:4])
    assert home > 90 and abroad == others  # the only other language is all others
    assert row.endswith("| 40 | 2 |")
    [row] = [line for line in between(text, "together").splitlines() if line.startswith("| multi_summeval")]
    assert float(row.split(" | ")[1].split()[0]) == others  # of one kind of heads
    assert row.endswith(" 2 |")
    assert [line.split(" | ")[0] for line in section(long, "curve").splitlines()[3:] if line] == ["| 10", "| all"]
    controls = section(long, "controls")
    assert "permuted labels" in controls and "system identity, abroad" in controls and "Seeds: 1." in controls
    assert str(tmp_path) not in text + long and "alpha" not in text + long
    filled = page.read_bytes()
    monkeypatch.setattr(maker, "run_part", lambda *arguments: 0)
    assert maker.main(command) == 0 and page.read_bytes() == filled


def test_a_page_without_a_marker_is_refused() -> None:
    with pytest.raises(ConfigError, match="<!-- curve:begin -->"):
        maker.filled("# Page\n", {"curve": ["x"]})


def test_the_page_has_its_table_and_nothing_of_a_machine() -> None:
    text = (ROOT / "docs" / "human_judgements.md").read_text(encoding="utf-8")
    assert between(text, "headline").count("\n") > 2
    assert "task.path=PATH" in text and not re.search(r"/(home|tmp|root|work|Users)/", text)
    letters: Any = re.sub(r"[^\W\d_a-zA-Zö]", "§", text)
    assert "§" not in letters.replace("†", "")  # no text of the data: their scripts and diacritics
