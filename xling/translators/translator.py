"""What a translator is: a function of texts, and how languages are named to it."""

from collections.abc import Callable, Sequence

from msgspec import Struct

# each text in the other language; None or an empty text where the translator makes nothing of it
Translate = Callable[[Sequence[str]], list[str | None]]


class Spoken(Struct, frozen=True):
    """A language as translators need it."""

    code: str  # BCP 47
    script: str  # ISO 15924
