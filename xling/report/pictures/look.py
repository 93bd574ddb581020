"""How the figures of a paper look, and their bytes: sizes, fonts, colours, PDF, SVG and PNG.

Bytes depend on the drawing alone: no dates, fixed ids. PDF embeds TrueType (Type 42), SVG keeps text as text.
Colours are read by colour-blind people and survive a grey printer: the map of heat maps darkens steadily, lines differ
in their markers too (Okabe and Ito 2008).
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rc_context, rcdefaults
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

from xling.errors import ConfigError
from xling.report.pictures.names import legible

FORMATS = ("pdf", "svg", "png")
WIDTHS = {"column": 3.03, "text": 6.30}  # inches, of the ACL's two columns and of its page
NARROWEST, WIDEST = 2.0, 20.0
DPI, SCREEN = 300, 200
GREY = "0.55"
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^Dv<>"
_EMS = {".": 0.32, " ": 0.32, "-": 0.5, "–": 0.5, "(": 0.39, ")": 0.39, "▲": 0.77, "△": 0.77}  # of DejaVu Sans
_NO_DATES: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Width:
    """How wide a figure is in the paper."""

    name: str  # of the folder: column, text, or 5.5in
    inches: float

    @property
    def narrow(self) -> bool:
        return self.inches < 4.5


@dataclass(frozen=True)
class Drawing:
    """One figure: how it is drawn at a width, and what stands below it."""

    name: str  # of the file, without its ending
    caption: str
    draw: Callable[[Width], Figure]


Made = list[Drawing] | str  # or why there is none, a sentence without its full stop


def widths_of(words: str) -> list[Width]:
    """`column,text,5.5` -> widths; ConfigError for one that no page has."""
    return [_width(word.strip()) for word in words.split(",") if word.strip()]


def _width(word: str) -> Width:
    if word in WIDTHS:
        return Width(word, WIDTHS[word])
    try:
        inches = float(word.removesuffix("in"))
    except ValueError:
        inches = 0.0
    if not NARROWEST <= inches <= WIDEST:
        raise ConfigError(
            f"--width {word} is no width. Allowed: {', '.join(WIDTHS)}, or inches from {NARROWEST:g} to {WIDEST:g}, "
            "as in --width column,5.5."
        )
    return Width(f"{inches:g}in", inches)


@contextmanager
def styled(families: list[str]) -> Iterator[None]:
    """Our settings and nobody else's; `families`: fonts, each for what the ones before it lack."""
    with rc_context():
        rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": families,
                "font.size": 7,
                "axes.titlesize": 7,
                "axes.labelsize": 7,
                "xtick.labelsize": 6.5,
                "ytick.labelsize": 6.5,
                "legend.fontsize": 6.5,
                "legend.frameon": False,
                "axes.linewidth": 0.6,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "xtick.major.width": 0.6,
                "ytick.major.width": 0.6,
                "xtick.major.size": 2.5,
                "ytick.major.size": 2.5,
                "hatch.linewidth": 0.4,
                "lines.linewidth": 1.1,
                "lines.markersize": 3.5,
                "figure.constrained_layout.use": True,
                "figure.constrained_layout.w_pad": 0.02,
                "figure.constrained_layout.h_pad": 0.02,
                "pdf.fonttype": 42,
                "svg.fonttype": "none",
                "svg.hashsalt": "xling",
                "axes.unicode_minus": True,
                "text.parse_math": False,  # a dollar in a name is a dollar
            }
        )
        yield


def rendered(drawing: Drawing, width: Width, form: str, families: list[str]) -> bytes:
    """The file. Drawn anew for each format: a layout that is computed twice can differ in the last bits."""
    with styled(families):
        figure = drawing.draw(width)
        FigureCanvasAgg(figure)
        for text in figure.findobj(Text):
            text.set_text(legible(text.get_text(), families))
        content = io.BytesIO()
        figure.savefig(content, format=form, dpi=DPI, metadata=_NO_DATES[form])
    return content.getvalue()


def stacked_png(drawings: Sequence[Drawing], width: Width, digest: str, families: list[str]) -> bytes:
    """Drawings below one another, each under its caption, as a PNG whose metadata has `digest`."""
    rows = []
    with styled(families):
        for drawing in drawings:
            figure = drawing.draw(width)
            lines = [part for line in drawing.caption.splitlines() for part in wrap(line, int(width.inches * 19))]
            figure.suptitle("\n".join(lines), fontsize=7)
            figure.set_figheight(figure.get_figheight() + 0.13 * len(lines))
            for text in figure.findobj(Text):
                text.set_text(legible(text.get_text(), families))
            figure.set_dpi(SCREEN)
            canvas: Any = FigureCanvasAgg(figure)
            canvas.draw()
            rows.append(np.asarray(canvas.buffer_rgba()))
        content = io.BytesIO()
        about: Any = {"Software": None, "Comment": digest}
        imsave(content, np.vstack(rows), format="png", dpi=SCREEN, metadata=about)
    return content.getvalue()


def look_of(number: int) -> dict[str, Any]:
    """Colour and marker of the number-th line; beyond seven the markers go on while colours repeat."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
    }


def legend_below(figure: Figure, axes: Any = None, handles: Sequence[Any] = (), labels: Sequence[str] = ()) -> None:
    """One legend for all axes, under them, in as many columns as fit: of what `axes` has, or of what is given."""
    if axes is not None:
        handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    widest = max(text_width(label, 6.5) for label in labels) / 72 + 0.42  # the sign and the gap
    fit = max(1, int(figure.get_figwidth() / widest))
    rows = math.ceil(len(labels) / fit)
    figure.legend(handles, labels, loc="outside lower center", ncols=math.ceil(len(labels) / rows), columnspacing=1.2)


def text_width(text: str, size: float) -> float:
    """About how wide a line is, in points."""
    return size * sum(_EMS.get(letter, 0.64 if letter.isdigit() else 0.6) for letter in text)
