r"""LaTeX: the tables of a report and the findings of analyses with booktabs, and figures with their captions.

A table is a file to \input; it needs booktabs (and longtable, graphicx where it is long or wide). Text is escaped, so
nothing from a model, a label or a path is ever a command. Home is underlined, the best source of a column is bold.
Letters that pdfLaTeX does not know stay as they are, and the file says that XeLaTeX or LuaLaTeX is needed.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from xling.analysis.findings import Finding
from xling.figures.look import slug
from xling.report.cells import BEST, HOME, SETTLED, TIED, UNKNOWN, Cell, Table

MOST_ROWS = 42  # of a page; longer tables go over several
MOST_COLUMNS = 9  # wider tables are scaled to the width of the text
LONG_TEXT = 40  # characters of a cell, beyond which its column is broken into lines
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


def table_name(table: Table) -> str:
    """`Source minus home, points, ...` -> source_minus_home"""
    return slug(table.title.partition(",")[0].partition(":")[0].lower())


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
    caption = ". ".join(part for part in (escaped(table.title), escaped(about), *_notes(table)) if part) + "."
    return _floating(frame, caption, label, "l" + "r" * len(table.columns), breaks)


def _without_empty_columns(table: Table) -> Table:
    kept = [n for n in range(len(table.columns)) if any(row[n].text for _, row in table.rows)]
    rows = [(name, [row[n] for n in kept]) for name, row in table.rows]
    return replace(table, columns=[table.columns[n] for n in kept], rows=rows)


def _value(cell: Cell) -> str:
    """Marks become type: home underlined, best bold."""
    text = cell.text.replace(HOME, "", 1) if len(cell.text) > 1 else cell.text
    best = BEST in text
    shown = _minus(escaped(text.replace(BEST, ""))).replace(SETTLED, r"$^{*}$")
    shown = rf"\textbf{{{shown}}}" if best and shown else shown
    return rf"\underline{{{shown}}}" if cell.home and shown and cell.text != HOME else shown


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
    texts = [cell.text for _, row in table.rows for cell in row]
    if any(HOME in text for text in texts) or any(cell.home for _, row in table.rows for cell in row):
        marks.append("underlined: home")
    if any(BEST in text for text in texts):
        marks.append("bold: best source of its column")
    if any(TIED in text for text in texts):
        marks.append(r"$^{\sim}$ tied with it")
    if any(SETTLED in text for text in texts) and not any(note.startswith(SETTLED) for note in table.notes):
        marks.append(r"$^{*}$ the 95\,\% interval excludes 0")
    notes = [escaped(note).replace(SETTLED, r"$^{*}$") for note in table.notes]
    said = "; ".join([*marks, *notes])
    return [said[:1].upper() + said[1:]] if said else []


# --- findings ---------------------------------------------------------------------------------------------


def finding_latex(finding: Finding, label: str) -> str:
    """Any analysis: `x`, `x_low` and `x_high` become one column, what is not there a dash."""
    table, same = _apart(finding.table.reset_index(drop=True))
    heads, columns, kinds = [], [], ""
    for name in map(str, table.columns):
        if name.rpartition("_")[2] in ("low", "high") and name.rpartition("_")[0] in table.columns:
            continue
        column = table[name]
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        digits = _digits(column) if numeric else 0
        low, high = (table.get(f"{name}_{end}") for end in ("low", "high"))
        rows = range(len(table))
        if numeric:
            shown = [_estimate(column[i], None if low is None else low[i], None if high is None else high[i], digits)
                     for i in rows]  # fmt: skip
        else:
            shown = [_text(column[i]) for i in rows]
        heads.append(escaped(_head_of(name)))
        columns.append(shown)
        long = not numeric and any(len(str(value)) > LONG_TEXT for value in column)
        kinds += "r" if numeric else r"p{0.3\textwidth}" if long else "l"
    frame = pd.DataFrame({number: column for number, column in enumerate(columns)}, dtype=object)
    frame.columns = pd.Index(heads, dtype=object)
    left = [f"Left out: {'; '.join(finding.left_out)}"] if finding.left_out else []
    words = [part.rstrip(". ") for part in (finding.title, same, finding.note, *left) if part]
    return _floating(frame, escaped(". ".join(words)) + ".", label, kinds, set())


def _apart(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Without the columns of text that say the same in every row, and what they say."""
    text = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    same = [name for name in text if len(table) > 1 and table[name].astype(str).nunique() == 1]
    same = same if len(same) < len(table.columns) else []
    words = [f"{_head_of(name)}: {table[name].iloc[0]}" for name in same if str(table[name].iloc[0])]
    return table.drop(columns=same), ", ".join(words)


def _head_of(name: object) -> str:
    return str(name).removesuffix("_lang").replace("_", " ")


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA:
        return "--"
    return ("yes" if value else "no") if isinstance(value, bool | np.bool_) else escaped(str(value))


def _digits(column: "pd.Series[float]") -> int:
    """Whole numbers as such, large ones with a decimal, small ones with two, tiny ones with three."""
    there = column.dropna().astype(float)
    if not len(there) or (there == there.round()).all():
        return 0
    most = float(there.abs().max())
    return 1 if most >= 10 else 2 if most >= 0.1 else 3


def _estimate(value: float, low: float | None, high: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "--"
    shown = _signed(value, digits)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return shown
    digits = digits or _digits(pd.Series([low, high]))
    return rf"{_signed(value, digits)} {{\scriptsize [{_signed(low, digits)}, {_signed(high, digits)}]}}"


def _signed(value: float, digits: int) -> str:
    return _minus(f"{float(value):.{digits}f}")


# --- what stands around a table ---------------------------------------------------------------------------


def _floating(frame: pd.DataFrame, caption: str, label: str, columns: str, breaks: set[int]) -> str:
    """A float, or a table over several pages; `breaks`: rows that have a rule above."""
    style, head = frame.style.hide(axis="index"), _head(frame)
    if len(frame) > MOST_ROWS:
        body: str = style.to_latex(
            hrules=True, column_format=columns, environment="longtable", caption=caption, label=label
        )
        body = body.replace(rf"\caption[]{{{caption}}}", r"\caption[]{(continued)}")
        size = "scriptsize" if len(frame.columns) > 7 else "small"
        return f"{head}{{\\{size}\\setlength{{\\tabcolsep}}{{3pt}}\n{body}}}\n"
    tabular = _ruled(style.to_latex(hrules=True, column_format=columns), breaks)
    if len(frame.columns) > MOST_COLUMNS:
        tabular = "\\resizebox{\\linewidth}{!}{%\n" + tabular.rstrip("\n") + "}\n"
    return (
        f"{head}\\begin{{table}}[t]\n\\centering\\small\\setlength{{\\tabcolsep}}{{4pt}}\n{tabular}"
        f"\\caption{{{caption}}}\n\\label{{{label}}}\n\\end{{table}}\n"
    )


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
