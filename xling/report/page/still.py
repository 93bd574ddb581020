"""What of the page needs no script: what was run, the facts, and the matrix itself, as the script will draw it.

A mail's preview shows it, it is printed at once, and it is in the page's first paint. Its numbers are those of the
page's data (data.py); shades are classes, s0 to s20, since the page's policy allows no style in an element.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from html import escape
from typing import Any

from babel.dates import format_date

from xling.analysis.matrix.names import plain, worded
from xling.analysis.matrix.types import Matrix
from xling.report.page.stages import Origin
from xling.report.tables.colours import SHADES
from xling.report.tables.table import HOME

Json = Any
DENSE = 14  # columns beyond which a heat map shows numbers alone (tables.js)
FIRST, WIDTH = 96, 43  # pixels of a dense table's columns: known before its cells, it is laid out fast
MEANING = {"◆": "home", "▲": "best source of its column", "△": "tied with the best", "*": "settled"}
ABOUT = "Rows: the language that a reward model was trained in. Columns: the language whose policy it aligned."


def ran(matrix: Matrix, origin: Origin | None) -> str:
    """One line: `Best-of-16 of policy micro, reward model frozen lm, judged by gold against 4 fresh samples a prompt;
    30 November 2026`."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    if not panels:
        return ""
    optimizers = dict.fromkeys(word for one in panels for word in worded(one.axes, ["optimizer"], one.entries))
    policies, models, judges = (
        dict.fromkeys(plain(one.axes[axis]) for one in panels if one.axes.get(axis))
        for axis in ("policy", "rm_backbone", "judge")
    )
    said = _listed(optimizers) or "Responses"
    said = said[:1].upper() + said[1:]
    if list(policies) == ["recorded"]:
        said, against = f"{said} of recorded responses", ""
    else:
        settings = origin.settings.get("baseline", {}) if origin else {}
        count = " or ".join(settings.get("n", []))
        against = f" against {count} fresh sample{'s' * (count != '1')} a prompt".replace("  ", " ")
        said = f"{said} of {_many('policy', 'policies', policies)}"
    if list(models) == list(judges):
        said = f"{said}, {_many('reward model and judge', 'reward models and judges', models)}{against}"
    else:
        said = f"{said}, {_many('reward model', 'reward models', models)}, judged by {_listed(judges)}{against}"
    ended = origin.ended[:10] if origin else ""
    return f"{said}; {format_date(date.fromisoformat(ended), 'd MMMM yyyy', locale='en')}" if ended else said


def _many(one: str, several: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{one if len(names) == 1 else several} {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    *first, last = list(names) or [""]
    return " and ".join(part for part in (", ".join(first), last) if part)


def facts(data: Json) -> str:
    """Counts under the headline, a pair of dt and dd each."""
    done, planned = data["cells"]
    panels = data["panels"]
    size = f"{len(panels[0]['sources'])} × {len(panels[0]['targets'])}" if panels else ""
    seconds = sum(cost["seconds"] for cost in data["origin"]["costs"]) if data["origin"] else 0.0
    told = [
        ("cells finished", f"{done} of {planned}"), ("sources × targets", size),
        ("matrices", str(len(panels)) if len(panels) > 1 else ""), ("prompts a target", data["prompts"]),
        ("seeds", data["seeds"]), ("stages took", _duration(seconds) if seconds else ""),
    ]  # fmt: skip
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in told if value != ""
    )


def _duration(seconds: float) -> str:
    """As in dom.js."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def warnings(data: Json) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in data["warnings"])


def left_out(data: Json) -> str:
    """Behind a click: of `glob(*)` it is a list of all languages that the task lacks."""
    if not data["left_out"]:
        return ""
    lines = "".join(f"<li>{escape(text)}</li>" for text in data["left_out"])
    return f'<details class="quiet"><summary>What was left out</summary><ul class="notes">{lines}</ul></details>'


# --- the matrix ---------------------------------------------------------------------------------------------


def section(data: Json) -> str:
    """The section of the matrix: the first panel; all others where no script runs."""
    panels = data["panels"]
    if not panels:
        return ""
    first, *others = (_figure(one, data["languages"], len(panels) > 1) for one in panels)
    more = f"<noscript>{''.join(others)}</noscript>" if others else ""
    return (
        '<section id="matrix" aria-labelledby="matrix-title"><h2 id="matrix-title">The matrix</h2>'
        f'<p class="intro">{ABOUT}</p><div class="body">{first}</div>{more}</section>'
    )


def broad(data: Json) -> str:
    return "broad" if any(len(one["targets"]) > DENSE for one in data["panels"]) else ""


def _figure(panel: Json, languages: Json, named: bool) -> str:
    """The panel's win rates."""
    table = panel["tables"]["maps"][0]
    title = f"{table['title']}: {panel['title']}" if named else table["title"]
    there = "".join(table.get("marks", ()))
    signs = "".join(f"<li>{sign} {text}</li>" for sign, text in MEANING.items() if sign in there)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table["notes"])
    return (
        f'<figure class="table still"><figcaption class="title">{escape(title)}</figcaption>'
        f'<p class="about">{escape(table["about"])}</p>{_table(table, languages)}'
        f'<ul class="key">{signs}</ul><ul class="notes">{notes}</ul></figure>'
    )


