"""Texts as they are matched: what of a text shows, and whether two are the same but for what nobody sees.

Knows no task and no torch.
"""

import hashlib
import re
import unicodedata

BY_TEXT = "text:"  # how a group begins that is named by its text
# Characters that show nothing: joiners, marks of direction, byte order marks, variation selectors, soft hyphens.
_INVISIBLE = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff"
_PRINTED = (b"\xcd\x8f", b"\xef\xb8")  # in UTF-8: U+034F, and how variation selectors begin
INVISIBLE, VISIBLE = re.compile(f"[{_INVISIBLE}]"), re.compile(rf"[^\s{_INVISIBLE}]")


class Texts:
    """Keys by which texts are matched, each computed once, and the groups that they name."""

    def __init__(self) -> None:
        self._matched: dict[str, str] = {}
        self._groups: dict[str, str] = {}

    def matched(self, text: str) -> str:
        """`matched`, remembered."""
        found = self._matched.get(text)
        if found is None:
            found = self._matched[text] = matched(text)
        return found

    def group(self, text: str) -> str:
        """The name of a text's group: the same in any Unicode form, case and spacing."""
        found = self._groups.get(text)
        if found is None:
            found = self._groups[text] = BY_TEXT + short_digest(self.matched(text))
        return found


def tidy(text: str) -> str:
    """A name without what nobody sees: composed (NFC), without invisible characters, without spaces around it."""
    return text.strip() if text.isascii() else INVISIBLE.sub("", unicodedata.normalize("NFC", text)).strip()


def blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return VISIBLE.search(text) is None


def plain(text: str) -> str:
    """A text composed (NFC), without invisible characters, one space between words."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    if _is_plain(text):
        return composed
    return " ".join((composed if text.isascii() else INVISIBLE.sub("", composed)).split())


def _is_plain(text: str) -> bool:
    """Whether it is certain that no character is invisible, and that words are parted by one space each.

    Composing changes neither. Of all invisible characters those of `_PRINTED` alone count as printable, and of all
    spaces the usual one alone.
    """
    if not text.isprintable() or "  " in text or text[:1] == " " or text[-1:] == " ":
        return False
    encoded = b"" if text.isascii() else text.encode()
    return not any(mark in encoded for mark in _PRINTED)


def matched(text: str) -> str:
    """A text by which the same one is found again in any Unicode form (NFKC, case folded, as `plain`)."""
    if not text.isascii() and _is_plain(text):
        return unicodedata.normalize("NFKC", text).casefold()  # which composes as well
    text = plain(text)
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def short_digest(text: str) -> str:
    """A name for a text: 16 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
