"""Findings for people and for machines: `xling analyse [GRID|paper]` and `xling compare GRID OTHER`.

print_finding(finding, console)      # as many numbers as one reads
finding_tables(finding)              # all of them, as table.py has it: the tables that every medium draws
write_findings(folder, title, found) # analysis.md, analysis.json and a CSV a finding
shown_findings(store, name, None)    # those of a grid that its page shows

A number x with x_low and x_high becomes one cell. Text columns that say the same in all rows stand above the table.
Where a finding says what its rows and columns are (`compact`), there is one such table for every combination of the
others.
"""

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from langcodes import tag_is_valid
from rich.padding import Padding
from rich.text import Text

from xling.analysis.catalogue import OF_ENTRIES, choices, grid_findings, paper_findings
from xling.analysis.findings.in_short import in_short, use_of
from xling.analysis.findings.rules import GAINS
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import Matrix
from xling.analysis.paper.compare import compare as compare_matrices
from xling.analysis.paper.published import NAME as PAPER
from xling.analysis.tidy.entries import EVERY, Draws, grid_entries
from xling.analysis.tidy.finding import Finding
from xling.analysis.tidy.unlabelled import unlabelled
from xling.console import Console, formula_free, harmless, print_bytes
from xling.errors import ConfigError, expanded
from xling.grid.files import disk_error, sealed_json, write_atomically
from xling.grid.grids import chosen_grid
from xling.grid.store import Store
from xling.jsonfiles import unsealed
from xling.measures.language import standard
from xling.report.tables.markdown import escaped, table_lines
from xling.report.tables.table import Cell, Look, Table
from xling.report.tables.terminal import print_table
from xling.results.plan import read_plan

WRITTEN = "analysis.json"  # in a grid's folder: findings as `xling analyse` last wrote them
_DIGITS = 6
_DRAWS = re.compile(r"Draws: [^.]*\.")
_MOST_ROWS = 16  # in the terminal; longer tables show their rows over all targets
_MOST_PANELS = 3  # beyond that the terminal shows what stands over all targets
_MOST_LEFT_OUT = 4
_OF_CELLS = ("source_lang", "target_lang", "best_source_lang", "pairing", "pick", "best")  # text that is of a cell
_SIGNED = ("difference", "tau", "pearson", "spearman", "pearson_within", *GAINS)  # what 0 means something for


# --- the commands -----------------------------------------------------------------------------------------


def analyse(
    store: Store, grid: str | None, only: Sequence[str], as_json: bool, out: str | None, wals: str | None = None
) -> int:
    """Of a grid (the latest without a name) or of the paper's matrices, which are written only where `out` says."""
    features = expanded(wals) if wals else None
    name = PAPER if grid == PAPER else chosen_grid(store, grid)
    if name != PAPER and out is None:
        store.refuse_links(name)
    if name == PAPER:
        title, findings = "What the paper's published matrices say", paper_findings(only, features)
    else:
        title, findings = f"What the matrix '{name}' says", grid_findings(store, name, only, features)
    folder = expanded(out) if out else None if name == PAPER else store.grid_folder(name)
    _show(title, findings, as_json, folder, "analysis")
    return 0


def compare(store: Store, left: str, right: str, as_json: bool, out: str | None) -> int:
    """Two matrices against each other; files only where `out` says."""
    title, findings = f"{left} (left) against {right} (right)", compare_matrices(store, left, right)
    _show(title, findings, as_json, expanded(out) if out else None, "compare")
    return 0


