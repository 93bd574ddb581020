r"""LaTeX: the tables of a report and the findings of analyses with booktabs, and figures with their captions.

A table is a file to \input; it needs booktabs and amssymb (and graphicx where it is very wide). What is wider than a
column of two goes over both (table*); what is longer than a page becomes several floats, since longtable refuses two
columns. Text is escaped, so nothing from a model, a label or a path is ever a command. Home is underlined, the best
source of a column is bold. Letters that pdfLaTeX does not know stay as they are, and the file says that XeLaTeX or
LuaLaTeX is needed.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from xling.analysis.tidy.finding import Finding
from xling.report.tables.findings import finding_tables, said
from xling.report.tables.table import BEST, HOME, SETTLED, TIED, UNKNOWN, Cell, Table

MOST_ROWS = 42  # of a page; longer tables go over several
COLUMN = 219.0  # points of one of two columns (ACL)
MOST_LEFT_OUT = 6  # sentences of a caption
PAGE = 440.0  # wider tables are scaled to the width of the text
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "−": "$-$",
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "≈": r"$\approx$", "∞": r"$\infty$", "…": r"\dots{}", "–": "--",
    "—": "---", "\u00a0": "~", "²": r"\textsuperscript{2}", "³": r"\textsuperscript{3}", "°": r"$^{\circ}$",
    "µ": r"$\mu$",
    HOME: r"\underline{home}", BEST: r"$\blacktriangle$", TIED: r"$^{\sim}$", UNKNOWN: r"$^{\dagger}$",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa", "λ": "lambda", "μ": "mu",
    "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "χ": "chi", "Δ": "Delta", "Σ": "Sigma",
}  # fmt: skip
_KNOWN_TO_PDFLATEX = 0x180  # T1 has the letters of Latin-1 and Latin Extended-A


def escaped(text: str) -> str:
    """Text as LaTeX that prints it; control codes are left out, line breaks are spaces."""
    return "".join(map(_letter, " ".join(text.replace("->", "→").split())))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter in _GREEK:
        return f"$\\{_GREEK[letter]}$"
    return "" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn") else letter


def beyond_pdflatex(text: str) -> bool:
    """There is a letter that needs XeLaTeX or LuaLaTeX."""
    return any(ord(letter) >= _KNOWN_TO_PDFLATEX for letter in text)


# --- tables of a report -----------------------------------------------------------------------------------


def table_latex(table: Table, label: str, about: str = "") -> str:
    """A table of a report; a cell's interval stands below its value. about: goes into the caption."""
    table = _without_empty_columns(table)
    spans = any(cell.span for _, row in table.rows for cell in row)
    lines: list[list[str]] = []
    breaks = set()
    for number, (name, row) in enumerate(table.rows):
        if number in table.breaks and lines:
            breaks.add(len(lines))
        lines.append([escaped(name), *(_value(cell) for cell in row)])
        if spans and any(cell.span for cell in row):
            lines.append(["", *(_span(cell) for cell in row)])
    frame = pd.DataFrame(lines, columns=[escaped(table.corner), *map(escaped, table.columns)], dtype=object)
    words = (escaped(table.title), escaped(about.rstrip(". ")), *_notes(table))
    caption = ". ".join(part for part in words if part) + "."
    return _floating(frame, caption, label, "l" + "r" * len(table.columns), breaks)


def renamed(table: Table, names: Mapping[str, str]) -> Table:
    """The table with its labels as figures have them: of `en -> de`, `baseline de` and `en†` each part."""

    def name(label: str) -> str:
        parts = re.split(r"( -> | ~ |, |: |^baseline |^minus |†$)", label)
        return names.get(label) or "".join(names.get(part, part) for part in parts)

    def cell(one: Cell) -> Cell:
        return replace(one, text=names[one.text]) if one.value is None and one.text in names else one

    rows = [(name(label), [cell(one) for one in row]) for label, row in table.rows]
    columns = [name(column) for column in table.columns]
    return replace(table, title=name(table.title), columns=columns, rows=rows)


def _without_empty_columns(table: Table) -> Table:
    kept = [n for n in range(len(table.columns)) if any(row[n].shown for _, row in table.rows)]
    rows = [(name, [row[n] for n in kept]) for name, row in table.rows]
    return replace(table, columns=[table.columns[n] for n in kept], rows=rows)


def _value(cell: Cell) -> str:
    """Marks become type: home underlined, best bold."""
    if not cell.text:
        return escaped(cell.shown)
    signs = cell.marks.replace(HOME, "").replace(BEST, "")
    shown = (_minus(escaped(cell.text)) + escaped(signs + cell.note)).replace(SETTLED, r"$^{*}$")
    shown = rf"\textbf{{{shown}}}" if BEST in cell.marks else shown
    return rf"\underline{{{shown}}}" if cell.home else shown


def _span(cell: Cell) -> str:
    """`50.1--54.4`, or `-1.2, +0.4` where a bound is negative."""
    if not cell.span:
        return ""
    low, between, high = cell.span.partition("..")
    if between:
        return rf"{{\scriptsize {_minus(escaped(low))}, {_minus(escaped(high))}}}"
    return rf"{{\scriptsize {escaped(cell.span).replace('-', '--')}}}"


def _minus(number: str) -> str:
    """A sign as it is set; nothing of text."""
    return f"${number[0]}${number[1:]}" if number[:1] in "+-" and number[1:2].isdigit() else number


