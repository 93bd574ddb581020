"""Small files of one's own for the tests: rows as JSONL, CSV, TSV and Parquet, with the traps of real ones."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def rated(lang: str, documents: int, systems: str = "ab") -> list[Row]:
    """Two systems' responses to each document, `a` the better one; ratings are 0 and 1."""
    return [
        {
            "id": f"{lang}{d:03}",
            "lang": lang,
            "prompt": f"{lang} document {d}",
            "response": f"{system} says {d}",
            "system": system,
            "rating": int((system == "a") == (d % 4 > 0)),
        }
        for d in range(documents)
        for system in systems
    ]


def paired(lang: str, prompts: int) -> list[Row]:
    """A chat a prompt, two to a tree."""
    return [
        {
            "lang": lang,
            "tree": f"{lang}-tree-{d // 2}",
            "prompt": [{"role": "user", "content": f"{lang} question {d}"}],
            "chosen": f"good answer {d}",
            "rejected": f"bad answer {d}",
        }
        for d in range(prompts)
    ]


def jsonl(path: Path, rows: Sequence[Row | bytes]) -> Path:
    """Rows as lines, packed by the file's name; bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    content = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def separated(path: Path, rows: Sequence[Row], line_end: str = "\r\n") -> Path:
    """CSV, or TSV by the file's name; every cell that needs it is quoted."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, list(rows[0]), delimiter="\t" if ".tsv" in path.name else ",", lineterminator=line_end
    )
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode())
    return path


def parquet(path: Path, rows: Sequence[Row]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path
