"""M-RewardBench in small: its folders, columns and traps, as the tests need them."""

from pathlib import Path
from typing import Any

from own_files import Row, jsonl, parquet

SUBSETS = ("alpacaeval-easy", "mt-bench-med", "llmbar-natural", "donotanswer", "math-prm", "hep-python")


def pairs(lang: str, each: int = 4) -> list[Row]:
    """`each` pairs a subset, the ids the same in every language."""
    return [
        {
            "id": number * 10 + place,
            "language": lang,
            "prompt": f"{lang} prompt {subset} {number}",
            "chosen": f"good answer {number} {lang}",
            "rejected": f"bad {number}",
            "chosen_model": "one",
            "rejected_model": "two",
            "source": subset,
        }
        for place, subset in enumerate(SUBSETS)
        for number in range(each)
    ]


def benchmark(folder: Path, *names: str, **changed: Any) -> Path:
    """A local copy; the last row of each language has chosen == rejected."""
    for name in names:
        rows = [row | changed for row in pairs(name)]
        rows[-1] |= {"rejected": rows[-1]["chosen"]}
        (folder / name).mkdir(parents=True)
        parquet(folder / name / "test-00000-of-00001.parquet", rows)
        jsonl(folder / name / "raw.json", [b"not to be read"])
    return folder