def choose(store: Store, grid: str | None, target: str | None, as_json: bool, wals: str | None = None) -> int:
    """What to use for targets without their labels, all of a grid's or one; nothing is written."""
    name = chosen_grid(store, grid)
    known = sorted({str(cell.axes["target_lang"]) for cell in read_plan(store.grid_folder(name)).cells})
    if target is not None and target not in known:
        target = {standard(code): code for code in known}.get(standard(target), target)  # EN and eng are en
    if target is not None and target not in known and not tag_is_valid(target):
        raise ConfigError(
            f"'{target}' is no code of a language. Type one like de or pt-BR; the grid {name} has {', '.join(known)}."
        )
    found = choices(store, name, target or "", expanded(wals) if wals else None)
    if not any(len(one.table) or one.left_out for one in found):
        raise ConfigError(f"The grid {name} has no reward model that learns from a source: there is none to choose.")
    if target is not None:
        found = [replace(one, table=one.table[one.table["target_lang"].isin([target, EVERY])]) for one in found]
    title = f"What to use for {target or 'a target'} without its labels, by the matrix '{name}'"
    if as_json:
        print_bytes(findings_json(title, found))
        return 0
    use, costs = found
    told = costs.table if target is not None else costs.table[costs.table["target_lang"] == EVERY]
    told = told.drop(columns=["source_lang", "best_source_lang", "best"])
    _show(title, [replace(costs, table=told, compact=None), use], False, None, "")  # last what to do
    axes = list(use.table.columns[: list(use.table.columns).index("target_lang")])
    varying = [axis for axis in axes if use.table[axis].nunique() > 1]
    for _, rows in use.table.groupby(axes, sort=False):
        of = ", ".join(str(rows[axis].iloc[0]) for axis in varying if rows[axis].iloc[0])
        print(harmless((f"{of}: " if of else "") + use_of(rows)))
    return 0


def _show(title: str, findings: Sequence[Finding], as_json: bool, folder: Path | None, stem: str) -> None:
    """Print findings for people or for machines; write them, and say where, if there is a folder for it."""
    if as_json:
        print_bytes(findings_json(title, findings))
    else:
        console, heard = Console(), set[str]()
        console.print(Text(title + ". Intervals are 95 %.", style="bold"))
        for finding in findings:
            print_finding(finding, console, heard, "with --out FOLDER" if folder is None else f"{stem}.md")
        for line in in_short(findings):  # last: the end is what stands on the screen
            console.print()
            console.print(Text(line))
    if folder is not None:
        written = write_findings(folder, title, findings, stem)
        names = ", ".join(path.name for path in written[:2])
        told = f"Written to {folder}: {names} and {len(written) - 2} tables in {stem}/."
        print(harmless(told), file=sys.stderr if as_json else sys.stdout)


# --- in the terminal and in Markdown ----------------------------------------------------------------------


def print_finding(finding: Finding, console: Console, heard: set[str] | None = None, rest: str = "") -> None:
    """Title, tables, how it was made, what was left out.

    heard: sentences on the draws that were printed before; rest: where the rows are that the terminal leaves out.
    """
    tables = finding_tables(finding, brief=True)
    single = len(tables) == 1 and not tables[0].title
    if not single:
        console.print()
        console.print(Text(finding.title, style="bold underline"))
    for table in tables:
        print_table(replace(table, title=table.title or finding.title), console)
    lines = said(finding, _MOST_LEFT_OUT) if tables else said(replace(finding, note=""), _MOST_LEFT_OUT)
    for draws in _DRAWS.findall(finding.note) if tables else []:
        if heard is not None and draws in heard:
            lines[0] = lines[0].replace(draws, "").replace("  ", " ")
        elif heard is not None:
            heard.add(draws)
    if rest and tables != finding_tables(finding):
        lines.append(f"Target by target: {rest}.")
    for line in lines:
        console.print(Padding(Text(line.strip(), style="dim"), (0, 0, 0, 2), expand=False))


def markdown_lines(finding: Finding) -> list[str]:
    """A section of analysis.md."""
    lines = [f"## {finding.title}", ""]
    for table in finding_tables(finding):
        drawn = table_lines(table)
        lines += drawn if table.title else drawn[2:]
    return [*lines, *(f"- {escaped(line)}" for line in said(finding)), ""]


def said(finding: Finding, most: int = 10_000) -> list[str]:
    """The note and what was left out, at most so many sentences of it."""
    left_out = [f"Left out: {line}" for line in dict.fromkeys(finding.left_out)]
    more = [f"Left out: {len(left_out) - most} more like these."] if len(left_out) > most else []
    note = f"{finding.note} {_not_shown(finding)}".strip() if finding.note else ""
    return [note, *left_out[:most], *more] if note else [*left_out[:most], *more]


