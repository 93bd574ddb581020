"""What all figures share: sizes, fonts, colours and bytes; names of languages; the panels of a matrix.

Bytes depend on the drawing alone: no dates, fixed ids. PDF embeds TrueType (Type 42), SVG keeps text as text.
"""

import io
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from babel import Locale, UnknownLocaleError
from matplotlib import ft2font, rc_context, rcdefaults
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font, get_font_names
from matplotlib.image import imsave
from matplotlib.text import Text

from xling.analysis.matrix.names import in_full, slug, slug_of, varying, worded
from xling.analysis.matrix.types import Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.config.common import members, pooled
from xling.console import harmless
from xling.errors import ConfigError, did_you_mean
from xling.report.tables.colours import LINES
from xling.report.tables.table import hole_marks

FORMATS = ("pdf", "svg", "png")
WIDTHS = {"column": 3.03, "text": 6.30}  # inches, of the ACL's two columns and of its page
NARROWEST, WIDEST = 2.0, 20.0
DPI, SCREEN = 300, 200
GREY = "0.55"
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
        "color": LINES[number % len(LINES)],
        "marker": MARKERS[(number + number // len(LINES)) % len(MARKERS)],
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


def evenly(count: int, most: int) -> int:
    """How many axes stand side by side, at most `most`, so that rows are of about the same length."""
    return math.ceil(count / math.ceil(count / max(1, min(count, most))))


# --- names of languages: by code, in English or in themselves ---------------------------------------------
# Names are the Unicode CLDR's. A name is drawn only if the fonts on this machine have each of its letters and, for
# scripts whose letters join or move, matplotlib can shape them (3.11 on); else the code stands for it.

STYLES = ("code", "english", "native")
FIRST = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian
MORE = (  # used for what the first lacks, where they are installed
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans", "WenQuanYi Zen Hei",
    "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Noto Sans KR",
    "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai",
    "Noto Sans Ethiopic", "Noto Sans Arabic", "Noto Sans Hebrew", "Arial Unicode MS",
)  # fmt: skip
SHAPED = ("ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "THAI", "SYRIAC", "KHMER", "MYANMAR")
CAN_SHAPE = hasattr(ft2font, "LayoutItem")


class Names:
    """`Names("native")("ru")` is русский; `de+en` becomes both names with a plus."""

    def __init__(self, style: str = "code") -> None:
        if style not in STYLES:
            suggestion = did_you_mean(style, STYLES)
            raise ConfigError(f"--names {style} is unknown. Allowed: {', '.join(STYLES)}.{suggestion}")
        self.style = style
        self.families = families()

    def __call__(self, code: str) -> str:
        return pooled(map(self._one, members(harmless(code))))

    def all(self, codes: Sequence[str]) -> list[str]:
        return [self(code) for code in codes]

    def _one(self, code: str) -> str:
        if self.style == "code":
            return code
        try:
            locale = Locale.parse(code.replace("-", "_"))
        except (ValueError, UnknownLocaleError):
            return code
        name = locale.english_name if self.style == "english" else locale.display_name
        return name if name and drawable(name, tuple(self.families)) else code


@lru_cache(maxsize=1)
def families() -> list[str]:
    """The fonts of all figures: the first, then those of the others that are installed."""
    installed = set(get_font_names())
    return [FIRST, *(name for name in MORE if name in installed)]


@lru_cache(maxsize=512)
def drawable(text: str, fonts: tuple[str, ...]) -> bool:
    """Every letter is in one of the fonts, and the letters that must be shaped can be."""
    if not CAN_SHAPE and any(unicodedata.name(letter, "").startswith(SHAPED) for letter in text):
        return False
    known = [_letters(name) for name in fonts]
    return all(any(ord(letter) in letters for letters in known) for letter in text if not letter.isspace())


def legible(text: str, fonts: Sequence[str]) -> str:
    """The text with a question mark for what cannot be drawn: control codes, letters that no font here has."""
    return "".join(letter if letter in "\n " or drawable(letter, tuple(fonts)) else "?" for letter in text)


@lru_cache(maxsize=64)
def _letters(family: str) -> frozenset[int]:
    path = findfont(FontProperties(family=family))
    return frozenset(get_font(path).get_charmap())


# --- panels with names that tell them apart ---------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A panel; `slug` and `title` say only what tells it from the others of its grid, and may be empty."""

    slug: str
    title: str
    panel: Panel

    def file(self, figure: str) -> str:
        return f"{figure}-{self.slug}" if self.slug else figure

    def about(self) -> str:
        """`PPO, judge gold`: all of it, for captions."""
        return in_full(self.panel.axes, self.panel.entries)


def named_panels(matrix: Matrix) -> list[Named]:
    panels = [panel for block in matrix.blocks for panel in block.panels]
    apart = varying([panel.axes for panel in panels])
    found = []
    for panel in panels:
        words = ", ".join(worded(panel.axes, apart, panel.entries))
        found.append(Named("-".join(slug_of(panel.axes, apart)), words, panel))
    return found


def groups_over(panels: Sequence[Named], axis: str) -> Iterator[tuple[str, str, dict[str, Panel]]]:
    """Panels that differ in one axis alone: (slug, words, value -> panel), where there are two or more."""
    found: dict[tuple[tuple[str, str], ...], dict[str, Panel]] = {}
    for one in panels:
        rest = tuple(sorted((name, value) for name, value in one.panel.axes.items() if name != axis))
        found.setdefault(rest, {})[one.panel.axes.get(axis, "")] = one.panel
    several = {rest: group for rest, group in found.items() if len(group) > 1}
    apart = varying([dict(rest) for rest in several])
    for rest, group in several.items():
        axes = dict(rest)
        every = [entry for panel in group.values() for entry in panel.entries]
        yield (
            slug("-".join(axes.get(name, "") or "none" for name in apart)),
            in_full(axes, every),
            group,
        )


def reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far intervals reach below and above; not at all where there is none."""
    below = [e.value - e.low if e.low is not None else 0.0 for e in estimates]
    above = [e.high - e.value if e.high is not None else 0.0 for e in estimates]
    return [[max(0.0, number) for number in below], [max(0.0, number) for number in above]]


def holes_caption(panel: Panel) -> str:
    """`Hatched: (1) blocked: sft[de] failed: ...`, or nothing."""
    marks = hole_marks(panel)
    return "Hatched: " + "; ".join(f"({number}) {text}" for text, number in marks.items()) + "." if marks else ""
