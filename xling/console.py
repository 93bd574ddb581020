"""Safe output to a terminal: control codes in outputs of models, labels and logs are shown, never obeyed.

Console().print(...)        # rich's console, which does it for all that it draws
print(harmless(line))       # for what is printed as it is
lasting_output()            # first of all in a process: nothing fails because nobody sees what it says
"""

import errno
import io
import os
import re
import select
import sys
import time
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rich import console as rich_console
from rich.segment import Segment

# Format characters that move nothing: joiners, word breaks, hyphens, and the signs before Arabic and Kaithi numbers
_IN_WORDS = frozenset("\u00ad\u200b\u200c\u200d\u2060\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd") | {
    chr(code) for code in range(0x600, 0x606)
}
_UNSEEN = ("Cf", "Cs", "Zl", "Zp")  # directions that make a text read as another, halves of characters, line ends

SHOWN = 20  # rows of a list before it is cut


def visible(character: str) -> str:
    """The character, or a sign for it if it is a control code or changes directions; line breaks and tabs stay."""
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)  # the sign for it: NUL is \u2400
    if 0x7F <= code < 0xA0 or (unicodedata.category(character) in _UNSEEN and character not in _IN_WORDS):
        return f"<U+{code:04X}>"
    return character


def without_secrets(text: str) -> str:
    """Without the passwords of URLs and what looks like a token: for what is written down or shown."""
    return _TOKEN.sub("***", _PASSWORD.sub(r"\1***@", text))


_PASSWORD = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^/\s\"'<>]*@")
_TOKEN = re.compile(r"\b(?:hf_|sk-|gh[pousr]_|glpat-|github_pat_|xox[abp]-)[A-Za-z0-9_-]{16,}")


def harmless(text: str) -> str:
    """Text without control codes; the same again for what is harmless already."""
    if text.isprintable():
        return text
    return "".join(map(visible, text.replace("\r\n", "\n")))


class _Lasting(io.FileIO):
    """A descriptor that takes everything: what cannot be written (a closed pipe, a full disk) is lost, and no error."""

    gone = False  # nobody is going to read anything any more

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        while view and not self.gone:
            try:
                written = super().write(view)
            except OSError as error:
                self.gone = error.errno in (errno.EPIPE, errno.EBADF, errno.EIO)
                break  # of a full disk: it may have room later
            if written is None:  # whoever shares the terminal or pipe made it non-blocking
                select.select([], [self.fileno()], [])
            else:
                view = view[written:]
        return size


_replaced: list[Any] = []  # streams whose end would close the descriptors


def lasting_output(line_buffering: bool = False) -> None:
    """Let nothing depend on the display: closed descriptors lead nowhere, and writing to the standard streams succeeds.

    Characters that the terminal's encoding lacks are replaced. Streams that somebody has put in their place stay.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next file would be taken for one of them
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name, errors in ((1, "stdout", "replace"), (2, "stderr", "backslashreplace")):
        old = getattr(sys, name)
        if old is not getattr(sys, f"__{name}__") or isinstance(_raw(old), _Lasting):
            continue
        raw = _Lasting(number, "w", closefd=False)
        direct = old is not None and old.write_through
        new = io.TextIOWrapper(
            raw if direct else io.BufferedWriter(raw),
            encoding="utf-8" if old is None else old.encoding,
            errors=errors,
            line_buffering=line_buffering or old is None or old.line_buffering,
            write_through=direct,
        )
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
        if old is not None:
            with suppress(OSError, ValueError):
                old.flush()
            _replaced.append(old)


def _raw(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def is_gone(stream: Any) -> bool:
    """Whether its reader has left, so that whoever prints until he is told to stop can stop."""
    raw = _raw(stream)
    return isinstance(raw, _Lasting) and raw.gone


def print_bytes(content: bytes) -> None:
    """Output for programs: written as it is, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.flush()


class Console(rich_console.Console):
    """Rich's console; what it draws is harmless, its own colours and cursor movements are left alone."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            safe = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if safe else Segment(harmless(segment.text), segment.style)


MARKS = "\u200e\u200f\u061c"  # of direction: Arabic and Hebrew are written with them, and they act in their line alone
_LINE_ENDS = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x85": "\n"})


def shown(text: str) -> str:
    """The text as people see it; the same again for what is shown already."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_LINE_ENDS)
    return "".join(one if one in MARKS else visible(one) for one in text).strip()


def direction(text: str) -> str:
    """rtl or ltr, by what most of its letters are; auto where it has none."""
    kinds = [unicodedata.bidirectional(character) for character in text]
    right, left = kinds.count("R") + kinds.count("AL"), kinds.count("L")
    return "auto" if right == left == 0 else "rtl" if right > left else "ltr"


FORMULA = "=+-@\t\r\n'\uff1d\uff0b\uff0d\uff20"  # what a spreadsheet computes; the last four are full-width = + - @
_NUMBER = re.compile(r"-|[-+]?[\d.]+(?:[eE][-+]?\d+)?")


def formula_free(text: str) -> str:
    """A text that a spreadsheet would take for a formula (names and errors may hold anything), led by an apostrophe."""
    return f"'{text}" if text and text[0] in FORMULA and not _NUMBER.fullmatch(text) else text


# --- numbers as people read them --------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.01 else "<0.01 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 6000:
        return f"{round(minutes / 60):,} h"
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def age(since: float) -> str:
    """`5 s`, `12 min`, `3 h`, `40 d`."""
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """`512 B`, `1.5 MB`: powers of 1000."""
    amount, units = float(count), ["B", "kB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"