def _not_shown(finding: Finding) -> str:
    """Numbers that a table of rows by columns has no place for: the note speaks of them, the file has them."""
    rows, _, value = finding.compact or ("", "", "")
    others = [name for name in _numbers(finding.table) if name != value] if rows else []
    return f"{finding.name}.csv has also: {', '.join(others)}." if others else ""


def finding_tables(finding: Finding, brief: bool = False) -> list[Table]:
    """The tables of a finding; none where it is empty. brief: without the rows that only files need."""
    data = finding.table
    if data.empty:
        return []
    data, fixed = _without_constants(data, keep=[name for name in (finding.compact or ()) if name])
    if finding.compact is None:
        return [_long(_over_targets(data) if brief and len(data) > _MOST_ROWS else data, fixed)]
    rows, columns, value = finding.compact
    panels = [name for name in _texts(data) if name not in (rows, columns, *_OF_CELLS)]
    count = len(data[panels].drop_duplicates()) if panels else 1
    if brief and count > _MOST_PANELS and (data[columns] == EVERY).any():
        every = data[data[columns] == EVERY].drop(columns=columns)
        return [_crossed(every, panels, rows, value, fixed)] if rows else [_long(every, fixed)]
    if not rows or not panels:
        return [_crossed(data, [rows] if rows else panels, columns, value, fixed)]
    return [
        _crossed(part, [rows], columns, value, ", ".join([*_told(fixed), *_told(names)]))
        for names, part in data.groupby(panels, sort=False, dropna=False)
    ]


def _told(names: object) -> list[str]:
    values = names if isinstance(names, tuple) else (names,)
    return [str(value) for value in values if str(value)]


def _texts(data: pd.DataFrame) -> list[str]:
    return [name for name in data.columns if not pd.api.types.is_numeric_dtype(data[name])]


