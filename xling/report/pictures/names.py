"""Names of languages in a figure: by code, in English or in themselves, where a font has the letters.

Names are the Unicode CLDR's. A name is drawn only if the fonts on this machine have each of its letters and, for
scripts whose letters join or move, matplotlib can shape them (3.11 on); else the code stands for it.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from babel import Locale, UnknownLocaleError
from matplotlib import ft2font
from matplotlib.font_manager import FontProperties, findfont, get_font, get_font_names

from xling.config.common import members, pooled
from xling.console import harmless
from xling.errors import ConfigError, did_you_mean

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
