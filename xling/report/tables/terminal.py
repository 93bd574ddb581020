"""A matrix in the terminal: readable at 80 columns and at 200, quiet about colours where there are none.

print_matrix(matrix)             # the result, its controls, what is settled
print_matrix(matrix, full=True)  # and every other table of matrix.md
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import Block, Matrix, Panel
from xling.analysis.matrix.verdicts import answers
from xling.console import Console, harmless
from xling.report.tables.colours import TERMINAL
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.panel import panel_tables
from xling.report.tables.table import BEST, HOME, SETTLED, TIED, Cell, Table, count_text, mixes, task_names

MOST_COLUMNS = 24  # beyond this only the matrix itself is shown, page by page; the files have the rest
LONGEST_LABEL, LONGEST_HEAD = 26, 16  # characters of a line of a row's name and of a column's
BETWEEN = 4  # spaces between tables side by side
_GAP = 2  # spaces between columns
_RULES = box.Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")  # a line under the head and between sections


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
    for line in answers(matrix):
        console.print(Text(line, style="bold"))
    if not full:
        console.print()
        more = (
            "More tables: `xling report --full`; what each difference needs: matrix.md; all as a page: `xling report "
            "--open`."
        )
        console.print(Text(more, style="dim"))


def _print_panel(
    block: Block, panel: Panel, console: Console, full: bool, seen: list[Table], said: set[str]
) -> list[Table]:
    """Print the tables that are not the same as those of another panel of the block, and return them.

    said: what has been explained; the words of a table that stands in every panel are not repeated.
    """
    console.print()
    console.print(Rule(Text(heading_of(panel.axes)), align="left", style="dim"))
    tables = [table for table in panel_tables(block, panel) if _wanted(table, full) and table not in seen]
    shown = []
    for table in tables:
        shown.append(replace(table, notes=[n for n in table.notes if n not in said]))
        said.update(table.notes if table.kind == "brief" else [])
    print_tables(shown, console, full)
    _print_sentences(panel, console)
    return tables


def _wanted(table: Table, full: bool) -> bool:
    return table.kind != ("brief" if full else "detail")


def _print_comparisons(matrix: Matrix, console: Console, full: bool) -> None:
    """Prints the tables across panels, last."""
    tables = [table for table in comparison_tables(matrix) if _wanted(table, full)]
    if tables:
        console.print()
        console.print(Rule(Text("panels compared"), align="left", style="dim"))
    print_tables(tables, console, full)


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


# --- tables -----------------------------------------------------------------------------------------------


def print_tables(tables: Sequence[Table], console: Console, full: bool = False) -> None:
    """Print tables in their order, side by side as far as the width goes; `full`: the widest too, page by page."""
    for row in _rows([_on_a_line(table) for table in tables], console.width):
        console.print()
        if len(row) == 1:
            console.print(_block(row[0], console.width, full or row[0].kind == "matrix"))
        else:
            console.print(_beside(row, console.width))


def print_table(table: Table, console: Console, full: bool = True) -> None:
    """Print one table under its title, its notes below."""
    print_tables([table], console, full)


def _rows(tables: Sequence[Table], width: int) -> list[list[Table]]:
    """Neighbours that fit beside each other with two lines a cell."""
    rows: list[list[Table]] = []
    for table in tables:
        if rows and sum(_block_width(one, False) + BETWEEN for one in [*rows[-1], table]) - BETWEEN <= width:
            rows[-1].append(table)
        else:
            rows.append([table])
    return rows


def _beside(tables: Sequence[Table], width: int) -> RichTable:
    """Tables in one line; the first of them with one line a cell where there is room for it."""
    widths = [_block_width(table, False) for table in tables]
    for number, table in enumerate(tables):
        wider = [*widths[:number], _block_width(table, True), *widths[number + 1 :]]
        widths = wider if sum(wider) + BETWEEN * (len(tables) - 1) <= width else widths
    drawn = RichTable.grid(padding=(0, BETWEEN, 0, 0))
    for one in widths:
        drawn.add_column(width=one)
    drawn.add_row(*(_block(table, one, True) for table, one in zip(tables, widths, strict=True)))
    return drawn


def _block_width(table: Table, wide: bool) -> int:
    columns = sum(_column_width(table, column, wide) + _GAP for column in range(len(table.columns)))
    return max(cell_len(table.title), _label_width(table) + columns)


def _block(table: Table, width: int, whole: bool) -> Group:
    """The title, the table in pages of columns that fit, the notes."""
    parts: list[RenderableType] = [Text(table.title, style="bold")]
    if len(table.columns) > MOST_COLUMNS and not whole:
        size = f"{len(table.rows)} x {len(table.columns)}"
        parts.append(Text(f"{size}: `xling report --full`, matrix.csv, matrix.md and matrix.png have it", style="dim"))
    else:
        wide, pages = _fit(table, width)
        for page in pages:
            if len(pages) > 1:
                which = f"columns {page[0] + 1} to {page[-1] + 1}" if len(page) > 1 else f"column {page[0] + 1}"
                parts.append(Text(f"{which} of {len(table.columns)}", style="dim"))
            parts.append(_render(_without_empty_rows(table, page), page, wide))
    parts += [Padding(Text(note, style="dim"), (0, 0, 0, 2), expand=False) for note in table.notes]
    return Group(*parts)


def _on_a_line(table: Table) -> Table:
    """Every text of a table without control codes and line breaks, so that its width is what it looks like."""
    rows = [(_line(name), [replace(cell, text=_line(cell.text)) for cell in row]) for name, row in table.rows]
    columns, notes = [_line(column) for column in table.columns], [_line(note) for note in table.notes]
    return replace(table, title=_line(table.title), columns=columns, rows=rows, notes=notes)


def _line(text: str) -> str:
    return harmless(text).replace("\n", "\u240a").replace("\t", " ")


def _fit(table: Table, width: int) -> tuple[bool, list[range]]:
    """One line a cell if that fits, else two, else two and the columns in pages of about the same width."""
    every, room = range(len(table.columns)), width - _label_width(table)
    for wide in (True, False):
        widths = [_column_width(table, column, wide) + _GAP for column in every]
        if sum(widths) <= room:
            return wide, [every]
    most = max(1, room // max(widths))
    each = math.ceil(len(every) / math.ceil(len(every) / most))
    return False, [every[start : start + each] for start in range(0, len(every), each)]


def _label_width(table: Table) -> int:
    """Longer names go over several lines."""
    return min(LONGEST_LABEL, max(cell_len(name) for name in [table.corner, *(name for name, _ in table.rows)]))


def _without_empty_rows(table: Table, columns: range) -> Table:
    """A page of columns does not repeat rows that have nothing in it."""
    kept = [number for number, (_, row) in enumerate(table.rows) if any(row[column].shown for column in columns)]
    breaks = frozenset(sum(number < at for number in kept) for at in table.breaks)
    return replace(table, rows=[table.rows[number] for number in kept], breaks=breaks)


def _column_width(table: Table, column: int, wide: bool) -> int:
    """Of its numbers, which are never broken; a longer head is."""
    cells = [row[column] for _, row in table.rows]
    head = min(LONGEST_HEAD, cell_len(table.columns[column]))
    return max([head, *(cell_len(line) for cell in cells for line in _lines(cell, wide))])


def _lines(cell: Cell, wide: bool) -> list[str]:
    if not cell.span:
        return [cell.shown]
    return [f"{cell.shown} [{cell.span}]"] if wide else [cell.shown, cell.span]


def _render(table: Table, columns: range, wide: bool) -> RichTable:
    drawn = RichTable(box=_RULES, pad_edge=False, padding=(0, 0, 0, _GAP - 1), show_edge=False)
    drawn.add_column(Text(table.corner), overflow="fold", width=_label_width(table))
    for column in columns:
        head = Text(table.columns[column], justify="right")
        drawn.add_column(head, justify="right", overflow="fold", width=_column_width(table, column, wide))
    for number, (label, row) in enumerate(table.rows):
        drawn.add_row(
            Text(label),
            *(_cell_text(row[column], wide) for column in columns),
            end_section=number + 1 in table.breaks and number + 1 < len(table.rows),
        )
    return drawn


def _cell_text(cell: Cell, wide: bool) -> Text:
    lines = _lines(cell, wide)
    style = TERMINAL[cell.look] + (" bold" if cell.home else "")
    text = Text(lines[0], style=style.strip())
    if len(lines) > 1:
        text.append("\n" + lines[1], style="dim not bold")
    return text
