"""People's judgements of a grid as tables: the same in the terminal and in judgements.md."""

from rich.text import Text

from xling.analysis.matrix.names import told_apart
from xling.analysis.statistics.intervals import Estimate
from xling.console import Console
from xling.report.tables.markdown import escaped, table_lines
from xling.report.tables.table import Cell, Table, span
from xling.report.tables.terminal import print_table
from xling.sheets.judgements import Annotator, Judgements

NOTE = "95 % bootstrap intervals over prompts (where few win or lose, Wilson's); annotators are fixed"


def print_judgements(found: Judgements, console: Console | None = None) -> None:
    """Win rates by people beside the judge's, who answered, and how far they agree."""
    console = console or Console()
    console.print(Text(f"Grid '{found.grid}' judged by people, sheets {found.key}: {found.question}", style="bold"))
    console.print(Text(NOTE + ".", style="dim"))
    for table in tables(found):
        print_table(table, console)


def markdown(found: Judgements) -> str:
    """The same as a page; ends with a newline."""
    lines = [f"# {found.grid}, judged by people", "", f"{escaped(found.question)} Sheets {found.key}. {NOTE}.", ""]
    for table in tables(found):
        lines += table_lines(table)
    return "\n".join(lines).rstrip("\n") + "\n"


def tables(found: Judgements) -> list[Table]:
    """Cells, agreement where there is any, annotators."""
    return [table for table in (_cells(found), _agreement(found), _with_judge(found), _annotators(found)) if table.rows]


def _cells(found: Judgements) -> Table:
    labels = [_label(axes) for axes in told_apart([cell.axes for cell in found.cells])]
    rows = [
        (
            label,
            [
                Cell("no answer", look="hole") if cell.people is None else _number(cell.people, 1),
                _number(cell.judge, 1),
                *map(_count, (cell.judged, cell.unanswered, cell.identical, cell.annotators)),
            ],
        )
        for label, cell in zip(labels, found.cells, strict=True)
    ]
    columns = ["people", "judge", "judged", "unanswered", "identical", "annotators"]
    notes = [
        "people, judge: the aligned policy against the baseline, ties half, over the same prompts",
        "identical: both responses are the same, which counts as a tie",
    ]
    if any(cell.people is not None and cell.judge is None for cell in found.cells):
        notes.append("no judge: it is the very reward model that picked, and no evidence")
    return Table("win_rate", "Win rate, %", "cell", columns, rows, notes)


def _label(axes: dict[str, str]) -> str:
    """`en > tr`, and other axes by name."""
    rest = [f"{name}={value}" for name, value in axes.items() if name not in ("source_lang", "target_lang") and value]
    return ", ".join([f"{axes['source_lang']} > {axes['target_lang']}", *rest])


def _agreement(found: Judgements) -> Table:
    rows = [
        (
            one.lang,
            [
                _count(one.annotators),
                _count(one.prompts),
                _number(one.raw, 1),
                _number(one.kappa, 2),
                _number(one.alpha, 2),
            ],
        )
        for one in found.agreement
    ]
    notes = ["kappa: Cohen's, of two annotators; alpha: Krippendorff's, nominal. - where all say the same"]
    columns = ["annotators", "pairs", "agree, %", "kappa", "alpha"]
    title = "Agreement between annotators, on pairs that two or more have judged"
    return Table("agreement_between_annotators", title, "language", columns, rows, notes)


def _with_judge(found: Judgements) -> Table:
    rows = [
        (
            f"{one.judge}, {one.lang}",
            [_count(one.pairs), _number(one.raw, 1), _number(one.decided, 1), _number(one.kappa, 2)],
        )
        for one in found.with_judge
    ]
    notes = ["decided: where neither people nor judge say tie; people's answers to a pair averaged first"]
    columns = ["pairs", "agree, %", "decided, %", "kappa"]
    return Table("agreement_with_the_judge", "Agreement of people with the grid's judge", "judge", columns, rows, notes)


def _annotators(found: Judgements) -> Table:
    several = len({one.sheet for one in found.annotators}) > 1
    rows = [(_who(one, several), _habits(one)) for one in found.annotators]
    return Table("annotators", "Annotators", "name", ["answered", "of", "A", "B", "tie"], rows)


def _who(one: Annotator, several: bool) -> str:
    return f"{one.name} ({one.sheet})" if several else one.name


def _habits(one: Annotator) -> list[Cell]:
    return [_count(number) for number in (one.answered, one.rows, one.a, one.b, one.tie)]


def _count(number: int) -> Cell:
    return Cell(str(number))


def _number(estimate: Estimate | None, digits: int) -> Cell:
    if estimate is None:
        return Cell("-")
    between = (
        span(estimate)
        if digits == 1 or estimate.low is None
        else f"{estimate.low:.{digits}f}..{estimate.high:.{digits}f}"
    )
    return Cell(f"{estimate.value:.{digits}f}", between)
