"""matrix.md: the same tables as in the terminal, for a README, an issue or a paper's draft."""

import sys

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import Block, Matrix, Panel
from xling.analysis.matrix.verdicts import answers
from xling.console import harmless
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.panel import panel_tables
from xling.report.tables.table import BEST, HOME, TIED, Cell, Table, count_text, mixes, needed, task_names


def markdown(matrix: Matrix) -> str:
    """The whole report; ends with a newline."""
    lines = [f"# Transfer matrix: {matrix.name}", ""]
    marks = f"{HOME} home, {BEST} best source of its column, {TIED} tied with it"
    lines += [f"Task: {task_names(matrix)}. {marks}."]
    lines += [f"{matrix.interval_note}. Made by `xling reduce {matrix.name}`.", ""]
    said = answers(matrix, most=sys.maxsize)
    lines += [*(f"- {escaped(line)}" for line in said), *([""] if said else [])]
    notes = [*mixes(matrix), *(f"left out: {note}" for note in matrix.left_out)]
    lines += [f"- {escaped(note)}" for note in notes]
    lines += [""] if notes else []
    across = comparison_tables(matrix)
    lines += ["## Panels compared", ""] if across else []
    for table in across:
        lines += table_lines(table)
    if matrix.frontiers:
        lines += ["The KL/reward frontier: frontier.png, its numbers: frontier.csv.", ""]
    for block in matrix.blocks:
        for panel in block.panels:
            lines += _panel(block, panel)
    return "\n".join(lines).rstrip("\n") + "\n"


def _panel(block: Block, panel: Panel) -> list[str]:
    lines = [f"## {heading_of(panel.axes)}", ""]
    for number, table in enumerate(table for table in panel_tables(block, panel) if table.kind != "brief"):
        lines += table_lines(table)
        if number == 0:
            lines += _sentences(panel)
    return lines + _needs(panel)


def _sentences(panel: Panel) -> list[str]:
    lines = [f"- {line}" for line in panel.verdicts]
    lines += [f"- {count.k} of {count.of} {count_text(count)}" for count in panel.counts]
    return [*lines, ""]


def table_lines(table: Table) -> list[str]:
    """A table under its title, then its notes, with an empty line at the end."""
    lines = [f"### {table.title}", "", f"| {table.corner} | {' | '.join(table.columns)} |"]
    lines.append("|---|" + "---:|" * len(table.columns))
    for label, row in table.rows:
        lines.append(f"| {escaped(label)} | {' | '.join(_cell(cell) for cell in row)} |")
    lines += ["", *(f"- {escaped(note)}" for note in table.notes)]
    return [*lines, ""] if table.notes else lines


def _cell(cell: Cell) -> str:
    text = escaped(cell.shown)
    if cell.home and text:
        text = f"**{text}**"
    return f"{text} <sub>{cell.span}</sub>" if cell.span else text


def escaped(text: str) -> str:
    """Text that is no markup in a table, and no control code for whoever prints the file."""
    return harmless(text).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _needs(panel: Panel) -> list[str]:
    """Samples that would settle each difference to home."""
    cells = panel.at()
    rows = []
    for source in panel.sources:
        entries = [cells.get((source, target)) for target in panel.targets]
        words = [needed(entry.versus_home) if entry and entry.versus_home else "" for entry in entries]
        rows.append(f"| {source} | {' | '.join(words)} |")
    if not any(entry.versus_home for entry in panel.entries):
        return []
    header = f"| source | {' | '.join(panel.targets)} |"
    title = "### More prompts (or seeds) that would settle source against home with 80 % power"
    return [title, "", header, "|---|" + "---:|" * len(panel.targets), *rows, ""]
