"""A matrix in the terminal: readable at 80 columns and at 200, quiet about colours where there are none.

print_matrix(matrix)
"""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from xling.analysis.fold import belongs, panel_key
from xling.analysis.matrix import Block, Matrix, Panel
from xling.report.tables import BEST, HOME, TIED, Cell, Table, panel_tables
from xling.report.text import panel_title, task_names

MOST_COLUMNS = 24  # beyond this a table is no longer read; the files have it
_STYLES = {"": "", "above": "blue", "below": "dark_orange", "hole": "dim", "quiet": "dim"}


def print_matrix(matrix: Matrix, console: Console | None = None) -> None:
    """Print every panel with its controls, verdicts and counts; `console` decides width and colours."""
    console = console or Console()
    console.print()
    console.print(Text(f"Transfer matrix '{matrix.name}' of {task_names(matrix)}", style="bold"))
    legend = f"{HOME} home  {BEST} best source of its column  {TIED} tied with it"
    console.print(Text(f"{legend}\n{matrix.interval_note}", style="dim"))
    for block in matrix.blocks:
        for panel in block.panels:
            _print_panel(block, panel, console)
        if not block.panels:
            console.print("No cell with a source language: only references were asked for.")


def _print_panel(block: Block, panel: Panel, console: Console) -> None:
    controls = [c for c in block.controls if belongs(panel_key(c.axes), panel_key(panel.axes))]
    console.print()
    console.rule(escape(panel_title(panel)), align="left", style="dim")
    for number, table in enumerate(panel_tables(block, panel, controls)):
        _print_table(table, console)
        if number == 0:
            _print_sentences(panel, console)


def _print_sentences(panel: Panel, console: Console) -> None:
    for line in panel.verdicts:
        console.print(Padding(Text(line), (0, 0, 0, 2)))
    for count in panel.counts:
        by_value = "" if count.by_value is None else f" ({count.by_value} by point estimate)"
        holes = "" if count.planned == count.of else f", {count.planned - count.of} not there"
        line = f"{count.k} of {count.of} {count.text}{by_value}{holes}"
        console.print(Padding(Text(line), (0, 0, 0, 2)))


def _print_table(table: Table, console: Console) -> None:
    console.print()
    console.print(Text(table.title, style="bold"))
    if len(table.columns) > MOST_COLUMNS:
        size = f"{len(table.rows)} x {len(table.columns)}"
        console.print(Text(f"{size}: see matrix.csv, matrix.md and matrix.png", style="dim"))
    else:
        wide, groups = _fit(table, console.width)
        for group in groups:
            console.print(_render(table, group, wide))
    for note in table.notes:
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))


def _fit(table: Table, width: int) -> tuple[bool, list[range]]:
    """One line a cell if that fits, else two, else two and the columns in groups."""
    label = max(len(name) for name in [table.corner, *(name for name, _ in table.rows)]) + 2
    every = range(len(table.columns))
    for wide in (True, False):
        widths = [_column_width(table, column, wide) + 2 for column in every]
        if label + sum(widths) <= width:
            return wide, [every]
    per_group = max(1, (width - label) // max(widths))
    return False, [every[start : start + per_group] for start in range(0, len(every), per_group)]


def _column_width(table: Table, column: int, wide: bool) -> int:
    cells = [row[column] for _, row in table.rows]
    return max([len(table.columns[column]), *(len(line) for cell in cells for line in _lines(cell, wide))])


def _lines(cell: Cell, wide: bool) -> list[str]:
    if not cell.span:
        return [cell.text]
    return [f"{cell.text} [{cell.span}]"] if wide else [cell.text, cell.span]


def _render(table: Table, columns: range, wide: bool) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
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