def _table(table: Json, languages: Json) -> str:
    columns, width = table["columns"], len(table["columns"])
    dense = width > DENSE
    heads = [
        f'<th scope="col"{_class("aside" if n and n == table["targets"] else "")}>'
        f"{_label(label, languages if n < table['targets'] else {})}</th>"
        for n, label in enumerate(columns)
    ]
    lines = []
    for n, label in enumerate(table["rows"]):
        cells = "".join(_cell(table, n * width + column, column, dense) for column in range(width))
        head = f'<th scope="row">{_label(label, languages if n < table["sources"] else {})}</th>'
        lines.append(f"<tr{_class('break' if n in table['breaks'] else '')}>{head}{cells}</tr>")
    kind = f"heat{' dense' if dense else ''}" if table["scale"] else "plain"
    fixed = f' width="{FIRST + WIDTH * width}"' if dense else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"{fixed}><thead><tr><th scope="col" class="corner">'
        f"reward model ↓<br>policy →</th>{''.join(heads)}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _label(label: str, languages: Json) -> str:
    code = label.removesuffix("†")
    if code not in languages:
        return escape(label)
    return f'<abbr title="{escape(languages[code])}">{escape(code)}</abbr>{label[len(code) :]}'


def _cell(table: Json, at: int, column: int, dense: bool) -> str:
    text, marks, number, look = (
        table["text"][at],
        _at(table, "marks", at),
        _at(table, "numbered", at),
        table["look"][at],
    )
    classes = ["home" if look.isupper() else "", "hole" if look in "hH" else ""]
    shade = _shade(table["scale"], table["value"][at] if "value" in table else None)
    classes += shade or ["faint" if look in "qQ" else ""]
    classes += ["" if text or marks else "nothing", "aside" if column and column == table["targets"] else ""]
    span = escape(table["span"][at])
    home, others = (HOME if HOME in marks else ""), marks.replace(HOME, "")
    parts = [f'<span class="mark">{home}</span>' if home else ""]
    parts += [f'<span class="number">{escape(text)}</span>' if text else ""]
    parts += [f'<span class="mark">{escape(others)}</span>' if others else ""]
    parts += [f"<sup>{escape(number)}</sup>" if number else ""]
    parts += [f' <span class="span">{span}</span>' if span and not dense else ""]
    hint = f' title="{span}"' if dense and span else ""
    return f"<td{_class(' '.join(filter(None, classes)))}{hint}>{''.join(parts)}</td>"


def _at(table: Json, name: str, at: int) -> str:
    found: Sequence[str] = table.get(name, ())
    return found[at] if found else ""


def _shade(scale: Json, value: float | None) -> list[str]:
    """As `shade` in tables.js, in steps."""
    if not scale or value is None:
        return []
    if "reach" in scale:
        off = (value - scale["middle"]) / scale["reach"]
        kind, share = "lo" if off < 0 else "hi", abs(off)
    else:
        kind, share = "seq", (value - scale["low"]) / ((scale["high"] - scale["low"]) or 1)
    return [kind, f"s{round(min(1.0, max(0.0, share)) * SHADES)}"]
