"""The files of `xling figures`: a folder a width, the tables, and all of it on paper.

    <out>/column/heatmap-ppo.pdf   for a column of a paper     <out>/tables/win_rate-ppo.tex
    <out>/text/heatmap-ppo.pdf     for its whole width         <out>/all.tex   everything, to look at

The same matrix gives the same bytes with the same fonts and version of matplotlib.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from xling.analysis.catalogue import grid_findings, paper_findings
from xling.analysis.matrix.names import named, optimizer_word, plain
from xling.analysis.matrix.types import Accuracy, Block, Entry, Matrix, Panel, read_matrix
from xling.analysis.paper.published import HOW, N, paper_entries, sizes
from xling.analysis.paper.published import NAME as PAPER
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.finding import Finding
from xling.errors import ConfigError, did_you_mean, expanded
from xling.grid.files import disk_error, write_atomically
from xling.grid.grids import chosen_grid
from xling.grid.store import Store
from xling.report.pictures import comparisons, curves, heatmaps
from xling.report.pictures.look import (
    FORMATS,
    Drawing,
    Made,
    Names,
    Width,
    named_panels,
    rendered,
    stacked_png,
    widths_of,
)
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.latex import BESIDE, document, figure_latex, finding_latex, renamed, table_latex
from xling.report.tables.panel import panel_tables
from xling.report.tables.table import Table

FIGURES: dict[str, Callable[[Matrix, Names], Made]] = {
    "heatmap": heatmaps.win_rates,
    "accuracy": heatmaps.accuracies,
    "best_of_k": curves.best_of_k,
    "learning": curves.learning,
    "frontier": curves.frontier,
    "ranks": comparisons.ranks,
    "forest": comparisons.forest,
    "judges": comparisons.judges,
    "accuracy_win": curves.accuracy_and_win,
    "kl_win": curves.kl_and_win,
}
TABLES = "tables"
MOST_STACKED = 6  # frontiers of one picture; those of more judges and reward models are in frontier.csv


@dataclass(frozen=True)
class Asked:
    """Selection of figures and their look; ConfigError for an unknown word."""

    formats: list[str]
    widths: list[Width]
    only: list[str]
    names: Names

    @classmethod
    def of(cls, formats: str = "pdf", widths: str = "column,text", only: str = "", names: str = "code") -> "Asked":
        return cls(
            _chosen("--format", formats, FORMATS),
            widths_of(widths),
            _chosen("--only", only, [*FIGURES, TABLES]) or [*FIGURES, TABLES],
            Names(names),
        )


def _chosen(option: str, words: str, allowed: Sequence[str]) -> list[str]:
    chosen = [word.strip() for word in words.split(",") if word.strip()]
    for word in chosen:
        if word not in allowed:
            suggestion = did_you_mean(word, allowed)
            raise ConfigError(f"{option} {word} is unknown. Allowed: {', '.join(allowed)}.{suggestion}")
    return [word for word in allowed if word in chosen]


@dataclass
class Written:
    """The files, and why some figures are not among them."""

    folder: Path
    files: list[str] = field(default_factory=list)
    not_made: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        kinds = ", ".join(sorted({file.rpartition(".")[2] for file in self.files}))
        said = [f"{len(self.files)} files ({kinds}) in {self.folder}"] if self.files else ["Nothing to draw."]
        return [*said, *(f"not made: {name}: {reason}." for name, reason in self.not_made.items())]


def figures(store: Store, grid: str | None, out: str | None, asked: Asked) -> Written:
    """Draw a grid's matrix.json, or the paper's published matrices. ConfigError, StoreError: no such grid or matrix."""
    tables = TABLES in asked.only
    if grid == PAPER and not store.grid_folder(PAPER).exists():
        matrix, findings = paper_matrix(), paper_findings() if tables else []
        default = store.root / "figures" / PAPER
    else:
        name = chosen_grid(store, grid)
        folder = store.grid_folder(name)
        if out is None:
            store.refuse_links(name)
        matrix = read_matrix(folder)
        findings, default = grid_findings(store, name) if tables else [], folder / "figures"
    return write_figures(matrix, findings, expanded(out) if out else default, asked)


def grid_png(name: str, matrix: Matrix, digest: str) -> bytes:
    """matrix.png, frontier.png or learning.png of a grid's folder; the digest of what it shows is in its metadata."""
    drawing, width = heatmaps.all_panels(matrix)
    made: Made = [drawing]
    if name != "matrix.png":
        made, width = FIGURES[name.removesuffix(".png")](matrix, Names()), Width("page", heatmaps.LARGEST)
    if isinstance(made, str):
        raise ValueError(f"{name}: {made}")
    return stacked_png(made[:MOST_STACKED], width, digest, Names().families)


def write_figures(matrix: Matrix, findings: Sequence[Finding], folder: Path, asked: Asked) -> Written:
    """Draw and set what is asked for; each file all or nothing. StoreError where the disk refuses."""
    written = Written(folder)
    try:
        drawings: list[Drawing] = []
        for name in asked.only:
            if name == TABLES:
                continue
            made = FIGURES[name](matrix, asked.names)
            if isinstance(made, str):
                written.not_made[name] = made
            else:
                drawings += made
        for drawing in drawings:
            _draw(drawing, asked, written)
        inputs = _captions(drawings, matrix.name, asked, written)
        inputs += _tables(matrix, findings, asked.names, written) if TABLES in asked.only else []
        if inputs:
            _write(written, "all.tex", document(inputs, matrix.name).encode())
    except OSError as error:
        raise disk_error(error, folder) from error
    return written


def _write(written: Written, file: str, content: bytes) -> None:
    path = written.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    written.files.append(file)


