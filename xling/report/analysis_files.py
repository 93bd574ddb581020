"""analysis.md, analysis.json and a CSV a finding: what `xling analyse` and `xling compare` write."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xling.analysis.findings.in_short import in_short
from xling.analysis.tidy.finding import Finding
from xling.grid.files import disk_error, sealed_json, write_atomically
from xling.report.files import formula_free
from xling.report.tables.findings import markdown_lines
from xling.report.tables.markdown import escaped

_DIGITS = 6


def write_findings(folder: Path, title: str, findings: Sequence[Finding], stem: str = "analysis") -> list[Path]:
    """<stem>.md, <stem>.json and <stem>/NAME.csv below a folder; StoreError where the disk does not take them."""
    content = {f"{stem}.md": markdown(title, findings), f"{stem}.json": findings_json(title, findings)}
    content |= {f"{stem}/{finding.name}.csv": csv_bytes(finding) for finding in findings}
    try:
        for name, written in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, written)
    except OSError as error:
        raise disk_error(error, folder) from error
    return [folder / name for name in content]


def markdown(title: str, findings: Sequence[Finding]) -> bytes:
    """All findings, one section each."""
    lines = [f"# {title}", "", "Intervals are 95 %; what they are over stands under each table.", ""]
    short = [f"- {escaped(line)}" for line in in_short(findings)]
    lines += [*short, ""] if short else []
    for finding in findings:
        lines += markdown_lines(finding)
    return ("\n".join(lines).rstrip("\n") + "\n").encode()


def findings_json(title: str, findings: Sequence[Finding]) -> bytes:
    """Every table as a list of rows; what is missing is null. Sealed: the page reads it again."""
    told = {"title": title, "in_short": in_short(findings), "findings": [_plain(finding) for finding in findings]}
    return sealed_json(told, indent=1)


def _plain(finding: Finding) -> dict[str, Any]:
    names = [str(name) for name in finding.table.columns]
    rows = [
        {name: _value(value) for name, value in zip(names, row, strict=True)}
        for row in finding.table.itertuples(index=False, name=None)
    ]
    told = {"name": finding.name, "title": finding.title, "note": finding.note, "left_out": list(finding.left_out)}
    return {**told, "columns": names, "rows": rows}


def _value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else round(number, _DIGITS)


def csv_bytes(finding: Finding) -> bytes:
    """The tidy table; numbers to six decimals, what is missing empty."""
    table = finding.table.round(_DIGITS).map(lambda cell: formula_free(cell) if isinstance(cell, str) else cell)
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.encode()