def _without_constants(data: pd.DataFrame, keep: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The table without axes that are the same everywhere or follow from those before, and the former in words."""
    kept: list[str] = []
    words, gone = [], []
    for name in _texts(data):
        over_all = name == "target_lang" and set(data[name]) == {EVERY}
        if over_all and name not in keep:
            gone.append(name)
        if name in keep or name in _OF_CELLS or data[name].isna().any():
            continue
        before = len(data[kept].drop_duplicates()) if kept else 1
        if len(data[[*kept, name]].drop_duplicates()) > before:
            kept.append(name)
            continue
        gone.append(name)
        if data[name].nunique() == 1:
            words.append(str(data[name].iloc[0]))
    return data.drop(columns=gone), ", ".join(word for word in words if word)


def _over_targets(data: pd.DataFrame) -> pd.DataFrame:
    """Rows over all targets, where a table has them beside those by target."""
    if "target_lang" not in data or not (data["target_lang"] == EVERY).any():
        return data
    return data[data["target_lang"] == EVERY].drop(columns="target_lang")


# --- as tables -----------------------------------------------------------------------------------------------


def _long(data: pd.DataFrame, title: str) -> Table:
    """A line a row: its text columns are the label."""
    texts = _texts(data)
    numbers = _numbers(data)
    looks = {name: _digits(data[name]) for name in numbers}
    rows = []
    for _, row in data.iterrows():
        label = ", ".join(str(row[name]) for name in texts if str(row[name]))
        rows.append((label, [_cell(row, name, looks[name]) for name in numbers]))
    heads = [_spoken(name) for name in numbers]
    return Table("finding", title, ", ".join(_spoken(name) for name in texts), heads, rows)


def _crossed(data: pd.DataFrame, labels: Sequence[str], columns: str, value: str, title: str) -> Table:
    """Rows by columns with one value in each place."""
    across = list(dict.fromkeys(data[columns]))
    across = [name for name in across if name != EVERY] + [name for name in across if name == EVERY]
    digits = _digits(data[value])
    rows: dict[str, list[Cell]] = {}
    last = data[data[columns] == EVERY]
    for _, row in pd.concat([last, data[data[columns] != EVERY]]).iterrows():  # rows in the order of the totals
        label = ", ".join(str(row[name]) for name in labels if str(row[name])) or value
        rows.setdefault(label, [Cell() for _ in across])[across.index(row[columns])] = _cell(row, value, digits)
    corner = ", ".join(_spoken(name) for name in labels) or _spoken(columns)
    heading = ": ".join(part for part in (title, _spoken(value)) if part)
    return Table("finding", heading, corner, [str(name) for name in across], list(rows.items()))


def _numbers(data: pd.DataFrame) -> list[str]:
    """Numeric columns but the bounds, and those that have no number at all."""
    numeric = [name for name in data.columns if name not in _texts(data)]
    bounds = {f"{name}{end}" for name in numeric for end in ("_low", "_high")}
    return [name for name in numeric if name not in bounds and data[name].notna().any()]


def _spoken(name: str) -> str:
    return name.removesuffix("_lang").replace("_", " ")


def _digits(values: "pd.Series[Any]") -> int:
    """Counts have none; correlations and shares of 1 two; percent and points one."""
    there = values.dropna()
    if (there == there.round()).all():
        return 0
    return 2 if there.abs().max() <= 1 else 1


def _cell(row: "pd.Series[Any]", name: str, digits: int) -> Cell:
    if isinstance(row[name], bool | np.bool_):
        return Cell("yes" if row[name] else "no")
    value, low, high = (_number(row.get(f"{name}{end}")) for end in ("", "_low", "_high"))
    if value is None:
        return Cell()
    signed = name in _SIGNED
    text = f"{value:+.{digits}f}" if signed and digits else f"{value:,.{digits}f}"
    if low is None or high is None:
        return Cell(text)
    look: Look = "" if not signed else "above" if low > 0 else "below" if high < 0 else ""
    between = ".." if low < 0 or signed else "-"
    form = f"{{:+.{digits}f}}" if signed and digits else f"{{:.{digits}f}}"
    return Cell(text, f"{form.format(low)}{between}{form.format(high)}", look)


def _number(value: object) -> float | None:
    """None for what is missing: no NaN is ever shown."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


# --- as files, and read again -----------------------------------------------------------------------------


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


def shown_findings(store: Store, name: str, folded: tuple[Matrix, Draws] | None) -> list[Finding]:
    """Findings on the page: analyses of the matrix made anew, those of the grid's files as they were last written.

    The latter read every item again, which takes from seconds to a minute: too long for the end of each run. `folded`:
    the grid need not be folded a second time.
    """
    if folded is None:
        draws = Draws()
        folded = fold_grid(store, name, draws.add), draws
    entries = grid_entries(*folded, unlabelled(store, name))
    found: list[Finding] = []
    for known, analysis in OF_ENTRIES.items():
        try:
            found.append(analysis(entries))
        except Exception as error:  # costs neither the page nor the others
            found.append(_failed(known, error))
    return found + written_findings(store.grid_folder(name))


def written_findings(folder: Path) -> list[Finding]:
    """Of analysis.json what is not made anew for each page."""
    path, name = folder / WRITTEN, "analyses of items"
    if not path.exists():
        return [_nothing(name, f"type `xling analyse {folder.name}`, then `xling report --open`")]
    try:
        return [
            Finding(
                one["name"],
                one["title"],
                pd.DataFrame(one["rows"], columns=one["columns"]),
                f"{one['note']} As `xling analyse` last wrote it.".strip(),
                tuple(one["left_out"]),
            )
            for one in unsealed(path.read_bytes(), dict[str, Any])["findings"]
            if one["name"] not in OF_ENTRIES
        ]
    except Exception as error:
        return [_failed(name, error)]


def _failed(name: str, error: Exception) -> Finding:
    return _nothing(name, f"it could not be made ({type(error).__name__}: {error})")


def _nothing(name: str, why: str) -> Finding:
    return Finding(name.replace(" ", "_"), name.replace("_", " ").capitalize(), pd.DataFrame(), left_out=(why,))