def _draw(drawing: Drawing, asked: Asked, written: Written) -> None:
    for width in asked.widths:
        for form in asked.formats:
            content = rendered(drawing, width, form, asked.names.families)
            _write(written, f"{width.name}/{drawing.name}.{form}", content)


def _captions(drawings: Sequence[Drawing], grid: str, asked: Asked, written: Written) -> list[str]:
    """A file of figure environments a width, for formats that LaTeX reads."""
    form = next((form for form in ("pdf", "png") if form in asked.formats), None)
    if form is None:
        return []
    inputs = []
    for width in asked.widths if drawings else []:
        floats = [
            figure_latex(f"{width.name}/{one.name}.{form}", one.caption, f"fig:{grid}-{one.name}", not width.narrow)
            for one in drawings
        ]
        _write(written, f"figures-{width.name}.tex", (BESIDE + "\n\\clearpage\n".join(floats)).encode())
        inputs.append(f"figures-{width.name}")
    return inputs[-1:]  # labels would be there twice


def _tables(matrix: Matrix, findings: Sequence[Finding], style: Names, written: Written) -> list[str]:
    texts, names = dict[str, str](), labels(matrix, style)

    def add(name: str, made: Callable[[str], str]) -> None:
        texts.setdefault(name, made(f"tab:{matrix.name}-{name}"))

    for name, table, about in _all_tables(matrix):
        add(name, partial(table_latex, renamed(table, names), about=about))
    for finding in findings:
        if len(finding.table):
            add(f"finding-{finding.name}", partial(finding_latex, finding, names=names))
    for name, text in texts.items():
        _write(written, f"tables/{name}.tex", text.encode())
    if not texts:
        written.not_made[TABLES] = "there is no cell with a source language"
    return [f"tables/{name}" for name in texts]


def labels(matrix: Matrix, style: Names) -> dict[str, str]:
    """What figures call languages, optimizers, judges and reward models; by what the terminal calls them."""
    found = dict[str, str]()
    for block in matrix.blocks:
        for panel in block.panels:
            found |= {code: style(code) for code in (*panel.sources, *panel.targets)}
            found |= {value: plain(value) for axis in ("judge", "rm_backbone") if (value := panel.axes.get(axis, ""))}
            arm = named(panel.axes, "optimizer") if panel.axes.get("optimizer") else ""
            found |= {arm: optimizer_word(arm, panel.entries)} if arm else {}
        found |= {control.name: plain(control.name) for control in block.controls}
    return found


def _all_tables(matrix: Matrix) -> list[tuple[str, Table, str]]:
    """(file, table, what it is of); those that say the same for several panels once."""
    found: list[tuple[str, Table, str]] = []
    named = {id(one.panel): one for one in named_panels(matrix)}
    for block in matrix.blocks:
        for panel in block.panels:
            one = named[id(panel)]
            for table in panel_tables(block, panel):
                if table.kind != "brief" and not any(table == other for _, other, _ in found):
                    found.append((one.file(table.name), table, f"{one.about()}. {matrix.interval_note}"))
    for number, table in enumerate(comparison_tables(matrix)):
        name = table.name
        taken = any(name == other for other, _, _ in found)
        found.append((f"{name}-{number}" if taken else name, table, matrix.interval_note))
    return found


# --- the paper's published matrices -----------------------------------------------------------------------
# Their numbers and intervals are those of analysis/paper/published.py: no prompts were published, so the intervals are
# of a stated model, and there is no paired difference, no curve and no control.

AXES = ("task", "policy", "rm_backbone", "optimizer", "judge")


def paper_matrix() -> Matrix:
    """A panel a published table; best and tied within a column by the printed value."""
    table = paper_entries().table
    blocks = []
    for key, rows in table.groupby(list(AXES), sort=True):
        axes = dict(zip(AXES, map(str, key), strict=True))
        blocks.append(Block(axes, [_panel(axes, rows)], [], []))
    return Matrix(PAPER, blocks, [], [], {}, f"95 % intervals of {HOW}")


def _panel(axes: dict[str, str], rows: pd.DataFrame) -> Panel:
    best = rows.groupby("target_lang")["win_rate"].transform("max")
    entries = [
        _entry(axes, row, row["win_rate"] == top) for row, top in zip(rows.to_dict("records"), best, strict=True)
    ]
    sources, targets = sorted(set(rows["source_lang"])), sorted(set(rows["target_lang"]))
    accuracy = [
        Accuracy(str(row["source_lang"]), str(row["target_lang"]), found, None, None, None)
        for row in rows.to_dict("records")
        if (found := _estimate(row, "accuracy", sum(sizes(axes["task"], "rm")[str(row["target_lang"])])))
    ]
    return Panel(axes, sources, targets, entries, {}, {}, {}, {}, [], accuracy, [], [], {})


def _entry(axes: dict[str, str], row: Mapping[Any, Any], best: bool) -> Entry:
    bound = float(row["kl_bound"])
    return Entry(
        axes={**axes, "source_lang": str(row["source_lang"]), "target_lang": str(row["target_lang"])},
        status="done",
        win=_estimate(row, "win_rate", int(row["n"])),
        kl=_estimate(row, "kl", int(row["n"])),
        kl_bound=None if pd.isna(bound) else bound,
        n_samples=None if pd.isna(bound) else N,
        best=best,
    )


def _estimate(row: Mapping[Any, Any], name: str, n: int) -> Estimate | None:
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None or pd.isna(value):
        return None
    low, high = (None if end is None or pd.isna(end) else float(end) for end in (low, high))
    return Estimate(float(value), low, high, se=None, n=n, clusters=n, seeds=1)
