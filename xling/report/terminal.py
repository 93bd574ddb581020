"""A matrix in the terminal: readable at 80 columns and at 200, quiet about colours where there are none.

print_matrix(matrix)             # the result, its controls, what is settled
print_matrix(matrix, full=True)  # and every other table of matrix.md
"""

from dataclasses import replace

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from xling.analysis.matrix import Block, Matrix, Panel
from xling.report.across import comparison_tables
from xling.report.cells import BEST, HOME, SETTLED, TIED, Cell, Table
from xling.report.tables import panel_tables
from xling.report.text import count_text, mixes, panel_title, task_names

MOST_COLUMNS = 24  # beyond this a table is no longer read; the files have it
_GAP = 2  # spaces between columns
_RULES = box.Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")  # a line under the head and between sections
_STYLES = {"": "", "above": "blue", "below": "dark_orange", "hole": "dim", "quiet": "dim"}


def print_matrix(matrix: Matrix, console: Console | None = None, full: bool = False) -> None:
    """Print every panel with its controls, verdicts and counts; `console` decides width and colours."""
    console = console or Console()
    console.print()
    console.print(Text(f"Transfer matrix '{matrix.name}', task {task_names(matrix)}", style="bold"))
    console.print(Text(matrix.interval_note + ".", style="dim"))
    console.print(
        Text(f"{HOME} home  {BEST} best source of its column  {TIED} tied with it  {SETTLED} settled", style="dim")
    )
    shared: list[Table] = []
    said: set[str] = set()
    for block in matrix.blocks:
        seen = list(shared)
        for panel in block.panels:
            seen += _print_panel(block, panel, console, full, seen, said)
        if not block.panels:
            console.print("No cell with a source language: only references were asked for.")
        shared += [table for table in seen if table.shared and table not in shared]
    _print_comparisons(matrix, console, full)
    for mix in mixes(matrix):
        console.print(Text(mix, style="dim"))
    for note in matrix.left_out:
        console.print(Text(f"Left out: {note}", style="dim"))
    if not full:
        console.print()
        console.print(
            Text(
                "More tables, and what each difference needs: matrix.md. The picture: matrix.png. "
                "All of it as a page: report.html.",
                style="dim",
            )
        )


def _print_panel(
    block: Block, panel: Panel, console: Console, full: bool, seen: list[Table], said: set[str]
) -> list[Table]:
    """Print the tables that are not the same as those of another panel of the block, and return them.

    said: what has been explained; the words of a table that stands in every panel are not repeated.
    """
    console.print()
    console.print(Rule(Text(panel_title(panel)), align="left", style="dim"))
    tables = [table for table in panel_tables(block, panel) if _wanted(table, full) and table not in seen]
    for table in tables:
        print_table(replace(table, notes=[n for n in table.notes if n not in said]), console)
        said.update(table.notes if table.brief else [])
    _print_sentences(panel, console)
    return tables


def _wanted(table: Table, full: bool) -> bool:
    return not table.brief if full else not table.detail


def _print_comparisons(matrix: Matrix, console: Console, full: bool) -> None:
    """What stands across panels, last."""
    tables = [table for table in comparison_tables(matrix) if _wanted(table, full)]
    if tables:
        console.print()
        console.print(Rule(Text("panels compared"), align="left", style="dim"))
    for table in tables:
        print_table(table, console)


def _print_sentences(panel: Panel, console: Console) -> None:
    """Counts and verdicts, last: the end is what stands on the screen."""
    console.print()
    ratios = [f"{count.k}/{count.of}" for count in panel.counts]
    width = max(map(len, ratios), default=0)
    lines = RichTable.grid(padding=(0, 2, 0, 0))
    lines.add_column(justify="right", min_width=width, no_wrap=True)
    lines.add_column()
    for ratio, count in zip(ratios, panel.counts, strict=True):
        lines.add_row(Text(ratio, style="bold"), Text(count_text(count)))
    console.print(lines)
    for verdict in panel.verdicts:
        console.print()
        console.print(Text(verdict))


def print_table(table: Table, console: Console) -> None:
    """Print a table under its title, its notes below; in groups of columns where they do not fit side by side."""
    console.print()
    console.print(Text(table.title, style="bold"))
    if len(table.columns) > MOST_COLUMNS:
        size = f"{len(table.rows)} x {len(table.columns)}"
        console.print(Text(f"{size}: see matrix.csv, matrix.md and matrix.png", style="dim"))
    else:
        wide, groups = _fit(table, console.width)
        for group in groups:
            console.print(_render(_without_empty_rows(table, group), group, wide))
    for note in table.notes:
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2), expand=False))


def _fit(table: Table, width: int) -> tuple[bool, list[range]]:
    """One line a cell if that fits, else two, else two and the columns in groups."""
    label = max(len(name) for name in [table.corner, *(name for name, _ in table.rows)])
    every = range(len(table.columns))
    for wide in (True, False):
        widths = [_column_width(table, column, wide) + _GAP for column in every]
        if label + sum(widths) <= width:
            return wide, [every]
    per_group = max(1, (width - label) // max(widths))
    return False, [every[start : start + per_group] for start in range(0, len(every), per_group)]


def _without_empty_rows(table: Table, columns: range) -> Table:
    """A group of columns does not repeat rows that have nothing in it."""
    kept = [number for number, (_, row) in enumerate(table.rows) if any(row[column].text for column in columns)]
    breaks = frozenset(sum(number < at for number in kept) for at in table.breaks)
    return replace(table, rows=[table.rows[number] for number in kept], breaks=breaks)


def _column_width(table: Table, column: int, wide: bool) -> int:
    cells = [row[column] for _, row in table.rows]
    return max([len(table.columns[column]), *(len(line) for cell in cells for line in _lines(cell, wide))])


def _lines(cell: Cell, wide: bool) -> list[str]:
    if not cell.span:
        return [cell.text]
    return [f"{cell.text} [{cell.span}]"] if wide else [cell.text, cell.span]


def _render(table: Table, columns: range, wide: bool) -> RichTable:
    drawn = RichTable(box=_RULES, pad_edge=False, padding=(0, 0, 0, _GAP - 1), show_edge=False)
    drawn.add_column(table.corner, no_wrap=True)
    for column in columns:
        drawn.add_column(table.columns[column], justify="right", no_wrap=True)
    for number, (label, row) in enumerate(table.rows):
        drawn.add_row(
            Text(label),
            *(_cell_text(row[column], wide) for column in columns),
            end_section=number + 1 in table.breaks and number + 1 < len(table.rows),
        )
    return drawn


def _cell_text(cell: Cell, wide: bool) -> Text:
    lines = _lines(cell, wide)
    style = _STYLES[cell.look] + (" bold" if cell.home else "")
    text = Text(lines[0], style=style.strip())
    if len(lines) > 1:
        text.append("\n" + lines[1], style="dim not bold")
    return text