def _notes(table: Table) -> list[str]:
    marks = []
    there = "".join(cell.marks for _, row in table.rows for cell in row)
    if HOME in there or any(cell.home for _, row in table.rows for cell in row):
        marks.append("underlined: home")
    if BEST in there:
        marks.append("bold: best source of its column")
    if TIED in there:
        marks.append(r"$^{\sim}$ tied with it")
    if SETTLED in there and not any(note.startswith(SETTLED) for note in table.notes):
        marks.append(r"$^{*}$ the 95\,\% interval excludes 0")
    notes = [escaped(note).replace(SETTLED, r"$^{*}$") for note in table.notes]
    said = "; ".join([*marks, *notes])
    return [said[:1].upper() + said[1:]] if said else []


# --- findings ---------------------------------------------------------------------------------------------


def finding_latex(finding: Finding, label: str, names: Mapping[str, str] | None = None) -> str:
    """Any analysis, as the terminal and Markdown have it: a table, or several; the first says how it was made."""
    tables = [renamed(table, names or {}) for table in finding_tables(finding)]
    made = []
    for number, table in enumerate(tables):
        titled = replace(table, title=": ".join(part for part in (finding.title, table.title) if part))
        about = " ".join(said(finding, MOST_LEFT_OUT)) if number == 0 else ""
        made.append(table_latex(titled, label if len(tables) == 1 else f"{label}-{number + 1}", about))
    return "\n".join(made)


# --- what stands around a table ---------------------------------------------------------------------------


def _floating(frame: pd.DataFrame, caption: str, label: str, columns: str, breaks: set[int]) -> str:
    """A float, or several in a row; `breaks`: rows that have a rule above."""
    wide = _points(frame)
    kind = "table*" if wide > COLUMN else "table"
    made = []
    for first, part in _parts(frame):
        tabular = part.style.hide(axis="index").to_latex(hrules=True, column_format=columns)
        tabular = _ruled(tabular, {row - first for row in breaks if first < row < first + len(part)})
        if wide > PAGE:
            tabular = "\\resizebox{\\textwidth}{!}{%\n" + tabular.rstrip("\n") + "}\n"
        below = (
            f"\\caption{{{caption}}}\n\\label{{{label}}}"
            if first == 0
            else f"\\par\\smallskip Table \\ref{{{label}}}, continued."
        )
        made.append(
            f"\\begin{{{kind}}}[t]\n\\centering\\small\\setlength{{\\tabcolsep}}{{4pt}}\n{tabular}{below}\n"
            f"\\end{{{kind}}}\n"
        )
    return _head(frame) + "".join(made)


def _parts(frame: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Of at most MOST_ROWS rows, with where each begins; an interval stays below its number."""
    starts = [0]
    for row, label in enumerate(frame.iloc[:, 0]):
        if label and row - starts[-1] >= MOST_ROWS - 1:
            starts.append(row)
    ends = [*starts[1:], len(frame)]
    return [(start, frame.iloc[start:end]) for start, end in zip(starts, ends, strict=True)]


def _points(frame: pd.DataFrame) -> float:
    """About how wide the table is in small type, by its letters."""
    wide = 0.0
    for head, column in zip(frame.columns, frame.to_numpy().T, strict=True):
        wide += 8 + max(map(_letters, [head, *column]), default=0) * 4.5
    return wide


def _letters(cell: str) -> float:
    return len(re.sub(r"\\[a-z]+ ?|[{}$]", "", cell)) * (0.75 if "scriptsize" in cell else 1.0)


def _head(frame: pd.DataFrame) -> str:
    text = "".join(map(str, [*frame.columns, *frame.to_numpy().ravel()]))
    return (
        "% needs XeLaTeX or LuaLaTeX: there are letters that pdfLaTeX does not know\n" if beyond_pdflatex(text) else ""
    )


def _ruled(tabular: str, breaks: set[int]) -> str:
    """The rules between sections, which pandas has no word for."""
    lines = tabular.splitlines()
    first = lines.index(r"\midrule") + 1
    for row in sorted(breaks, reverse=True):
        lines.insert(first + row, r"\midrule")
    return "\n".join(lines) + "\n"


# --- all of it --------------------------------------------------------------------------------------------


# Where the figures lie: beside the file that is read, wherever the paper is (LaTeX of October 2020 or later).
BESIDE = r"""\makeatletter
\def\xlingbeside{}
\ifdefined\CurrentFilePathUsed\ifx\CurrentFilePathUsed\@empty\else\edef\xlingbeside{\CurrentFilePathUsed/}\fi\fi
\makeatother
"""


def figure_latex(path: str, caption: str, label: str, whole_page: bool) -> str:
    r"""A figure of a file that begins with BESIDE, as it is \input; `whole_page`: across both columns."""
    kind = "figure*" if whole_page else "figure"
    said = escaped(caption.rstrip(". ")) + "."
    return (
        f"\\begin{{{kind}}}[t]\n\\centering\n\\includegraphics{{\\xlingbeside {path}}}\n"
        f"\\caption{{{said}}}\n\\label{{{label}}}\n\\end{{{kind}}}\n"
    )


def document(inputs: Sequence[str], title: str) -> str:
    r"""Everything on paper, to look at: `pdflatex all.tex`."""
    lines = [f"\\clearpage\\input{{{name}}}" for name in inputs]
    return _PREAMBLE + f"\\section*{{{escaped(title)}}}\n" + "\n".join(lines) + "\n\\end{document}\n"


_PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage{iftex}
\ifPDFTeX\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\else\usepackage{fontspec}\fi
\usepackage[textwidth=6.3in,textheight=9.5in]{geometry}
\usepackage{amsmath,amssymb,booktabs,graphicx}
\begin{document}
"""
