r"""LaTeX: the tables of a report and the findings of analyses with booktabs, and figures with their captions.

A table is a file to \input; it needs booktabs (and longtable, graphicx where it is long or wide). Text is escaped, so
nothing from a model, a label or a path is ever a command. Home is underlined, the best source of a column is bold.
Letters that pdfLaTeX does not know stay as they are, and the file says that XeLaTeX or LuaLaTeX is needed.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from xling.analysis.tidy.finding import Finding
from xling.report.tables.findings import finding_tables, said
from xling.report.tables.table import BEST, HOME, SETTLED, TIED, UNKNOWN, Cell, Table

MOST_ROWS = 42  # of a page; longer tables go over several
MOST_LEFT_OUT = 6  # sentences of a caption
PAGE = 440.0  # points; wider tables are scaled to the width of the text
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


def finding_latex(finding: Finding, label: str) -> str:
    """Any analysis, as the terminal and Markdown have it: a table, or several; the first says how it was made."""
    tables = finding_tables(finding)
    made = []
    for number, table in enumerate(tables):
        titled = replace(table, title=": ".join(part for part in (finding.title, table.title) if part))
        about = " ".join(said(finding, MOST_LEFT_OUT)) if number == 0 else ""
        made.append(table_latex(titled, label if len(tables) == 1 else f"{label}-{number + 1}", about))
    return "\n".join(made)


# --- what stands around a table ---------------------------------------------------------------------------


def _floating(frame: pd.DataFrame, caption: str, label: str, columns: str, breaks: set[int]) -> str:
    """A float, or a table over several pages; `breaks`: rows that have a rule above."""
    style, head, wide = frame.style.hide(axis="index"), _head(frame), _points(frame)
    if len(frame) > MOST_ROWS:
        long = {"environment": "longtable", "caption": caption, "label": label}
        body: str = style.to_latex(hrules=True, column_format=columns, **long)
        body = body.replace(rf"\caption[]{{{caption}}}", r"\caption[]{(continued)}")
        size = "small" if wide <= PAGE else "scriptsize" if wide * 0.8 <= PAGE else "tiny"
        return f"{head}{{\\{size}\\setlength{{\\tabcolsep}}{{3pt}}\n{body}}}\n"
    tabular = _ruled(style.to_latex(hrules=True, column_format=columns), breaks)
    if wide > PAGE:
        tabular = "\\resizebox{\\linewidth}{!}{%\n" + tabular.rstrip("\n") + "}\n"
    return (
        f"{head}\\begin{{table}}[t]\n\\centering\\small\\setlength{{\\tabcolsep}}{{4pt}}\n{tabular}"
        f"\\caption{{{caption}}}\n\\label{{{label}}}\n\\end{{table}}\n"
    )


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


def figure_latex(path: str, caption: str, label: str, whole_page: bool) -> str:
    r"""A figure as it is \input; `whole_page`: across both columns."""
    kind = "figure*" if whole_page else "figure"
    said = escaped(caption.rstrip(". ")) + "."
    return (
        f"\\begin{{{kind}}}[t]\n\\centering\n\\includegraphics{{{path}}}\n"
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
\usepackage{amsmath,amssymb,booktabs,graphicx,longtable}
\begin{document}
"""
