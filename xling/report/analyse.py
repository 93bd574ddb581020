"""`xling analyse [GRID|paper]` and `xling compare GRID OTHER`: print the findings of a matrix and write them down."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from xling.analysis.catalogue import grid_findings, paper_findings
from xling.analysis.findings.in_short import in_short
from xling.analysis.paper.compare import compare as compare_matrices
from xling.analysis.paper.published import NAME as PAPER
from xling.analysis.tidy.finding import Finding
from xling.console import Console, harmless, print_bytes
from xling.grid.records import chosen_grid
from xling.grid.store import Store
from xling.report.analysis_files import findings_json, write_findings
from xling.report.tables.findings import print_finding


def analyse(
    store: Store, grid: str | None, only: Sequence[str], as_json: bool, out: str | None, wals: str | None = None
) -> int:
    """Of a grid (the latest without a name) or of the paper's matrices, which are written only where `out` says."""
    features = Path(wals).expanduser() if wals else None
    name = PAPER if grid == PAPER else chosen_grid(store, grid)
    if name != PAPER and out is None:
        store.refuse_links(name)
    if name == PAPER:
        title, findings = "What the paper's published matrices say", paper_findings(only, features)
    else:
        title, findings = f"What the matrix '{name}' says", grid_findings(store, name, only, features)
    folder = Path(out).expanduser() if out else None if name == PAPER else store.grid_folder(name)
    show(title, findings, as_json, "with --out FOLDER" if folder is None else "analysis.md")
    if folder is not None:
        report(write_findings(folder, title, findings), as_json)
    return 0


def compare(store: Store, left: str, right: str, as_json: bool, out: str | None) -> int:
    """Two matrices against each other; files only where `out` says."""
    title, findings = f"{left} (left) against {right} (right)", compare_matrices(store, left, right)
    show(title, findings, as_json, "compare.md" if out else "with --out FOLDER")
    if out:
        report(write_findings(Path(out).expanduser(), title, findings, "compare"), as_json)
    return 0


def show(title: str, findings: Sequence[Finding], as_json: bool, rest: str) -> None:
    """Print findings for people or for machines; rest: where what the terminal leaves out can be read."""
    if as_json:
        print_bytes(findings_json(title, findings))
        return
    console = Console()
    console.print(Text(title + ". Intervals are 95 %.", style="bold"))
    heard: set[str] = set()
    for finding in findings:
        print_finding(finding, console, heard, rest)
    for line in in_short(findings):  # last: the end is what stands on the screen
        console.print()
        console.print(Text(line))


def report(written: Sequence[Path], as_json: bool) -> None:
    """Say where the files are; beside JSON on the error stream."""
    names = ", ".join(path.name for path in written[:2])
    line = f"Written to {written[0].parent}: {names} and {len(written) - 2} tables in {written[0].stem}/."
    print(harmless(line), file=sys.stderr if as_json else sys.stdout)
