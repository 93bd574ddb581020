"""What may reach a terminal: control codes in outputs of models, labels and logs are shown, never obeyed.

Console().print(...)        # rich's console, which does it for all that it draws
print(harmless(line))       # for what is printed as it is
"""

from collections.abc import Iterable
from typing import Any

from rich import console as rich_console
from rich.segment import Segment

_OVERRIDES = range(0x202A, 0x202F)  # embedding and overriding directions: texts that read as others


def visible(character: str) -> str:
    """The character, or a sign for it if it is a control code; line breaks and tabs stay."""
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)  # the sign for it: NUL is \u2400
    if 0x7F <= code < 0xA0 or code in _OVERRIDES:
        return f"<U+{code:04X}>"
    return character


def harmless(text: str) -> str:
    """Text without control codes; the same again for what is harmless already."""
    if text.isprintable():
        return text
    return "".join(map(visible, text.replace("\r\n", "\n")))


class Console(rich_console.Console):
    """Rich's console; what it draws is harmless, its own colours and cursor movements are left alone."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            safe = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if safe else Segment(harmless(segment.text), segment.style)
