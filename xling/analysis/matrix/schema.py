"""The JSON schema of matrix.json, made of its types: matrix.schema.json beside this file.

    python -m xling.analysis.matrix.schema     # writes it, after a change of the types

Its version is the file's own field `format` (`MATRIX` in xling/grid/records.py): it goes up when old readers would
misread the file. Fields may be added without that, so a reader should leave alone what it does not know.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from xling.analysis.matrix.types import MEASURES, Matrix
from xling.grid.records import MATRIX

FILE = Path(__file__).with_name("matrix.schema.json")


def schema() -> dict[str, Any]:
    """Of the file as it stands, with its checksum; measures with their titles and units."""
    made = msgspec.json.schema(Matrix)
    fields = made["$defs"]["Matrix"]["properties"]
    fields["format"] = {"const": MATRIX, "description": "version of this schema"}
    fields["checksum"] = {"type": "string", "description": "SHA-256 of the file's bytes before it; see docs/tables.md"}
    for name, measure in MEASURES.items():
        made["$defs"]["Entry"]["properties"][name] |= {"title": measure.title, "description": f"unit: {measure.unit}"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:xling:matrix:{MATRIX}",
        "title": "matrix.json of xling",
        **made,
    }


def written() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
